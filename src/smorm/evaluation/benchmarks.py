"""The benchmarks: where each lies, in which schema, and by which rule it is scored.

A benchmark is named without a path (`rewardbench`: its own data set on the Hugging Face hub) or
with one (`rewardbench=folder-or-file`). No registry of models: any model that gives scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from smorm.data.readers import SUFFIXES
from smorm.data.reading import Source
from smorm.data.tables import is_saved_dataset
from smorm.errors import ConfigError
from smorm.evaluation import rewardbench as rb
from smorm.evaluation import rules
from smorm.evaluation.judged import Judged, length_correlations_of, tied
from smorm.evaluation.metrics import cluster_codes
from smorm.evaluation.outcomes import Outcomes
from smorm.evaluation.result import Measurement
from smorm.evaluation.rmbench import notes as rm_bench_notes
from smorm.evaluation.rmbench import rm_bench

Measure = Callable[[Judged], Outcomes]


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a benchmark on the hub; `label` is its subset where the rows name none."""

    label: str
    split: str
    subset: str | None = None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark.

    Attributes:
        hub: dataset id, or None where it is published elsewhere and has to be given as a path.
        format: name of its published schema in `smorm.data.formats.FORMATS`.
        shown: the numbers of the short table.
    """

    title: str
    format: str
    measure: Measure
    shown: tuple[str, ...]
    hub: str | None = None
    parts: tuple[Part, ...] = ()
    about: str = ""

    def sources(self, path: str | None = None) -> list[tuple[str, Source]]:
        """Labels and sources: of the hub's data set, or of a file or folder.

        A folder is a saved dataset or a copy of the hub's (its splits and subsets are found as
        there), or any tree of data files, of which each is labelled by its path.

        Raises:
            ConfigError: no path for a benchmark that the hub does not have.
        """
        if path is None and self.hub is None:
            raise ConfigError(f"{self.title}: not on the hub as one data set: give NAME=PATH")
        place = Path(path) if path is not None else None
        if place is not None and place.is_file():
            return [("", self._source(str(place)))]
        if place is not None and place.is_dir() and not self._is_copy(place):
            return [(label, self._source(str(file))) for label, file in _tree(place)]
        at = str(path if path is not None else self.hub)
        if not self.parts:
            return [("", self._source(at))]
        return [(part.label, self._source(at, part)) for part in self.parts]

    def _source(self, path: str, part: Part | None = None) -> Source:
        if part is None:
            return Source(path, format=self.format)
        return Source(path, format=self.format, split=part.split, subset=part.subset)

    def _is_copy(self, folder: Path) -> bool:
        """Whether a folder is laid out as the hub's data set is."""
        if is_saved_dataset(folder):
            return True
        names = [part.subset or part.split for part in self.parts]
        return bool(names) and all(any(folder.glob(f"**/{name}*")) for name in names)


