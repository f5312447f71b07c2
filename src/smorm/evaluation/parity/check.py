"""A model against an export of it or a running server.
Training's path is the reference. A path passes where no score differs from it by more than the
gate, in standard deviations of the scores over the conversations (each row of the head on its own).
The head of an export has no bias: the view's constant is left out of ours before it is compared."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smorm.client import RewardClient
from smorm.errors import ConfigError, SmormError
from smorm.evaluation.metrics import Metric
from smorm.evaluation.parity import paths as score_paths
from smorm.evaluation.parity.causes import likely_causes
from smorm.evaluation.parity.clients import VERL, Client
from smorm.evaluation.parity.conversations import Conversation
from smorm.evaluation.parity.paths import GATES, Comparison, ModelPaths, PathResult, dtype_of
from smorm.evaluation.result import Cause, CauseKind, Failure, Result
from smorm.files import fingerprint
from smorm.model.card import CARD, read_card
from smorm.model.export import PlainModel
from smorm.model.heads import read_head
from smorm.model.store import resolve, versions
from smorm.model.views import PREFERENCE, View, fold
from smorm.scoring.reward_model import RewardModel

QUICK = (1, 8)  # batches of a quick check, which `smorm export` makes of what it wrote


@dataclass(frozen=True, slots=True)
class Parity:
    """What was compared, and the result of each path."""

    target: str
    comparison: Comparison
    rows: Sequence[PathResult]
    failures: tuple[Failure, ...]
    notes: Sequence[str]

    @property
    def passed(self) -> bool:
        """Whether every path passes, and the scores differ enough to say so."""
        # A failed path always has a cause, and equal scores are a failure of their own.
        return not self.failures

    @property
    def only_tokens_differ(self) -> bool:
        """Whether all that fails is transformers on tokens of its own, or of a client's: the
        weights agree."""
        kinds = set()
        for row in self.rows:
            if not row.passed:
                kinds.add((row.path.kind, row.same_tokens))
        return bool(kinds) and kinds <= {("plain", False), ("client", False)}

    @property
    def largest(self) -> float:
        """The largest difference of all paths that gave scores, in units of the score."""
        # A path without scores has NaN, which `fmax` ignores.
        differences = list(map(attrgetter("difference"), self.rows))
        return float(np.fmax.reduce(differences, initial=0.0))

    @property
    def std(self) -> float:
        """The smallest standard deviation of the scores that are compared."""
        return float(self.comparison.std.min())

    def as_result(self) -> Result:
        """The result file: each path is an item."""
        ours, view = self.comparison.ours, self.comparison.view
        count = len(ours.conversations)
        metrics = {
            "largest_difference": Metric(self.largest, count),
            "spread": Metric(self.std, count),
            "passed": Metric(float(self.passed), len(self.rows)),
        }
        conversations = fingerprint(list(map(attrgetter("tokens"), ours.conversations)))
        provenance = {
            "dtype": ours.dtype, "gate": self.comparison.gate, "constant": self.comparison.constant,
            "conversations": conversations, "renderer": ours.model.renderer.fingerprint,
            "versions": versions(),
        }  # fmt: skip
        name = "all rows" if view is None else view.name
        return Result(
            "parity", self.target, ours.model.name, name, metrics,
            items=list(map(PathResult.as_dict, self.rows)), fingerprint=provenance,
            notes=tuple(self.notes), failures=self.failures,
        )  # fmt: skip


def measure_model(
    model: RewardModel,
    conversations: Sequence[Conversation],
    notes: Sequence[str] = (),
    *,
    quick: bool = False,
) -> ModelPaths:
    """A model's own paths: training's, then scoring's in each layout and batch (`quick`: in one).
    `notes` are what was counted when the conversations were made."""
    batches = QUICK[-1:] if quick else score_paths.BATCHES
    scoring = score_paths.scoring_paths(model, conversations, batches, every_layout=not quick)
    paths = [score_paths.training_path(model, conversations), *scoring]
    return ModelPaths(model, conversations, paths, dtype_of(model), notes)


def against_folder(
    ours: ModelPaths,
    target: str,
    view: Any = None,
    *,
    gate: float | None = None,
    quick: bool = False,
    clients: Sequence[Client] = (),
) -> Parity:
    """A model against what plain transformers makes of a folder: by a view (by default that of the
    folder's card, else the model's own) where it has one row, else row by row. The gate is in
    standard deviations of the scores, by default that of the dtype. With `clients` their token ids
    are compared and scored in place of transformers' own.

    Raises:
        ModelError: the folder cannot be loaded.
        SmormError: plain transformers would draw a weight at random, or the rows do not fit.
        ConfigError: the view is not linear, or unknown."""
    # The head tells without loading anything whether the folder can be an export of this model.
    folder, model = resolve(target), ours.model
    rows, expected_rows = len(read_head(folder)), len(model.card.labels)
    if rows not in (1, expected_rows):
        counts = f"it has {rows} rows, the model's has {expected_rows}"
        raise SmormError(f"{folder}: head: {counts}: not an export of it")
    held = _view_of_folder(model, folder, view) if rows == 1 else None
    comparison = _comparison(ours, held, gate, must_fold=True)
    plain = PlainModel.load(
        folder, dtype=getattr(torch, ours.dtype), device=model.network.device,
        template=model.renderer.chat_template,
    )  # fmt: skip
    notes = []
    if plain.template is not None:
        missing = "The folder's tokenizer has no chat template: it was given the model's"
        notes.append(f"{missing}. Other programs need one too; an export has it.")
    conversations = ours.conversations
    if clients:
        paths = list(score_paths.client_paths(plain, conversations, clients))
    else:
        batches = QUICK if quick else score_paths.BATCHES
        paths = list(score_paths.plain_paths(plain, conversations, batches))
        # Of one row, since verl reads no more; a tokenizer that adds no BOS fails here alone.
        if rows == 1:
            paths.append(score_paths.client_path(plain, conversations, VERL))
    unsent = max(len(path.unsent) for path in paths)
    if clients and unsent:
        notes.append(
            f"{unsent} conversations have tools or reasoning of their own, or do not end with an "
            "assistant's text: no policy's client sends them"
        )
    if clients:
        notes.append("A policy is taken to have the folder's tokenizer and chat template.")
    return _parity(str(target), replace(comparison, plain=plain), paths, notes)


def against_server(
    ours: ModelPaths, remote: RewardClient, view: Any = None, *, gate: float | None = None
) -> Parity:
    """A model against a running server; a one-label server gives the view, by default the model's.
    SmormError where it gives no scores, ConfigError where the view is not linear and the server is
    not ours."""
    # All paths first: whether it gives one label or all rows is seen in its answers.
    paths = list(score_paths.server_paths(remote, ours.conversations))
    notes: list[str] = []
    if most := max(len(path.unsent) for path in paths):
        notes.append(
            f"{most} conversations with reasoning, tool calls or tools of their own are not sent "
            "as messages, which each server reads in its own way"
        )
    labels = {path.rows.shape[1] for path in paths if path.rows is not None}
    held = ours.model.view(view) if labels <= {1} else None
    comparison = _comparison(ours, held, gate, must_fold=remote.protocol != "smorm")
    return _parity(remote.url, comparison, paths, notes)


def _view_of_folder(model: RewardModel, folder: Path, view: Any) -> View:
    # A card of another model may name rows that this one does not have: it says nothing here.
    if view is None and (folder / CARD).is_file():
        held = read_card(folder).view
        if held is not None and set(held.get("weights", ())) <= {PREFERENCE, *model.attributes}:
            return model.view(held)
    return model.view(view)


def _comparison(
    ours: ModelPaths, view: View | None, gate: float | None, *, must_fold: bool
) -> Comparison:
    """`must_fold`: the target holds the view as one row, so it must be linear."""
    constant, model = 0.0, ours.model
    if view is not None:
        try:
            # A view that is not linear has no row; a server of ours computes it all the same.
            constant = fold(view, model.network.head.weight, model.card.scales)[1]
        except ConfigError:
            if must_fold:
                raise
    return Comparison(ours, view, constant, GATES[ours.dtype] if gate is None else gate)


def _parity(
    target: str,
    comparison: Comparison,
    paths: Iterable[score_paths.ScorePath],
    notes: Sequence[str],
) -> Parity:
    # The first of our paths is the reference itself.
    rows = [comparison.compare(path) for path in (*comparison.ours.paths[1:], *paths)]
    # One failure a cause: many paths usually fail of the same.
    paths_of: dict[Cause, list[str]] = {}
    # Equal scores pass every gate, and show nothing: a head of zeros is no parity.
    values = comparison.viewed(comparison.reference)
    if comparison.std.max() <= 1e-9 * max(1.0, float(np.abs(values).max())):
        same = "the scores of all conversations are the same, so there is nothing to compare"
        detail = f"{same} (rows of zeros, or a template that drops the messages)"
        paths_of[Cause(CauseKind.HEAD, detail)] = ["every path"]
    for row in rows:
        if not row.passed:
            for cause in likely_causes(comparison, row, rows):
                paths_of.setdefault(cause, []).append(row.path.name)
    failures = []
    for cause, names in paths_of.items():
        text = names[0]
        if len(names) > 1:
            text += f", and {len(names) - 1} more paths"
        failures.append(Failure(text, cause.kind, f"{cause} [{text}]"))
    reported = [*_reported(comparison, rows), *notes, *comparison.ours.notes]
    return Parity(target, comparison, rows, tuple(failures), reported)


def _reported(comparison: Comparison, rows: Sequence[PathResult]) -> list[str]:
    ours, constant = comparison.ours, comparison.constant
    count = len(ours.conversations)
    what = "all rows of the head, each"
    if comparison.view is not None:
        what = f"view {comparison.view.name},"
    gate = f"gate {comparison.gate:g} of the standard deviation"
    notes = [f"{count} conversations; {what} against training's path; {ours.dtype}, {gate}."]
    without_constant = {row.path.kind for row in rows if not row.path.constant} - {"ours"}
    if constant and without_constant:
        reason = "a head without a bias cannot hold it (it cancels in every comparison)"
        notes.append(f"The view's constant {constant:+.6g} is left out: {reason}.")
    # A path with conversations outside the gate is one that takes control tokens for real ones.
    number, largest = 0, 0.0
    for row in rows:
        outside = comparison.scored(row.path) & ~comparison.gated(row.path)
        number = max(number, int(outside.sum()))
        largest = max(largest, row.outside_gate)
    if number:
        notes.append(
            f"{number} conversations hold control tokens in their text. We keep them as text; "
            "the target takes them for real ones, so they are outside the gate (largest "
            f"difference there: {largest:.2g} standard deviations)."
        )
    # The conversations that differ most on the first paths that fail.
    worst = [row.worst for row in rows if not row.passed and row.worst is not None]
    for index in dict.fromkeys(worst[:3]):
        texts = map(attrgetter("content"), ours.conversations[index].messages)
        notes.append(f"Conversation {index + 1} is {' → '.join(texts)[:160]!r}.")
    return notes
