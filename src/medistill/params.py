"""The settings of params.yaml, checked key by key."""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from medistill.data.adapters import FORMATS
from medistill.distillation.terms import AnyTerm, DistillationTerm, HardTerm
from medistill.errors import UserError
from medistill.plain_yaml import load_yaml
from medistill.runtime.bundle import LARGEST_SIZE
from medistill.settings import AnyPath, Settings, describe_errors

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$", max_length=100)]
"""A name that becomes part of a file and a stage name; `-` is kept for joining student, recipe and seed."""

SEEDS = 2**31
Seed = Annotated[int, Field(ge=0, lt=SEEDS, strict=True)]  # DVC hands it to stages as it is written

Fraction = Annotated[float, Field(gt=0, lt=1)]


MAX_QUARANTINED = 0.01
"""`data.max_quarantined` as params.yaml and the presets come; `medistill check`, which reads neither, judges by it."""


class Phantom(Settings):
    """The built-in data set: procedurally drawn chest X-rays."""

    images: int = Field(ge=20)
    size: int = Field(ge=32, le=LARGEST_SIZE)
    """Height and width in pixels."""
    seed: Seed
    prevalence: Literal["balanced", "nih"]


class Data(Settings):
    """Where the images are, and how they are brought into one shape."""

    name: str = ""
    """Shown in reports; empty: the name of the root folder."""
    format: str
    """A file of `medistill/data/adapters`, without `.py`."""
    root: AnyPath
    options: dict[str, Any] = {}
    """What the format leaves open; see `Options` in its file."""
    split: Literal["official", "patient"]
    """`official`: the data set's own lists, validation carved from training by patient where there is none; `patient`:
    all by patient (or other group)."""
    splits: AnyPath = Path("splits")
    """Folder with `groups.csv` and `sides.csv`, which say what belongs together and on which side; both optional."""
    val_fraction: Fraction
    """Share of the patients (of the training part where the split is official) that validates."""
    test_fraction: Fraction
    """Share of the patients that tests; unused where the split is official."""
    seed: Seed
    image_size: int = Field(ge=32, le=LARGEST_SIZE)
    """Height and width of the ingested frame in pixels."""
    channels: Literal[1, 3]
    fit: Literal["pad", "squash", "crop"]
    """How an image that is not square becomes square."""
    max_quarantined: float = Field(ge=0, le=1)
    """Ingest stops where more than this share of rows and files has to be left out."""
    workers: int = Field(ge=1, le=1024)

    @field_validator("format")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in FORMATS:
            raise ValueError(f"{name!r} is unknown; known are {', '.join(FORMATS)}")
        return name


class Augmentation(Settings):
    """Ranges of the random view; a view is a pure function of image id, view number and seed."""

    rotation: float = Field(ge=0, le=180)
    """Degrees to either side."""
    translation: float = Field(ge=0, lt=1)
    """Share of the frame to either side."""
    scale: float = Field(ge=0, lt=1)
    """0.1: zoom between 0.9 and 1.1."""
    brightness: float = Field(ge=0, lt=1)
    """Added to intensities in 0..1, to either side."""
    contrast: float = Field(ge=0, lt=1)
    """0.2: factor between 0.8 and 1.2."""
    flip: bool
    """Mirror left and right; wrong for labels that depend on the side of the heart."""


class Training(Settings):
    """How a network is trained; teachers and students may override single keys."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    warmup: float = Field(ge=0, lt=1)
    """Share of the steps in which the learning rate rises linearly."""
    clip_norm: float = Field(gt=0)
    """Gradients are clipped to this global L2 norm."""
    precision: Literal["no", "bf16", "fp16"]
    """accelerate's mixed precision; `no` is float32."""
    ema: float = Field(default=0, ge=0, lt=1)
    """Decay of an exponential moving average of the weights, which is then validated and kept; 0 for none."""
    patience: int | None = Field(default=None, ge=1)
    """Training ends after so many epochs without a better validation macro AUROC."""


