"""Fuzzed YAML configurations and overrides, through check --config and train."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import yaml

from chaos.stage import Stage, config_values
from chaos.trial import Command, Trial, verb
from chaos.values import NUMBERS, TEXTS, Raw, change, damage

_BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
_SNIPPETS = (
    "model: {backbone: x}\nmodel: {backbone: y}\n", "training:\n\tmax_steps: 1\n", "--- 1\n--- 2\n",
    "data: !!python/object/apply:os.system ['touch EXECUTED']\n", _BOMB, "&a [*a]\n",
    "training: {max_steps: 010}\n", "training: {max_steps: 1:30:00}\n", "x: " + "9" * 5000 + "\n",
    "[" * 3000 + "]" * 3000, "%YAML 9.9\n---\na: 1\n", "a: 'open\n", "<<: *missing\n", "",
    "null\n", "- a\n- b\n", "? [a, b]\n: c\n", "a: !!binary dGV4dA==\n", "\x00\x01",
)  # fmt: skip
_KEYS = (
    "training.max_steps", "training.learning_rate", "training.batch_size", "training.epochs",
    "training.threads", "training.seed", "training.max_batch_tokens", "training.save_every",
    "data.max_tokens", "data.overlong", "data.preference", "data.rated", "data.mixing",
    "objective.kind", "objective.margin", "model.backbone", "model.dtype", "model.lora",
    "model.head", "model.chat_template", "output.folder", "evaluation.preference", "bogus", "model",
)  # fmt: skip


def trials(stage: Stage, seed: int, count: int) -> Iterator[Trial]:
    """Changed configurations, broken YAML, and odd overrides; every fourth is trained."""
    for index in range(count):
        random = Random(f"configs-{seed}-{index}")
        content = _config(random, stage)
        extra = [_override(random) for _ in range(random.choice((0, 0, 1, 2)))]
        # Whatever else they say, two steps are enough.
        short = ["training.max_steps=2", "output.folder=run"] if random.random() < 0.6 else []
        if index % 4 == 0:
            act = verb("train", "config.yaml", *extra, *short)
        else:
            act = verb("check", "--config", "config.yaml", *extra)
        yield Trial(f"configs/{index}", [Command(_with_config(content, act))], hidden_allowed=False)


def _with_config(content: bytes, act: Callable[[Path], None]) -> Callable[[Path], None]:
    def both(folder: Path) -> None:
        (folder / "config.yaml").write_bytes(content)
        act(folder)

    return both


def _config(random: Random, stage: Stage) -> bytes:
    values: Any = config_values(stage.pairs, stage.rated, "run")
    kind = random.randrange(6)
    if kind == 0:
        return random.choice(_SNIPPETS).encode()
    if kind == 1:
        return damage(random, _dump(values))
    if kind == 2:
        return _dump(values) + random.choice(_SNIPPETS).encode()
    return _dump(change(random, values))


def _dump(values: Any) -> bytes:
    text: str = yaml.safe_dump(_writable(values), sort_keys=False, allow_unicode=True)
    return text.encode("utf-8", "surrogatepass")


def _writable(value: Any) -> Any:
    """Values as YAML's writer takes them."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return {key: _writable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_writable(item) for item in value]
    return value


def _override(random: Random) -> str:
    value = random.choice(
        (*TEXTS[:16], *map(str, NUMBERS), "exp #3", "[1, 2", "{a: b}", "*a", "010")
    )
    # A program's arguments hold no NUL.
    value = value.replace("\x00", "")
    return random.choice((f"{random.choice(_KEYS)}={value}", value, f"={value}", "a.b.c.d=1"))
