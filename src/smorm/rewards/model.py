"""A reward model as a reward: every view of its rows."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch

from smorm.arrays import Floats
from smorm.data.records import Item
from smorm.data.scaling import restore_scales
from smorm.errors import ConfigError, first_line
from smorm.files import read_json
from smorm.model.store import resolve
from smorm.model.views import NAMED_VIEWS, apply_view
from smorm.rewards.protocol import Results, Reward, RewardView, ScoringOptions
from smorm.rewards.section import RewardSection
from smorm.scoring.reward_model import RewardModel
from smorm.scoring.scorer import Scorer
from smorm.text.tokenizers import read_template

_DEFAULTS = ScoringOptions()
_INLINE = """'{"row": weight}'"""


class ModelReward(Reward):
    """A reward model. Its columns are the head's rows, on the training scale [N, 1 + K]; `view`
    counts unless another is named, and None is the model's own."""

    kind = "model"

    def __init__(
        self, model: RewardModel, view: Any = None, options: ScoringOptions = _DEFAULTS
    ) -> None:
        self.model, self.name, self.default_view = model, model.name, view
        self.attributes, self.training_means = model.attributes, model.card.means
        self.parameters = (sum(weight.numel() for weight in model.network.parameters()),)
        # As in training unless the caller says otherwise: scores are then those that were trained.
        overlong: Any = options.overlong or model.card.overlong
        self.shares_prompt = overlong == "truncate_prompt"
        self.scorer = Scorer(model.network, model.renderer, overlong, options.max_batch_tokens)

    @classmethod
    def open(cls, section: RewardSection, options: ScoringOptions) -> Self:
        # What a section says of one model wins over what is said for all.
        template = options.chat_template
        if section.chat_template is not None:
            template = read_template(section.chat_template, "chat_template")
        model = RewardModel.load(
            str(section.model),
            device=section.device or options.device,
            dtype=section.dtype or options.dtype,
            max_tokens=section.max_tokens or options.max_tokens,
            chat_template=template,
        )
        reward = cls(model, read_view(section.view), options)
        # A view that the model does not have is refused now, not after hours of scoring.
        for value in options.views or (None,):
            reward.view(value)
        return reward

    @classmethod
    def find(cls, section: RewardSection) -> None:
        resolve(str(section.model))
        if section.chat_template is not None:
            read_template(section.chat_template, "chat_template")
        read_view(section.view)

    @property
    def provenance(self) -> dict[str, Any]:
        facts = {
            "model": dict(self.model.card.hashes),
            "renderer": self.model.renderer.fingerprint,
            "layout": self.model.network.layout,
        }
        # In fp32 the facts are those of older results.
        dtype = next(self.model.network.backbone.parameters()).dtype
        if dtype != torch.float32:
            facts["dtype"] = str(dtype).removeprefix("torch.")
        return facts

    def score(self, items: Sequence[Item]) -> Results:
        """All rows of the head; the responses of an item share their prompt's computation."""
        return self.scorer.score(items, advance=self.advance)

    def view(self, value: Any = None) -> RewardView:
        """Any view that the model has: a name, a definition, or a JSON file with one."""
        view = self.model.view(self.default_view if value is None else read_view(value))
        scales = self.model.card.scales
        return RewardView(view.name, lambda rows: apply_view(view, rows, scales), view.as_dict())

    def ratings(self, rows: Floats) -> Floats:
        return restore_scales(self.model.card.scales, rows[:, 1:])

    def fields(self, rows: Floats) -> list[dict[str, Any]]:
        """The preference row (None without one), and the attributes on their own scales."""
        fields = []
        card = self.model.card
        for row, ratings in zip(rows, self.ratings(rows).tolist(), strict=True):
            attributes = dict(zip(self.attributes, ratings, strict=True))
            preference = None if card.foreign else float(row[0]) + card.offset
            fields.append({"preference": preference, "attributes": attributes})
        return fields


def as_reward(reward: Reward | RewardModel, options: ScoringOptions = _DEFAULTS) -> Reward:
    """A model as a reward; any other reward as it is."""
    if isinstance(reward, RewardModel):
        return ModelReward(reward, options=options)
    return reward


def read_view(value: Any) -> Any:
    """A view as a person names it: F, L, M, a published set of weights, JSON such as
    `{"helpfulness": 1}`, or a JSON file's content; anything but a text is a view already."""
    if not isinstance(value, str) or value in NAMED_VIEWS:
        return value
    if value.lstrip().startswith("{"):
        return _parsed(value)
    if not Path(value).is_file():
        known = ", ".join(NAMED_VIEWS)
        raise ConfigError(f"view {value}: expected {known}, {_INLINE} or a JSON file")
    definition = read_json(value)
    if not isinstance(definition, dict):
        raise ConfigError(f"view {value}: expected a JSON object, as `smorm view` writes it")
    return definition


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        problem = first_line(error)
        raise ConfigError(f"view {text}: no valid JSON ({problem}), expected {_INLINE}") from error
