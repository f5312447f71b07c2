"""The paths from a conversation to a score (training, scoring, plain transformers, a server), and
each of them against the reference, training's path.
Shapes: N conversations, C scores of each (the 1 + K rows of our head, or what a target gives)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from operator import attrgetter
from typing import Any, Literal

import numpy as np
import torch

from smorm.arrays import Bools, Floats
from smorm.client import RewardClient
from smorm.client.transport import RefusedError
from smorm.client.wires import Answer, Wire
from smorm.data.encode import Encoder
from smorm.data.records import Item
from smorm.errors import DataError, ModelError, SmormError, first_line
from smorm.evaluation.parity.clients import EXPORT_ONE, Client, can_send
from smorm.evaluation.parity.conversations import Conversation
from smorm.evaluation.result import CauseKind
from smorm.model.export import PlainModel, Side
from smorm.model.network import Layout
from smorm.model.views import View, apply_view
from smorm.scoring.reward_model import RewardModel
from smorm.scoring.scorer import DEFAULT_BATCH_TOKENS, Scored, Scorer
from smorm.text.chat import ChatInputs
from smorm.training.batches import moved

BATCHES = (1, 2, 8, 32)
TRAINING_TOKENS = 2048  # tokens of a forward pass that keeps what a backward pass would need
_LAYOUTS: tuple[Layout, ...] = ("forest", "packed", "padded")


@dataclass(frozen=True, slots=True)
class ScorePath:
    """The scores of one path."""

    name: str
    # ours; plain transformers given our token ids, its own, or those of a client; a server
    kind: Literal["ours", "ids", "plain", "client", "server"]
    rows: Floats | None  # scores [N, C]; None where the path failed, with `error` and its `cause`
    # token ids of each conversation, where the path shows them
    tokens: list[list[int]] | None = None
    # how many tokens each had, where it reports no more than that
    counts: list[int | None] | None = None
    error: str | None = None
    cause: CauseKind = CauseKind.NO_SCORES
    batch: int = 1  # conversations a batch
    side: Side | None = None  # which side is padded
    constant: bool = False  # whether the scores include the view's constant
    control_is_text: bool = True  # whether control tokens in messages stay text on this path
    sends_ids: bool = False  # whether a server was sent our token ids
    remedy: str | None = None  # what to do where a client's token ids differ
    # Conversations (from 0) that were not sent, and why the server refused those that were. Their
    # rows are NaN.
    unsent: frozenset[int] = frozenset()
    refused: Mapping[int, str] = field(default_factory=dict)


def training_path(model: RewardModel, conversations: Sequence[Conversation]) -> ScorePath:
    """Scores as a training step computes them, gradients recorded, without LoRA's dropout and
    autocast (in bfloat16 the weights themselves are rounded, on every path alike)."""
    network, encoder = model.network, Encoder(model.renderer, model.renderer.max_tokens, "error")
    sequences = []
    for conversation in conversations:
        encoded = encoder.encode(conversation.prompt, [conversation.response])
        if encoded.error is not None:
            raise encoded.error
        sequences.append(encoded.tokens[0])
    rows = np.zeros((len(sequences), len(model.card.rows)))
    # Evaluation mode leaves dropout out, which no other path has.
    was_training = network.training
    network.eval()
    for members in network.micro_batches([[tokens] for tokens in sequences], TRAINING_TOKENS):
        batch = moved(network.arrange([sequences[index] for index in members]), network.device)
        with torch.enable_grad():
            rows[members] = network(batch).detach().double().cpu().numpy()
    network.train(was_training)
    tokens = [np.asarray(sequence).tolist() for sequence in sequences]
    return ScorePath(f"training, {network.layout}", "ours", rows, tokens)


def scoring_paths(
    model: RewardModel,
    conversations: Sequence[Conversation],
    batches: Sequence[int] = BATCHES,
    *,
    every_layout: bool = True,
) -> Iterator[ScorePath]:
    """Scores as `smorm score` computes them, in each layout that is right for the architecture."""
    network = model.network
    fast_layers, padded_attention = network.fast_layers, network.padded_attention
    # A model verified for a layout is verified for the plainer ones that follow it too.
    layouts = _LAYOUTS[_LAYOUTS.index(network.layout) :]
    if not every_layout:
        layouts = layouts[:1]
    items = [Item(each.prompt, (each.response,)) for each in conversations]
    scorer = Scorer(network, model.renderer, "error", DEFAULT_BATCH_TOKENS)
    with network.restore_layout():
        for layout in layouts:
            network.use_layout(layout, fast_layers=fast_layers, padded_attention=padded_attention)
            for size in batches:
                rows, counts = _scored(scorer, items, size)
                name = f"scoring, {layout}, batch {size}"
                yield ScorePath(name, "ours", rows, counts=counts, batch=size)


def _scored(scorer: Scorer, items: list[Item], size: int) -> tuple[Floats, list[int | None]]:
    rows: list[Floats] = []
    counts: list[int | None] = []
    # A call scores what it is given as one set: batches of a size are calls of that size.
    for start in range(0, len(items), size):
        for scored in scorer.score(items[start : start + size]):
            if not isinstance(scored, Scored):
                raise DataError(str(scored))
            rows.append(scored.rows)
            counts.extend(scored.tokens)
    return np.concatenate(rows), counts


def plain_paths(
    plain: PlainModel, conversations: Sequence[Conversation], batches: Sequence[int] = BATCHES
) -> Iterator[ScorePath]:
    """Scores of plain transformers: of our token ids one by one, then of its own, padded."""
    yield _path_of_ids(plain, conversations)
    # Our ids isolate the weights; its own ids show what a user of the folder gets from text.
    own_ids = list(map(plain.tokens, map(attrgetter("messages"), conversations)))
    for size in batches:
        name = f"plain, batch {size}"
        path = ScorePath(name, "plain", None, own_ids, batch=size, control_is_text=False)
        if size == 1:
            yield _with_logits(path, plain, own_ids)
            continue
        sides: tuple[Side, ...] = ("right", "left")
        for side in sides:
            padded = replace(path, name=f"{path.name}, pad {side}", side=side)
            yield _with_logits(padded, plain, own_ids)


def client_paths(
    plain: PlainModel, conversations: Sequence[Conversation], clients: Sequence[Client]
) -> Iterator[ScorePath]:
    """Scores of plain transformers of our token ids, then of those that each client makes of the
    conversations that it can send."""
    yield _path_of_ids(plain, conversations)
    for client in clients:
        yield client_path(plain, conversations, client)


def _path_of_ids(plain: PlainModel, conversations: Sequence[Conversation]) -> ScorePath:
    our_ids = [conversation.tokens.tolist() for conversation in conversations]
    return ScorePath("plain, our ids, batch 1", "ids", plain.logits(our_ids, batch=1), our_ids)


def client_path(
    plain: PlainModel, conversations: Sequence[Conversation], client: Client
) -> ScorePath:
    """Scores of a client's token ids, of those conversations that it can send."""
    members, own_ids, unsent = [], [], set()
    for index, conversation in enumerate(conversations):
        if can_send(conversation):
            turns = ChatInputs.of(conversation.messages).messages
            members.append(index)
            own_ids.append(client.ids(plain, turns))
        else:
            unsent.add(index)
    # Of the others nothing is compared.
    tokens: list[list[int]] = [[] for _ in conversations]
    for index, ids in zip(members, own_ids, strict=True):
        tokens[index] = ids
    path = ScorePath(
        f"{client.title}: {client.sends}", "client", None, tokens, batch=client.batch,
        control_is_text=False, unsent=frozenset(unsent), remedy=client.remedy,
    )  # fmt: skip
    if not members:
        return replace(path, error="none of the conversations ends with an assistant's text")
    if plain.rows > 1:
        problem = f"it has {plain.rows} rows, and {client.of_several_rows}: {EXPORT_ONE}"
        return replace(path, error=problem, cause=CauseKind.HEAD)
    path = _with_logits(path, plain, own_ids)
    if path.rows is None:
        return path
    rows = np.full((len(conversations), path.rows.shape[1]), np.nan)
    rows[members] = path.rows
    return replace(path, rows=rows)


