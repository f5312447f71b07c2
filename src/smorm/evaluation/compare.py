"""Paired differences between models, or between views of one, over the same items."""

from __future__ import annotations

from collections.abc import Sequence

from smorm.evaluation.result import Result

KIND = "difference"


def differences(results: Sequence[Result]) -> list[Result]:
    """For each suite what every model and view has over its baseline, item by item.

    A model is compared with the first model under the same view; the first model's further views
    with its first one. A metric is the model's less the baseline's; its interval resamples prompts
    for both at once, which is far narrower than the two intervals side by side.

    Raises:
        DataError: two results of a suite have no item in common.
    """
    compared = []
    for suite in dict.fromkeys(result.suite for result in results):
        members = [each for each in results if each.suite == suite and each.outcomes is not None]
        for result in members:
            base = _baseline(result, members)
            if base is not None:
                compared.append(_difference(result, base))
    return compared


def _baseline(result: Result, members: Sequence[Result]) -> Result | None:
    first = members[0]
    # A second view of the baseline model is compared with its first one, not with itself.
    if result.model == first.model:
        return None if result is first or result.view == first.view else first
    for member in members:
        if member.model == first.model and member.view == result.view:
            return member
    return first


def _difference(result: Result, base: Result) -> Result:
    assert result.outcomes is not None and base.outcomes is not None  # noqa: PT018
    metrics = result.outcomes.difference(base.outcomes)
    model, view = result.model, result.view
    if model != base.model:
        model = f"{model} − {base.model}"
    if view != base.view:
        view = f"{view} − {base.view}"
    notes = ["Differences are paired item by item; an interval without 0 is one that holds."]
    # Models may leave out different records, the ones too long for each.
    if result.fingerprint.get("data") != base.fingerprint.get("data"):
        count = max(metric.n for metric in metrics.values())
        notes.append(f"The two scored different records: the common ones count (n {count}).")
    provenance = {"of": dict(result.fingerprint), "less": dict(base.fingerprint)}
    return Result(
        KIND, result.suite, model, view, metrics, fingerprint=provenance, notes=tuple(notes)
    )
