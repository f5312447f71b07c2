"""A training over ranks of which one is killed at random moments, again and again, as
`python -m chaos.rank_kills`: torchrun's agent starts all ranks anew, they go on from the newest
checkpoint, and the finished model has the bits of a run that nobody disturbed."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

from chaos.kills import (
    IMPORTED,
    SAVING_SECONDS,
    STEPS,
    Report,
    checkpoint_names,
    content_of,
    faults_of_finished,
    half_checkpoints,
    import_once,
    run_smorm,
    write_config,
)
from smorm.processes import worker_context
from smorm.stopping import SIGNALS

RANKS = 2
_RESTARTS = 10_000  # more than there are kills
_POLL = 0.002  # seconds


def kill_ranks(
    folder: Path, *, count: int, seed: int = 0, ranks: int = RANKS, parallel: str = "replicated"
) -> Report:
    """Kill (SIGKILL) a random rank of trainings in `folder` `count` times, and compare every
    finished one."""
    report, random, began = Report(), Random(f"rank-kills-{seed}"), time.monotonic()
    config = write_config(folder)
    straight = folder / "straight"
    import_once()
    started = time.monotonic()
    agent = start_agent(config, straight, ranks, parallel)
    agent.join()
    duration = time.monotonic() - started
    if not (straight / "model").is_dir():
        raise RuntimeError(f"smorm train: {straight.with_name('straight.txt').read_text()}")
    expected = content_of(straight)
    while report.kills < count:
        run = folder / f"run-{report.runs}"
        report.runs += 1
        agent = start_agent(config, run, ranks, parallel)
        killed: set[int] = set()
        while report.kills < count:
            pid = _a_rank(run, agent, random, ranks, killed)
            _wait_for_a_moment(run, agent, random, duration)
            if pid is None or not agent.is_alive():
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed |= set(_pids(run, ranks))
                report.kills += 1
                report.saving += bool(list(run.glob("checkpoints/.*")))
                report.faults += half_checkpoints(run)
        agent.join()
        report.faults += faults_of_finished(run, agent, expected)
        shutil.rmtree(run)
    report.seconds = time.monotonic() - began
    return report


def start_agent(config: Path, run: Path, ranks: int, parallel: str) -> BaseProcess:
    """torchrun's agent as a process, with ranks that are forks of it."""
    process = worker_context(*IMPORTED).Process(target=_launch, args=(config, run, ranks, parallel))
    process.start()
    return process


def _launch(config: Path, run: Path, ranks: int, parallel: str) -> None:
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    # What `torchrun --standalone` sets; and it looks at its processes more often.
    settings = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=ranks, run_id=run.name, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=_RESTARTS, monitor_interval=0.02,
        start_method="fork",
    )  # fmt: skip
    output = os.open(f"{run}-agent.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    elastic_launch(settings, _train)(str(config), str(run), parallel)


def _train(config: str, run: str, parallel: str) -> None:
    """What each rank does; its number as a process is in a file beside the run."""
    path = _pid_file(Path(run), int(os.environ["RANK"]))
    path.write_text(f"{os.getpid()}\n")
    try:
        words = (f"output.folder={run}", f"training.parallel={parallel}")
        run_smorm(f"{run}.txt", "train", config, *words)
    except SystemExit as ended:
        # The agent takes a return for success.
        if ended.code:
            raise


def _pid_file(run: Path, rank: int) -> Path:
    return run.with_name(f"{run.name}-rank-{rank}.pid")


def _pids(run: Path, ranks: int) -> list[int]:
    """The processes of all ranks; of those that have written it down."""
    pids = []
    for rank in range(ranks):
        with contextlib.suppress(OSError, ValueError):
            pids.append(int(_pid_file(run, rank).read_text()))
    return pids


def _a_rank(
    run: Path, agent: BaseProcess, random: Random, ranks: int, killed: set[int]
) -> int | None:
    """A random one of the ranks, once all were started again; None where the run is done."""
    while agent.is_alive():
        pids = _pids(run, ranks)
        if len(pids) == ranks and not killed & set(pids):
            return random.choice(pids)
        time.sleep(_POLL)
    return None


def _wait_for_a_moment(run: Path, agent: BaseProcess, random: Random, duration: float) -> None:
    """Half of the moments are anywhere in a run, the others follow a change of its checkpoints."""
    if random.random() < 0.5:
        agent.join(random.uniform(0.0, duration / 2))
        return
    for _ in range(random.randrange(1, STEPS)):
        before = checkpoint_names(run)
        while agent.is_alive() and checkpoint_names(run) == before:
            time.sleep(_POLL)
    agent.join(random.uniform(0.0, SAVING_SECONDS))


def main() -> int:
    """The command line; 1 where something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m chaos.rank_kills", description=__doc__)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=RANKS)
    parser.add_argument("--parallel", choices=["replicated", "sharded"], default="replicated")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="smorm-rank-kills-") as folder:
        report = kill_ranks(
            Path(folder),
            count=options.count,
            seed=options.seed,
            ranks=options.ranks,
            parallel=options.parallel,
        )
    kills = f"{report.kills} kills ({report.saving} while saving) of {report.runs} runs"
    seconds, faults = f"{report.seconds:.0f} s", len(report.faults)
    print(f"{kills} by {options.ranks} ranks in {seconds}: {faults} faults")
    for fault in report.faults:
        print(fault)
    return int(bool(report.faults))


if __name__ == "__main__":
    sys.exit(main())
