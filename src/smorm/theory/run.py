"""`smorm diagnose`, from a model and files to one result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from smorm.data.reading import Source
from smorm.evaluation.metrics import Floats
from smorm.evaluation.result import Result
from smorm.model.store import versions
from smorm.model.views import View
from smorm.rewards.section import display_names
from smorm.scoring.reward_model import RewardModel
from smorm.theory.advice import advise
from smorm.theory.features import Featured, Reading, featured, head_of
from smorm.theory.gold import gold_of
from smorm.theory.matched import HeldOut, Run, compare, read_run, unmatched
from smorm.theory.paired_sections import (
    differences_of,
    effect_section,
    lemma_section,
    ood_section,
    preference_section,
    view_section,
)
from smorm.theory.rated_section import rated_section
from smorm.theory.section import DiagnosisSection

KIND, SUITE = "diagnose", "theory"
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DiagnosisInputs:
    """What a model is measured on.

    Attributes:
        preference: pairs.
        rated: rated responses.
        ood: name to a source of pairs or candidates.
        gold: any reward (`smorm.theory.gold`), for the pairs.
        compare: run folders of a matched comparison.
    """

    preference: Source
    rated: Source | None = None
    ood: Mapping[str, Source] = field(default_factory=dict)
    gold: str | None = None
    compare: Sequence[str] = ()
    reading: Reading = field(default_factory=Reading)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The result, the advice that ends its notes, and the view suggested, if any."""

    result: Result
    advice: tuple[str, ...]
    view: View | None


def diagnose(
    model: RewardModel, question: DiagnosisInputs, *, tell: Tell = lambda _: None
) -> Diagnosis:
    """Measure everything that applies to the model and that there is data for.

    Args:
        tell: gets a few words as each part begins.

    Raises:
        DataError: records or a gold that are not usable.
        ConfigError: a folder to compare that is no run.
        ModelError: a folder that is no reward model.
    """
    runs = [read_run(folder) for folder in question.compare]
    head, reading = head_of(model), question.reading
    trained = model.card.preference_trained
    both = trained and bool(head.names)
    found = DiagnosisSection(notes=_what_applies(model))
    if question.ood and not both:
        found.notes.append("The files out of distribution were not read: they need both rewards.")
    tell("pairs")
    sets = {"preference": featured(model, _with_fields(question), "preference", reading)}
    pairs, view = sets["preference"], None
    differences = differences_of(pairs)
    found.merge(preference_section(model, head, pairs, differences))
    if both:
        tell("Theorem 1")
        found.merge(effect_section(head, pairs, differences))
    for name, source in question.ood.items() if both else ():
        tell(f"out of distribution: {name}")
        sets[f"ood/{name}"] = featured(model, source, None, reading)
        c = found.metrics["c/projection"].value
        found.merge(ood_section(head, name, sets[f"ood/{name}"], c))
    if question.rated is not None:
        tell("ratings")
        sets["rated"] = featured(model, question.rated, "rated", reading)
        found.merge(rated_section(model, head, pairs, sets["rated"], reading.max_batch_tokens))
    gold = _gold(question, pairs, tell)
    if gold is not None and trained:
        found.merge(lemma_section(head, pairs, gold))
    if runs:
        tell("Theorem 2")
        found.merge(_compared(runs, pairs, sets.get("rated"), gold, reading))
    if both:
        tell("view")
        section, view = view_section(model, pairs)
        found.merge(section)
    advice = (*advise(found.metrics, head.names), *found.said)
    return Diagnosis(_result(model, question, found, sets, advice), advice, view)


def _with_fields(question: DiagnosisInputs) -> Source:
    """The pairs, with their fields where a gold may read one."""
    return replace(question.preference, keep_fields=question.gold is not None)


def _gold(question: DiagnosisInputs, pairs: Featured, tell: Tell) -> Floats | None:
    if question.gold is None:
        return None
    tell("gold")
    return gold_of(question.gold, pairs.records, question.reading)


def _compared(
    runs: Sequence[Run],
    pairs: Featured,
    rated: Featured | None,
    gold: Floats | None,
    reading: Reading,
) -> DiagnosisSection:
    responses = (rated.records, rated.prompts) if rated else ((), ())
    held = HeldOut(pairs.records, pairs.prompts, gold, *responses)
    section = DiagnosisSection(notes=[f"not matched: {line}" for line in unmatched(runs)])
    section.add("theorem_2", compare(runs, held, reading))
    return section


def _what_applies(model: RewardModel) -> list[str]:
    if not model.attributes:
        return [
            "One row: alpha, c, epsilon, agreement within a prompt, gradient conflict and a view "
            "do not apply; preference statistics, probes, the weight and Lemma 1 do."
        ]
    if not model.card.preference_trained:
        return [
            "Trained on ratings alone: c, epsilon, agreement within a prompt, gradient conflict, "
            "Lemma 1 and a view do not apply; alpha, the spectrum, probes and the weight do."
        ]
    return []


def _result(
    model: RewardModel,
    question: DiagnosisInputs,
    found: DiagnosisSection,
    sets: Mapping[str, Featured],
    advice: Sequence[str],
) -> Result:
    counted = [f"{name}: {line}" for name, one in sets.items() for line in one.census.lines()]
    marks: dict[str, Any] = {
        "model": dict(model.card.hashes),
        "renderer": model.renderer.fingerprint,
        "data": {name: one.data for name, one in sets.items()},
        "layout": model.network.layout,
        "versions": versions(),
    }
    if question.gold is not None:
        marks["gold"] = Path(question.gold).name
    return Result(
        KIND, SUITE, display_names([model.name])[0], "rows", found.metrics,
        fingerprint=marks, notes=(*counted, *found.notes, *advice),
    )  # fmt: skip
