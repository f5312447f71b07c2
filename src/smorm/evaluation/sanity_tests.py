"""The sanity tests themselves: each adds its number, and why it fails, to what was found.

Shapes: P pairs; `rows` [P, 2, 1 + K] and `values` [P, 2] hold chosen, rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from smorm.arrays import Floats
from smorm.data.records import Item
from smorm.errors import SmormError
from smorm.evaluation.failures import Cause, CauseKind, Failure
from smorm.evaluation.metrics import Metric
from smorm.evaluation.parity_compare import GATES, allowed_gap
from smorm.evaluation.sanity_causes import Inspector, pad_token
from smorm.model.export import PlainModel
from smorm.model.head_file import read_head
from smorm.model.inference import pooled_units
from smorm.model.store import resolve
from smorm.model.views import View, apply_view
from smorm.scoring.reward_model import RewardModel
from smorm.scoring.scorer import Scored, Scorer
from smorm.text.chat import Message, Messages
from smorm.text.limits import fit

Sequences = list[NDArray[np.int32]]

SOME = 32
"""Pairs of the tests that cost more: alone, and through plain transformers."""
MANY_EQUAL = 0.05
"""Share of equal scores of different texts above which the model does not read them."""
ROUNDING = {"float32": 1e-6, "bfloat16": 4e-3}
"""Scores this near, relative to the largest, are equal but for rounding."""
Z = 3.29
"""Drawn labels may be this many standard errors from a half: one in 1000 is."""
_SAYS = {
    "responses": "different responses have equal scores",
    "prompts": "another prompt changes no score",
    "last_word": "the response's last word changes no score",
    "response": "leaving the response out changes no score",
}


@dataclass(slots=True)
class Found:
    """Metrics and failures, as the tests are made."""

    metrics: dict[str, Metric] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(
        self, name: str, value: float, n: int, cause: Cause | None, seen: str | None = None
    ) -> None:
        """A test's number, and the cause of its failure (None: it passes) with what was `seen`."""
        self.metrics[name] = Metric(value, n)
        if cause is not None:
            text = ": ".join([name, *([seen] if seen else []), str(cause)])
            self.failures.append(Failure(name, cause.kind, text))


@dataclass(frozen=True, slots=True)
class Bench:
    """The model under test."""

    model: RewardModel
    view: View
    scorer: Scorer
    look: Inspector

    def rows(self, items: Sequence[Item]) -> list[Floats | None]:
        """Rows [N, 1 + K] of each item; None where it does not fit or cannot be rendered."""
        results = self.scorer.score(items)
        return [one.rows if isinstance(one, Scored) else None for one in results]

    def values(self, rows: Floats) -> Floats:
        """The view's values."""
        return apply_view(self.view, rows, self.model.card.scales)

    def single(self, conversations: Sequence[tuple[Messages, Messages]]) -> Floats:
        """The view's values [N] of a prompt and a response each; NaN where there is none."""
        found = self.rows([Item(prompt, (response,)) for prompt, response in conversations])
        return np.array([np.nan if r is None else self.values(r)[0] for r in found])

    def pairs(self, items: Sequence[Item]) -> Floats:
        """The view's values [P, 2] of pairs that were scored before."""
        return np.array([self.values(rows) for rows in self.rows(items) if rows is not None])

    def sequences(self, items: Sequence[Item]) -> Sequences:
        """Token ids as they are scored, both sides of each pair."""
        found: Sequences = []
        for item in items:
            policy, limit = self.scorer.overlong, self.model.renderer.max_tokens
            fitted = fit(self.model.renderer, item.prompt, item.responses, limit, policy)
            found += [np.asarray(tokens, dtype=np.int32) for tokens in fitted.tokens or []]
        return found

    @property
    def dtype(self) -> str:
        """The backbone's, as torch names it."""
        return str(next(self.model.network.backbone.parameters()).dtype).removeprefix("torch.")

    def apart(self, found: Floats, expected: Floats) -> tuple[float, bool]:
        """The largest difference of scores [N, C] in spreads, and whether parity forbids it."""
        spread, dtype = expected.std(axis=0), self.dtype
        gaps = np.abs(found - expected)
        allowed = allowed_gap(spread, GATES.get(dtype, GATES["bfloat16"]), dtype)
        largest = float((gaps / np.maximum(spread, 1e-12)).max())
        return largest, not bool((gaps <= allowed).all())


