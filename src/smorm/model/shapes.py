"""The shapes of the backbones that the recipes name, so that a plan needs no network.

Fields of transformers' configs, as each `config.json` on the hub has them."""

from typing import Any

_FIELDS = ("architecture", "hidden_size", "num_hidden_layers", "num_attention_heads",
           "num_key_value_heads", "head_dim", "intermediate_size", "vocab_size",
           "max_position_embeddings")  # fmt: skip
_GEMMA_2B = ("gemma", 2048, 18, 8, 1, 256, 16_384, 256_000, 8192)
_MISTRAL_7B = ("mistral", 4096, 32, 32, 8, 128, 14_336, 32_000, 32_768)
_LLAMA_8B = ("llama", 4096, 32, 32, 8, 128, 14_336, 128_256, 131_072)

SHAPES: dict[str, dict[str, Any]] = {
    "google/gemma-2b-it": dict(zip(_FIELDS, _GEMMA_2B, strict=True)),
    # Its second version attends to everything: the default of the architecture is a window.
    "mistralai/Mistral-7B-Instruct-v0.2": {
        **dict(zip(_FIELDS, _MISTRAL_7B, strict=True)),
        "sliding_window": None,
    },
    "meta-llama/Llama-3.1-8B-Instruct": dict(zip(_FIELDS, _LLAMA_8B, strict=True)),
}
"""By hub id."""
