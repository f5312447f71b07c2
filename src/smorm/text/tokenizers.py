"""Tokenizers: loaded, or trained on a run's own texts; and which token pads.

smorm pools by index, but the plain Hugging Face classifier of an export pools at the last token
that is not the pad token. If the pad token can end a conversation (the common `pad = eos`), that
classifier reads one token too early, without a warning. So the pad token is one that no rendered
conversation ends with."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smorm import limits
from smorm.errors import ConfigError, ModelError, first_line, third_party
from smorm.model_files import local_folder, read_settings
from smorm.text import probe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPECIAL = {"pad_token": "<|pad|>", "bos_token": "<|bos|>", "eos_token": "<|eos|>"}
ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message.role + '|>' }}"
    "{{ message.content }}{% endfor %}{{ eos_token }}"
)
NEW_PAD_TOKEN = "<|pad|>"
# How the files of tokenizers begin, beside those of SentencePiece (.model).
_FILES = ("tokenizer", "vocab", "merges", "tekken")

# Best first. Tokens that models set aside for padding, then those set aside for any use.
_SPARE = (
    re.compile(r"<\|finetune_right_pad_id\|>"),
    re.compile(r"<pad>|\[PAD\]|<\|pad\|>|<\|endofpad\|>"),
    re.compile(r"<\|reserved_special_token_\d+\|>|<\|reserved_\d+\|>|\[control_\d+\]"),
    re.compile(r"<\|?unused_?\d+\|?>|\[unused_?\d+\]|<\|extra_\d+\|>|<extra_id_\d+>"),
)


def refuse_unbounded(folder: Path) -> None:
    """Try a folder's tokenizer and chat templates; `UnboundedError` where they take too much time,
    memory or text. Templates are bounded afterwards wherever transformers renders them."""
    with probe.start_folder(folder) as trial:
        # Imported while the trial runs, since it takes longer than that.
        from smorm.text import sandbox

        sandbox.install()
        trial.wait()


def load_tokenizer(path: str, *, tried: bool = False) -> Any:
    """The tokenizer of a folder or hub id; `ModelError` where it cannot be loaded, or asks to run
    code of its own. What the folder brings is tried first (`refuse_unbounded`), but for one that
    another process has `tried`."""
    folder = local_folder(path, weights=False)
    if not tried:
        refuse_unbounded(folder)
    # AutoTokenizer imports torch, which a tokenising process can do without: 200 MB and 2 seconds.
    from transformers import PreTrainedTokenizerFast

    if not any(
        entry.name.startswith(_FILES) or entry.suffix == ".model" for entry in folder.iterdir()
    ):
        raise ModelError(
            f"{path}: no tokenizer in it (no tokenizer.json): copy that of the model it was made "
            "of into the folder, or for training name it under model.tokenizer"
        )
    file = folder / "tokenizer_config.json"
    # AutoTokenizer prefers the class of some model types (Qwen2's) to the saved one, and that
    # class splits text in another way: the saved class decides.
    saved = read_settings(file).get("tokenizer_class") if file.exists() else None
    with third_party(path, "no usable tokenizer"):
        if saved in ("TokenizersBackend", "PreTrainedTokenizerFast"):
            tokenizer = PreTrainedTokenizerFast.from_pretrained(
                str(folder), trust_remote_code=False
            )
        else:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        # Some settings are read at the first text only.
        tokenizer.decode(tokenizer.encode("\n A few words."))
    return tokenizer


def read_template(path: Path, named: str) -> str:
    """A chat template of a file; ConfigError, which begins with what `named` it, where it has
    none, or one that takes too much."""
    try:
        content = limits.read_limited(path, "template_bytes", ConfigError)
        template = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{named}: {path}: {first_line(error)}") from error
    if not template.strip():
        raise ConfigError(f"{named}: {path}: an empty file, expected a Jinja template")
    probe.refuse_template(template, f"{named}: {path}")
    return template


def train_bpe(texts: Iterable[str], vocab_size: int) -> Any:
    """Byte-level BPE with its own control tokens and chat template (BOS, a role token before each
    message, and EOS at the end). The same texts, the same ids."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    # Bytes as the alphabet: every text can be written, and none needs an unknown token.
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL.values(), *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    special = {**SPECIAL, "extra_special_tokens": list(ROLES)}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.chat_template = TEMPLATE
    return fast


def find_pad_token(tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> str | None:
    """A token in the vocabulary that can pad, or None: the tokenizer's own pad token, else one set
    aside for padding, a reserved or unused one (lowest id first), or the unknown token. It is
    neither BOS nor EOS and not written by `template` (the tokenizer's own when None)."""
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

    Where the vocabulary has none, `<|pad|>` is added. Its id may then be outside the model's
    embedding, and it is one more control token: do this before a `Renderer` is built."""
    token = find_pad_token(tokenizer, template)
    if token is None:
        tokenizer.add_special_tokens({"pad_token": NEW_PAD_TOKEN})
    elif token != tokenizer.pad_token:
        tokenizer.pad_token = token
    return int(tokenizer.pad_token_id)
