"""What reward servers are sent, and what they answer: one small class per protocol.

Raw scores are requested always: vLLM's default activation makes every score of a one-label model
1.0 under a softmax (vllm#12910). An engine is sent token ids where there is a renderer to make
them: its own template, tokenizer class and BOS then change nothing, and control tokens in a message
stay text. Shapes: N conversations of one request, C scores of each."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from smorm.arrays import Floats, is_finite_number
from smorm.client.results import ItemError, Score, read_score
from smorm.client.transport import RewardServerError
from smorm.errors import ConfigError, DataError
from smorm.printing import shorten
from smorm.text.chat import RAW, ChatInputs, Message, Messages, Renderer

Body = dict[str, Any]
ToText = Callable[[Messages], str]
ToIds = Callable[[Messages], list[int]]


@dataclass(frozen=True, slots=True)
class Answer:
    """Scores [N, C], and the tokens that the server counted in each conversation (None: it does
    not say)."""

    rows: Floats
    tokens: list[int | None]


class Wire(ABC):
    """One way to ask a server."""

    path = "/classify"  # where requests are posted to
    sends: Literal["ids", "messages", "text"] = "messages"
    batch = 0  # the most conversations of a request; 0 for any number
    # Whether scores include the view's constant (which a head without a bias cannot hold).
    keeps_constant = False
    control_is_text = False  # whether control tokens in messages stay text
    # Whether it takes roles and texts alone: tools and reasoning each server reads in its own way.
    only_texts = False

    @abstractmethod
    def body(self, conversations: Sequence[Messages]) -> Body:
        """The request's JSON, without the model's name."""

    @abstractmethod
    def read(self, answer: Any, count: int) -> Answer:
        """The scores in an answer; RewardServerError where it does not hold `count` of them."""


def chat(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as JSON; DataError for tools, which are no message."""
    inputs = ChatInputs.of(messages)
    if inputs.options:
        raise DataError(f"{', '.join(inputs.options)}: this request takes messages alone")
    return inputs.messages


def chat_text(renderer: Renderer, *, begin: bool) -> ToText:
    """Conversations as the text that the chat template makes; without `begin` less the BOS that
    the tokenizer, and so the server, adds itself. Control tokens in a message become real ones."""
    tokenizer = renderer.tokenizer
    # Not every tokenizer that has a BOS adds it: what it does to a text is tried.
    adds_bos = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]

    def text(messages: Messages) -> str:
        # Raw text has no template around it.
        if messages[0].role == RAW:
            return messages[0].content
        rendered = renderer.text(messages)
        if adds_bos and not begin:
            return rendered.removeprefix(str(tokenizer.bos_token))
        return rendered

    return text


@dataclass(frozen=True)
class SmormScore(Wire):
    """Our own server: `POST /v1/score`. `views` are the requested views, one column each; without
    any it is the server's own. `truncation` is what becomes of a conversation over the limit:
    `refuse`, or `left_prompt`."""

    views: tuple[str, ...] = ()
    truncation: str = "refuse"
    path = "/v1/score"
    keeps_constant = control_is_text = True

    def body(self, conversations: Sequence[Messages]) -> Body:
        """`{"items": [{"messages"}], "views"}`."""
        inputs = list(map(ChatInputs.of, conversations))
        items = [{"messages": chat.messages, **chat.options} for chat in inputs]
        body: Body = {"items": items, "truncation": self.truncation}
        if self.views:
            body["views"] = list(self.views)
        return body

    def results(self, answer: Any, count: int) -> list[Score | ItemError]:
        """`{"items": [{"views": {name: value}, "preference", "attributes", "tokens"} or
        {"error": {"type", "message"}}]}`."""
        return [read_score(entry, self.views) for entry in _entries(answer, "items", count)]

    def read(self, answer: Any, count: int) -> Answer:
        scores: list[Score] = []
        for result in self.results(answer, count):
            if isinstance(result, ItemError):
                raise result
            scores.append(result)
        return self.answer_of(scores)

    def answer_of(self, scores: Sequence[Score]) -> Answer:
        """The views' columns of scores."""
        rows = [[score.views[view] for view in self.views] or [score.value] for score in scores]
        return Answer(_matrix(rows), [score.tokens for score in scores])


class VllmMessages(Wire):
    """vLLM `POST /classify` with messages: one conversation a request."""

    batch = 1
    only_texts = True
    field = "probs"  # of an entry, with its scores

    def body(self, conversations: Sequence[Messages]) -> Body:
        """`{"messages", "use_activation": false}`."""
        (messages,) = conversations
        return {"messages": chat(messages), "use_activation": False}

    def read(self, answer: Any, count: int) -> Answer:
        """`{"data": [{"index", "probs" or "data": [numbers]}], "usage": {"prompt_tokens"}}`."""
        entries = _in_order(_entries(answer, "data", count))
        scores = _answer(entries, lambda entry: entry.get(self.field))
        # The usage counts the whole request: only of one conversation it tells its tokens.
        if count == 1:
            return Answer(scores.rows, [_token_count(answer.get("usage"), "prompt_tokens")])
        return scores