def run_tests(
    bench: Bench, items: list[Item], rows: Floats, found: Found, rng: np.random.Generator
) -> None:
    """All tests on scores `rows` [P, 2, 1 + K]."""
    values = np.array([bench.values(pair) for pair in rows])
    rounding = ROUNDING.get(bench.dtype, ROUNDING["bfloat16"]) * float(np.abs(values).max())
    _swapped(bench, items, values, rounding, found)
    _shuffled(bench, items, rounding, found, rng)
    _different(bench, items, values, rounding, found)
    _alone(bench, items, values, found)
    _raw(bench, items, rows, found)
    _plain(bench, items, rows, found)


def _swapped(
    bench: Bench, items: list[Item], values: Floats, rounding: float, found: Found
) -> None:
    turned = [replace(item, responses=item.responses[::-1]) for item in items]
    again = bench.pairs(turned)
    before, after = values[:, 0] - values[:, 1], again[:, 0] - again[:, 1]
    gap = float(_wins(before, 0.0).mean() + _wins(after, 0.0).mean() - 1.0)
    # Rounding may part two scores that are equal but for it.
    clear = np.maximum(np.abs(before), np.abs(after)) > 2 * rounding
    wrong = int((clear & (np.sign(before) != -np.sign(after))).sum())
    seen = (
        f"the accuracy of the swapped sides is not 1 less the accuracy: {wrong} of {len(items)} "
        "pairs keep their winner"
    )
    cause = Cause(CauseKind.POOLING, "the score depends on the place in the batch")
    found.add("swapped", gap, len(items), cause if wrong else None, seen)


def _shuffled(
    bench: Bench, items: list[Item], rounding: float, found: Found, rng: np.random.Generator
) -> None:
    """Labels drawn by a coin: whatever the model knows, it is right in half of them."""
    turned = [
        replace(item, responses=item.responses[::-1]) if heads else item
        for item, heads in zip(items, rng.random(len(items)) < 0.5, strict=True)
    ]
    values = bench.pairs(turned)
    wins = _wins(values[:, 0] - values[:, 1], rounding)
    share, count = float(wins.mean()), int((wins != 0.5).sum())
    reach = Z * 0.5 * count**0.5 / len(items)
    seen = f"the accuracy under drawn labels is {share:.3f}, expected 0.5 ± {reach:.3f}"
    cause = Cause(CauseKind.POOLING, "the score depends on the side that comes first")
    found.add("shuffled", share, len(items), cause if abs(share - 0.5) > reach else None, seen)


def _different(
    bench: Bench, items: list[Item], values: Floats, rounding: float, found: Found
) -> None:
    """Different texts have different scores."""
    first = [(item.prompt, item.responses[0]) for item in items]
    others = {
        "responses": [(item.prompt, item.responses[1]) for item in items],
        "prompts": [(items[at - 1].prompt, one.responses[0]) for at, one in enumerate(items)],
        "last_word": [(prompt, _shorter(response)) for prompt, response in first],
        "response": [(prompt, _emptied(response)) for prompt, response in first],
    }
    for name, second in others.items():
        scores = values[:, 1] if name == "responses" else bench.single(second)
        usable = np.isfinite(scores)
        usable &= np.array([a != b for a, b in zip(first, second, strict=True)])
        if not usable.any():
            found.notes.append(f"equal/{name} was not tested: no two texts differ in it.")
            continue
        same = usable & (np.abs(values[:, 0] - scores) <= rounding)
        share, count = float(same.sum() / usable.sum()), int(usable.sum())
        cause = None
        if share > MANY_EQUAL:
            wholes = [(sum(first[at], ()), sum(second[at], ())) for at in np.flatnonzero(same)]
            cause = bench.look.equal_scores(wholes)
        seen = f"{_SAYS[name]} in {share:.0%} of {count} pairs"
        found.add(f"equal/{name}", share, count, cause, seen)


