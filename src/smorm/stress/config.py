"""The configuration of a stress test."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from smorm.config.base import Positive, Section
from smorm.rewards.section import RewardSection, listed, reward_of_text
from smorm.stress.rl.config import RLSection


class ProxySection(RewardSection):
    """A reward to optimise against; of a model or server every view of `views`. `seed` tells runs
    of one `name` apart, whose results then stand together."""

    seed: int | None = None
    views: list[Any] | None = None

    @model_validator(mode="after")
    def _views_of_a_model(self) -> ProxySection:
        if self.views is None:
            return self
        if self.kind not in ("model", "url") or self.view is not None:
            raise ValueError("views: only a model has several; give either view or views")
        if not self.views:
            raise ValueError("views: name at least one")
        for index, view in enumerate(self.views):
            if view in self.views[:index]:
                raise ValueError("views: one is there twice")
        return self


class SampleSection(Section):
    """How answers are sampled from a policy; `batch` is how many at a time. The defaults are the
    published settings: the official best-of-n pipeline."""

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
    """A set of prompts with their pools of answers, or with `sample` the prompts alone. `limit` is
    the most prompts; `max_words` the most words of an answer, longer ones are left out of their
    pools for every reward alike."""

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
    """The whole configuration of `smorm stress`. `n`: sizes of best-of-n; by default 1, 2, 4, ...
    up to the smallest pool. Given sizes leave out pools that are smaller than the largest.
    `probes`: whether attack strings are tried too. `rl`: optimise a policy instead of taking
    best-of-n; of `prompts` only the prompts count then."""

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
        return listed(value, reward_of_text)

    @field_validator("prompts", mode="before")
    @classmethod
    def _prompts(cls, value: Any) -> Any:
        return listed(value, lambda text: {"name": Path(text).name.partition(".")[0], "path": text})

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
        if len({section.name for section in self.prompts}) < len(self.prompts):
            raise ValueError("prompts: two sets have the same name")
        if self.rl is None:
            return self
        answers = "for best-of-n; with rl the policy itself answers"
        if self.n is not None:
            raise ValueError(f"n: {answers}")
        for section in self.prompts:
            if section.sample or section.max_words:
                raise ValueError(f"prompts.{section.name}: sample and max_words: {answers}")
        return self

    @property
    def decisive(self) -> dict[str, Any]:
        """Plain values of all that decides the numbers, for the fingerprint."""
        return self.model_dump(mode="json", exclude={"output", "device"})
