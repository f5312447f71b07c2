"""Shards of a file, scored apart and joined, are the bytes of one process."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from smorm.data.census import Census, DropReason
from smorm.data.reading import Source
from smorm.errors import ConfigError, DataError
from smorm.rewards import chunks
from smorm.rewards.chunks import ChunkReader
from smorm.rewards.model import ModelReward
from smorm.rewards.protocol import ScoringOptions
from smorm.rewards.scores_file import score_file
from smorm.rewards.shards import JobReport, Shard, join
from smorm.scoring.reward_model import RewardModel
from tests.tiny import trained

ROWS = 22


@pytest.fixture(scope="module")
def reward() -> ModelReward:
    # So few tokens that a chunk is more than one forward pass.
    options = ScoringOptions(overlong="truncate_prompt", max_batch_tokens=200)
    return ModelReward(RewardModel.load(trained()), options=options)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows of all kinds: groups, a long prompt, bad lines, a bad response beside good ones."""
    monkeypatch.setattr(chunks, "CHUNK", 4)
    lines = []
    for i in range(ROWS):
        row: dict[str, object] = {
            "id": i,
            "prompt": f"p{i // 3}",
            "response": "word " * (i % 7 + 1),
        }
        if i % 5 == 1:
            row = {"id": i, "prompt": "p", "responses": ["good", None, "better"], "extra": i}
        if i == 9:
            row["prompt"] = "long " * 900
        lines.append(b"{broken" if i == 6 else orjson.dumps(row))
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def scored(reward: ModelReward, data: Path, output: Path, shard: Shard | None = None) -> JobReport:
    return score_file(
        reward, Source(data), output, on_bad_record="skip", keep=("extra",), shard=shard
    )


def in_shards(reward: ModelReward, data: Path, output: Path, count: int) -> None:
    # The last one first: no shard waits for another.
    for number in range(count, 0, -1):
        scored(reward, data, output, Shard(number, count))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_joined_shards_are_the_bytes_and_counts_of_one_process(reward, data, tmp_path, count):
    report = scored(reward, data, tmp_path / "whole.jsonl")
    output = tmp_path / "out.jsonl"
    in_shards(reward, data, output, count)
    joined = join(output)
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    for name in ("lines", "responses", "errors", "unscored", "tokens"):
        assert getattr(joined, name) == getattr(report, name), name
    assert report.errors == 1
    assert report.unscored > 2
    (census,), (census_of_shards,) = report.counted.values(), joined.counted.values()
    assert dict(census.totals()) == dict(census_of_shards.totals())
    # Six chunks: of nine shards three hold nothing.
    empty = [path for path in tmp_path.glob("*-of-9") if not path.stat().st_size]
    assert len(empty) == (3 if count == 9 else 0)


def damage(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"view":', b'"view" :', 1))


def record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def other_rows(path: Path) -> None:
    content = orjson.loads(record_of(path).read_bytes())
    content["made_of"]["input"] = "other"
    record_of(path).write_bytes(orjson.dumps(content))


FAULTS = {
    "missing": (lambda path: path.unlink(), "missing; score it"),
    "unfinished": (lambda path: record_of(path).unlink(), "without its record"),
    "damaged": (damage, "it is damaged"),
    "foreign": (other_rows, r"is of another run \(input: not as of"),
    "no record": (
        lambda path: record_of(path).write_text("{}"),
        "is no record",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_shard_that_cannot_be_used_is_named_and_nothing_written(reward, data, tmp_path, fault):
    output = tmp_path / "out.jsonl"
    in_shards(reward, data, output, 3)
    output.write_text("older\n")
    spoil, problem = FAULTS[fault]
    spoil(tmp_path / "out.jsonl.shard-2-of-3")
    with pytest.raises(DataError, match=rf"out\.jsonl\.shard-2-of-3.*: .*{problem}"):
        join(output)
    assert output.read_text() == "older\n"


def test_shards_of_two_kinds_are_joined_where_their_files_are_named(reward, data, tmp_path):
    output = tmp_path / "out.jsonl"
    with pytest.raises(DataError, match="no shard is beside it"):
        join(output)
    for count in (2, 3):
        in_shards(reward, data, output, count)
    with pytest.raises(DataError, match="shards of 2 and 3"):
        join(output)
    two = [Shard(number, 2).file(output) for number in (2, 1)]
    assert join(output, two).lines == ROWS
    with pytest.raises(DataError, match="shard 1 of 2 is missing"):
        join(output, two[:1])
    with pytest.raises(DataError, match="is shard 2, as is"):
        join(output, [two[0], two[0].with_name(two[0].name), two[1]])


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "-1/2", "1/9999"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(ConfigError, match="--shards"):
        Shard.parse(text)


def test_rows_of_other_shards_are_not_made_into_records(data):
    reader, census = ChunkReader(Source(data, every_response=True), 4), Census()
    third = reader.read(2, census)
    assert [where.rpartition(":")[2] for where, _, _ in third] == ["9", "10", "11", "12"]
    # One row of the chunk has the field; two rows of the file have it before.
    assert census[DropReason.NOT_READ] == 1
    first = reader.read(0, census)  # behind: from the start
    assert first[0][0].endswith(":1")
    assert reader.read(5, census)[-1][0].endswith(f":{ROWS}")
