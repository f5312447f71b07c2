"""From scores to results: accuracy, ratings and best-of-n of every system of a run.

Shapes: `M` answers of a set, `K` attributes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from smorm.data.census import Census
from smorm.data.reading import Source, read_records
from smorm.data.records import Rated, prompt_key
from smorm.evaluation.attributes import measure_rated
from smorm.evaluation.metrics import Floats, Metric
from smorm.evaluation.pairs import measure_pairs
from smorm.evaluation.result import Measurement, Result
from smorm.files import fingerprint, read_json
from smorm.lab.artifacts import ArtifactStore
from smorm.lab.config import ArmSection, SystemSection
from smorm.lab.methods import label_of, systems_of
from smorm.lab.scores import SetRows, read_items
from smorm.model.store import versions
from smorm.scoring.ensemble import OWN_SCALE, Rule, Standard, standard_of
from smorm.stress.curves import Pushed, measure
from smorm.stress.pools import Pool, read_pools
from smorm.stress.rewards import LabReward
from smorm.stress.symptoms import detection, disagreement, text_measures
from smorm.text.limits import Unscored
from smorm.world import ATTRIBUTES


@dataclass(frozen=True)
class Run:
    """One seed of a study, whose arms have their scores."""

    store: ArtifactStore
    seed: int

    @cached_property
    def rows(self) -> dict[str, dict[str, SetRows]]:
        """What every arm gave to every set."""
        systems = systems_of(self.store.config).values()
        arms = dict.fromkeys(arm for system in systems for arm in system.arms)
        return {arm: self.store.rows(arm, self.seed) for arm in arms}

    @cached_property
    def marks(self) -> dict[str, Any]:
        """Of every result of the run."""
        config = self.store.config
        return {
            "seed": self.seed,
            "policy": config.policy_seed(self.seed),
            "config": fingerprint(config.as_dict()),
            "versions": versions(),
        }

    def values(self, system: SystemSection, name: str) -> Floats:
        """A system's reward of every answer of a set, [M]."""
        rule = Rule(system.combine, system.kappa)
        members = [
            self._standard(arm, view, rule, system.standardise).apply(
                self.rows[arm][name].view(view)
            )
            for arm, view in system.parts
        ]
        return members[0] if len(members) == 1 else rule.combine(np.stack(members))

    def _standard(self, arm: str, view: str, rule: Rule, wanted: bool) -> Standard:
        if not wanted:
            return OWN_SCALE
        values = self.rows[arm]["dev"].view(view)
        return standard_of(values, self._dev_prompts, f"{arm}:{view}", rule)

    @cached_property
    def _dev_prompts(self) -> list[str]:
        items = read_items(self.store.sets(self.seed)["dev"])
        return [prompt_key(item.prompt) for item in items for _ in item.responses]

    def results(self) -> Iterator[Result]:
        """Every result of the run: pairs, ratings and best-of-n of each regime."""
        config, sets = self.store.config, self.store.sets(self.seed)
        systems = systems_of(config)
        yield from self._of_pairs(systems, "dev", sets["dev"])
        for regime in config.regimes:
            yield from self._of_pairs(systems, f"pairs/{regime}", sets[f"pairs/{regime}"])
            yield from self._of_ratings(systems, f"rated/{regime}", sets[f"rated/{regime}"])
            yield from self._of_pools(systems, regime, sets[f"pools/{regime}"])
        yield from self._costs(systems)

    def _of_pairs(
        self, systems: Mapping[str, SystemSection], name: str, path: Path
    ) -> Iterator[Result]:
        items = read_items(path)
        prompts = [prompt_key(item.prompt) for item in items]
        for key, system in systems.items():
            values = self.values(system, name)
            lengths = self.rows[system.arms[0]][name].tokens.astype(np.float64)
            measurement = measure_pairs(
                values[0::2],
                values[1::2],
                prompts,
                chosen_lengths=lengths[0::2],
                rejected_lengths=lengths[1::2],
                length_unit="tokens",
            )
            suite = "pairs/development" if name == "dev" else name
            yield self._result("pairs", suite, label_of(key, system), measurement)

    def _of_ratings(
        self, systems: Mapping[str, SystemSection], name: str, path: Path
    ) -> Iterator[Result]:
        """Of every arm that has attribute rows, under the name of its systems."""
        records = [r for r in read_records(Source(path), None, Census()) if isinstance(r, Rated)]
        prompts = [prompt_key(record.prompt) for record in records]
        done: set[str] = set()
        for key, system in systems.items():
            arm = system.arms[0]
            attributes = _rated_rows(self.rows[arm][name])
            if len(system.arms) > 1 or not attributes or arm in done:
                continue
            done.add(arm)
            predicted = np.column_stack([self.rows[arm][name].view(row) for row in attributes])
            ratings = np.array([[record.scores[row] for row in attributes] for record in records])
            measurement = measure_rated(predicted, ratings.astype(np.float64), attributes, prompts)
            yield self._result("rated", name, (label_of(key, system)[0], "attributes"), measurement)

    def _of_pools(
        self, systems: Mapping[str, SystemSection], regime: str, path: Path
    ) -> Iterator[Result]:
        pools = read_pools(Source(path), Census())
        gold = self._gold(pools)
        texts = [text_measures(pool.texts) for pool in pools]
        cut = _told_cut(pools)
        ends = np.cumsum([len(pool) for pool in pools])[:-1]
        sizes = self.store.config.sizes
        for key, system in systems.items():
            proxy = np.split(self.values(system, f"pools/{regime}"), ends)
            measurement, points = measure(Pushed(pools, proxy, gold, texts, sizes))
            metrics = dict(measurement.metrics)
            heads = self._heads(system, regime)
            if heads is not None:
                one, other = (np.split(head, ends) for head in heads)
                prompts = [pool.prompt for pool in pools]
                metrics |= detection(disagreement(one, other), proxy, gold, sizes, prompts)
            told = Measurement(metrics, (*measurement.notes, *cut))
            yield self._result("stress", f"best-of-n/{regime}", label_of(key, system), told, points)

    def _gold(self, pools: Sequence[Pool]) -> list[Floats]:
        found = LabReward(self.store.config.world.facts).score(pools, Census())
        return [one for one in found if not isinstance(one, Unscored)]

    def _heads(self, system: SystemSection, regime: str) -> tuple[Floats, Floats] | None:
        """Both heads of a system that is one model with two."""
        rows = self.rows[system.arms[0]][f"pools/{regime}"]
        if len(system.arms) > 1 or "preference" not in rows.names or not _rated_rows(rows):
            return None
        return rows.view("F"), rows.view("L")

    def _costs(self, systems: Mapping[str, SystemSection]) -> Iterator[Result]:
        for key, system in systems.items():
            measurement = Measurement(self._cost(system))
            yield self._result("cost", "cost", label_of(key, system), measurement)

    def _cost(self, system: SystemSection) -> dict[str, Metric]:
        """Of training all its members, and of one score."""
        total = dict.fromkeys(("parameters", "trained_parameters", "training_passes"), 0)
        total["training_tokens"] = 0
        arms = self.store.arms
        for arm in system.arms:
            trained = _trained_for(arm, arms)
            costs = [read_json(self.store.arm(one, self.seed) / "cost.json") for one in trained]
            total["parameters"] += costs[-1]["parameters"]["model"]
            for cost in costs:
                total["trained_parameters"] += cost["parameters"]["trained"]
                total["training_passes"] += cost["passes"]
                total["training_tokens"] += sum(cost["tokens"].values())
        total["passes_per_score"] = len(system.arms)
        return {name: Metric(float(value), 1) for name, value in total.items()}

    def curves(self) -> Iterator[Result]:
        """What every trained arm logged while it trained."""
        arms = dict.fromkeys(one for arm in self.rows for one in _trained_for(arm, self.store.arms))
        for arm in arms:
            points = read_log(self.store.arm(arm, self.seed) / "metrics.jsonl")
            last = points[-1]
            told = {n: Metric(v, 1) for n, v in last.items() if n in ("loss", "accuracy", "mse")}
            yield self._result("training", "training", (arm, ""), Measurement(told), points)

    def _result(
        self,
        kind: str,
        suite: str,
        label: tuple[str, str],
        measurement: Measurement,
        items: Sequence[Any] = (),
    ) -> Result:
        return Result(
            kind, suite, *label, measurement.metrics, list(items), self.marks, measurement.notes
        )


def _trained_for(arm: str, arms: Mapping[str, ArmSection]) -> list[str]:
    """The trainings that an arm's model takes: the last of them gives its size."""
    own = [] if arms[arm].merge else [arm]
    return [*(deep for one in arms[arm].needs for deep in _trained_for(one, arms)), *own]


_LOGGED = ("step", "loss", "accuracy", "mse", "gradient_norm")


def read_log(path: Path) -> list[dict[str, float]]:
    """The points of a run's log that a curve shows."""
    rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    return [{name: row[name] for name in _LOGGED if row.get(name) is not None} for row in rows]


def _told_cut(pools: Sequence[Pool]) -> tuple[str, ...]:
    """A note on answers that the policy had no room to end."""
    cut = sum(one.get("finished") is False for pool in pools for one in pool.given)
    total = sum(map(len, pools))
    return (f"{cut} of {total} answers did not end within pools.max_new_tokens.",) if cut else ()


def _rated_rows(rows: SetRows) -> list[str]:
    """The rows that predict ratings (ODIN's length row does not)."""
    return [name for name in rows.names if name in ATTRIBUTES]
