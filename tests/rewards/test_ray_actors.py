"""Actors of Ray give the bytes of one process, also where one is killed."""

from __future__ import annotations

import os
import signal
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import orjson
import pytest
import torch

from bench.score_processes import actors_of
from smorm.data.census import Census, DropReason
from smorm.data.reading import Source
from smorm.errors import ConfigError, SmormError
from smorm.rewards import chunks
from smorm.rewards.protocol import ScoringOptions, open_reward
from smorm.rewards.ray_actors import ChunkActor, RayActors, _unpacked
from smorm.rewards.scores_file import score_file
from smorm.rewards.section import RewardSection, parse_reward
from tests.tiny import trained

REWARD = """
def half(prompts, completions):
    return [len(completion[-1]["content"]) / 2 for completion in completions]


def broken(prompts, completions):
    return ["none" for _ in completions]
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [{"id": i, "prompt": f"p{i}", "response": "x" * i, "more": i} for i in range(1, 11)]
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows) + b"{broken\n")
    (tmp_path / "reward.py").write_text(REWARD)
    return path


def actor(data: Path, function: str) -> ChunkActor:
    section = parse_reward(f"{data.parent / 'reward.py'}:{function}")
    threads = torch.get_num_threads()
    return ChunkActor(section, ScoringOptions(), Source(data), ("more",), 4, threads)


def test_an_actor_gives_the_chunks_and_counts_that_it_is_asked_for(data):
    batch = actor(data, "half")({"number": np.array([2, 0])})
    census = Census()
    last, first = (
        _unpacked({"lines": lines, "about": about}, census)
        for lines, about in zip(batch["lines"], batch["about"], strict=True)
    )
    assert (last.count, first.count) == (3, 4)
    assert last.error is not None
    assert "in.jsonl:11: line: not valid JSON" in last.error
    rows = [orjson.loads(line)["scored"]["rows"] for line in first.lines.splitlines()]
    assert rows == [[[0.5]], [[1.0]], [[1.5]], [[2.0]]]
    assert census[DropReason.NOT_READ] == 6


def test_an_error_on_an_actor_is_the_same_error_here(data):
    reward = open_reward(parse_reward(f"{data.parent / 'reward.py'}:broken"))
    with pytest.raises(SmormError) as expected:
        score_file(reward, Source(data), data.parent / "out.jsonl", on_bad_record="skip")
    batch = actor(data, "broken")({"number": np.array([0])})
    with pytest.raises(type(expected.value)) as error:
        _unpacked({"lines": batch["lines"][0], "about": batch["about"][0]}, Census())
    assert str(error.value) == str(expected.value)


@pytest.mark.parametrize(
    ("section", "device", "problem"),
    [
        (RewardSection(ensemble=["a", "b"]), "cpu", "score an ensemble with --shards"),
        (RewardSection(model="a"), "cuda:1", "give --device cuda"),
    ],
)
def test_what_actors_cannot_do_is_refused(section, device, problem):
    with pytest.raises(ConfigError, match=problem):
        RayActors(section, ScoringOptions(device=device), 2)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed (extra ray)")
@pytest.mark.filterwarnings("ignore")
def test_a_killed_actor_costs_no_row_and_no_order(data, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 2)
    section = parse_reward(str(trained()))
    actors = RayActors(section, ScoringOptions(), 2)
    reward = open_reward(*actors.here())
    killed: list[int] = []

    def kill_one(done: int, total: int) -> None:
        if not killed:
            killed.append(actors_of(os.getpid())[0])
            os.kill(killed[0], signal.SIGKILL)

    for output, used, progress in (("one", None, None), ("two", actors, kill_one)):
        score_file(
            reward, Source(data), tmp_path / output, on_bad_record="skip", keep=("more",),
            actors=used, progress=progress,
        )  # fmt: skip
    assert killed
    assert (tmp_path / "two").read_bytes() == (tmp_path / "one").read_bytes()
