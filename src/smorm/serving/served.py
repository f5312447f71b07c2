"""A reward under its served name: an item becomes a job, rows become numbers. N responses, C
columns."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from smorm.arrays import Floats
from smorm.data.records import Item
from smorm.data.scaling import restore_scales
from smorm.errors import ConfigError, DataError, ModelError, OverLimitError
from smorm.model.card import card_of
from smorm.model.views import NAMED_VIEWS, apply_view
from smorm.scoring.description import ModelDescription
from smorm.serving.batcher import Job, Probe
from smorm.text.chat import Message
from smorm.text.limits import Overlong, fit
from smorm.text.tokenizers import load_tokenizer
from smorm.trees.forest import sort_key

_CHARACTERS_A_TOKEN = 4  # of items whose tokens this process does not know
_PROBE = Item((Message("user", "What is 2 + 2?"),), ((Message("assistant", "4"),),), "probe")
POLICIES: dict[str, Overlong] = {"refuse": "error", "left_prompt": "truncate_prompt"}


@dataclass(frozen=True, slots=True)
class Unit:
    """An item ready for the worker: token ids of each response, or the item as JSON."""

    content: Any
    tokens: list[int] | None  # of each response, where they are known
    size: int  # rows that it takes of a batch, at most
    truncated: bool = False
    changes: tuple[str, ...] = ()
    key: bytes = b""  # as a job has it

    def job(self, name: str, deadline: float) -> Job:
        """The job that scores it; called in the event loop."""
        future: asyncio.Future[Floats] = asyncio.get_running_loop().create_future()
        return Job(name, self.content, self.size, deadline, future, self.key)


class Served(ABC):
    """One reward of a server, without its weights."""

    has_rows = False  # whether single rows and views can be read

    def __init__(self, name: str, facts: Mapping[str, Any]) -> None:
        self.name, self.facts = name, facts

    @abstractmethod
    def unit(self, item: Item, truncation: str) -> Unit:
        """An item as a unit; DataError where it cannot be scored. Takes a while: for threads."""

    @abstractmethod
    def values(self, rows: Floats, view: Any = None) -> Floats:
        """A view's values [N] of rows [N, C]; ConfigError for a view that it does not have."""

    @abstractmethod
    def view_name(self, view: Any = None) -> str:
        """What a view is called in answers; ConfigError as in `values`."""

    @abstractmethod
    def info(self) -> dict[str, Any]:
        """What `/v1/info` tells of it."""

    def probe(self) -> Probe:
        """What a worker must have a score for before it gets jobs."""
        return Probe(self.unit(_PROBE, "left_prompt").content, self.has_rows)

    def columns(self, rows: Floats) -> list[dict[str, Any]]:
        """Preference and attributes of each response."""
        return [{"preference": None, "attributes": {}} for _ in rows]

    def text_unit(self, text: str, *, add_special_tokens: bool) -> Unit:
        """A rendered text, its special tokens real."""
        raise DataError(f"{self.name} takes messages alone: it has no tokenizer of its own")

    def ids_unit(self, ids: Sequence[int]) -> Unit:
        """Token ids as they are."""
        raise DataError(f"{self.name} takes messages alone: it has no tokenizer of its own")


