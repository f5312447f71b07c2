"""A study's numbers as a flat table, for any tool that reads CSV."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from smorm import files
from smorm.evaluation.result import Result

COLUMNS = ("kind", "set", "model", "view", "seed", "metric", "value")
_PREFIXES = {
    "pairs": ("accuracy", "length_correlation"),
    "rated": ("spearman", "mse"),
    "stress": (
        "gold@", "proxy@", "gain", "regret", "area", "fall", "peak", "slope/", "disagreement_auc@",
    ),
    "cost": ("parameters", "passes_per_score", "training_passes", "training_tokens"),
}  # fmt: skip


def write_table(path: Path | str, results: Sequence[Result]) -> None:
    """One line for each number of each run: what the statistics over seeds are taken of."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for result in results:
        seed = str(result.fingerprint.get("seed", ""))
        set_name = result.suite.partition("/")[2] or result.suite
        head = (result.kind, set_name, result.model, result.view, seed)
        for name, metric in result.metrics.items():
            if name.startswith(_PREFIXES.get(result.kind, ())):
                writer.writerow((*head, name, f"{metric.value:.6g}"))
    files.write_text(path, stream.getvalue())
