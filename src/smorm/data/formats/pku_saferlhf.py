"""The safety labels of `PKU-Alignment/PKU-SafeRLHF`: each of two responses is safe or not."""

from smorm.data import fields
from smorm.data.census import Defect
from smorm.data.fields import Context
from smorm.data.formats import Format, Row, generic
from smorm.data.records import Rated

_SIDES = ("response_0", "response_1")


def parse(row: Row, context: Context) -> list[Rated]:
    """Both responses, each with the rating `safe`: 1 or 0."""
    prompt = generic.prompt_of(row, context)
    records: list[Rated] = []
    for name in _SIDES:
        response = generic.side_of(fields.required(row, name, context), name, context)
        fields.filled_response(response, name, context)
        field = f"is_{name}_safe"
        safe = fields.required(row, field, context)
        if not isinstance(safe, bool):
            raise context.bad(
                field, Defect.BAD_RATING, f"{fields.describe(safe)}, not true or false"
            )
        scores = {"safe": float(safe)}
        records.append(Rated(prompt, response, scores, **generic.identity_of(row, context)))
    return records


FORMAT = Format(
    "rated",
    parse,
    "{prompt, response_0, response_1, is_response_0_safe, is_response_1_safe}",
    signs=frozenset({"prompt", *_SIDES, "is_response_0_safe", "is_response_1_safe"}),
)
