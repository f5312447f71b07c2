"""`results/text/README.md`: what was compared, what the intervals show, and the tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.tables import (
    FEW_PROMPTS,
    INTERVALS,
    Verdict,
    difference_cells,
    each_seed,
    highest,
    interval,
    number,
    over_prompts,
    over_seeds,
    table,
    verdict_of,
)
from experiments.tasks import TASKS
from experiments.text_measure import TextSuite
from experiments.text_rewards import LONGEST, SET, label_of
from smorm.evaluation.metric_names import MetricName, SuiteName
from smorm.evaluation.metrics import Metric
from smorm.evaluation.result import Result

Summary = Mapping[str, Any]

HEADER = """\
# Real text: every method from one pretrained backbone

Written by `python -m experiments.text`; do not edit. `results.json` has every result of every
seed, `summary.json` the numbers below.

**What is compared.** All models begin with the same small Llama ({parameters:.2f} million
parameters), pretrained here as a language model, and are trained by the same trainer on one CPU
core: Single (pairs), Multi (ratings), GRM (sft regulariser), ODIN, BSR, SMORM (pairs and ratings,
the official weight), and made of them SM (the mean of Single and Multi) and ensembles of {members}
Singles of different seeds (mean, min), their members standardised on training responses. F is the
preference row, L the mean of the attribute rows, M the mean of F and L as they are. Seeds:
{seeds}. A seed decides the initial head and the order of the data; with the same seed all methods
read the pairs in the same order. The backbone is the same in all seeds, so that the intervals over
seeds do not cover another pretraining.

**How it is measured.** On `dev`, which was used for no choice. ID: the model was trained on the
training split of the same data set (other prompts; UKP: other debates). OOD: it was trained on the
other data set. Best-of-n is out of distribution for all. Two 95 % intervals: *over prompts*
resamples whole prompts and covers the sampling of prompts, for the mean of these very seeds; *over
seeds* is Student's t over the numbers of the seeds, wide with so few. Differences are paired: same
items, same seed. There are many rows and many differences here: at 95 % one in twenty intervals
excludes 0 by chance, and nothing is corrected for that.

These models are tiny: the numbers say how the methods compare where everything can be repeated in
an hour, not how they do at the published scale.
"""
ONE_SEED = (
    "One seed only: there is no interval over seeds, and a difference that holds over prompts may "
    "be an accident of this seed. Run the command with more seeds."
)
HEADLINE = (
    "Of {count} differences to Single (accuracy on pairs and gain in best-of-n, all rewards and "
    "sets), {above} are above 0 over prompts and over seeds, {below} below 0, and the other ones "
    "do not hold over both."
)
BACKBONE = """\
## The backbone

{layers} layers of {hidden_size}, {vocab_size:,} BPE tokens trained on the same text, a context of \
{width} tokens; {tokens:,} tokens of `pretrain_text`, each read once, in {minutes:.0f} minutes. \
Held-out loss {loss:.3f} nats a token ({held_out_tokens:,} tokens of documents that were not \
trained on); of the token frequencies alone {loss_of_frequencies:.3f}.

Documents were compared with every test file by the rule of `smorm check --against` (13 words in a \
row, or a whole short text): {documents_left_out} of {documents_read:,} share some with a test \
item, and were left out. The overlap before that:

{overlap_table}
"""
BEST_OF_N = """\
## Best-of-n on AlpacaEval

Real answers of many models to {prompts_kept} of {prompts} prompts; gold is the probability that a \
strong judge prefers the answer to GPT-4's, mostly near 0 and higher for longer answers. Used are \
the {answers_kept:,} of {answers:,} answers whose conversation fits the {tokens} tokens that the \
backbone was pretrained on (at most {longest_words} words; the same for all models), and the \
prompts with at least {smallest_pool} of them. So n goes to {smallest_pool}, not to the 57 or 58 \
answers of a full pool: with n = 57 most prompts would be lost. `gain` is gold at the largest n \
less gold of a random answer.
"""
EPOCHS = """\
## Epochs

Chosen for each method alike, by one run each of two values (seed 50, none of those above) on \
prompts (UKP: debates) split off the training split; `dev` was not used. Epochs are of the pairs; \
of the ratings for Multi, so that it reads as many ratings as SMORM does. Criterion: accuracy on \
the validation pairs, of F; of L for Multi; the mean of F's and L's for SMORM. The learning rate \
(3e-4, which most methods had chosen when they were trained from scratch) and all else are the \
same for all. Two values are a small search, and the chosen one is always at its edge. Both are \
small, so that the comparison takes well under an hour on two cores: longer training may change \
the results.

