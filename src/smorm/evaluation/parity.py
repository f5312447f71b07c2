"""Parity: the same conversations by every way to a score, and how far the scores are apart.

Training's path is the reference. A path passes where no score differs from it by more than the
gate, in units of the scores' spread over the conversations (their standard deviation, each row of
the head on its own); in fp32 the gate also holds as an absolute difference, since rounding does not
shrink with the spread.

The head of an export has no bias, so its scores lack the view's constant, and so do those of vLLM
and SGLang that serve it: the constant is left out of ours before they are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path as Folder
from typing import Any

import numpy as np
import torch

from smorm.errors import ConfigError, SmormError
from smorm.evaluation.conversations import Conversation
from smorm.evaluation.failures import Cause, CauseKind, Failure
from smorm.evaluation.metrics import Metric
from smorm.evaluation.parity_compare import GATES, Compared, Comparison, Lens, Ours
from smorm.evaluation.parity_paths import (
    BATCHES,
    Path,
    plain_paths,
    scoring_paths,
    server_paths,
    training_path,
)
from smorm.evaluation.result import Result
from smorm.files import fingerprint
from smorm.model.export import PlainModel
from smorm.model.head_file import read_head
from smorm.model.store import CARD, read_card, resolve, versions
from smorm.model.views import PREFERENCE, View, fold
from smorm.scoring.remote import RemoteReward
from smorm.scoring.reward_model import RewardModel

QUICK = (1, 8)
"""Batches of a quick check, which `smorm export` makes of what it wrote."""


@dataclass(frozen=True, slots=True)
class Parity:
    """What was compared, and what came of it."""

    target: str
    comparison: Comparison
    rows: Sequence[Compared]
    failures: tuple[Failure, ...]
    notes: Sequence[str]

    @property
    def passed(self) -> bool:
        """Whether every path passes, and the scores differ enough to tell."""
        return not self.failures and all(row.passed for row in self.rows)

    @property
    def only_tokens_differ(self) -> bool:
        """Whether all that fails is plain transformers on tokens of its own: the weights agree."""
        failed = [row for row in self.rows if not row.passed]
        return bool(failed) and all(
            row.path.kind == "plain" and row.same_tokens is False for row in failed
        )

    @property
    def largest(self) -> float:
        """The largest difference of all paths that gave scores, in units of the score."""
        return max((row.difference for row in self.rows if row.path.rows is not None), default=0.0)

    @property
    def spread(self) -> float:
        """The smallest spread of the scores that are compared."""
        return float(self.comparison.spread.min())

    def as_result(self) -> Result:
        """The result file: each path an item."""
        ours, lens = self.comparison.ours, self.comparison.lens
        count = len(ours.conversations)
        metrics = {
            "largest_difference": Metric(self.largest, count),
            "spread": Metric(self.spread, count),
            "passed": Metric(float(self.passed), len(self.rows)),
        }
        marks = {
            "dtype": ours.dtype,
            "gate": self.comparison.gate,
            "constant": lens.constant,
            "conversations": fingerprint([one.tokens for one in ours.conversations]),
            "renderer": ours.model.renderer.fingerprint,
            "versions": versions(),
        }
        view = "all rows" if lens.view is None else lens.view.name
        return Result(
            "parity", self.target, ours.model.name, view, metrics,
            items=[row.as_dict() for row in self.rows], fingerprint=marks,
            notes=tuple(self.notes), failures=self.failures,
        )  # fmt: skip


def measure_ours(
    model: RewardModel,
    conversations: Sequence[Conversation],
    notes: Sequence[str] = (),
    *,
    quick: bool = False,
) -> Ours:
    """Our own paths: training's, then scoring's in each layout and batch (`quick`: in one).

    Args:
        notes: what was counted when the conversations were made.
    """
    batches = QUICK[-1:] if quick else BATCHES
    paths = [training_path(model, conversations)]
    paths += scoring_paths(model, conversations, batches, every_layout=not quick)
    dtype = str(next(model.network.backbone.parameters()).dtype).removeprefix("torch.")
    return Ours(model, conversations, paths, dtype, notes)


def against_folder(
    ours: Ours, target: str, view: Any = None, *, gate: float | None = None, quick: bool = False
) -> Parity:
    """Ours against what plain transformers makes of a folder.

    Args:
        view: which view a one-row folder holds; None takes what its card says, else the model's
            own. A folder with as many rows as the model is compared row by row.
        gate: in units of the spread; None takes the one for the dtype.

    Raises:
        ModelError: the folder cannot be loaded.
        SmormError: plain transformers would draw a weight at random, or the rows do not fit.
        ConfigError: the view is not linear, or unknown.
    """
    folder, model = resolve(target), ours.model
    rows, own = len(read_head(folder)), len(model.card.rows)
    if rows not in (1, own):
        raise SmormError(
            f"{folder}: head: it has {rows} rows, the model's has {own}: not an export of it"
        )
    lens = _lens(model, _view_in(model, folder, view) if rows == 1 else None)
    plain = PlainModel.load(
        folder,
        dtype=getattr(torch, ours.dtype),
        device=model.network.device,
        template=model.renderer.chat_template,
    )
    notes = []
    if plain.template is not None:
        notes.append(
            "The folder's tokenizer has no chat template: it was given the model's. Other "
            "programs need one too; an export has it."
        )
    paths = plain_paths(plain, ours.conversations, QUICK if quick else BATCHES)
    return _parity(str(target), Comparison(ours, lens, _gate(ours, gate), plain), paths, notes)


def against_server(
    ours: Ours, remote: RemoteReward, view: Any = None, *, gate: float | None = None
) -> Parity:
    """Ours against a running server.

    Args:
        view: which view a one-label server gives; None is the model's own.
        gate: as for `against_folder`.

    Raises:
        SmormError: the server does not answer, or not with scores.
        ConfigError: the view is not linear and the server is not ours, or it is unknown.
    """
    paths = list(server_paths(remote, ours.conversations))
    one = all(path.rows is None or path.rows.shape[1] == 1 for path in paths)
    chosen = ours.model.view(view) if one else None
    lens = _lens(ours.model, chosen, folded=remote.protocol != "smorm")
    return _parity(remote.url, Comparison(ours, lens, _gate(ours, gate)), paths, [])


def _gate(ours: Ours, gate: float | None) -> float:
    return GATES[ours.dtype] if gate is None else gate


def _view_in(model: RewardModel, folder: Folder, view: Any) -> View:
    """The view that a one-row folder holds."""
    if view is None and (folder / CARD).is_file():
        held = read_card(folder).view
        if held is not None and set(held.get("weights", ())) <= {PREFERENCE, *model.attributes}:
            return model.view(held)
    return model.view(view)


def _lens(model: RewardModel, view: View | None, *, folded: bool = True) -> Lens:
    """`folded`: the target holds the view as one row, so it must be linear."""
    if view is None:
        return Lens(model, None)
    try:
        return Lens(model, view, fold(view, model.network.head.weight, model.card.scales)[1])
    except ConfigError:
        if folded:
            raise
        return Lens(model, view)


def _parity(
    target: str, comparison: Comparison, paths: Iterable[Path], notes: Sequence[str]
) -> Parity:
    ours = comparison.ours
    rows = [comparison.compare(path) for path in (*ours.paths[1:], *paths)]
    places: dict[Cause, list[str]] = {}
    for row in rows:
        for cause in [] if row.passed else comparison.explain(row, rows):
            places.setdefault(cause, []).append(row.path.name)
    failures = [_failure(cause, _listed(names)) for cause, names in places.items()]
    largest = float(np.abs(comparison.lens(comparison.reference)).max())
    if comparison.spread.max() <= 1e-9 * max(1.0, largest):
        same = (
            "the scores of all conversations are the same, so there is nothing to compare "
            "(rows of zeros, or a template that drops the messages)"
        )
        failures.insert(0, _failure(Cause(CauseKind.HEAD, same), "every path"))
    reported = [*_told(comparison, rows), *notes, *ours.notes]
    return Parity(target, comparison, rows, tuple(failures), reported)


def _failure(cause: Cause, paths: str) -> Failure:
    return Failure(paths, cause.kind, f"{cause} [{paths}]")


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]}, and {len(names) - 1} more paths"


def _told(comparison: Comparison, rows: Sequence[Compared]) -> list[str]:
    """What a reader of the table must know."""
    ours, lens = comparison.ours, comparison.lens
    count = len(ours.conversations)
    what = "all rows of the head, each" if lens.view is None else f"view {lens.view.name},"
    told = [
        f"{count} conversations; {what} against training's path; {ours.dtype}, gate "
        f"{comparison.gate:g} of the spread."
    ]
    if lens.constant and any(row.path.kind != "ours" and not row.path.constant for row in rows):
        told.append(
            f"The view's constant {lens.constant:+.6g} is left out: a head without a bias cannot "
            "hold it (it cancels in every comparison)."
        )
    apart = [row for row in rows if not comparison.gated(row.path).all()]
    if apart:
        number = count - int(comparison.gated(apart[0].path).sum())
        told.append(
            f"{number} conversations hold control tokens in their text. We keep them as text; "
            "the target takes them for real ones, so they are outside the gate (largest "
            f"difference there: {max(row.apart for row in apart):.2g} spreads)."
        )
    failed = [row.worst for row in rows if not row.passed and row.worst is not None]
    for at in dict.fromkeys(failed[:3]):
        text = " → ".join(message.content for message in ours.conversations[at].messages)
        told.append(f"Conversation {at + 1} is {text[:160]!r}.")
    return told
