"""The rewards that are compared, made of finished runs (views of a model, ensembles of several),
and best-of-n with them on real answers.

The pools are answers of many models to AlpacaEval prompts, with their gold. An answer takes part
if its conversation fits the context that the backbone was pretrained on; all models share one
tokenizer, so that the pools are the same for all. A pool must hold at least the largest n.

Shapes: M members, N responses of a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from experiments.text_runs import METHODS, POOLS, REFERENCE, Plan, ScoredRun, ensemble_seeds
from smorm.arrays import Floats
from smorm.config import parse_section
from smorm.data.census import Census
from smorm.data.reading import Source
from smorm.data.records import Item
from smorm.evaluation.result import Result
from smorm.files import sha256, write_bytes, write_json
from smorm.lab.artifacts import ArtifactStore
from smorm.rewards import protocol
from smorm.rewards.ensemble import SIMPLE_MEAN, UNCHANGED, Rule, Standard, standard_of
from smorm.rewards.protocol import ScoringOptions
from smorm.scoring.scorer import Scored
from smorm.stress.config import StressConfig
from smorm.stress.pools import read_pools
from smorm.stress.proxies import ProxyReward
from smorm.stress.run import PromptSet, measure_set, read_sets, run_stress, score_set
from smorm.text.chat import Renderer
from smorm.text.tokenizers import load_tokenizer

BASELINE = ("Single", "F")
SET = "alpaca_eval"
LONGEST = "longest answer"
POOLS_FILE, POOLS_FACTS = "pools.jsonl", "facts.json"

# Runs of one task by method and seed.
Finished = Mapping[tuple[str, int], ScoredRun]


@dataclass(frozen=True, slots=True)
class Member:
    """A run, the view of it that counts, and its standard on the reference set."""

    scored: ScoredRun
    view: str
    standard: Standard = UNCHANGED

    def values(self, name: str) -> list[Floats]:
        """Of each record of a set the values [N] on the common scale."""
        return [self.standard.apply(values) for values in self.scored.values[self.view][name]]


@dataclass(frozen=True, slots=True)
class Reward:
    """One reward of one seed; with several members an ensemble under `rule`."""

    name: str
    view: str
    seed: int
    members: tuple[Member, ...]
    rule: Rule = SIMPLE_MEAN

    def values(self, name: str) -> list[Floats]:
        """Of each record of a set the values [N]."""
        columns = [member.values(name) for member in self.members]
        # A single model is measured as it is, without a standard.
        if len(columns) == 1:
            return columns[0]
        return [self.rule.combine(np.stack(row)) for row in zip(*columns, strict=True)]

    @property
    def is_baseline(self) -> bool:
        """Whether differences of the other rewards are taken to it."""
        return (self.name, self.view) == BASELINE

    @property
    def trained_on(self) -> str:
        """The task of its members."""
        return self.members[0].scored.run.task.name


def rewards_of(finished: Finished, seed: int, members: int, prompts: Sequence[str]) -> list[Reward]:
    """Every reward of a seed, the baseline first.

    Args:
        members: how many Singles the seed ensembles have.
        prompts: of each record of the reference set a label of its prompt.

    Raises:
        DataError: fewer than 10 prompts in the reference set, or a reward that does not vary."""
    rewards = []
    for name, method in METHODS.items():
        members_of = {view: (Member(finished[name, seed], view),) for view in method.views}
        rewards += [Reward(name, view, seed, member) for view, member in members_of.items()]
    # The seed ensembles are SM's control: several models, and no second kind of labels.
    pair = [(finished["Single", seed], "F"), (finished["Multi", seed], "L")]
    singles = [(finished["Single", member], "F") for member in ensemble_seeds(seed, members)]
    rewards += [
        _ensemble("SM", seed, pair, Rule("mean"), prompts),
        _ensemble(f"Single × {members}", seed, singles, Rule("mean"), prompts),
        _ensemble(f"Single × {members}", seed, singles, Rule("min"), prompts),
    ]
    return rewards


def _ensemble(
    name: str, seed: int, runs: Sequence[tuple[ScoredRun, str]], rule: Rule, prompts: Sequence[str]
) -> Reward:
    members = []
    for scored, view in runs:
        rows = scored.values[view][REFERENCE]
        # One label for each response, so that the standard can resample prompts.
        labels = np.repeat(prompts, [len(row) for row in rows]).tolist()
        source = f"{scored.run.name} ({view})"
        # Rewards of different runs have no common scale until they are standardised.
        standard = standard_of(np.concatenate(rows), labels, source, rule)
        members.append(Member(scored, view, standard))
    return Reward(name, rule.how, seed, tuple(members), rule)


def label_of(name: str, view: str) -> str:
    """A reward's name in tables: `SMORM-F`, `SM`, `Single × 3 (min)`, or only the method."""
    if name == "SMORM":
        return f"{name}-{view}"
    return f"{name} ({view})" if "×" in name else name