{table}
"""
COST = """\
## Cost

Of seed 0; an ensemble costs all its members. Tokens are those computed. Minutes are of one core of
a machine that others used too, for orientation only.

{table}

Minutes of one process by part, all seeds: {minutes}.
"""
SHORT_HEADINGS = {
    "pairs": "Pairs",
    "overall": "Rewards and the overall rating",
    "rated": "Attributes",
}
_NAMES = {name: task.title for name, task in TASKS.items()} | {SET: "AlpacaEval"}
# The number of which differences to Single are counted, by kind of suite.
_MEASURED_GAP = {"pairs": "accuracy", "best-of-n": "gain"}


def title_of(suite: TextSuite) -> str:
    """The heading of a suite."""
    if suite.in_distribution:
        return f"{_NAMES[suite.measured]} (ID)"
    return f"{_NAMES[suite.measured]}, trained on {_NAMES[suite.trained]} (OOD)"


class Page:
    """The README, from `summary.json` and `results.json`."""

    def __init__(self, summary: Summary, results: Sequence[Result]) -> None:
        self.summary, self.results = summary, results
        self.suites: dict[TextSuite, Summary] = {}
        for name, rows in summary["suites"].items():
            self.suites[TextSuite.parse(name)] = rows
        self.first: dict[str, Result] = {}
        for result in results:
            self.first.setdefault(result.suite, result)

    def text(self) -> str:
        """All of it."""
        facts = self.summary["backbone"]
        header = HEADER.format(
            parameters=facts["parameters"] / 1e6,
            members=self.summary["members"],
            seeds=", ".join(map(str, self.summary["seeds"])),
        )
        blocks = [header, self.reading(), _backbone(facts)]
        sections: list[tuple[str, Callable[[TextSuite, Summary], str]]] = [
            ("pairs", self.pairs), ("overall", _overall), ("rated", _rated),
        ]  # fmt: skip
        for kind, write in sections:
            blocks.append(f"## {SHORT_HEADINGS[kind]}\n")
            for suite, rows in self.of_kind(kind):
                blocks.append(f"### {title_of(suite)}\n\n{write(suite, rows)}\n")
        blocks += [self.best_of_n(), _epochs(self.summary["tuning"]), self.cost()]
        return "\n".join(blocks)

    def of_kind(self, kind: str) -> list[tuple[TextSuite, Summary]]:
        """The suites of a kind with their rows by label."""
        return [(suite, rows) for suite, rows in self.suites.items() if suite.kind == kind]

    def reading(self) -> str:
        """What the intervals show: counts, and a table for each kind of suite."""
        first = ONE_SEED
        if len(self.summary["seeds"]) > 1:
            first = self._headline()
        blocks = ["## What it shows", first, self._accuracy_table()]
        blocks += [self._gain_table(), self._verdict_table(), self._attribute_table()]
        for name, count in self.summary["prompts"].items():
            if count < FEW_PROMPTS:
                blocks.append(
                    f"{_NAMES[name]} has only {count} test prompts. A bootstrap over so few "
                    "clusters is too narrow: an interval that excludes 0 is weak evidence there."
                )
        return "\n\n".join(blocks) + "\n"

    def _headline(self) -> str:
        verdicts = []
        for kind, name in _MEASURED_GAP.items():
            for _, rows in self.of_kind(kind):
                verdicts += [verdict_of(gap) for gap in _gaps(rows, name).values()]
        return HEADLINE.format(
            count=len(verdicts),
            above=verdicts.count(Verdict.ABOVE),
            below=verdicts.count(Verdict.BELOW),
        )

    def _accuracy_table(self) -> str:
        lines = []
        for suite, rows in self.of_kind("pairs"):
            accuracies = {label: row["accuracy"] for label, row in rows.items()}
            best = highest(accuracies)
            at_chance = []
            for label, row in accuracies.items():
                if row["low"] <= 0.5 <= row["high"]:
                    at_chance.append(label)
            values = [number(accuracies[best]["value"]), number(self._length_only(suite).value)]
            tfidf = number(self._tfidf(suite))
            lines.append([title_of(suite), best, *values, tfidf, ", ".join(at_chance)])
        headings = ["pairs", "most accurate", "accuracy", "the longer response", "TF-IDF + length"]
        return table([*headings, "not distinguishable from chance over prompts"], lines)

    def _gain_table(self) -> str:
        lines = []
        for suite, rows in self.of_kind("best-of-n"):
            gains = {label: row["gain"] for label, row in rows.items()}
            # The rule is what rewards are compared with, in a column of its own.
            best = highest(gains, without=[LONGEST])
            above, below = [], []
            for label, row in gains.items():
                if label != LONGEST and row["low"] > 0:
                    above.append(label)
                elif label != LONGEST and row["high"] < 0:
                    below.append(label)
            values = [number(gains[label]["value"], "+.3f") for label in (best, LONGEST)]
            sides = [", ".join(labels) or "none" for labels in (above, below)]
            lines.append([title_of(suite), best, *values, *sides])
        headings = ["best-of-n", "largest gain under", "gain", f"gain by the {LONGEST}"]
        return table([*headings, "better than a random answer", "worse than it"], lines)

    def _verdict_table(self) -> str:
        """The rewards by what their differences to Single show."""
        lines = []
        for kind, name in _MEASURED_GAP.items():
            for suite, rows in self.of_kind(kind):
                by_verdict: dict[Verdict, list[str]] = {}
                for label, gap in _gaps(rows, name).items():
                    verdict = verdict_of(gap)
                    # The same sign in all of three seeds has one chance in four without an effect.
                    if verdict is Verdict.OPEN_SAME_SIGN:
                        verdict = Verdict.OPEN
                    by_verdict.setdefault(verdict, []).append(f"{label} ({gap['value']:+.3f})")
                for verdict, labels in by_verdict.items():
                    where = f"{name}, {title_of(suite)}"
                    lines.append([where, verdict.value, ", ".join(labels)])
        return table(["difference to Single", "it is", "rewards"], lines)

    def _attribute_table(self) -> str:
        lines = []
        for suite, rows in self.of_kind("rated"):
            gap = rows["SMORM-attributes"]["spearman"]["difference"]
            lines.append([title_of(suite), number(gap["value"], "+.3f"), verdict_of(gap).value])
        return table(["attributes", "mean Spearman, SMORM − Multi", "it is"], lines)

    def _length_only(self, suite: TextSuite) -> Metric:
        name = MetricName("accuracy", over="length_only")
        return self.first[str(suite)].metrics[str(name)]

    def _tfidf(self, suite: TextSuite) -> float | None:
        """The figure of the data's README, which is for models of its own training set."""
        if not suite.in_distribution:
            return None
        value: float | None = self.summary["baselines"].get(suite.measured, {}).get("dev")
        return value

    def pairs(self, suite: TextSuite, rows: Summary) -> str:
        """Accuracies of a suite, with both simple rules below."""
        lines = _lines(rows, "accuracy", ".3f")
        longer, empty = self._length_only(suite), [""] * 5
        span = interval(longer.low, longer.high)
        lines.append(["the longer response", number(longer.value), span, *empty])
        tfidf = self._tfidf(suite)
        if tfidf is not None:
            lines.append(["TF-IDF + length, the data's README", number(tfidf), "", *empty])
        note = " ".join(self.first[str(suite)].notes[:1])
        return f"{note}\n\n{table(_headings('pairs', 'accuracy', 'Single'), lines)}"

    def best_of_n(self) -> str:
        """Gold at every n, and the gain of each reward."""
        blocks = [BEST_OF_N.format(**self.summary["pools"])]
        for suite, rows in self.of_kind("best-of-n"):
            sizes = []
            for text in next(iter(rows.values())):
                name = MetricName.parse(text)
                if name.name == "gold" and name.n is not None:
                    sizes.append(name)
            lines = []
            for label, row in rows.items():
                gain = row["gain"]
                cells = [number(row[str(name)]["value"]) for name in sizes]
                cells += [number(gain["value"], "+.3f"), over_prompts(gain, "+.3f")]
                # The longest answer has no seed, and so no interval over seeds.
                cells.append(over_seeds(gain, "+.3f") if len(gain["seeds"]) > 1 else "")
                lines.append([label, *cells, *_gap_cells(gain)])
            headings = ["reward", *(f"n = {name.n}" for name in sizes), "gain"]
            headings += [*INTERVALS, "gain − Single's", *INTERVALS]
            oracle = self.first[str(suite)].metrics["oracle"].value
            blocks += [
                f"### {title_of(suite)}\n",
                table(headings, lines),
                f"\nPicks by gold itself would reach {oracle:.3f} at the largest n.\n",
            ]
        return "\n".join(blocks)

    def cost(self) -> str:
        """Passes, parameters, tokens and minutes of each reward."""
        lines = []
        for result in self.results:
            if result.kind == "cost" and result.fingerprint["seed"] == 0:
                values = {name: metric.value for name, metric in result.metrics.items()}
                lines.append([
                    TASKS[SuiteName.parse(result.suite).label].title,
                    label_of(result.model, result.view),
                    f"{values['passes_per_score']:.0f}",
                    f"{values['parameters']:,.0f}",
                    f"{values['training_tokens']:,.0f}",
                    f"{values['minutes']:.1f}",
                ])  # fmt: skip
        headings = ["data", "reward", "passes a score", "parameters", "training tokens", "minutes"]
        blocks = [f"{name} {value:.1f}" for name, value in self.summary["minutes"].items()]
        return COST.format(table=table(headings, lines), minutes=", ".join(blocks))


