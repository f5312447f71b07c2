"""The configuration of a stress test: which rewards are pushed, on which prompts, against what."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from smorm.config.base import Positive, Section
from smorm.stress.rl.config import RLSection

KINDS = ("model", "ensemble", "url", "function", "field", "lab")
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def reward_of_text(text: str) -> dict[str, Any]:
    """What a short form stands for: `lab`, `field:NAME`, an http address, `module:function`, or
    the folder (or hub id) of a reward model."""
    if text == "lab":
        return {"lab": 0}
    if text.startswith("field:"):
        return {"field": text.removeprefix("field:")}
    if text.startswith(("http://", "https://")):
        return {"url": text}
    return {"function" if _FUNCTION.fullmatch(text) else "model": text}


class MemberSection(Section):
    """A model of an ensemble, and the view of it that counts (by default its own)."""

    model: str
    view: Any = None
    name: str | None = None

    @property
    def title(self) -> str:
        """Its name, else its folder's (of `runs/x/model` it is `x`)."""
        place = Path(self.model)
        folder = place.parent if place.name == "model" and place.parent.name else place
        return self.name or folder.name or self.model


class RewardSection(Section):
    """Where rewards come from: exactly one of `model` (a folder or hub id), `ensemble` (several
    models as one), `url` (a server), `function` (`module:function`), `field` (of the file) and
    `lab` (the seed of its world).

    `view` is the model's or the server's; `protocol`, `token_file`, `tokenizer` (a folder whose
    chat template makes text, for a server that takes only text) and `timeout` (seconds a request)
    are the server's; `combine`, `kappa` and `standardise` (a file of responses) the ensemble's.
    """

    model: str | None = None
    ensemble: Annotated[list[MemberSection], Field(min_length=1)] | None = None
    combine: Literal["mean", "min", "uwo"] = "mean"
    kappa: Annotated[float, Field(ge=0)] | None = None
    standardise: str | None = None
    url: str | None = None
    function: str | None = None
    field: str | None = None
    lab: Annotated[int, Field(ge=0)] | None = None
    view: Any = None
    protocol: Literal["auto", "smorm", "vllm", "sglang"] = "auto"
    token_file: Path | None = None
    tokenizer: str | None = None
    timeout: Annotated[float, Field(gt=0)] = 60.0

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return reward_of_text(value) if isinstance(value, str) else value

    @field_validator("ensemble", mode="before")
    @classmethod
    def _members(cls, value: Any) -> Any:
        return _listed(value, lambda text: {"model": text})

    @model_validator(mode="after")
    def _one_of_them(self) -> RewardSection:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            said = f"{' and '.join(given)} are given" if given else "none is given"
            raise ValueError(
                f"exactly one of {', '.join(KINDS)} says where rewards come from; {said}"
            )
        if self.kind not in ("model", "url") and self.view is not None:
            hint = ": give each member its own" if self.kind == "ensemble" else ""
            raise ValueError(f"view: a {self.kind} has no views{hint}")
        if self.kind != "url" and self.token_file is not None:
            raise ValueError("token_file: only a server (url) asks for a token")
        if self.kind != "url" and self.tokenizer is not None:
            raise ValueError("tokenizer: only for a server (url) that takes text")
        if self.protocol == "sglang" and self.tokenizer is None:
            raise ValueError(
                "protocol sglang takes text: name under tokenizer the folder that is served"
            )
        return self

    @model_validator(mode="after")
    def _what_an_ensemble_has(self) -> RewardSection:
        untouched = (self.combine, self.kappa, self.standardise) == ("mean", None, None)
        if self.kind != "ensemble" and not untouched:
            raise ValueError("combine, kappa, standardise: only with ensemble")
        if self.kappa is not None and self.combine != "uwo":
            raise ValueError(f"kappa: is for combine uwo, not for {self.combine}")
        names = [member.title for member in self.ensemble or ()]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"ensemble: {twice} is there twice: give each its own name")
        return self

    @property
    def kind(self) -> str:
        """Which of the six it is."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def place(self) -> str:
        """What it is, in one word for a reader."""
        if self.ensemble is not None:
            return f"ensemble ({', '.join(member.title for member in self.ensemble)})"
        value = str(getattr(self, self.kind))
        return f"{self.kind}:{value}" if self.kind in ("field", "lab") else value


class ProxySection(RewardSection):
    """A reward that is pushed; of a model every view of `views`. `seed` tells runs of one `name`
    apart, whose results then stand together."""

    name: str | None = None
    seed: int | None = None
    views: list[Any] | None = None

    @model_validator(mode="after")
    def _views_of_a_model(self) -> ProxySection:
        if self.views is not None and (self.kind != "model" or self.view is not None):
            raise ValueError("views: only a model has several; give either view or views")
        if self.views == []:
            raise ValueError("views: name at least one")
        views = self.views or []
        if any(view in views[:at] for at, view in enumerate(views)):
            raise ValueError("views: one is there twice")
        return self


class SampleSection(Section):
    """How answers are sampled from a policy; `batch` is how many at a time.

    The defaults are the published settings: the official best-of-n pipeline.
    """

    policy: str
    answers: Positive = 405
    temperature: Annotated[float, Field(gt=0)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    top_k: Annotated[int, Field(ge=0)] = 0
    max_new_tokens: Positive = 1024
    prompt_tokens: Positive = 1024
    seed: Annotated[int, Field(ge=0)] = 0
    batch: Positive = 64


class PromptsSection(Section):
    """A set of prompts with their pools of answers, or with `sample` the prompts alone.

    `limit` is the most prompts; `max_words` the most words of an answer, longer ones are left out
    of their pools for every reward alike.
    """

    name: str
    path: str
    format: str = "auto"
    split: str = "train"
    subset: str | None = None
    limit: Positive | None = None
    max_words: Positive | None = None
    sample: SampleSection | None = None

    @model_validator(mode="after")
    def _names_a_file(self) -> PromptsSection:
        if self.sample is not None and "/" in self.name:
            raise ValueError(
                f"name {self.name!r}: sampled pools are written to a file of this name: leave out "
                "its '/'"
            )
        return self


class StressConfig(Section):
    """The whole configuration of `smorm stress`.

    `n`: sizes of best-of-n; by default 1, 2, 4, ... up to the smallest pool. Given sizes leave out
    pools that are smaller than the largest. `probes`: whether attack strings are tried too. `rl`:
    optimise a policy instead of taking best-of-n; of `prompts` only the prompts count then.
    """

    models: Annotated[list[ProxySection], Field(min_length=1)]
    prompts: Annotated[list[PromptsSection], Field(min_length=1)]
    gold: RewardSection
    output: Path
    n: list[Positive] | None = None
    probes: bool = True
    rl: RLSection | None = None
    overlong: Literal["error", "drop", "truncate_prompt"] | None = None
    on_bad_record: Literal["stop", "skip"] = "stop"
    max_batch_tokens: Positive = 8192
    device: str = "cpu"

    @field_validator("models", mode="before")
    @classmethod
    def _models(cls, value: Any) -> Any:
        return _listed(value, reward_of_text)

    @field_validator("prompts", mode="before")
    @classmethod
    def _prompts(cls, value: Any) -> Any:
        return _listed(
            value, lambda text: {"name": Path(text).name.partition(".")[0], "path": text}
        )

    @field_validator("n", mode="after")
    @classmethod
    def _sizes(cls, value: list[int] | None) -> list[int] | None:
        if value is None:
            return None
        if 1 not in value or len(set(value)) < 3:
            raise ValueError("expected 1 and at least two larger sizes")
        return sorted(set(value))

    @model_validator(mode="after")
    def _one_kind_of_test(self) -> StressConfig:
        pools = [one.name for one in self.prompts if one.sample or one.max_words]
        if self.rl is not None and (self.n is not None or pools):
            what = "n" if self.n is not None else f"prompts.{pools[0]}: sample and max_words"
            raise ValueError(f"{what}: for best-of-n; with rl the policy itself answers")
        return self

    @model_validator(mode="after")
    def _distinct(self) -> StressConfig:
        names = [one.name for one in self.prompts]
        if len(set(names)) < len(names):
            raise ValueError("prompts: two sets have the same name")
        return self

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the fingerprint."""
        return self.model_dump(mode="json")


def _listed(value: Any, from_text: Callable[[str], dict[str, Any]]) -> Any:
    """A list of sections, of a list or of `NAME: section`; a section may be a text."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, dict):
        named = [(str(name), one) for name, one in value.items()]
        return [
            {**(from_text(one) if isinstance(one, str) else one), "name": name}
            if isinstance(one, str | dict)
            else one
            for name, one in named
        ]
    if isinstance(value, list):
        return [from_text(one) if isinstance(one, str) else one for one in value]
    return value
