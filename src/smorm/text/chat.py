"""The one renderer: the only place where a conversation becomes token ids.

Training, evaluation, reinforcement learning and serving all call `Renderer.render`, so that a model
scores the text that it was trained on, token for token.

* **The law.** Where no message holds a special token's text, the ids equal those of transformers'
  `apply_chat_template` with the same messages, tools and template.
* **Special tokens in messages stay text**, always (`smorm.text.control`).
* **One BOS.** A template that makes two is refused. Where the template writes none but the
  tokenizer adds one to plain text, `{{ bos_token }}` is put at the start of the template; export
  `Renderer.chat_template`, which has it, and every other program renders the same ids.
* **Nothing is lost in silence.** What a template does not write of a message is named beside
  its ids. Prompts are shortened by `smorm.text.limits`, which counts it.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smorm import limits
from smorm.errors import DataError, ModelError, OverLimitError, UnboundedError, third_party
from smorm.files import fingerprint
from smorm.text import control
from smorm.text.changes import (
    Change,
    Piece,
    Place,
    Structure,
    changes_of,
    pieces_of,
    structure_of,
    with_words,
    words_in,
)
from smorm.text.tokenizers import find_pad_token

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
RAW = "text"
"""The role of raw text: a conversation of exactly one such message has no chat structure."""
INPUTS = "template"
"""The role of what a conversation gives the template beside its messages; it comes first, and its
content is a JSON object: `{"tools": [...], "chat_template_kwargs": {...}}`."""

PLAIN_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}: {{ message['content'] }}"
    "{% if not loop.last %}{{ '\n\n' }}{% endif %}"
    "{% endfor %}"
    "{{ eos_token }}"
)
"""For a tokenizer that has no template. A BOS or EOS that it lacks is left out. EOS comes last so
that the pooled position is the end of the answer and never a word of it."""
PROBES = (
    ("system", "user", "assistant", "user", "assistant"),
    ("user", "assistant", "user", "assistant"),
    ("user", "assistant"),
    ("user",),
)
"""Role sequences tried on a new template."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_FINGERPRINT_PROBE = "A plain text: 1234567890, naïve café, 你好, мир, 🙂\n\n\tdef f(x): return x"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn.

    Attributes:
        role: one of `ROLES`, `RAW` (alone), or `INPUTS` (first).
        content: its text; "" where it has none.
        fields: all else that the template may read, as a JSON object: `reasoning_content`,
            `tool_calls`, `tool_call_id`, `name`; "" for nothing. `"content": null` in it says that
            the message has no content.
    """

    role: str
    content: str
    fields: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The message as templates and other programs take it, without keys that are null."""
        values: dict[str, Any] = {"role": self.role, "content": self.content}
        if not self.fields:
            return values
        values |= json.loads(self.fields)
        return {name: value for name, value in values.items() if value is not None}


Messages = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class ChatInputs:
    """What `apply_chat_template` is called with."""

    messages: list[dict[str, Any]]
    options: Mapping[str, Any]

    @classmethod
    def of(cls, messages: Sequence[Message]) -> ChatInputs:
        """Messages as dictionaries, `tools` and `chat_template_kwargs` as arguments."""
        options: dict[str, Any] = {}
        turns = messages
        if messages and messages[0].role == INPUTS:
            inputs = json.loads(messages[0].content)
            if inputs.get("tools"):
                options["tools"] = inputs["tools"]
            options |= inputs.get("chat_template_kwargs") or {}
            turns = messages[1:]
        return cls([message.as_dict() for message in turns], options)

    def texts(self) -> Iterator[str]:
        """Every text but the roles, names of fields included."""
        for turn in self.messages:
            for name, value in turn.items():
                if name == "role":
                    continue
                if isinstance(value, str):
                    yield value
                else:
                    yield from _texts(value)
        yield from _texts(self.options)

    def map_texts(self, change: Callable[[str], str]) -> ChatInputs:
        """The same with every text but the roles changed."""
        turns = [{**_map_texts(turn, change), "role": turn["role"]} for turn in self.messages]
        return ChatInputs(turns, _map_texts(self.options, change))

    @property
    def roles(self) -> str:
        """The roles in their order, for an error."""
        return " → ".join(turn["role"] for turn in self.messages)


