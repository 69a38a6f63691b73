"""params.yaml as a whole: the sections of all rooms, the checks across them, and the roster of a run."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, ValidationError, model_validator

from medistill.augmentation import Augmentation
from medistill.data.settings import Data
from medistill.distillation.settings import TEACH_CLASSIFIER, AnyTeacher, Recipe, Teach
from medistill.errors import UserError
from medistill.evaluation.settings import Evaluate
from medistill.explain.settings import Explain
from medistill.export.settings import Export
from medistill.gate.facts import Candidate
from medistill.gate.settings import Promote
from medistill.layout import HERE, Layout, ModelFolder, student_name
from medistill.phantom.settings import Phantom
from medistill.plain_yaml import load_yaml
from medistill.records.models import Role
from medistill.settings import Name, Seed, Settings, describe_errors, require_once
from medistill.stress.settings import Stress
from medistill.training.settings import TrainedNetwork, Training

MOST_STUDENTS = 10_000
"""Most trainings of one run: more than needed, and few enough to list."""


class Run(Settings):
    """The models that the graph trains: DVC's matrices run over these names."""

    teachers: list[Name] = Field(min_length=1)
    assistants: list[Name]
    """Teachers that are first taught by a recipe (TAKD; with a student's own network, self-distillation)."""
    students: list[Name] = Field(min_length=1)
    recipes: list[Name] = Field(min_length=1)
    seeds: list[Seed] = Field(min_length=1)

    @model_validator(mode="after")
    def _once(self) -> "Run":
        for key in ("teachers", "assistants", "students", "recipes", "seeds"):
            require_once(key, getattr(self, key))
        students = len(self.students) * len(self.recipes) * len(self.seeds)
        if students > MOST_STUDENTS:
            raise ValueError(
                f"students, recipes and seeds make {students:,} trainings; at most {MOST_STUDENTS:,} are allowed"
            )
        return self

    @property
    def all_teachers(self) -> list[str]:
        """Teachers and assistants."""
        return [*self.teachers, *self.assistants]


