"""Four real tokenizers with four real template styles, built here from a few sentences.

ChatML and Llama-3 are byte-level BPE; Gemma and Mistral are SentencePiece-like BPE with byte
fallback (Gemma writes spaces by a normalizer, Mistral by Metaspace). Each has the control tokens of
its family, special and added.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

CORPUS = [
    "The quick brown fox jumps over the lazy dog while the user asks the assistant a question.",
    "Please write a short story about a river, a bridge and the people who live beside them.",
    "start end of turn im begin text system user assistant tool header instruction pad eos bos",
    "def add(a, b):\n    return a + b\n\nThe answer is 42, because 6 * 7 = 42.",
    "[INST] in brackets, <tags> in angles, {braces} and |pipes|, 100% plain text / slashes.",
    "Où est la bibliothèque? 你好，世界。 Привет, мир! 🙂 naïve café",
]

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'tool' %}{{ '<tool_response>\n' }}{% endif %}"
    "{{ message['content'] }}"
    "{% if message['role'] == 'tool' %}{{ '\n</tool_response>' }}{% endif %}"
    "{{ '<|im_end|>' + '\n' }}{% endfor %}"
)
LLAMA3 = (
    "{{- bos_token }}{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/...') }}{% endif %}"
    "{% if message['role'] == 'assistant' %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}"
)
MISTRAL = (
    "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}"
    "{%- set turns = messages[1:] %}{%- else %}{%- set turns = messages %}{%- endif %}"
    "{{- bos_token }}{%- for message in turns %}"
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{- raise_exception('After the optional system message, roles must alternate') }}{%- endif %}"
    "{%- if message['role'] == 'user' %}{{- '[INST] ' }}"
    "{%- if loop.first and system is defined %}{{- system + '\n\n' }}{%- endif %}"
    "{{- message['content'] + ' [/INST]' }}"
    "{%- else %}{{- ' ' + message['content'] | trim + eos_token }}{%- endif %}{%- endfor %}"
)

SPECIAL = {
    "chatml": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>"],
    "llama3": [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|python_tag|>",
        "<|finetune_right_pad_id|>",
        "<|reserved_special_token_0|>",
        "<|reserved_special_token_1|>",
    ],
    "gemma": ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<mask>"],
    "mistral": [
        "<unk>",
        "<s>",
        "</s>",
        "[INST]",
        "[/INST]",
        "[AVAILABLE_TOOLS]",
        "[/AVAILABLE_TOOLS]",
        "[TOOL_RESULTS]",
        "[/TOOL_RESULTS]",
        "[TOOL_CALLS]",
    ],
}
ADDED = {  # in the vocabulary and matched in text, but not special
    "chatml": ["<tool_response>", "</tool_response>", "<think>", "</think>"],
    "llama3": [],
    "gemma": ["<unused0>", "<unused1>", "\n\n", "<table>"],
    "mistral": [],
}
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "gemma": GEMMA, "mistral": MISTRAL}
NAMED = {
    "chatml": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "gemma": {
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    },
    "mistral": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
}
STYLES = tuple(TEMPLATES)
BYTES = [f"<0x{value:02X}>" for value in range(256)]


def byte_level(special: Iterable[str]) -> Tokenizer:
    """A byte-level BPE, as GPT-2, Qwen and Llama-3 have."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(r" ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"),
                behavior="isolated",
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=500,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def sentencepiece(special: Iterable[str], *, metaspace: bool) -> Tokenizer:
    """A BPE over "▁" with byte fallback, as SentencePiece models become when converted."""
    special = list(special)
    tokenizer = Tokenizer(BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    state = json.loads(tokenizer.to_str())["model"]
    vocab = dict(state["vocab"])
    for piece in [*BYTES, "▁"]:
        vocab.setdefault(piece, len(vocab))
    merges = [tuple(pair) for pair in state["merges"]]
    whole = Tokenizer(
        BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    if metaspace:
        whole.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        whole.normalizer = normalizers.Replace(" ", "▁")
        whole.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    whole.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    whole.add_special_tokens([AddedToken(text, normalized=False) for text in special])
    return whole


def build(style: str) -> PreTrainedTokenizerFast:
    """A new tokenizer of one style, free to be changed."""
    if style in ("chatml", "llama3"):
        backend = byte_level(SPECIAL[style])
    else:
        backend = sentencepiece(SPECIAL[style], metaspace=style == "mistral")
    backend.add_tokens([AddedToken(text, normalized=False) for text in ADDED[style]])
    begin = NAMED[style].get("bos_token")
    if begin is not None:
        backend.post_processor = TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, backend.token_to_id(begin))]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **NAMED[style])
    others = [t for t in SPECIAL[style] if t not in NAMED[style].values()]
    tokenizer.add_special_tokens({"additional_special_tokens": others})
    tokenizer.chat_template = TEMPLATES[style]
    return tokenizer


@cache
def shared(style: str) -> PreTrainedTokenizerFast:
    """A tokenizer of one style that tests only read."""
    return build(style)


def control_ids(style: str) -> dict[str, int]:
    """The id of every special token of a style."""
    tokenizer = shared(style)
    return {text: tokenizer.convert_tokens_to_ids(text) for text in SPECIAL[style]}


def data_folder() -> Path:
    """The shared data: SMORM_DATA, or `../shared/data` beside the repository."""
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    return Path(os.environ.get("SMORM_DATA", beside))


def stories(folder: Path) -> PreTrainedTokenizerFast:
    """The stories260k tokenizer: SentencePiece, no chat template, pad = eos."""
    return AutoTokenizer.from_pretrained(folder)
