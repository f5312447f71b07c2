"""Theorem 2 where the truth is known, and Theorem 1's bound in high dimension: two tables.

    python -m experiments.linear_theory --output results/theory

The cases are those of an earlier check of the theorem (see docs/diagnose.md); its figures stand
beside ours. It does not say how large the true preference is, how the attributes are drawn or how
many seeds it took, so sizes may differ; directions should not. Half a minute on one core."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.command import say
from experiments.high_dimension import DIMENSIONS, EARLIER_FLOOR, measure
from experiments.high_dimension import SEEDS as FLOOR_SEEDS
from experiments.linear_fits import Case, solve
from experiments.tables import number, table
from smorm.files import read_json, write_json, write_text
from smorm.version import __version__

# The earlier check does not say how many it took; our standard errors say what these decide.
SEEDS = 40
Row = Mapping[str, Any]


def maximum_likelihood_weight(pairs: int, rated: int, noise: float) -> float:
    """λ that makes the objective the joint likelihood of both sets: n_M / (2 σ² n_S)."""
    return rated / (2 * noise**2 * pairs)


# A is the theorem's good case; each of the others changes what the theorem may depend on: the rank,
# the weight, the noise, the direction of preference or the sizes.
CASES = (
    Case("A"),
    Case("A2", weight=0.01),
    Case("B", rank=6),
    Case("B2", rank=20),
    Case("B + ridge 1e-2", rank=6, ridge=1e-2),
    Case("B + ridge 3e-2", rank=6, ridge=3e-2),
    Case("C", rated=60, noise=3.0),
    Case("C1", rated=60, noise=3.0, weight=maximum_likelihood_weight(400, 60, 3.0)),
    Case("D", relation="apart"),
    Case("E", rank=3, relation="apart"),
    Case("F", relation="opposed"),
    Case("G", pairs=4000, rated=40),
    Case("G2", pairs=4000, rated=40, weight=maximum_likelihood_weight(4000, 40, 1.0)),
    Case("G3", pairs=4000, rated=40, weight=10 * maximum_likelihood_weight(4000, 40, 1.0)),
)


LESSONS = {
    "A": "the theorem's good case: a true bottleneck, equal sizes, the weight near enough",
    "A2": "a weight 50 times too small: the attribute head pays",
    "B": "no bottleneck (d = K + 1): joint training changes nothing at all",
    "B2": "no bottleneck (d = 20): the same",
    "B + ridge 1e-2": "no bottleneck, weight decay: the gain comes from the low-rank prior",
    "B + ridge 3e-2": "the same, more of it",
    "C": "few noisy ratings, λ = 1: negative transfer to preference",
    "C1": "the same with the maximum-likelihood λ: both gain",
    "D": "preference orthogonal to the attributes, no room for it: preference is sacrificed",
    "E": "the same with one more dimension: most of the damage is gone",
    "F": "preference against the attributes: the sign of 1ᵀα has no part in Theorem 2",
    "G": "scarce ratings beside many pairs, λ = 1: the strong head is sacrificed",
    "G2": "the same with the maximum-likelihood λ: both gain",
    "G3": "λ ten times too large: preference is hurt already",
}
# The earlier check: preference alone and joint, attributes alone and joint.
EARLIER: dict[str, tuple[float, float, float, float]] = {
    "A": (0.287, 0.064, 0.0250, 0.0236),
    "A2": (0.287, 0.248, 0.0250, 0.0620),
    "B": (0.2869, 0.2869, 0.0537, 0.0537),
    "B2": (0.2869, 0.2869, 0.0537, 0.0537),
    "B + ridge 1e-2": (0.183, 0.162, 0.0529, 0.0527),
    "B + ridge 3e-2": (0.242, 0.121, 0.0478, 0.0473),
    "C": (0.287, 1.206, 2.72, 2.69),
    "C1": (0.287, 0.265, 2.72, 1.83),
    "D": (0.196, 2.256, 0.0247, 0.0250),
    "E": (0.196, 0.208, 0.0400, 0.0271),
    "F": (0.250, 0.066, 0.0242, 0.0227),
    "G": (0.018, 0.423, 0.491, 0.429),
    "G2": (0.0174, 0.0165, 0.481, 0.265),
    "G3": (0.0174, 0.0388, 0.481, 0.276),
}


# The four errors of a case, in the order of `Errors` and of `EARLIER`.
NAMES = ("single", "joint_preference", "multi", "joint_attributes")
CASE_HEADINGS = (
    "case", "preference: alone → joint", "earlier", "attributes: alone → joint", "earlier",
    "seeds where joint is better: preference, attributes", "what it shows",
)  # fmt: skip
FLOOR_HEADINGS = (
    "d", "correlation of r_s and r_m", "highest floor, max(c r_s) − ε", "earlier", "lowest r_m",
    "pairs whose order is guaranteed", "largest shortfall seen", "c published ÷ c projection",
)  # fmt: skip
PAGE = """\
# The theory where the truth is known

`python -m experiments.linear_theory --output results/theory` (smorm {version}). Mean squared
error to the truth, mean ± standard error over {seeds} seeds; "earlier" is the check whose cases
these are (its truth is not described, so sizes may differ). Formulas and how to read them:
[docs/diagnose.md](../../docs/diagnose.md).

## Theorem 2: does joint training lower both errors?

{cases}

Cases in which a direction differs from the earlier check: {directions}. More than two standard
errors from it: {distant}. B and B2 are exact: without a rank that binds, the two problems are
separate.