def _with_logits(path: ScorePath, plain: PlainModel, sequences: list[list[int]]) -> ScorePath:
    """With scores, or with the error of plain transformers: without a pad token it cannot pad."""
    try:
        rows = plain.logits(sequences, batch=path.batch, side=path.side or "right")
    except (ModelError, ValueError, RuntimeError, IndexError) as error:
        path = replace(path, error=first_line(error, 200))
        # transformers raises only when a batch is padded, with a sentence that changes by version.
        needs_pad = path.batch > 1 and None in (plain.pad_id, plain.tokenizer.pad_token_id)
        return replace(path, cause=CauseKind.PAD_TOKEN) if needs_pad else path
    return replace(path, rows=rows)


def server_paths(
    remote: RewardClient, conversations: Sequence[Conversation], batches: Sequence[int] = BATCHES
) -> Iterator[ScorePath]:
    """Scores of a server by each of its endpoints, alone and with neighbours; SmormError where the
    first endpoint does not answer (the failure of another is in its path). A conversation that it
    refuses is in the path too, and the others go on."""
    for wire in remote.wires:
        # An endpoint of one conversation a request is batched by the server: there the neighbours
        # are the other requests under way.
        sizes = (1, max(batches)) if wire.batch == 1 else batches
        unsent = set()
        if wire.only_texts:
            for index, conversation in enumerate(conversations):
                if not conversation.is_plain:
                    unsent.add(index)
        refused: Mapping[int, str] = {}
        for size in sizes if len(unsent) < len(conversations) else ():
            path = _server_path(remote, wire, size, frozenset(unsent), refused)
            path = _asked(remote, wire, conversations, path)
            yield path
            if path.rows is None:
                break
            # Whom the server refuses alone it refuses in every batch.
            refused = path.refused


