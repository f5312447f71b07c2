"""The one renderer: the only place where a conversation becomes token ids.

Training, evaluation, reinforcement learning and serving all call `Renderer.render`, so that a model
scores the text that it was trained on, token for token.

* **Control tokens in messages stay text**, always (`smorm.text.control`).
* **One BOS.** A template that makes two is refused. Where the template writes none but the
  tokenizer adds one to plain text, `{{ bos_token }}` is put at the start of the template; export
  `Renderer.chat_template`, which has it, and every other program renders the same ids.
* **Nothing is cut.** `smorm.text.limits` shortens prompts, and counts it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smorm.errors import DataError, ModelError
from smorm.files import fingerprint
from smorm.text import control
from smorm.text.tokenizers import find_pad_token

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = frozenset({"system", "user", "assistant", "tool"})
RAW = "text"
"""The role of raw text: a conversation of exactly one such message has no chat structure."""
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
    """One turn: `role` is one of system, user, assistant, tool, or "text" (raw text, alone)."""

    role: str
    content: str


Messages = tuple[Message, ...]


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
    `PLAIN_TEMPLATE`. `max_tokens` is the limit that callers apply; `render` itself never cuts.
    `sanitizer` chooses what keeps control tokens of messages as text: transformers ("auto": where
    the installed version can) or the built-in code; both give the same ids. A template that cannot
    be used is a `ModelError`."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
        max_tokens: int = 2048,
        *,
        sanitizer: control.Sanitizer = "auto",
    ) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.chat_template = chat_template or own_template(tokenizer)
        self._native = control.use_transformers(tokenizer, sanitizer)
        try:
            self.control = control.ControlTokens(tokenizer, self.chat_template)
            self._ensure_one_bos()
        except _template_errors() as error:
            raise ModelError(f"the chat template cannot be used: {error}") from error
        # Whether texts of two messages could join to a control token in this template.
        self._guarded = control.texts_touch(self._rendered_probes(), self.control.ids)

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
        decisive = {
            "template": self.chat_template,
            "bos": self.tokenizer.bos_token_id,
            "eos": self.tokenizer.eos_token_id,
            "control": dict(self.control.ids),
            "behaviour": control.BEHAVIOUR,
            "probe": self.tokenizer.encode(_FINGERPRINT_PROBE, add_special_tokens=False),
        }
        return fingerprint(decisive)

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a whole conversation.

        `DataError`: an unknown role, no message, text that is not valid Unicode, or an order of
        roles that the template refuses. `ModelError`: the template makes two BOS for it."""
        _check(messages)
        # Raw text has no chat structure, so no template sees it.
        if messages[0].role == RAW:
            return self._raw(messages[0].content)
        ids = self._encode(messages)
        # Checked for every conversation: a template may write a second BOS for some roles only.
        self._refuse_double_bos(ids)
        if not ids:
            raise DataError(f"the chat template made no token of {_roles(_chat(messages))}")
        return ids

    def token_starts(self, text: str) -> list[int]:
        """Character offset of each token of a message's text, for cutting it at a token."""
        return self.control.token_starts(text)

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        texts = [message.content for message in messages]
        if self._guarded:
            return self._built_in(messages)
        if not any(map(self.control.found_in, texts)):
            return self._ids(_chat(messages))  # same ids as below, several times faster
        if self._native and not any(map(self.control.hidden_in, texts)):
            try:
                return self._ids(_chat(messages), sanitize_control_tokens=True)
            except DataError:
                raise
            except ValueError:
                pass  # the vocabulary makes the token from plain text: ours splits it
        return self._built_in(messages)

    def _built_in(self, messages: Sequence[Message]) -> list[int]:
        chat = _chat(messages)
        for turn in chat:
            marked = self.control.mark(turn["content"])
            core = marked.strip()
            # Where the template joins texts, their edges are marked too: inside of the spaces,
            # because many templates trim a message.
            if self._guarded and core:
                lead, _, trail = marked.partition(core)
                marked = f"{lead}{control.END}{core}{control.END}{trail}"
            turn["content"] = marked
        rendered = self._apply(chat, tokenize=False)
        return self.control.encode_marked(rendered)

    def _raw(self, text: str) -> list[int]:
        """BOS (if the tokenizer has one), the text's tokens, EOS (if it has one)."""
        if self.control.found_in(text):
            text = self.control.mark(text)
        ids = self.control.encode_marked(text)
        begin, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if begin is not None:
            ids.insert(0, begin)
        if end is not None:
            ids.append(end)
        if not ids:
            raise DataError("an empty text makes no token with this tokenizer")
        return ids

    def _ids(self, chat: list[dict[str, str]], **options: Any) -> list[int]:
        quiet = {"verbose": False}  # no warning about the tokenizer's own limit: callers have one
        options |= {"return_dict": False, "tokenizer_kwargs": quiet}
        ids: list[int] = self._apply(chat, tokenize=True, **options)
        return ids

    def _apply(self, chat: list[dict[str, str]], **options: Any) -> Any:
        try:
            options["chat_template"] = self.chat_template
            return self.tokenizer.apply_chat_template(chat, **options)
        except _template_errors() as error:
            raise DataError(
                f"the chat template refused the roles {_roles(chat)}: {error}. Change the roles of "
                "the record, or use a template that takes them"
            ) from error

    def _rendered_probes(self) -> list[str]:
        """Each probe that the template takes, with `control.ANY_TEXT` as all texts."""
        rendered = []
        for roles in PROBES:
            chat = _chat(Message(role, control.ANY_TEXT) for role in roles)
            with contextlib.suppress(DataError):
                rendered.append(str(self._apply(chat, tokenize=False)))
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
            self.control = control.ControlTokens(self.tokenizer, self.chat_template)

    def _probe_ids(self) -> list[int]:
        """Token ids of the first probe that the template takes."""
        reason = ""
        for roles in PROBES:
            try:
                return self._ids(_chat(Message(role, "a") for role in roles))
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


def _chat(messages: Iterable[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _check(messages: Sequence[Message]) -> None:
    """Refuse what no template should get; cheap, since it runs on every conversation."""
    if not messages:
        raise DataError("a conversation needs at least one message")
    for message in messages:
        if message.role not in ROLES and not (message.role == RAW and len(messages) == 1):
            expected = ", ".join(sorted(ROLES))
            hint = " (raw text stands alone)" if message.role == RAW else ""
            raise DataError(f"role {message.role!r}{hint}: expected one of {expected}")
        if not isinstance(message.content, str):
            raise DataError(f"the {message.role} message is not text: {message.content!r:.60}")
        if not message.content.isascii() and (lone := _SURROGATE.search(message.content)):
            raise DataError(
                f"the {message.role} message is not valid Unicode: lone surrogate "
                f"U+{ord(lone.group()):04X} at character {lone.start()}"
            )


def _roles(chat: list[dict[str, str]]) -> str:
    return " → ".join(turn["role"] for turn in chat)


def _template_errors() -> tuple[type[Exception], ...]:
    """What a refusing or broken template raises (imported late: `smorm --help` must be fast)."""
    from jinja2.exceptions import TemplateError

    return (TemplateError, OverflowError)
