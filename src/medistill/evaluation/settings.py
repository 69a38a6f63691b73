"""The section `evaluate` of params.yaml."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from medistill.errors import UserError
from medistill.settings import Seed, Settings
from medistill.task import Task

Threshold = Annotated[float, Field(gt=0, lt=1)]
"""A probability at which somebody acts."""


class Evaluate(Settings):
    """Statistics of the evaluation."""

    resamples: int = Field(default=2000, ge=100, le=100_000)
    """Bootstrap resamples over groups."""
    seed: Seed = 0
    study: Literal["none", "max", "mean"] = "none"
    """The unit of evaluation: `none`: images; `max`, `mean`: studies, by the highest or mean probability of their
    images, for data with labels per study, such as CheXpert and MIMIC-CXR."""
    ordered: list[str] = []
    """Exclusive classes in their order, where they have one, as grades have: quadratic kappa is then measured."""
    strata: Literal["none", "sex", "view", "source"] = "none"
    """A column of the manifest: AUROC is then also measured over pairs of images that have the same value there."""
    net_benefit: tuple[Threshold, Threshold] | None = None
    """The lowest and the highest probability from which on somebody would act on a label: net benefit is measured
    between them. An answer to this is the user's, so that there is no default."""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.net_benefit is not None and not self.net_benefit[0] < self.net_benefit[1]:
            raise ValueError(f"net_benefit: the second probability must be above the first, not {self.net_benefit}")
        return self

    def require_classes(self, labels: Sequence[str], task: Task) -> None:
        """Refuse an order of other classes than a data set has.

        Raises:
            UserError: `ordered` is not each of the labels once, or these do not exclude each other.
        """
        if not self.ordered:
            return
        if not task.exclusive:
            raise UserError("params.yaml: evaluate.ordered: only exclusive classes have an order; leave it out")
        if sorted(self.ordered) != sorted(labels):
            raise UserError(f"params.yaml: evaluate.ordered: name each class once, in its order: {', '.join(labels)}")

    def require_strata(self, values: Iterable[object], split: str) -> None:
        """Refuse strata of a column that says nothing.

        Args:
            values: of the column `strata`, of the images of a split.
            split: its name.

        Raises:
            UserError: no image has a value.
        """
        if not any(isinstance(value, str) and value for value in values):
            raise UserError(
                f"params.yaml: evaluate.strata: no image of {split} in data/processed has a {self.strata};"
                " set it to none"
            )
