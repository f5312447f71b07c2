"""Sanity tests of a model on a suite's pairs: what must hold of any reward model.
They find what an accuracy does not show: scores that depend on the position in a batch, on nothing,
or on another token than the last; untrained heads; activations on the score.
Shapes: P pairs, K attributes; `rows` [P, 2, 1 + K] and `values` [P, 2] hold chosen, rejected."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from smorm.arrays import Floats, Tokens
from smorm.data.records import Item
from smorm.errors import DataError, NonFiniteScoreError, SmormError
from smorm.evaluation.inspector import equal_scores, head_notes
from smorm.evaluation.metrics import Metric
from smorm.evaluation.parity.causes import pad_token
from smorm.evaluation.parity.paths import GATES, allowed_difference, dtype_of
from smorm.evaluation.result import Cause, CauseKind, Check, Failure, Result
from smorm.model.export import PlainModel
from smorm.model.heads import read_head
from smorm.model.inference import pooled_units
from smorm.model.store import resolve, versions
from smorm.model.views import View, apply_view
from smorm.scoring.reward_model import RewardModel
from smorm.scoring.scorer import Scored, Scorer
from smorm.text.chat import Message, Messages
from smorm.text.limits import fit

LIMIT = 200  # pairs that are tested: drawn at random from larger suites
FEW = 32  # pairs of the tests that cost more: alone, and through plain transformers
# Share of equal scores of different texts above which the model does not read them; few pairs may
# have more by chance.
MANY_EQUAL = 0.05
# Scores this near, relative to the largest, are equal but for rounding.
ROUNDING = {"float32": 1e-6, "bfloat16": 4e-3}
Z = 3.29  # a share may be this many standard errors from the expected one: one in 1000 is
FINITE = "all scores finite"
_EQUAL = {
    "responses": "different responses have equal scores",
    "prompts": "another prompt changes no score",
    "last_word": "the response's last word changes no score",
    "response": "leaving the response out changes no score",
}


def check_sanity(
    model: RewardModel, items: Sequence[Item], view: Any = None, *, seed: int = 0
) -> Result:
    """Test a model on pairs (the better response first; at most 200, drawn by `seed`); each test
    gives a metric, a check (what was expected and seen), and a failure with its cause.
    Metrics: `finite`; `swapped`, the accuracy plus that of the swapped sides less 1; `shuffled`,
    the accuracy under labels drawn by a coin (both are scored anew); `equal/...`, the shares of
    equal scores of different responses, under different prompts, without the last word, without
    the response; `batch_difference` and `plain_difference` (plain transformers, padded on either
    side) in standard deviations of the scores; `raw`, whether the score is the head's own output.

    Raises:
        DataError: an item has fewer than two responses, or none can be scored."""
    if any(len(item.responses) < 2 for item in items):
        raise DataError("sanity tests need pairs: an item has fewer than two responses")
    rng, chosen = np.random.default_rng(seed), model.view(view)
    scorer = Scorer(model.network, model.renderer, model.card.overlong)
    tests = SanityTests(model, chosen, scorer)
    # In the file's order: neighbours stay neighbours, as in an evaluation.
    order = np.sort(rng.permutation(len(items))[:LIMIT])
    drawn = [replace(items[index], responses=items[index].responses[:2]) for index in order]
    if len(items) > LIMIT:
        tests.notes.append(f"{LIMIT} of {len(items)} pairs were drawn.")
    # One generator for both: the seed decides which pairs are drawn and how coins fall.
    tests.run(drawn, rng)
    # A model of `smorm train` has hashes: its head is known to have been trained.
    config = None if model.card.hashes else model.network.backbone.config.get_text_config()
    tests.notes += head_notes(model.network.head.weight, model.card.rows, config)
    provenance = {
        "model": dict(model.card.hashes),
        "renderer": model.renderer.fingerprint,
        "seed": seed,
        "pairs": len(drawn),
        "versions": versions(),
    }
    return Result(
        "sanity",
        "sanity",
        model.name,
        chosen.name,
        tests.metrics,
        fingerprint=provenance,
        notes=tuple(tests.notes),
        failures=tuple(tests.failures),
        checks=tuple(tests.checks),
    )


@dataclass(slots=True)
class SanityTests:
    """The tests of one view of a model, and what they found."""

    model: RewardModel
    view: View
    scorer: Scorer
    rounding: float = 0.0  # differences of scores up to it are none
    metrics: dict[str, Metric] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def run(self, items: list[Item], rng: np.random.Generator) -> None:
        """All tests; none but `finite` where a score is not finite."""
        try:
            results = self.scorer.score(items)
        except NonFiniteScoreError as error:
            cause = Cause(CauseKind.WEIGHTS, str(error))
            self._add("finite", 0.0, len(items), FINITE, "NaN or infinity", cause)
            return
        self._add("finite", 1.0, len(items), FINITE, "all finite")
        usable: list[Item] = []
        scored: list[Floats] = []
        for item, result in zip(items, results, strict=True):
            if isinstance(result, Scored):
                usable.append(item)
                scored.append(result.rows)
        if not usable:
            raise DataError("sanity tests: no pair could be scored (too long, or not renderable)")
        if len(usable) < len(items):
            self.notes.append(f"{len(items) - len(usable)} pairs could not be scored: left out.")
        rows = np.stack(scored)
        # One value after another, as everywhere: a view is applied to the rows of an item.
        scales = self.model.card.scales
        values = np.stack([apply_view(self.view, of_pair, scales) for of_pair in rows])
        relative = ROUNDING.get(dtype_of(self.model), ROUNDING["bfloat16"])
        self.rounding = relative * float(np.abs(values).max())
        self._swapped(usable, values)
        self._shuffled(usable, rng)
        self._different(usable, values)
        # The last tests take many small batches, so they see fewer pairs.
        self._alone(usable[:FEW], values[:FEW])
        self._raw(usable[:FEW], rows)
        self._plain(usable[: FEW // 2], rows[: FEW // 2])

    def _add(
        self,
        name: str,
        value: float,
        n: int,
        expected: str,
        measured: str,
        cause: Cause | None = None,
        observed: str = "",
    ) -> None:
        """One test's number and check; with a cause it failed."""
        self.metrics[name] = Metric(value, n)
        self.checks.append(Check(name, expected, measured, cause is None))
        if cause is not None:
            text = f"{name}: {observed}: {cause}" if observed else f"{name}: {cause}"
            self.failures.append(Failure(name, cause.kind, text))

    def _swapped(self, items: list[Item], values: Floats) -> None:
        """Swapped sides, scored anew, have the accuracy 1 less the accuracy."""
        swapped = self._values(list(map(_swap, items)))
        # Margins of the same sides before and after, of opposite sign if nothing else matters.
        before, after = values[:, 0] - values[:, 1], swapped[:, 0] - swapped[:, 1]
        gap = float(_wins(before, 0.0).mean() + _wins(after, 0.0).mean() - 1.0)
        # Scores that are equal but for rounding may change their order: only clear winners count.
        clear = np.maximum(np.abs(before), np.abs(after)) > 2 * self.rounding
        wrong = int((clear & (np.sign(before) != -np.sign(after))).sum())
        cause = None
        if wrong:
            cause = Cause(CauseKind.POOLING, "the score depends on the place in the batch")
        winners = f"{wrong} of {len(items)} pairs keep their winner"
        expected = "no winner kept"
        observed = f"the accuracy of the swapped sides is not 1 less the accuracy: {winners}"
        self._add("swapped", gap, len(items), expected, f"{wrong} of {len(items)}", cause, observed)

    def _shuffled(self, items: list[Item], rng: np.random.Generator) -> None:
        """Labels drawn by a coin: whatever the model knows, it is right in half of them."""
        drawn = list(items)
        for index in np.flatnonzero(rng.random(len(items)) < 0.5):
            drawn[index] = _swap(items[index])
        values = self._values(drawn)
        wins = _wins(values[:, 0] - values[:, 1], self.rounding)
        share, decided = float(wins.mean()), int((wins != 0.5).sum())
        # Ties are a half for certain; the variance of the others is a quarter each.
        half_width = Z * 0.5 * decided**0.5 / len(items)
        cause = None
        if abs(share - 0.5) > half_width:
            cause = Cause(CauseKind.POOLING, "the score depends on the side that comes first")
        expected = f"0.5 ± {half_width:.3f}"
        observed = f"the accuracy under drawn labels is {share:.3f}, expected {expected}"
        self._add("shuffled", share, len(items), expected, f"{share:.3f}", cause, observed)

    def _different(self, items: list[Item], values: Floats) -> None:
        first = [Item(item.prompt, item.responses[:1]) for item in items]
        second = [Item(item.prompt, item.responses[1:]) for item in items]
        self._equal("responses", first, second, values)
        changed: dict[str, list[Item]] = {"prompts": [], "last_word": [], "response": []}
        # Every prompt moves on by one: with one pair alone this test says so and is left out.
        for item, before in zip(first, [first[-1], *first[:-1]], strict=True):
            (good,) = item.responses
            empty = tuple(Message(message.role, "") for message in good)
            changed["prompts"].append(replace(item, prompt=before.prompt))
            changed["last_word"].append(replace(item, responses=(_without_last_word(good),)))
            changed["response"].append(replace(item, responses=(empty,)))
        for name, second in changed.items():
            scores = np.column_stack([values[:, 0], self._values(second)])
            self._equal(name, first, second, scores)

    def _equal(self, name: str, first: list[Item], second: list[Item], scores: Floats) -> None:
        """Whether texts that differ have equal scores [N, 2]."""
        differ = np.fromiter(map(operator.ne, first, second), bool)
        # Texts that are equal to begin with, or that were not scored, say nothing.
        usable = np.isfinite(scores[:, 1]) & differ
        if not usable.any():
            self.notes.append(f"equal/{name} was not tested: no two texts differ in it.")
            return
        equal = usable & (np.abs(scores[:, 0] - scores[:, 1]) <= self.rounding)
        share, count = float(equal.sum() / usable.sum()), int(usable.sum())
        allowed = MANY_EQUAL + Z * (MANY_EQUAL * (1 - MANY_EQUAL) / count) ** 0.5
        expected = f"at most {allowed:.0%} equal"
        measured = f"{int(equal.sum())} of {count}"
        if share <= allowed:
            self._add(f"equal/{name}", share, count, expected, measured)
            return
        pairs = []
        for index in np.flatnonzero(equal):
            before, after = first[index], second[index]
            pairs.append((before.prompt + before.responses[0], after.prompt + after.responses[0]))
        cause = equal_scores(self.model, self.view, pairs)
        observed = f"{_EQUAL[name]} in {share:.0%} of {count} pairs"
        self._add(f"equal/{name}", share, count, expected, measured, cause, observed)

    def _alone(self, items: list[Item], values: Floats) -> None:
        """The score of a pair that is alone is that of the pair among others."""
        singles = np.concatenate([self._values([item]) for item in items])
        gap, failed = self._difference(singles.reshape(-1, 1), values.reshape(-1, 1))
        cause = Cause(CauseKind.PADDING, "neighbours leak in") if failed else None
        observed = f"single and batched scores differ by {gap:.1e} standard deviations"
        self._add("batch_difference", gap, 2 * len(items), *self._near(gap), cause, observed)

    def _raw(self, items: list[Item], rows: Floats) -> None:
        """The score is the head's output, without an activation behind it."""
        network = self.model.network
        # Each sequence is a unit of its own: neighbours must not matter, and are left out here.
        units = [[tokens] for tokens in self._sequences(items)]
        hidden = np.concatenate(pooled_units(network, units, self.scorer.max_batch_tokens))
        outputs = hidden @ network.head.weight.detach().double().cpu().numpy().T
        gap, failed = self._difference(rows[: len(items)].reshape(len(outputs), -1), outputs)
        inside = bool(((rows > 0) & (rows < 1)).all())
        numbers = f"other numbers (by {gap:.1e} standard deviations)"
        if inside:
            numbers = "between 0 and 1"
        cause = Cause(CauseKind.ACTIVATION, f"the scores are not the head's output but {numbers}")
        failure = cause if failed else None
        self._add("raw", float(not failed), len(outputs), *self._near(gap), failure)
        if inside and not failed:
            share = "All scores lie between 0 and 1, though no activation makes them"
            self.notes.append(f"{share}: ratings of 0 to 1, or little training.")

    def _plain(self, items: list[Item], rows: Floats) -> None:
        """Plain transformers gives the same scores of the same tokens, padded on either side."""
        # A model of the hub, or one changed in memory, cannot be loaded so: that is no failure.
        network = self.model.network
        try:
            folder = resolve(self.model.name)
            if not torch.equal(read_head(folder).float(), network.head.weight.detach().cpu()):
                raise SmormError(f"{folder} holds another head than the model in memory")
            dtype = getattr(torch, dtype_of(self.model))
            plain = PlainModel.load(folder, dtype=dtype, device=network.device)
        except SmormError as error:
            self.notes.append(f"plain_difference was not tested: {error}")
            return
        ids = list(map(np.ndarray.tolist, self._sequences(items)))
        expected = rows.reshape(len(ids), -1)
        try:
            padded_right = plain.logits(ids, batch=8, side="right")
            padded_left = plain.logits(ids, batch=8, side="left")
        except ValueError as error:
            missing = Cause(CauseKind.PAD_TOKEN, f"none is named: {error}")
            self._add("plain_difference", np.nan, len(ids), self._near(0.0)[0], "none", missing)
            return
        scores = np.concatenate([padded_right, padded_left])
        gap, failed = self._difference(scores, np.concatenate([expected, expected]))
        observed = f"plain transformers differs by {gap:.1e} standard deviations"
        unknown = "`smorm parity` shows which batches and sides differ"
        cause = None
        if failed:
            cause = pad_token(plain, ids, 8) or Cause(CauseKind.PADDING_OR_PRECISION, unknown)
        self._add("plain_difference", gap, len(ids), *self._near(gap), cause, observed)

    def _values(self, items: Sequence[Item]) -> Floats:
        """The view's values [N, responses] of items; NaN where one does not fit."""
        values = []
        for item, result in zip(items, self.scorer.score(items), strict=True):
            of_item = np.full(len(item), np.nan)
            if isinstance(result, Scored):
                of_item = apply_view(self.view, result.rows, self.model.card.scales)
            values.append(of_item)
        return np.stack(values)

    def _sequences(self, items: Sequence[Item]) -> list[Tokens]:
        renderer, policy = self.model.renderer, self.scorer.overlong
        sequences: list[Tokens] = []
        for item in items:
            fitted = fit(renderer, item.prompt, item.responses, renderer.max_tokens, policy)
            sequences += [np.asarray(tokens, dtype=np.int32) for tokens in fitted.tokens or ()]
        return sequences

    def _near(self, gap: float) -> tuple[str, str]:
        """What is expected of a difference of scores, and what was seen."""
        gate = GATES.get(dtype_of(self.model), GATES["bfloat16"])
        return f"at most {gate:g} standard deviations apart", f"{gap:.1e}"

    def _difference(self, scores: Floats, expected: Floats) -> tuple[float, bool]:
        """The largest difference of scores [N, C] in standard deviations, and whether parity's
        gate forbids it."""
        std, dtype = expected.std(axis=0), dtype_of(self.model)
        differences = np.abs(scores - expected)
        allowed = allowed_difference(std, GATES.get(dtype, GATES["bfloat16"]), dtype)
        # Scores that are all equal have no standard deviation to divide by.
        largest = float((differences / np.maximum(std, 1e-12)).max())
        return largest, not bool((differences <= allowed).all())


def _swap(item: Item) -> Item:
    return replace(item, responses=item.responses[::-1])


def _without_last_word(response: Messages) -> Messages:
    *before, last = response
    words = last.content.rstrip().rpartition(" ")[0]
    return (*before, Message(last.role, words or f"{last.content} indeed"))


def _wins(margins: Floats, rounding: float) -> Floats:
    """1 where the margin is above 0, 0.5 where it is 0 but for rounding, else 0."""
    near = np.abs(margins) <= rounding
    return np.where(near, 0.5, (margins > 0).astype(np.float64))