def _tree(folder: Path) -> list[tuple[str, Path]]:
    """Every data file below a folder, labelled by its path ("Adversarial/GPTInst")."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name.endswith(SUFFIXES))
    if not files:
        raise ConfigError(f"{folder}: no data file in it or below ({', '.join(SUFFIXES)})")
    # Published repositories: RM-Bench's whole set lies beside its parts, LLMBar's sets beside
    # results of others.
    for whole in ("total_dataset", "dataset"):
        named = [file for file in files if _stem(file) == whole]
        files = named or files
    return [(_label(file.relative_to(folder)), file) for file in files]


def _stem(path: Path) -> str:
    suffix = max((end for end in SUFFIXES if path.name.endswith(end)), key=len)
    return path.name.removesuffix(suffix)


def _label(path: Path) -> str:
    stem = _stem(path)
    plain = stem in ("dataset", "test", "data")
    return path.parent.as_posix() if plain and path.parent.name else (path.parent / stem).as_posix()


BENCHMARKS: dict[str, Benchmark] = {
    "rewardbench": Benchmark(
        "RewardBench", "rewardbench", rb.rewardbench, ("overall", *rb.SECTIONS),
        "allenai/reward-bench", (Part("", "filtered"),),
        "Sections weight their subsets as published: math-prm as 984 items, as much as all code.",
    ),
    "prior-sets": Benchmark(
        "RewardBench's prior sets", "pref_sets", rb.prior_sets, ("overall",),
        "allenai/pref-test-sets", tuple(Part(name, name) for name in rb.PRIOR_SETS),
    ),
    "rewardbench-2": Benchmark(
        "RewardBench 2", "rewardbench2", rb.rewardbench2, ("overall", *rb.DOMAINS),
        "allenai/reward-bench-2", (Part("", "test"),),
        "overall is the plain mean of the domains; Ties has a score of its own, as published.",
    ),
    "rm-bench": Benchmark(
        "RM-Bench", "rm_bench", rm_bench, ("overall", "easy", "normal", "hard"),
        "THU-KEG/RM-Bench", (Part("", "train"),),
    ),
    "judgebench": Benchmark(
        "JudgeBench", "judgebench", rules.judgebench,
        ("overall", "knowledge", "reasoning", "math", "coding"),
        "ScalerLab/JudgeBench", (Part("gpt", "gpt"), Part("claude", "claude")),
    ),
    "ppe": Benchmark(
        "PPE human preference", "ppe_human", rules.micro, ("overall",),
        "lmarena-ai/PPE-Human-Preference-V1", (Part("", "test"),),
    ),
    "ppe-correctness": Benchmark(
        "PPE correctness", "ppe_correctness", rules.micro, ("overall",),
    ),
    "rmb": Benchmark(
        "RMB", "rmb", rules.rmb, ("overall", "Helpfulness/best-of-n", "Harmlessness/best-of-n"),
    ),
    "hhh": Benchmark(
        "HHH alignment", "hhh", rules.micro, ("overall",),
        "HuggingFaceH4/hhh_alignment",
        tuple(Part(name, "test", name) for name in ("helpful", "honest", "harmless", "other")),
    ),
    "llmbar": Benchmark(
        "LLMBar", "llmbar", rules.llmbar, ("overall", "Natural", "Adversarial"),
        "princeton-nlp/LLMBar",
        tuple(
            Part(name, name, "LLMBar")
            for name in ("Natural", "GPTInst", "GPTOut", "Manual", "Neighbor")
        ),
    ),
    "mt-bench": Benchmark(
        "MT-Bench human judgements", "mt_bench", rules.micro, ("overall",),
        "lmsys/mt_bench_human_judgments", (Part("human", "human"), Part("gpt4", "gpt4_pair")),
    ),
    "best-of-k": Benchmark("Best of k", "best_of_k", rules.micro, ("overall",)),
}  # fmt: skip


def measure_benchmark(name: str, judged: Judged) -> Measurement:
    """A benchmark's numbers, what the longer response wins, and how scores go with length.

    Raises:
        DataError: scores or items that its rule cannot take.
    """
    one = BENCHMARKS[name]
    table = one.measure(judged)
    told = rm_bench_notes(judged) if one.measure is rm_bench else _notes(one, judged, table)
    return Measurement(table.metrics() | length_correlations_of(judged), told, table)


def _notes(one: Benchmark, judged: Judged, table: Outcomes) -> tuple[str, ...]:
    items, ties = len(judged.scores), tied(judged)
    groups = cluster_codes(judged.prompts, items)[1]
    rule = "losses by the published rule, half in ties_half" if _strict(table) else "shared equally"
    told = [
        f"{items} items over {groups} prompts in {len(set(judged.subsets))} subsets; intervals "
        "resample prompts.",
        f"{ties} items have a good and another response tied at the top: {rule}.",
    ]
    if one.about:
        told.append(one.about)
    if absent := [name for name in one.shown if name not in table.sums]:
        told.append(f"Absent: {', '.join(absent)}; overall is over what is here.")
    return tuple(told)


def _strict(table: Outcomes) -> bool:
    return any(name.startswith("ties_half/") for name in table.sums)


def benchmark_sources(name: str, path: str | None = None) -> list[Source]:
    """Where a benchmark's records are, on the hub or under a path.

    Raises:
        ConfigError: no such benchmark, or one that needs a path.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"benchmark {name!r}: expected one of {', '.join(BENCHMARKS)}")
    return [source for _, source in BENCHMARKS[name].sources(path)]