class VllmPooling(VllmMessages):
    """vLLM `POST /pooling` with messages: the pooler's output as it is."""

    path = "/pooling"
    field = "data"


@dataclass(frozen=True)
class VllmIds(VllmMessages):
    """vLLM `POST /classify` with token ids."""

    ids: ToIds
    batch = 0
    sends = "ids"
    control_is_text = True
    only_texts = False

    def body(self, conversations: Sequence[Messages]) -> Body:
        """`{"input": [[ids]], "use_activation": false}`."""
        return {"input": list(map(self.ids, conversations)), "use_activation": False}


class VllmPoolingIds(VllmIds):
    """vLLM `POST /pooling` with token ids."""

    path = "/pooling"
    field = "data"


@dataclass(frozen=True)
class VllmText(VllmMessages):
    """vLLM `POST /classify` with texts, which have their BOS: the server is told to add none."""

    text: ToText
    batch = 0
    sends = "text"
    only_texts = False

    def body(self, conversations: Sequence[Messages]) -> Body:
        """`{"input": [texts], "add_special_tokens": false, "use_activation": false}`."""
        texts = list(map(self.text, conversations))
        return {"input": texts, "add_special_tokens": False, "use_activation": False}


class Sglang(Wire):
    """SGLang `POST /classify`, the native one (`/v1/classify` always applies a softmax)."""

    def read(self, answer: Any, count: int) -> Answer:
        """`[{"embedding": [numbers], "meta_info": {"prompt_tokens"}}]`."""
        entries = _entries({"answer": answer}, "answer", count)
        scores = _answer(entries, lambda entry: entry.get("embedding"))
        tokens = [_token_count(entry.get("meta_info"), "prompt_tokens") for entry in entries]
        return Answer(scores.rows, tokens)


@dataclass(frozen=True)
class SglangIds(Sglang):
    """SGLang `POST /classify` with token ids."""

    ids: ToIds
    sends = "ids"
    control_is_text = True

    def body(self, conversations: Sequence[Messages]) -> Body:
        """`{"input_ids": [[ids]]}`."""
        return {"input_ids": list(map(self.ids, conversations))}


@dataclass(frozen=True)
class SglangText(Sglang):
    """SGLang `POST /classify` with texts, to which its tokenizer adds the BOS."""

    text: ToText
    sends = "text"

    def body(self, conversations: Sequence[Messages]) -> Body:
        """`{"text": [texts]}`."""
        return {"text": list(map(self.text, conversations))}


def wires_of(
    protocol: str,
    renderer: Renderer | None,
    views: Sequence[str] = (),
    truncation: str = "refuse",
) -> list[Wire]:
    """Every way to ask a server of a kind (smorm, vllm or sglang), the one to score with first."""
    if protocol == "smorm":
        return [SmormScore(tuple(views), truncation)]
    if protocol == "vllm":
        messages: list[Wire] = [VllmMessages(), VllmPooling()]
        if renderer is None:
            return messages
        ids: list[Wire] = [VllmIds(renderer.render), VllmPoolingIds(renderer.render)]
        return [*ids, *messages, VllmText(chat_text(renderer, begin=True))]
    if renderer is None:
        raise ConfigError(
            "SGLang takes token ids or text: name the tokenizer, or give the renderer, that makes "
            "them"
        )
    return [SglangIds(renderer.render), SglangText(chat_text(renderer, begin=False))]


def _answer(entries: list[Any], row_of: Callable[[Any], Any]) -> Answer:
    tokens = [_token_count(entry, "tokens") for entry in entries]
    return Answer(_matrix(list(map(row_of, entries))), tokens)


def _entries(answer: Any, name: str, count: int) -> list[Any]:
    entries = answer.get(name) if isinstance(answer, Mapping) else None
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise RewardServerError(f"the server's answer has no list {name!r}: {_short(answer)}")
    if len(entries) != count:
        raise RewardServerError(f"the server gave {len(entries)} scores for {count} conversations")
    return entries


def _in_order(entries: list[Any]) -> list[Any]:
    """Entries by their `index`, which must name each position once; as they are without any."""
    indices = [entry.get("index") for entry in entries]
    if indices == [None] * len(indices):
        return entries
    # By their text: what a server sends here may be of any type.
    if sorted(map(repr, indices)) != sorted(map(repr, range(len(entries)))):
        raise RewardServerError(
            f"the server's answer has the indices {_short(indices)}: not one for each"
        )
    return sorted(entries, key=lambda entry: int(entry["index"]))


def _matrix(rows: list[Any]) -> Floats:
    """Rows of numbers as [N, C]: all of one length, all finite."""
    for row in rows:
        if not isinstance(row, list) or not row or len(row) != len(rows[0]):
            raise RewardServerError(
                f"the server gave {_short(row)} where scores of one number belong"
            )
        for value in row:
            if not is_finite_number(value):
                raise RewardServerError(f"the server gave {_short(value)} as a score")
    return np.array(rows, dtype=np.float64)


def _token_count(entry: Any, name: str) -> int | None:
    value = entry.get(name) if isinstance(entry, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _short(value: Any) -> str:
    return shorten(repr(value), 120)
