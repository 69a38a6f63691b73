"""The sections `teachers`, `recipes` and `teach` of params.yaml."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from medistill.distillation.answers import in_order
from medistill.distillation.terms import AnyTerm, DistillationTerm
from medistill.layout import member_name
from medistill.settings import Name, Seed, Settings, require_once
from medistill.training.settings import TrainedNetwork, TrainingOverrides


class Teacher(TrainedNetwork):
    """A network that is trained once, with its own seed, and then answers; students take the seeds of the run."""

    seed: Seed = 0
    """Initialisation, order of images, dropout."""
    seeds: list[Seed] | None = Field(default=None, min_length=2, max_length=100)
    """Train as many networks, one per seed, which answer like as many teachers: an ensemble, mixed by `combine`."""
    terms: list[AnyTerm] = []
    """Losses from the labels that train it, such as focal_bce; none: the usual loss of the data set's task."""
    recipe: Name | None = None
    """For an assistant (`run.assistants`): the recipe by which other teachers teach it."""
    frozen: bool = False
    """Use `weights` without training."""
    labels: list[str] | None = Field(default=None, min_length=1)
    """Labels of a frozen teacher's outputs, in order; None: those of config.json beside its weights, else all labels.
    Labels are matched by name; a teacher teaches only labels that it knows."""

    @model_validator(mode="after")
    def _frozen_or_trained(self) -> "Teacher":
        if self.frozen and not self.weights:
            raise ValueError("frozen: true needs weights: FILE")
        given = {
            "recipe": self.recipe,
            "terms": self.terms,
            "seeds": self.seeds,
            "training": self.training != TrainingOverrides(),
        }
        for key in given if self.frozen else ():
            if given[key]:
                raise ValueError(f"a frozen teacher is not trained; leave {key} out")
        if self.recipe and self.terms:
            raise ValueError("an assistant's terms are those of its recipe; leave terms out")
        if self.seeds and "seed" in self.model_fields_set:
            raise ValueError("set seed or seeds, not both")
        require_once("seeds", self.seeds or [])
        for term in self.terms:
            if isinstance(term, DistillationTerm):
                raise ValueError(
                    f"terms: {term.loss} needs teachers; a teacher learns from labels, an assistant by a recipe"
                )
        if self.labels and not self.frozen:
            raise ValueError("labels is for frozen: true; other teachers have the data set's labels")
        require_once("labels", self.labels or [])
        return self

    def members(self, name: str) -> dict[str, "Teacher"]:
        """Each network of the teacher called `name`, with one seed, by its own name; without `seeds` itself."""
        if self.seeds is None:
            return {name: self}
        return {member_name(name, seed): self.model_copy(update={"seed": seed, "seeds": None}) for seed in self.seeds}

    @property
    def is_frozen(self) -> bool:
        """As `frozen` says."""
        return self.frozen


class Recipe(Settings):
    """How a student is taught. Without teachers it is the same-budget baseline."""

    teachers: list[Name] = []
    """The teachers whose logits are combined."""
    combine: Literal["mean", "entropy", "confidence"] = "mean"
    """Weight of each teacher's logits per image and label: uniform; higher for confident teachers; higher for teachers
    close to the label. Maps and features are compared with each teacher's, with equal weights."""
    calibrate: bool = False
    """Calibrate each teacher's logits on validation before they are combined or compared: a slope and an intercept per
    label, or one temperature for exclusive classes."""
    terms: list[AnyTerm] = []
    """Losses whose weighted sum is minimised; none: the usual loss of the data set's task."""
    views: Literal["cached", "fresh", "live"] = "cached"
    """`cached`: the views the teachers answered, in turn; `fresh`: a new view each epoch (no teachers); `live`: a new
    view each epoch, for which the teachers run on each batch."""
    unlabelled: bool = False
    """Also learn from training images without any label, which only the teachers label."""

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        require_once("teachers", self.teachers)
        if bool(self.teachers) != any(isinstance(term, DistillationTerm) for term in self.terms):
            raise ValueError("teachers and terms of distillation, such as sigmoid_kd, go together: set both or neither")
        compares_logits = any(isinstance(term, DistillationTerm) and term.needs == "logits" for term in self.terms)
        if self.combine != "mean" and not compares_logits:
            raise ValueError(
                f"combine: {self.combine} weighs the teachers' logits, and no term compares logits; add one, such as"
                " sigmoid_kd, or take combine: mean"
            )
        if self.calibrate and not compares_logits:
            raise ValueError(
                "calibrate: true is for the teachers' logits, and no term compares logits; add one, such as sigmoid_kd"
            )
        if self.teachers and self.views == "fresh":
            raise ValueError("views: fresh is for recipes without teachers; with teachers use views: live")
        for key, asked in (("views: live", self.views == "live"), ("unlabelled: true", self.unlabelled)):
            if asked and not self.teachers:
                raise ValueError(f"{key} needs teachers")
        return self

    @property
    def needs(self) -> set[str]:
        """Kinds of answers besides logits that its terms compare."""
        return {term.needs for term in self.terms} - {"logits"}


class Teach(Settings):
    """The answers that teachers give before the students are trained."""

    views: int = Field(default=8, ge=1, le=10_000)
    """Augmented views of each training image."""
    view_seed: Seed = 0
    """Seed of the views, the same for teachers and students, whatever the student's own seed."""
    answers: Annotated[list[str], AfterValidator(in_order)] = []
    """Kinds of answers besides logits: `attention` maps (strength of features by place) for attention_transfer, `cams`
    (class activation maps of each label) for cam_kd and explanation_kd, pooled `features` for rkd, cosine_similarity
    and feature_mse."""
    batch_size: int = Field(default=64, ge=1)
    """Images that are answered at once."""
