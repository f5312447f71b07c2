"""Other programs that a run reports its numbers to, each through its own library."""

import importlib.util
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from smorm import files
from smorm.config import Config
from smorm.errors import ConfigError, first_line
from smorm.printing import without_secrets
from smorm.typed import Facts, read_typed

Numbers = Mapping[str, float]
_PROJECT = "smorm"


class TensorBoard:
    """Event files in the run's `tensorboard` folder."""

    def __init__(self, config: Config, done: int, identity: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Steps after the checkpoint come again: without the purge the curve would have both.
        folder = str(config.output.folder / "tensorboard")
        self._board = SummaryWriter(folder, purge_step=done + 1)

    def log(self, step: int, numbers: Numbers) -> None:
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._board.close()


class Wandb:
    """Weights & Biases. WANDB_MODE=offline keeps the run in its folder, for `wandb sync`."""

    def __init__(self, config: Config, done: int, identity: str) -> None:
        import wandb

        folder = config.output.folder
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT), name=folder.name, dir=str(folder),
            id=identity, resume="allow", config=without_secrets(config.as_dict()),
        )  # fmt: skip

    def log(self, step: int, numbers: Numbers) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """Trackio: a local dashboard (`trackio show`), whose files TRACKIO_DIR places."""

    def __init__(self, config: Config, done: int, identity: str) -> None:
        import trackio

        folder = config.output.folder
        # It knows a run by its name: two folders called `run` are two runs.
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", _PROJECT), resume="allow", embed=False,
            name=f"{folder.name}-{identity}", config=without_secrets(config.as_dict()),
        )  # fmt: skip

    def log(self, step: int, numbers: Numbers) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


TRACKERS: dict[str, type[TensorBoard] | type[Wandb] | type[Trackio]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
}


def named_trackers(config: Config) -> dict[str, str]:
    """The trackers of a run, each with the key that asks for it."""
    training = config.training
    keys = {"tensorboard": "training.tensorboard"} if training.tensorboard else {}
    return {**dict.fromkeys(training.report_to, "training.report_to"), **keys}


def refuse_missing(config: Config) -> None:
    """ConfigError where the library of a tracker is not installed, before any work."""
    for name, key in named_trackers(config).items():
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"{key}: {name} is not installed: pip install {name}")


def open_trackers(config: Config, done: int) -> list[TensorBoard | Wandb | Trackio]:
    """The trackers of a run that goes on after step `done`."""
    trackers: list[TensorBoard | Wandb | Trackio] = []
    identity = _run_id(config.output.folder, done) if named_trackers(config) else ""
    for name, key in named_trackers(config).items():
        try:
            trackers.append(TRACKERS[name](config, done, identity))
        except Exception as error:  # other people's code: whatever it raises becomes one line
            raise ConfigError(f"{key}: {name} does not start: {first_line(error)}") from error
    return trackers


class _Tracked(Facts):
    """What `tracked.json` holds."""

    id: str


def _run_id(folder: Path, done: int) -> str:
    """What a tracker knows the run by: the same when it goes on, another when it begins anew."""
    path = folder / "tracked.json"
    if done and path.is_file():
        return read_typed(path, _Tracked).id
    identity = uuid.uuid4().hex[:12]
    files.write_json(path, {"id": identity})
    return identity
