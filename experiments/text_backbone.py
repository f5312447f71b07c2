"""A small Llama pretrained on real text, as a causal language model: what all reward models of the
comparison begin with.

It is made once: the folder is named by all that decides it. Text, tokenizer, order and weights
depend on the seed alone; bf16 products keep it to minutes on one core.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.text_corpus import Corpus, Ids, facts, read_corpus, texts_of, windows
from smorm.files import atomic_folder, fingerprint, is_sealed, read_json, write_json
from smorm.model.store import versions
from smorm.text.bpe import train_bpe
from smorm.text.chat import Renderer


@dataclass(frozen=True, slots=True)
class Backbone:
    """What is pretrained. `tokens` are read once each; `width` is the longest context."""

    hidden_size: int = 160
    intermediate_size: int = 448
    layers: int = 4
    heads: int = 5
    vocab_size: int = 6000
    width: int = 512
    tokens: int = 4_500_000
    held_out_tokens: int = 100_000
    batch: int = 8
    rate: float = 2e-3
    seed: int = 0


SMALL = Backbone()
FACTS = "pretraining.json"


def backbone_folder(
    text: Path, tests: Sequence[tuple[str, Path]], work: Path, backbone: Backbone
) -> Path:
    """The folder of the pretrained model and its tokenizer; made where it is not there yet.

    Raises:
        DataError: no text, or a test file is missing.
    """
    content = [asdict(backbone), [_hash(text), *(_hash(path) for _, path in tests)], versions()]
    folder = work / f"backbone-{fingerprint(content)[:8]}"
    if not is_sealed(folder):
        with atomic_folder(folder) as scratch:
            _make(read_corpus(text, tests), backbone, scratch)
    return folder


def backbone_facts(folder: Path) -> dict[str, Any]:
    """Losses, sizes and what was left out, as `backbone_folder` wrote them."""
    found: dict[str, Any] = read_json(folder / FACTS)
    return found


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _make(corpus: Corpus, backbone: Backbone, folder: Path) -> None:
    torch.set_num_threads(1)
    tokenizer = train_bpe(texts_of(corpus.training), backbone.vocab_size)
    tokenizer.model_max_length = backbone.width
    renderer = Renderer(tokenizer)
    count = backbone.tokens // backbone.width
    training = windows(corpus.training, renderer, backbone.width, count, backbone.seed)
    count = backbone.held_out_tokens // backbone.width
    held_out = windows(corpus.held_out, renderer, backbone.width, count, backbone.seed)
    model = _model(tokenizer, backbone)
    started = time.monotonic()
    curve = _train(model, training, backbone)
    minutes = (time.monotonic() - started) / 60
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    measured = {
        "settings": asdict(backbone),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "tokens": int(training.size),
        "minutes": round(minutes, 2),
        "loss": round(_loss(model, held_out), 4),
        "loss_of_frequencies": round(_frequency_loss(training, held_out, len(tokenizer)), 4),
        "held_out_tokens": int(held_out.size),
        "curve": curve,
    }
    write_json(folder / FACTS, measured | facts(corpus))


def _model(tokenizer: Any, backbone: Backbone) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(backbone.seed)
    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id")
           for kind in ("pad", "bos", "eos")}  # fmt: skip
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=backbone.hidden_size,
            intermediate_size=backbone.intermediate_size,
            num_hidden_layers=backbone.layers,
            num_attention_heads=backbone.heads,
            num_key_value_heads=backbone.heads,
            max_position_embeddings=backbone.width,
            tie_word_embeddings=True,
            **ids,
        )
    )


def _train(model: Any, data: Ids, backbone: Backbone) -> list[dict[str, float]]:
    """AdamW, warm-up over 3 % of the steps, cosine to zero; every window is read once."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=backbone.rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    steps = max(1, len(data) // backbone.batch)
    warm, every = max(1, steps // 33), max(1, steps // 40)
    curve, recent = [], []
    for step in range(steps):
        factor = min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = backbone.rate * factor
        loss = _cross_entropy(model, data[step * backbone.batch : (step + 1) * backbone.batch])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent.append(float(loss.detach()))
        if (step + 1) % every == 0 or step + 1 == steps:
            curve.append({"step": step + 1, "loss": round(float(np.mean(recent)), 4)})
            print(f"pretraining {step + 1}/{steps}: loss {curve[-1]['loss']:.3f}", flush=True)
            recent = []
    return curve


def _cross_entropy(model: Any, rows: Ids) -> torch.Tensor:
    """Mean over the next tokens of windows [B, width], in nats."""
    ids = torch.from_numpy(rows)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())


@torch.no_grad()
def _loss(model: Any, rows: Ids) -> float:
    model.eval()
    return float(np.mean([float(_cross_entropy(model, row[None])) for row in rows]))


def _frequency_loss(training: Ids, held_out: Ids, vocabulary: int) -> float:
    """Loss of the training text's token frequencies (each counted once more): the floor's ceiling
    that any language model must be below."""
    counts = np.bincount(training.ravel(), minlength=vocabulary) + 1.0
    shares = np.log(counts / counts.sum())
    return -float(shares[held_out[:, 1:]].mean())
