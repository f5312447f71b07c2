"""The names of numbers and of suites; `str(MetricName.parse(text))` is that text, whatever it is.

| spelling | parsed |
|---|---|
| `accuracy` | name |
| `gold@32`, `gold@last` | name and the size `n`, or the `point` of a policy's course |
| `spearman/clarity`, `subset/hep-cpp`, `probe/r2/clarity` | name and subset |
| `length_only/overall`, `length_only_accuracy` | name, over the rule `length_only` (longest wins) |
| `shortest_only/overall`, `shortest_only_accuracy` | name, over the rule `shortest_only` |
| `overall_minus_length_only`, `probe_minus_rows/r2/clarity` | name (and subset) less the base |
| `theorem_2/F/mse/SMORM − Single over seeds` | name, subset, base, and what the mean is over |"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Ways of scoring that stand beside a number, as a prefix: `RULE/NAME`.
RULES = ("length_only", "shortest_only", "ties_half")
_AVERAGED = ("seeds",)
_BASES = ("length_only", "rows")
_MINUS, _LESS, _OVER = "_minus_", " − ", " over "
# `pairs` spells its rules in one word.
_IN_ONE_WORD = {f"{rule}_accuracy": rule for rule in ("length_only", "shortest_only")}
_SIZE = re.compile(r"0|[1-9][0-9]*")


@dataclass(frozen=True, slots=True)
class MetricName:
    """What a number measures."""

    name: str  # the quantity, such as `accuracy`, `gold` or `spearman`
    n: int | None = None  # the size of best-of-n, or a policy's step
    subset: str | None = None  # the attribute, benchmark subset, or section that it is measured on
    # the rule that scores in place of the reward (`RULES`), or what it is a mean over
    over: str | None = None
    base: str | None = None  # what is subtracted
    point: str | None = None  # `first`, `last` or `peak` of a policy's course

    @classmethod
    def parse(cls, text: str) -> MetricName:
        """The parts of a spelling; a spelling of no known form is a name as it is."""
        parsed = cls._parse(text)
        # A spelling that would not come back, such as `gold@007`, is kept as a name.
        return parsed if str(parsed) == text else cls(text)

    @classmethod
    def _parse(cls, text: str) -> MetricName:
        if text in _IN_ONE_WORD:
            return cls("accuracy", over=_IN_ONE_WORD[text])
        # From the outside in: the rule, the base, the size or point, the subset.
        over, text = _split_over(text)
        head, separator, tail = text.partition("/")
        subset = tail if separator else None
        # A difference of quantities is written in the head, one of arms behind the subset.
        name, _, base = head.partition(_MINUS)
        if base not in _BASES:
            name, base = head, ""
            if subset is not None:
                subset, _, base = subset.partition(_LESS)
        name, _, point = name.partition("@")
        if _SIZE.fullmatch(point):
            return cls(name, int(point), subset, over, base or None)
        return cls(name, None, subset, over, base or None, point or None)

    def __str__(self) -> str:
        # Result files of `pairs` had this spelling before rules were written as prefixes.
        in_one_word = f"{self.over}_accuracy"
        if in_one_word in _IN_ONE_WORD and self == MetricName("accuracy", over=self.over):
            return in_one_word
        text = self.name
        if self.base in _BASES:
            text += f"{_MINUS}{self.base}"
        if self.n is not None:
            text += f"@{self.n}"
        elif self.point is not None:
            text += f"@{self.point}"
        if self.subset is not None:
            text += f"/{self.subset}"
        if self.base is not None and self.base not in _BASES:
            text += f"{_LESS}{self.base}"
        if self.over in _AVERAGED:
            return f"{text}{_OVER}{self.over}"
        return text if self.over is None else f"{self.over}/{text}"

    @property
    def parts(self) -> tuple[str, ...]:
        """The subset's parts: `("F", "mse", "SMORM")` of `theorem_2/F/mse/SMORM − Single`."""
        return tuple(self.subset.split("/")) if self.subset else ()

    @property
    def is_detail(self) -> bool:
        """Whether it is a part of a suite's numbers: of a subset, or by a rule beside them."""
        return "/" in str(self)


def _split_over(text: str) -> tuple[str | None, str]:
    """The rule before a name, or what is averaged behind it, and the rest."""
    rule, separator, rest = text.partition("/")
    if separator and rule in RULES:
        return rule, rest
    rest, _, averaged = text.rpartition(_OVER)
    if rest and averaged in _AVERAGED:
        return averaged, rest
    return None, text


@dataclass(frozen=True, slots=True)
class SuiteName:
    """A suite: `KIND` or `KIND/LABEL`, such as `pairs/OODlong`, `best-of-n/ID` or `rewardbench`."""

    kind: str
    label: str = ""

    @classmethod
    def parse(cls, text: str) -> SuiteName:
        """The parts before and after the first slash."""
        kind, _, label = text.partition("/")
        return cls(kind, label)

    def __str__(self) -> str:
        return f"{self.kind}/{self.label}" if self.label else self.kind

    @property
    def shown(self) -> str:
        """The label, or the kind where it has none."""
        return self.label or self.kind
