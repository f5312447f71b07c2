"""`smorm diagnose`, from a model and files to one result, section by section.
Shapes: `P` pairs, `R` rated responses, `K` attributes."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from smorm.arrays import Floats
from smorm.data.reading import Source
from smorm.data.scaling import apply_scales, attribute_names, rating_matrix
from smorm.errors import DataError
from smorm.evaluation.alarm_measures import measure_alarms
from smorm.evaluation.alarms import Alarm
from smorm.evaluation.correlation import spearman_metric
from smorm.evaluation.metrics import Metric, mean_metric, pair_outcomes, share_metric
from smorm.evaluation.result import Result
from smorm.model.run_folder import read_data
from smorm.model.store import resolve, versions
from smorm.model.views import View
from smorm.rewards.section import display_names
from smorm.scoring.reward_model import RewardModel
from smorm.theory import implicit_effect as effect
from smorm.theory.advice import Counts, advise, sentence, suggest_view, weights
from smorm.theory.alarms import alarm_scores
from smorm.theory.features import Featured, Head, Reading, featured, gold_of, head_of, own_rows
from smorm.theory.gradients import TermData, conflict
from smorm.theory.intervals import within_prompt
from smorm.theory.lemma import lemma
from smorm.theory.matched import ComparisonData, compare, read_run, unmatched
from smorm.theory.probes import probe

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


@dataclass(slots=True)
class Measured:
    """Metrics by name, notes of what was counted or left out, and advice beside `advise`."""

    metrics: dict[str, Metric] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)

    def add(self, prefix: str, metrics: Mapping[str, Metric]) -> None:
        """Add metrics under `prefix/`."""
        self.metrics |= {f"{prefix}/{name}": metric for name, metric in metrics.items()}


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
    diagnosis = Measured(notes=_scope_notes(model, inputs))
    progress("pairs")
    # A gold may read a field of the pairs.
    preference = replace(inputs.preference, keep_fields=inputs.gold is not None)
    sets = {"preference": featured(model, preference, "preference", reading)}
    pairs, view = sets["preference"], None
    ridge, inverse = _margins_of(head, pairs)
    _measure_preference(diagnosis, model, head, pairs, ridge)
    if has_two_rewards:
        progress("Theorem 1")
        _measure_effect(diagnosis, head, pairs, ridge, inverse)
        c = diagnosis.metrics["c/projection"].value
        for name, source in inputs.ood.items():
            progress(f"out of distribution: {name}")
            sets[f"ood/{name}"] = featured(model, source, None, reading)
            _measure_ood(diagnosis, head, name, sets[f"ood/{name}"], c)
    # Probes and the weight need no second reward, so ratings are read for every model.
    if inputs.rated is not None:
        progress("ratings")
        sets["rated"] = featured(model, inputs.rated, "rated", reading)
        _measure_rated(diagnosis, model, head, pairs, sets["rated"], reading)
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
        data = ComparisonData(pairs, gold, sets.get("rated"))
        diagnosis.notes += [f"not matched: {line}" for line in unmatched(runs)]
        diagnosis.add("theorem_2", compare(runs, data, reading))
    if trained:
        progress("alarms")
        compared = {name: each for name, each in sets.items() if name != "rated"}
        _measure_alarms(diagnosis, model, compared, reading)
    # Last, since learning weights may fail for lack of prompts, which is only a note.
    if has_two_rewards:
        progress("view")
        view = _measure_view(diagnosis, model, pairs)
    advice = (*advise(diagnosis.metrics, head.names), *diagnosis.advice)
    return Diagnosis(_result(model, inputs, diagnosis, sets, advice), advice, view)


def _measure_alarms(
    diagnosis: Measured, model: RewardModel, sets: Mapping[str, Featured], reading: Reading
) -> None:
    """Alarms of the preference row on the pairs, and beside them on each other set."""
    scores = {name: alarm_scores(model, each, reading) for name, each in sets.items()}
    # Where several sets lack the same, it is said once.
    missing: dict[str, None] = {}
    for name, of_set in scores.items():
        alarms = measure_alarms(of_set, scores["preference"], name)
        diagnosis.alarms += alarms.measured
        if alarms.note:
            missing[alarms.note] = None
    diagnosis.notes += missing


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
    model: RewardModel,
    inputs: DiagnosisInputs,
    diagnosis: Measured,
    sets: Mapping[str, Featured],
    advice: Sequence[str],
) -> Result:
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
        "diagnose", "theory", display_names([model.name])[0], "rows", diagnosis.metrics,
        fingerprint=provenance, notes=(*notes, *diagnosis.notes, *advice),
        alarms=tuple(diagnosis.alarms),
    )  # fmt: skip


def _margins_of(head: Head, pairs: Featured) -> list[effect.PairMargins]:
    deltas = pairs.deltas()
    if not deltas.any():
        raise DataError("preference: both sides of every pair have the same hidden state")
    # Without attribute rows only the preference statistics are used.
    preference, mean = deltas @ head.preference, np.zeros(len(deltas))
    if head.names:
        mean = deltas @ head.mean
    return [
        effect.PairMargins(preference, mean, deltas @ solved.direction, solved)
        for solved in effect.solve(deltas, effect.RIDGE, 0.0)
    ]


def _measure_preference(
    diagnosis: Measured, model: RewardModel, head: Head, pairs: Featured, ridge: effect.PairMargins
) -> None:
    deltas, solved, prompts = pairs.deltas(), ridge.solved, pairs.prompts
    spectrum = {
        "dimensions": float(solved.dimensions),
        "rank": float(solved.rank),
        "effective_rank": solved.effective_rank,
        "condition": solved.condition(),
        "ridge": solved.ridge,
        "condition_with_ridge": solved.condition(solved.ridge),
    }
    for name, number in spectrum.items():
        diagnosis.metrics[f"spectrum/{name}"] = Metric(number, len(deltas))
    if model.card.preference_trained:
        outcomes, ties = pair_outcomes(ridge.preference, np.zeros(len(deltas)))
        diagnosis.metrics["preference/accuracy"] = share_metric(outcomes, prompts)
        diagnosis.metrics["preference/margin"] = mean_metric(ridge.preference, prompts)
        diagnosis.add("preference", effect.strength(ridge, prompts))
        diagnosis.notes.append(
            f"preference: {ties} of {len(deltas)} pairs are tied and count half."
        )
    if head.names:
        # On the attributes' own scales: alpha is in units of ratings.
        diagnosis.metrics |= effect.alphas(deltas @ head.attributes.T, head.names, prompts)


def _measure_effect(
    diagnosis: Measured,
    head: Head,
    pairs: Featured,
    ridge: effect.PairMargins,
    inverse: effect.PairMargins,
) -> None:
    """Theorem 1: c in four ways, the inequality with each, agreement within a prompt."""
    deltas, prompts, responses = pairs.deltas(), pairs.prompts, _responses_of(head, pairs)
    r_s, r_m = responses.preference, responses.mean_attribute
    constants = {
        "formula": effect.formula(ridge, prompts),
        "formula_pseudo_inverse": effect.formula(inverse, prompts),
        "projection": effect.projection(ridge, prompts),
        "regression": effect.regression(r_s, r_m, responses.prompts),
    }
    # The inequality holds with any c: each way to compute c is judged by what it then says.
    diagnosis.add("c", constants)
    for name, c in constants.items():
        diagnosis.add(f"epsilon/{name}", effect.bound(responses, c, deltas, prompts))
    diagnosis.add("within_prompt", within_prompt(r_s, r_m, responses.prompts))


def _responses_of(head: Head, featured: Featured) -> effect.Responses:
    distinct = featured.distinct()
    prompts = np.array(featured.response_prompts)[distinct].tolist()
    return effect.Responses(featured.hidden[distinct], head.preference, head.mean, prompts)


def _measure_ood(diagnosis: Measured, head: Head, name: str, featured: Featured, c: float) -> None:
    """The relation of the two rewards on other responses, under prompts that have several."""
    responses = _responses_of(head, featured)
    # A response alone under its prompt is centred to 0 and says nothing about agreement.
    sizes = Counter(responses.prompts)
    shared = np.array([sizes[prompt] > 1 for prompt in responses.prompts])
    if not shared.any():
        raise DataError(f"--ood {name}: no prompt has two different responses to compare")
    prompts = np.array(responses.prompts)[shared].tolist()
    r_s, r_m = responses.preference[shared], responses.mean_attribute[shared]
    diagnosis.add(f"ood/{name}", within_prompt(r_s, r_m, prompts))
    shortfall = float(np.maximum(c * r_s - r_m, 0.0).max())
    diagnosis.metrics[f"ood/{name}/largest_shortfall"] = Metric(shortfall, len(r_s))


def _measure_view(diagnosis: Measured, model: RewardModel, pairs: Featured) -> View | None:
    """The view that the pairs support; None where there are too few."""
    default = model.view()
    rows = own_rows(model, pairs.hidden)
    try:
        suggested = suggest_view(rows, pairs.prompts, model.attributes, default)
    except DataError as error:
        diagnosis.notes.append(f"no view suggested: {error}")
        return None
    diagnosis.add("view", suggested.metrics)
    gain = suggested.metrics[f"accuracy/learned − {default.name}"]
    key = "view/learned" if suggested.decided else "view/default"
    diagnosis.advice.append(sentence(key, default=default.name, gain=gain))
    return suggested.view


def _measure_rated(
    diagnosis: Measured,
    model: RewardModel,
    head: Head,
    pairs: Featured,
    rated: Featured,
    reading: Reading,
) -> None:
    names = attribute_names(rated.records)
    # Ratings of other attributes than the model's rows still allow probes, and only these.
    has_rows = not set(names).isdisjoint(head.names)
    if has_rows:
        names = list(head.names)
    elif head.names:
        diagnosis.notes.append(
            f"rated: the model's rows {', '.join(head.names)} are not rated: probes of "
            f"{', '.join(names)} only, and no gradient conflict."
        )
    ratings = rating_matrix(rated.records, names)
    rows = own_rows(model, rated.hidden)[:, 1:]
    predictions: dict[str, Floats] = {}
    if has_rows:
        predictions = dict(zip(names, rows.T, strict=True))
        if len(names) > 1:
            predictions["mean"] = rows.mean(axis=1)
    probed = probe(rated.hidden, ratings, names, rated.prompts, predictions)
    diagnosis.metrics |= probed.metrics
    for name, reason in probed.left_out.items():
        diagnosis.notes.append(f"probe of {name}: left out, {reason}.")
    trained = model.card.preference_trained
    mean = ratings.mean(axis=1)
    if trained and np.isfinite(mean).sum() >= 2:
        scores = rated.hidden @ head.preference
        correlation = spearman_metric(scores, mean, rated.prompts)
        diagnosis.metrics["preference/spearman_with_mean_rating"] = correlation
    # Residuals of the rows where the model has them; else a probe stands for the missing head.
    if has_rows:
        scales = model.card.scales
        errors = apply_scales(scales, rows) - apply_scales(scales, ratings)
        # Attributes that nobody rates here have no residual.
        errors = errors[:, np.isfinite(errors).any(axis=0)]
    else:
        errors = _probe_errors(names, ratings, probed.predicted)
    if errors.shape[1]:
        counts = _counts(model, pairs, rated)
        metrics = weights(errors**2, counts, rated.prompts)
        diagnosis.add("weight", metrics)
        values = {"mean": metrics["mean"], "sum": metrics["sum"].value, **asdict(counts)}
        diagnosis.advice.append(sentence("weight", **values))
    if trained and has_rows:
        _add_gradients(diagnosis, model, pairs, rated, ratings, reading.max_batch_tokens)


def _probe_errors(names: Sequence[str], ratings: Floats, predicted: Mapping[str, Floats]) -> Floats:
    """Errors of probes [R, K'], in units of each attribute's deviation, as in training."""
    columns = [np.zeros((len(ratings), 0))]
    for name, truth in zip(names, ratings.T, strict=True):
        if name in predicted:
            columns.append((predicted[name] - truth)[:, None] / np.nanstd(truth))
    return np.hstack(columns)


def _counts(model: RewardModel, pairs: Featured, rated: Featured) -> Counts:
    """The counts of the run's `data.json`, where there is one; else those of the files here."""
    # The weight depends on the sizes of the training sets, which held-out files do not show.
    recorded = read_data(resolve(model.name).parent)
    if recorded.pairs and recorded.rated:
        return Counts(recorded.pairs, recorded.rated, "the run's data.json")
    return Counts(len(pairs.records), len(rated.records), "as in the files given here")


def _add_gradients(
    diagnosis: Measured,
    model: RewardModel,
    pairs: Featured,
    rated: Featured,
    ratings: Floats,
    max_batch_tokens: int,
) -> None:
    targets = apply_scales(model.card.scales, ratings)
    # Unrated responses have no regression gradient and would only dilute a batch.
    known = np.flatnonzero(np.isfinite(targets).any(axis=1)).tolist()
    units = [rated.units[index] for index in known]
    prompts = np.array(rated.prompts)[known].tolist()
    data = TermData(pairs.units, pairs.prompts, units, prompts, targets[known])
    # Too few prompts for two batches is no error of the data: the rest is still measured.
    try:
        diagnosis.add("gradient", conflict(model.network, data, max_batch_tokens))
    except DataError as error:
        diagnosis.notes.append(f"not measured: {error}")
