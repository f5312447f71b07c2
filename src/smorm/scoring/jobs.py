"""Score a file: one JSON object per input line, in input order.

    {"id", "preference", "attributes": {name: value}, "view": value, "tokens", "truncated"}

A line with several responses (a pair, best-of-N) gives them as a list under `responses`, a pair's
in the order chosen, rejected. A line that cannot be scored gives `{"id", "error"}` under
`on_bad_record="skip"`, and stops the job under `stop`. The output appears only when it is whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from smorm import files
from smorm.data.census import Census, DropReason
from smorm.data.quarantine import BadRecord
from smorm.data.reading import OnBad, Source, read_each
from smorm.data.records import Item
from smorm.data.scaling import restore_scales
from smorm.errors import DataError
from smorm.model.views import View, apply_view
from smorm.scoring.reward_model import RewardModel
from smorm.scoring.scorer import DEFAULT_BATCH_TOKENS, Scored, Scorer
from smorm.text.limits import Overlong, Unscored, UnscoredReason

CHUNK = 2048
"""Lines held in memory at a time: responses to one prompt should stand near each other."""

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class JobReport:
    """What a job did: lines read, responses scored, lines without a score, and the census."""

    lines: int
    responses: int
    errors: int
    census: Census


def score_file(
    model: RewardModel,
    source: Source,
    output: Path,
    *,
    view: Any = None,
    overlong: Overlong | None = None,
    on_bad_record: OnBad = "stop",
    max_batch_tokens: int = DEFAULT_BATCH_TOKENS,
    advance: Callable[[int], None] | None = None,
) -> JobReport:
    """Score every line of `source` into `output`.

    Raises:
        DataError: a line that is not usable or does not fit, under `stop`.
        OutputError: the output could not be written; an older one is untouched.
    """
    chosen, census = model.view(view), Census()
    policy: Any = overlong or model.card.overlong
    scorer = Scorer(model.network, model.renderer, policy, max_batch_tokens)
    lines = responses = errors = 0
    with files.whole_file(output) as stream:
        rows = read_each(source, census)
        while chunk := list(itertools.islice(rows, CHUNK)):
            for line in _score_chunk(scorer, model, chosen, chunk, census, on_bad_record):
                stream.write(orjson.dumps(line) + b"\n")
                lines += 1
                errors += "error" in line
                responses += 0 if "error" in line else len(line.get("responses", [0]))
            if advance is not None:
                advance(len(chunk))
        if not lines:
            raise DataError(f"{source.path}: holds no record")
    return JobReport(lines, responses, errors, census)


def _score_chunk(
    scorer: Scorer,
    model: RewardModel,
    view: View,
    chunk: list[Any],
    census: Census,
    on_bad_record: OnBad,
) -> Iterator[Line]:
    items: list[Item] = []
    owners: list[tuple[str, str | None, Any]] = []
    for where, found in chunk:
        if isinstance(found, BadRecord):
            owners.append((where, None, found))
            continue
        responses = tuple(r for record in found for r in record.item.responses)
        item = Item(found[0].prompt, responses, where)
        owners.append((where, found[0].id, item))
        items.append(item)
    results = iter(scorer.score(items))
    for where, identity, owner in owners:
        if isinstance(owner, BadRecord):
            result: Scored | Unscored = Unscored(UnscoredReason.BAD_RECORD, str(owner))
            reason = str(owner)
        else:
            result = next(results)
            reason = f"{where}: {result}"
        if isinstance(result, Unscored):
            if on_bad_record == "stop":
                raise DataError(reason)
            census.add(DropReason.UNSCORED_LINE, where)
            yield {"id": identity, "error": reason}
            continue
        if result.truncated:
            census.add(DropReason.SHORTENED, where)
        yield {"id": identity, **_line(model, view, result)}


def _line(model: RewardModel, view: View, scored: Scored) -> Line:
    values = apply_view(view, scored.rows, model.card.scales)
    attributes = restore_scales(model.card.scales, scored.rows[:, 1:])
    responses = [
        {
            "preference": float(rows[0]),
            "attributes": dict(zip(model.attributes, map(float, own), strict=True)),
            "view": float(value),
            "tokens": tokens,
            "truncated": scored.truncated,
        }
        for rows, own, value, tokens in zip(
            scored.rows, attributes, values, scored.tokens, strict=True
        )
    ]
    return responses[0] if len(responses) == 1 else {"responses": responses}
