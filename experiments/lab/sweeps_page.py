"""The pages of the sweeps, from their numbers: `tables.md` has all, README.md says what they show.

The sentences of README.md were written by people about the committed numbers: who runs the sweeps
again must read them again."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from pathlib import Path

from experiments.lab.numbers import Numbers, gold_at
from experiments.tables import plus_minus, table
from smorm.files import write_text

SEEDS = 5
# SMORM that sees each rating 8 times, as Multi does, however few there are.
AS_OFTEN = "SMORM 8x"
REGIMES = ("ID", "OODtopic", "far")
GOLD = gold_at(64)

TABLES = """\
# Sweeps in the lab: tables

`python -m experiments.lab.sweeps --output results/lab/sweeps --work runs/lab`. One knob at a \
time, everything else as in the grid; {seeds} seeds. Gold is that of best-of-64; differences are \
paired by seed, ± half a 95 % interval (Student's t), **bold** where it excludes 0.

{sections}
"""
README = """\
# Sweeps in the lab: what they say

`python -m experiments.lab.sweeps --output results/lab/sweeps --work runs/lab` (about half an hour \
on two cores) ran them and wrote this page and [the tables](tables.md). One knob at a time, \
everything else as in [the grid](../README.md), {seeds} seeds; differences are paired by seed, \
± half a 95 % interval, **bold** where it excludes 0. There are several hundred differences in the \
tables: some of the bold ones are chance, so what follows names only what shows in more than one \
place.

- **|D_M|: joint training lifts the attribute rows where ratings are scarce, and only if they are \
not repeated too often.** Rank correlation of the attributes with fresh ratings, SMORM less Multi: \
with 100 ratings {ranks_100}; with 300 {ranks_300}; with 1,000 nothing; with 3,000 {ranks_3000} \
ID. That is *SMORM 8x*, which sees each rating 8 times, as Multi does. With one rating a pair, as \
the published code has it, a hundred ratings are seen 60 times each: rank correlation still rises \
in distribution, but squared error is worse than Multi's ({errors_100} with 100, {errors_300} \
OODtopic with 300): the rows are overfitted. `data.mixing.rated_per_pair` is the knob, and the \
first thing to set when D_M is much smaller than D_S.
- **The same scarce ratings do not help the preference row.** With 100 or 300 of them SMORM-F is \
below Single (OODtopic accuracy {first_100} and {first_300}; with 8x {often_100} and {often_300}); \
with 1,000 and more the two cannot be told apart.
- **SM is not held back by its weak member.** Where Multi is bad (100 and 300 ratings: {weak} less \
accurate than Single) SM is no worse than Single anywhere, and its gold OODtopic is higher \
({ensemble_100}, {ensemble_300}). Badly trained attribute rows shrink to their mean: the \
difference of two answers' scores spreads by 0.26 to 0.35 with 100 ratings, by 1.0 to 1.1 for \
Single (measured on the models once, not in the tables), so the mean of both follows Single.
- **Noise of preferences is where a second source of labels pays.** At temperature 0.45 (Single's \
accuracy {noisy}) SM gains {ensemble_accuracy} in accuracy and {ensemble_gold} in gold, in every \
regime, and SMORM-M gains {mean_row} in accuracy (decided ID and far). SMORM-F's own gain stays \
undecided ({first_noisy} ID): what helps is the attributes in the mean, not the shared trunk. At \
temperature 0.05 no method gains more than {clean}.
- **Weight of the regression term**: between 0.3 and 3 nothing can be told apart; 0.1 and 10 are \
worse OODtopic ({light}, {heavy} for F). The learned weight and the paper's are as good as the \
best fixed one.
- **Style correlation**: with none (ρ = 0), where wordiness tells nothing, SMORM and SM gain \
{style} in accuracy ID; with ρ = 1 nothing is decided but SM far.
- **Epochs**: Single and SMORM overfit alike. After 8 epochs both lose {long} in accuracy out of \
distribution; joint training does not protect.
"""


def tables(output: Path) -> str:
    """Markdown: every sweep's gains over Single, and of the attribute rows over Multi's."""
    sections = []
    for name in ("weight", "epochs"):
        sections += [f"## {name}", _gains(_numbers(output, name))]
    for key in ("rated", "answers_per_prompt", "temperature", "style_correlation"):
        sections.append(f"## {key}")
        folders = sorted(output.glob(f"{key}=*"), key=lambda path: float(path.name.split("=")[1]))
        for folder in folders:
            numbers = _numbers(output, folder.name)
            sections += [f"### {folder.name}", _gains(numbers), _attribute_rows(numbers)]
    return TABLES.format(seeds=SEEDS, sections="\n\n".join(sections))


def readme(output: Path) -> str:
    """Markdown: what shows in more than one place."""
    few, more, many = (_numbers(output, f"rated={count}") for count in (100, 300, 3000))
    weight, noisy = _numbers(output, "weight"), _numbers(output, "temperature=0.45")
    clean = _numbers(output, "temperature=0.05")
    topic = "pairs/OODtopic"
    return README.format(
        seeds=SEEDS,
        ranks_100=_by_regime(few, AS_OFTEN, "Multi", "spearman"),
        ranks_300=_by_regime(more, AS_OFTEN, "Multi", "spearman"),
        ranks_3000=_gain(many, "rated/ID", AS_OFTEN, "Multi", "spearman"),
        errors_100=_gain(few, "rated/ID", "SMORM", "Multi", "mse"),
        errors_300=_gain(more, "rated/OODtopic", "SMORM", "Multi", "mse"),
        first_100=_gain(few, topic, "SMORM-F"),
        first_300=_gain(more, topic, "SMORM-F"),
        often_100=_gain(few, topic, f"{AS_OFTEN}-F"),
        often_300=_gain(more, topic, f"{AS_OFTEN}-F"),
        weak=_range([*_changes(few, ["Multi"]), *_changes(more, ["Multi"])]),
        ensemble_100=_gain(few, "best-of-n/OODtopic", "SM", metric=GOLD),
        ensemble_300=_gain(more, "best-of-n/OODtopic", "SM", metric=GOLD),
        noisy=plus_minus(noisy.mean("pairs/ID", "Single", "accuracy")),
        ensemble_accuracy=_range(_changes(noisy, ["SM"])),
        ensemble_gold=_range(_changes(noisy, ["SM"], metric=GOLD)),
        mean_row=_range(_changes(noisy, ["SMORM-M"])),
        first_noisy=_gain(noisy, "pairs/ID", "SMORM-F"),
        clean=f"{max(_changes(clean, clean.labels(topic))):.3f}",
        light=_gain(weight, topic, "fixed 0.1-F"),
        heavy=_gain(weight, topic, "fixed 10-F"),
        style=_range(
            _changes(_numbers(output, "style_correlation=0"), ["SMORM-F", "SMORM-M", "SM"], ["ID"])
        ),
        long=_range(
            _changes(_numbers(output, "epochs"), ["Single 8 epochs", "SMORM 8 epochs"], REGIMES[1:])
        ),
    )


def _numbers(output: Path, name: str) -> Numbers:
    return Numbers.read(output / name / "numbers.csv")


def _gain(
    numbers: Numbers, suite: str, label: str, base: str = "Single", metric: str = "accuracy"
) -> str:
    return plus_minus(numbers.gain(suite, label, base, metric), signed=True)


def _by_regime(numbers: Numbers, label: str, base: str, metric: str) -> str:
    gains = [f"{_gain(numbers, f'rated/{r}', label, base, metric)} {r}" for r in REGIMES]
    return ", ".join(gains)


def _changes(
    numbers: Numbers,
    labels: Iterable[str],
    regimes: Iterable[str] = REGIMES,
    metric: str = "accuracy",
) -> list[float]:
    """Mean differences to Single of each label in each regime."""
    kind = "pairs" if metric == "accuracy" else "best-of-n"
    changes = []
    for regime, label in product(regimes, labels):
        gain = numbers.gain(f"{kind}/{regime}", label, "Single", metric)
        changes.append(gain.value)
    return changes


def _range(changes: Iterable[float]) -> str:
    """The smallest and the largest size of changes."""
    sizes = sorted(map(abs, changes))
    return f"{sizes[0]:.3f} to {sizes[-1]:.3f}"


def _gains(numbers: Numbers) -> str:
    rows, headings = [], [""]
    for regime in REGIMES:
        headings += [f"{regime}: accuracy", f"{regime}: gold"]
    for label in numbers.labels("pairs/ID"):
        cells = [label]
        for regime in REGIMES:
            for suite, metric in ((f"pairs/{regime}", "accuracy"), (f"best-of-n/{regime}", GOLD)):
                if label == "Single":
                    cells.append(plus_minus(numbers.mean(suite, label, metric)))
                else:
                    gain = numbers.gain(suite, label, "Single", metric)
                    cells.append(plus_minus(gain, signed=True))
        rows.append(cells)
    return f"Single's own numbers, and the others' less Single's:\n\n{table(headings, rows)}"


def _attribute_rows(numbers: Numbers) -> str:
    measured = numbers.labels(f"rated/{REGIMES[0]}")
    joint = [name for name in ("SMORM", AS_OFTEN) if name in measured]
    headings = [""]
    for regime in REGIMES:
        headings += [f"{regime}: Multi", *(f"{regime}: {name} − Multi" for name in joint)]
    rows = []
    for metric, title in (("mse", "squared error"), ("spearman", "rank correlation")):
        cells = [title]
        for regime in REGIMES:
            suite = f"rated/{regime}"
            cells.append(plus_minus(numbers.mean(suite, "Multi", metric)))
            for name in joint:
                gain = numbers.gain(suite, name, "Multi", metric)
                cells.append(plus_minus(gain, signed=True))
        rows.append(cells)
    return f"The attribute rows (ratings from 0 to 4):\n\n{table(headings, rows)}"


def rewrite(output: Path) -> None:
    """tables.md and README.md, from the numbers of all sweeps."""
    write_text(output / "tables.md", tables(output))
    write_text(output / "README.md", readme(output))
