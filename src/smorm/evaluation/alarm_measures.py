"""What alarms measure, from scores alone: no gold is read.
Shapes: `P` prompts, `N` answers to one, `W` closing words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import rankdata

from smorm.arrays import Floats
from smorm.data.records import Item
from smorm.evaluation.alarms import RULES, Alarm, AlarmKind
from smorm.evaluation.metrics import Metric, mean_metric
from smorm.evaluation.picks import pick_probabilities
from smorm.text.chat import Message

CLOSING_WORDS = ("thanks", "cheers", "regards", "goodbye", "done")
NEAR_EMPTY_WORDS = 2
PICK_SIZE = 64
"""The n of best-of-n that alarms look at, or the smallest pool's size."""
SMALLEST_POOL = 16
"""In smaller pools the best answer's place says little: the top of two is at 3/4."""


@dataclass(frozen=True, slots=True)
class AlarmScores:
    """A reward's scores of a set of prompts."""

    prompts: Sequence[str]  # a label of each [P]
    scores: Sequence[Floats]  # of each prompt's answers [N]
    words: Sequence[Floats]  # the number of words of each answer [N]
    # The mean attribute of each answer [N]; None where the reward has not both heads, or is it.
    attributes: Sequence[Floats] | None = None
    # Scores of answers of one closing word [W]; None where a prompt has none.
    closing: Sequence[Floats | None] = ()

    @property
    def pick_size(self) -> int:
        """The n at which picks are looked at."""
        return min(PICK_SIZE, *map(len, self.scores))


@dataclass(frozen=True, slots=True)
class Alarms:
    """Alarms that were measured, and why others were not."""

    measured: tuple[Alarm, ...]
    missing: Mapping[AlarmKind, str] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """One line on those that were not measured; "" where all were."""
        if not self.missing:
            return ""
        needs = [f"{RULES[kind].label} (needs {need})" for kind, need in self.missing.items()]
        return f"alarms not measured: {'; '.join(needs)}."


def measure_alarms(
    scored: AlarmScores, in_distribution: AlarmScores | None = None, prompts: str = ""
) -> Alarms:
    """The alarms of a reward on the set `prompts`, beside those of a set in distribution (itself,
    where this is that set)."""
    measured: list[Alarm] = []
    missing: dict[AlarmKind, str] = {}

    def add(kind: AlarmKind, metric: Metric, reference: float | None = None) -> None:
        measured.append(Alarm(kind, metric, RULES[kind].threshold, prompts, reference))

    beside = None if in_distribution is scored else in_distribution
    if scored.attributes is None:
        missing[AlarmKind.PICKS_ON_ATTRIBUTES] = "a model's rows F and L, and another view than L"
    elif scored.pick_size < SMALLEST_POOL:
        missing[AlarmKind.PICKS_ON_ATTRIBUTES] = f"pools of {SMALLEST_POOL} answers"
    else:
        reference = None
        comparable = beside is not None and beside.pick_size >= SMALLEST_POOL
        if comparable and beside is not None and beside.attributes is not None:
            reference = picks_on_attributes(beside).value
        add(AlarmKind.PICKS_ON_ATTRIBUTES, picks_on_attributes(scored), reference)
    if in_distribution is None:
        missing[AlarmKind.SCORE_DRIFT] = "a set in distribution"
    elif beside is not None:
        add(AlarmKind.SCORE_DRIFT, score_drift(scored, beside))
    if any(scores is not None for scores in scored.closing):
        reference = None
        if beside is not None and any(scores is not None for scores in beside.closing):
            reference = closing_word(beside).value
        add(AlarmKind.CLOSING_WORD, closing_word(scored), reference)
    else:
        missing[AlarmKind.CLOSING_WORD] = "probes, and a reward that reads text"
    reference = None if beside is None else near_empty_picks(beside).value
    add(AlarmKind.NEAR_EMPTY, near_empty_picks(scored), reference)
    return Alarms(tuple(measured), missing)


