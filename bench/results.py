"""What a benchmark leaves: one JSON file; of several files one table and one plot.

    python -m bench.results results/bench/*.json --output results/bench

writes `speed.md`, `speed.svg` and `speed.png` there."""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure import Ratio, Timing
from smorm import files

# `{"median", "low", "high", "n"}` of one ratio.
Entry = Mapping[str, float]

# What is measured and against what, in the order of the table.
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
    "serve_cpu_vs_plain": ("server, CPU time", "FastAPI, one request at a time"),
    "serve_cpu_vs_litserve": ("server, CPU time", "LitServe, batches of 16"),
    "serve_cpu_vs_vllm": ("server, CPU time", "vLLM on the CPU"),
    "serve_shared_prompts": ("server, best-of-16 in one request", "no prompt shared"),
    "serve_goodput_small": ("server of a small model, 5 times its capacity", "its capacity"),
    "serve_goodput_tiny": ("server of a tiny model, 5 times its capacity", "its capacity"),
    "serve_steady": ("server, 64 connections", "smorm score"),
    "serve_routes": ("server, every route", "smorm score"),
    "gradients": ("gradients of a step", "padded fp32 reference"),
}


@dataclass(frozen=True, slots=True)
class Results:
    """The figures of one or more files."""

    ratios: dict[str, Entry] = field(default_factory=dict)
    equality: dict[str, float] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)

    def names(self) -> list[str]:
        """The ratios' names in the order of `LABELS`, the others behind, by name."""
        order = list(LABELS)
        unknown = sorted(self.ratios.keys() - LABELS.keys())
        return [name for name in order + unknown if name in self.ratios]


def is_share(name: str) -> bool:
    """Whether a figure is a share of the peak, and not a number of times."""
    return name.startswith("gemm_share")


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one comparison measured.

    ``equality`` is the largest absolute difference of losses or scores between the two arms in
    fp32; None where nothing is compared."""

    ratio: Ratio
    equality: float | None = None
    detail: dict[str, Any] | None = None


@dataclass(slots=True)
class Figures:
    """What a benchmark has measured so far, in the layout of its JSON file."""

    machine: dict[str, Any]
    detail: dict[str, Any]
    ratios: dict[str, Entry] = field(default_factory=dict)
    equality: dict[str, float] = field(default_factory=dict)
    ratio_detail: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, measured: Measurement) -> None:
        """Record a comparison under its name."""
        ratio = measured.ratio
        self.ratios[name] = entry(ratio)
        # The ratio of sums and the one by wall clock are no headline: they stay out of `ratios`.
        self.ratio_detail[name] = {"total": _short(ratio.total), "wall": _short(ratio.wall)}
        if measured.equality is not None:
            self.equality[name] = float(measured.equality)
        if measured.detail is not None:
            self.detail[name] = measured.detail

    def save(self, path: Path) -> None:
        """Write the JSON file; folders are made, the file is whole or not there.

        Raises:
            OutputError: it could not be written."""
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, asdict(self))


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

    ``flops`` (a round's linear layers) and ``peak`` (FLOP a second, `bench.gemm_share.peak`) give
    `peak_share`, the share of the machine's matrix-multiply peak."""
    units = sum(timing.units)
    facts: dict[str, Any] = {
        "cpu_seconds": list(map(_short, timing.cpu)),
        "wall_seconds": list(map(_short, timing.wall)),
    }
    if units:
        facts["units_per_cpu_second"] = _short(units / sum(timing.cpu))
        facts["units_per_wall_second"] = _short(units / sum(timing.wall))
        facts["tokens_per_unit"] = _short(sum(timing.tokens) / units)
    # by the median round: a neighbour's minute in one round is no property of the arm
    if flops and peak:
        facts["peak_share"] = _short(flops / statistics.median(timing.cpu) / peak)
    return facts


def load(paths: Sequence[Path]) -> Results:
    """The figures of several files together; of a name in two files the later one counts.

    Raises:
        DataError: a file is missing or is no JSON."""
    results = Results()
    for path in paths:
        content = files.read_json(path)
        # `bench.tokens` and `bench.check` compare with nothing: their files hold no ratios.
        if "ratios" not in content:
            continue
        results.ratios.update(content["ratios"])
        results.equality.update(content.get("equality", {}))
        results.machine.update(content.get("machine", {}))
    return results


def table(results: Results) -> str:
    """A markdown table, in the order of `LABELS`."""
    lines = [
        "| work | against | times faster | low to high | n | largest difference |",
        "|---|---|---|---|---|---|",
    ]
    for name in results.names():
        work, against = LABELS.get(name, (name, ""))
        value = results.ratios[name]
        middle, low, high = (_format(name, value[key]) for key in ("median", "low", "high"))
        gap = "–"
        if name in results.equality:
            gap = f"{results.equality[name]:.1e}"
        cells = (work, against, middle, f"{low} to {high}", str(int(value["n"])), gap)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", _machine_line(results.machine), ""])


def plot(results: Results, folder: Path) -> list[Path]:
    """Bars with whiskers (lowest to highest round); `speed.svg` and `speed.png`.

    Raises:
        ValueError: there is no ratio to draw."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # from the bottom of the plot upwards
    names = [name for name in reversed(results.names()) if not is_share(name)]
    if not names:
        raise ValueError("there is no ratio to draw")
    entries = [results.ratios[name] for name in names]
    low, middle, high = np.array([(e["low"], e["median"], e["high"]) for e in entries]).T
    labels = ["\nagainst ".join(LABELS.get(name, (name, "the baseline"))) for name in names]
    figure, axes = pyplot.subplots(figsize=(9, 0.62 * len(names) + 1.5), layout="constrained")
    axes.barh(
        range(len(names)), middle, xerr=[middle - low, high - middle],
        color="#0b5cad", ecolor="#57606a", capsize=3
    )  # fmt: skip
    axes.set_yticks(range(len(names)), labels)
    for row in range(len(names)):
        axes.annotate(f"{middle[row]:.1f}×", (high[row], row), (6, 0), textcoords="offset points",
                      va="center")  # fmt: skip
    axes.axvline(1.0, color="#57606a", linewidth=0.8, linestyle="--")
    axes.set_xlim(0, 1.12 * high.max())
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


def _format(name: str, value: float) -> str:
    return f"{100 * value:.0f} %" if is_share(name) else f"{value:.2f}"


def _machine_line(machine: Mapping[str, Any]) -> str:
    facts = [machine.get("cpu"), f"{machine.get('threads')} thread"]
    versions = machine.get("versions", {}).items()
    facts.append(", ".join(f"{package} {version}" for package, version in versions if version))
    peaks = machine.get("peak", {}).items()
    facts.append(", ".join(f"{dtype} {value / 1e9:.0f} GFLOP/s" for dtype, value in peaks))
    return "; ".join(str(fact) for fact in facts if fact)


def _short(value: float) -> float:
    """Four significant digits: more is noise."""
    if not math.isfinite(value) or value == 0:
        return float(value)
    return round(float(value), 3 - math.floor(math.log10(abs(value))))


if __name__ == "__main__":
    sys.exit(main())
