"""Checkpoints of a run, written while training goes on.

A save copies what this rank holds to the host, within the step; a thread writes the copy. The next
save, a stop, an error and the end of the run wait for it. Of sharded ranks each writes its part;
the first one seals the folder when all have written. They do not say so in messages, which are
those of training: each rank has a file in the folder that it removes when its part is there."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from smorm import files
from smorm.errors import CheckpointError, OutputError
from smorm.model.pieces import save_pieces
from smorm.model.run_folder import PREFIX, checkpoint_of, list_checkpoints
from smorm.printing import get_logger
from smorm.training.distributed.ranks import ALONE, Ranks, shows_lost_rank
from smorm.training.distributed.tensors import own_part, own_rows
from smorm.training.optim import state_tensors

log = get_logger(__name__)

Named = Mapping[str, torch.nn.Parameter]
KINDS = ("weights", "optimizer")
_WRITING = "writing-"  # and the rank: it has not written its part yet
_FAILED = "failed-"  # and the rank: why its part is not there
_POLL_SECONDS = 0.02
_PATIENCE = 600.0  # seconds that an error waits for a checkpoint


def part_file(folder: Path, kind: str, rank: int) -> Path:
    """Where a sharded rank's part is in a checkpoint."""
    return folder / kind / f"rank-{rank:05d}.safetensors"


