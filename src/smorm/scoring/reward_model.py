"""A reward model ready to use: load, score, read any view. N responses, K attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from smorm.arrays import Bools, Floats, Ints
from smorm.data.census import Census
from smorm.data.items import as_items
from smorm.data.records import Item
from smorm.data.scaling import restore_scales
from smorm.errors import ConfigError, DataError, ModelError
from smorm.limits import limit, refusal
from smorm.model import views
from smorm.model.backbone import position_limit
from smorm.model.card import ModelCard
from smorm.model.device import keep_freed_memory, pick_device
from smorm.model.network import Layout, RewardNetwork
from smorm.model.store import load_model, resolve
from smorm.model.verify import choose_layout
from smorm.printing import get_logger
from smorm.scoring.description import ModelDescription
from smorm.scoring.scorer import DEFAULT_BATCH_TOKENS, Scorer
from smorm.text.limits import Overlong, Unscored

log = get_logger(__name__)

Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of N responses, in the order they were given."""

    rows: Floats  # the head's raw output, [N, 1 + K], attributes on the training scale
    tokens: Ints  # length of each conversation in tokens, [N]
    truncated: Bools  # whether its prompt was shortened to fit, [N]
    model: RewardModel
    default: views.View

    @property
    def preference(self) -> Floats:
        """The preference row, [N]. Raises ConfigError where the model has none."""
        if self.model.card.foreign:
            self.model.view("F")  # says which rows there are
        return self.rows[:, 0] + self.model.card.offset

    @property
    def attributes(self) -> Floats:
        """The attributes on their own scales, [N, K], in the order of `model.attributes`."""
        return restore_scales(self.model.card.scales, self.rows[:, 1:])

    def view(self, view: Any = None) -> Floats:
        """A view's values, [N]; without an argument the one that `score` was asked for."""
        chosen = self.default if view is None else self.model.view(view)
        return views.apply_view(chosen, self.rows, self.model.card.scales)

    def __len__(self) -> int:
        return len(self.rows)


@cache
def _say_no_template(path: str) -> None:
    # Once a model: one that is a member of an ensemble is loaded again and again.
    log.warning(
        "%s: neither the model nor its tokenizer has a chat template: conversations are rendered "
        "as `User: …`, `Assistant: …`; name the one of its training with --chat-template FILE",
        path,
    )


class RewardModel(ModelDescription):
    """Network, renderer and card of a model folder.

    >>> model = RewardModel.load("runs/x/model")                           # doctest: +SKIP
    >>> model.score([("What is 2 + 2?", "4"), ("What is 2 + 2?", "5")]).view("M")  # doctest: +SKIP
    """

    def __init__(
        self, network: RewardNetwork, tokenizer: Any, card: ModelCard, *, name: str = "model"
    ) -> None:
        super().__init__(tokenizer, card, name=name)
        self.network = network

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        device: str = "cpu",
        dtype: Dtype = "float32",
        layout: Layout | None = None,
        max_tokens: int | None = None,
        chat_template: str | None = None,
    ) -> RewardModel:
        """Load a model folder (or a run's folder), ours or any Hugging Face reward model's.

        `device` is `cpu`, `cuda`, `cuda:1`, or `auto`, CUDA where there is one; `dtype` the
        backbone's precision (the head is always in fp32); `layout` by default the fastest one that
        is verified to give the reference's scores; `max_tokens` the longest conversation, by
        default as in training; `chat_template` (Jinja source) is used in place of the folder's.
        Raises ConfigError if there is no such device or the backbone has fewer positions,
        ModelError for a folder that is none, has no head, is damaged or renders otherwise."""
        target = pick_device(device)
        network, tokenizer, card = load_model(path, dtype=getattr(torch, dtype))
        if max_tokens is not None:
            card = replace(card, max_tokens=_fitting(max_tokens, network, path))
        network.to(target)
        if network.device.type == "cpu":
            keep_freed_memory()
        choose_layout(network, layout)
        trained = card.renderer
        if chat_template is not None:
            card = replace(card, chat_template=chat_template, renderer="")
        model = cls(network, tokenizer, card, name=str(path))
        if not (card.chat_template or tokenizer.chat_template):
            _say_no_template(str(path))
        if trained and not card.renderer and trained != model.renderer.fingerprint:
            log.warning(
                "%s: --chat-template is not the template of training: the scores are not those "
                "that were trained",
                path,
            )
        renderer = model.renderer
        if card.renderer == renderer.older_fingerprint != renderer.fingerprint:
            log.warning(
                "%s: trained when added tokens such as <think> in a message were split into text; "
                "they are tokens now, as with plain transformers",
                resolve(path),
            )
        elif card.renderer and card.renderer != renderer.fingerprint:
            raise ModelError(
                f"{resolve(path)}: conversations would be rendered to other tokens than in "
                "training (another chat template, tokenizer or transformers version)"
            )
        if chat_template is not None:
            # What is written of this model from here on holds what this template renders.
            model.card = replace(card, renderer=renderer.fingerprint)
        return model

    def score(
        self,
        records: Sequence[Any],
        view: Any = None,
        *,
        max_batch_tokens: int = DEFAULT_BATCH_TOKENS,
        overlong: Overlong | None = None,
    ) -> Scores:
        """Score every response of every record, in order.

        A record is a `(prompt, response)` pair of texts or messages, a list of messages, a row such
        as `{"prompt", "response"}`, `{"prompt", "responses"}`, `{"prompt", "chosen", "rejected"}`
        or `{"messages"}`, or a record object; several responses give as many scores. `view` is what
        `Scores.view()` returns, by default the model's own. A score does not depend on
        `max_batch_tokens`. `overlong` is `error` or `truncate_prompt`, by default as in training.
        Raises DataError for a record that is not usable or does not fit, ConfigError for an unknown
        view."""
        chosen = self.view(view)
        policy = overlong or self.card.overlong
        scorer = Scorer(self.network, self.renderer, policy, max_batch_tokens)
        items: list[Item] = []
        census = Census()
        for index, record in enumerate(records):
            items += as_items(record, index, census)
        for line in census.lines():
            log.warning("records: %s", line)
        rows = [np.zeros((0, len(self.card.rows)))]  # of no record: still as wide as the head
        tokens, truncated = [], []
        for item, result in zip(items, scorer.score(items), strict=True):
            if isinstance(result, Unscored):
                raise DataError(f"{item.where}: {result}")
            rows.append(result.rows)
            tokens += result.tokens
            truncated += [result.truncated] * len(item)
        lengths, shortened = np.array(tokens, dtype=np.int64), np.array(truncated, bool)
        return Scores(np.concatenate(rows), lengths, shortened, self, chosen)


def _fitting(max_tokens: int, network: RewardNetwork, path: Path | str) -> int:
    positions = position_limit(network.backbone)
    if max_tokens < 1 or (positions is not None and max_tokens > positions):
        known = f"1 to {positions}, the positions of {path}" if positions else "1 or more"
        raise ConfigError(f"--max-tokens {max_tokens}: expected {known}")
    if max_tokens > limit("tokens"):
        raise ConfigError(f"--max-tokens: {refusal('tokens', max_tokens)}")
    return max_tokens
