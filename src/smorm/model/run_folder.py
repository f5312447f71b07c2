"""A run's folder as seen by whoever looks for a model in it: its checkpoints, how far it came."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from smorm import files
from smorm.errors import DataError
from smorm.typed import Facts, read_typed

CHECKPOINTS = "checkpoints"
PREFIX = "step-"
Count = Annotated[int, Field(ge=0)]


class RunData(Facts):
    """What `data.json` of a run says of its training data."""

    pairs: Count | None = None
    rated: Count | None = None
    steps: Count | None = None  # runs of older versions do not say how long they were to be
    counted: Mapping[str, Any] = {}  # by what was counted while reading: an object with its `count`


class Parameters(Facts):
    """Numbers of a run's parameters."""

    model: Count | None = None
    trained: Count | None = None


class Tokens(Facts):
    """Numbers of a run's tokens."""

    trained: Count | None = None


class RunCost(Facts):
    """What `cost.json` of a run says of its cost."""

    parameters: Parameters = Parameters()
    tokens: Tokens = Tokens()
    passes_per_score: Count | None = None
    steps: Count | None = None


def read_data(run: Path) -> RunData:
    """Of `data.json`, nothing where there is none; `DataError`: it holds something else."""
    path = run / "data.json"
    return read_typed(path, RunData) if path.is_file() else RunData()


def read_cost(run: Path) -> RunCost:
    """Of `cost.json`, nothing where there is none; `DataError`: it holds something else."""
    path = run / "cost.json"
    return read_typed(path, RunCost) if path.is_file() else RunCost()


def checkpoint_of(folder: Path, step: int) -> Path:
    """Where a step's checkpoint is, in the folder of checkpoints."""
    return folder / f"{PREFIX}{step:08d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """Sealed checkpoints, oldest first."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if files.is_sealed(path))


def steps_of(run: Path) -> list[int]:
    """The steps of which a run has a checkpoint."""
    names = [path.name for path in list_checkpoints(run / CHECKPOINTS)]
    return [int(name.removeprefix(PREFIX)) for name in names]


def how_far(run: Path) -> str:
    """`step 40 of 100` of a run with checkpoints."""
    text = f"step {steps_of(run)[-1]}"
    try:
        steps = read_data(run).steps
    except DataError:
        steps = None
    return text if steps is None else f"{text} of {steps}"


def stored_size(model: Path | str) -> int:
    """Bytes of the weights of a model's or a run's folder; 0 where none are on this machine."""
    folder = Path(model)
    if (folder / "model").is_dir():
        folder = folder / "model"
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def why_no_model(folder: Path) -> str:
    """What a folder without a model is, and the next step, where it is of a run; else empty."""
    if (folder / "state.json").is_file() and folder.name.startswith(PREFIX):
        run, step = folder.parent.parent, int(folder.name.removeprefix(PREFIX))
        return f"{folder}: a checkpoint, not a model: name the run, {run} --step {step}"
    steps = steps_of(folder)
    if not steps:
        return ""
    listed = ", ".join(map(str, steps))
    return (
        f"{folder}: an unfinished run, which came to {how_far(folder)}: go on with `smorm train "
        f"{folder / 'config.yaml'} --resume`, or add --step N ({listed})"
    )
