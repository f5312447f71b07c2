"""Sources larger than the memory or the disk: many files by a pattern, data sets read from the
hub while they come."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from smorm.config.sections import SourceConfig
from smorm.data.readers import HubStream, read_rows
from smorm.data.reading import Source
from smorm.errors import DataError
from smorm.training.sources import to_source
from tests.data.sources import jsonl, save_parquet
from tests.data.stores import same, stored, wanted


def pair(number: int) -> dict[str, str]:
    return {"prompt": f"p{number // 2}", "chosen": f"tin {number}", "rejected": f"soft {number}"}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A data set's folder as on the hub: three Parquet files of four pairs."""
    folder = tmp_path / "set" / "data"
    for shard in range(3):
        rows = [pair(4 * shard + row) for row in range(4)]
        save_parquet(folder / f"train-0000{shard}-of-00003.parquet", rows)
    return folder.parent


@pytest.fixture
def hub(shards: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same as `someone/set` of the hub: the library reads the folder in its place."""
    opened = HubStream.open
    monkeypatch.setattr(
        HubStream, "open", lambda name, split, subset: opened(str(shards), split, subset)
    )
    return shards


def test_a_pattern_gives_its_files_in_the_order_of_their_names(tmp_path):
    for name in ("b", "a", "c"):
        jsonl(tmp_path / name / "part.jsonl", [{"a": name}])
    jsonl(tmp_path / "d" / "other.jsonl", [{"a": "d"}])
    pattern = tmp_path / "*" / "part.json*"
    assert [row["a"] for _, row in read_rows(pattern)] == ["a", "b", "c"]
    (first, _), *_ = read_rows(tmp_path / "**" / "other.jsonl")
    assert first == f"{tmp_path / 'd' / 'other.jsonl'}:1"
    names = Source(pattern).contents().names
    assert names == tuple(str(tmp_path / name / "part.jsonl") for name in "abc")
    with pytest.raises(DataError, match=r"none-\*\.jsonl: no file matches"):
        next(read_rows(tmp_path / "none-*.jsonl"))
    # A file may be called like a pattern.
    plain = jsonl(tmp_path / "[x].jsonl", [{"a": 1}])
    assert [row for _, row in read_rows(plain)] == [{"a": 1}]


def test_a_stream_gives_the_rows_of_all_shards_in_their_order(hub):
    source = Source("someone/set", streaming=True)
    scanned = list(source.scanned())
    assert scanned == [(f"someone/set[train]:{n + 1}", pair(n)) for n in range(12)]
    with pytest.raises(DataError, match="set: no split 'dev'; it has: train"):
        next(Source("someone/set", split="dev", streaming=True).scanned())


def test_tokens_of_a_stream_are_made_once_and_found_until_its_files_change(hub, tmp_path, caplog):
    request = wanted(Path("someone/set"), run=tmp_path / "run", streaming=True)
    cache = str(tmp_path / "cache")
    first = stored(request, cache)
    assert len(first) == 12
    with caplog.at_level(logging.INFO, logger="smorm"):
        assert same(stored(request, cache), first)
    assert "read from cache" in caplog.text
    shards = stored(wanted(hub, run=tmp_path / "run"), None)
    assert shards.content == first.content
    changed = hub / "data" / "train-00001-of-00003.parquet"
    save_parquet(changed, [pair(n) for n in range(40, 44)])
    assert stored(request, cache).content != first.content


def test_a_stream_that_breaks_off_is_one_line_with_its_row(hub):
    (hub / "data" / "train-00002-of-00003.parquet").write_bytes(b"nothing of the kind")
    reading = Source("someone/set", streaming=True).scanned()
    with pytest.raises(DataError, match=r"someone/set\[train\]:\d+: row: could not be streamed: "):
        list(reading)


def test_a_source_says_so_by_a_key_that_leaves_other_hashes_alone():
    config = SourceConfig.model_validate({"path": "someone/set", "streaming": True})
    assert to_source(config).streaming
    assert "streaming" in config.model_dump()
    assert "streaming" not in SourceConfig.model_validate("someone/set").model_dump()
