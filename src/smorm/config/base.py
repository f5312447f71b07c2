"""What every section of the configuration is made of."""

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from smorm.printing import brief

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


# Words for true and false in YAML 1.1, which our reader leaves as text.
_BOOLEANS = {"yes": True, "on": True, "no": False, "off": False}
# Whatever is counted or weighed in a configuration is less; seeds may be any number of 63 bits.
_LARGEST, _LARGEST_SEED = 10**12, 2**63 - 1


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

    @field_validator("*", mode="after")
    @classmethod
    def _refuse_huge_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        most = _LARGEST_SEED if "seed" in str(info.field_name) else _LARGEST
        for number in value if isinstance(value, list | tuple) else (value,):
            if isinstance(number, int | float) and abs(number) > most:
                raise ValueError(f"{brief(number)}, expected a number of at most {most:g}")
        return value

    @classmethod
    def known_fields(cls) -> dict[str, FieldInfo]:
        """The keys, from which an error names the nearest."""
        return cls.model_fields


def plain_value(value: Any) -> Any:
    """`1e-5` as a number and `yes` or `off` as true or false, where no typed key converts them."""
    if isinstance(value, dict):
        return {key: plain_value(child) for key, child in value.items()}
    if isinstance(value, str) and value.lower() in _BOOLEANS:
        return _BOOLEANS[value.lower()]
    # YAML 1.1 wants a point and a sign in a float
    if isinstance(value, str) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+", value):
        return float(value)
    return value
