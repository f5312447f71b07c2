"""Where a failed sanity test comes from: a look at the head, the folder, the rendered tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from smorm.errors import ConfigError
from smorm.evaluation.failures import Cause, CauseKind
from smorm.model.export import PlainModel
from smorm.model.views import View, fold
from smorm.scoring.protocols import chat_text
from smorm.scoring.reward_model import RewardModel
from smorm.text.chat import Messages

Pair = tuple[Messages, Messages]


@dataclass(frozen=True, slots=True)
class Inspector:
    """Looks for causes in one model, for one view."""

    model: RewardModel
    view: View

    def equal_scores(self, pairs: Sequence[Pair]) -> Cause:
        """Why different conversations (whole ones) get equal scores."""
        seen = self.head() or self.template(pairs) or self.truncation(pairs)
        return seen or Cause(
            CauseKind.POOLING,
            "the tokens differ and the head is there, so the hidden state that is read "
            "does not depend on the text (the decoder's weights, or the pooled position)",
        )

    def head(self) -> Cause | None:
        """Whether the view's row is nothing."""
        try:
            row = fold(self.view, self.model.network.head.weight, self.model.card.scales)[0]
        except ConfigError:  # not one row
            row = self.model.network.head.weight
        if not bool(row.any()):
            return Cause(CauseKind.HEAD, f"the row of view {self.view.name} is all zeros")
        return None

    def template(self, pairs: Sequence[Pair]) -> Cause | None:
        """Whether different conversations become the same tokens."""
        renderer = self.model.renderer
        same = [(a, b) for a, b in pairs if renderer.render(a) == renderer.render(b)]
        if not same:
            return None
        count = f"{len(same)} of {len(pairs)} different texts become the same tokens"
        text = chat_text(renderer, begin=True)
        if all(text(a) != text(b) for a, b in same):
            unknown = f"{count}: words that its vocabulary does not know?"
            return Cause(CauseKind.TOKENIZER, unknown)
        return Cause(CauseKind.TEMPLATE, f"{count}: the chat template leaves a part out")

    def truncation(self, pairs: Sequence[Pair]) -> Cause | None:
        """Whether what differs is beyond the token limit."""
        renderer = self.model.renderer
        long = sum(len(renderer.render(a)) > renderer.max_tokens for a, _ in pairs)
        if 2 * long < len(pairs):
            return None
        return Cause(
            CauseKind.TRUNCATION,
            f"{long} of {len(pairs)} conversations are longer than the limit of "
            f"{renderer.max_tokens} tokens, and what differs is cut off",
        )


def pad_token(plain: PlainModel, sequences: Sequence[Sequence[int]]) -> Cause:
    """Why plain transformers gives other scores than we do, of the same token ids."""
    pad, tokenizer = plain.pad_id, plain.tokenizer
    ending = sum(list(ids)[-1] == pad for ids in sequences)
    if ending:
        also = ", which is also the EOS" if pad == tokenizer.eos_token_id else ""
        return Cause(
            CauseKind.PAD_TOKEN,
            f"{ending} of {len(sequences)} conversations end with the pad token "
            f"{tokenizer.convert_ids_to_tokens(pad)!r}{also}: plain transformers reads an earlier "
            "one (transformers#35352); `smorm export` gives another pad token",
        )
    if pad != tokenizer.pad_token_id:
        differ = f"the tokenizer pads with {tokenizer.pad_token_id}, the config names {pad}"
        return Cause(CauseKind.PAD_TOKEN, differ)
    return Cause(
        CauseKind.PADDING, "or its precision: `smorm parity` shows which batches and sides differ"
    )


def head_notes(weight: torch.Tensor, names: Sequence[str], config: Any) -> list[str]:
    """What is suspicious about the head [1 + K, D]; nothing of it proves a fault.

    Args:
        config: the backbone's, for its `initializer_range`; None where the head is known to have
            been trained, and is not suspected of being a fresh one.
    """
    rows = dict(zip(names, weight.detach().double().cpu(), strict=True))
    constant = [name for name, row in rows.items() if float(row.std()) == 0]
    notes = []
    if constant:
        notes.append(f"Rows of the head are constant (not trained): {', '.join(constant)}.")
    size = float(getattr(config, "initializer_range", 0.02))
    fresh = [name for name, row in rows.items() if name not in constant and _looks_fresh(row, size)]
    if fresh and config is not None:
        notes.append(
            f"Rows of the head look as if nobody had trained them: {', '.join(fresh)}. Mean and "
            "standard deviation are those of an initialisation; then their scores mean nothing."
        )
    if len(torch.unique(weight.detach(), dim=0)) < len(weight):
        notes.append("Some rows of the head are equal to each other.")
    return notes


def _looks_fresh(row: torch.Tensor, initializer_range: float) -> bool:
    """Whether mean and standard deviation of a row [D] are within four standard errors of
    transformers' initialisation, smorm's, or PyTorch's (which is uniform, so bounded)."""
    width = len(row)
    mean, std, largest = float(row.mean()), float(row.std()), float(row.abs().max())
    uniform = (3 * width) ** -0.5
    sizes = [initializer_range, (width + 1) ** -0.5]
    sizes += [uniform] if largest <= width**-0.5 else []
    return any(
        abs(std / size - 1) < 4 * (2 * width) ** -0.5 and abs(mean) < 4 * size * width**-0.5
        for size in sizes
    )