def _server_path(
    remote: RewardClient, wire: Wire, size: int, unsent: frozenset[int], refused: Mapping[int, str]
) -> ScorePath:
    """A path of a server before it is asked."""
    name = f"{remote.protocol} {wire.path} of {wire.sends}"
    name += f", {size} at a time" if wire.batch == 1 else f", batch {size}"
    return ScorePath(
        name, "server", None, batch=size, constant=wire.keeps_constant,
        control_is_text=wire.control_is_text, sends_ids=wire.sends == "ids", unsent=unsent,
        refused=refused,
    )  # fmt: skip


def _asked(
    remote: RewardClient, wire: Wire, conversations: Sequence[Conversation], path: ScorePath
) -> ScorePath:
    """The path with the server's scores, or its error, or whom it refused."""
    messages = list(map(attrgetter("messages"), conversations))
    concurrency = path.batch if wire.batch == 1 else 1

    def ask(members: Sequence[int], batch: int) -> Answer:
        sent = [messages[index] for index in members]
        return remote.answer(sent, wire, batch=batch, concurrency=concurrency)

    left_out = {*path.unsent, *path.refused}
    members = [index for index in range(len(messages)) if index not in left_out]
    try:
        try:
            answer = ask(members, path.batch)
        except RefusedError as error:
            refused = {}
            for index in members:
                try:
                    ask([index], 1)
                except RefusedError as refusal:
                    refused[index] = str(refusal)
            if not refused:
                return replace(path, error=f"{error} (each conversation alone is taken)")
            path = replace(path, refused={**path.refused, **refused})
            members = [index for index in members if index not in refused]
            if not members:
                return path
            answer = ask(members, path.batch)
    except SmormError as error:
        # A server whose main endpoint fails is no server; of the others one may be turned off.
        if wire is remote.wires[0]:
            raise
        return replace(path, error=str(error))
    rows = np.full((len(messages), answer.rows.shape[1]), np.nan)
    rows[members] = answer.rows
    counts: list[int | None] = [None] * len(messages)
    for index, count in zip(members, answer.tokens, strict=True):
        counts[index] = count
    return replace(path, rows=rows, counts=counts)


# Largest difference allowed, in standard deviations of the scores.
GATES = {"float32": 1e-5, "bfloat16": 0.02}


def dtype_of(model: RewardModel) -> str:
    """The backbone's, as torch names it."""
    return str(next(model.network.backbone.parameters()).dtype).removeprefix("torch.")


def allowed_difference(std: Floats, gate: float, dtype: str) -> Floats:
    """The largest difference allowed of scores with these standard deviations [C]."""
    # In fp32 the gate holds as an absolute number too: rounding does not shrink with the std.
    return np.maximum(gate * std, gate if dtype == "float32" else 0.0)


@dataclass(frozen=True, slots=True)
class ModelPaths:
    """A model's own paths, training's first. Taken before an export merges adapters, they check
    that too."""

    model: RewardModel
    conversations: Sequence[Conversation]
    paths: Sequence[ScorePath]
    dtype: str
    notes: Sequence[str] = ()

    @property
    def ids(self) -> list[list[int]]:
        """Our token ids of each conversation."""
        return [conversation.tokens.tolist() for conversation in self.conversations]