class TrainingOverrides(Settings):
    """Keys of `training` that one network sets otherwise; those that are not there stay as they are."""

    epochs: int = Field(default=None, ge=1)
    batch_size: int = Field(default=None, ge=2)
    learning_rate: float = Field(default=None, gt=0)
    weight_decay: float = Field(default=None, ge=0)
    warmup: float = Field(default=None, ge=0, lt=1)
    clip_norm: float = Field(default=None, gt=0)
    precision: Literal["no", "bf16", "fp16"] = None
    ema: float = Field(default=None, ge=0, lt=1)
    patience: int | None = Field(default=None, ge=1)


def _require_once(key: str, values: list[Any]) -> None:
    for value, times in Counter(values).items():
        if times > 1:
            raise ValueError(f"{key} names {value!r} more than once")


MOST_ARGUMENTS, LARGEST_ARGUMENT = 100, 100_000
"""Far beyond any network's: one with a million layers would be built for hours."""


def _require_plain(args: dict[str, Any]) -> dict[str, Any]:
    """Refuse what config.json cannot hold as it is, and numbers of which networks without end are made."""
    values = 0
    for key, value in _within("", args):
        values += 1
        if isinstance(value, int | float) and not abs(value) <= LARGEST_ARGUMENT:  # NaN is in no order
            bound = f"further from 0 than {LARGEST_ARGUMENT:,}, and no network has such numbers"
            raise ValueError(f"{key}: {value} is {bound if math.isfinite(value) else 'no number'}")
        if not isinstance(value, str | int | float | None):
            raise ValueError(f"{key}: must be text, a number, true, false, a list or a mapping")
    if values > MOST_ARGUMENTS:
        raise ValueError(f"has {values} values; no network takes more than {MOST_ARGUMENTS}")
    return args


