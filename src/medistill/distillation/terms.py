"""The terms of a recipe: which losses, with which options, and with what weight.

A term is named after its function in `medistill.distillation.functional`, where formulas, sources and the meaning of
the options are. This file needs no torch, so that params.yaml is checked at once.
"""

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, JsonValue, model_validator

from medistill.settings import Settings
from medistill.task import Task

Temperature = Annotated[float, Field(ge=0.01, le=1000)]
"""At higher temperatures float32 has no digits left."""


Smoothing = Annotated[float, Field(ge=0, lt=1, exclude_if=lambda share: not share)]
"""Share of a label that is spread evenly over both answers, or over all exclusive classes."""

Group = Literal["sex", "view", "source"]
"""A column of the manifest."""

GroupWeights = Annotated[Group | None, Field(exclude_if=lambda column: column is None)]
"""The column by which images are weighted: images of rare groups count more, so that each group counts the same."""

Trust = Annotated[bool, Field(exclude_if=lambda trust: not trust)]
"""Whether an answer of the teachers that contradicts the label counts less: with the probability that they give it."""


class Term(Settings):
    """Base of all terms."""

    if TYPE_CHECKING:
        loss: str  # the function's name: each term has its own as a literal
    needs: ClassVar[str] = "logits"
    """The kind of answer that it compares, a key of `ANSWERS`."""
    instead: ClassVar[str] = "sigmoid_kd"
    """The alternative for labels that are not exclusive, if the loss is for exclusive classes."""
    weight: float = Field(default=1.0, gt=0, le=1e6)
    """The loss of a recipe is the sum of its terms, each times its weight."""

    parts: ClassVar[tuple[str, ...]] = ()
    """Options that weigh the parts of the loss; they must not all be 0."""

    @model_validator(mode="after")
    def _says_something(self) -> "Term":
        if self.parts and not any(getattr(self, part) for part in self.parts):
            raise ValueError(f"{' and '.join(self.parts)} are 0, so the loss would always be 0")
        return self

    def options(self) -> dict[str, JsonValue]:
        """Keyword arguments of the function."""
        ours = {"loss", "weight", "balanced", "allow_offset_blind", "group_weights", "trust"}
        return {key: getattr(self, key) for key in type(self).model_fields if key not in ours}

    @property
    def blind_on_purpose(self) -> bool:
        """Whether it is allowed for labels that are not exclusive despite its invariance to a constant per image."""
        return False

    @property
    def compares_labels(self) -> bool:
        """Whether it compares the labels of an image with each other."""
        return False


class HardTerm(Term):
    """A loss against the labels."""

    if TYPE_CHECKING:
        balanced: bool  # each term has its own, behind its options
        smoothing: float
        group_weights: Group | None
    balances: ClassVar[Literal["labels", "classes"]] = "labels"
    """What `balanced` weighs: the positives of each label, or the images of each class."""


class DistillationTerm(Term):
    """A loss against the teachers' answers."""

    projected: ClassVar[bool] = False
    """Whether a linear layer per teacher, trained with the student, maps its features to the teacher's width."""
    takes_targets: ClassVar[bool] = False
    """Whether it compares logits and also needs the labels."""
    explains_likeliest: ClassVar[bool] = False
    """Whether it also compares the maps of the label that the teachers find likeliest."""
    trusts: ClassVar[Literal["labels", "images"] | None] = None
    """What `trust` weighs: each label of an image, or whole images; None: the loss has no entries to weigh."""

    @model_validator(mode="before")
    @classmethod
    def _has_entries_to_trust(cls, given: Any) -> Any:
        if isinstance(given, dict) and "trust" in given and "trust" not in cls.model_fields:
            raise ValueError(
                "trust is for losses of the logits of single images, such as sigmoid_kd; leave it out here"
            )
        return given

    @property
    def weighs_trust(self) -> bool:
        """Whether params.yaml asks for it."""
        return bool(getattr(self, "trust", False))


class SoftmaxTerm(DistillationTerm):
    """A loss with a softmax over the labels, which the literature also uses for labels that are not exclusive."""

    if TYPE_CHECKING:
        allow_offset_blind: bool  # each term has its own, behind its options
    instead = "sigmoid_kd, or set allow_offset_blind: true"

    @property
    def blind_on_purpose(self) -> bool:
        """Whether params.yaml allows it."""
        return self.allow_offset_blind


class BinaryCrossEntropy(HardTerm):
    """The usual loss of labels that are not exclusive."""

    loss: Literal["binary_cross_entropy"]
    smoothing: Smoothing = 0.0
    balanced: bool = False
    """Positive labels are weighted by the ratio of negatives to positives in training."""
    group_weights: GroupWeights = None


class FocalBce(HardTerm):
    """The loss of system A."""

    loss: Literal["focal_bce"]
    gamma: float = Field(default=2.0, ge=0)
    smoothing: Smoothing = 0.0
    balanced: bool = False
    group_weights: GroupWeights = None