@dataclass(frozen=True, slots=True)
class PathResult:
    """One path against the reference."""

    path: ScorePath
    difference: float  # the largest, in units of the score; NaN where the path gave no scores
    in_stds: float  # the largest, in standard deviations of the scores
    worst: int | None  # the conversation (from 0) that differs most
    # whether token ids (or, of a server, their numbers) agree; None if not known
    same_tokens: bool | None
    agrees: bool  # whether no score that it gave differs by more than the gate
    # the largest difference, in standard deviations, of conversations outside the gate: those with
    # control tokens in their text, on a path that takes them for real ones
    outside_gate: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether it agrees, and gave every score that it was asked for."""
        return self.agrees and not self.path.refused

    def as_dict(self) -> dict[str, Any]:
        """An item of the result file."""
        # The keys are those of the first result files: "spreads" are standard deviations.
        item = {
            "path": self.path.name, "difference": self.difference, "in_spreads": self.in_stds,
            "worst": self.worst, "same_tokens": self.same_tokens, "passed": self.passed,
        }  # fmt: skip
        if self.path.refused:
            item["refused"] = len(self.path.refused)
        return item if self.path.error is None else {**item, "error": self.path.error}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What every path is compared with, and how."""

    ours: ModelPaths  # the model's own paths
    view: View | None  # what of the head's rows is compared; None for all of them
    constant: float  # what a folded view's head, which has no bias, cannot hold
    gate: float  # the largest difference allowed, in standard deviations of the scores
    # the target as plain transformers loads it, where it is a folder
    plain: PlainModel | None = None

    @property
    def reference(self) -> Floats:
        """Rows of training's path [N, 1 + K]."""
        rows = self.ours.paths[0].rows
        assert rows is not None
        return rows

    @property
    def std(self) -> Floats:
        """Standard deviation over the conversations, of each score [C]."""
        return np.asarray(self.viewed(self.reference).std(axis=0))

    @property
    def allowed(self) -> Floats:
        """The largest difference allowed [C]."""
        return allowed_difference(self.std, self.gate, self.ours.dtype)

    def scored(self, path: ScorePath) -> Bools:
        """Which conversations [N] a path was asked for and did not refuse."""
        scored: Bools = np.ones(len(self.ours.conversations), dtype=bool)
        scored[[*path.unsent, *path.refused]] = False
        return scored

    def gated(self, path: ScorePath) -> Bools:
        """Which of them the gate holds for."""
        scored = self.scored(path)
        control: Bools = np.array([each.control for each in self.ours.conversations], dtype=bool)
        # Where every conversation has control tokens, there would be nothing left to compare.
        without_control: Bools = scored & ~control
        if path.control_is_text or not without_control.any():
            return scored
        return without_control

    def viewed(self, rows: Floats, *, constant: bool = False) -> Floats:
        """Rows [N, 1 + K] -> what is compared [N, C], with the constant or without."""
        if self.view is None:  # of labels without a preference row the first row is none
            return rows[:, -len(self.ours.model.card.labels) :]
        # The constant cancels in every comparison, and a head without a bias cannot hold it.
        values = apply_view(self.view, rows, self.ours.model.card.scales)
        if not constant:
            values = values - self.constant
        return values[:, None]

    def values(self, path: ScorePath) -> tuple[Floats, Floats]:
        """What is expected of a path, and what it gave: [N, C] both."""
        assert path.rows is not None
        expected = self.viewed(self.reference, constant=path.constant)
        # Our own paths give the head's rows; a target gives what is compared.
        return expected, self.viewed(path.rows) if path.kind == "ours" else path.rows

    def compare(self, path: ScorePath) -> PathResult:
        """A path against the reference."""
        gated = self.gated(path)
        outside = self.scored(path) & ~gated
        same_tokens = self._same_tokens(path, gated)
        if path.rows is None:
            return PathResult(path, math.nan, math.nan, None, same_tokens, False)
        expected, scores = self.values(path)
        # One label where all rows were due, or the reverse: nothing can be subtracted.
        if scores.shape != expected.shape:
            wrong = f"gives {scores.shape[1]} scores a conversation, expected {expected.shape[1]}"
            failed = replace(path, rows=None, error=wrong, cause=CauseKind.HEAD)
            return PathResult(failed, math.nan, math.nan, None, same_tokens, False)
        differences = np.abs(scores - expected)
        # Scores that are all equal have no std: any difference is then many of them.
        in_stds = (differences / np.maximum(self.std, 1e-12)).max(axis=1)
        # A score that is NaN fails: as a plain maximum it would hide behind the comparison.
        over = np.nan_to_num((differences / self.allowed).max(axis=1), nan=np.inf)
        worst = int(np.argmax(np.where(gated, over, -1.0)))
        difference, largest = float(differences[gated].max()), float(in_stds[gated].max())
        beyond, agrees = float(in_stds[outside].max(initial=0.0)), bool(over[worst] <= 1.0)
        # Of other tokens the scores are the same by chance alone.
        if path.kind == "client" and same_tokens is False:
            agrees = False
        return PathResult(path, difference, largest, worst, same_tokens, agrees, beyond)

    def _same_tokens(self, path: ScorePath, gated: Bools) -> bool | None:
        ours = list(compress(self.ours.ids, gated))
        if path.tokens is not None:
            return ours == list(compress(path.tokens, gated))
        if path.counts is None or set(path.counts) == {None}:
            return None
        # A server may report some counts only: those it leaves out agree with any.
        counts = zip(ours, compress(path.counts, gated), strict=True)
        return all(count in (None, len(ids)) for ids, count in counts)
