"""`smorm diagnose`, from a model and files to one result."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from smorm.data.reading import Source
from smorm.evaluation.result import Result
from smorm.model.store import versions
from smorm.model.views import View
from smorm.rewards.section import display_names
from smorm.scoring.reward_model import RewardModel
from smorm.theory import sections
from smorm.theory.advice import advise
from smorm.theory.features import Featured, Reading, featured, gold_of, head_of
from smorm.theory.lemma import lemma
from smorm.theory.matched import ComparisonData, compare, read_run, unmatched

KIND, SUITE = "diagnose", "theory"
Progress = Callable[[str], None]

_ONE_ROW = (
    "One row: alpha, c, epsilon, agreement within a prompt, gradient conflict and a view do not "
    "apply; preference statistics, probes, the weight and Lemma 1 do."
)
_RATINGS_ALONE = (
    "Trained on ratings alone: c, epsilon, agreement within a prompt, gradient conflict, Lemma 1 "
    "and a view do not apply; alpha, the spectrum, probes and the weight do."
)


@dataclass(frozen=True, slots=True)
class DiagnosisInputs:
    """What a model is measured on."""

    preference: Source  # pairs
    rated: Source | None = None  # rated responses
    ood: Mapping[str, Source] = field(default_factory=dict)  # sources of pairs or candidates
    gold: str | None = None  # any reward (`features.gold_of`), for the pairs
    compare: Sequence[str] = ()  # run folders of a matched comparison
    reading: Reading = field(default_factory=Reading)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The result, the advice at the end of its notes, and the suggested view, if any."""

    result: Result
    advice: tuple[str, ...]
    view: View | None


def diagnose(
    model: RewardModel, inputs: DiagnosisInputs, *, progress: Progress = lambda _: None
) -> Diagnosis:
    """Measure everything that applies to the model and that there is data for; DataError,
    ConfigError or ModelError where records, a gold or a folder are not usable."""
    # Runs first: a wrong folder is reported before minutes of computation.
    runs = [read_run(folder) for folder in inputs.compare]
    head, reading = head_of(model), inputs.reading
    trained = model.card.preference_trained
    has_two_rewards = trained and bool(head.names)
    diagnosis = sections.DiagnosisSection(notes=_scope_notes(model, inputs))
    progress("pairs")
    # A gold may read a field of the pairs.
    preference = replace(inputs.preference, keep_fields=inputs.gold is not None)
    sets = {"preference": featured(model, preference, "preference", reading)}
    pairs, view = sets["preference"], None
    ridge, inverse = sections.margins_of(head, pairs)
    diagnosis.merge(sections.preference_section(model, head, pairs, ridge))
    if has_two_rewards:
        progress("Theorem 1")
        diagnosis.merge(sections.effect_section(head, pairs, ridge, inverse))
        c = diagnosis.metrics["c/projection"].value
        for name, source in inputs.ood.items():
            progress(f"out of distribution: {name}")
            sets[f"ood/{name}"] = featured(model, source, None, reading)
            diagnosis.merge(sections.ood_section(head, name, sets[f"ood/{name}"], c))
    # Probes and the weight need no second reward, so ratings are read for every model.
    if inputs.rated is not None:
        progress("ratings")
        sets["rated"] = featured(model, inputs.rated, "rated", reading)
        rated, size = sets["rated"], reading.max_batch_tokens
        diagnosis.merge(sections.rated_section(model, head, pairs, rated, size))
    gold = None
    if inputs.gold is not None:
        progress("gold")
        gold = gold_of(inputs.gold, pairs.records, reading)
        if trained:
            rewards = (pairs.hidden @ head.preference).reshape(-1, 2)
            diagnosis.add("lemma", lemma(rewards, gold, pairs.prompts))
    if runs:
        # Each run's model is loaded in turn, beside the diagnosed one.
        progress("Theorem 2")
        data = ComparisonData(pairs.records, pairs.prompts, gold)
        if "rated" in sets:
            rated = sets["rated"]
            data = replace(data, rated=rated.records, rated_prompts=rated.prompts)
        diagnosis.notes += [f"not matched: {line}" for line in unmatched(runs)]
        diagnosis.add("theorem_2", compare(runs, data, reading))
    # Last, since learning weights may fail for lack of prompts, which is only a note.
    if has_two_rewards:
        progress("view")
        section, view = sections.view_section(model, pairs)
        diagnosis.merge(section)
    advice = (*advise(diagnosis.metrics, head.names), *diagnosis.advice)
    return Diagnosis(_result(model, inputs, diagnosis, sets, advice), advice, view)


def _scope_notes(model: RewardModel, inputs: DiagnosisInputs) -> list[str]:
    """What does not apply to a model without one of the two rewards."""
    notes = []
    if not model.attributes:
        notes.append(_ONE_ROW)
    elif not model.card.preference_trained:
        notes.append(_RATINGS_ALONE)
    if notes and inputs.ood:
        notes.append("The out-of-distribution files were not read: no second reward.")
    return notes


def _result(
    model: RewardModel, inputs: DiagnosisInputs, diagnosis: sections.DiagnosisSection,
    sets: Mapping[str, Featured], advice: Sequence[str],
) -> Result:  # fmt: skip
    notes = []
    for name, features in sets.items():
        notes += [f"{name}: {line}" for line in features.census.lines()]
    provenance: dict[str, Any] = {
        "model": dict(model.card.hashes),
        "renderer": model.renderer.fingerprint,
        "data": {name: features.data for name, features in sets.items()},
        "layout": model.network.layout,
        "versions": versions(),
    }
    if inputs.gold is not None:
        provenance["gold"] = Path(inputs.gold).name
    return Result(
        KIND, SUITE, display_names([model.name])[0], "rows", diagnosis.metrics,
        fingerprint=provenance, notes=(*notes, *diagnosis.notes, *advice),
    )  # fmt: skip