def _shorter(response: Messages) -> Messages:
    """Without its last word; with one more where it has but one."""
    *before, last = response
    words = last.content.rstrip().rpartition(" ")[0]
    return (*before, Message(last.role, words or f"{last.content} indeed"))


def _emptied(response: Messages) -> Messages:
    return tuple(Message(message.role, "") for message in response)


def _alone(bench: Bench, items: list[Item], values: Floats, found: Found) -> None:
    """The score of a pair that is alone is that of the pair among others."""
    some = items[:SOME]
    alone = np.concatenate([bench.pairs([item]) for item in some])
    gap, fails = bench.apart(alone.reshape(-1, 1), values[: len(some)].reshape(-1, 1))
    seen = f"single and batched scores differ by {gap:.1e} spreads"
    cause = Cause(CauseKind.PADDING, "neighbours leak in")
    found.add("batch_difference", gap, 2 * len(some), cause if fails else None, seen)


def _raw(bench: Bench, items: list[Item], rows: Floats, found: Found) -> None:
    """The score is the head's output, without an activation behind it."""
    network, some = bench.model.network, items[:SOME]
    units = [[tokens] for tokens in bench.sequences(some)]
    hidden = np.concatenate(pooled_units(network, units, bench.scorer.max_batch_tokens))
    outputs = hidden @ network.head.weight.detach().double().cpu().numpy().T
    own = rows[: len(some)].reshape(len(outputs), -1)
    gap, fails = bench.apart(own, outputs)
    inside = bool(((rows > 0) & (rows < 1)).all())
    where = "between 0 and 1" if inside else f"other numbers (by {gap:.1e} spreads)"
    cause = Cause(CauseKind.ACTIVATION, f"the scores are not the head's output but {where}")
    found.add("raw", float(not fails), len(outputs), cause if fails else None)
    if inside and not fails:
        found.notes.append(
            "All scores lie between 0 and 1, though no activation makes them: ratings of 0 to 1, "
            "or little training."
        )


def _plain(bench: Bench, items: list[Item], rows: Floats, found: Found) -> None:
    """Plain transformers gives the same scores of the same tokens, padded on either side."""
    some = items[: SOME // 2]
    try:
        plain = _plain_model(bench)
    except SmormError as error:
        found.notes.append(f"plain_difference was not tested: {error}")
        return
    ids = [tokens.tolist() for tokens in bench.sequences(some)]
    expected = rows[: len(some)].reshape(len(ids), -1)
    try:
        sides = [plain.logits(ids, batch=8, side=side) for side in ("right", "left")]
    except ValueError as error:
        missing = Cause(CauseKind.PAD_TOKEN, f"none is named: {error}")
        found.add("plain_difference", np.nan, len(ids), missing)
        return
    gaps = [bench.apart(scores, expected) for scores in sides]
    gap = max(gap for gap, _ in gaps)
    failed = any(bad for _, bad in gaps)
    cause = pad_token(plain, ids) if failed else None
    seen = f"plain transformers differs by {gap:.1e} spreads"
    found.add("plain_difference", gap, len(ids), cause, seen)


def _plain_model(bench: Bench) -> PlainModel:
    """The model's folder as plain transformers loads it.

    Raises:
        SmormError: it is not on the disk, or not loadable so.
    """
    folder, network = resolve(bench.model.name), bench.model.network
    head = read_head(folder).float()
    if not torch.equal(head, network.head.weight.detach().cpu()):
        raise SmormError(f"{folder} holds another head than the model in memory")
    return PlainModel.load(folder, dtype=getattr(torch, bench.dtype), device=network.device)


def _wins(margins: Floats, rounding: float) -> Floats:
    """1 where the margin is above 0, 0.5 where it is 0 but for rounding, else 0."""
    near = np.abs(margins) <= rounding
    return np.where(near, 0.5, (margins > 0).astype(np.float64))
