"""From scores to results: accuracy, ratings and best-of-n of every system of one seed's run.
Shapes: `M` answers of a set."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from smorm.arrays import Floats
from smorm.data.census import Census
from smorm.data.reading import Source, read_rated
from smorm.data.records import prompt_key
from smorm.data.scaling import rating_matrix
from smorm.evaluation.accuracy import measure_pairs
from smorm.evaluation.attributes import measure_rated
from smorm.evaluation.metrics import Metric
from smorm.evaluation.result import Measurement, Result
from smorm.files import fingerprint, read_json
from smorm.lab.config import SystemSection
from smorm.lab.methods import arm_stages, label_of, systems_of
from smorm.lab.world_artifacts import SetRows, WorldArtifacts, read_items
from smorm.model.store import versions
from smorm.rewards.ensemble import UNCHANGED, Rule, standard_of
from smorm.rewards.field import TruthReward
from smorm.rewards.protocol import values_of
from smorm.stress.curves import ScoredPools, measure
from smorm.stress.pools import read_pools
from smorm.stress.symptoms import disagreement, text_measures
from smorm.world import ATTRIBUTES

_LOGGED = ("step", "loss", "accuracy", "mse", "gradient_norm")
_LAST_LOGGED = ("loss", "accuracy", "mse")
_COSTS = (
    "parameters",
    "trained_parameters",
    "training_passes",
    "training_tokens",
    "passes_per_score",
)


@dataclass(frozen=True)
class Run:
    """One seed of a study, whose arms have their scores."""

    artifacts: WorldArtifacts
    seed: int

    @cached_property
    def systems(self) -> dict[str, SystemSection]:
        return systems_of(self.artifacts.config)

    @cached_property
    def rows(self) -> dict[str, dict[str, SetRows]]:
        """What every arm of a system gave to every set."""
        rows: dict[str, dict[str, SetRows]] = {}
        for system in self.systems.values():
            for arm in system.arms:
                if arm not in rows:
                    rows[arm] = self.artifacts.rows(arm, self.seed)
        return rows

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """The fingerprint of every result of the run; `artifacts` says which were made by other
        versions than these (`ArtifactStore.other_versions`), if any were."""
        config = self.artifacts.config
        provenance = {
            "seed": self.seed,
            "policy": config.policy_seed(self.seed),
            "config": fingerprint(config.as_dict()),
            "versions": versions(),
        }
        # Every artifact is looked up first: the store knows the versions of those in use only.
        for arm in self._trained_arms:
            self.artifacts.arm(arm, self.seed)
        if others := self.artifacts.store.other_versions():
            provenance["artifacts"] = others
        return provenance

    def values(self, system: SystemSection, set_name: str) -> Floats:
        """A system's reward of every answer of a set, [M]."""
        rule = Rule(system.combine, system.kappa)
        members = []
        for arm, view in system.arm_views:
            # Members of different units must be standardised to count alike; on the development
            # pairs, so that no evaluation set decides it.
            standard = UNCHANGED
            if system.standardise:
                dev = self.rows[arm]["dev"].view(view)
                standard = standard_of(dev, self._dev_prompts, f"{arm}:{view}", rule)
            members.append(standard.apply(self.rows[arm][set_name].view(view)))
        if len(members) == 1:
            return members[0]
        return rule.combine(np.stack(members))

    @cached_property
    def _dev_prompts(self) -> list[str]:
        prompts: list[str] = []
        for item in read_items(self.artifacts.sets(self.seed)["dev"]):
            prompts += [prompt_key(item.prompt)] * len(item)
        return prompts

    def results(self) -> Iterator[Result]:
        """Every result of the run: pairs, ratings and best-of-n of each regime, and costs."""
        sets = self.artifacts.sets(self.seed)
        yield from self._of_pairs("dev", sets["dev"])
        for regime in self.artifacts.config.regimes:
            yield from self._of_pairs(f"pairs/{regime}", sets[f"pairs/{regime}"])
            yield from self._of_ratings(f"rated/{regime}", sets[f"rated/{regime}"])
            yield from self._of_pools(regime, sets[f"pools/{regime}"])
        for name, system in self.systems.items():
            measurement = Measurement(self._cost(system))
            yield self._result("cost", "cost", label_of(name, system), measurement)

    def _of_pairs(self, set_name: str, path: Path) -> Iterator[Result]:
        prompts = [prompt_key(item.prompt) for item in read_items(path)]
        suite = {"dev": "pairs/development"}.get(set_name, set_name)
        for name, system in self.systems.items():
            values = self.values(system, set_name)
            lengths = self.rows[system.arms[0]][set_name].tokens.astype(np.float64)
            # The answers of a pair are neighbours, the chosen one first.
            measurement = measure_pairs(
                values[0::2],
                values[1::2],
                prompts,
                chosen_lengths=lengths[0::2],
                rejected_lengths=lengths[1::2],
                length_unit="tokens",
            )
            yield self._result("pairs", suite, label_of(name, system), measurement)

    def _of_ratings(self, set_name: str, path: Path) -> Iterator[Result]:
        """Of every arm that has attribute rows, under the name of its first system."""
        records = list(read_rated(Source(path), Census()))
        prompts = [prompt_key(record.prompt) for record in records]
        done: set[str] = set()
        for name, system in self.systems.items():
            arm = system.arms[0]
            rows = self.rows[arm][set_name]
            attributes = _rated_rows(rows)
            # Systems that read one model by several views would give the same numbers again.
            if len(system.arms) > 1 or not attributes or arm in done:
                continue
            done.add(arm)
            predicted = np.column_stack(list(map(rows.view, attributes)))
            ratings = rating_matrix(records, attributes)
            measurement = measure_rated(predicted, ratings, attributes, prompts)
            model, _ = label_of(name, system)
            yield self._result("rated", set_name, (model, "attributes"), measurement)

    def _of_pools(self, regime: str, path: Path) -> Iterator[Result]:
        pools = read_pools(Source(path), Census())
        # Once for all systems: gold and texts are the pools', only the proxy is a system's.
        gold = values_of(TruthReward(self.artifacts.config.world.facts), pools)
        texts = [text_measures(pool.texts) for pool in pools]
        answers = list(chain.from_iterable(pool.fields for pool in pools))
        # The policy had no room to end them.
        cut = sum(answer.get("finished") is False for answer in answers)
        notes: tuple[str, ...] = ()
        if cut:
            notes = (f"{cut} of {len(answers)} answers did not end within pools.max_new_tokens.",)
        ends = np.cumsum(list(map(len, pools)))[:-1]
        sizes = self.artifacts.config.sizes
        for name, system in self.systems.items():
            proxy = np.split(self.values(system, f"pools/{regime}"), ends)
            rows, signal = self.rows[system.arms[0]][f"pools/{regime}"], None
            # Two heads of one model can disagree; those of two models are no symptom.
            if len(system.arms) == 1 and "preference" in rows.names and _rated_rows(rows):
                heads = np.split(rows.view("F"), ends), np.split(rows.view("L"), ends)
                signal = disagreement(*heads)
            scored = ScoredPools(pools, proxy, gold, texts, sizes, disagreement=signal)
            measurement, points = measure(scored)
            measurement = replace(measurement, notes=notes)
            label = label_of(name, system)
            yield self._result("stress", f"best-of-n/{regime}", label, measurement, points)

    def _cost(self, system: SystemSection) -> dict[str, Metric]:
        cost = dict.fromkeys(_COSTS, 0)
        for arm in system.arms:
            if self.artifacts.arms[arm].reward is not None:
                of_passes = self.artifacts.reward(arm).parameters
                cost["parameters"] += sum(of_passes)
                cost["passes_per_score"] += len(of_passes)
                continue
            cost["passes_per_score"] += 1
            # Each member is counted with all that it was made of, even where two share some of it.
            for name in self._trained_for(arm):
                training = read_json(self.artifacts.arm(name, self.seed) / "cost.json")
                cost["trained_parameters"] += training["parameters"]["trained"]
                cost["training_passes"] += training["passes"]
                cost["training_tokens"] += sum(training["tokens"].values())
            # Of the last, which has the arm's size.
            cost["parameters"] += training["parameters"]["model"]
        return {name: Metric(float(count), 1) for name, count in cost.items()}

    def _trained_for(self, arm: str) -> list[str]:
        names = chain.from_iterable(arm_stages([arm], self.artifacts.arms))
        arms = self.artifacts.arms
        return [name for name in names if not arms[name].merge and arms[name].reward is None]

    @cached_property
    def _trained_arms(self) -> list[str]:
        return list(dict.fromkeys(chain.from_iterable(map(self._trained_for, self.rows))))

    def curves(self) -> Iterator[Result]:
        """What every trained arm logged while it trained."""
        for arm in self._trained_arms:
            points = []
            log = self.artifacts.arm(arm, self.seed) / "metrics.jsonl"
            for line in log.read_bytes().splitlines():
                row = orjson.loads(line)
                points.append({name: row[name] for name in _LOGGED if row.get(name) is not None})
            last = points[-1]
            metrics = {name: Metric(last[name], 1) for name in _LAST_LOGGED if name in last}
            yield self._result("training", "training", (arm, ""), Measurement(metrics), points)

    def _result(
        self,
        kind: str,
        suite: str,
        label: tuple[str, str],
        measured: Measurement,
        items: Sequence[Any] = (),
    ) -> Result:
        provenance, notes = self.provenance, measured.notes
        return Result(kind, suite, *label, measured.metrics, list(items), provenance, notes)


def _rated_rows(rows: SetRows) -> list[str]:
    """The rows that predict ratings (ODIN's length row does not)."""
    return [name for name in rows.names if name in ATTRIBUTES]
