"""A small Llama pretrained on real text as a causal language model, from which all reward models of
the comparison start, and the documents that it is pretrained on.

A document that shares a run of 13 words, or a whole short text, with a test item is left out; the
rule is that of `smorm check --against`. The others are rendered by the one renderer, so that
the reward models meet their chat template again. Text, tokenizer, order and weights depend only on
the seed; bf16 products keep pretraining to minutes on one core."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.command import say
from smorm.checks.overlap import Benchmarks, overlap_table, read_benchmarks
from smorm.checks.shingles import grams, words_of
from smorm.data.census import Census
from smorm.data.reading import Source, read_records
from smorm.data.records import text_of
from smorm.errors import DataError
from smorm.files import read_json, sha256, write_json
from smorm.lab.artifacts import ArtifactStore
from smorm.model.store import versions
from smorm.text.chat import RAW, Message, Messages, Renderer
from smorm.text.tokenizers import train_bpe

# One document of so many is held out.
HELD_OUT = 50
_USER, _ASSISTANT = "Human: ", "\n\nAssistant: "
# Documents whose runs of words are in memory at once.
_BATCH = 512

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents to train on and held out, and what was left out.

    Attributes:
        overlap: of each test file its items, and those with text in common with the documents
            before any was left out.
        left_out: documents that held such text."""

    training: list[Messages]
    held_out: list[Messages]
    overlap: dict[str, dict[str, int]]
    left_out: int


