"""The section `promote` of params.yaml."""

from typing import Self

from pydantic import Field, model_validator

from medistill.settings import License, Settings, require_once


class AllowedLicenses(Settings):
    """Licences that a student may descend from."""

    allow: list[License] = Field(min_length=1)
    """Identifiers of SPDX or names, in small or large letters, as `license` and `medistill models` have them."""

    @model_validator(mode="after")
    def _once(self) -> Self:
        require_once("allow", [name.casefold() for name in self.allow])
        return self


class Promote(Settings):
    """Rules that a student must pass before the registry takes it."""

    max_params: int = Field(default=8_000_000, gt=0)
    max_macs: int = Field(default=600_000_000, gt=0)
    """Multiply-accumulates of one image at the model's input size."""
    max_onnx_mb: float = Field(default=40.0, gt=0)
    """Size of model.onnx in megabytes (10^6 bytes)."""
    margin_teacher: float = Field(default=0.05, ge=0, le=1)
    """Non-inferiority: lower bound of validation macro AUROC minus the best teacher's must exceed minus this."""
    max_ece: float = Field(default=0.15, gt=0, le=1)
    """Expected calibration error on validation, mean over labels."""
    require_baseline: bool = True
    """A distilled student must have a same-budget baseline and not fall below it on validation."""
    require_parity: bool = True
    """ONNX Runtime's logits must equal torch's, within tolerance."""
    licenses: AllowedLicenses | None = None
    """Data, weights and teachers' ancestors must all have one of these licences; None: any, and unknown ones."""
