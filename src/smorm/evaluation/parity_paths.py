"""The ways from a conversation to a score: training's, scoring's, plain transformers', a server's.

Shapes: N conversations, C scores of each (1 + K rows of ours, or what a target gives).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from smorm.arrays import Floats
from smorm.data.encode import Encoder
from smorm.data.records import Item
from smorm.errors import DataError, SmormError
from smorm.evaluation.conversations import Conversation
from smorm.evaluation.failures import CauseKind
from smorm.model.export import PlainModel, Side
from smorm.model.network import Layout
from smorm.scoring.protocols import SglangText, VllmText, Wire
from smorm.scoring.remote import RemoteReward
from smorm.scoring.reward_model import RewardModel
from smorm.scoring.scorer import DEFAULT_BATCH_TOKENS, Scored, Scorer
from smorm.training.batches import moved

Kind = Literal["ours", "ids", "plain", "server"]

BATCHES = (1, 2, 8, 32)
TRAINING_TOKENS = 2048
"""Tokens of a forward pass that keeps what a backward pass would need."""
_ORDER: tuple[Layout, ...] = ("forest", "packed", "padded")


@dataclass(frozen=True, slots=True)
class Path:
    """One way's scores.

    Attributes:
        kind: ours; plain transformers given our token ids, or its own; a server.
        rows: scores [N, C]; None where it failed, and `error` then says how.
        tokens: token ids of each conversation, where the way shows them.
        counts: how many tokens each had, where it only reports that.
        error: why there are no scores, and `cause` of what kind.
        batch: conversations a batch.
        side: which side is padded.
        constant: whether the scores have the view's constant in them.
        control_is_text: whether control tokens in messages stay text on this way.
    """

    name: str
    kind: Kind
    rows: Floats | None
    tokens: list[list[int]] | None = None
    counts: list[int | None] | None = None
    error: str | None = None
    cause: CauseKind = CauseKind.NO_SCORES
    batch: int = 1
    side: Side | None = None
    constant: bool = False
    control_is_text: bool = True


def training_path(model: RewardModel, conversations: Sequence[Conversation]) -> Path:
    """Scores as a training step computes them, gradients recorded.

    Two things of a step are left out: LoRA's dropout, and autocast (in bfloat16 the weights
    themselves are rounded, on every path alike).
    """
    network, limit = model.network, model.renderer.max_tokens
    encoder = Encoder(model.renderer, limit, "error")
    outcomes = [encoder.encode(one.prompt, [one.response]) for one in conversations]
    failed = next((outcome.error for outcome in outcomes if outcome.error is not None), None)
    if failed is not None:
        raise failed
    sequences = [outcome.tokens[0] for outcome in outcomes]
    rows = np.zeros((len(sequences), len(model.card.rows)))
    before = network.training
    network.eval()
    for members in network.micro_batches([[tokens] for tokens in sequences], TRAINING_TOKENS):
        batch = moved(network.arrange([sequences[at] for at in members]), network.device)
        with torch.enable_grad():
            rows[members] = network(batch).detach().double().cpu().numpy()
    network.train(before)
    tokens = [[int(token) for token in one] for one in sequences]
    return Path(f"training, {network.layout}", "ours", rows, tokens)


def scoring_paths(
    model: RewardModel,
    conversations: Sequence[Conversation],
    batches: Sequence[int] = BATCHES,
    *,
    every_layout: bool = True,
) -> Iterator[Path]:
    """Scores as `smorm score` computes them, in each layout that is right for the architecture."""
    network = model.network
    before = (network.layout, network.shorten)
    verified = _ORDER[_ORDER.index(network.layout) :]
    items = [Item(one.prompt, (one.response,)) for one in conversations]
    scorer = Scorer(network, model.renderer, "error", DEFAULT_BATCH_TOKENS)
    try:
        for layout in verified if every_layout else verified[:1]:
            network.use_layout(layout, shorten=before[1])
            for size in batches:
                rows, counts = _scored(scorer, items, size)
                name = f"scoring, {layout}, batch {size}"
                yield Path(name, "ours", rows, counts=counts, batch=size)
    finally:
        network.use_layout(before[0], shorten=before[1])


def _scored(scorer: Scorer, items: list[Item], size: int) -> tuple[Floats, list[int | None]]:
    rows: list[Floats] = []
    counts: list[int | None] = []
    for at in range(0, len(items), size):
        for one in scorer.score(items[at : at + size]):
            if not isinstance(one, Scored):
                raise DataError(str(one))
            rows.append(one.rows)
            counts.extend(one.tokens)
    return np.concatenate(rows), counts


def plain_paths(
    plain: PlainModel, conversations: Sequence[Conversation], batches: Sequence[int] = BATCHES
) -> Iterator[Path]:
    """Scores of plain transformers: of our token ids one by one, then of its own, padded."""
    ours = [[int(token) for token in one.tokens] for one in conversations]
    name = "plain, our ids, batch 1"
    yield Path(name, "ids", plain.logits(ours, batch=1), ours)
    own = [plain.tokens(one.messages) for one in conversations]
    sides: tuple[Side, ...] = ("right", "left")
    for size in batches:
        for side in sides if size > 1 else sides[:1]:
            padded = f", pad {side}" if size > 1 else ""
            path = Path(
                f"plain, batch {size}{padded}", "plain", None, own, batch=size,
                side=side if size > 1 else None, control_is_text=False,
            )  # fmt: skip
            yield _filled(path, plain, own)


def _filled(path: Path, plain: PlainModel, sequences: list[list[int]]) -> Path:
    """With scores, or with what plain transformers says: it does not pad without a pad token."""
    try:
        rows = plain.logits(sequences, batch=path.batch, side=path.side or "right")
    except (ValueError, RuntimeError, IndexError) as error:
        return replace(path, error=str(error).splitlines()[0][:200])
    return replace(path, rows=rows)


def server_paths(
    remote: RemoteReward, conversations: Sequence[Conversation], batches: Sequence[int] = BATCHES
) -> Iterator[Path]:
    """Scores of a server by each of its endpoints, alone and with neighbours.

    Raises:
        SmormError: the first endpoint does not answer; that another does not is told in its path.
    """
    for wire in remote.wires:
        # Requests of one conversation have their neighbours in the others that are under way.
        for size in batches if wire.batch != 1 else (1, max(batches)):
            path = _server_path(remote, wire, conversations, size)
            yield path
            if path.rows is None:
                break


def _server_path(
    remote: RemoteReward, wire: Wire, conversations: Sequence[Conversation], size: int
) -> Path:
    alone = wire.batch == 1
    how = f", {size} at a time" if alone else f", batch {size}"
    if isinstance(wire, VllmText | SglangText):
        how = f" of text{how}"
    path = Path(
        f"{remote.protocol} {wire.path}{how}", "server", None, batch=size,
        constant=wire.keeps_constant, control_is_text=wire.control_is_text,
    )  # fmt: skip
    asked = [one.messages for one in conversations]
    try:
        answer = remote.answer(asked, wire, batch=size, concurrency=size if alone else 1)
    except SmormError as error:
        if wire is remote.wires[0]:
            raise
        return replace(path, error=str(error))
    return replace(path, rows=answer.rows, counts=answer.tokens)
