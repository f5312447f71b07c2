"""What the rewards are worth: accuracy on pairs, rank correlation with ratings, what each run cost.

Every set is measured for models trained on its own training split (ID) and on the other data set's
(OOD). Attributes have other names there, so that a reward is also compared with one number that
every rated set has: the mean of its ratings, each in units of its spread in the training split.

Shapes: N items, K attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.text_rewards import Reward
from experiments.text_runs import METHODS, Kept, Sets, records_of
from smorm.arrays import Floats
from smorm.data.census import Census
from smorm.data.records import Preference, Rated, prompt_key
from smorm.data.scaling import apply_scales, fit_scales, rating_matrix
from smorm.evaluation.attributes import RatedOutcomes, measure_rated
from smorm.evaluation.correlation import centred, spearman_metric
from smorm.evaluation.metrics import Metric, cluster_codes
from smorm.evaluation.pairs import measure_pairs
from smorm.evaluation.result import Measurement, Result
from smorm.evaluation.scored import hash_of, words
from smorm.files import fingerprint
from smorm.model.store import versions

OVERALL = "overall"


@dataclass(frozen=True, slots=True)
class HeldOutSet:
    """A test set with what tells its items apart.

    Attributes:
        key: its name among a run's sets, such as `pairs/ukp`.
        overall: of a rated set the mean of the standardised ratings [N].
    """

    key: str
    records: list[Any]
    prompts: list[str]
    data: str
    overall: Floats | None = None

    @property
    def kind(self) -> str:
        """`pairs` or `rated`."""
        return self.key.partition("/")[0]

    @property
    def name(self) -> str:
        """The data set's name."""
        return self.key.partition("/")[2]


def read_tests(sets: Sets, rated_training: Mapping[str, list[Any]]) -> list[HeldOutSet]:
    """Every set of pairs and ratings among `sets`; `rated_training` are training ratings by
    data set, from which a rating's unit is taken."""
    found = []
    for key, one in sets.items():
        if key.partition("/")[0] in ("pairs", "rated"):
            records = records_of(*one)
            prompts = prompts_of(records)
            data = fingerprint([hash_of(record) for record in records])
            overall = None
            if one[0] == "rated":
                overall = overall_rating(records, rated_training[key.partition("/")[2]])
            found.append(HeldOutSet(key, records, prompts, data, overall))
    return found


def prompts_of(records: Sequence[Any]) -> list[str]:
    """A label of each record's prompt, which intervals resample."""
    return [fingerprint(prompt_key(record.prompt)) for record in records]


def overall_rating(records: Sequence[Rated], training: Sequence[Rated]) -> Floats:
    """Mean of a response's ratings [N], each standardised by the training split."""
    names = sorted({name for record in training for name in record.scores})
    scales = fit_scales(names, rating_matrix(training, names), "standardize", Census())
    return np.asarray(np.nanmean(apply_scales(scales, rating_matrix(records, names)), axis=1))


def suite_name(kind: str, trained: str, measured: str) -> str:
    """`pairs/ID-ukp`, or `pairs/OOD-truthfulqa-to-ukp`."""
    place = f"ID-{measured}" if trained == measured else f"OOD-{trained}-to-{measured}"
    return f"{kind}/{place}"


def measure_reward(reward: Reward, one: HeldOutSet) -> Result:
    """Accuracy on pairs, or rank correlation with the overall rating."""
    values = reward.values(one.key)
    measured = _accuracy(one, values) if one.kind == "pairs" else _overall(one, values)
    trained = reward.parts[0].kept.run.task.name
    kind = one.kind if one.kind == "pairs" else OVERALL
    return Result(
        "eval", suite_name(kind, trained, one.name), reward.name, reward.view, measured.metrics,
        fingerprint=marks_of(reward, one), notes=measured.notes, outcomes=measured.outcomes,
    )  # fmt: skip