def _within(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every value that is neither a list nor a mapping, with the key at which it is."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise ValueError(f"{key}: {name!r} is a name and no text; put it into quotes")
            yield from _within(f"{key}.{name}".removeprefix("."), inner)
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from _within(f"{key}.{place}", inner)
    else:
        yield key, value


Arguments = Annotated[dict[str, Any], AfterValidator(_require_plain)]


class Network(Settings):
    """A teacher or a student: any network that timm knows."""

    arch: str = Field(min_length=1, max_length=100)
    """Name for `timm.create_model`, among them `eeea_net_c2` and `ofa_595`."""
    args: Arguments = {}
    """Further arguments of `timm.create_model`."""
    pretrained: bool = False
    """ImageNet weights: from a registry package where one is installed, else timm downloads them."""
    weights: AnyPath | None = None
    """A safetensors file with the user's own weights: for these labels in this order; or, where the network is to be
    trained, without any tensor of the classifier, which is then put on anew."""
    input_size: int | None = Field(default=None, ge=16, le=LARGEST_SIZE)
    """Height and width that the network sees: frames are resized to it, in its ONNX file too. None: data.image_size."""
    channels: Literal[1, 3] = 3
    """What the network takes; grey frames become colour, colour frames grey."""
    mean: list[Annotated[float, Field(ge=0, le=1)]] | None = Field(default=None, min_length=1)
    """Subtracted from intensities in 0..1, channel by channel. None: what timm has for the network."""
    std: list[Annotated[float, Field(gt=0, le=1)]] | None = Field(default=None, min_length=1)
    """What they are then divided by."""
    training: TrainingOverrides = TrainingOverrides()

    @model_validator(mode="after")
    def _one_origin(self) -> "Network":
        if self.pretrained and self.weights:
            raise ValueError("set either pretrained: true or weights: FILE, not both")
        for name in ("mean", "std"):
            if getattr(self, name) and len(getattr(self, name)) != self.channels:
                raise ValueError(f"{name} must have a number for each of {self.channels} channels")
        return self


class Teacher(Network):
    """A network that is trained once and then answers; students have the seeds of the run instead."""

    seed: Seed = 0
    """Initialisation, order of images, dropout."""
    terms: list[AnyTerm] = []
    """Losses from the labels that it is trained by, such as focal_bce; none: the usual one of the data set's task."""
    recipe: Name | None = None
    """Of an assistant (`run.assistants`): how other teachers teach it, before it teaches students itself."""
    frozen: bool = False
    """Take `weights` as they are: nothing is trained."""
    labels: list[str] | None = Field(default=None, min_length=1)
    """What a frozen teacher's outputs are, in their order. None: as config.json beside its weights says, else the data
    set's. Labels are told by their names; of those that it lacks it teaches nothing."""

    @model_validator(mode="after")
    def _frozen_or_trained(self) -> "Teacher":
        if self.frozen and not self.weights:
            raise ValueError("frozen: true needs weights: FILE")
        given = {"recipe": self.recipe, "terms": self.terms, "training": self.training != TrainingOverrides()}
        for key in given if self.frozen else ():
            if given[key]:
                raise ValueError(f"frozen: true is not trained; leave {key} out")
        if self.recipe and self.terms:
            raise ValueError("an assistant's terms are those of its recipe; leave terms out")
        for term in self.terms:
            if isinstance(term, DistillationTerm):
                raise ValueError(
                    f"terms: {term.loss} needs teachers; a teacher learns from labels, an assistant by a recipe"
                )
        if self.labels and not self.frozen:
            raise ValueError("labels are for frozen: true; a teacher that is trained has the data set's labels")
        _require_once("labels", self.labels or [])
        return self


class Recipe(Settings):
    """How a student is taught. Without teachers it is the same-budget baseline."""

    teachers: list[Name] = []
    """The teachers whose logits are combined."""
    combine: Literal["mean", "entropy", "confidence"] = "mean"
    """How much the logits of each count: alike; the surer the more; the nearer to the label the more. For each image
    and label. Maps and features are compared with each teacher's, all alike."""
    terms: list[AnyTerm] = []
    """Losses whose weighted sum is minimised; none: the usual loss of the data set's task."""
    views: Literal["cached", "fresh", "live"] = "cached"
    """`cached`: the views the teachers answered, in turn; `fresh`: a new view each epoch (no teachers); `live`: a new
    view each epoch, about which the teachers are asked then and there."""
    unlabelled: bool = False
    """Also learn from training images without any label, about which the teachers' answers alone say something."""

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        _require_once("teachers", self.teachers)
        if bool(self.teachers) != any(isinstance(term, DistillationTerm) for term in self.terms):
            raise ValueError("teachers and terms of distillation, such as sigmoid_kd, go together: set both or neither")
        if self.combine != "mean" and len(self.teachers) < 2:
            raise ValueError(f"combine: {self.combine} needs several teachers")
        if self.combine != "mean" and not any(
            isinstance(term, DistillationTerm) and term.needs == "logits" for term in self.terms
        ):
            raise ValueError(
                f"combine: {self.combine} weighs the teachers' logits, and no term compares logits; add one, such as"
                " sigmoid_kd, or take combine: mean"
            )
        if self.teachers and self.views == "fresh":
            raise ValueError("views: fresh is for recipes without teachers; views: live is the same with them")
        for key, asked in (("views: live", self.views == "live"), ("unlabelled: true", self.unlabelled)):
            if asked and not self.teachers:
                raise ValueError(f"{key} needs teachers")
        return self


MOST_STUDENTS = 10_000
"""Far more than anybody trains, and few enough to list."""


class Run(Settings):
    """What the graph trains: DVC's matrices run over these names."""

    teachers: list[Name] = Field(min_length=1)
    assistants: list[Name]
    """Teachers that are taught by a recipe first (TAKD; a student's own network makes it self-distillation)."""
    students: list[Name] = Field(min_length=1)
    recipes: list[Name] = Field(min_length=1)
    seeds: list[Seed] = Field(min_length=1)

    @model_validator(mode="after")
    def _once(self) -> "Run":
        for key in ("teachers", "assistants", "students", "recipes", "seeds"):
            _require_once(key, getattr(self, key))
        students = len(self.students) * len(self.recipes) * len(self.seeds)
        if students > MOST_STUDENTS:
            raise ValueError(f"students, recipes and seeds make {students:,} trainings; at most {MOST_STUDENTS:,} fit")
        return self

    @property
    def all_teachers(self) -> list[str]:
        """Teachers and assistants."""
        return [*self.teachers, *self.assistants]


class Teach(Settings):
    """What teachers answer before the students are trained."""

    views: int = Field(ge=1, le=10_000)
    """Augmented views of each training image."""
    view_seed: Seed
    """Seed of the views, the same for teachers and students, whatever the student's own seed."""
    attention: bool = False
    """Also where features are strong, for attention_transfer."""
    cams: bool = False
    """Also class activation maps of each label, for cam_kd and explanation_kd."""
    features: bool = False
    """Also pooled features, for rkd, cosine_similarity and feature_mse."""
    batch_size: int = Field(default=64, ge=1)
    """Images that are answered at once."""


class Evaluate(Settings):
    """Statistics of the evaluation."""

    resamples: int = Field(ge=100, le=100_000)
    """Bootstrap resamples over groups."""
    seed: Seed
    study: Literal["none", "max", "mean"] = "none"
    """What is measured: `none`: images; `max`, `mean`: studies, by the highest or the mean probability of their images,
    for data whose labels are of studies, as those of CheXpert and MIMIC-CXR are."""


class Explain(Settings):
    """Grad-CAM and localisation."""

    gallery: int = Field(ge=1)
    """Images shown in the gallery."""
    max_images: int = Field(ge=1)
    """Images with boxes that are measured at most."""


class Export(Settings):
    """ONNX export."""

    opset: int = Field(ge=18, le=99)
    parity_images: int = Field(ge=1)
    """Real images on which ONNX Runtime and torch are compared."""
    latency_runs: int = Field(ge=5, le=100_000)
    threads: int = Field(ge=1, le=256)
    """Threads of ONNX Runtime while latency is measured."""


class Promote(Settings):
    """Rules that a student must pass before the registry takes it."""

    max_params: int = Field(gt=0)
    max_macs: int = Field(gt=0)
    """Multiply-accumulates of one image at the model's input size."""
    max_onnx_mb: float = Field(gt=0)
    """Size of model.onnx in megabytes (10^6 bytes)."""
    margin_teacher: float = Field(ge=0, le=1)
    """Non-inferiority: lower bound of validation macro AUROC minus the best teacher's must exceed minus this."""
    max_ece: float = Field(gt=0, le=1)
    """Expected calibration error on validation, mean over labels."""
    require_baseline: bool
    """A distilled student must have a same-budget baseline and not fall below it on validation."""
    require_parity: bool
    """ONNX Runtime must answer as torch does."""


class Params(Settings):
    """params.yaml as a whole."""

    phantom: Phantom
    data: Data
    augmentation: Augmentation
    training: Training
    teachers: dict[Name, Teacher]
    students: dict[Name, Network]
    recipes: dict[Name, Recipe]
    run: Run
    teach: Teach
    evaluate: Evaluate
    explain: Explain
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
                raise ValueError(f"run.teachers names {name!r}, which has a recipe; name it in run.assistants instead")
        first_of: dict[str | None, str] = {}
        for name in self.run.assistants:
            first_of.setdefault(self.teachers[name].recipe, name)
        for recipe, name in first_of.items():
            self._taught(f"teachers.{name}", recipe)
        answering = set(self.run.all_teachers)
        for recipe in self.run.recipes:
            for teacher in self.recipes[recipe].teachers:
                if teacher not in answering:
                    raise ValueError(
                        f"recipes.{recipe}.teachers names {teacher!r}, which is neither in run.teachers"
                        " nor in run.assistants"
                    )
        taught = [self.teachers[name].recipe for name in self.run.assistants]
        for recipe in dict.fromkeys([*self.run.recipes, *taught]):
            terms = self.recipes[recipe].terms
            if terms and not any(isinstance(term, HardTerm) or term.needs == "logits" for term in terms):
                raise ValueError(
                    f"recipes.{recipe}: none of its terms teaches the classifier; add a loss from labels, such as "
                    "binary_cross_entropy, or of logits, such as sigmoid_kd"
                )
            for term in terms:
                cached = self.recipes[recipe].views == "cached"
                if cached and term.needs != "logits" and not getattr(self.teach, term.needs):
                    raise ValueError(f"recipes.{recipe}: {term.loss} needs teach.{term.needs}: true")
        baselines = [name for name in self.run.recipes if not self.recipes[name].teachers]
        if not baselines:
            raise ValueError("run.recipes has no baseline (a recipe without teachers); no result is shown without one")
        live = [name for name in self.run.recipes if self.recipes[name].views == "live"]
        if live and not any(self.recipes[name].views == "fresh" for name in baselines):
            raise ValueError(
                f"recipes.{live[0]} shows a new view each epoch, and no baseline of run.recipes does: add one with "
                "views: fresh, or what more views give is taken for what teachers give"
            )
        return self

    def _taught(self, assistant: str, recipe: str | None) -> None:
        """Refuse an assistant whose recipe is missing or is not one of teachers that stand before it."""
        if recipe is None:
            raise ValueError(f"{assistant} is in run.assistants and needs a recipe: how it is taught")
        for teacher in self.recipes[recipe].teachers:
            if teacher in self.run.assistants or (teacher in self.teachers and self.teachers[teacher].recipe):
                raise ValueError(
                    f"{assistant}: its recipe's teacher {teacher!r} is an assistant itself; assistants are taught by "
                    "teachers that have no recipe"
                )
            if teacher not in self.run.teachers:
                raise ValueError(f"{assistant}: its recipe's teacher {teacher!r} is not in run.teachers")
        if not self.recipes[recipe].teachers:
            raise ValueError(f"{assistant}: its recipe {recipe} has no teachers; without one it is a plain teacher")

    def knowledge_folder(self, teacher: str) -> Path:
        """Where a teacher's answers are; assistants' lie apart, as they are made from the others'."""
        return Path("assistants" if teacher in self.run.assistants else "data/knowledge") / teacher

    def training_of(self, network: Network) -> Training:
        """The settings with which `network` is trained: `training` with the network's own keys on top."""
        return self.training.model_copy(update=network.training.model_dump(exclude_unset=True))

    def student_models(self) -> list["StudentModel"]:
        """Every student of the run, in the order of the matrix."""
        run = self.run
        return [StudentModel(student=s, recipe=r, seed=k) for s in run.students for r in run.recipes for k in run.seeds]

    def model_folders(self) -> dict[str, Path]:
        """Folder of each model of the run, teachers first; models of earlier runs that lie beside them are left out."""
        teachers = {name: Path("models/teachers") / name for name in self.run.all_teachers}
        return teachers | {model.name: Path("models/students") / model.name for model in self.student_models()}

    def baseline_of(self, model: "StudentModel") -> list["StudentModel"]:
        """The baselines of `model`: same student and seed, a recipe without teachers."""
        return [
            m
            for m in self.student_models()
            if (m.student, m.seed) == (model.student, model.seed) and not self.recipes[m.recipe].teachers and m != model
        ]


class StudentModel(Settings):
    """One trained student of the matrix."""

    student: Name
    recipe: Name
    seed: Seed

    @property
    def name(self) -> str:
        """The name of its folder, stage and run."""
        return f"{self.student}-{self.recipe}-{self.seed}"


def load_params(path: Path = Path("params.yaml")) -> Params:
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
