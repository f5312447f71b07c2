"""The server under load, beside what people use instead.

    python -m bench.serving --output results/serving [--litserve PYTHON] [--vllm BINARY]

An arm that is not given is named in the output as not measured. The machine may be shared: arms
take turns, CPU time leads, and every figure is a median or a ratio of neighbouring turns."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from bench.machine import describe
from bench.measure import Ratio, pin
from bench.results import Figures, Measurement
from bench.scoring import write_model
from bench.serving import overload, prefixes, servers, shared
from bench.serving.load import Call, LoadPlan
from bench.serving.page import write_page
from bench.serving.servers import Server
from bench.serving.traffic import (
    Traffic,
    calls_of_all_routes,
    message_calls,
    mixed_traffic,
    score_calls,
)
from bench.serving.turns import Arm, Turn, cpu_ratio, interleaved, latency_ratios, middle, take_turn
from bench.smorm_run import VOCABULARY
from bench.texts import arena_answers, hh_pairs, texts_of
from smorm import RewardModel, files
from smorm.text.tokenizers import train_bpe

PARTS = ("steady", "routes", "beside", "shared", "prefixes", "overload")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    model: str = "small"
    # The model of the other parts, and one whose scores cost little, where refusing weighs most.
    overload_models: tuple[str, ...] = ("small", "tiny")
    conversations: int = 256
    connections: int = 64
    seconds: float = 60.0
    rounds: int = 5
    turn_requests: int = 128
    prompts: int = 8
    step_prompts: int = 24
    overload_seconds: float = 30.0
    idle_seconds: float = 10.0


class Bench:
    """One run: a model in a folder of its own, and the figures so far."""

    def __init__(self, sizes: Sizes, scratch: Path, data: Path | None) -> None:
        self.sizes, self.scratch, self.data = sizes, scratch, data
        pin(1)
        self.loads: dict[str, float] = {}
        self.figures = Figures(describe(), {"sizes": asdict(sizes)})
        self.folder = self._model(sizes.model)
        self.model = RewardModel.load(self.folder)
        self.traffic = mixed_traffic(self.model, sizes.conversations, data)
        self.figures.detail["traffic"] = self.traffic.facts()

    def _model(self, name: str) -> Path:
        folder = self.scratch / f"model-{name}"
        if folder.is_dir():
            return folder
        texts = itertools.chain(
            texts_of(hh_pairs(self.data).records), texts_of(arena_answers(self.data).records)
        )
        write_model(folder, name, train_bpe(texts, VOCABULARY[name]))
        return folder

    def log(self, name: str) -> Path:
        return self.scratch / f"{name}.log"

    def steady(self, server: Server) -> None:
        """A minute of mixed lengths: errors, latency, CPU time, memory; then nothing at all."""
        sizes, calls = self.sizes, score_calls(self.traffic)
        warm = LoadPlan(server.url, calls, sizes.connections, len(calls))
        take_turn(server, warm)
        memory = server.rss_mib()
        plan = LoadPlan(server.url, calls, sizes.connections, seconds=sizes.seconds)
        turn = take_turn(server, plan)
        grown = server.rss_mib() - memory
        cpu = server.cpu()
        time.sleep(sizes.idle_seconds)
        idle = (server.cpu() - cpu) / sizes.idle_seconds
        self.figures.detail["steady"] = {
            **turn.facts(),
            "connections": sizes.connections,
            "rss_mib": round(memory, 1),
            "rss_growth": round(grown / memory, 4),
            "idle_share_of_a_core": round(idle, 4),
        }
        self.figures.equality["serve_steady"] = turn.seen.largest_difference

    def keep(self, output: Path) -> None:
        """Take over what an earlier run of these sizes measured: parts not measured again stay."""
        path = output / "serving.json"
        if not path.is_file():
            return
        earlier = files.read_json(path)
        # A file has lists for tuples.
        if earlier["detail"]["sizes"] != orjson.loads(orjson.dumps(self.figures.detail["sizes"])):
            return
        self.loads.update(earlier["detail"]["load"])
        for name, values in earlier.items():
            if name != "machine":
                merged = {**values, **getattr(self.figures, name)}
                getattr(self.figures, name).update(merged)

    def save(self, output: Path, part: str) -> None:
        """Write what is measured so far, and print the part."""
        self.loads[part] = round(os.getloadavg()[0], 2)
        self.figures.detail["load"] = self.loads
        self.figures.save(output / "serving.json")
        write_page(output)
        print(f"{part}: {self.figures.detail[part]}", flush=True)

    def shared(self, server: Server) -> None:
        """Best-of-16 with shared prompts, and without."""
        sizes = self.sizes
        facts, gain = shared.measure(self.model, server, sizes.prompts, sizes.rounds, self.data)
        self.figures.detail["shared"] = facts
        self.figures.add("serve_shared_prompts", Measurement(gain))

    def prefixes(self, server: Server) -> None:
        """What a cache of prefixes could save."""
        sizes = self.sizes
        self.figures.detail["prefixes"] = prefixes.measure(
            self.model, server, sizes.step_prompts, sizes.connections, self.data
        )

    def overload(self) -> None:
        """Five times the capacity of each model, of servers of their own."""
        facts_of: dict[str, Any] = {}
        for name in self.sizes.overload_models:
            folder = self._model(name)
            traffic = mixed_traffic(RewardModel.load(folder), overload.CONVERSATIONS, self.data)
            calls, log = score_calls(traffic), self.log(f"overload-{name}")
            facts_of[name] = overload.measure(folder, calls, self.sizes.overload_seconds, log)
            share = facts_of[name]["goodput_share"]
            goodput = Measurement(Ratio.of_rounds([share], [share], share))
            self.figures.add(f"serve_goodput_{name}", goodput)
        self.figures.detail["overload"] = facts_of

    def routes(self, server: Server) -> None:
        """Every route at once, each answer beside `smorm score`."""
        calls = calls_of_all_routes(self.traffic)
        turn = take_turn(server, LoadPlan(server.url, calls, self.sizes.connections, len(calls)))
        paths = sorted({call.path for call in calls})
        self.figures.detail["routes"] = {**turn.facts(), "paths": paths, "bad": turn.seen.bad}
        self.figures.equality["serve_routes"] = turn.seen.largest_difference

    def beside(self, arms: Sequence[Arm]) -> None:
        """The servers in turns, the same conversations."""
        sizes = self.sizes
        for name in [name for name in self.figures.ratios if name.startswith("serve_cpu_vs_")]:
            del self.figures.ratios[name]
        turns = interleaved(arms, sizes.rounds, sizes.turn_requests, sizes.connections)
        detail = {name: middle(of_arm) for name, of_arm in turns.items()}
        for name in turns:
            if name == "smorm":
                continue
            ratio = cpu_ratio(turns[name], turns["smorm"])
            difference = max(turn.seen.largest_difference for turn in turns[name])
            detail[name]["ratios"] = _ratios(turns[name], turns["smorm"])
            self.figures.add(
                f"serve_cpu_vs_{name}", Measurement(ratio, detail={"difference": difference})
            )
        self.figures.detail["beside"] = detail


def _ratios(arm: Sequence[Turn], smorm: Sequence[Turn]) -> dict[str, dict[str, float]]:
    """Of latencies, to smorm's: median, lowest and highest turn."""
    ratios = {}
    for name, quantile in (("p50", 0.5), ("p99", 0.99)):
        values = sorted(latency_ratios(arm, smorm, quantile))
        ratios[name] = {
            "median": round(values[len(values) // 2], 2),
            "low": round(values[0], 2),
            "high": round(values[-1], 2),
        }
    return ratios


def run(
    output: Path, sizes: Sizes, parts: Sequence[str], litserve: str | None, vllm: str | None,
    data: Path | None = None,
) -> None:  # fmt: skip
    """Measure the parts and write `serving.json` and `README.md`, after each part. What the file
    holds of other parts stays: a part can be measured again alone."""
    with tempfile.TemporaryDirectory(prefix="smorm-serving-") as name:
        bench = Bench(sizes, Path(name), data)
        bench.keep(output)
        with servers.smorm_server(bench.folder, bench.log("smorm")) as server:
            measurements: dict[str, Callable[[], None]] = {
                "steady": partial(bench.steady, server),
                "routes": partial(bench.routes, server),
                "shared": partial(bench.shared, server),
                "prefixes": partial(bench.prefixes, server),
                "beside": partial(_beside, bench, server, litserve, vllm),
                "overload": partial(_overload, bench, server),
            }
            for part, measurement in measurements.items():
                if part in parts:
                    measurement()
                    bench.save(output, part)


def _overload(bench: Bench, server: Server) -> None:
    server.pause()
    try:
        bench.overload()
    finally:
        server.resume()


def _beside(bench: Bench, server: Server, litserve: str | None, vllm: str | None) -> None:
    traffic = bench.traffic
    missing = []
    with contextlib.ExitStack() as stack:
        arms = [Arm("smorm", server, score_calls(traffic))]

        def add(name: str, started: Any, calls: Sequence[Call]) -> None:
            # What runs already is stopped, so that it does not slow the start.
            for arm in arms:
                arm.server.pause()
            arms.append(Arm(name, stack.enter_context(started), calls))

        try:
            plain = servers.plain_server(bench.folder, servers.free_port(), bench.log("plain"))
            add("plain", plain, message_calls(traffic, "/score"))
            if litserve:
                lit = servers.litserve_server(
                    litserve, bench.folder, servers.free_port(), bench.log("litserve")
                )
                add("litserve", lit, message_calls(traffic, "/score"))
            else:
                missing.append("litserve")
            if vllm:
                started = servers.vllm_server(
                    vllm, bench.folder, servers.free_port(), bench.log("vllm")
                )
                add("vllm", started, _vllm_calls(traffic))
            else:
                missing.append("vllm")
            bench.beside(arms)
        finally:
            for arm in arms:
                arm.server.resume()
    bench.figures.detail["not_measured"] = missing


def _vllm_calls(traffic: Traffic) -> list[Call]:
    return message_calls(traffic, "/classify", model="model", use_activation=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    # A signal ends this process by an exception, so that it ends the servers that it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("results/serving"))
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--litserve", help="an interpreter that has LitServe")
    parser.add_argument("--vllm", help="vLLM's command of an environment with its CPU build")
    parser.add_argument("--data", type=Path, help="the data folder; ../shared/data where it is")
    for name, value in asdict(Sizes()).items():
        option = f"--{name.replace('_', '-')}"
        read = _names if isinstance(value, tuple) else type(value)
        parser.add_argument(option, type=read, default=value)
    options = vars(parser.parse_args(arguments))
    sizes = Sizes(**{name: options[name] for name in asdict(Sizes())})
    parts = options["parts"].split(",")
    unknown = set(parts) - set(PARTS)
    if unknown:
        parser.error(f"--parts {','.join(sorted(unknown))}: expected some of {', '.join(PARTS)}")
    run(options["output"], sizes, parts, options["litserve"], options["vllm"], options["data"])
    return 0


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


if __name__ == "__main__":
    sys.exit(main())
