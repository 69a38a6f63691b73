"""The sections `teachers`, `recipes` and `teach` of params.yaml."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from medistill.distillation.answers import in_order
from medistill.distillation.terms import AnyTerm, DistillationTerm, HardTerm
from medistill.images.limits import LARGEST_SIZE
from medistill.layout import member_name
from medistill.settings import AnyPath, License, Name, Seed, Settings, require_once
from medistill.text import pluralise
from medistill.training.settings import TrainedNetwork, TrainingOverrides

TEACH_CLASSIFIER = "add a loss from labels, such as binary_cross_entropy, or of logits, such as sigmoid_kd"
"""What to do where no loss sees the logits."""


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


class OutsideTeacher(Settings):
    """Base of teachers that are no network of timm: they are asked as they are, never trained."""

    license: License | None = Field(default=None, exclude=True)  # as of networks
    """Of the file. None: what `licenses.json` beside it says; else it is unknown."""
    frozen: ClassVar[bool] = True
    recipe: ClassVar[None] = None
    terms: ClassVar[tuple[AnyTerm, ...]] = ()

    def members(self, name: str) -> dict[str, Self]:
        """It alone, by its name; networks that are trained here may be several."""
        return {name: self}

    @property
    def file(self) -> Path:
        """The user's file."""
        raise NotImplementedError

    @property
    def named(self) -> list[str]:
        """The labels that it answers, in order."""
        raise NotImplementedError


class OnnxOutputs(Settings):
    """Which outputs of an ONNX file are asked for, by their names in it."""

    logits: str | None = None
    """(N, L): logits."""
    probabilities: str | None = None
    """(N, L): probabilities, where the file gives no logits; they become logits."""
    features: str | None = None
    """(N, K): pooled features, for rkd, cosine_similarity and feature_mse."""

    @model_validator(mode="after")
    def _one(self) -> "OnnxOutputs":
        if (self.logits is None) == (self.probabilities is None):
            raise ValueError("set one of logits and probabilities, to the name of an output")
        require_once("outputs", [name for name in (self.logits, self.probabilities, self.features) if name])
        return self


class OnnxTeacher(OutsideTeacher):
    """A network in an ONNX file, whoever made it, run by ONNX Runtime."""

    onnx: AnyPath
    """The file."""
    labels: list[str | None] = Field(min_length=1)
    """Labels of its outputs, in order; null for an output that nobody needs. They are matched by name."""
    input_size: int | None = Field(default=None, ge=16, le=LARGEST_SIZE)
    """Height and width that it sees: views are resized to it. None: data.image_size."""
    channels: Literal[1, 3] = 3
    """Of its input; grey frames become colour, colour frames grey."""
    mean: list[Annotated[float, Field(ge=0, le=1)]]
    """Subtracted from intensities in 0..1, channel by channel; [0, 0, 0] where the file normalises itself."""
    std: list[Annotated[float, Field(gt=0, le=1)]]
    """What they are then divided by; 0.003921568627 (1 / 255) each where the file takes 0..255."""
    layout: Literal["nchw", "nhwc"] = "nchw"
    """Order of the axes of its input; Keras has channels last."""
    outputs: OnnxOutputs

    @model_validator(mode="after")
    def _consistent(self) -> "OnnxTeacher":
        if not any(self.labels):
            raise ValueError("labels are all null; name at least one output that students learn from")
        require_once("labels", [label for label in self.labels if label])
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.channels:
                raise ValueError(f"{name} must have a number for each of {self.channels} channels")
        return self

    @property
    def file(self) -> Path:
        """The ONNX file."""
        return self.onnx

    @property
    def named(self) -> list[str]:
        """Those of its outputs that are not null."""
        return [label for label in self.labels if label]


class TableTeacher(OutsideTeacher):
    """A table of the answers that a model has given about images, by image id; the same for every view."""

    answers: AnyPath
    """The table: CSV or Parquet, one row per image."""
    id: str
    """Its column of image ids, or of the names of the files without their endings."""
    labels: dict[str, str] = Field(min_length=1)
    """Column of each label: `{Mass: prob_Mass}`."""
    values: Literal["probabilities", "logits"] = "probabilities"
    """What these columns hold."""

    @model_validator(mode="after")
    def _once(self) -> "TableTeacher":
        require_once("labels", list(self.labels.values()))
        return self

    @property
    def file(self) -> Path:
        """The table."""
        return self.answers

    @property
    def named(self) -> list[str]:
        """Those of its columns."""
        return list(self.labels)


def _one_kind(given: object) -> object:
    """Refuse settings of several kinds at once."""
    kinds = [key for key in ("arch", "onnx", "answers") if isinstance(given, dict) and key in given]
    if len(kinds) > 1:
        raise ValueError(f"set one of {' and '.join(kinds)}: a network of timm, an ONNX file or a table of answers")
    return given


