"""ArmoRM: ridge rows on a frozen reward model, mixed by a gate (see `smorm.training.armo`)."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from smorm.config import Architecture, Config
from smorm.config.base import Positive, Section
from smorm.objectives.terms import Rows
from smorm.training.methods.base import Method


class ArmoSection(Section):
    """`debias`: what rewards are made independent of: `length` (the response's tokens), the name of
    an attribute, or null; `correlation`: the largest rank correlation with it that remains.
    `held_out`: share of the rated prompts that choose each ridge penalty. Of the gate: its hidden
    `layers`, their `width`, `dropout` and the `temperature` of its softmax."""

    debias: str | None = "length"
    correlation: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.03
    held_out: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    layers: Positive = 3
    width: Positive = 1024
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    temperature: Annotated[float, Field(gt=0.0)] = 10.0


class Armo(Method):
    """No gradient steps over the backbone, so `train` is overridden."""

    title = "ArmoRM"
    section = ArmoSection
    uses_ratings = True
    trains = (Rows.PREFERENCE, Rows.ATTRIBUTES)
    card_head = "gated"
    # Its rows are always fitted to the ratings.
    head_starts = ("random",)
    freezes_backbone = True
    over_ranks = False

    @classmethod
    def check(cls, config: Config) -> None:
        # On random hidden states a ridge row predicts nothing.
        if isinstance(config.model.backbone, Architecture):
            raise ValueError("model.backbone: objective.kind armo needs a trained (reward) model")
        if config.model.lora is not None:
            raise ValueError("model.lora: objective.kind armo leaves the backbone as it comes")
        if config.training.best is not None:
            raise ValueError("training.best: objective.kind armo writes no checkpoints")

    @classmethod
    def train(cls, config: Config, *, resume: bool) -> Path:
        # Its stages import the trainer, which reading a configuration must not.
        from smorm.training.armo.gate import train_armo

        return train_armo(config, resume=resume)
