"""Score a file by several models as one; one of them is in memory at a time.

    {"id", "view": combined, "members": {name: value}, "tokens", "truncated"}

`members` are the values that were combined (standardised, where that was asked for); `tokens` is
what all members together read. Several responses and bad lines are as in `smorm.scoring.jobs`; a
line that one member cannot score has no combined score either, and names the member.

Shapes: M members, N responses.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from smorm import files
from smorm.data.reading import Source
from smorm.errors import ConfigError, DataError, OutputError
from smorm.model.store import resolve
from smorm.scoring.ensemble import (
    OWN_SCALE,
    Rule,
    Standard,
    parameters_of,
    refuse_equal_names,
)
from smorm.scoring.jobs import Line, score_file
from smorm.scoring.reward_model import RewardModel

Standardise = Callable[[RewardModel, Any, str], Standard]
"""From a member, its view and its name to its standard."""


@dataclass(frozen=True, slots=True)
class MemberSpec:
    """A member before it is loaded: its name in results, its folder, its view (None: its own)."""

    name: str
    path: str
    view: Any = None


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """What is told of a member: the view that counted, its weights, standard and model hashes, and
    what was counted while it scored."""

    name: str
    view: str
    parameters: int
    standard: Standard
    hashes: dict[str, str]
    counted: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a fingerprint."""
        return {
            "name": self.name,
            "view": self.view,
            "parameters": self.parameters,
            "centre": self.standard.centre,
            "spread": self.standard.spread,
            "hashes": self.hashes,
        }


@dataclass(frozen=True, slots=True)
class EnsembleReport:
    """What a job did: its members, lines written, responses scored, lines without a score, and the
    tokens that all members read."""

    members: tuple[MemberFacts, ...]
    lines: int
    responses: int
    errors: int
    tokens: int


def cost_of(members: Sequence[MemberFacts]) -> str:
    """What a score of the ensemble costs, for the reader."""
    total = sum(member.parameters for member in members)
    each = " + ".join(f"{member.parameters:,}" for member in members)
    passes = "1 forward pass" if len(members) == 1 else f"{len(members)} forward passes"
    return f"cost: {passes} a response, {total:,} parameters ({each})"


def refuse_specs(specs: Sequence[MemberSpec]) -> None:
    """Find out before the first member has scored for hours that the last one is not there.

    Raises:
        ConfigError: no member, or two of one name, or of one folder and view.
        ModelError: a folder that is not there.
    """
    refuse_equal_names([spec.name for spec in specs])
    found: dict[tuple[Path, str], str] = {}
    for spec in specs:
        other = found.setdefault((resolve(spec.path).resolve(), repr(spec.view)), spec.name)
        if other != spec.name:
            raise ConfigError(
                f"ensemble: {other} and {spec.name} are one folder, which would count twice. To "
                "combine rows of one model use a view (smorm view)."
            )


def score_file_together(
    specs: Sequence[MemberSpec],
    rule: Rule,
    source: Source,
    output: Path,
    *,
    device: str = "cpu",
    standardise: Standardise | None = None,
    **options: Any,
) -> EnsembleReport:
    """Score every line of `source` by each member in turn, and write what they say together.

    Args:
        standardise: gives a member's standard once it is loaded; by default none is taken.
        options: as for `score_file`: `overlong`, `on_bad_record`, `max_batch_tokens`.

    Raises:
        ConfigError: no member, two of one name, or a view that a member does not have.
        ModelError: a folder that is not there or not a model.
        DataError: a line that is not usable or does not fit a member, under `stop`; or the input
            changed while it was scored.
        OutputError: the output could not be written; an older one is untouched.
    """
    refuse_specs(specs)
    files.refuse_unwritable(output)
    with ExitStack() as stack:
        with files.named_errors(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            scratch = tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent)
        folder = Path(stack.enter_context(scratch))
        parts = [folder / str(at) for at in range(len(specs))]
        members = tuple(
            _score_member(spec, part, output, source, device, standardise, options)
            for spec, part in zip(specs, parts, strict=True)
        )
        lines = responses = errors = tokens = 0
        with files.whole_file(output) as stream:
            for line in _together(parts, members, rule, str(source.path)):
                stream.write(orjson.dumps(line) + b"\n")
                found = [] if "error" in line else line.get("responses", [line])
                lines, errors = lines + 1, errors + ("error" in line)
                responses, tokens = responses + len(found), tokens + sum(r["tokens"] for r in found)
    return EnsembleReport(members, lines, responses, errors, tokens)


def _score_member(
    spec: MemberSpec,
    part: Path,
    output: Path,
    source: Source,
    device: str,
    standardise: Standardise | None,
    options: dict[str, Any],
) -> MemberFacts:
    """Write a member's own scores into `part`, beside `output`; it is out of memory when the next
    one is loaded."""
    model = RewardModel.load(spec.path, device=device)
    view = model.view(spec.view)
    standard = OWN_SCALE if standardise is None else standardise(model, spec.view, spec.name)
    try:
        report = score_file(model, source, part, view=spec.view, **options)
    except OutputError as error:  # the user knows the output, not what lies beside it
        raise OutputError(str(error).replace(str(part), str(output))) from error
    except DataError as error:  # e.g. over the limit of this member alone
        raise DataError(f"{error} (scored by {spec.name})") from error
    counted = tuple(report.census.lines())
    hashes = dict(model.card.hashes)
    return MemberFacts(spec.name, view.name, parameters_of(model), standard, hashes, counted)


def _together(
    parts: Sequence[Path], members: Sequence[MemberFacts], rule: Rule, source: str
) -> Iterator[Line]:
    """Lines of all members' files, made one. Each member reads the input anew: what it had of
    another input must not be put beside it."""
    with ExitStack() as stack:
        streams = [stack.enter_context(part.open("rb")) for part in parts]
        for number, texts in enumerate(itertools.zip_longest(*streams, fillvalue=b"null"), 1):
            lines = [orjson.loads(text) for text in texts]
            if len({_shape(line) for line in lines}) > 1:
                raise DataError(
                    f"{source}: changed while it was scored: record {number} is another one for "
                    "one model than for the next. Score a copy that nothing writes to."
                )
            yield _one_line(lines, members, rule)


def _shape(line: Line | None) -> tuple[Any, ...]:
    """What all members' lines of one record have in common: there is one, and whose it is."""
    return (line is None, None if line is None else line["id"])


def _one_line(lines: Sequence[Line], members: Sequence[MemberFacts], rule: Rule) -> Line:
    identity = lines[0]["id"]
    reasons = {m.name: line["error"] for m, line in zip(members, lines, strict=True)
               if "error" in line}  # fmt: skip
    if reasons:
        same = len(reasons) == len(lines) and len(set(reasons.values())) == 1
        told = [reason if same else f"{name}: {reason}" for name, reason in reasons.items()]
        return {"id": identity, "error": told[0]}
    parts = [line.get("responses", [line]) for line in lines]
    values = np.stack([
        member.standard.apply(np.array([one["view"] for one in part]))
        for member, part in zip(members, parts, strict=True)
    ])  # fmt: skip
    responses = [
        {
            "view": float(value),
            "members": {m.name: float(own) for m, own in zip(members, column, strict=True)},
            "tokens": sum(one["tokens"] for one in same),
            "truncated": any(one["truncated"] for one in same),
        }
        for value, column, same in zip(
            rule.combine(values), values.T, zip(*parts, strict=True), strict=True
        )
    ]
    found = responses[0] if "responses" not in lines[0] else {"responses": responses}
    return {"id": identity, **found}