def _backbone(facts: Summary) -> str:
    rows = []
    for name, counts in facts["overlap"].items():
        cells = [f"{counts['items']:,}", str(counts["prompts"]), str(counts["responses"])]
        rows.append([name, *cells])
    counted = ("documents", "documents_held_out", "documents_left_out")
    return BACKBONE.format(
        **(facts["settings"] | facts),
        documents_read=sum(facts[name] for name in counted),
        overlap_table=table(["test file", "items", "prompts shared", "responses shared"], rows),
    )


def _headings(first: str, value: str, base: str) -> list[str]:
    return [first, value, *INTERVALS, "each seed", f"− {base}", *INTERVALS]


def _lines(rows: Summary, name: str, form: str) -> list[list[str]]:
    """Of each label a number with its intervals and seeds, and its difference to the baseline."""
    lines = []
    for label, numbers in rows.items():
        if name in numbers:
            row = numbers[name]
            cells = [*difference_cells(row, form), each_seed(row, form)]
            lines.append([label, *cells, *_gap_cells(row)])
    return lines


def _gap_cells(row: Summary) -> list[str]:
    """Cells of the difference to the baseline, empty for the baseline itself."""
    gap = row.get("difference")
    return ["", "", ""] if gap is None else difference_cells(gap)


def _gaps(rows: Summary, name: str) -> dict[str, Summary]:
    """The differences of trained rewards to the baseline, by label."""
    gaps = {}
    for label, numbers in rows.items():
        if label != LONGEST and "difference" in numbers[name]:
            gaps[label] = numbers[name]["difference"]
    return gaps


