"""The configuration of policy optimisation: which policy, by which algorithm, how far."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from smorm.config.base import Fraction, Positive, Section

Algorithm = Literal["ppo", "grpo", "rloo"]
PositiveFloat = Annotated[float, Field(gt=0)]


class TrainingPrompts(Section):
    """The file of prompts that the policy is optimised on; `limit` is the most of them."""

    path: str
    split: str = "train"
    subset: str | None = None
    limit: Positive | None = None


class ConstraintSection(Section):
    """The value that the proxy is held at, in its raw units: `threshold`, or the value at the
    gold's peak of an earlier run, `from` its result file on the set `prompts` (by default the
    file's first). `rate` is the multiplier's learning rate, `damping` the weight of the present
    gap."""

    model_config = ConfigDict(populate_by_name=True)

    threshold: float | None = None
    from_result: Annotated[Path | None, Field(alias="from")] = None
    prompts: str | None = None
    rate: PositiveFloat = 0.1
    damping: Annotated[float, Field(ge=0)] = 1.0

    @model_validator(mode="after")
    def _threshold_or_file(self) -> ConstraintSection:
        if (self.threshold is None) == (self.from_result is None):
            raise ValueError("give either threshold (a number) or from (a result file)")
        if self.prompts is not None and self.from_result is None:
            raise ValueError("prompts: names a set of the result file; give from too")
        return self


class RLSection(Section):
    """Policy optimisation in place of best-of-n, of the policy of a folder or hub id, or of `lab`.
    A step samples `answers_per_prompt` answers to each of `prompts_per_step` prompts and makes
    `passes` over them, in gradient steps of `minibatch` answers (by default all). `batch` is the
    number of answers that go through the policy at a time. docs/rl.md has the other keys and their
    symbols. Defaults that are no sizes are those of the published protocol."""

    policy: str
    prompts: TrainingPrompts
    algorithm: Algorithm = "ppo"
    steps: Positive = 60
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]] | None, Field(min_length=1)] = None
    prompts_per_step: Positive = 32
    answers_per_prompt: Positive = 4
    passes: Positive | None = None
    minibatch: Positive | None = None
    learning_rate: PositiveFloat = 1e-5
    max_grad_norm: PositiveFloat = 5.0
    clip: PositiveFloat = 0.2
    kl_coefficient: Annotated[float, Field(ge=0)] = 0.0
    temperature: PositiveFloat = 0.7
    max_new_tokens: Positive = 512
    prompt_tokens: Positive = 1024
    normalise_rewards: Literal["first", "running", "none"] = "first"
    gae_lambda: Fraction = 0.95
    value_coefficient: Annotated[float, Field(ge=0)] = 0.1
    evaluate_every: Positive = 5
    evaluation_answers: Annotated[int, Field(ge=2)] = 4
    batch: Positive = 256
    constraint: ConstraintSection | None = None

    @field_validator("prompts", mode="before")
    @classmethod
    def _prompts(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @field_validator("seeds", mode="after")
    @classmethod
    def _seeds(cls, value: list[int] | None) -> list[int] | None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError("a seed is there twice")
        return value

    @model_validator(mode="after")
    def _sizes(self) -> RLSection:
        if self.algorithm != "ppo" and self.answers_per_prompt < 2:
            raise ValueError(
                f"answers_per_prompt: {self.algorithm} compares answers to one prompt: 2 or more"
            )
        if self.constraint is not None and self.kl_coefficient == 0:
            raise ValueError(
                "kl_coefficient: expected above 0 with a constraint: the KL to the start is "
                "minimised while the proxy is held"
            )
        if self.answers % self.gradient_step:
            raise ValueError(
                f"minibatch: {self.gradient_step} does not divide the {self.answers} answers of a "
                "step (prompts_per_step × answers_per_prompt)"
            )
        return self

    @property
    def answers(self) -> int:
        """Answers of a step."""
        return self.prompts_per_step * self.answers_per_prompt

    @property
    def gradient_step(self) -> int:
        """Answers of a gradient step."""
        return self.minibatch or self.answers

    @property
    def all_passes(self) -> int:
        """Passes over the answers of a step: 4 for PPO, 1 for the others, unless given."""
        if self.passes is not None:
            return self.passes
        if self.algorithm == "ppo":
            return 4
        return 1