So the strict claim is false as it stands: with no bottleneck there is no gain at all (B, B2), with
the wrong weight one head is sacrificed (A2, C, D, G, G3), and with the maximum-likelihood weight
λ = n_M / (2 σ² n_S) both heads gain on average (C1, G2). The weight of the regression term decides.

## Theorem 1: what its floor guarantees

{floors}

Means over {floor_seeds} seeds. The inequality is never violated; it is true for any two vectors.
As the features get wider the floor falls to below every r_m observed, and the order of hardly any
pair is guaranteed (by the sharper ‖w⊥‖‖f(a) − f(b)‖, not by 2ε), although the two rewards agree
closely. The published c belongs to a linearised Bradley–Terry head, not to the trained one.
"""


def run_case(case: Case, seeds: Sequence[int]) -> dict[str, Any]:
    """One case over seeds: means and standard errors of the four errors, and in how many seeds
    joint training lowered each head's error."""
    errors = np.array([list(asdict(solve(case, seed)).values()) for seed in seeds])  # [S, 4]
    # ddof 1: the seeds are a sample of all seeds.
    standard_errors = errors.std(axis=0, ddof=1) / np.sqrt(len(seeds))
    # Differences below this are those of the solvers.
    gains = errors[:, [0, 2]] - errors[:, [1, 3]] > 1e-9
    return {
        "case": asdict(case),
        "means": dict(zip(NAMES, errors.mean(axis=0).tolist(), strict=True)),
        "errors": dict(zip(NAMES, standard_errors.tolist(), strict=True)),
        "seeds": len(seeds),
        "preference_gains": int(gains[:, 0].sum()),
        "attribute_gains": int(gains[:, 1].sum()),
        "earlier": dict(zip(NAMES, EARLIER[case.name], strict=True)),
    }


def case_table(rows: Sequence[Row]) -> str:
    """Markdown: ours with standard errors, the earlier figures, and what the case shows."""
    lines = []
    for row in rows:
        name, earlier = row["case"]["name"], row["earlier"]
        ours, before = [], []
        for key in NAMES:
            ours.append(_value_and_error(row["means"][key], row["errors"][key]))
            before.append(f"{earlier[key]:g}")
        cells = []
        for first in (0, 2):  # preference, attributes: alone and joint
            cells.append(" → ".join(ours[first : first + 2]))
            cells.append(" → ".join(before[first : first + 2]))
        gains = f"{row['preference_gains']}, {row['attribute_gains']} of {row['seeds']}"
        lines.append([name, *cells, gains, LESSONS[name]])
    return table(CASE_HEADINGS, lines)


def _value_and_error(value: float, error: float) -> str:
    form = ".3f" if value >= 0.1 else ".4f"
    return f"{value:{form}} ± {error:{form}}"


def distant_errors(rows: Sequence[Row]) -> list[str]:
    """The errors that are more than two standard errors from the earlier check's."""
    names = []
    for row in rows:
        for key, earlier in row["earlier"].items():
            # Our standard error alone: the earlier check gives none.
            distance = abs(row["means"][key] - earlier)
            if distance > 2 * row["errors"][key]:
                names.append(f"{row['case']['name']}, {key.replace('_', ' ')}")
    return names


def other_directions(rows: Sequence[Row]) -> list[str]:
    """The cases in which joint training raises an error that it lowered in the earlier check, or
    the other way round."""
    names = []
    for row in rows:
        ours, earlier = row["means"], row["earlier"]
        for single, joint in (NAMES[:2], NAMES[2:]):
            # Strictly: where both are equal, as in B, there is no direction.
            if (ours[single] - ours[joint]) * (earlier[single] - earlier[joint]) < 0:
                names.append(f"{row['case']['name']}, {joint.replace('_', ' ')}")
    return names


def floor_table(rows: Sequence[Row]) -> str:
    """Markdown: what Theorem 1 guarantees as the features get wider."""
    return table(FLOOR_HEADINGS, map(_floor_cells, rows))


def _floor_cells(row: Row) -> list[str]:
    return [
        f"{row['dimension']:.0f}",
        f"{row['correlation']:.2f}",
        f"{row['floor']:+.2f}",
        number(EARLIER_FLOOR.get(int(row["dimension"])), "+g"),
        f"{row['lowest']:.2f}",
        f"{row['guaranteed']:.3f}",
        f"{row['shortfall']:.2f}",
        f"{row['c_ratio']:.1f}",
    ]


def page(results: Row) -> str:
    """The page, from `linear.json`."""
    cases = results["cases"]
    return PAGE.format(
        version=results["version"],
        seeds=cases[0]["seeds"],
        cases=case_table(cases),
        directions="; ".join(other_directions(cases)) or "none",
        distant="; ".join(distant_errors(cases)) or "none",
        floors=floor_table(results["floors"]),
        floor_seeds=FLOOR_SEEDS,
    )


def rewrite(output: Path) -> None:
    """linear.md, from `linear.json`."""
    write_text(output / "linear.md", page(read_json(output / "linear.json")))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every case and write `linear.json` and `linear.md`."""
    parser = argparse.ArgumentParser(prog="python -m experiments.linear_theory")
    parser.add_argument("--output", type=Path, default=Path("results/theory"))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cases = [run_case(case, range(options.seeds)) for case in CASES]
    floors = list(map(measure, DIMENSIONS))
    results = {"version": __version__, "cases": cases, "floors": floors}
    write_json(options.output / "linear.json", results)
    rewrite(options.output)
    say((options.output / "linear.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