def _overall(suite: TextSuite, rows: Summary) -> str:
    within = []
    for label, numbers in rows.items():
        within.append(f"{label} {number(numbers['spearman_within_prompt']['value'], '+.2f')}")
    lines = _lines(rows, "spearman", "+.3f")
    full = table(_headings("reward", "Spearman", "Single"), lines)
    return f"{full}\n\nWithin prompts: {', '.join(within)}."


def _rated(suite: TextSuite, rows: Summary) -> str:
    lines = []
    for text in rows["Multi"]:
        cells = [MetricName.parse(text).subset or "mean over attributes"]
        for label in ("Multi", "SMORM-attributes"):
            row = rows[label][text]
            cells.append(f"{number(row['value'], '+.3f')} {over_prompts(row, '+.3f')}")
        lines.append([*cells, *_gap_cells(rows["SMORM-attributes"][text])])
    return table(["attribute", "Multi", "SMORM", "SMORM − Multi", *INTERVALS], lines)


def _epochs(tuned: Summary) -> str:
    rows = []
    for task, methods in tuned.items():
        for method, tries in methods.items():
            cells = []
            for row in tries["tried"]:
                chosen = " **chosen**" if row["epochs"] == tries["chosen"] else ""
                cells.append(f"{row['epochs']:g}: {row['criterion']:.3f}{chosen}")
            rows.append([TASKS[task].title, method, ", ".join(cells)])
    return EPOCHS.format(table=table(["data", "method", "epochs: validation accuracy"], rows))
