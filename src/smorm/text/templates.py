"""Chat templates: the plain one, and what any other is tested for before it is used."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from smorm.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}: {{ message['content'] }}"
    "{% if not loop.last %}{{ '\n\n' }}{% endif %}"
    "{% endfor %}"
    "{{ eos_token }}"
)
"""For a tokenizer that has no chat template: BOS, `User: …`, a blank line, `Assistant: …`, EOS.

The other roles are `System:` and `Tool:`. A BOS or EOS that the tokenizer lacks is left out. EOS
comes last so that the pooled position is the end of the answer and never a word of it.
"""

PROBES: tuple[tuple[str, ...], ...] = (
    ("system", "user", "assistant", "user", "assistant"),
    ("user", "assistant", "user", "assistant"),
    ("user", "assistant"),
    ("user",),
)
"""Role sequences tried on a new template, until one is accepted."""

_TEXT = "\ue000"  # stands for a message's text; templates neither trim nor match it


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


def texts_touch(render: Callable[[Sequence[str]], str | None], control: Collection[str]) -> bool:
    """Whether a control token could be put together across the edge of a message.

    That is so where nothing, or only a piece of a control token, is written between two texts, or
    where what the template writes beside a text could begin or end one. `render` turns the texts of
    a probe into a string, or None where the template refuses that many.
    """
    # Every probe, because a template may write other separators for a system message.
    for probe in PROBES:
        rendered = render([_TEXT] * len(probe))
        if rendered is None:
            continue
        before, *between_and_after = rendered.split(_TEXT)
        if not between_and_after:
            continue
        between, after = between_and_after[:-1], between_and_after[-1]
        literals = [before, *between, after]
        for token in control:
            if any(literal in token != literal for literal in between):
                return True
            if any(_could_join(token, *borders) for borders in pairwise(literals)):
                return True
    return False


def _could_join(token: str, before: str, after: str) -> bool:
    """Whether `before` + a text + `after` could hold the token across either border."""
    for cut in range(1, len(token)):
        if before.endswith(token[:cut]) or after.startswith(token[cut:]):
            return True
    return False
