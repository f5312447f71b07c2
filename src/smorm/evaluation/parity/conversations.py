"""The conversations that every path of a parity check scores: 64 of texts, and 8 with reasoning,
tool calls or tools, for templates that write them.
Several share a prompt, so that a forest has something to share. The last two nearly fill the token
limit, so that one batch is mostly padding."""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from smorm.arrays import Tokens
from smorm.data.census import BadRecord, Census, DropReason
from smorm.data.reading import Source, read_each
from smorm.errors import DataError
from smorm.text.changes import Change
from smorm.text.chat import INPUTS, ChatInputs, Message, Messages, Renderer
from smorm.text.limits import fit

COUNT = 72
MOST_OF_FILE = 64
LONGEST = 1024
ACKNOWLEDGED: Messages = (Message("assistant", "I have read it."),)

PromptAndResponse = tuple[Messages, Messages]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A prompt and a response that fit the model, and their token ids by our renderer."""

    prompt: Messages
    response: Messages
    tokens: Tokens
    # A message holds the text of a control token, which most programs take for the token.
    control: bool

    @property
    def is_plain(self) -> bool:
        """Whether its messages are roles and texts alone."""
        return not any(turn.fields or turn.role == INPUTS for turn in self.messages)

    @property
    def messages(self) -> Messages:
        """All messages."""
        return self.prompt + self.response


def built_in(renderer: Renderer, census: Census, *, longest: int = LONGEST) -> list[Conversation]:
    """The committed set; `longest` are the tokens of the two long ones, less where the model's
    limit is lower. The census gets what the template refused and what was shortened."""
    file = resources.files("smorm.evaluation.parity") / "conversations.json"
    committed = json.loads(file.read_text(encoding="utf-8"))
    # The long ones fill the model's limit, but not a context of 100 000 tokens.
    limit = min(renderer.max_tokens, longest)
    long = [(_long_prompt(renderer, limit, text), ACKNOWLEDGED) for text in committed["long"]]
    pairs: list[PromptAndResponse] = []
    for group in committed["groups"]:
        prompt = tuple(itertools.starmap(Message, group["prompt"]))
        pairs += [(prompt, (Message("assistant", response),)) for response in group["responses"]]
    pairs += _structured(committed["structured"])
    # This tokenizer's control tokens, as a user would write them.
    text = " ".join(list(renderer.control.ids)[:8]) or "nothing"
    question = (Message("user", f"What does {text} mean?"),)
    pairs.append((question, (Message("assistant", f"{text} is what you wrote."),)))
    return _fitted(renderer, [*pairs, (question, ACKNOWLEDGED), *long], census)


def _structured(groups: list[dict[str, Any]]) -> Iterator[PromptAndResponse]:
    """Conversations of whole messages, with the tools that they have."""
    for group in groups:
        prompt = tuple(map(_message, group["prompt"]))
        if "tools" in group:
            prompt = (Message(INPUTS, json.dumps({"tools": group["tools"]})), *prompt)
        for response in group["responses"]:
            yield prompt, (_message(response),)


def _message(values: dict[str, Any]) -> Message:
    fields = {name: value for name, value in values.items() if name not in ("role", "content")}
    if values["content"] is None:
        fields["content"] = None
    return Message(values["role"], values["content"] or "", json.dumps(fields) if fields else "")


def from_file(path: Path | str, renderer: Renderer, census: Census) -> list[Conversation]:
    """The first 64 conversations of a file of pairs, candidates or rated responses; DataError for
    a bad record, or where none fits."""
    # One more than is used, to know whether the file has more.
    pairs: list[PromptAndResponse] = []
    for _, _, records in read_each(Source(path), census):
        if isinstance(records, BadRecord):
            raise records
        for record in records:
            pairs += zip(itertools.repeat(record.item.prompt), record.item.responses, strict=False)
        if len(pairs) > MOST_OF_FILE:
            census.add(DropReason.CONVERSATIONS_BEYOND, str(path), detail=str(MOST_OF_FILE))
            break
    return _fitted(renderer, pairs[:MOST_OF_FILE], census, every=True)


def _not_written(response: Messages, changes: Sequence[Change]) -> str:
    """What the template does not write, without which a conversation says nothing of it."""
    for change in (Change.TOOLS_REMOVED, Change.TOOL_CALLS_REMOVED):
        if change in changes:
            return change
    # Of earlier turns many templates remove it, by design.
    if Change.REASONING_REMOVED in changes and response[-1].fields:
        return Change.REASONING_REMOVED
    return ""


def _long_prompt(renderer: Renderer, limit: int, sentence: str) -> Messages:
    """A question that fills the limit but for the last few tokens."""
    repeats = max(1, limit // max(1, len(renderer.token_starts(sentence + " "))))
    while True:
        prompt = (Message("user", (sentence + " ") * repeats),)
        length = len(renderer.render(prompt + ACKNOWLEDGED))
        if length <= limit or repeats == 1:
            return prompt
        # The template's own tokens come on top of the sentences, so the first guess is too long.
        repeats = min(repeats - 1, repeats * limit // length)


def _fitted(
    renderer: Renderer, pairs: list[PromptAndResponse], census: Census, *, every: bool = False
) -> list[Conversation]:
    """Those that the template takes, prompts shortened to the model's limit, counted; without
    `every` those too are left out whose tools or reasoning it does not write."""
    conversations: list[Conversation] = []
    for prompt, response in pairs:
        try:
            fitted = fit(renderer, prompt, [response], renderer.max_tokens, "truncate_prompt")
        except DataError as error:
            census.add(DropReason.CONVERSATION_LEFT_OUT, detail=str(error))
            continue
        if fitted.tokens is None:
            census.add(DropReason.CONVERSATION_LEFT_OUT, detail=str(fitted.dropped))
            continue
        if not every and (missing := _not_written(response, fitted.changes)):
            census.add(DropReason.CONVERSATION_LEFT_OUT, detail=missing)
            continue
        if fitted.truncated:
            census.add(DropReason.CONVERSATION_SHORTENED)
        for change in fitted.changes:
            census.add(change)
        # In the response too: an answer can close its own turn.
        texts = ChatInputs.of(fitted.prompt + response).texts()
        control = any(map(renderer.control.found_in, texts))
        ids = np.asarray(fitted.tokens[0], dtype=np.int32)
        conversations.append(Conversation(fitted.prompt, response, ids, control))
    if not conversations:
        raise DataError("no conversation can be rendered: " + "; ".join(census.lines()))
    return conversations
