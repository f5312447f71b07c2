"""Which token pads.

smorm pools by index, but the plain Hugging Face classifier of an export pools at the last token
that is not the pad token. If the pad token can end a conversation (the common `pad = eos`), that
classifier reads one token too early, without a warning. So the pad token is one that no rendered
conversation ends with.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NEW_PAD_TOKEN = "<|pad|>"

# Best first. Tokens that models set aside for padding, then those set aside for any use.
_SPARE = (
    re.compile(r"<\|finetune_right_pad_id\|>"),
    re.compile(r"<pad>|\[PAD\]|<\|pad\|>|<\|endofpad\|>"),
    re.compile(r"<\|reserved_special_token_\d+\|>|<\|reserved_\d+\|>|\[control_\d+\]"),
    re.compile(r"<\|?unused_?\d+\|?>|\[unused_?\d+\]|<\|extra_\d+\|>|<extra_id_\d+>"),
)


def find_pad_token(tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> str | None:
    """A token in the vocabulary that can pad, or None.

    In this order: the tokenizer's own pad token; one set aside for padding; a reserved or unused
    one, lowest id first; the unknown token. Each only if it is neither BOS nor EOS and is not
    written by `template` (the tokenizer's own when None).
    """
    text = template
    if text is None:
        text = tokenizer.chat_template or ""
        if isinstance(text, dict):
            text = "\0".join(text.values())
    written = {tokenizer.bos_token_id, tokenizer.eos_token_id}

    def free(token: str | None) -> bool:
        if token is None or token in text:
            return False
        return tokenizer.convert_tokens_to_ids(token) not in written

    if free(tokenizer.pad_token):
        return str(tokenizer.pad_token)
    # In the order of their ids, so that the choice does not depend on the file's order.
    added = [token.content for _, token in sorted(tokenizer.added_tokens_decoder.items())]
    for pattern in _SPARE:
        for token in added:
            if pattern.fullmatch(token) and free(token):
                return str(token)
    # Without an EOS a raw text could end in the unknown token.
    if tokenizer.eos_token_id is not None and free(tokenizer.unk_token):
        return str(tokenizer.unk_token)
    return None


def ensure_pad_token(tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> int:
    """Give `tokenizer` a pad token that no conversation ends with; return its id.

    Where the vocabulary has none (see `find_pad_token`), `<|pad|>` is added. The returned id may
    then be outside the model's embedding: the caller resizes it when `id >= number of rows`. Do
    this before a `Renderer` is built: a new token is one more control token.
    """
    token = find_pad_token(tokenizer, template)
    if token is None:
        tokenizer.add_special_tokens({"pad_token": NEW_PAD_TOKEN})
    elif token != tokenizer.pad_token:
        tokenizer.pad_token = token
    return int(tokenizer.pad_token_id)
