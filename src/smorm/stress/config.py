"""The configuration of a stress test, by best-of-n or by optimising a policy (`rl`). The keys are
explained in docs/stress.md and docs/rl.md."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from smorm.config.base import Fraction, Positive, Section
from smorm.data.reading import Source
from smorm.rewards.section import RewardSection, listed, reward_of_text

if TYPE_CHECKING:
    from smorm.rewards.protocol import ScoringOptions

Algorithm = Literal["ppo", "grpo", "rloo"]
PositiveFloat = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class ProxySection(RewardSection):
    """A reward to optimise against; of a model or server every view of `views`."""

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
    """How answers are sampled from a policy."""

    policy: str
    # The published settings: the official best-of-n pipeline.
    answers: Positive = 405
    temperature: PositiveFloat = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    top_k: Annotated[int, Field(ge=0)] = 0
    max_new_tokens: Positive = 1024
    prompt_tokens: Positive = 1024
    seed: Annotated[int, Field(ge=0)] = 0
    batch: Positive = 64


class PromptsSection(Section):
    """A set of prompts with their pools of answers, or with `sample` the prompts alone."""

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

    @property
    def source(self) -> Source:
        """The file."""
        return Source(self.path, self.format, self.split, self.subset, limit=self.limit)


class TrainingPrompts(Section):
    """The prompts that a policy is optimised on."""

    path: str
    split: str = "train"
    subset: str | None = None
    limit: Positive | None = None

    @property
    def source(self) -> Source:
        """The file."""
        return Source(self.path, split=self.split, subset=self.subset, limit=self.limit)


class ConstraintSection(Section):
    """The value that the proxy is held at, in its raw units, given or `from` an earlier run."""

    model_config = ConfigDict(populate_by_name=True)

    threshold: float | None = None
    from_result: Annotated[Path | None, Field(alias="from")] = None
    prompts: str | None = None
    rate: PositiveFloat = 0.1
    damping: NotNegative = 1.0

    @model_validator(mode="after")
    def _threshold_or_file(self) -> ConstraintSection:
        if (self.threshold is None) == (self.from_result is None):
            raise ValueError("give either threshold (a number) or from (a result file)")
        if self.prompts is not None and self.from_result is None:
            raise ValueError("prompts: names a set of the result file; give from too")
        return self


class RLSection(Section):
    """Policy optimisation in place of best-of-n, of the policy of a folder or hub id, or of `lab`.
    Defaults that are no sizes are those of the published protocol."""

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
    kl_coefficient: NotNegative = 0.0
    temperature: PositiveFloat = 0.7
    max_new_tokens: Positive = 512
    prompt_tokens: Positive = 1024
    normalise_rewards: Literal["first", "running", "none"] = "first"
    gae_lambda: Fraction = 0.95
    value_coefficient: NotNegative = 0.1
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
        """Answers of a step, over which it makes its passes."""
        return self.prompts_per_step * self.answers_per_prompt

    @property
    def gradient_step(self) -> int:
        """Answers of a gradient step."""
        return self.minibatch or self.answers

    @property
    def all_passes(self) -> int:
        """Passes over the answers of a step: 4 for PPO, 1 for the others, unless given."""
        default = 4 if self.algorithm == "ppo" else 1
        return self.passes or default


class StressConfig(Section):
    """The whole configuration of `smorm stress`."""

    models: Annotated[list[ProxySection], Field(min_length=1)]
    prompts: Annotated[list[PromptsSection], Field(min_length=1)]
    gold: RewardSection
    output: Path
    n: list[Positive] | None = None
    in_distribution: str | None = None  # the set of `prompts` that alarms compare others with
    probes: bool = True
    rl: RLSection | None = None
    overlong: Literal["error", "drop", "truncate_prompt"] | None = None
    on_bad_record: Literal["stop", "skip"] = "stop"
    max_batch_tokens: Positive = 8192
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"  # of models
    max_tokens: Positive | None = None  # the longest conversation of models
    chat_template: Path | None = None  # of models, in place of their own

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
        names = [section.name for section in self.prompts]
        if self.in_distribution is not None and self.in_distribution not in names:
            raise ValueError(
                f"in_distribution: no set of prompts is called {self.in_distribution!r}; there are "
                f"{', '.join(names)}"
            )
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
    def skips_answers(self) -> bool:
        """Whether a policy's answer that a reward cannot score is left out, counted."""
        return self.on_bad_record == "skip" or self.overlong == "drop"

    @property
    def scoring_options(self) -> ScoringOptions:
        """How rewards are loaded and computed."""
        from smorm.rewards.protocol import ScoringOptions
        from smorm.text.tokenizers import read_template

        template = None
        if self.chat_template is not None:
            template = read_template(self.chat_template, "chat_template")
        return ScoringOptions(
            self.device, self.max_batch_tokens, self.overlong,
            dtype=self.dtype, max_tokens=self.max_tokens, chat_template=template,
        )  # fmt: skip

    @property
    def decisive(self) -> dict[str, Any]:
        """Plain values of all that decides the numbers, for the fingerprint."""
        left_out = {"output", "device"}
        # Keys that came later: where they say nothing, the fingerprint is that of older results.
        if self.dtype == "float32":
            left_out.add("dtype")
        for key in ("max_tokens", "chat_template", "in_distribution"):
            if getattr(self, key) is None:
                left_out.add(key)
        of_reward: dict[str, Any] = {"device": True, "ensemble": {"__all__": {"device": True}}}
        exclude: dict[str, Any] = {"gold": of_reward, "models": {"__all__": of_reward}}
        return self.model_dump(mode="json", exclude=exclude | dict.fromkeys(left_out, True))
