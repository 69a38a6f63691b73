"""What all sections of params.yaml have in common."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Base of all sections: unknown keys are errors, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
