"""What every section of the configuration is made of."""

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A section of the configuration: no unknown keys, no silent conversions of type."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_misplaced_booleans(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic would take true for 1
        field = cls.model_fields[str(info.field_name)]
        if isinstance(value, bool) and field.annotation is not bool:
            raise ValueError("true and false are no values of this key")
        return value

    @classmethod
    def known_fields(cls) -> dict[str, FieldInfo]:
        """The keys, from which an error names the nearest."""
        return cls.model_fields


def plain_number(value: Any) -> Any:
    """`1e-5`, which YAML 1.1 reads as text, as a number. Typed keys convert it themselves."""
    if isinstance(value, dict):
        return {key: plain_number(child) for key, child in value.items()}
    # YAML 1.1 wants a point and a sign in a float
    if isinstance(value, str) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+", value):
        return float(value)
    return value
