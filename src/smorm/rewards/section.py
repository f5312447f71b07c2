"""Which reward is meant: its section of a configuration, and its spelling on a command line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_serializer, model_validator

from smorm.config import load_section, parse_section
from smorm.config.base import Positive, Section
from smorm.printing import address_of
from smorm.registry import Registry

if TYPE_CHECKING:
    from smorm.rewards.protocol import Reward

# Kinds of rewards by name, each a subclass of `smorm.rewards.protocol.Reward`.
REWARDS: Registry[type[Reward]] = Registry(
    "reward",
    "smorm.rewards",
    {
        "model": "smorm.rewards.model:ModelReward",
        "ensemble": "smorm.rewards.ensemble:Ensemble",
        "url": "smorm.rewards.server:ServerReward",
        "function": "smorm.rewards.function:FunctionReward",
        "field": "smorm.rewards.field:FieldReward",
        "file": "smorm.rewards.field:FileReward",
        "lab": "smorm.rewards.field:TruthReward",
    },
)

# The kinds that have a key of their own in a section.
KINDS = REWARDS.names()
LOADING = ("device", "dtype", "max_tokens", "chat_template")
_TRUTH = ("lab", "truth", "world")


def reward_of_text(text: str) -> dict[str, Any]:
    """The section that a short form stands for (docs/rewards.md has the spellings)."""
    kind, separator, argument = text.partition(":")
    # The order decides where a text could be several things: a folder is a model by any name.
    if text in _TRUTH:
        return {"lab": 0}
    if Path(text).is_dir():
        return {"model": text}
    if text.startswith(("http://", "https://")):
        return {"url": text}
    if separator and kind in _TRUTH:
        return {"lab": int(argument) if argument.isdecimal() else argument}
    if separator and kind in KINDS:
        return {kind: argument}
    # Before functions: `NAME:argument` of a registered kind looks like `module:name` too.
    if kind in REWARDS and kind not in KINDS:
        return {"reward": text}
    # Of a file the path may hold anything, of a module only what a name may.
    if re.fullmatch(r"([A-Za-z_][\w.]*|.+\.py):[A-Za-z_]\w*", text):
        return {"function": text}
    if text.endswith((".jsonl", ".jsonl.gz", ".json", ".json.gz", ".ndjson", ".parquet")):
        return {"file": text}
    return {"model": text}


def parse_reward(text: str, where: str = "reward", **options: Any) -> RewardSection:
    """The section of a reward on the command line; `options` are further keys of it."""
    values = reward_of_text(text)
    if text.endswith((".yaml", ".yml")):
        values = load_section(RewardSection, text).model_dump(exclude_unset=True)
    for key, value in options.items():
        if value is not None:
            values[key] = value
    return parse_section(RewardSection, values, where)


def listed(value: Any, section_of_text: Callable[[str], dict[str, Any]]) -> Any:
    """A list of sections from a text, a list, or `NAME: section`; a section may be a text."""
    if isinstance(value, str):
        return [section_of_text(value)]
    names: list[Any] = []
    if isinstance(value, Mapping):
        names, value = list(value), list(value.values())
    if not isinstance(value, list):
        return value  # refused by the section's own type
    sections = []
    for index, section in enumerate(value):
        if isinstance(section, str):
            section = section_of_text(section)
        if names and isinstance(section, Mapping):
            section = {**section, "name": str(names[index])}
        sections.append(section)
    return sections


class RewardSection(Section):
    """Where rewards come from: exactly one of the kinds' keys; docs/rewards.md has every key."""

    name: str | None = None
    model: str | None = None
    ensemble: Annotated[list[RewardSection], Field(min_length=1)] | None = None
    combine: Literal["mean", "min", "uwo"] = "mean"
    kappa: Annotated[float, Field(ge=0)] | None = None
    standardise: str | None = None
    url: str | None = None
    function: str | None = None
    field: str | None = None
    file: str | None = None
    lab: Annotated[int, Field(ge=0)] | None = None
    reward: str | None = None
    view: Any = None
    protocol: Literal["auto", "smorm", "vllm", "sglang"] = "auto"
    token_file: Path | None = None
    tokenizer: str | None = None
    timeout: Annotated[float, Field(gt=0)] = 60.0
    # How a model is loaded; by default as the verb or the configuration says for all models.
    device: str | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    max_tokens: Positive | None = None
    chat_template: Path | None = None

    @model_serializer(mode="wrap")
    def _without_defaults_of_loading(self, handler: Any) -> dict[str, Any]:
        # Keys that came later: without them a section's fingerprint is that of older results.
        values: dict[str, Any] = handler(self)
        return {key: values[key] for key in values if key not in LOADING or values[key] is not None}

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return reward_of_text(value) if isinstance(value, str) else value

    @field_validator("ensemble", mode="before")
    @classmethod
    def _members(cls, value: Any) -> Any:
        return listed(value, reward_of_text)

    @model_validator(mode="after")
    def _exactly_one(self) -> RewardSection:
        keys = (*KINDS, "reward")
        named = [key for key in keys if getattr(self, key) is not None]
        if len(named) != 1:
            problem = f"{' and '.join(named)} are given"
            if not named:
                problem = "none is given"
            where = f"exactly one of {', '.join(keys)} says where rewards come from"
            raise ValueError(f"{where}; {problem}")
        # Refused while the configuration is read, with the names that there are.
        if self.reward is not None and self.kind not in REWARDS:
            names = ", ".join(REWARDS.names())
            raise ValueError(f"reward: {self.kind!r} is no kind of reward; there are {names}")
        return self

    @model_validator(mode="after")
    def _keys_of_its_kind(self) -> RewardSection:
        if self.kind == "ensemble" and self.view is not None:
            raise ValueError("view: an ensemble has no views: give each member its own")
        if self.kind in ("field", "file", "function", "lab") and self.view is not None:
            raise ValueError(f"view: a {self.kind} has no views")
        for key in LOADING:
            if self.kind != "model" and getattr(self, key) is not None:
                raise ValueError(f"{key}: only for a model; an ensemble's members have their own")
        for key in ("token_file", "tokenizer"):
            if self.kind != "url" and getattr(self, key) is not None:
                raise ValueError(f"{key}: only for a server (url)")
        if self.protocol == "sglang" and self.tokenizer is None:
            raise ValueError(
                "protocol sglang takes text: name under tokenizer the folder that is served"
            )
        defaults = (self.combine, self.kappa, self.standardise) == ("mean", None, None)
        if self.kind != "ensemble" and not defaults:
            raise ValueError("combine, kappa, standardise: only with ensemble")
        if self.kappa is not None and self.combine != "uwo":
            raise ValueError(f"kappa: is for combine uwo, not for {self.combine}")
        names: set[str] = set()
        for member in self.ensemble or ():
            name = member.title
            if member.kind == "ensemble":
                raise ValueError("ensemble: a member cannot be an ensemble itself")
            if name in names:
                raise ValueError(
                    f"ensemble: {name} is named twice: give each its own name; to combine rows of "
                    "one model use a view (smorm view)"
                )
            names.add(name)
        return self

    @property
    def kind(self) -> str:
        """Its name in the registry."""
        # Only a registered kind has no key of its own.
        for kind in KINDS:
            if getattr(self, kind) is not None:
                return kind
        return str(self.reward).partition(":")[0]

    @property
    def argument(self) -> str:
        """The value of its kind's key; of a registered kind what stands behind the colon."""
        if self.reward is None:
            return str(getattr(self, self.kind))
        return self.reward.partition(":")[2]

    @property
    def place(self) -> str:
        """What it is, for a reader: a path, an address, or `KIND:argument`."""
        if self.ensemble is not None:
            return f"ensemble ({', '.join(member.title for member in self.ensemble)})"
        # Results are called by it.
        if self.url is not None:
            return address_of(self.url)
        if self.kind in ("field", "lab"):
            return f"{self.kind}:{self.argument}"
        return self.reward or self.argument

    @property
    def title(self) -> str:
        """Its name, else its folder's, else its place."""
        if self.name is not None or self.model is None:
            return self.name or self.place
        return short_name(self.model) or self.model


def short_name(path: str) -> str:
    """A folder's name; of `runs/x/model` it is `x`."""
    folder = Path(path)
    if folder.name == "model" and folder.parent.name:
        folder = folder.parent
    return folder.name


def display_names(paths: list[str]) -> list[str]:
    """Names that tell rewards apart: a folder's, or the whole path where two folders share one."""
    names = list(map(short_name, paths))
    counts = Counter(names)
    for index, path in enumerate(paths):
        if not names[index] or counts[names[index]] > 1:
            names[index] = path
    return names