def marks_of(reward: Reward, one: HeldOutSet) -> dict[str, Any]:
    """The fingerprint of a result."""
    return {
        "members": [part.kept.hashes for part in reward.parts],
        "data": one.data,
        "versions": versions(),
        "seed": reward.seed,
    }


def _accuracy(one: HeldOutSet, values: Sequence[Floats]) -> Measurement:
    records: list[Preference] = one.records
    return measure_pairs(
        np.array([pair[0] for pair in values]),
        np.array([pair[1] for pair in values]),
        one.prompts,
        chosen_lengths=np.array([float(words(record.chosen)) for record in records]),
        rejected_lengths=np.array([float(words(record.rejected)) for record in records]),
        length_unit="words",
        keys=[record.where for record in records],
    )


def _overall(one: HeldOutSet, values: Sequence[Floats]) -> Measurement:
    """Spearman over all responses, and with reward and rating centred within each prompt, since
    Bradley–Terry leaves a prompt's offset open."""
    assert one.overall is not None
    reward = np.array([value[0] for value in values])
    inner = (centred(reward, one.prompts), centred(one.overall, one.prompts))
    metrics = {
        "spearman": spearman_metric(reward, one.overall, one.prompts),
        "spearman_within_prompt": spearman_metric(*inner, one.prompts),
    }
    keys = [record.where for record in one.records]
    outcomes = RatedOutcomes(
        np.stack([reward, inner[0]], axis=1), np.stack([one.overall, inner[1]], axis=1),
        list(metrics), cluster_codes(one.prompts, len(keys))[0].tolist(), keys,
    )  # fmt: skip
    return Measurement(metrics, (), outcomes)


def measure_attributes(kept: Kept, one: HeldOutSet) -> Result:
    """Each attribute's rank correlation and squared error, of a model trained on this data set."""
    measured = measure_rated(
        kept.attributes[one.key],
        rating_matrix(one.records, kept.names),
        kept.names,
        one.prompts,
        training_means=kept.means,
        keys=[record.where for record in one.records],
    )
    marks = {"hashes": kept.hashes, "data": one.data, "versions": versions(),
             "seed": kept.run.seed}  # fmt: skip
    return Result(
        "eval", suite_name("rated", one.name, one.name), kept.run.method, "attributes",
        measured.metrics, fingerprint=marks, notes=measured.notes, outcomes=measured.outcomes,
    )  # fmt: skip


def curve_of(kept: Kept) -> Result:
    """The training curve of a run."""
    metrics = {"loss": Metric(kept.curve[-1]["loss"], 1)}
    marks = {"hashes": kept.hashes, "epochs": kept.run.epochs, "seed": kept.run.seed}
    return Result(
        "training", f"training/{kept.run.task.name}", kept.run.method, "", metrics,
        items=kept.curve, fingerprint=marks,
    )  # fmt: skip


def cost_of(reward: Reward) -> Result:
    """What a reward costs to score by and to train."""
    costs = [part.kept.cost for part in reward.parts]
    totals = {
        "parameters": sum(cost["parameters"]["model"] for cost in costs),
        "trained_parameters": sum(cost["parameters"]["trained"] for cost in costs),
        "passes_per_score": sum(cost["passes_per_score"] for cost in costs),
        "training_passes": sum(cost["passes"] for cost in costs),
        "training_tokens": sum(sum(cost["tokens"].values()) for cost in costs),
    }
    metrics = {name: Metric(float(value), 1) for name, value in totals.items()}
    metrics["minutes"] = Metric(sum(part.kept.minutes for part in reward.parts), 1)
    trained = reward.parts[0].kept.run.task.name
    return Result(
        "cost", f"cost/{trained}", reward.name, reward.view, metrics,
        fingerprint={"seed": reward.seed},
    )  # fmt: skip


def has_ratings(kept: Kept) -> bool:
    """Whether a run's attribute rows can be measured."""
    return METHODS[kept.run.method].rated
