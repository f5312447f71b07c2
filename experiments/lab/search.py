"""The page of the search for a better one-pass model, and of its choice on other seeds.

The sentences were written by people about the committed numbers: who runs the studies again must
read them again."""

from __future__ import annotations

from pathlib import Path

from experiments.lab.numbers import Numbers, gold_at
from experiments.tables import plus_minus, table
from smorm.files import write_text

# Out of distribution only: there a reward is exploited, and there the search chose.
REGIMES = ("OODtopic", "far")
GOLD = gold_at(64)
BASELINE, CHOSEN = "SM", "Merged calibrated"
PAGE = """\
# The search for a better one-pass model

`smorm lab experiments/lab/search.yaml` (world 1, its own policy, {search_seeds} seeds) chooses, \
by mean gold of best-of-64 over OODtopic and far; `smorm lab experiments/lab/final.yaml` (world 0, \
three policies, {final_seeds} other seeds, `../final`) gives the final numbers. Fourteen one-pass \
variants and more were tried; several preference rows are not built and were not.

Chosen: the average of three SMORMs' weights with its two heads standardised ("Merged \
calibrated"), {chosen:.3f} against SM's {baseline:.3f}. Final gold of best-of-64, less SM's (95 %, \
paired over {final_seeds} seeds, **bold** where the interval excludes 0):

{final}

So no one-pass model was shown to be better than the naive ensemble of two passes, nor was the \
chosen one shown to be worse; Single is worse. What came out best of one pass in the final \
numbers, Centred M, was not what had been chosen.
"""


def account(search: Numbers, final: Numbers) -> str:
    """Markdown: the choice and its numbers on seeds that had no part in it."""
    rows = []
    for label in (CHOSEN, "Centred M", "Single"):
        gains = [final.gain(f"best-of-n/{name}", label, BASELINE, GOLD) for name in REGIMES]
        rows.append([label, *(plus_minus(gain, signed=True) for gain in gains)])
    return PAGE.format(
        search_seeds=search.seeds,
        final_seeds=final.seeds,
        chosen=_mean_gold(search, CHOSEN),
        baseline=_mean_gold(search, BASELINE),
        final=table(["less SM", *REGIMES], rows),
    )


def _mean_gold(numbers: Numbers, label: str) -> float:
    """The criterion of the search: the mean over regimes and seeds."""
    total = 0.0
    for regime in REGIMES:
        mean = numbers.mean(f"best-of-n/{regime}", label, GOLD)
        assert mean is not None
        total += mean.value
    return total / len(REGIMES)


def rewrite(output: Path) -> None:
    """README.md, from the numbers of the search and of the final study beside it."""
    search = Numbers.read(output / "numbers.csv")
    final = Numbers.read(output.parent / "final" / "numbers.csv")
    write_text(output / "README.md", account(search, final))