class Params(Settings):
    """params.yaml as a whole."""

    phantom: Phantom
    data: Data
    augmentation: Augmentation
    training: Training
    teachers: dict[Name, AnyTeacher]
    students: dict[Name, TrainedNetwork]
    recipes: dict[Name, Recipe]
    run: Run
    teach: Teach
    evaluate: Evaluate
    explain: Explain
    stress: Stress
    export: Export
    promote: Promote

    @model_validator(mode="after")
    def _names_exist(self) -> "Params":
        sections = {"teachers": "teachers", "students": "students", "recipes": "recipes", "assistants": "teachers"}
        for kind, section in sections.items():
            known = getattr(self, section)
            for name in getattr(self.run, kind):
                if name not in known:
                    raise ValueError(f"run.{kind} names {name!r}, but {section} has only {', '.join(known)}")
        for name, teacher in self.teachers.items():
            if teacher.recipe and teacher.recipe not in self.recipes:
                raise ValueError(
                    f"teachers.{name}.recipe names {teacher.recipe!r}, but recipes has only {', '.join(self.recipes)}"
                )
        for name in self.run.teachers:
            if self.teachers[name].recipe:
                raise ValueError(
                    f"run.teachers names {name!r}, which has a recipe and so is an assistant; name it in run.assistants"
                )
        first_of: dict[str | None, str] = {}
        for name in self.run.assistants:
            first_of.setdefault(self.teachers[name].recipe, name)
        for recipe, name in first_of.items():
            self._taught(f"teachers.{name}", recipe)
        answering = set(self.run.all_teachers)
        for recipe in self.run.recipes:
            for asked in self.recipes[recipe].teachers:
                if asked not in answering:
                    raise ValueError(
                        f"recipes.{recipe}.teachers names {asked!r}, which is neither in run.teachers"
                        " nor in run.assistants"
                    )
        taught = [recipe for name in self.run.assistants if (recipe := self.teachers[name].recipe)]
        for recipe in dict.fromkeys([*self.run.recipes, *taught]):
            self._usable(recipe)
        self._stages_have_all_epochs()
        baselines = [name for name in self.run.recipes if not self.recipes[name].teachers]
        if not baselines:
            raise ValueError(
                "run.recipes has no baseline (a recipe without teachers); add one, as every result is compared with a"
                " baseline"
            )
        live = [name for name in self.run.recipes if self.recipes[name].views == "live"]
        if live and not any(self.recipes[name].views == "fresh" for name in baselines):
            raise ValueError(
                f"recipes.{live[0]} shows a new view each epoch, but no baseline of run.recipes does; add one with"
                " views: fresh, or the gain from more views would be credited to the teachers"
            )
        return self

    def _usable(self, name: str) -> None:
        """Refuse a recipe that teaches no classifier, or compares what teachers do not answer."""
        recipe = self.recipes[name]
        if recipe.combine != "mean" and len(self.recipe_of(name).teachers) < 2:
            raise ValueError(
                f"recipes.{name}: combine: {recipe.combine} needs several teachers, or one with several seeds"
            )
        if not recipe.teaches_classifier:
            raise ValueError(f"recipes.{name}: none of its terms teaches the classifier; {TEACH_CLASSIFIER}")
        for key, part in recipe.named_parts(f"recipes.{name}").items():
            for term in part.terms:
                if recipe.views == "cached" and term.needs not in ("logits", *self.teach.answers):
                    raise ValueError(f"{key}: {term.loss} needs {term.needs} in teach.answers")

    def _stages_have_all_epochs(self) -> None:
        """Refuse stages that are not as long together as the training of a network that learns by them."""
        lessons = [(f"students.{name}", recipe) for name in self.run.students for recipe in self.run.recipes]
        lessons += [(f"teachers.{name}", self.teachers[name].recipe or "") for name in self.run.assistants]
        for learner, recipe in lessons:
            section, name = learner.split(".")
            training = getattr(self, section)[name].training_on(self.training)
            try:
                self.recipes[recipe].epochs_of_parts(training.epochs)
            except ValueError as error:
                raise ValueError(f"recipes.{recipe}, for {learner}: {error}") from None

    def _taught(self, assistant: str, recipe: str | None) -> None:
        """Refuse an assistant whose recipe is missing, has no teachers, or has one that is not in run.teachers."""
        if recipe is None:
            raise ValueError(f"{assistant} is in run.assistants and so needs a recipe")
        for teacher in self.recipes[recipe].teachers:
            if teacher in self.run.assistants or (teacher in self.teachers and self.teachers[teacher].recipe):
                raise ValueError(
                    f"{assistant}: its recipe's teacher {teacher!r} is an assistant itself; assistants are taught by "
                    "teachers that have no recipe"
                )
            if teacher not in self.run.teachers:
                raise ValueError(f"{assistant}: its recipe's teacher {teacher!r} is not in run.teachers")
        if not self.recipes[recipe].teachers:
            raise ValueError(f"{assistant}: its recipe {recipe} has no teachers; an assistant needs at least one")

    def members(self, teacher: str) -> Mapping[str, AnyTeacher]:
        """Each network of a teacher with its settings, by name: of an ensemble one per seed."""
        return self.teachers[teacher].members(teacher)

    def teacher_models(self) -> dict[str, AnyTeacher]:
        """Each network that teaches, with its settings, in the order of the run."""
        return {name: one for teacher in self.run.all_teachers for name, one in self.members(teacher).items()}

    def recipe_of(self, name: str) -> Recipe:
        """A recipe with each of its teachers' networks as a teacher."""
        recipe = self.recipes[name]
        return recipe.model_copy(
            update={"teachers": [member for teacher in recipe.teachers for member in self.members(teacher)]}
        )

    def knowledge_folder(self, model: str, layout: Layout = HERE) -> Path:
        """The folder of a teacher's answers; assistants' are separate, since they depend on the others'."""
        of_assistants = {member for name in self.run.assistants for member in self.members(name)}
        return (layout.assistant_knowledge if model in of_assistants else layout.knowledge)(model).folder

    def student_models(self) -> list["StudentModel"]:
        """Every student of the run, in the order of the matrix."""
        run = self.run
        return [StudentModel(student=s, recipe=r, seed=k) for s in run.students for r in run.recipes for k in run.seeds]

    def model_folders(self, layout: Layout = HERE) -> dict[str, ModelFolder]:
        """Folder of each model of the run, teachers first; models of earlier runs are left out."""
        names = [*self.teacher_models(), *(model.name for model in self.student_models())]
        return {name: layout.model(name) for name in names}

    def roles(self) -> dict[str, Role]:
        """Role of each model of the run, `teacher`, `baseline` or `distilled`, teachers first."""
        roles: dict[str, Role] = dict.fromkeys(self.teacher_models(), "teacher")
        return roles | {m.name: "distilled" if self.is_distilled(m) else "baseline" for m in self.student_models()}

    def references(self, model: "StudentModel") -> list[str]:
        """The teachers a student is compared with: its recipe's own; for a baseline, those of the run's recipes."""
        used = {teacher for recipe in self.run.recipes for teacher in self.recipe_of(recipe).teachers}
        everyone = [teacher for teacher in self.teacher_models() if teacher in used]
        return self.recipe_of(model.recipe).teachers or everyone

    def is_distilled(self, model: "StudentModel") -> bool:
        """Whether the student has teachers; otherwise it is a baseline."""
        return bool(self.recipes[model.recipe].teachers)

    def baselines_of(self, model: "StudentModel") -> list["StudentModel"]:
        """The baselines of `model`: same student and seed, a recipe without teachers."""
        others = [StudentModel(student=model.student, recipe=r, seed=model.seed) for r in self.run.recipes]
        return [other for other in others if other != model and not self.is_distilled(other)]

    def beside(self, name: str) -> list[str]:
        """What a student is shown beside: its teachers and baselines, and itself at the end; a teacher stands alone."""
        model = next((model for model in self.student_models() if model.name == name), None)
        others = [*self.references(model), *(other.name for other in self.baselines_of(model))] if model else []
        return [*others, name]

    def candidates(self) -> list[Candidate]:
        """The students of the run as the gate asks for them, in the order of the matrix."""
        return [
            Candidate(
                student=model.student,
                recipe=model.recipe,
                seed=model.seed,
                distilled=self.is_distilled(model),
                has_baseline=bool(self.baselines_of(model)),
            )
            for model in self.student_models()
        ]


class StudentModel(Settings):
    """One trained student of the matrix."""

    student: Name
    recipe: Name
    seed: Seed

    @property
    def name(self) -> str:
        """The name of its folder, stage and run."""
        return student_name(self.student, self.recipe, self.seed)


def load_params(path: Path = HERE.params) -> Params:
    """Read and check params.yaml.

    Raises:
        UserError: the file is missing or not YAML, or a key is missing, unknown or has a bad value; the message names
            each such key, or the first of many.
    """
    raw = load_yaml(Path(path))
    if not isinstance(raw, dict):
        raise UserError(f"{path}: {'is empty' if raw is None else 'has no keys, such as `training:`'}")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{path}: {describe_errors(error, Params)}") from None
