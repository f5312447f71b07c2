"""A tokenizer trained on a run's own texts, for backbones built from scratch."""

from collections.abc import Iterable
from typing import Any

SPECIAL = {"pad_token": "<|pad|>", "bos_token": "<|bos|>", "eos_token": "<|eos|>"}
ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message.role + '|>' }}"
    "{{ message.content }}{% endfor %}{{ eos_token }}"
)


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
