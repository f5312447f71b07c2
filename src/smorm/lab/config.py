"""The configuration of a study in the lab."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from smorm.config.base import Fraction, Positive, Section
from smorm.rewards.section import RewardSection
from smorm.stress.best_of_n import doubling_sizes
from smorm.world import REGIMES, Annotation, Habits, Regime

Seed = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(gt=0)]
USUAL_REGIMES: Final[tuple[Regime, ...]] = ("ID", "OODtopic", "far")


class WorldSection(Section):
    """The world's facts, its writers and its annotators."""

    facts: Seed = 0
    style_correlation: Fraction = 0.5
    # Noise of preferences in units of gold, of ratings in units of the attribute (0..1).
    temperature: Amount = 0.15
    rating_noise: Annotated[float, Field(ge=0)] = 0.15


class LabDataSection(Section):
    """Numbers of records, of evaluation ones in each regime."""

    pairs: Positive = 3000
    rated: Positive = 1000
    answers_per_prompt: Positive = 2
    dev_pairs: Positive = 500
    eval_pairs: Positive = 800
    eval_rated: Positive = 300


class PolicySection(Section):
    """The pretrained policy, which reward models start from. Seed 0 of world 0 at the default
    sizes is the shipped policy."""

    seeds: Annotated[list[Seed], Field(min_length=1)] = Field(default_factory=lambda: [0])
    hidden: Annotated[int, Field(ge=16, multiple_of=16)] = 64
    layers: Positive = 3
    steps: Positive = 4500
    batch: Positive = 64
    rate: Amount = 3e-3


class PoolsSection(Section):
    """Best-of-n: `prompts` of each regime, and `answers` to each, sampled from the policy."""

    prompts: Annotated[int, Field(ge=2)] = 24
    answers: Annotated[int, Field(ge=3)] = 256
    temperature: Amount = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_new_tokens: Positive = 64


class ArmSection(Section):
    """One model to train: what it is trained on, and changes to the usual configuration, by
    sections of `smorm train` (`mixing` is its `data.mixing`)."""

    # `union`: pairs, and ratings turned into pairs; `rated_pairs`: those alone; `rated_ratings`:
    # the ratings of the answers in them.
    data: Literal[
        "pairs", "ratings", "both", "union", "rated_pairs", "rated_ratings", "rated_both"
    ] = "pairs"
    twin: Seed = 0  # another training seed on the same data
    start: str | None = None  # the arm whose model it begins from, in place of the policy
    # Not trained: the average of the weights of these arms, or any reward, whose number is view F.
    merge: list[str] = Field(default_factory=list)
    reward: RewardSection | None = None
    objective: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    model: dict[str, Any] = Field(default_factory=dict)
    mixing: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _trained_or_merged(self) -> ArmSection:
        settings = [self.objective, self.training, self.model, self.mixing, self.twin, self.start]
        if self.reward is not None and (self.merge or any(settings)):
            raise ValueError("reward: is not trained here; leave out the rest")
        if self.merge and any(settings):
            raise ValueError("merge: an average of arms is not trained; leave out the rest")
        if len(self.merge) == 1:
            raise ValueError("merge: name two arms or more")
        return self

    @property
    def needs(self) -> list[str]:
        """The arms that must be there first."""
        if self.start:
            return [*self.merge, self.start]
        return self.merge


class SystemSection(Section):
    """What is compared: one reward made of `members` (`ARM:VIEW`, where a view is F, L, M or an
    attribute). `model` and `view` are the names in results, by default the system's name and what
    is combined."""

    members: Annotated[list[str], Field(min_length=1)]
    combine: Literal["mean", "min", "uwo"] = "mean"
    kappa: Annotated[float, Field(ge=0)] = 0.0
    standardise: bool = False
    model: str | None = None
    view: str | None = None

    @property
    def arm_views(self) -> list[tuple[str, str]]:
        """Arm and view of each member."""
        pairs = []
        for member in self.members:
            arm, _, view = member.partition(":")
            pairs.append((arm, view or "F"))
        return pairs

    @property
    def arms(self) -> list[str]:
        """The arms that it needs, each once: a score costs a pass of each."""
        return list(dict(self.arm_views))


class LabConfig(Section):
    """The configuration of `smorm lab`; docs/lab.md says what each key means."""

    output: Path
    work: Path | None = None
    methods: list[str] | Literal["all"] = "all"
    seeds: Positive = 5
    first_seed: Seed = 0
    regimes: Annotated[list[Regime], Field(min_length=1)] = Field(
        default_factory=lambda: list(USUAL_REGIMES)
    )
    world: WorldSection = WorldSection()
    data: LabDataSection = LabDataSection()
    policy: PolicySection = PolicySection()
    pools: PoolsSection = PoolsSection()
    n: list[Positive] | None = None
    training: dict[str, Any] = Field(default_factory=dict)
    arms: dict[str, ArmSection] = Field(default_factory=dict)
    systems: dict[str, SystemSection] = Field(default_factory=dict)
    workers: Positive | Literal["auto"] = "auto"
    device: str = "cpu"

    @field_validator("regimes", mode="after")
    @classmethod
    def _each_once(cls, value: list[Regime]) -> list[Regime]:
        if len(set(value)) < len(value):
            raise ValueError(f"a regime is named twice; there are {', '.join(REGIMES)}")
        return value

    @model_validator(mode="after")
    def _sizes_fit(self) -> LabConfig:
        sizes = self.n
        if sizes is not None and (1 not in sizes or len(set(sizes)) < 3):
            raise ValueError("n: expected 1 and at least two larger sizes")
        if sizes is not None and max(sizes) > self.pools.answers:
            raise ValueError(f"n: the pools have {self.pools.answers} answers (pools.answers)")
        return self

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of best-of-n, ascending."""
        if self.n:
            return tuple(sorted(set(self.n)))
        return doubling_sizes(self.pools.answers)

    @property
    def runs(self) -> range:
        """The seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def work_folder(self) -> Path:
        """Where artifacts are made and found."""
        return self.work or self.output / "work"

    @property
    def annotation(self) -> Annotation:
        """Noise and habits, as the world takes them."""
        world, answers = self.world, self.data.answers_per_prompt
        habits = Habits(wordiness_follows_ability=world.style_correlation)
        return Annotation(world.temperature, world.rating_noise, answers, habits)

    def policy_seed(self, seed: int) -> int:
        """The seed of the policy that a run starts from."""
        return self.policy.seeds[seed % len(self.policy.seeds)]

    def as_dict(self) -> dict[str, Any]:
        """Plain values of all that decides the numbers."""
        values = self.model_dump(mode="json", exclude={"output", "work", "workers", "device"})
        # Configurations of before arms could be rewards keep their fingerprint.
        for arm in values["arms"].values():
            if arm["reward"] is None:
                del arm["reward"]
        return values
