"""The policy that is optimised: sampling many answers at once, and the chances of their tokens.

Shapes: `B` answers, `L` prompt positions (padded on the left), `T` answer positions (padded on the
right), `V` words of the vocabulary, `D` hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smorm.model.backbone import position_limit
from smorm.stress.config import SampleSection
from smorm.stress.rl.config import RLSection
from smorm.stress.sample import Policy
from smorm.world import backbone_path


@dataclass(frozen=True, slots=True)
class Answers:
    """Sampled answers.

    Attributes:
        ids: prompts and answers [B, L + T].
        seen: True on all tokens but padding [B, L + T].
        mask: True on the tokens of answers, up to and with the end [B, T].
        texts: the answers as text [B].
        finished: whether an answer ended by itself [B].
    """

    ids: Tensor
    seen: Tensor
    mask: Tensor
    texts: list[str]
    finished: list[bool]

    def __len__(self) -> int:
        return len(self.texts)

    def parts(self, rows: Tensor, size: int) -> Iterator[tuple[Tensor, Answers]]:
        """The given rows, `size` at a time and cut to their longest, answers of like length
        together; each with which rows they are."""
        order = rows[self.mask[rows].sum(dim=1).argsort().cpu()]
        for part in order.split(size):
            yield part, self._cut(part)

    def _cut(self, rows: Tensor) -> Answers:
        seen, mask = self.seen[rows], self.mask[rows]
        prompt = seen.shape[1] - mask.shape[1]
        first = prompt - int(seen[:, :prompt].sum(dim=1).max())
        longest = max(int(mask.sum(dim=1).max()), 1)
        columns = slice(first, prompt + longest)
        listed = rows.tolist()
        return Answers(
            self.ids[rows, columns],
            seen[:, columns],
            mask[:, :longest],
            [self.texts[row] for row in listed],
            [self.finished[row] for row in listed],
        )


class Actor(Policy):
    """A policy and its frozen start, in fp32; `restart` puts it back to its start.

    Raises:
        ModelError: it cannot be loaded.
    """

    def __init__(self, section: RLSection, device: str = "cpu") -> None:
        sampling = SampleSection(
            policy=str(backbone_path()) if section.policy == "lab" else section.policy,
            temperature=section.temperature,
            max_new_tokens=section.max_new_tokens,
            prompt_tokens=section.prompt_tokens,
        )
        super().__init__(sampling, device)
        self.rl = section
        self.ends = sorted({*self._ends(), self.tokenizer.eos_token_id} - {None})
        self.tokenizer.chat_template = self.renderer.chat_template
        self.model.generation_config = self._generation()
        self.start = self.model.float().requires_grad_(False)
        self.restart()

    def restart(self) -> None:
        """A fresh copy of the start, to be trained. Dropout stays off throughout."""
        self.model = copy.deepcopy(self.start).requires_grad_(True)

    @property
    def devices(self) -> list[torch.device]:
        """The devices beside the CPU whose generators of chance are used."""
        return [self.start.device] if self.start.device.type == "cuda" else []

    @property
    def room(self) -> int | None:
        """The most tokens of a prompt with which answers stay within the positions that the policy
        was built for; None where its config names no limit."""
        limit = position_limit(self.start)
        return None if limit is None else limit - self.rl.max_new_tokens

    def text_of(self, ids: Sequence[int]) -> str:
        """An answer's text, without control tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def answer(self, prompts: Sequence[Sequence[int]], count: int) -> Answers:
        """`count` answers to each prompt, those of one prompt side by side, drawn from torch's
        generator; `batch` answers at a time."""
        most = self.rl.batch
        size = max(1, most // count)
        counts = [min(most, count - at) for at in range(0, count, most)]
        parts = [
            self._generate(prompts[at : at + size], some)
            for at in range(0, len(prompts), size)
            for some in counts
        ]
        return self._joined(parts)

    def _generate(self, prompts: Sequence[Sequence[int]], count: int) -> tuple[Tensor, Tensor, int]:
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self.renderer.pad_id)
        seen = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            seen[row, width - len(prompt) :] = 1
        device = self.model.device
        with torch.no_grad(), self.cast():
            found = self.model.generate(
                ids.to(device), attention_mask=seen.to(device), num_return_sequences=count
            )
        return found, seen.to(device).repeat_interleave(count, dim=0).bool(), width

    def _joined(self, parts: Sequence[tuple[Tensor, Tensor, int]]) -> Answers:
        """Several `generate`s in one frame: prompts end, and answers begin, at one column."""
        before = max(width for _, _, width in parts)
        after = max(ids.shape[1] - width for ids, _, width in parts)
        framed_ids, framed_seen, masks = [], [], []
        for ids, seen, width in parts:
            room = (before - width, after - (ids.shape[1] - width))
            new = torch.nn.functional.pad(ids, room, value=self.renderer.pad_id)
            mask = self._inside(new[:, before:], ids.shape[1] - width)
            framed_ids.append(new)
            framed_seen.append(
                torch.cat([torch.nn.functional.pad(seen, (room[0], 0)), mask], dim=1)
            )
            masks.append(mask)
        ids, mask = torch.cat(framed_ids), torch.cat(masks)
        sampled = [row[keep].tolist() for row, keep in zip(ids[:, before:], mask, strict=True)]
        return Answers(
            ids,
            torch.cat(framed_seen),
            mask,
            [self.text_of(row) for row in sampled],
            [row[-1] in self.ends for row in sampled],
        )

    def _inside(self, new: Tensor, sampled: int) -> Tensor:
        """True up to and with the first end of each answer; padding behind it is no part."""
        ended = torch.isin(new, torch.tensor(self.ends, device=new.device)).long()
        mask = (ended.cumsum(dim=1) - ended) == 0
        mask[:, sampled:] = False
        return mask

    def distribution(
        self, model: Any, answers: Answers, *, hidden: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities of every word at each answer position [B, T, V], at the sampling
        temperature, and the hidden states that they were made from [B, T, D] if asked for."""
        width = answers.mask.shape[1]
        positions = (answers.seen.long().cumsum(dim=1) - 1).clamp(min=0)
        with self.cast():
            out = model(
                answers.ids,
                attention_mask=answers.seen.long(),
                position_ids=positions,
                logits_to_keep=width + 1,
                use_cache=False,
                output_hidden_states=hidden,
            )
        logits = out.logits[:, -width - 1 : -1].float() / self.rl.temperature
        states = out.hidden_states[-1][:, -width - 1 : -1].float() if hidden else None
        return logits.log_softmax(dim=-1), states

    def cast(self) -> Any:
        """bfloat16 on a GPU, whose weights stay in fp32."""
        kind = self.start.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda")

    def _generation(self) -> Any:
        """Plain sampling at a temperature: what a checkpoint's own settings would add (top-p, a
        penalty) makes the sampled distribution another one than that whose ratios are taken."""
        from transformers import GenerationConfig

        return GenerationConfig(
            do_sample=True,
            temperature=self.rl.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=self.rl.max_new_tokens,
            eos_token_id=self.ends,
            pad_token_id=self.renderer.pad_id,
            bos_token_id=self.tokenizer.bos_token_id,
        )


def chosen(log_probs: Tensor, answers: Answers) -> Tensor:
    """The log-probabilities of the tokens that were sampled, 0 outside of answers [B, T]."""
    width = answers.mask.shape[1]
    tokens = answers.ids[:, -width:].unsqueeze(-1)
    return log_probs.gather(-1, tokens).squeeze(-1) * answers.mask


def kl_to(log_probs: Tensor, start: Tensor, mask: Tensor) -> Tensor:
    """KL divergence of each answer's policy from the start, in nats, summed over its tokens [B].

    At each position of a sampled answer the divergence of the next token is exact, over all words:
    Σ_t Σ_v π(v) (log π(v) − log π_0(v)). Its mean over answers is an unbiased estimate of the
    divergence of whole answers, as that of Σ_t log π/π_0 is, with less variance, and never below 0
    (the Rao–Blackwell estimator; Amini et al. 2025, arXiv 2504.10637).
    """
    each = (log_probs.exp() * (log_probs - start)).sum(dim=-1)
    return (each.clamp(min=0) * mask).sum(dim=1)
