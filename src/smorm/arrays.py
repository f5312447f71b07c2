"""Names for the element types of NumPy arrays, and what counts as a number."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Tokens = NDArray[np.int32]  # token ids
# A label of each item, such as its prompt.
Clusters = Sequence[str] | Sequence[int] | NDArray[Any]


def compact(numbers: Ints) -> Ints:
    """Whole numbers from 0 in 4 bytes each where they fit. What is computed with them may not:
    arithmetic needs 8."""
    if not len(numbers) or int(numbers.max()) <= np.iinfo(np.int32).max:
        small: Any = numbers.astype(np.int32)
        return small  # type: ignore[no-any-return]
    return numbers


def is_finite_number(value: Any) -> bool:
    """Whether a value of a JSON file is a finite number, as a float has them."""
    # JSON's true is an int in Python, and no number.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False
