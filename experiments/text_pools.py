"""The pools of best-of-n: real answers of many models to AlpacaEval prompts, with their gold.

An answer is kept where its conversation fits the context that the backbone was pretrained on: what
a model was never shown it cannot read. All models share one tokenizer, so that this is one set for
all. A pool must hold at least the largest n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from experiments.text_rewards import Reward
from smorm.arrays import Floats
from smorm.config import parse_section
from smorm.data.census import Census
from smorm.data.reading import Source
from smorm.data.records import Item
from smorm.evaluation.result import Result
from smorm.files import write_bytes, write_json
from smorm.model.backbone import load_tokenizer
from smorm.rewards import protocol
from smorm.rewards.protocol import ScoringOptions
from smorm.scoring.scorer import Scored
from smorm.stress.config import StressConfig
from smorm.stress.pools import read_pools
from smorm.stress.proxies import ProxyReward
from smorm.stress.run import push, run_stress
from smorm.stress.sets import PromptSet, read_sets
from smorm.text.chat import Renderer

SET = "alpaca_eval"
SIZES = (1, 2, 4, 8, 16, 32)
LONGEST = "longest answer"


def write_pools(path: Path, backbone: Path, width: int, sizes: Sequence[int], target: Path) -> Path:
    """Write the answers that fit `width` tokens, and beside them (`.json`) what was left out.

    Raises:
        DataError: the file of pools is missing or not usable.
    """
    renderer = Renderer(load_tokenizer(str(backbone)))
    lines, answers, kept_answers, words = [], 0, 0, [0]
    pools = read_pools(Source(path), Census())
    for pool in pools:
        kept = [
            at
            for at, response in enumerate(pool.responses)
            if len(renderer.render(pool.prompt + response)) <= width
        ]
        answers += len(pool)
        if len(kept) >= max(sizes):
            lines.append(orjson.dumps(_row(pool, kept)) + b"\n")
            kept_answers += len(kept)
            words += [len(pool.texts[at].split()) for at in kept]
    write_bytes(target, b"".join(lines))
    told = {
        "prompts": len(pools), "prompts_kept": len(lines), "answers": answers,
        "answers_kept": kept_answers, "tokens": width, "longest_words": max(words),
        "smallest_pool": max(sizes),
    }  # fmt: skip
    write_json(target.with_suffix(".json"), told)
    return target


def _row(pool: Item, kept: Sequence[int]) -> dict[str, Any]:
    responses = [{"response": pool.texts[at], "gold": pool.fields[at]["gold"]} for at in kept]
    return {"prompt": pool.prompt[0].content, "responses": responses}


def words(prompts: Any, completions: Sequence[Sequence[dict[str, str]]], **_: Any) -> list[float]:
    """A reward as TRL calls one: the words of each completion. The rule "the longest wins"."""
    return [float(sum(len(turn["content"].split()) for turn in one)) for one in completions]


def stress_config(pools: Path, sizes: Sequence[int], output: Path) -> StressConfig:
    """The stress test that all rewards go through; its own entry is the rule "the longest wins"."""
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
    """Best-of-n by length alone: what any reward must beat."""
    return run_stress(config)[0]


class KeptReward(protocol.Reward):
    """What finished runs have kept of a set: a column of values [N] of each pool for each view."""

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
        """The kept values, in the order of the set."""
        return [
            Scored(np.stack(values, axis=1), [None] * len(item), False)
            for item, *values in zip(items, *self.columns, strict=True)
        ]


def _column(index: int, name: str) -> protocol.RewardView:
    return protocol.RewardView(name, lambda rows: rows[:, index])


def push_reward(
    reward: Reward, prompts: PromptSet, config: StressConfig, *, set_name: str, pools_key: str
) -> Result:
    """A reward's curve, from the values that its runs have kept."""
    columns: list[list[Floats]] = [reward.values(pools_key)]
    heads = []
    if reward.name == "SMORM":  # the two heads' disagreement is a detector of harmful picks
        kept = reward.parts[0].kept
        columns += [kept.values[view][pools_key] for view in ("F", "L")]
        heads = [_column(1, "F"), _column(2, "L")]
    members = [
        {"seed": part.kept.run.seed, "view": part.view, "hashes": part.kept.hashes}
        for part in reward.parts
    ]
    proxy = ProxyReward(
        reward.name, KeptReward(columns, members), [_column(0, reward.view)], reward.seed, heads
    )
    return push(proxy, replace(prompts, name=set_name), tuple(config.n or ()), config)[0]
