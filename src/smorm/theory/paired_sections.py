"""Sections on pairs: preference and alpha, Theorem 1, out of distribution, Lemma 1, the view.

Shapes: `P` pairs, `N` responses, `K` attributes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smorm.errors import DataError
from smorm.evaluation.metrics import Floats, Metric, mean_metric, pair_outcomes, share_metric
from smorm.model.views import View
from smorm.scoring.reward_model import RewardModel
from smorm.theory import implicit_effect as effect
from smorm.theory.advice import shown
from smorm.theory.features import Featured, Head, own_rows
from smorm.theory.intervals import within_prompt
from smorm.theory.lemma import lemma
from smorm.theory.section import DiagnosisSection
from smorm.theory.suggest import suggest_view


@dataclass(frozen=True, slots=True)
class Differences:
    """Differences of pairs [P, D], chosen less rejected, and what solving with their second moment
    gives, with the ridge and with the pseudo-inverse."""

    deltas: Floats
    ridge: effect.Solved
    inverse: effect.Solved


def differences_of(pairs: Featured) -> Differences:
    """Differences of the pairs' hidden states.

    Raises:
        DataError: both sides of every pair have the same hidden state.
    """
    deltas = pairs.deltas()
    if not deltas.any():
        raise DataError("preference: both sides of every pair have the same hidden state")
    return Differences(deltas, *effect.solve(deltas, effect.RIDGE, 0.0))


def preference_section(
    model: RewardModel, head: Head, pairs: Featured, differences: Differences
) -> DiagnosisSection:
    """Pair statistics, the spectrum of Sigma_S, and alpha."""
    deltas, prompts, found = differences.deltas, pairs.prompts, DiagnosisSection()
    solved = differences.ridge
    found.add("spectrum", _spectrum(solved, len(deltas)))
    if model.card.preference_trained:
        margins = deltas @ head.preference
        outcomes, ties = pair_outcomes(margins, np.zeros_like(margins))
        found.metrics["preference/accuracy"] = share_metric(outcomes, prompts)
        found.metrics["preference/margin"] = mean_metric(margins, prompts)
        found.add("preference", effect.strength(_margins(head, deltas, solved), prompts))
        found.notes.append(f"preference: {ties} of {len(deltas)} pairs, tied, count half.")
    if head.names:
        found.metrics |= effect.alphas(deltas @ head.attributes.T, head.names, prompts)
    return found


def _spectrum(solved: effect.Solved, count: int) -> dict[str, Metric]:
    numbers = {
        "dimensions": float(solved.dimensions),
        "rank": float(solved.rank),
        "effective_rank": solved.effective_rank,
        "condition": solved.condition(),
        "ridge": solved.ridge,
        "condition_with_ridge": solved.condition(solved.ridge),
    }
    return {name: Metric(number, count) for name, number in numbers.items()}


def _margins(head: Head, deltas: Floats, solved: effect.Solved) -> effect.PairMargins:
    mean = deltas @ head.mean if head.names else np.zeros(len(deltas))
    return effect.PairMargins(deltas @ head.preference, mean, deltas @ solved.direction, solved)


def effect_section(head: Head, pairs: Featured, differences: Differences) -> DiagnosisSection:
    """Theorem 1: c in every way, what the inequality says with each, agreement within a prompt."""
    deltas, prompts, found = differences.deltas, pairs.prompts, DiagnosisSection()
    every = responses_of(head, pairs)
    ridge = _margins(head, deltas, differences.ridge)
    inverse = _margins(head, deltas, differences.inverse)
    constants = {
        "formula": effect.formula(ridge, prompts),
        "formula_pseudo_inverse": effect.formula(inverse, prompts),
        "projection": effect.projection(ridge, prompts),
        "regression": effect.regression(every.preference, every.mean_attribute, every.prompts),
    }
    found.add("c", constants)
    for name, c in constants.items():
        found.add(f"epsilon/{name}", effect.bound(every, c, deltas, prompts))
    found.add("within_prompt", within_prompt(every.preference, every.mean_attribute, every.prompts))
    return found


def responses_of(head: Head, featured: Featured) -> effect.Responses:
    """Distinct responses: one in several pairs counts once."""
    kept = featured.distinct()
    prompts = np.array(featured.response_prompts)[kept].tolist()
    return effect.Responses(featured.hidden[kept], head.preference, head.mean, prompts)


def ood_section(head: Head, name: str, featured: Featured, c: float) -> DiagnosisSection:
    """The relation of the two rewards on other responses, under prompts that have several.

    Raises:
        DataError: no prompt has two different responses.
    """
    every, found = responses_of(head, featured), DiagnosisSection()
    beside = effect.several_responses(every.prompts, len(every.hidden))
    if not beside.any():
        raise DataError(f"--ood {name}: no prompt has two different responses to compare")
    prompts = np.array(every.prompts)[beside].tolist()
    r_s, r_m = every.preference[beside], every.mean_attribute[beside]
    found.add(f"ood/{name}", within_prompt(r_s, r_m, prompts))
    short = np.maximum(c * r_s - r_m, 0.0)
    found.metrics[f"ood/{name}/largest_shortfall"] = Metric(float(short.max()), len(short))
    return found


def lemma_section(head: Head, pairs: Featured, gold: Floats) -> DiagnosisSection:
    """Lemma 1 against a gold [P, 2]."""
    found = DiagnosisSection()
    found.add("lemma", lemma((pairs.hidden @ head.preference).reshape(-1, 2), gold, pairs.prompts))
    return found


def view_section(model: RewardModel, pairs: Featured) -> tuple[DiagnosisSection, View | None]:
    """The view that the pairs support; none where there are too few."""
    default, section = model.view(), DiagnosisSection()
    rows = own_rows(model, pairs.hidden)
    try:
        found = suggest_view(rows, pairs.prompts, model.attributes, default)
    except DataError as error:
        section.notes.append(f"no view suggested: {error}")
        return section, None
    section.add("view", found.metrics)
    gain = shown(found.metrics[f"accuracy/learned − {default.name}"])
    section.said.append(
        "Suggested view: weights learned on these pairs; on pairs that they did not see they beat "
        f"{default.name} by {gain} of accuracy."
        if found.decided
        else f"Suggested view: {default.name}, the model's default. Weights learned on these pairs "
        f"are not shown to be better on pairs that they did not see (gain {gain})."
    )
    return section, found.view
