"""A small policy, prompts and rewards whose best answers are known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from smorm.rewards.protocol import ScoringOptions
from smorm.stress.config import ProxySection, RLSection
from smorm.stress.proxies import open_proxy
from smorm.stress.rl.actor import Actor, training_prompts
from smorm.stress.rl.reward_signal import Multiplier, Normaliser, Proxy, RewardSignal
from smorm.world import backbone_path, sample_prompt
from tests.stress.made_up import write_rows


def write_prompts(path: Path, regime: str, split: str, count: int) -> Path:
    rng, found = np.random.default_rng(0), {}
    while len(found) < count:
        prompt = sample_prompt(rng, regime, split)
        found[prompt.text] = {"prompt": prompt.text}
    return write_rows(path, list(found.values()))


def section(prompts: Path, **changes: Any) -> RLSection:
    values = {
        "policy": str(backbone_path()), "prompts": str(prompts), "steps": 6, "prompts_per_step": 8,
        "answers_per_prompt": 4, "learning_rate": 1e-3, "temperature": 1.0, "max_new_tokens": 16,
        "evaluate_every": 3,
    }  # fmt: skip
    return RLSection.model_validate({**values, **changes})


def actor_and_prompts(folder: Path, **changes: Any) -> tuple[Actor, list[Any]]:
    path = write_prompts(folder / "train.jsonl", "ID", "train", 16)
    actor = Actor(section(path, **changes))
    return actor, training_prompts(actor.rl, actor).prompts


def signal(
    function: str, constraint: Multiplier | None = None, kind: Any = "first"
) -> RewardSignal:
    asked = ProxySection.model_validate({"function": f"tests.stress.rl.made_up:{function}"})
    proxy = open_proxy(asked, function, ScoringOptions())
    return RewardSignal(Proxy(proxy, 0), Normaliser(kind), constraint)


def words_of(completions: list[Any]) -> list[list[str]]:
    return [one[-1]["content"].split() for one in completions]


def fillers(prompts: list[Any], completions: list[Any], **_: Any) -> list[float]:
    """The share of words that are "well" or "actually": a policy can always say more of them."""
    good = ("well", "actually", "basically", "really", "clearly", "indeed")
    return [sum(w in good for w in words) / max(len(words), 1) for words in words_of(completions)]


def length(prompts: list[Any], completions: list[Any], **_: Any) -> list[float]:
    return [float(len(words)) for words in words_of(completions)]


def nothing(prompts: list[Any], completions: list[Any], **_: Any) -> list[float]:
    """A reward that fails at the first answer."""
    return [math.nan] * len(completions)


def same(prompts: list[Any], completions: list[Any], **_: Any) -> list[float]:
    return [1.0] * len(completions)
