"""Benchmarks: one object and one file each, registered once.
A benchmark knows its row format, the rule by which it is scored, the numbers that a short table
shows, and where its data is. Another package adds its own by the entry-point group
`smorm.benchmarks`, a program by `BENCHMARKS.register`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from smorm.data.formats import FORMATS, Format
from smorm.data.readers import SUFFIXES, data_files_of, is_saved_dataset, stem_of
from smorm.data.reading import Source
from smorm.errors import ConfigError
from smorm.evaluation.accuracy import TIES, ScoredItems, length_correlations_of, tied
from smorm.evaluation.metrics import cluster_codes
from smorm.evaluation.outcomes import Outcomes
from smorm.evaluation.result import Measurement
from smorm.registry import Registry


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a benchmark on the hub; `label` is its subset where the rows name none."""

    label: str
    split: str
    subset: str | None = None


@dataclass(frozen=True, slots=True)
class Benchmark:
    name: str  # what suites, files and the command line call it
    title: str
    rows: Format  # how its published rows become `Candidates`, the good responses first
    # numbers and chance levels of scored items (`accuracy.accuracies` makes most of them)
    rule: Callable[[ScoredItems], Outcomes]
    columns: tuple[str, ...]  # the numbers of the short table, the leading one first
    # dataset id, or None where it is published elsewhere and has to be given as a path
    hub: str | None = None
    pieces: tuple[Piece, ...] = ()  # those of the hub's data set
    format_name: str = ""  # the format's name in a configuration, where it is not the benchmark's
    about: str = ""  # a note of every result
    # the notes on items and ties, where they are not the usual ones
    describe: Callable[[ScoredItems, Outcomes], list[str]] | None = None

    @property
    def format(self) -> str:
        """The name of its format, registered if it is not yet."""
        name = self.format_name or self.name.replace("-", "_")
        # A benchmark of another package brings its format along; sources find it by this name.
        if name not in FORMATS:
            FORMATS.register(name, self.rows)
        elif FORMATS[name] is not self.rows:
            raise ConfigError(f"benchmark {self.name}: another format has the name {name!r}")
        return name

    def sources(self, path: str | None = None) -> list[tuple[str, Source]]:
        """Labels and sources: of the hub's data set, of a file or folder that is a copy of it, or
        of any tree of data files, each of which is labelled by its path."""
        if path is None and self.hub is None:
            raise ConfigError(f"{self.title}: not on the hub as one data set: give NAME=PATH")
        if path is not None and Path(path).is_file():
            return [("", Source(path, self.format))]
        # Somebody's clone of the hub's repository is read as the hub's data set is.
        if path is not None and Path(path).is_dir() and not self._is_copy(Path(path)):
            files = data_files(Path(path))
            return [(label, Source(str(file), self.format)) for label, file in files]
        address = str(path or self.hub)
        sources = []
        for piece in self.pieces:
            source = Source(address, self.format, split=piece.split, subset=piece.subset)
            sources.append((piece.label, source))
        return sources or [("", Source(address, self.format))]

    def _is_copy(self, folder: Path) -> bool:
        """Whether a folder is laid out as the hub's data set with its splits and subsets is."""
        names = [piece.subset or piece.split for piece in self.pieces]
        # A piece may be a folder, or a file whose name only begins with the split's.
        laid_out = bool(names) and all(any(folder.glob(f"**/{name}*")) for name in names)
        return laid_out or is_saved_dataset(folder)

    def measure(self, items: ScoredItems) -> Measurement:
        """Its numbers, what the longer response wins, and how scores correlate with length."""
        # Not the published number alone: what length alone would get stands beside it.
        table = self.rule(items)
        notes = (self.describe or _describe)(items, table)
        if self.about:
            notes.append(self.about)
        if absent := [name for name in self.columns if name not in table.sums]:
            notes.append(f"Absent: {', '.join(absent)}; overall is over what is here.")
        metrics = table.metrics() | length_correlations_of(items)
        return Measurement(metrics, tuple(notes), table, table.chance_levels())


def _describe(items: ScoredItems, table: Outcomes) -> list[str]:
    count = len(items.scores)
    prompts = cluster_codes(items.prompts, count)[1]
    ties = "shared equally"
    if f"{TIES}/overall" in table.sums:
        ties = "losses by the published rule, half in ties_half"
    return [
        f"{count} items over {prompts} prompts in {len(set(items.subsets))} subsets; intervals "
        "resample prompts.",
        f"{tied(items)} items have a good and another response tied at the top: {ties}.",
    ]


def data_files(folder: Path) -> list[tuple[str, Path]]:
    """Every data file below a folder, labelled by its path ("Adversarial/GPTInst")."""
    files = data_files_of(sorted(folder.rglob("*")))
    if not files:
        raise ConfigError(f"{folder}: no data file in it or below ({', '.join(SUFFIXES)})")
    # In published repositories RM-Bench's full set lies beside its pieces, and LLMBar's sets lie
    # beside results of models: where a file has such a name, it is the data.
    for name in ("total_dataset", "dataset"):
        files = [file for file in files if stem_of(file) == name] or files
    labelled = []
    for file in files:
        path = file.relative_to(folder).with_name(stem_of(file))
        # Such names say what every file is; the folder says which subset.
        if path.name in ("dataset", "test", "data") and path.parent.name:
            path = path.parent
        labelled.append((path.as_posix(), file))
    return labelled


_ROOM = "smorm.evaluation.benchmarks"
BENCHMARKS: Registry[Benchmark] = Registry(
    "benchmark",
    "smorm.benchmarks",
    {
        "rewardbench": f"{_ROOM}.rewardbench:REWARDBENCH",
        "prior-sets": f"{_ROOM}.prior_sets:PRIOR_SETS",
        "rewardbench-2": f"{_ROOM}.rewardbench_2:REWARDBENCH_2",
        "rm-bench": f"{_ROOM}.rm_bench:RM_BENCH",
        "judgebench": f"{_ROOM}.judgebench:JUDGEBENCH",
        "ppe": f"{_ROOM}.ppe:PPE",
        "ppe-correctness": f"{_ROOM}.ppe:PPE_CORRECTNESS",
        "rmb": f"{_ROOM}.rmb:RMB",
        "hhh": f"{_ROOM}.hhh:HHH",
        "llmbar": f"{_ROOM}.llmbar:LLMBAR",
        "mt-bench": f"{_ROOM}.mt_bench:MT_BENCH",
        "best-of-k": f"{_ROOM}.best_of_k:BEST_OF_K",
    },
)


def benchmark_sources(name: str, path: str | None = None) -> list[Source]:
    """Where a benchmark's records are, on the hub or under a path."""
    return [source for _, source in BENCHMARKS[name].sources(path)]
