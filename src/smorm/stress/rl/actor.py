"""The policy that is optimised, and its prompts: sampling many answers at once, and the
distribution over tokens.

Shapes: `B` answers, `L` prompt positions (padded on the left), `T` answer positions (padded on the
right), `V` vocabulary, `D` hidden size."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smorm.data.census import Census, DropReason
from smorm.data.reading import Source
from smorm.data.records import Item, Messages, prompt_key
from smorm.errors import ConfigError, DataError
from smorm.files import fingerprint
from smorm.model.backbone import position_limit
from smorm.stress.config import RLSection, SampleSection
from smorm.stress.sample import Policy, read_prompts
from smorm.text.chat import Message
from smorm.world import backbone_path


@dataclass(frozen=True, slots=True)
class Answers:
    """Sampled answers."""

    ids: Tensor  # prompts and answers [B, L + T]
    attention: Tensor  # True on all tokens but padding [B, L + T]
    mask: Tensor  # True on the tokens of answers, up to and with the end token [B, T]
    texts: list[str]  # the answers as text [B]
    finished: list[bool]  # whether an answer ended by itself [B]

    def __len__(self) -> int:
        return len(self.texts)

    def batches(self, rows: Tensor, size: int) -> Iterator[tuple[Tensor, Answers]]:
        """Some of the answers, `size` at a time, each batch with the indices of its rows."""
        # Answers of like length together, and each batch cut to its longest: little padding.
        order = rows[self.mask[rows].sum(dim=1).argsort().cpu()]
        for batch in order.split(size):
            yield batch, self._select(batch)

    def _select(self, rows: Tensor) -> Answers:
        attention, mask = self.attention[rows], self.mask[rows]
        width = attention.shape[1] - mask.shape[1]
        first = width - int(attention[:, :width].sum(dim=1).max())
        longest = max(int(mask.sum(dim=1).max()), 1)
        columns = slice(first, width + longest)
        texts, finished = [], []
        for index in rows.tolist():
            texts.append(self.texts[index])
            finished.append(self.finished[index])
        ids, mask = self.ids[rows, columns], mask[:, :longest]
        return Answers(ids, attention[:, columns], mask, texts, finished)


class Actor(Policy):
    """A policy and its frozen start, in fp32; `restart` puts it back to its start."""

    def __init__(self, section: RLSection, device: str = "cpu") -> None:
        path = str(backbone_path()) if section.policy == "lab" else section.policy
        sampling = SampleSection(
            policy=path,
            temperature=section.temperature,
            prompt_tokens=section.prompt_tokens,
            max_new_tokens=section.max_new_tokens,
        )
        super().__init__(sampling, device)
        self.rl = section
        self.end_ids = sorted({*self._ends(), self.tokenizer.eos_token_id} - {None})
        self.tokenizer.chat_template = self.renderer.chat_template
        self.model.generation_config = self._generation()
        self.start = self.model.float().requires_grad_(False)
        self.restart()

    def restart(self) -> None:
        """A fresh copy of the start, to be trained."""
        # Dropout stays off throughout (the model is in `eval`): with it the ratio of a token's
        # probability before and after a step would not start at 1.
        self.model = copy.deepcopy(self.start).requires_grad_(True)

    @property
    def devices(self) -> list[torch.device]:
        """The devices beside the CPU whose random generators are used."""
        return [self.start.device] if self.start.device.type == "cuda" else []

    @property
    def longest_prompt(self) -> int | None:
        """The most tokens of a prompt with which answers stay within the policy's positions; None
        where its config names no limit."""
        limit = position_limit(self.start)
        return None if limit is None else limit - self.rl.max_new_tokens

    def text_of(self, ids: Sequence[int]) -> str:
        """An answer's text, without control tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def answer(self, prompts: Sequence[Sequence[int]], count: int) -> Answers:
        """`count` answers to each prompt, those of one prompt side by side, drawn from torch's
        generator."""
        most = self.rl.batch
        size = max(1, most // count)
        batches = []
        for start in range(0, len(prompts), size):
            for done in range(0, count, most):
                number = min(most, count - done)
                batches.append(self._generate(prompts[start : start + size], number))
        return self._join(batches)

    def _generate(self, prompts: Sequence[Sequence[int]], count: int) -> tuple[Tensor, Tensor, int]:
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self.renderer.pad_id)
        attention = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            attention[row, width - len(prompt) :] = 1
        attention = attention.to(self.model.device)
        with torch.no_grad(), self.cast():
            generated = self.model.generate(
                ids.to(self.model.device), attention_mask=attention, num_return_sequences=count
            )
        return generated, attention.repeat_interleave(count, dim=0).bool(), width

    def _join(self, batches: Sequence[tuple[Tensor, Tensor, int]]) -> Answers:
        prompt_width = max(width for _, _, width in batches)
        answer_width = max(ids.shape[1] - width for ids, _, width in batches)
        framed_ids, framed_attention, masks = [], [], []
        for ids, attention, width in batches:
            length = ids.shape[1] - width
            padding = (prompt_width - width, answer_width - length)
            framed = torch.nn.functional.pad(ids, padding, value=self.renderer.pad_id)
            mask = self._answer_mask(framed[:, prompt_width:], length)
            prompt = torch.nn.functional.pad(attention, (padding[0], 0))
            framed_ids.append(framed)
            framed_attention.append(torch.cat([prompt, mask], dim=1))
            masks.append(mask)
        ids, mask = torch.cat(framed_ids), torch.cat(masks)
        texts, finished = [], []
        for row, inside in zip(ids[:, prompt_width:], mask, strict=True):
            sampled = row[inside].tolist()
            texts.append(self.text_of(sampled))
            finished.append(sampled[-1] in self.end_ids)
        return Answers(ids, torch.cat(framed_attention), mask, texts, finished)

    def _answer_mask(self, new: Tensor, sampled: int) -> Tensor:
        """True up to and with the first end token of each answer, among the sampled columns."""
        # By the end token, not by the padding token: a policy may use one token for both.
        is_end = torch.isin(new, torch.tensor(self.end_ids, device=new.device)).long()
        mask = (is_end.cumsum(dim=1) - is_end) == 0
        mask[:, sampled:] = False
        return mask

    def distribution(
        self, model: Any, answers: Answers, *, hidden: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities of every token at each answer position [B, T, V], at the sampling
        temperature, and with `hidden` the hidden states that they were made from [B, T, D]."""
        width = answers.mask.shape[1]
        attention = answers.attention.long()
        # Prompts are padded on the left, so positions count real tokens, as `generate` does.
        positions = (attention.cumsum(dim=1) - 1).clamp(min=0)
        with self.cast():
            out = model(
                answers.ids,
                attention_mask=attention,
                position_ids=positions,
                logits_to_keep=width + 1,
                use_cache=False,
                output_hidden_states=hidden,
            )
        # The logits before a token predict it: one column to the left of the answers.
        before = slice(-width - 1, -1)
        logits = out.logits[:, before].float() / self.rl.temperature
        states = out.hidden_states[-1][:, before].float() if hidden else None
        return logits.log_softmax(dim=-1), states

    def cast(self) -> Any:
        """bfloat16 on a GPU; the weights stay in fp32."""
        kind = self.start.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda")

    def _generation(self) -> Any:
        from transformers import GenerationConfig

        # Plain sampling at a temperature. A checkpoint's own settings (top-p, a penalty) would
        # sample from another distribution than the one whose ratios and KL are computed.
        return GenerationConfig(
            do_sample=True,
            temperature=self.rl.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=self.rl.max_new_tokens,
            eos_token_id=self.end_ids,
            pad_token_id=self.renderer.pad_id,
            bos_token_id=self.tokenizer.bos_token_id,
        )


def sampled_log_probs(log_probs: Tensor, answers: Answers) -> Tensor:
    """The log-probabilities of the sampled tokens, 0 outside of answers [B, T]."""
    width = answers.mask.shape[1]
    tokens = answers.ids[:, -width:].unsqueeze(-1)
    return log_probs.gather(-1, tokens).squeeze(-1) * answers.mask


def kl_from_start(log_probs: Tensor, start: Tensor, mask: Tensor) -> Tensor:
    """KL divergence of the policy from its start, in nats, summed over each answer's tokens [B]. At
    each position of a sampled answer the divergence of the next token is exact, over the whole
    vocabulary: Σ_t Σ_v π(v) (log π(v) − log π_0(v)). Its mean over answers is an unbiased estimate
    of the divergence of whole answers, as that of Σ_t log π/π_0 is, with less variance, and never
    below 0 (the Rao–Blackwell estimator; Amini et al. 2025, arXiv 2504.10637)."""
    per_token = (log_probs.exp() * (log_probs - start)).sum(dim=-1)
    # Rounding may leave −1e-9 where both agree; the divergence is not negative.
    return (per_token.clamp(min=0) * mask).sum(dim=1)


@dataclass(frozen=True, slots=True)
class TokenisedPrompt:
    """A prompt, its place in its file, and its tokens as the policy reads them."""

    prompt: Messages
    where: str
    ids: list[int]

    def item(self, texts: Sequence[str]) -> Item:
        """The prompt with these answers."""
        responses = tuple((Message("assistant", text),) for text in texts)
        return Item(self.prompt, responses, self.where)


@dataclass(frozen=True, slots=True)
class TokenisedSet:
    """A named set of prompts, and notes on those that were left out."""

    name: str
    prompts: list[TokenisedPrompt]
    notes: tuple[str, ...]

    @property
    def data(self) -> str:
        """Fingerprint of the prompts."""
        return fingerprint([prompt_key(prompt.prompt) for prompt in self.prompts])


def training_prompts(section: RLSection, actor: Actor) -> TokenisedSet:
    """The prompts to learn on."""
    training = tokenised_set("training", section.prompts.source, actor)
    if len(training.prompts) < section.prompts_per_step:
        raise ConfigError(
            f"{section.prompts.path}: {len(training.prompts)} different prompts, fewer than "
            f"rl.prompts_per_step ({section.prompts_per_step})"
        )
    return training


def tokenised_set(name: str, source: Source, actor: Actor) -> TokenisedSet:
    """The prompts of a file; answers that stand beside them are passed over."""
    census = Census()
    prompts = []
    for where, prompt in read_prompts(source, census):
        ids = actor.prompt_ids(prompt, where)
        # Left out, not cut: a cut prompt is another task, and the policy would learn that one.
        if len(ids) > actor.rl.prompt_tokens:
            census.add(DropReason.LONG_PROMPT, where)
        elif actor.longest_prompt is not None and len(ids) > actor.longest_prompt:
            census.add(DropReason.NO_ROOM, where)
        else:
            prompts.append(TokenisedPrompt(prompt, where, ids))
    if not prompts:
        why = "; ".join(census.lines()) or "it holds none"
        raise DataError(f"{source.path}: no usable prompt in it: {why}")
    return TokenisedSet(name, prompts, tuple(f"{name}: {line}" for line in census.lines()))
