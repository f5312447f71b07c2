"""What a run measures and reports while it runs: `metrics.jsonl`, TensorBoard, the terminal."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import orjson
import torch

from smorm.arrays import Floats
from smorm.config import Config
from smorm.data.scaling import restore_scales
from smorm.files import named_errors, write_bytes
from smorm.model.inference import Units, score_units
from smorm.printing import get_logger
from smorm.terminal import open_console
from smorm.training.best import measured_as
from smorm.training.setup import Prepared
from smorm.training.sources import TokenSet
from smorm.training.trackers import open_trackers

log = get_logger(__name__)
Report = Callable[[int, dict[str, float]], None]
"""Takes the numbers of a step (from 1)."""
# What a person watches: its name in the metrics, its form in a line and in a bar of 80 columns.
_WATCHED = (
    ("loss", "loss {:.4f}", "loss {:.3f}"),
    ("accuracy", "accuracy {:.3f}", "acc {:.2f}"),
    ("mse", "mse {:.3f}", "mse {:.2f}"),
    ("dev/accuracy", "held-out accuracy {:.3f}", ""),
    ("tokens_per_second", "{:,.0f} tokens/s", "{:,.0f} tok/s"),
    ("imbalance", "imbalance of ranks {:.0%}", ""),
)
_OF_A_SET = re.compile(r"dev/[^/]+/accuracy$")


@contextmanager
def reporting(prepared: Prepared, done: int, total: int) -> Iterator[Report]:
    """What shows the numbers of every step, logs them, and measures held-out data, when due. Other
    ranks than the first only take part in measuring."""
    training = prepared.config.training

    def measure(step: int, values: dict[str, float]) -> bool:
        is_due = due(step, training.evaluate_every) or step == total
        measured = validate(prepared) if is_due else {}
        values |= measured
        return bool(measured)

    if not prepared.ranks.is_first:

        def measure_only(step: int, values: dict[str, float]) -> None:
            measure(step, values)

        yield measure_only
        return
    tracker = Tracker(prepared.config, done)
    with closing(tracker), progress(total, done, training.log_every) as show:

        def report(step: int, values: dict[str, float]) -> None:
            # What was expensive to measure is always logged, and so are both ends of the run.
            notable = "gradient/cosine" in values or step in (1, total)
            if measure(step, values):
                notable = True
            if notable or due(step, training.log_every):
                tracker.log(step, values)
            show(step, values)

        yield report


class Tracker:
    """Appends one JSON object a line to `metrics.jsonl`; other trackers get the same numbers. Lines
    after step `done`, which a killed run wrote, are removed: they come again."""

    def __init__(self, config: Config, done: int) -> None:
        self.path = config.output.folder / "metrics.jsonl"
        with named_errors(self.path):
            if self.path.exists():
                lines = self.path.read_bytes().splitlines(keepends=True)
                earlier = [line for line in lines if _is_of(line, done)]
                # Replaced atomically: a run that is killed now still has its file.
                if len(earlier) < len(lines):
                    write_bytes(self.path, b"".join(earlier))
            self._stream = self.path.open("ab")
        self._trackers = open_trackers(config, done)

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Append a record. A value that is not finite is written as null."""
        with named_errors(self.path):
            self._stream.write(orjson.dumps({"step": step, **values}) + b"\n")
            self._stream.flush()
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        for tracker in self._trackers:
            tracker.log(step, numbers)

    def close(self) -> None:
        """Flush to the disk."""
        # The model is only called done once its numbers are on the disk too.
        with named_errors(self.path), self._stream:
            self._stream.flush()
            os.fsync(self._stream.fileno())
        for tracker in self._trackers:
            tracker.close()


def _is_of(line: bytes, done: int) -> bool:
    """Whether a line is complete and of one of the first `done` steps."""
    try:
        return line.endswith(b"\n") and bool(orjson.loads(line)["step"] <= done)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return False


def due(step: int, every: int | None) -> bool:
    """Whether something that is done `every` so many steps is done at this one (from 1)."""
    return every is not None and step % every == 0