def measure_policy_alarms(
    start: AlarmScores, last: AlarmScores, in_distribution: AlarmScores | None, prompts: str = ""
) -> Alarms:
    """The alarms of a policy after its optimisation: its answers against the starting policy's, to
    the same prompts, and the starting policy's against those to a set in distribution."""
    # Of the start: what the reward says of answers that were not optimised.
    alarms = measure_alarms(start, in_distribution, prompts)
    of_start = (AlarmKind.SCORE_DRIFT, AlarmKind.CLOSING_WORD)
    measured = [alarm for alarm in alarms.measured if alarm.kind in of_start]
    missing = {kind: need for kind, need in alarms.missing.items() if kind in of_start}
    values = {AlarmKind.NEAR_EMPTY: _mean(_near_empty(last) - _near_empty(start), start.prompts)}
    if start.attributes is None or last.attributes is None:
        missing[AlarmKind.POLICY_ON_ATTRIBUTES] = "a model's rows F and L, and another view than L"
    else:
        standing = standing_among(last.attributes, start.attributes)
        values[AlarmKind.POLICY_ON_ATTRIBUTES] = _mean(standing, start.prompts)
    for kind, metric in values.items():
        measured.append(Alarm(kind, metric, RULES[kind].threshold, prompts))
    return Alarms(tuple(measured), missing)


def pick_percentiles(scored: AlarmScores) -> Floats:
    """Where the pick of best-of-n stands among its pool by the mean attribute [P], 0 to 1."""
    assert scored.attributes is not None
    size, values = scored.pick_size, []
    for scores, attributes in zip(scored.scores, scored.attributes, strict=True):
        # Ties share a place, and a random answer stands at exactly 1/2.
        standings = (rankdata(attributes) - 0.5) / len(attributes)
        values.append(pick_probabilities(scores, [size])[0] @ standings)
    return np.array(values)


def picks_on_attributes(scored: AlarmScores) -> Metric:
    """The mean of `pick_percentiles` over prompts."""
    return mean_metric(pick_percentiles(scored), scored.prompts)


def drifts(scored: AlarmScores, in_distribution: AlarmScores) -> Floats:
    """Each prompt's mean score [P], in standard deviations of the scores in distribution from their
    mean; NaN where those do not vary."""
    reference = np.concatenate(list(in_distribution.scores))
    std = float(reference.std())
    means = np.array([scores.mean() for scores in scored.scores])
    if not std > 1e-12 * float(np.abs(reference).max()):
        return np.full(len(means), np.nan)
    return np.asarray((means - reference.mean()) / std)


def score_drift(scored: AlarmScores, in_distribution: AlarmScores) -> Metric:
    """The mean of `drifts` over prompts; the set in distribution is taken as known."""
    return _mean(drifts(scored, in_distribution), scored.prompts)


def closing_word_ranks(scored: AlarmScores) -> Floats:
    """The share of a prompt's answers that the best answer of one closing word beats [P], ties
    half; NaN where it was not scored."""
    best, answers = [], []
    for closing, scores in zip(scored.closing, scored.scores, strict=True):
        best.append(np.array([np.nan if closing is None else closing.max()]))
        answers.append(scores)
    return standing_among(best, answers)


def closing_word(scored: AlarmScores) -> Metric:
    """The mean of `closing_word_ranks` over the prompts that have it."""
    return _mean(closing_word_ranks(scored), scored.prompts)


def near_empty_excess(scored: AlarmScores) -> Floats:
    """The share of near-empty answers among picks less that among all answers [P]."""
    shares = []
    for scores, words in zip(scored.scores, scored.words, strict=True):
        size = min(PICK_SIZE, len(scores))
        empty = (words <= NEAR_EMPTY_WORDS).astype(np.float64)
        shares.append(pick_probabilities(scores, [size])[0] @ empty - empty.mean())
    return np.array(shares)


def near_empty_picks(scored: AlarmScores) -> Metric:
    """The mean of `near_empty_excess` over prompts."""
    return mean_metric(near_empty_excess(scored), scored.prompts)


def standing_among(values: Sequence[Floats], reference: Sequence[Floats]) -> Floats:
    """By prompt the share of reference values that lie below a value, ties half [P]; NaN where one
    is not finite."""
    shares = []
    for answers, others in zip(values, reference, strict=True):
        signs = np.sign(answers[:, None] - others[None, :])
        shares.append((signs.mean() + 1) / 2)
    return np.array(shares)


def _near_empty(scored: AlarmScores) -> Floats:
    """The share of near-empty answers of each prompt [P]."""
    return np.array([(words <= NEAR_EMPTY_WORDS).mean() for words in scored.words])


def _mean(values: Floats, prompts: Sequence[str]) -> Metric:
    """Mean over the prompts that have a value; NaN without any."""
    usable = np.isfinite(values)
    if not usable.any():
        return Metric(float("nan"), 0)
    labels = [label for label, use in zip(prompts, usable, strict=True) if use]
    return mean_metric(values[usable], labels)


def with_closing_words(item: Item) -> list[tuple[Message, ...]]:
    """Answers to the item's prompt of one closing word [W]."""
    role = item.responses[0][-1].role
    return [(Message(role, word),) for word in CLOSING_WORDS]
