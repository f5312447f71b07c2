"""Sections of a diagnosis: pairs, Theorem 1, out of distribution, Lemma 1, the view, ratings.
Shapes: `P` pairs, `N` responses, `R` rated responses, `K` attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from smorm.arrays import Floats
from smorm.data.scaling import apply_scales, attribute_names, rating_matrix
from smorm.errors import DataError
from smorm.evaluation.correlation import spearman_metric
from smorm.evaluation.metrics import Metric, mean_metric, pair_outcomes, share_metric
from smorm.files import read_json
from smorm.model.store import resolve
from smorm.model.views import View
from smorm.scoring.reward_model import RewardModel
from smorm.theory import implicit_effect as effect
from smorm.theory.advice import sentence
from smorm.theory.features import Featured, Head, own_rows
from smorm.theory.gradients import TermData, conflict
from smorm.theory.intervals import within_prompt
from smorm.theory.probes import probe
from smorm.theory.suggest import Counts, suggest_view, weights


@dataclass(slots=True)
class DiagnosisSection:
    """Metrics by name, notes of what was counted or left out, and advice of this section."""

    metrics: dict[str, Metric] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)

    def add(self, prefix: str, metrics: Mapping[str, Metric]) -> None:
        """Add metrics under `prefix/`."""
        self.metrics |= {f"{prefix}/{name}": metric for name, metric in metrics.items()}

    def merge(self, section: DiagnosisSection) -> None:
        """Add all of another section."""
        self.metrics |= section.metrics
        self.notes += section.notes
        self.advice += section.advice


def margins_of(head: Head, pairs: Featured) -> list[effect.PairMargins]:
    """Margins of the pairs, with a ridge and then with the pseudo-inverse."""
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


def preference_section(
    model: RewardModel, head: Head, pairs: Featured, ridge: effect.PairMargins
) -> DiagnosisSection:
    """Pair statistics, the spectrum of Sigma_S, and alpha."""
    deltas, solved = pairs.deltas(), ridge.solved
    prompts, section = pairs.prompts, DiagnosisSection()
    spectrum = {
        "dimensions": float(solved.dimensions),
        "rank": float(solved.rank),
        "effective_rank": solved.effective_rank,
        "condition": solved.condition(),
        "ridge": solved.ridge,
        "condition_with_ridge": solved.condition(solved.ridge),
    }
    for name, number in spectrum.items():
        section.metrics[f"spectrum/{name}"] = Metric(number, len(deltas))
    if model.card.preference_trained:
        outcomes, ties = pair_outcomes(ridge.preference, np.zeros(len(deltas)))
        section.metrics["preference/accuracy"] = share_metric(outcomes, prompts)
        section.metrics["preference/margin"] = mean_metric(ridge.preference, prompts)
        section.add("preference", effect.strength(ridge, prompts))
        section.notes.append(f"preference: {ties} of {len(deltas)} pairs are tied and count half.")
    if head.names:
        # On the attributes' own scales: alpha is in units of ratings.
        section.metrics |= effect.alphas(deltas @ head.attributes.T, head.names, prompts)
    return section


def effect_section(
    head: Head, pairs: Featured, ridge: effect.PairMargins, inverse: effect.PairMargins
) -> DiagnosisSection:
    """Theorem 1: c in four ways, the inequality with each, agreement within a prompt."""
    deltas, prompts, section = pairs.deltas(), pairs.prompts, DiagnosisSection()
    responses = responses_of(head, pairs)
    r_s, r_m = responses.preference, responses.mean_attribute
    constants = {
        "formula": effect.formula(ridge, prompts),
        "formula_pseudo_inverse": effect.formula(inverse, prompts),
        "projection": effect.projection(ridge, prompts),
        "regression": effect.regression(r_s, r_m, responses.prompts),
    }
    # The inequality holds with any c: each way to compute c is judged by what it then says.
    section.add("c", constants)
    for name, c in constants.items():
        section.add(f"epsilon/{name}", effect.bound(responses, c, deltas, prompts))
    section.add("within_prompt", within_prompt(r_s, r_m, responses.prompts))
    return section


def responses_of(head: Head, featured: Featured) -> effect.Responses:
    """Distinct responses: a response in several pairs counts once."""
    distinct = featured.distinct()
    prompts = np.array(featured.response_prompts)[distinct].tolist()
    return effect.Responses(featured.hidden[distinct], head.preference, head.mean, prompts)


def ood_section(head: Head, name: str, featured: Featured, c: float) -> DiagnosisSection:
    """The relation of the two rewards on other responses, under prompts that have several."""
    responses, section = responses_of(head, featured), DiagnosisSection()
    # A response alone under its prompt is centred to 0 and says nothing about agreement.
    shared = effect.in_shared_prompt(responses.prompts, len(responses.hidden))
    if not shared.any():
        raise DataError(f"--ood {name}: no prompt has two different responses to compare")
    prompts = np.array(responses.prompts)[shared].tolist()
    r_s, r_m = responses.preference[shared], responses.mean_attribute[shared]
    section.add(f"ood/{name}", within_prompt(r_s, r_m, prompts))
    shortfall = float(np.maximum(c * r_s - r_m, 0.0).max())
    section.metrics[f"ood/{name}/largest_shortfall"] = Metric(shortfall, len(r_s))
    return section


def view_section(model: RewardModel, pairs: Featured) -> tuple[DiagnosisSection, View | None]:
    """The view that the pairs support; None where there are too few."""
    default, section = model.view(), DiagnosisSection()
    rows = own_rows(model, pairs.hidden)
    try:
        suggested = suggest_view(rows, pairs.prompts, model.attributes, default)
    except DataError as error:
        section.notes.append(f"no view suggested: {error}")
        return section, None
    section.add("view", suggested.metrics)
    gain = suggested.metrics[f"accuracy/learned − {default.name}"]
    key = "view/learned" if suggested.decided else "view/default"
    section.advice.append(sentence(key, default=default.name, gain=gain))
    return section, suggested.view


def rated_section(
    model: RewardModel, head: Head, pairs: Featured, rated: Featured, max_batch_tokens: int
) -> DiagnosisSection:
    """Probes, the suggested weight, gradient conflict."""
    section = DiagnosisSection()
    names = attribute_names(rated.records)
    # Ratings of other attributes than the model's rows still allow probes, and only these.
    has_rows = not set(names).isdisjoint(head.names)
    if has_rows:
        names = list(head.names)
    elif head.names:
        section.notes.append(
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
    section.metrics |= probed.metrics
    for name, reason in probed.left_out.items():
        section.notes.append(f"probe of {name}: left out, {reason}.")
    trained = model.card.preference_trained
    mean = ratings.mean(axis=1)
    if trained and np.isfinite(mean).sum() >= 2:
        scores = rated.hidden @ head.preference
        correlation = spearman_metric(scores, mean, rated.prompts)
        section.metrics["preference/spearman_with_mean_rating"] = correlation
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
        section.add("weight", metrics)
        values = {"mean": metrics["mean"], "sum": metrics["sum"].value, **asdict(counts)}
        section.advice.append(sentence("weight", **values))
    if trained and has_rows:
        _add_gradients(section, model, pairs, rated, ratings, max_batch_tokens)
    return section


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
    record = resolve(model.name).parent / "data.json"
    if record.is_file():
        values = read_json(record)
        if isinstance(values, dict) and values.get("pairs") and values.get("rated"):
            return Counts(int(values["pairs"]), int(values["rated"]), "the run's data.json")
    return Counts(len(pairs.records), len(rated.records), "as in the files given here")


def _add_gradients(
    section: DiagnosisSection, model: RewardModel, pairs: Featured, rated: Featured,
    ratings: Floats, max_batch_tokens: int,
) -> None:  # fmt: skip
    targets = apply_scales(model.card.scales, ratings)
    # Unrated responses have no regression gradient and would only dilute a batch.
    known = np.flatnonzero(np.isfinite(targets).any(axis=1)).tolist()
    units = [rated.units[index] for index in known]
    prompts = np.array(rated.prompts)[known].tolist()
    data = TermData(pairs.units, pairs.prompts, units, prompts, targets[known])
    # Too few prompts for two batches is no error of the data: the rest is still measured.
    try:
        section.add("gradient", conflict(model.network, data, max_batch_tokens))
    except DataError as error:
        section.notes.append(f"not measured: {error}")
