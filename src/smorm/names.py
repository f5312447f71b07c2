"""What may be the name of an attribute, of whatever row, configuration or card."""

import functools
from collections.abc import Iterable

from smorm.limits import limit, refusal
from smorm.printing import brief, clean

# The head's own row: an attribute of that name could not be told from it.
RESERVED = ("preference",)


@functools.lru_cache(maxsize=4096)
def name_problem(name: object) -> str | None:
    """Why something cannot be the name of an attribute; None where it can."""
    if not isinstance(name, str) or not name.strip():
        return f"{brief(name)} cannot be the name of an attribute: expected some text"
    if name in RESERVED:
        return f"{name!r} cannot be the name of an attribute: it is the name of the other head"
    if clean(name) != name or "\n" in name or "\t" in name:
        return f"{brief(name)} cannot be the name of an attribute: it holds control characters"
    if len(name) > limit("name_characters"):
        return f"the attribute {brief(name)}: {refusal('name_characters', len(name))}"
    return None


def names_problem(names: Iterable[object]) -> str | None:
    """Why these cannot be a model's attributes; None where they can."""
    accepted: set[object] = set()
    for name in names:
        if problem := name_problem(name):
            return problem
        if name in accepted:
            return f"the attribute {brief(name)} is named twice"
        accepted.add(name)
    if len(accepted) > limit("attributes"):
        return refusal("attributes", len(accepted))
    return None
