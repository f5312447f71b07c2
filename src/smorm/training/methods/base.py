"""What a training method is: everything that differs between one and another.

Micro-batches add up to most terms. Those of a statistic over all pairs of the step (a mean, a
correlation) are `step_terms`: a first pass without gradient computes the scores of the step,
autograd the gradient of these terms by the scores, and the second pass back-propagates it beside
the others: exact whatever the micro-batches (Gao et al., 2021, arXiv 2101.06983, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, cast

import torch

from smorm.arrays import Floats, Ints
from smorm.config import Config, ObjectiveSection
from smorm.config.base import Section
from smorm.data.scaling import AttributeScale
from smorm.model.card import HeadKind
from smorm.model.network import RewardNetwork
from smorm.objectives.terms import Losses, Rows, Terms, Totals
from smorm.training.batches import MicroBatch

if TYPE_CHECKING:
    from smorm.training.setup import Prepared

View = Literal["F", "L", "M"]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a forward pass gives: all rows of the head [sequences, 1 + attributes], and where a
    method asks for them the log-probabilities of each sequence's response [sequences]."""

    scores: torch.Tensor
    log_probs: torch.Tensor | None = None


class Method:
    """A training method: the base class, with Bradley–Terry's answers to every question.

    Of a run it has `parameters`, what is trained beside the network by name (of checkpoints too),
    their peak learning rate, and `reference_tokens`, which were computed before the first step."""

    # Its name in tables, where that is not its kind.
    title: ClassVar[str | None] = None
    # Its settings, `objective.NAME` in the configuration.
    section: ClassVar[type[Section] | None] = None
    # The data that it trains on, and the rows of the head that its terms train.
    uses_pairs: ClassVar[bool] = True
    uses_ratings: ClassVar[bool] = False
    trains: ClassVar[tuple[Rows, ...]] = (Rows.PREFERENCE,)
    # The view of a trained model where the configuration names none.
    default_view: ClassVar[View] = "F"
    # Whether it understands the regularisers of the preference row.
    regularised: ClassVar[bool] = False
    # The values of `model.head` that it can train, and the card's kind of head if it is another.
    heads: ClassVar[tuple[str, ...]] = ("linear",)
    card_head: ClassVar[HeadKind | None] = None
    # The values of `model.head_start` that a linear head of it can have.
    head_starts: ClassVar[tuple[str, ...]] = ("random", "zero", "probe", "trl", "openrlhf")
    # Whether the backbone is loaded with its language head.
    keeps_language_head: ClassVar[bool] = False
    # Whether the backbone stays as it comes, and no head starts from it.
    freezes_backbone: ClassVar[bool] = False
    # Whether several processes can train it together.
    over_ranks: ClassVar[bool] = True

    # Before a run: the configuration, the data and the network are made for the class

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse what the method cannot train: ValueError with `key: what is wrong`."""

    @classmethod
    def label(cls, objective: ObjectiveSection) -> str:
        """Its name in tables, with the settings that make it another method."""
        return cls.title or objective.kind

    @classmethod
    def rows(cls, scales: list[AttributeScale]) -> list[AttributeScale]:
        """The rows of the head after the preference row, from the scales of the data."""
        return scales

    @classmethod
    def init_head(cls, network: RewardNetwork) -> None:
        """Change the head before training begins."""

    @classmethod
    def response_targets(cls, run: Prepared, pairs: Ints) -> Floats | None:
        """What the attribute rows learn from the responses of these pairs, [pairs, 2, attributes],
        for `model.head_start: probe`; None where they learn the ratings, or there are none."""
        return None

    @classmethod
    def train(cls, config: Config, *, resume: bool) -> Path:
        """Train, and return the model folder. By default with gradient steps over the network."""
        from smorm.training.loop import train_by_steps  # which imports the methods

        return train_by_steps(config, resume=resume)

    # During a run: an object of the class

    def __init__(self, run: Prepared) -> None:
        """Get ready for a run; the network's weights are those that training begins with."""
        self.objective = run.config.objective
        self.parameters: dict[str, torch.nn.Parameter] = {}
        self.parameter_learning_rate = 0.0
        self.reference_tokens = 0

    @property
    def needs_step_scores(self) -> bool:
        """Whether there are `step_terms`: then a step of several micro-batches takes two passes."""
        return False

    def forward(self, network: RewardNetwork, micro: MicroBatch) -> Outputs:
        """One pass through the network."""
        return Outputs(network(micro.batch))

    def terms(self, outputs: Outputs, micro: MicroBatch, totals: Totals) -> Losses:
        """The terms that micro-batches add up to, divided by the totals of the step."""
        raise NotImplementedError

    def step_terms(self, compared: torch.Tensor, pairs: Ints) -> Losses:
        """The terms over all pairs of the step, by all rows of both sides, [pairs, 2, rows];
        `pairs` [pairs] are the same in the training set."""
        return {}, {}

    def head_terms(self, network: RewardNetwork) -> Terms:
        """The terms over the head's weights, once a step."""
        return {}

    def state_metrics(self) -> dict[str, float]:
        """What `metrics.jsonl` gets of `parameters` after each update."""
        return {}


def method_class(config: Config) -> type[Method]:
    """The method that a configuration names."""
    # The registry is in a lower room, where the type of its objects is a protocol.
    return cast("type[Method]", config.objective.method)


def make_method(run: Prepared) -> Method:
    """The method of a run; made before any weight changes, since it may need the first outputs."""
    return method_class(run.config)(run)