def pools_folder(plan: Plan, backbone: Path) -> Path:
    """The folder of the answers that fit the context, and of the counts of those left out.

    Raises:
        DataError: the file of pools is missing or not usable."""
    width, smallest = plan.backbone.width, max(plan.sizes)
    recipe = [backbone.name, sha256(plan.pools), list(plan.sizes)]

    def make(scratch: Path) -> None:
        _write_pools(plan.pools, Renderer(load_tokenizer(str(backbone))), width, smallest, scratch)

    store = ArtifactStore(plan.work)
    return store.folder(store.path("", recipe, label="pools"), recipe, make)


def _write_pools(path: Path, renderer: Renderer, width: int, smallest: int, folder: Path) -> None:
    lines, answers, used_answers, longest = [], 0, 0, 0
    pools = read_pools(Source(path), Census())
    for pool in pools:
        fitting = []
        for index, response in enumerate(pool.responses):
            if len(renderer.render(pool.prompt + response)) <= width:
                fitting.append(index)
        answers += len(pool)
        if len(fitting) >= smallest:
            lines.append(orjson.dumps(_pool_row(pool, fitting)) + b"\n")
            used_answers += len(fitting)
            longest = max(longest, *(len(pool.texts[index].split()) for index in fitting))
    facts = {
        "prompts": len(pools), "prompts_kept": len(lines), "answers": answers,
        "answers_kept": used_answers, "tokens": width, "longest_words": longest,
        "smallest_pool": smallest,
    }  # fmt: skip
    write_bytes(folder / POOLS_FILE, b"".join(lines))
    write_json(folder / POOLS_FACTS, facts)


def _pool_row(pool: Item, indices: Sequence[int]) -> dict[str, Any]:
    texts, fields = pool.texts, pool.fields
    responses = [{"response": texts[index], "gold": fields[index]["gold"]} for index in indices]
    return {"prompt": pool.prompt[0].content, "responses": responses}


def words(
    prompts: Any, completions: Sequence[Sequence[dict[str, str]]], **options: Any
) -> list[float]:
    """The words of each completion, in the form of a TRL reward: the rule "the longest wins"."""
    counts = []
    for completion in completions:
        text = " ".join(turn["content"] for turn in completion)
        counts.append(float(len(text.split())))
    return counts


def stress_config(pools: Path, sizes: Sequence[int], output: Path) -> StressConfig:
    """The stress test of all rewards; the reward in it is the rule "the longest wins"."""
    return parse_section(
        StressConfig,
        {
            "models": [{"name": LONGEST, "function": f"{__name__}:words"}],
            "prompts": [{"name": SET, "path": str(pools)}],
            "gold": "field:gold",
            "n": list(sizes),
            "probes": False,
            "output": str(output),
        },
    )


def read_set(config: StressConfig) -> PromptSet:
    """The pools with their gold."""
    return read_sets(config, ScoringOptions(), lambda line: None)[0]


def push_longest(config: StressConfig) -> Result:
    """Best-of-n by length: the baseline of every reward."""
    return run_stress(config)[0]


class StoredReward(protocol.Reward):
    """The stored values of finished runs on a set: one column for each view, of each pool [N]."""

    kind = "kept"
    reads_text = False
    cacheable = False

    def __init__(self, columns: Sequence[list[Floats]], members: list[dict[str, Any]]) -> None:
        self.columns, self.members = columns, members

    @property
    def provenance(self) -> dict[str, Any]:
        """The runs."""
        return {"members": self.members}

    def score(self, items: Sequence[Item]) -> protocol.Results:
        """The stored values; `items` are those of the set, in its order."""
        results: protocol.Results = []
        for item, *values in zip(items, *self.columns, strict=True):
            results.append(Scored(np.stack(values, axis=1), [None] * len(item), False))
        return results


def _column(index: int, name: str) -> protocol.RewardView:
    return protocol.RewardView(name, lambda rows: rows[:, index])


def push_reward(reward: Reward, prompts: PromptSet, config: StressConfig, set_name: str) -> Result:
    """A reward's best-of-n curve, from the stored values of its runs."""
    columns: list[list[Floats]] = [reward.values(POOLS)]
    heads = []
    scored = reward.members[0].scored
    if len(reward.members) == 1 and {"F", "L"} <= scored.values.keys():
        # The disagreement of a model's two heads is a detector of harmful picks.
        columns += [scored.values[view][POOLS] for view in ("F", "L")]
        heads = [_column(1, "F"), _column(2, "L")]
    members = []
    for member in reward.members:
        run = member.scored
        members.append({"seed": run.run.seed, "view": member.view, "hashes": run.hashes})
    stored = StoredReward(columns, members)
    proxy = ProxyReward(reward.name, stored, [_column(0, reward.view)], reward.seed, heads)
    of_set = score_set(proxy, replace(prompts, name=set_name), config)
    return measure_set(proxy, of_set, [of_set], tuple(config.n or ()), config)[0]
