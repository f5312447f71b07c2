"""What a benchmark leaves: one JSON file; of several files one table and one plot.

    python -m bench.results results/bench/*.json --output results/bench

writes `speed.md`, `speed.svg` and `speed.png` there.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measure import Ratio, Timing
from smorm import files

Entry = Mapping[str, float]
"""`{"median", "low", "high", "n"}` of one ratio."""

LABELS = {
    "train_vs_trl_default": ("training, HH pairs", "TRL, its defaults"),
    "train_vs_trl_tuned": ("training, HH pairs", "TRL at its best"),
    "train_pairs_of_many_vs_trl_tuned": ("training, 4 answers and 6 pairs", "TRL at its best"),
    "joint_vs_padded_1024": ("joint training", "all padded to 1024"),
    "score_bon16_vs_padded": ("scoring, best-of-16", "padded loop, batch 8"),
    "score_bon64_vs_padded": ("scoring, best-of-64", "padded loop, batch 8"),
    "score_pairs_vs_padded": ("scoring, HH pairs", "padded loop, batch 8"),
    "score_rmbench_script": ("RM-Bench script, with tokenising", "transformers' pipeline"),
    "peak_memory_vs_trl": ("peak memory, 16 pairs", "TRL, no checkpointing"),
    "peak_memory_auto_vs_trl": ("peak memory, automatic micro-batches", "TRL, no checkpointing"),
    "gemm_share_bf16": ("training in bf16", "measured matmul peak"),
    "gemm_share_fp32": ("training in fp32", "measured matmul peak"),
    "gradients": ("gradients of a step", "padded fp32 reference"),
}
"""What is measured and against what, in the order of the table."""


@dataclass(frozen=True, slots=True)
class Results:
    """The figures of one or more files."""

    ratios: dict[str, Entry]
    equality: dict[str, float]
    machine: dict[str, Any]


def is_share(name: str) -> bool:
    """Whether a figure is a share of the peak, and not a number of times."""
    return name.startswith("gemm_share")


def save(
    path: Path,
    *,
    ratios: Mapping[str, Ratio],
    equality: Mapping[str, float],
    machine: Mapping[str, Any],
    detail: Mapping[str, Any],
) -> None:
    """Write one benchmark's JSON file; folders are made, the file is whole or not there.

    ``equality`` holds the largest absolute difference of losses or scores between the two arms of
    each ratio in fp32. The total and the wall ratio go beside ``detail``, under `ratio_detail`.

    Raises:
        OutputError: it could not be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "ratios": {name: entry(ratio) for name, ratio in ratios.items()},
        "equality": {name: float(value) for name, value in equality.items()},
        "machine": dict(machine),
        "ratio_detail": {
            name: {"total": _short(ratio.total), "wall": _short(ratio.wall)}
            for name, ratio in ratios.items()
        },
        "detail": dict(detail),
    }
    files.write_json(path, content)


def entry(ratio: Ratio) -> dict[str, float]:
    """The four numbers of a ratio that every reader takes."""
    return {
        "median": _short(ratio.median),
        "low": _short(ratio.low),
        "high": _short(ratio.high),
        "n": ratio.n,
    }


def arm_facts(timing: Timing, *, flops: float = 0.0, peak: float = 0.0) -> dict[str, Any]:
    """One arm's figures: seconds of every round, units a CPU second, tokens a unit.

    ``flops`` (a round's linear layers, from `bench.machine.linear_flops`) and ``peak`` (FLOP a
    second, `matmul_peak`) give `peak_share`, the share of the machine's matrix-multiply peak.
    """
    seconds, units = sum(timing.cpu), sum(timing.units)
    facts: dict[str, Any] = {
        "cpu_seconds": [_short(value) for value in timing.cpu],
        "wall_seconds": [_short(value) for value in timing.wall],
    }
    if units:
        facts["units_per_cpu_second"] = _short(units / seconds)
        facts["units_per_wall_second"] = _short(units / sum(timing.wall))
        facts["tokens_per_unit"] = _short(sum(timing.tokens) / units)
    if flops and peak:
        facts["peak_share"] = _short(flops / statistics.median(timing.cpu) / peak)
    return facts