class ServedModel(Served):
    """A reward model: tokenised here, so that the worker computes and nothing else."""

    has_rows = True

    def __init__(self, name: str, facts: Mapping[str, Any]) -> None:
        super().__init__(name, facts)
        card = card_of(dict(facts["card"]), name)
        self.model = ModelDescription(load_tokenizer(facts["tokenizer"]), card, name=name)
        if self.model.renderer.fingerprint != facts["renderer"]:
            raise ModelError(f"{name}: the worker renders conversations otherwise than the server")
        self._vocabulary = len(self.model.tokenizer)

    def unit(self, item: Item, truncation: str) -> Unit:
        limit = self.model.renderer.max_tokens
        policy = POLICIES[truncation]
        fitted = fit(self.model.renderer, item.prompt, item.responses, limit, policy)
        if fitted.tokens is None:
            raise OverLimitError(
                f"longer than the limit of {limit} tokens without any of its prompt"
            )
        changes = tuple(map(str, fitted.changes))
        return _unit(fitted.tokens, truncated=fitted.truncated, changes=changes)

    def text_unit(self, text: str, *, add_special_tokens: bool) -> Unit:
        tokenizer, renderer = self.model.tokenizer, self.model.renderer
        ids = tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"]
        # verl takes the template's BOS off a text, for the tokenizer to add; not every one does.
        begin = tokenizer.bos_token_id
        if add_special_tokens and renderer.begins_with_bos and ids[:1] != [begin]:
            ids = [begin, *ids]
        return self.ids_unit(ids)

    def ids_unit(self, ids: Sequence[int]) -> Unit:
        limit = self.model.renderer.max_tokens
        if not ids:
            raise DataError("no token")
        if len(ids) > limit:
            raise OverLimitError(f"{len(ids)} tokens, the limit is {limit}")
        if min(ids) < 0 or max(ids) >= self._vocabulary:
            raise DataError(f"token ids from 0 to {self._vocabulary - 1} are known")
        return _unit([list(ids)])

    def values(self, rows: Floats, view: Any = None) -> Floats:
        return apply_view(self._view(view), rows, self.model.card.scales)

    def view_name(self, view: Any = None) -> str:
        return str(self._view(view).name)

    def columns(self, rows: Floats) -> list[dict[str, Any]]:
        card = self.model.card
        columns: list[dict[str, Any]] = []
        ratings = restore_scales(card.scales, rows[:, 1:]).tolist()
        for row, values in zip(rows, ratings, strict=True):
            # Row 0 of a model without a trained preference row is no score.
            preference = None
            if card.preference_trained and not card.foreign:
                preference = float(row[0]) + card.offset
            attributes = dict(zip(card.attributes, values, strict=True))
            columns.append({"preference": preference, "attributes": attributes})
        return columns

    def info(self) -> dict[str, Any]:
        card = self.model.card
        scales = {scale.name: {"offset": scale.offset, "scale": scale.scale,
                               "mean": card.means.get(scale.name)}
                  for scale in card.scales}  # fmt: skip
        views = []
        for name in ("F", "L", "M"):
            try:
                views.append(self.view_name(name))
            except ConfigError:  # it has no such rows
                continue
        dtype = str(self.facts["dtype"])
        return {
            "rows": list(card.labels),
            "scales": scales,
            "views": views,
            "default_view": self._default_name(),
            "max_tokens": self.model.renderer.max_tokens,
            "dtype": dtype,
            # Largest difference to `smorm score` on one device, in units of the scores.
            "tolerance": 1e-5 if dtype == "float32" else 0.05,
            "fingerprint": {
                "renderer": self.model.renderer.fingerprint,
                "weights": dict(card.hashes),
                "versions": dict(card.versions),
            },
        }

    def _view(self, view: Any) -> Any:
        # The served view has a name too: `/v1/info` tells it, and answers carry it.
        by_name = isinstance(view, str) and view not in NAMED_VIEWS and view == self._default_name()
        return self.model.view(self.facts["view"] if view is None or by_name else view)

    def _default_name(self) -> str | None:
        try:
            return self.view_name()
        except ConfigError:  # a foreign model without a preference row: each request names one
            return None


class ServedReward(Served):
    """An ensemble, a function, a server, or the world's truth: one number a response."""

    def unit(self, item: Item, truncation: str) -> Unit:
        content = {
            "prompt": [asdict(message) for message in item.prompt],
            "responses": [[asdict(message) for message in each] for each in item.responses],
        }
        size = 0
        for messages in (item.prompt, *item.responses):
            size += sum(len(message.content) for message in messages)
        beginning = "".join(message.content for message in item.prompt)[:256]
        size = 1 + size // _CHARACTERS_A_TOKEN
        return Unit(content, None, size, key=beginning.encode("utf-8", "replace"))

    def values(self, rows: Floats, view: Any = None) -> Floats:
        self.view_name(view)
        return rows[:, 0]

    def view_name(self, view: Any = None) -> str:
        if view not in (None, self.name):
            raise ConfigError(f"view {view}: {self.name} is one number: it has no views")
        return self.name

    def info(self) -> dict[str, Any]:
        return {
            "rows": [], "scales": {}, "views": [self.name], "default_view": self.name,
            "max_tokens": None, "dtype": None, "tolerance": 1e-5, "fingerprint": {},
        }  # fmt: skip


def served_of(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Served]:
    """The rewards of a worker's facts, by name."""
    served: dict[str, Served] = {}
    for name, fact in facts.items():
        kind = ServedModel if fact["kind"] == "model" else ServedReward
        served[name] = kind(name, fact)
    return served


def item_of(values: Mapping[str, Any]) -> Item:
    """An item from its JSON."""
    prompt = tuple(Message(**message) for message in values["prompt"])
    responses = [
        tuple(Message(**message) for message in response) for response in values["responses"]
    ]
    return Item(prompt, tuple(responses), "item")


def _unit(tokens: list[list[int]], **more: Any) -> Unit:
    lengths = list(map(len, tokens))
    shared = _common(tokens) if len(tokens) > 1 else 0
    size = sum(lengths) - shared * (len(tokens) - 1)
    key = sort_key(np.asarray(tokens[0], dtype=np.int32))
    return Unit(tokens, lengths, size, key=key, **more)


def _common(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens all sequences begin with."""
    shortest = min(map(len, sequences))
    matrix = np.array([sequence[:shortest] for sequence in sequences])
    differs = (matrix != matrix[0]).any(axis=0)
    return int(differs.argmax()) if differs.any() else shortest
