"""An ensemble measured on suites as one model, beside its members; one of them is in memory at a
time. Also: members' standards from a reference file.

Shapes: M members, N responses.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from smorm.arrays import Floats
from smorm.data.census import Census
from smorm.data.reading import OnBad, Source, read_records
from smorm.errors import ConfigError, DataError
from smorm.evaluation.result import Result
from smorm.evaluation.scored import (
    ScoredSet,
    hash_of,
    score_records,
)
from smorm.evaluation.suite import Suite
from smorm.evaluation.suites import measure_suite, measure_values, score_suite
from smorm.files import fingerprint
from smorm.model.store import versions
from smorm.model.views import apply_view
from smorm.scoring.ensemble import (
    OWN_SCALE,
    Rule,
    Standard,
    parameters_of,
    standard_of,
)
from smorm.scoring.ensemble_jobs import (
    MemberFacts,
    MemberSpec,
    Standardise,
    cost_of,
    refuse_specs,
)
from smorm.scoring.reward_model import RewardModel
from smorm.scoring.scorer import DEFAULT_BATCH_TOKENS, Scorer
from smorm.text.limits import Overlong

log = logging.getLogger(__name__)


def standard_from(
    source: Source,
    rule: Rule,
    *,
    overlong: Overlong | None = None,
    on_bad_record: OnBad = "stop",
    max_batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> Standardise:
    """What gives a member's standard over the responses of `source` (`standard_of`).

    Raises (when it is called):
        DataError: records that are not usable, fewer than 10 prompts, or a constant reward.
    """

    def standard(model: RewardModel, view: Any, name: str) -> Standard:
        census = Census()
        records = list(read_records(source, None, census, on_bad_record))
        policy: Any = overlong or model.card.overlong
        scorer = Scorer(model.network, model.renderer, policy, max_batch_tokens)
        data = score_records(scorer, records, census, on_bad_record)
        for line in data.notes:
            log.info("reference, %s: %s", name, line)
        values = _values(model, view, data)
        prompts = [key for key, one in zip(data.prompts, values, strict=True) for _ in one]
        return standard_of(np.concatenate(values), prompts, name, rule)

    return standard


@dataclass(frozen=True, slots=True)
class _Part:
    """One member's part in a suite: its records and its rewards of them, on the common scale."""

    data: ScoredSet
    values: list[Floats]


def run_ensemble(
    specs: Sequence[MemberSpec],
    rule: Rule,
    suites: Sequence[Suite],
    *,
    device: str = "cpu",
    standardise: Standardise | None = None,
    **options: Any,
) -> list[Result]:
    """Results of the ensemble, then those of each member by its own view.

    The ensemble stands first, so that `differences` compares every member with it. It is measured
    over the records that all members could score.

    Args:
        standardise: gives a member's standard once it is loaded; by default none is taken.
        options: as for `score_suite`.

    Raises:
        ConfigError: no member, two of one name, a view that a member does not have, or a `rated`
            suite.
        ModelError: a folder that is not there or not a model.
        DataError: records that are not usable, or none that all members can score.
    """
    refuse_specs(specs)
    rated = [suite.name for suite in suites if suite.kind == "rated"]
    if rated:
        raise ConfigError(
            f"suite {rated[0]}: measures attribute rows, and an ensemble has one reward only: "
            "evaluate its members without --combine"
        )
    facts: list[MemberFacts] = []
    parts: list[list[_Part]] = []
    results: list[Result] = []
    for spec in specs:
        fact, own, measured = _run_member(spec, suites, device, standardise, options)
        facts.append(fact)
        parts.append(own)
        results += measured
    together = [
        _combine(suite, rule, facts, [own[at] for own in parts]) for at, suite in enumerate(suites)
    ]
    return [*together, *results]


def _run_member(
    spec: MemberSpec,
    suites: Sequence[Suite],
    device: str,
    standardise: Standardise | None,
    options: dict[str, Any],
) -> tuple[MemberFacts, list[_Part], list[Result]]:
    """A member's facts, its part in each suite and its own results."""
    model = RewardModel.load(spec.path, device=device)
    view = model.view(spec.view)
    standard = OWN_SCALE if standardise is None else standardise(model, spec.view, spec.name)
    parts, results = [], []
    for suite in suites:
        data = score_suite(model, suite, **options)
        results += measure_suite(model, suite, data, [spec.view], name=spec.name)
        values = [standard.apply(one) for one in _values(model, spec.view, data)]
        parts.append(_Part(data, values))
    hashes = dict(model.card.hashes)
    return MemberFacts(spec.name, view.name, parameters_of(model), standard, hashes), parts, results


def _values(model: RewardModel, view: Any, data: ScoredSet) -> list[Floats]:
    chosen = model.view(view)
    return [apply_view(chosen, one.rows, model.card.scales) for one in data.scored]


def _combine(
    suite: Suite, rule: Rule, members: Sequence[MemberFacts], parts: Sequence[_Part]
) -> Result:
    """The ensemble's result over the records that every member has."""
    tables = [dict(zip(part.data.keys, part.values, strict=True)) for part in parts]
    first, keys = parts[0].data, parts[0].data.keys
    kept = [at for at, key in enumerate(keys) if all(key in table for table in tables)]
    if not kept:
        raise DataError(f"suite {suite.name}: no record could be scored by all members")
    values = [rule.combine(np.stack([table[keys[at]] for table in tables])) for at in kept]
    records = [first.records[at] for at in kept]
    notes = dict.fromkeys([
        *_notes(rule, members),
        *([f"{len(kept)} records that all members could score."] if _differ(parts) else []),
        *(note for part in parts for note in part.data.notes),
    ])  # fmt: skip
    data = replace(
        first,
        records=records,
        scored=[first.scored[at] for at in kept],
        data=fingerprint([hash_of(record) for record in records]),
        notes=list(notes),
    )
    marks = {
        "members": [member.as_dict() for member in members],
        "rule": {"combine": rule.how, "kappa": rule.kappa},
        "data": data.data,
        "versions": versions(),
    }
    return measure_values(suite, data, values, _title(members), rule.name, marks)


def _differ(parts: Sequence[_Part]) -> bool:
    return len({part.data.data for part in parts}) > 1


def _title(members: Sequence[MemberFacts]) -> str:
    names = [member.name for member in members]
    return f"ensemble ({', '.join(names)})" if len(names) < 4 else f"ensemble of {len(names)}"


def _notes(rule: Rule, members: Sequence[MemberFacts]) -> list[str]:
    """Of what the ensemble is, and what it costs."""
    what = {"mean": "mean", "min": "lowest", "uwo": f"mean less {rule.kappa:g} x variance"}
    told = ", ".join(f"{member.name} ({member.view})" for member in members)
    notes = [f"{_title(members)}: {what[rule.how]} of {told}. {cost_of(members)}."]
    for member in members:
        if member.standard != OWN_SCALE:
            centre, spread = member.standard.centre, member.standard.spread
            notes.append(f"{member.name}: standardised by mean {centre:.4g}, spread {spread:.4g}.")
    return notes
