"""The world's policies: tiny Llamas, language models of the world's own text.

Every text is a prompt with one answer of a simulated writer, of all topics and lengths and of mixed
quality, rendered as the chat template renders it, and is drawn anew for each batch. The shipped
backbone is one of them; other seeds, worlds and widths take about four minutes on one core at the
shipped size."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

from smorm.files import write_json
from smorm.printing import get_logger
from smorm.world.words import SPECIAL_TOKENS, WORDS
from smorm.world.world import REGIMES, World, make_world, pick, sample_prompt
from smorm.world.writer import write_answer

if TYPE_CHECKING:  # transformers' models take a core 3 seconds: where they are needed
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

log = get_logger(__name__)

Policy: TypeAlias = "tuple[LlamaForCausalLM, PreTrainedTokenizerFast]"
PAD, BOS, EOS, UNK, SEP = SPECIAL_TOKENS
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %} {{ message['content'] }} {{ eos_token }}"
    "{% else %} {{ message['content'] }} " + SEP + "{% endif %}"
    "{% endfor %}"
)
MAX_POSITIONS = 256
# Batches whose texts are drawn and sorted by length together.
POOL = 64
HEAD_SIZE = 16


@dataclass(frozen=True, slots=True)
class Pretraining:
    """The settings of a policy. The defaults made the shipped one."""

    seed: int = 0  # of weights and text
    world: int = 0  # seed of the facts, which the policy learns
    hidden: int = 64  # a multiple of 16, the size of an attention head
    layers: int = 3
    steps: int = 4500
    batch: int = 64  # texts of a step
    rate: float = 3e-3  # peak learning rate


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, split at white space; special tokens have the first ids."""
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate((*SPECIAL_TOKENS, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, unk_token=UNK,
        additional_special_tokens=[SEP], model_max_length=MAX_POSITIONS, padding_side="right",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    # Any reader of the folder renders a conversation as `batches` does, word by word.
    fast.chat_template = TEMPLATE
    return fast


def build_model(tokenizer: PreTrainedTokenizerFast, how: Pretraining) -> LlamaForCausalLM:
    """Heads of 16, an MLP of 8/3 the width, tied embeddings: 163,000 parameters as shipped."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=how.hidden,
        intermediate_size=4 * math.ceil(2 * how.hidden / 3),
        num_hidden_layers=how.layers,
        num_attention_heads=how.hidden // HEAD_SIZE,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    # Seeded here, not by the caller: the same settings give the same weights.
    torch.manual_seed(how.seed)
    return LlamaForCausalLM(config)


def batches(
    tokenizer: PreTrainedTokenizerFast, world: World, rng: np.random.Generator, size: int
) -> Iterator[Tensor]:
    """Endless batches [size, longest] of texts of similar length, padded on the right."""
    pad = tokenizer.pad_token_id
    while True:
        texts: list[Tensor] = []
        for _ in range(POOL * size):
            prompt = sample_prompt(rng, pick(rng, REGIMES))
            text = f"{BOS} {prompt.text} {SEP} {write_answer(world, prompt, rng)} {EOS}"
            texts.append(torch.tensor(tokenizer.convert_tokens_to_ids(text.split())))
        # Sorted by length within a pool of batches: little padding, and batches in random order.
        texts.sort(key=len)
        for start in rng.permutation(POOL) * size:
            rows = texts[start : start + size]
            yield nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)


def next_token_loss(model: LlamaForCausalLM, ids: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy of the next token, padding left out."""
    pad = model.config.pad_token_id
    # Padding is on the right, and attention is causal: no real token sees it.
    logits = model(input_ids=ids, attention_mask=(ids != pad).long()).logits[:, :-1]
    targets = ids[:, 1:].flatten()
    return nn.functional.cross_entropy(
        logits.flatten(0, 1), targets, ignore_index=pad, reduction=reduction
    )


@torch.no_grad()
def held_out(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World, seed: int
) -> dict[str, float]:
    """Loss per token on fresh text, and that of the text's own word frequencies."""
    stream = batches(tokenizer, world, np.random.default_rng([seed, 1]), size=64)
    counts, total = torch.zeros(len(tokenizer), dtype=torch.float64), 0.0
    for ids in islice(stream, POOL):
        targets = ids[:, 1:][ids[:, 1:] != tokenizer.pad_token_id]
        counts += torch.bincount(targets, minlength=len(tokenizer))
        total += float(next_token_loss(model, ids.to(model.device), "sum"))
    frequencies = counts[counts > 0] / counts.sum()
    unigram = -float((frequencies * frequencies.log()).sum())
    return {"loss": total / float(counts.sum()), "unigram": unigram, "tokens": float(counts.sum())}


def pretrain(how: Pretraining, device: str = "cpu") -> Policy:
    """Train with AdamW, a linear warm-up over 2 % of the steps, and a cosine to zero."""
    tokenizer, rng = build_tokenizer(), np.random.default_rng([how.seed, 0])
    model = build_model(tokenizer, how).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    stream = batches(tokenizer, make_world(how.world), rng, how.batch)
    warmup = max(1, how.steps // 50)
    started, mean = time.monotonic(), 0.0
    for step in range(how.steps):
        cosine = 0.5 * (1 + math.cos(math.pi * step / how.steps))
        optimizer.param_groups[0]["lr"] = how.rate * min(1.0, (step + 1) / warmup) * cosine
        loss = next_token_loss(model, next(stream).to(device))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        mean += (float(loss.detach()) - mean) / min(step + 1, 50)  # over about 50 steps
        if (step + 1) % 500 == 0:
            elapsed = time.monotonic() - started
            remaining = elapsed / (step + 1) * (how.steps - step - 1)
            log.info("policy: step %d/%d  loss %.3f  %.0f s left",
                     step + 1, how.steps, mean, remaining)  # fmt: skip
    return model.eval(), tokenizer


def make_policy(folder: Path, how: Pretraining, device: str = "cpu") -> dict[str, float]:
    """Pretrain and write a Hugging Face folder's files, with `pretraining.json`, into `folder`.
    Returns its loss per token on fresh text, and that of the word frequencies alone."""
    model, tokenizer = pretrain(how, device)
    measured = held_out(model, tokenizer, make_world(how.world), how.seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / "pretraining.json", {**asdict(how), "held_out": measured})
    return measured
