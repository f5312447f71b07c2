"""Fuzzed YAML configurations and overrides, through check --config and train."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import yaml

from chaos.stage import Stage, config_values
from chaos.trial import Command, Ended, Fault, Trial, verb
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
        if index % 6 == 5:
            yield _nonsense(random, stage, index)
            continue
        content = _config(random, stage)
        extra = [_override(random) for _ in range(random.choice((0, 0, 1, 2)))]
        # Whatever else they say, two steps are enough.
        short = ["training.max_steps=2", "output.folder=run"] if random.random() < 0.6 else []
        if index % 4 == 0:
            act = verb("train", "config.yaml", *extra, *short)
        else:
            act = verb("check", "--config", "config.yaml", *extra)
        yield Trial(f"configs/{index}", [Command(_with_config(content, act))], hidden_allowed=False)


_NONSENSE = (
    "training.batch_size=0", "training.batch_size=-1", "training.batch_size=1e30",
    "training.batch_size=8.5", "training.learning_rate=.nan", "training.learning_rate=.inf",
    "training.learning_rate=-1", "training.learning_rate=1e999", "training.max_steps=010",
    "training.max_steps=1:30", "training.max_steps=true", "training.epochs=-1",
    "training.seed=99999999999999999999", "training.threads=-1",
    "data.max_tokens=0", "data.max_tokens=1e12", "data.overlong=cut", "data.overlong=[error]",
    "objective.kind=jiont", "objective.label_smoothing=2", "objective.weight=.nan",
    "model.backbone=[]", "model.backbone=", "output.folder=", "model={}", "training=7",
    "training.learning_rate=one", "evaluation=[]", "data.preference={}", "data.preference=[7]",
    "training.bogus=1", "bogus.a=1", "a..b=1", ".=1", "training.max_steps.a=1",
)  # fmt: skip
"""Overrides that can mean nothing."""
_TWICE = ("training: {max_steps: 2}\n", "training: {max_steps: 3}\n", "output: {folder: other}\n")


def _nonsense(random: Random, stage: Stage, index: int) -> Trial:
    """What must be refused; and a folder's name with a `#` in it, which must be that folder."""
    content = _dump(config_values(stage.pairs, stage.rated, "run"))
    kind, override, judge = random.randrange(8), "training.max_steps=1", _refused
    verbs: tuple[tuple[str, ...], ...] = (
        ("train", "config.yaml"), ("check", "--config", "config.yaml"),
    )  # fmt: skip
    if kind == 0:
        override, judge = "output.folder=exp #3", _has_its_name
        verbs = (("train", "config.yaml", "training.max_steps=1"),)
    elif kind == 1:
        content += random.choice(_TWICE).encode()
    else:
        override = random.choice(_NONSENSE)
    act = _with_config(content, verb(*random.choice(verbs), override))
    return Trial(f"configs/{index}/{override}", [Command(act)], judge)


def _refused(folder: Path, ended: Ended) -> Iterator[tuple[Fault, str]]:
    if ended.code not in (2, 3):
        yield Fault.WRONG, f"accepted: {ended.output[-300:]}"


def _has_its_name(folder: Path, ended: Ended) -> Iterator[tuple[Fault, str]]:
    if ended.code == 0 and not (folder / "exp #3" / "model").is_dir():
        yield Fault.WRONG, f"not written to 'exp #3': {ended.output[-300:]}"


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
