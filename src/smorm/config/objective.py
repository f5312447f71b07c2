"""The section that says what is minimised."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from smorm.config.base import Positive, Section

Weight = Annotated[float, Field(ge=0.0)]


class OdinConfig(Section):
    """ODIN's weights: of the `length` term (both correlations) and the rows' `orthogonality`."""

    length: Weight = 1.0
    orthogonality: Weight = 1.0


class GrmConfig(Section):
    """GRM's regulariser of the language head, its `share` of the loss and the scale `beta` of its
    log-probabilities."""

    regulariser: Literal["sft", "dpo", "dpo_noref"] = "sft"
    share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.01
    beta: Annotated[float, Field(gt=0.0)] = 0.1


class ArmoConfig(Section):
    """ArmoRM's two stages on frozen features.

    `debias`: what rewards are made independent of: `length` (the response's tokens), the name of an
    attribute, or null; `correlation`: the largest rank correlation with it that is left.
    `held_out`: share of the rated prompts that choose each ridge penalty. Of the gate: its hidden
    `layers`, their `width`, `dropout` and the `temperature` of its softmax.
    """

    debias: str | None = "length"
    correlation: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.03
    held_out: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    layers: Positive = 3
    width: Positive = 1024
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    temperature: Annotated[float, Field(gt=0.0)] = 10.0


class ObjectiveSection(Section):
    """What is minimised.

    `kind`: `joint` (SMORM), `preference` (Single: Bradley–Terry alone), `regression` (Multi),
    `odin` (quality and length rows), `grm` (Bradley–Terry beside the kept language head) or `armo`
    (ridge rows of attributes on frozen features, mixed by a gate on the prompt).
    `weighting` of the regression term: `paper` (sum over attributes, weight 1), `official` (mean
    over attributes, weight 1), `fixed` (`weight` times the `reduction` over attributes) or
    `learned` (maximum-likelihood noise per attribute).
    `positive_regularisation`, `centering`, `bsr`: weights of regularisers of the preference row.
    """

    kind: Literal["joint", "preference", "regression", "odin", "grm", "armo"] = "joint"
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    use_margin: bool = False
    positive_regularisation: Weight = 0.0
    centering: Weight = 0.0
    bsr: Weight = 0.0
    odin: OdinConfig = OdinConfig()
    grm: GrmConfig = GrmConfig()
    armo: ArmoConfig = ArmoConfig()
    weighting: Literal["paper", "official", "fixed", "learned"] = "official"
    weight: Annotated[float, Field(gt=0)] = 1.0
    reduction: Literal["sum", "mean"] = "mean"
    noise_learning_rate: Annotated[float, Field(gt=0)] = 0.01

    @model_validator(mode="after")
    def _where_it_acts(self) -> ObjectiveSection:
        for name in ("positive_regularisation", "centering", "bsr"):
            if getattr(self, name) and self.kind not in ("joint", "preference"):
                raise ValueError(f"{name}: with kind joint or preference only, not {self.kind}")
        for name in ("label_smoothing", "use_margin"):
            if getattr(self, name) and not self.uses_pairs:
                raise ValueError(f"{name}: of preference pairs, which kind regression does not use")
        own = (("odin", OdinConfig()), ("grm", GrmConfig()), ("armo", ArmoConfig()))
        for name, untouched in own:
            if getattr(self, name) != untouched and self.kind != name:
                raise ValueError(f"{name}: with kind {name} only, not {self.kind}")
        return self

    @property
    def uses_pairs(self) -> bool:
        """Whether preference pairs are trained on."""
        return self.kind != "regression"

    @property
    def uses_ratings(self) -> bool:
        """Whether rated responses are trained on."""
        return self.kind in ("joint", "regression", "armo")