def _describe(values: dict[str, float], *, brief: bool = False) -> str:
    texts = []
    for name, line, bar in _WATCHED:
        form = bar if brief else line
        if form and name in values:
            texts.append(form.format(values[name]))
    named = {name.split("/")[1]: value for name, value in values.items() if _OF_A_SET.match(name)}
    if named and not brief:
        texts.append(" ".join(f"{name} {value:.3f}" for name, value in named.items()))
    return " ".join(texts) if brief else "  ".join(texts)


@contextmanager
def progress(total: int, first: int, every: int) -> Iterator[Report]:
    """What shows the numbers of each step: a bar on a terminal, lines elsewhere."""
    start = time.monotonic()

    def line_of(step: int, values: dict[str, float]) -> str:
        seconds = (time.monotonic() - start) / max(1, step - first)
        text = f"step {step}/{total}  {_describe(values)}"
        # At once: whoever has started a run should not wait for its first interval to see it live.
        if step == first + 1:
            return f"{text}  {seconds:.2g} s, about {_duration(seconds * (total - step))} to go"
        return f"{text}  {_duration(seconds * (total - step))} left"

    def write_line(step: int, values: dict[str, float]) -> None:
        if step % every == 0 or step in (first + 1, total):
            log.info(line_of(step, values))

    # A bar writes control characters, which do not belong in a log file.
    if not sys.stderr.isatty():
        yield write_line
        return
    from rich import progress as rich_progress

    text = rich_progress.TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[numbers]}")
    columns = (rich_progress.BarColumn(bar_width=12), text, rich_progress.TimeRemainingColumn())
    with rich_progress.Progress(*columns, console=open_console(stderr=True)) as bar:
        task = bar.add_task("training", total=total, completed=first, numbers="")

        def move(step: int, values: dict[str, float]) -> None:
            if step == first + 1:
                bar.console.print(line_of(step, values))
            bar.update(task, completed=step, numbers=_describe(values, brief=True))

        yield move


def _duration(seconds: float) -> str:
    """`40 s`, `25 min`, `3.2 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def validate(prepared: Prepared) -> dict[str, float]:
    """Measure the held-out sets: pair accuracy (ties count half) and log loss of row 0; squared
    error of each attribute on the scale of its ratings."""
    values: dict[str, float] = {}
    for name, held_out in prepared.dev.items():
        measured = _measure(prepared, held_out)
        values |= {measured_as(name, metric): value for metric, value in measured.items()}
    return values


def _measure(prepared: Prepared, held_out: TokenSet) -> dict[str, float]:
    card = prepared.card
    # The sets are scored in full every time: a sample would move the curve by its own noise.
    values = {}
    if held_out.pairs and card.preference_trained:
        units = [[pair.chosen, pair.rejected] for pair in held_out.pairs]
        scores = _scores(prepared, units)
        # The training loss has margins and label smoothing; this one is the same for all methods.
        gaps = np.array([rows[0, 0] - rows[1, 0] for rows in scores])
        values["accuracy"] = float(((gaps > 0) + 0.5 * (gaps == 0)).mean())
        values["preference_loss"] = float(np.logaddexp(0.0, -gaps).mean())
    if held_out.rated:
        units = [[response.tokens] for response in held_out.rated]
        scores = _scores(prepared, units)
        predicted = restore_scales(card.scales, np.array([rows[0, 1:] for rows in scores]))
        # On the scale of the ratings, so that runs with other scalings can be compared.
        errors = (predicted - restore_scales(card.scales, held_out.targets)) ** 2
        for scale, column in zip(card.scales, errors.T, strict=True):
            if not np.isnan(column).all():
                values[f"mse/{scale.name}"] = float(np.nanmean(column))
    return values


def _scores(prepared: Prepared, units: Units) -> list[Floats]:
    """The scores of all units, [sequences, rows] each; the ranks share the batches out."""
    ranks = prepared.ranks
    # All of them compute every batch together where each has a part of the weights.
    shared_out = not (ranks.world == 1 or ranks.sharded)
    share = (ranks.rank, ranks.world) if shared_out else (0, 1)
    scores = score_units(prepared.network, units, prepared.batch_tokens, share=share)
    if not shared_out:
        return scores
    # The batches are those of one rank, and nothing is added to a score but zeros.
    together = torch.from_numpy(np.concatenate(scores))
    ranks.gather()
    ranks.sum(together)
    ends = np.cumsum([len(unit) for unit in units])[:-1]
    return np.split(together.numpy(), ends)