def read_corpus(path: Path, tests: Sequence[tuple[str, Path]]) -> Corpus:
    """The documents of a file of `{"text"}` lines that share no text with the named test files.

    Raises:
        DataError: a file is missing, or no document is left."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; --data names the folder of the real data")
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        documents = [conversation(json.loads(line)["text"]) for line in stream]
    records = []
    for name, file in tests:
        records.append((name, read_records(Source(file), None, Census(), "stop")))
    benchmarks = read_benchmarks(records)
    shared = overlapping(documents, benchmarks)
    training: list[Messages] = []
    held_out: list[Messages] = []
    for index, document in enumerate(documents):
        if index not in shared:
            # By the text's hash, so that a document is on the same side whatever else is there.
            side = held_out if _hash_of_text(document) % HELD_OUT == 0 else training
            side.append(document)
    if not training and not held_out:
        raise DataError(f"{path}: every document shares text with a test file")
    return Corpus(training, held_out, overlap_table(benchmarks), len(shared))


def conversation(text: str) -> Messages:
    """A document as two turns where it has the two labels `Human: ` and `Assistant: `, else as raw
    text; further labels stay in the answer."""
    prompt, label, answer = text.partition(_ASSISTANT)
    if text.startswith(_USER) and label:
        return (Message("user", prompt.removeprefix(_USER)), Message("assistant", answer))
    return (Message(RAW, text),)


def overlapping(documents: Sequence[Messages], benchmarks: Benchmarks) -> set[int]:
    """Indices of the documents that share text with a test item; `benchmarks` counts the items."""
    shared: set[int] = set()
    for first in range(0, len(documents), _BATCH):
        indices: list[int] = []
        texts: list[str] = []
        for index, document in enumerate(documents[first : first + _BATCH], start=first):
            # Each message by itself and all together: a short text counts only as a whole text.
            variants = {text_of(document), *(message.content for message in document)}
            texts += variants
            indices += [index] * len(variants)
        hashes, positions = grams(words_of(texts))
        rows = np.array(indices, dtype=np.int64)[positions]
        benchmarks.meet(hashes, rows, np.zeros(len(rows), dtype=bool))
        shared.update(rows[np.isin(hashes, benchmarks.hashes)].tolist())
    return shared


def _hash_of_text(document: Messages) -> int:
    return int(hashlib.sha256(text_of(document).encode()).hexdigest()[:8], 16)


def texts_of(documents: Sequence[Messages]) -> Iterator[str]:
    """Every text, for a tokenizer to be trained on."""
    for document in documents:
        for message in document:
            yield message.content


def windows(
    documents: Sequence[Messages], renderer: Renderer, width: int, count: int, seed: int
) -> Ids:
    """Token ids [count or fewer, width]: documents in a random order, end to end, cut into windows.

    Fewer windows than requested where the documents end before; no document is taken twice.

    Raises:
        DataError: the documents do not fill one window."""
    # Documents are drawn without replacement, so that no text is read twice.
    ids: list[int] = []
    for index in np.random.default_rng(seed).permutation(len(documents)):
        if len(ids) >= width * count:
            break
        ids += renderer.render(documents[index])
    full = min(count, len(ids) // width)
    if full == 0:
        raise DataError(f"{len(documents)} documents do not fill a window of {width} tokens")
    return np.array(ids[: full * width], dtype=np.int64).reshape(full, width)


@dataclass(frozen=True, slots=True)
class Backbone:
    """The pretraining: `tokens` are read once each; `width` is the longest context."""

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
    """The folder of the pretrained model and its tokenizer; made if it does not exist.

    Raises:
        DataError: no text, or a test file is missing."""
    hashes = [_hash_of_file(path) for path in (text, *dict(tests).values())]
    recipe = [asdict(backbone), hashes, versions()]
    store = ArtifactStore(work)

    def make(scratch: Path) -> None:
        _pretrain(read_corpus(text, tests), backbone, scratch)

    return store.folder(store.path("", recipe, label="backbone"), recipe, make)


def backbone_facts(folder: Path) -> dict[str, Any]:
    """Losses, sizes and counts of documents, as `backbone_folder` wrote them."""
    facts: dict[str, Any] = read_json(folder / FACTS)
    return facts


def _hash_of_file(path: Path) -> str:
    # A missing file is named when it is read, with the option that names the folder.
    return sha256(path) if path.is_file() else ""


def _pretrain(corpus: Corpus, backbone: Backbone, folder: Path) -> None:
    torch.set_num_threads(1)
    # Of the training documents alone: a vocabulary that knows held-out text would lower its loss.
    tokenizer = train_bpe(texts_of(corpus.training), backbone.vocab_size)
    tokenizer.model_max_length = backbone.width
    renderer, width, seed = Renderer(tokenizer), backbone.width, backbone.seed
    training = windows(corpus.training, renderer, width, backbone.tokens // width, seed)
    held_out = windows(corpus.held_out, renderer, width, backbone.held_out_tokens // width, seed)
    model = _model(tokenizer, backbone)
    started = time.monotonic()
    curve = _train(model, training, backbone)
    minutes = (time.monotonic() - started) / 60
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    facts = {
        "settings": asdict(backbone),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "tokens": int(training.size),
        "minutes": round(minutes, 2),
        "loss": round(_loss(model, held_out), 4),
        "loss_of_frequencies": round(_frequency_loss(training, held_out, len(tokenizer)), 4),
        "held_out_tokens": int(held_out.size),
        "curve": curve,
        "documents": len(corpus.training),
        "documents_held_out": len(corpus.held_out),
        "documents_left_out": corpus.left_out,
        "overlap": corpus.overlap,
    }
    write_json(folder / FACTS, facts)


def _model(tokenizer: Any, backbone: Backbone) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    # Before the model is built, which draws its weights.
    torch.manual_seed(backbone.seed)
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
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
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
        # Early steps of a model from random weights have gradients many times the usual norm.
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent.append(float(loss.detach()))
        if (step + 1) % every == 0 or step + 1 == steps:
            curve.append({"step": step + 1, "loss": round(float(np.mean(recent)), 4)})
            say(f"pretraining {step + 1}/{steps}: loss {curve[-1]['loss']:.3f}")
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
    # One window at a time, so that held-out text of any size fits in memory.
    return float(np.mean([float(_cross_entropy(model, row[None])) for row in rows]))


def _frequency_loss(training: Ids, held_out: Ids, vocabulary: int) -> float:
    """Loss of the training text's token frequencies, each count plus one: what any language model
    must be below."""
    counts = np.bincount(training.ravel(), minlength=vocabulary) + 1.0
    log_probs = np.log(counts / counts.sum())
    return -float(log_probs[held_out[:, 1:]].mean())
