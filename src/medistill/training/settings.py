"""The section `training` of params.yaml, and the keys that single networks override."""

from typing import Literal

from pydantic import Field, create_model
from pydantic.fields import FieldInfo

from medistill.models.settings import Network
from medistill.settings import Settings


class Training(Settings):
    """How a network is trained; teachers and students may override single keys."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises linearly."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this global L2 norm."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """accelerate's mixed precision; `no` is float32."""
    ema: float = Field(default=0, ge=0, lt=1)
    """Decay of an exponential moving average of the weights, which is then validated and kept; 0 for none."""
    patience: int | None = Field(default=None, ge=1)
    """Training ends after so many epochs without a better validation macro AUROC."""


_OVERRIDES = {
    name: (field.annotation, FieldInfo.merge_field_infos(field, default=None))
    for name, field in Training.model_fields.items()
}


class TrainingOverrides(create_model("TrainingOverrides", __base__=Settings, **_OVERRIDES)):  # type: ignore[misc]  # made of `Training`
    """Keys of `training` that one network sets otherwise; those that are not there stay as they are."""


class TrainedNetwork(Network):
    """A network with its own settings of training."""

    training: TrainingOverrides = TrainingOverrides()

    def training_on(self, common: Training) -> Training:
        """The settings by which this network is trained: `common` with the network's own keys on top."""
        return common.model_copy(update=self.training.model_dump(exclude_unset=True))