def load(paths: Sequence[Path]) -> Results:
    """The figures of several files together; of a name in two files the later one counts.

    Raises:
        DataError: a file is missing or is no JSON.
    """
    found = Results({}, {}, {})
    for path in paths:
        content = files.read_json(path)
        if "ratios" not in content:
            continue
        found.ratios.update(content["ratios"])
        found.equality.update(content.get("equality", {}))
        found.machine.update(content.get("machine", {}))
    return found


def table(results: Results) -> str:
    """A markdown table, in the order of `LABELS`."""
    lines = [
        "| work | against | times faster | low to high | n | largest difference |",
        "|---|---|---|---|---|---|",
    ]
    for name in _ordered(results):
        what, against = LABELS.get(name, (name, ""))
        value = results.ratios[name]
        middle, low, high = (_format(name, value[key]) for key in ("median", "low", "high"))
        gap = f"{results.equality[name]:.1e}" if name in results.equality else "–"
        lines.append(
            f"| {what} | {against} | {middle} | {low} to {high} | {int(value['n'])} | {gap} |"
        )
    return "\n".join([*lines, "", _machine_line(results.machine), ""])


def plot(results: Results, folder: Path) -> list[Path]:
    """Bars with whiskers (lowest to highest round); `speed.svg` and `speed.png`.

    Raises:
        ValueError: there is no ratio to draw.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name in _ordered(results) if not is_share(name)][::-1]
    if not names:
        raise ValueError("there is no ratio to draw")
    figure, axes = pyplot.subplots(figsize=(9, 0.62 * len(names) + 1.5), layout="constrained")
    middles = [results.ratios[name]["median"] for name in names]
    reach = [
        [m - results.ratios[name]["low"] for name, m in zip(names, middles, strict=True)],
        [results.ratios[name]["high"] - m for name, m in zip(names, middles, strict=True)],
    ]
    axes.barh(range(len(names)), middles, xerr=reach, color="#0b5cad", ecolor="#57606a", capsize=3)
    axes.set_yticks(range(len(names)), ["\nagainst ".join(_label(name)) for name in names])
    for place, (name, middle) in enumerate(zip(names, middles, strict=True)):
        right = results.ratios[name]["high"]
        axes.annotate(f"{middle:.1f}×", (right, place), (6, 0), textcoords="offset points",
                      va="center")  # fmt: skip
    axes.axvline(1.0, color="#57606a", linewidth=0.8, linestyle="--")
    axes.set_xlim(0, 1.12 * max(results.ratios[name]["high"] for name in names))
    axes.set_xlabel("times less CPU time (memory: times less), one thread, same numbers")
    axes.spines[["top", "right"]].set_visible(False)
    paths = [folder / "speed.svg", folder / "speed.png"]
    # no date and no random ids: the same figures give the same file
    with matplotlib.rc_context({"svg.hashsalt": "smorm"}):
        figure.savefig(paths[0], metadata={"Date": None})
    figure.savefig(paths[1], dpi=150)
    pyplot.close(figure)
    return paths


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.results", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    results = load(options.files)
    options.output.mkdir(parents=True, exist_ok=True)
    files.write_text(options.output / "speed.md", table(results))
    plot(results, options.output)
    print(table(results))
    return 0


def _ordered(results: Results) -> list[str]:
    known = [name for name in LABELS if name in results.ratios]
    return known + sorted(set(results.ratios) - set(LABELS))


def _label(name: str) -> tuple[str, str]:
    return LABELS.get(name, (name, "the other"))


def _format(name: str, value: float) -> str:
    return f"{100 * value:.0f} %" if is_share(name) else f"{value:.2f}"


def _machine_line(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in machine.get("versions", {}).items() if v)
    peaks = ", ".join(
        f"{kind} {value / 1e9:.0f} GFLOP/s" for kind, value in machine.get("peak", {}).items()
    )
    known = [machine.get("cpu"), f"{machine.get('threads')} thread", versions, peaks]
    return "; ".join(str(part) for part in known if part)


def _short(value: float) -> float:
    """Four digits that count: more is noise."""
    if not math.isfinite(value) or value == 0:
        return float(value)
    return round(float(value), 3 - math.floor(math.log10(abs(value))))


if __name__ == "__main__":
    raise SystemExit(main())