def _kind(given: object) -> str:
    """The key by which a teacher's settings are told apart."""
    if isinstance(given, dict):
        return next((key for key in ("onnx", "answers") if key in given), "arch")
    kinds = {OnnxTeacher: "onnx", TableTeacher: "answers"}
    return next((key for kind, key in kinds.items() if isinstance(given, kind)), "arch")


AnyTeacher = Annotated[
    Annotated[Teacher, Tag("arch")] | Annotated[OnnxTeacher, Tag("onnx")] | Annotated[TableTeacher, Tag("answers")],
    Discriminator(_kind),
    BeforeValidator(_one_kind),
]
"""One teacher: `arch`, `onnx` or `answers` says which kind."""


def _distils(terms: Iterable[AnyTerm]) -> bool:
    return any(isinstance(term, DistillationTerm) for term in terms)


def _compares_logits(terms: Iterable[AnyTerm]) -> bool:
    return any(isinstance(term, DistillationTerm) and term.needs == "logits" for term in terms)


class Stage(Settings):
    """A part of a training that has its own losses and images."""

    terms: list[AnyTerm] = Field(min_length=1)
    """Losses whose weighted sum is minimised."""
    epochs: int | None = Field(default=None, ge=1)
    """Of as many steps as a baseline's, whatever images the stage shows; all stages together have `training.epochs`.
    One stage may leave it out: it has what the others leave."""
    unlabelled: bool = False
    """Also learn from training images without any label."""


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
    stages: list[Stage] = Field(default=[], exclude_if=lambda stages: not stages)
    """Instead of `terms` and `unlabelled`: parts of the training, one after the other. The last one teaches the
    classifier; the ones before may teach features alone."""

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        require_once("teachers", self.teachers)
        if self.stages:
            self._require_stages()
        if bool(self.teachers) != _distils(self.all_terms):
            raise ValueError("teachers and terms of distillation, such as sigmoid_kd, go together: set both or neither")
        compares_logits = _compares_logits(self.all_terms)
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

    def _require_stages(self) -> None:
        if self.terms:
            raise ValueError("a recipe has terms or stages, not both")
        if self.unlabelled:
            raise ValueError("unlabelled: true belongs to one of the stages")
        if not _distils(self.all_terms):
            raise ValueError("stages: none has a term of distillation, such as feature_mse; use terms instead")
        if sum(stage.epochs is None for stage in self.stages) > 1:
            raise ValueError("stages: only one of them may leave epochs out, and has what the others leave")
        for number, stage in enumerate(self.stages):
            if stage.unlabelled and not _distils(stage.terms):
                raise ValueError(
                    f"stages.{number}: unlabelled: true needs a term of distillation, such as feature_mse, as other"
                    " losses need labels"
                )
        if not self.parts[-1].teaches_classifier:
            last = f"stages.{len(self.stages) - 1}"
            raise ValueError(f"{last}: the last stage must teach the classifier; {TEACH_CLASSIFIER}")

    @property
    def all_terms(self) -> list[AnyTerm]:
        """Its terms, or those of all stages."""
        return [*self.terms, *(term for stage in self.stages for term in stage.terms)]

    @property
    def needs(self) -> set[str]:
        """Kinds of answers besides logits that its terms compare."""
        return {term.needs for term in self.all_terms} - {"logits"}

    @property
    def teaches_classifier(self) -> bool:
        """Whether the logits are in one of its losses; without terms the loss is the usual one."""
        terms = self.all_terms
        return not terms or any(isinstance(term, HardTerm) or term.needs == "logits" for term in terms)

    @property
    def parts(self) -> list["Recipe"]:
        """A recipe per stage, with its terms and images, and with teachers if it asks them; without stages itself."""
        return [
            self.model_copy(
                update={
                    "stages": [],
                    "terms": stage.terms,
                    "unlabelled": stage.unlabelled,
                    "calibrate": self.calibrate and _compares_logits(stage.terms),
                    "teachers": self.teachers if _distils(stage.terms) else [],
                }
            )
            for stage in self.stages
        ] or [self]

    def named_parts(self, key: str) -> dict[str, "Recipe"]:
        """Its parts by their keys in params.yaml, of a recipe that stands at `key`."""
        return {f"{key}.stages.{number}" if self.stages else key: part for number, part in enumerate(self.parts)}

    def epochs_of_parts(self, epochs: int) -> list[int]:
        """How many of a training's `epochs` each part has.

        Raises:
            ValueError: the stages have more or fewer.
        """
        if not self.stages:
            return [epochs]
        given = sum(stage.epochs or 0 for stage in self.stages)
        has_rest = any(stage.epochs is None for stage in self.stages)
        if has_rest and given >= epochs:
            raise ValueError(
                f"stages: they have {pluralise(given, 'epoch')}, which leaves none of training.epochs ({epochs}) to the"
                " stage without epochs"
            )
        if not has_rest and given != epochs:
            raise ValueError(
                f"stages: they have {pluralise(given, 'epoch')}, and training.epochs is {epochs}; a student trains for"
                " as many steps as its baseline: leave epochs out of one stage, which then has what the others leave"
            )
        return [stage.epochs or epochs - given for stage in self.stages]


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
