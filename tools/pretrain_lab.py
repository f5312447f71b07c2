"""Pretrain the lab's shipped backbone: a tiny Llama, a language model of the world's own text.

    python -m tools.pretrain_lab --output src/smorm/lab/backbone --seed 0

Every text is a prompt with one answer of a simulated writer, of all topics and lengths and of mixed
quality, rendered as the chat template renders it. No text is seen twice. About four minutes on one
core. The world of `--world` is learnt; other worlds have other facts.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from smorm.files import whole_folder, write_json
from smorm.lab import REGIMES, make_world, sample_prompt, write_answer
from smorm.lab.words import SPECIAL_TOKENS, WORDS
from smorm.lab.world import World, pick

PAD, BOS, EOS, UNK, SEP = SPECIAL_TOKENS
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %} {{ message['content'] }} {{ eos_token }}"
    "{% else %} {{ message['content'] }} " + SEP + "{% endif %}"
    "{% endfor %}"
)
MAX_POSITIONS = 256
POOL = 64
"""Batches whose texts are drawn and sorted by length together."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, split at white space; special tokens have the first ids."""
    ids = {word: i for i, word in enumerate((*SPECIAL_TOKENS, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        additional_special_tokens=[SEP],
        model_max_length=MAX_POSITIONS,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    return fast


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Hidden 64, 3 layers, 4 heads, MLP 172, tied embeddings: about 163,000 parameters."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=172,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def encode(tokenizer: PreTrainedTokenizerFast, world: World, rng: np.random.Generator) -> list[int]:
    """Token ids of one prompt with one answer, as the chat template renders them."""
    prompt = sample_prompt(rng, pick(rng, REGIMES))
    text = f"{BOS} {prompt.text} {SEP} {write_answer(world, prompt, rng)} {EOS}"
    return tokenizer.convert_tokens_to_ids(text.split())


def check_template(tokenizer: PreTrainedTokenizerFast) -> None:
    """Stop if the chat template renders a conversation unlike the training text."""
    turns = [
        {"role": "user", "content": "metals brief tin iron"},
        {"role": "assistant", "content": "tin old ."},
    ]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    expected = f"{BOS} metals brief tin iron {SEP} tin old . {EOS}"
    if rendered != expected:
        raise SystemExit(f"the chat template gives {rendered!r}, the training text {expected!r}")


def batches(
    tokenizer: PreTrainedTokenizerFast, world: World, rng: np.random.Generator, size: int
) -> Iterator[Tensor]:
    """Endless batches [size, longest] of similar length, padded on the right."""
    pad = tokenizer.pad_token_id
    while True:
        texts = sorted((encode(tokenizer, world, rng) for _ in range(POOL * size)), key=len)
        for at in rng.permutation(POOL) * size:
            rows = texts[at : at + size]
            longest = len(rows[-1])
            yield torch.tensor([row + [pad] * (longest - len(row)) for row in rows])


def loss_of(model: LlamaForCausalLM, ids: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy of the next token, padding left out."""
    pad = model.config.pad_token_id
    logits = model(input_ids=ids, attention_mask=(ids != pad).long()).logits[:, :-1]
    flat = logits.reshape(-1, logits.shape[-1])
    return F.cross_entropy(flat, ids[:, 1:].reshape(-1), ignore_index=pad, reduction=reduction)


@torch.no_grad()
def held_out(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World, seed: int
) -> dict[str, float]:
    """Loss per token on fresh text, beside that of the text's own word frequencies."""
    stream = batches(tokenizer, world, np.random.default_rng([seed, 1]), size=64)
    some = [next(stream) for _ in range(POOL)]
    counts = torch.zeros(len(tokenizer), dtype=torch.float64)
    total = 0.0
    for ids in some:
        targets = ids[:, 1:][ids[:, 1:] != tokenizer.pad_token_id]
        counts += torch.bincount(targets, minlength=len(tokenizer))
        total += float(loss_of(model, ids, "sum"))
    share = counts[counts > 0] / counts.sum()
    unigram = -float((share * share.log()).sum())
    return {"loss": total / float(counts.sum()), "unigram": unigram, "tokens": float(counts.sum())}


def pretrain(
    seed: int, *, steps: int, batch: int, rate: float, world: World
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The whole training: AdamW, linear warm-up over 2 % of the steps, cosine to zero."""
    tokenizer = build_tokenizer()
    check_template(tokenizer)
    model = build_model(tokenizer, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    stream = batches(tokenizer, world, np.random.default_rng([seed, 0]), batch)
    warm = max(1, steps // 50)
    began, seen, mean = time.time(), 0, 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
            group["lr"] = rate * min(1.0, (step + 1) / warm) * cosine
        ids = next(stream)
        loss = loss_of(model, ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seen += int((ids != tokenizer.pad_token_id).sum())
        mean += (float(loss.detach()) - mean) / min(step + 1, 50)
        if (step + 1) % 200 == 0:
            print(
                f"step {step + 1}/{steps}  loss {mean:.3f}  {seen / (time.time() - began):.0f} t/s"
            )
    return model.eval(), tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="of weights and text")
    parser.add_argument("--world", type=int, default=0, help="seed of the facts")
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--batch", type=int, default=64, help="texts per step")
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    given = parser.parse_args()
    torch.set_num_threads(1)
    world = make_world(given.world)
    settings = {name: getattr(given, name) for name in ("steps", "batch", "rate")}
    model, tokenizer = pretrain(given.seed, world=world, **settings)
    measured = held_out(model, tokenizer, world, given.seed)
    print("held out: " + "  ".join(f"{name} {value:.4g}" for name, value in measured.items()))
    with whole_folder(given.output) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        made = {"seed": given.seed, "world": given.world, **settings, "held_out": measured}
        write_json(folder / "pretraining.json", made)
        for path in folder.iterdir():
            path.chmod(0o644)


if __name__ == "__main__":
    main()