class AsymmetricBce(HardTerm):
    """Easy negatives cost nothing."""

    loss: Literal["asymmetric_bce"]
    gamma_negative: float = Field(default=4.0, ge=0)
    gamma_positive: float = Field(default=1.0, ge=0)
    clip: float = Field(default=0.05, ge=0, lt=1)
    smoothing: Smoothing = 0.0
    balanced: bool = False
    group_weights: GroupWeights = None


class CrossEntropy(HardTerm):
    """The usual loss of exclusive classes."""

    balances = "classes"
    instead = "binary_cross_entropy"
    loss: Literal["cross_entropy"]
    smoothing: Smoothing = 0.0
    balanced: bool = False
    """Images weigh in inverse proportion to how often their class is in training."""
    group_weights: GroupWeights = None


class SigmoidKd(DistillationTerm):
    """Divergence label by label."""

    trusts = "labels"
    loss: Literal["sigmoid_kd"]
    temperature: Temperature = 1.0
    trust: Trust = False


class SoftmaxKd(SoftmaxTerm):
    """Divergence over exclusive classes."""

    trusts = "images"
    loss: Literal["softmax_kd"]
    temperature: Temperature = 4.0
    trust: Trust = False
    allow_offset_blind: bool = False


class MseKd(SoftmaxTerm):
    """The loss of system A."""

    instead = "space: sigmoid, or set allow_offset_blind: true"
    trusts = "labels"
    loss: Literal["mse_kd"]
    space: Literal["sigmoid", "logits", "softmax"] = "sigmoid"
    temperature: Temperature = 1.0
    trust: Trust = False
    allow_offset_blind: bool = False
    """A softmax over labels that are not exclusive is refused otherwise: it cannot see a constant added to all logits
    of an image."""


class Bckd(DistillationTerm):
    """Weighed by disagreement."""

    trusts = "labels"
    loss: Literal["bckd"]
    beta: float = Field(default=1.0, ge=1)
    trust: Trust = False


class Dkd(DistillationTerm):
    """For exclusive classes: whether it is the class (`alpha`) and which of the others (`beta`), apart."""

    takes_targets = True
    trusts = "images"
    loss: Literal["dkd"]
    parts = ("alpha", "beta")
    alpha: float = Field(default=1.0, ge=0)
    beta: float = Field(default=8.0, ge=0)
    temperature: Temperature = 4.0
    trust: Trust = False


class LogitStandardizedKd(DistillationTerm):
    """For exclusive classes: divergence of logits without their mean, over their deviation."""

    trusts = "images"
    loss: Literal["logit_standardized_kd"]
    temperature: Temperature = 2.0
    trust: Trust = False


class Dist(SoftmaxTerm):
    """Correlations, in batches of 64 or more; `activation: sigmoid` with `inter: 0` for labels that are not exclusive,
    which leaves the relations of the images by each label."""

    instead = "activation: sigmoid with inter: 0, or set allow_offset_blind: true"
    loss: Literal["dist"]
    parts = ("inter", "intra")
    activation: Literal["softmax", "sigmoid"] = "softmax"
    inter: float = Field(default=1.0, ge=0)
    intra: float = Field(default=1.0, ge=0)
    temperature: Temperature = 1.0
    allow_offset_blind: bool = False

    @property
    def compares_labels(self) -> bool:
        """Whether the relations of the labels of an image are a part of it."""
        return self.inter > 0


class AttentionTransfer(DistillationTerm):
    """Attention: where the teacher's features are strong."""

    loss: Literal["attention_transfer"]
    needs = "attention"


class CamKd(DistillationTerm):
    """Where the teacher looks, for the labels that an image has."""

    loss: Literal["cam_kd"]
    needs = "cams"


class ExplanationKd(DistillationTerm):
    """Where the teacher looks, for the labels that an image has and the one that the teacher finds likeliest; of more
    than three those that it finds likeliest."""

    explains_likeliest = True
    loss: Literal["explanation_kd"]
    needs = "cams"


class Rkd(DistillationTerm):
    """Relations between the images of a batch."""

    loss: Literal["rkd"]
    parts = ("distance", "angle")
    distance: float = Field(default=1.0, ge=0)
    angle: float = Field(default=2.0, ge=0)
    needs = "features"


class CosineSimilarity(DistillationTerm):
    """The direction of the features."""

    loss: Literal["cosine_similarity"]
    needs = "features"
    projected = True


class FeatureMse(DistillationTerm):
    """The features themselves."""

    loss: Literal["feature_mse"]
    needs = "features"
    projected = True


def _leaves(kind: type[Term]) -> tuple[type[Term], ...]:
    """All terms below `kind`, in the order in which they stand here."""
    return tuple(term for child in kind.__subclasses__() for term in _leaves(child) or (child,))


if TYPE_CHECKING:
    AnyTerm = HardTerm | DistillationTerm
else:
    AnyTerm = Annotated[reduce(or_, _leaves(Term)), Field(discriminator="loss")]
"""One term; `loss` says which."""

HARD_LOSS = {
    Task.MULTILABEL: BinaryCrossEntropy(loss="binary_cross_entropy"),
    Task.MULTICLASS: CrossEntropy(loss="cross_entropy"),
}
"""The hard loss of a recipe that names no term, by task."""
