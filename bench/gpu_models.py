"""Models and batches of the GPU benchmark: true shapes with random weights, HH-shaped tokens."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from smorm.arrays import Tokens
from smorm.model.network import RewardNetwork
from smorm.model.shapes import SHAPES as HUB_SHAPES

_FIELDS = ("architecture", "hidden_size", "num_hidden_layers", "num_attention_heads",
           "num_key_value_heads", "head_dim", "intermediate_size", "vocab_size")  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.2-1b": dict(zip(_FIELDS, ("llama", 2048, 16, 32, 8, 64, 8192, 128_256), strict=True)),
    "gemma-2b": {name: HUB_SHAPES["google/gemma-2b-it"][name] for name in _FIELDS},
}
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "vocab_size": 997}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
# HH harmless-base in tokens of a 16k BPE: mean and deviation of log(length), and the limit.
PROMPT, RESPONSE, MOST = (4.16, 1.09), (3.42, 0.89), 1024

Unit = list[Tokens]


@dataclass(frozen=True, slots=True)
class Shape:
    """One model: its name, config fields, and what a token costs."""

    name: str
    fields: dict[str, Any]

    def config(self) -> Any:
        """transformers' config."""
        from transformers import AutoConfig

        fields = dict(self.fields)
        return AutoConfig.for_model(
            fields.pop("architecture"),
            **fields,
            max_position_embeddings=4096,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )

    def linear_parameters(self) -> int:
        """Weights of the decoder's linear layers: 6 FLOPs a token each, forward and backward."""
        f = self.fields
        heads = 2 * f["num_attention_heads"] + 2 * f["num_key_value_heads"]
        per_layer = f["hidden_size"] * (heads * f["head_dim"] + 3 * f["intermediate_size"])
        return int(per_layer * f["num_hidden_layers"])


def shape_of(name: str, tiny: bool) -> Shape:
    """A shape by its name; `tiny` keeps the architecture and makes everything small."""
    fields = dict(SHAPES[name])
    if tiny:
        fields |= TINY
    return Shape(name, fields)


def build(shape: Shape, device: torch.device, dtype: torch.dtype, seed: int = 0) -> RewardNetwork:
    """A network with random weights, made on the device."""
    from transformers import AutoModel

    torch.manual_seed(seed)
    # made where it is used: copying gigabytes of random numbers would take a minute
    with device:
        backbone = AutoModel.from_config(
            shape.config(), dtype=dtype, attn_implementation="eager", trust_remote_code=False
        )
        network = RewardNetwork(backbone, rows=1, pad_id=0)
    return network.to(device).train()


def pairs(count: int, vocabulary: int, seed: int, *, tiny: bool) -> list[Unit]:
    """Pairs (chosen, rejected) over one prompt each, with the lengths of HH harmless-base."""
    return best_of(2, count, vocabulary, seed, tiny=tiny)


def best_of(size: int, prompts: int, vocabulary: int, seed: int, *, tiny: bool) -> list[Unit]:
    """Prompts with `size` responses each, with the lengths of HH harmless-base."""
    # Ids without meaning: speed depends on lengths and on what begins alike.
    rng = np.random.default_rng(seed)
    most = 96 if tiny else MOST

    def draw(fit: tuple[float, float], limit: int) -> Tokens:
        length = int(np.clip(rng.lognormal(*fit), 4, limit))
        return rng.integers(3, vocabulary, length).astype(np.int32)

    units = []
    for _ in range(prompts):
        prompt = draw(PROMPT, most * 3 // 4)
        limit = most - len(prompt)
        units.append([np.concatenate([prompt, draw(RESPONSE, limit)]) for _ in range(size)])
    return units


def flat(units: list[Unit]) -> list[Tokens]:
    """All sequences, a unit's beside each other."""
    return list(itertools.chain.from_iterable(units))