class Saver:
    """Writes `folder/step-N`, and keeps the newest `keep` and the best. As a context it ends when
    what is being written is whole, or given up where another rank is gone."""

    def __init__(
        self,
        folder: Path,
        named: Named,
        optimizer: torch.optim.Optimizer,
        keep: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self.folder, self.named, self.optimizer = folder, named, optimizer
        self.keep, self.ranks = keep, ranks
        self._copies: dict[str, Tensor] = {}
        self._thread: threading.Thread | None = None
        self._part_is_done = threading.Event()
        self._given_up = threading.Event()
        self._error: BaseException | None = None

    def save(self, state: dict[str, Any], *, behind: bool = False) -> Path:
        """Write `state` and all tensors atomically as the checkpoint of `state["step"]`; `behind`:
        training goes on meanwhile. A verified checkpoint of this step stays: the same run at the
        same step has the same bits. Sharded ranks call it together, of others the first one."""
        self.wait()
        target, ranks = checkpoint_of(self.folder, state["step"]), self.ranks
        with contextlib.ExitStack() as stack:
            scratch = self._scratch(target, stack) if ranks.is_first else None
            if ranks.sharded:
                name = ranks.gather(None if scratch is None else str(scratch))[0]
                scratch = None if name is None else Path(name)
            if scratch is None:
                return target
            # On the first rank it publishes the folder when it is left.
            folder = stack.pop_all()
        if not behind:  # the last one, as a rule: what comes next needs the memory
            self._copies.clear()
        tensors = self._own_tensors(copied=behind)
        if not behind and not ranks.sharded:
            self._write(scratch, tensors, state, folder)
            return target
        self._part_is_done.clear()
        arguments = (scratch, tensors, state, folder)
        self._thread = threading.Thread(target=self._write_behind, args=arguments, daemon=True)
        self._thread.start()
        if not behind:
            self.wait()
        return target

    @property
    def is_writing(self) -> bool:
        """Whether something is being written behind, in this process."""
        return self._thread is not None and self._thread.is_alive()

    def check(self) -> None:
        """Raise what went wrong behind."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Wait for what is being written; sharded ranks call it together. Raises as `check`."""
        if self._thread is not None:
            self._part_is_done.wait()
            if self.ranks.sharded:
                if self._error is not None:
                    self._thread.join()
                    self.check()
                # Now every part is there, and a lost rank would have been noticed.
                self.ranks.gather()
            self._thread.join()
            self._thread = None
        self.check()

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if error is None:
            self.wait()
            return
        if self.ranks.sharded and shows_lost_rank(error):
            self._given_up.set()
        if self._thread is not None:
            self._thread.join(_PATIENCE)
        if self._error is not None and not self._given_up.is_set():
            log.warning("the checkpoint that was being written is lost: %s", self._error)

    def _scratch(self, target: Path, stack: contextlib.ExitStack) -> Path | None:
        """A hidden folder for a checkpoint; None where there is a whole one already."""
        # Of saves that were killed: the run's folder is locked, so that nobody else is at work.
        for torn in self.folder.glob(f".{PREFIX}*"):
            files.remove_folder(torn)
        with contextlib.suppress(CheckpointError):
            files.verify_folder(target)
            return None
        tensors = self._tensors().values()
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        scratch = stack.enter_context(files.atomic_folder(target, size))
        if self.ranks.sharded:
            for kind in KINDS:
                (scratch / kind).mkdir()
            for rank in range(self.ranks.world):
                (scratch / f"{_WRITING}{rank}").touch()
        return scratch

    def _tensors(self) -> dict[tuple[str, str], Tensor]:
        """All that a checkpoint holds, by kind and name."""
        tensors: dict[tuple[str, str], Tensor] = {}
        # Only what is trained: a frozen backbone comes from where the run's configuration says.
        for name, parameter in self.named.items():
            tensors["weights", name] = parameter.detach()
            # By the parameter's name: AdamW's order of parameters may change.
            for key, value in state_tensors(self.optimizer, parameter).items():
                tensors["optimizer", f"{name}/{key}"] = value.detach()
        return tensors

    def _own_tensors(self, *, copied: bool) -> dict[tuple[str, str], tuple[Tensor, int]]:
        """What this rank writes, on the host, and its first row in the whole tensor. Of tensors
        that all sharded ranks have, the first one writes them."""
        tensors = {}
        for key, tensor in self._tensors().items():
            first, past = own_rows(tensor)
            is_part = isinstance(tensor, DTensor)
            if past == first if is_part else not self.ranks.is_first:
                continue
            rows = own_part(tensor).contiguous()
            tensors[key] = (self._copy(key, rows) if copied else rows, first)
        return tensors

    def _copy(self, key: tuple[str, str], tensor: Tensor) -> Tensor:
        # Into the memory of the save before this one: new memory costs more than the copying.
        name = "/".join(key)
        held = self._copies.get(name)
        if held is None or held.shape != tensor.shape or held.dtype != tensor.dtype:
            held = self._copies[name] = torch.empty_like(tensor, device="cpu")
        return held.copy_(tensor)

    def _write_behind(self, *arguments: Any) -> None:
        try:
            self._write(*arguments)
        except BaseException as error:  # raised where training goes on
            self._error = error
        finally:
            self._part_is_done.set()

    def _write(
        self,
        scratch: Path,
        tensors: Mapping[tuple[str, str], tuple[Tensor, int]],
        state: Mapping[str, Any],
        folder: contextlib.ExitStack,
    ) -> None:
        target = checkpoint_of(self.folder, state["step"])
        with folder:
            try:
                with files.named_errors(target):
                    self._write_tensors(scratch, tensors)
            except OutputError as error:
                # For the first rank, which may find that a part is missing before it is told why.
                with contextlib.suppress(OSError):
                    (scratch / f"{_FAILED}{self.ranks.rank}").write_text(str(error))
                raise
            finally:
                (scratch / f"{_WRITING}{self.ranks.rank}").unlink(missing_ok=True)
                self._part_is_done.set()
            if not self.ranks.is_first:
                return
            if self.ranks.sharded:
                self._wait_for_parts(scratch, target)
            files.write_json(scratch / "state.json", state)
        best = state.get("best", {}).get("step")
        # Only now: until the new one is complete, the older ones are needed.
        for old in list_checkpoints(self.folder)[: -self.keep]:
            if old != checkpoint_of(self.folder, best or 0):
                files.remove_folder(old)

    def _write_tensors(
        self, scratch: Path, tensors: Mapping[tuple[str, str], tuple[Tensor, int]]
    ) -> None:
        # As safetensors, nothing that could run code when it is read.
        for kind in KINDS:
            by_name = {name: tensor for (of, name), (tensor, _) in tensors.items() if of == kind}
            if self.ranks.sharded:
                first_rows = {name: first for (of, name), (_, first) in tensors.items()}
                save_pieces(part_file(scratch, kind, self.ranks.rank), by_name, first_rows)
            else:
                save_file(by_name, scratch / f"{kind}.safetensors")

    def _wait_for_parts(self, scratch: Path, target: Path) -> None:
        while list(scratch.glob(f"{_WRITING}*")):
            if self._given_up.wait(_POLL_SECONDS):
                raise OutputError(f"{target}: another rank is gone")
        for rank in range(self.ranks.world):
            reason = scratch / f"{_FAILED}{rank}"
            if reason.is_file():
                raise OutputError(f"rank {rank}: {reason.read_text()}")
            if not all(part_file(scratch, kind, rank).is_file() for kind in KINDS):
                raise OutputError(f"{target}: rank {rank} has not written its part")
