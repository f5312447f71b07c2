"""An ensemble measured on suites as one reward, beside its members; one of them is in memory at a
time. Shapes: M members, N responses."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from smorm.arrays import Floats
from smorm.data.reading import OnBad
from smorm.errors import ConfigError, DataError
from smorm.evaluation.result import Result
from smorm.evaluation.scored import ScoredSet, hash_of
from smorm.evaluation.suites import Suite, measure_suite, measure_values, score_suite
from smorm.files import fingerprint
from smorm.model.store import versions
from smorm.rewards.ensemble import Ensemble

_Table = dict[str, Floats]  # A member's rewards on the common scale, by record


def run_ensemble(
    ensemble: Ensemble, suites: Sequence[Suite], *, on_bad_record: OnBad = "stop"
) -> list[Result]:
    """Results of the ensemble over the records that all members could score, then those of each
    member by its own view: `differences` compares every member with the first."""
    for suite in suites:
        if suite.kind == "rated":
            problem = "measures attribute rows, and an ensemble has one reward only"
            remedy = "evaluate its members without --combine"
            raise ConfigError(f"suite {suite.name}: {problem}: {remedy}")
    results: list[Result] = []
    data: list[list[ScoredSet]] = [[] for _ in suites]
    tables: list[list[_Table]] = [[] for _ in suites]
    for member in ensemble.opened():
        for index, suite in enumerate(suites):
            scored_set = score_suite(member.reward, suite, on_bad_record=on_bad_record)
            results += measure_suite(
                member.reward, suite, scored_set, [member.requested], name=member.name
            )
            values = [member.values(scored) for scored in scored_set.scored]
            tables[index].append(dict(zip(scored_set.keys, values, strict=True)))
            data[index].append(scored_set)
        # Not kept while the next one is loaded.
        del member
    combined = []
    for suite, sets, columns in zip(suites, data, tables, strict=True):
        combined.append(_combine(ensemble, suite, sets, columns))
    return [*combined, *results]


def _combine(
    ensemble: Ensemble, suite: Suite, sets: Sequence[ScoredSet], tables: Sequence[_Table]
) -> Result:
    """The ensemble's result over the records that every member has."""
    first = sets[0]
    records, scored, values = [], [], []
    for record, result, key in zip(first.records, first.scored, first.keys, strict=True):
        if all(key in table for table in tables):
            records.append(record)
            scored.append(result)
            values.append(ensemble.rule.combine(np.stack([table[key] for table in tables])))
    if not records:
        raise DataError(f"suite {suite.name}: no record could be scored by all members")
    notes = ensemble.notes()
    if len({scored_set.data for scored_set in sets}) > 1:
        notes.append(f"{len(records)} records that all members could score.")
    for scored_set in sets:
        notes += scored_set.notes
    texts, notes = fingerprint([hash_of(record) for record in records]), list(dict.fromkeys(notes))
    data = replace(first, records=records, scored=scored, data=texts, notes=notes)
    provenance = {**ensemble.provenance, "data": texts, "versions": versions()}
    return measure_values(suite, data, values, ensemble.name, ensemble.rule.name, provenance)
