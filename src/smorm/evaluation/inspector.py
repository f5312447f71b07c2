"""Where a failed sanity test comes from, by the head, the folder and the rendered tokens.
Shapes: K attributes, D hidden size."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch

from smorm.client.wires import chat_text
from smorm.errors import ConfigError
from smorm.evaluation.result import Cause, CauseKind
from smorm.model.views import View, fold
from smorm.scoring.reward_model import RewardModel
from smorm.text.chat import Messages

ConversationPair = tuple[Messages, Messages]


def equal_scores(model: RewardModel, view: View, pairs: Sequence[ConversationPair]) -> Cause:
    """Why different conversations get equal scores."""
    # From the score back to the text: the head first, the token limit last.
    row = model.network.head.weight
    with suppress(ConfigError):  # the view is not linear: no single row stands for it
        row = fold(view, row, model.card.scales)[0]
    if not bool(row.any()):
        return Cause(CauseKind.HEAD, f"the row of view {view.name} is all zeros")
    renderer = model.renderer
    # Only what the template drops makes different conversations the same tokens.
    same = [pair for pair in pairs if renderer.render(pair[0]) == renderer.render(pair[1])]
    if same:
        count = f"{len(same)} of {len(pairs)} different texts become the same tokens"
        text = chat_text(renderer, begin=True)
        # The rendered texts still differ: then it is the tokenizer that makes them the same.
        if all(text(first) != text(second) for first, second in same):
            unknown = f"{count}: words that its vocabulary does not know?"
            return Cause(CauseKind.TOKENIZER, unknown)
        return Cause(CauseKind.TEMPLATE, f"{count}: the chat template leaves a part out")
    long = sum(len(renderer.render(first)) > renderer.max_tokens for first, _ in pairs)
    if 2 * long >= len(pairs):
        count = f"{long} of {len(pairs)} conversations"
        limit = f"the limit of {renderer.max_tokens} tokens"
        detail = f"{count} are longer than {limit}, and what differs is cut off"
        return Cause(CauseKind.TRUNCATION, detail)
    hidden = "the hidden state that is read does not depend on the text"
    detail = f"{hidden} (the decoder's weights, or the pooled position)"
    return Cause(CauseKind.POOLING, f"the tokens differ and the head is there, so {detail}")


def head_notes(weight: torch.Tensor, names: Sequence[str], config: Any) -> list[str]:
    """What is suspicious about the head [1 + K, D]; nothing of it proves a fault. `config` is the
    backbone's, or None where the head is known to have been trained."""
    constant, fresh = [], []
    initializer_range = float(getattr(config, "initializer_range", 0.02))
    for name, row in zip(names, weight.detach().double().cpu(), strict=True):
        # Zeros are an initialisation too, but one that gives every text the same score.
        if float(row.std()) == 0:
            constant.append(name)
        elif _looks_fresh(row, initializer_range):
            fresh.append(name)
    notes = []
    if constant:
        notes.append(f"Rows of the head are constant (not trained): {', '.join(constant)}.")
    if fresh and config is not None:
        untrained = f"Rows of the head look untrained: {', '.join(fresh)}"
        why = "Mean and standard deviation are those of an initialisation"
        notes.append(f"{untrained}. {why}; then their scores mean nothing.")
    if len(torch.unique(weight.detach(), dim=0)) < len(weight):
        notes.append("Some rows of the head are equal to each other.")
    return notes


def _looks_fresh(row: torch.Tensor, initializer_range: float) -> bool:
    """Whether mean and standard deviation of a row [D] are those of an initialisation."""
    width = len(row)
    # transformers' normal initialisation, smorm's, and PyTorch's, which is uniform, so bounded.
    stds = [initializer_range, (width + 1) ** -0.5]
    if float(row.abs().max()) <= width**-0.5:
        stds.append((3 * width) ** -0.5)
    # Within four standard errors: sigma/sqrt(D) of a mean, 1/sqrt(2 D) of a relative std.
    for std in stds:
        near_std = abs(float(row.std()) / std - 1) < 4 * (2 * width) ** -0.5
        if near_std and abs(float(row.mean())) < 4 * std * width**-0.5:
            return True
    return False
