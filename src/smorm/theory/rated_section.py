"""The section on rated responses: probes, the suggested weight, gradient conflict.

Shapes: `R` rated responses, `K` attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from smorm.data.scaling import apply_scales, attribute_names, rating_matrix
from smorm.errors import DataError
from smorm.evaluation.correlation import spearman_metric
from smorm.evaluation.metrics import Floats, Metric
from smorm.files import read_json
from smorm.model.store import resolve
from smorm.scoring.reward_model import RewardModel
from smorm.theory.features import Featured, Head, own_rows
from smorm.theory.gradients import TermData, conflict
from smorm.theory.probes import probe
from smorm.theory.section import DiagnosisSection
from smorm.theory.suggest import Counts, weights


def rated_section(
    model: RewardModel, head: Head, pairs: Featured, rated: Featured, max_batch_tokens: int
) -> DiagnosisSection:
    """Everything that ratings allow to measure."""
    section = DiagnosisSection()
    present = attribute_names(rated.records)
    has_rows = any(name in present for name in head.names)
    names = list(head.names) if has_rows else present
    if head.names and not has_rows:
        section.notes.append(
            f"rated: nobody rates the model's rows {', '.join(head.names)}: probes of "
            f"{', '.join(present)} alone, and no gradient conflict."
        )
    ratings = rating_matrix(rated.records, names)
    rows = own_rows(model, rated.hidden)[:, 1:]
    own = dict(zip(head.names, rows.T, strict=True)) if has_rows else {}
    if len(own) > 1:
        own["mean"] = rows.mean(axis=1)
    probed = probe(rated.hidden, ratings, names, rated.prompts, own)
    section.metrics |= probed.metrics
    section.notes += [f"probe of {name}: left out, {why}." for name, why in probed.left_out.items()]
    if model.card.preference_trained:
        section.metrics |= _preference(head, rated, ratings)
    if has_rows:
        residuals = _row_residuals(model, ratings, rows)
    else:
        residuals = _probe_residuals(names, ratings, probed.predicted)
    section.merge(_weight(model, pairs, rated, residuals))
    if model.card.preference_trained and has_rows:
        section.merge(_gradients(model, pairs, rated, ratings, max_batch_tokens))
    return section


def _preference(head: Head, rated: Featured, ratings: Floats) -> dict[str, Metric]:
    """Whether the preference row ranks responses like their mean rating (all attributes known)."""
    mean = ratings.mean(axis=1)
    scores = rated.hidden @ head.preference
    if np.isfinite(mean).sum() < 2:
        return {}
    name = "preference/spearman_with_mean_rating"
    return {name: spearman_metric(scores, mean, rated.prompts)}


def _row_residuals(model: RewardModel, ratings: Floats, rows: Floats) -> Floats:
    """Squared errors of the rows on the training scale [R, K'], of the attributes rated here."""
    scales = model.card.scales
    errors = apply_scales(scales, rows) - apply_scales(scales, ratings)
    return np.asarray(errors[:, np.isfinite(errors).any(axis=0)] ** 2)


def _probe_residuals(
    names: Sequence[str], ratings: Floats, predicted: Mapping[str, Floats]
) -> Floats:
    """The probes' [R, K'], in units of each attribute's standard deviation, as training has it."""
    used = [name for name in names if name in predicted]
    truth = ratings[:, [names.index(name) for name in used]]
    found = np.array([predicted[name] for name in used]).reshape(len(used), len(ratings)).T
    return np.asarray(((found - truth) / np.nanstd(truth, axis=0)) ** 2)


def _weight(
    model: RewardModel, pairs: Featured, rated: Featured, residuals: Floats
) -> DiagnosisSection:
    counts, section = _counts(model, pairs, rated), DiagnosisSection()
    if not residuals.shape[1]:
        return section
    found = weights(residuals, counts, rated.prompts)
    section.add("weight", found)
    section.said.append(
        f"Regression weight by maximum likelihood for {counts.pairs} pairs and {counts.rated} "
        f"rated responses ({counts.source}): objective.weighting=fixed objective.reduction=mean "
        f"objective.weight={found['mean'].value:.3g} [{found['mean'].low:.3g}, "
        f"{found['mean'].high:.3g}], or reduction=sum weight={found['sum'].value:.3g}. "
        "objective.weighting=learned finds it while training, attribute by attribute."
    )
    return section


def _counts(model: RewardModel, pairs: Featured, rated: Featured) -> Counts:
    """What the run trained on, where its `data.json` says so; else what is given here."""
    record = resolve(model.name).parent / "data.json"
    if record.is_file():
        found = read_json(record)
        if isinstance(found, dict) and found.get("pairs") and found.get("rated"):
            return Counts(int(found["pairs"]), int(found["rated"]), "the run's data.json")
    return Counts(len(pairs.records), len(rated.records), "as in the files given here")


def _gradients(
    model: RewardModel, pairs: Featured, rated: Featured, ratings: Floats, max_batch_tokens: int
) -> DiagnosisSection:
    targets, section = apply_scales(model.card.scales, ratings), DiagnosisSection()
    known = np.flatnonzero(np.isfinite(targets).any(axis=1)).tolist()
    data = TermData(
        pairs=pairs.units,
        pair_prompts=pairs.prompts,
        rated=[rated.units[at] for at in known],
        rated_prompts=[rated.prompts[at] for at in known],
        targets=targets[known],
    )
    try:
        section.add("gradient", conflict(model.network, data, max_batch_tokens))
    except DataError as error:
        section.notes.append(f"not measured: {error}")
    return section