def own_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's template ("default" where it has several), or the plain one."""
    # Some tokenizers have a template for tool use and one for retrieval beside the default.
    template = tokenizer.chat_template
    if isinstance(template, Mapping):
        if "default" not in template:
            names = ", ".join(sorted(template))
            raise ModelError(f"the tokenizer has chat templates {names}, none named 'default'")
        template = template["default"]
    return template or PLAIN_TEMPLATE


class Renderer:
    """Renders conversations with one tokenizer and one chat template.

    `chat_template` (Jinja source) wins over the tokenizer's own; without either it is
    `PLAIN_TEMPLATE`. `max_tokens` is the limit that callers apply; `render` itself never cuts. A
    template that cannot be used is a `ModelError`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
        max_tokens: int = 2048,
    ) -> None:
        from smorm.text import sandbox

        sandbox.install()
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self._most_bytes = limits.limit("conversation_bytes")
        self._most_growth = limits.limit("token_growth")
        self.chat_template = chat_template or own_template(tokenizer)
        self.control = control.ControlTokens(tokenizer)
        self._ensure_one_bos()
        # Whether texts of two messages could join to a special token in this template.
        self._guarded = control.texts_touch(self._rendered_probes(), self.control.ids)
        # What the template leaves out, by the structure of conversations.
        self._removed_of: dict[Structure, frozenset[Place]] = {}

    @property
    def pad_id(self) -> int:
        """An id to fill masked positions with. Where no token can pad, the EOS (or 0): harmless
        under a mask, since pooling is by index."""
        token = find_pad_token(self.tokenizer, self.chat_template)
        if token is not None:
            return int(self.tokenizer.convert_tokens_to_ids(token))
        return int(self.tokenizer.eos_token_id or 0)

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides the ids; saved with a model, compared when one is served."""
        behaviour = control.GUARDED_BEHAVIOUR if self._guarded else control.BEHAVIOUR
        return self._fingerprint(dict(self.control.ids), behaviour)

    @property
    def older_fingerprint(self) -> str:
        """That of versions which kept every added token that the template writes as text: their ids
        differ only for messages that hold such a token, or that a template joins."""
        ids = control.written_tokens(self.tokenizer, self.chat_template)
        return self._fingerprint(ids, control.BEHAVIOUR)

    def _fingerprint(self, ids: dict[str, int], behaviour: int) -> str:
        decisive = {
            "template": self.chat_template,
            "bos": self.tokenizer.bos_token_id,
            "eos": self.tokenizer.eos_token_id,
            "control": ids,
            "behaviour": behaviour,
            "probe": self.tokenizer.encode(_FINGERPRINT_PROBE, add_special_tokens=False),
        }
        return fingerprint(decisive)

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a whole conversation.

        `DataError`: an unknown role, no message, text that is not valid Unicode, or an order of
        roles that the template refuses; `OverLimitError`: more text than is tokenised.
        `ModelError`: the template makes two BOS for this conversation.
        """
        return self.render_with_changes(messages)[0]

    def render_with_changes(self, messages: Sequence[Message]) -> tuple[list[int], list[Change]]:
        """As `render`, with what the template did not write of the messages."""
        _check(messages)
        self._refuse_large(*(message.content for message in messages))
        # Raw text has no chat structure, so no template sees it.
        if messages[0].role == RAW:
            return self._raw(messages[0].content), []
        inputs, changes = self._inputs(messages)
        text, ids = self._encode(inputs)
        # Checked for every conversation: a template may write a second BOS for some roles only.
        self._refuse_double_bos(ids)
        if not ids:
            raise DataError(f"the chat template made no token of {inputs.roles}")
        turns, options = inputs.messages, inputs.options
        pieces = pieces_of(turns)
        removed = self._removed(inputs, pieces)
        return ids, changes + changes_of(turns, options, pieces, text, removed)

    def text(self, messages: Sequence[Message], *, marked: bool = False, **options: Any) -> str:
        """The string that the template makes; special tokens in messages as they are, or `marked`
        for `control.encode_marked`. `options` go to the template."""
        inputs, _ = self._inputs(messages)
        if marked:
            inputs = inputs.map_texts(self.control.mark)
        return self._apply(inputs, **options)

    def token_starts(self, text: str) -> list[int]:
        """Character offset of each token of a message's text, for cutting it at a token."""
        return self.control.token_starts(text)

    def _inputs(self, messages: Sequence[Message]) -> tuple[ChatInputs, list[Change]]:
        """What the template gets: a developer's message is the system's where it knows no other."""
        inputs = ChatInputs.of(messages)
        if "developer" in self.chat_template:
            return inputs, []
        changes: list[Change] = []
        for turn in inputs.messages:
            if turn["role"] == "developer":
                turn["role"] = "system"
                changes.append(Change.DEVELOPER_AS_SYSTEM)
        return inputs, changes

    def _encode(self, inputs: ChatInputs) -> tuple[str, list[int]]:
        """The string that the template makes, and its token ids."""
        text = self._apply(inputs)
        self._refuse_large(text)  # a template may write a text many times
        marked: str | None = None
        if any(map(self.control.found_in, inputs.texts())):
            marked = self._apply(inputs.map_texts(self._mark))
        elif self._guarded:
            # The guard cuts the text at its edges: only where two texts did join to a token.
            separate = self._apply(inputs.map_texts(self._mark))
            find = self.control.pattern.findall
            if len(find(text)) > len(find(separate)):
                marked = separate
        if marked is None:
            return text, self._ids(text)
        return text, self.control.encode_marked(marked)

    def _refuse_large(self, *texts: str) -> None:
        """Tokenising takes hundreds of times a text's size in memory."""
        # A character has four bytes at most, so that usual texts are not encoded to be measured.
        if 4 * sum(map(len, texts)) <= self._most_bytes:
            return
        size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        if size > self._most_bytes:
            raise OverLimitError(
                f"the conversation has {limits.refusal('conversation_bytes', size)}"
            )

    def _mark(self, text: str) -> str:
        """A text with its special tokens marked, and its edges where the template joins texts."""
        marked = self.control.mark(text)
        core = marked.strip()
        if not self._guarded or not core:
            return marked
        # Inside of the spaces, because many templates trim a message.
        lead, _, trail = marked.partition(core)
        return f"{lead}{control.END}{core}{control.END}{trail}"

    def _removed(self, inputs: ChatInputs, pieces: list[Piece]) -> frozenset[Place]:
        """The pieces that the template leaves out of every conversation of this structure."""
        structure = structure_of(inputs.messages, inputs.options, pieces)
        if structure not in self._removed_of:
            turns, words = with_words(inputs.messages, pieces)
            try:
                text = self._apply(ChatInputs(turns, inputs.options))
            except DataError:
                # It reads the texts themselves: what is not written is then seen of them alone.
                words, text = {}, ""
            # All in one pass: a conversation may have very many pieces.
            written = words_in(text)
            removed = frozenset(piece for piece, word in words.items() if word not in written)
            self._removed_of[structure] = removed
        return self._removed_of[structure]

    def _raw(self, text: str) -> list[int]:
        """BOS (if the tokenizer has one), the text's tokens, EOS (if it has one)."""
        if self.control.found_in(text):
            ids = self.control.encode_marked(self.control.mark(text))
        else:
            ids = self._ids(text)
        begin, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if begin is not None:
            ids.insert(0, begin)
        if end is not None:
            ids.append(end)
        if not ids:
            raise DataError("an empty text makes no token with this tokenizer")
        return ids

    def _ids(self, text: str) -> list[int]:
        """Token ids of a string, special tokens in it included."""
        with third_party(self.tokenizer.name_or_path, "its tokenizer fails on a text"):
            # not verbose: no warning about the tokenizer's own limit, since callers have one
            encoded = self.tokenizer(text, add_special_tokens=False, verbose=False)
        ids: list[int] = encoded["input_ids"]
        if len(ids) > self._most_growth * (len(text) + 1):
            refusal = limits.refusal("token_growth", len(ids) // (len(text) + 1))
            raise UnboundedError(f"the tokenizer makes {len(ids):,} tokens of a text: {refusal}")
        return list(ids)

    def _apply(self, inputs: ChatInputs, **options: Any) -> str:
        """Call transformers; a template's refusal becomes a DataError that names the roles."""
        from jinja2.exceptions import SecurityError, TemplateSyntaxError

        options = {**inputs.options, **options, "chat_template": self.chat_template}
        try:
            text = self.tokenizer.apply_chat_template(inputs.messages, tokenize=False, **options)
        except (TemplateSyntaxError, SecurityError) as error:
            raise ModelError(f"the chat template cannot be used: {error}") from error
        except UnboundedError as error:
            # A conversation that is itself as long as the limit is a fault of the data.
            length = sum(map(len, inputs.texts()))
            if length < self._most_bytes // 4:
                raise
            raise DataError(f"a conversation of {length:,} characters: {error}") from error
        # A template is a program of somebody else's: on a conversation it does not expect it may
        # raise whatever Python can.
        except Exception as error:
            raise DataError(
                f"the chat template refused the roles {inputs.roles}: {error}. Change the roles of "
                "the record, or use a template that takes them"
            ) from error
        return str(text)

    def _rendered_probes(self) -> list[str]:
        """Each probe that the template takes, with `control.ANY_TEXT` as all texts."""
        rendered = []
        for roles in PROBES:
            turns = [Message(role, control.ANY_TEXT) for role in roles]
            with contextlib.suppress(DataError):
                rendered.append(self._apply(ChatInputs.of(turns)))
        return rendered

    def _ensure_one_bos(self) -> None:
        """Find out whether template or tokenizer writes the BOS, and make it exactly one."""
        ids = self._probe_ids()
        self._refuse_double_bos(ids)
        # Tried, not read from a setting: a post-processor may add the BOS as well.
        begin = self.tokenizer.bos_token_id
        added = self.tokenizer("a")["input_ids"][:1] == [begin]
        if begin is not None and added and ids[:1] != [begin]:
            self.chat_template = "{{ bos_token }}" + self.chat_template
        self.begins_with_bos = begin is not None and (added or ids[:1] == [begin])

    def _probe_ids(self) -> list[int]:
        """Token ids of the first probe that the template takes."""
        reason = ""
        for roles in PROBES:
            try:
                turns = [Message(role, "a") for role in roles]
                return self._ids(self._apply(ChatInputs.of(turns)))
            except DataError as error:
                reason = str(error)
        raise ModelError(f"the chat template takes no conversation: {reason}")

    def _refuse_double_bos(self, ids: list[int]) -> None:
        begin = self.tokenizer.bos_token_id
        if begin is not None and ids[:2] == [begin, begin]:
            raise ModelError(
                f"the chat template {self.chat_template[:60]!r}… begins a conversation with two "
                f"{self.tokenizer.bos_token!r}: remove one from the template"
            )


def _texts(value: Any) -> Iterator[str]:
    """The texts in a JSON value, names of fields included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, child in value.items():
            yield name
            yield from _texts(child)
    elif isinstance(value, list):
        for child in value:
            yield from _texts(child)


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _map_texts(child, change) for name, child in value.items()}
    if isinstance(value, list):
        return [_map_texts(child, change) for child in value]
    return value


def _check(messages: Sequence[Message]) -> None:
    """Refuse what no template should get; cheap, since it runs on every conversation."""
    if not messages or messages[-1].role == INPUTS:
        raise DataError("a conversation needs at least one message")
    for index, message in enumerate(messages):
        role = message.role
        is_raw = role == RAW and len(messages) == 1
        if role not in ROLES and not is_raw and not (role == INPUTS and index == 0):
            expected = ", ".join(sorted(ROLES))
            hint = " (raw text stands alone)" if role == RAW else ""
            raise DataError(f"role {role!r}{hint}: expected one of {expected}")
        if not isinstance(message.content, str):
            raise DataError(f"the {role} message is not text: {message.content!r:.60}")
        for text in (message.content, message.fields):
            if not text.isascii() and (lone := _SURROGATE.search(text)):
                raise DataError(
                    f"the {role} message is not valid Unicode: lone surrogate "
                    f"U+{ord(lone.group()):04X} at character {lone.start()}"
                )
