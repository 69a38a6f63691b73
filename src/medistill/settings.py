"""What all sections of params.yaml have in common."""

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Settings(BaseModel):
    """Base of all sections: unknown keys are errors, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, given: Any) -> Any:
        """Refuse `patience: true`, which would be taken for 1."""
        for key, value in given.items() if isinstance(given, dict) else ():
            field = cls.model_fields.get(key)
            is_number = field is not None and re.search(r"\b(int|float)\b", str(field.annotation))
            if is_number and any(isinstance(item, bool) for item in (value if isinstance(value, list) else [value])):
                raise ValueError(f"{key} must be a number, not true or false")
        return given
