import gzip
import json
import os
import subprocess
import sys
import time

import datasets
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from smorm.data.census import BadRecord
from smorm.data.jsonlines import SPLITS, scan_json
from smorm.data.readers import load_converted, load_hub, read_rows, scan_rows
from smorm.errors import DataError
from tests.data.sources import jsonl, law, raw, save_parquet

ROWS = [{"a": 1, "text": "eins\u2028zwei"}, {"a": None, "text": ""}, {"a": 3, "text": "🐢"}]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
# A file that holds one object of these is an object of splits.
NAMES = st.text(max_size=5).filter(lambda name: name not in SPLITS)


def rows_of(path, **settings):
    return [row for _, row in read_rows(path, **settings)]


@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz", "d.ndjson", "d.json", "d.json.gz"])
def test_json_lines_come_back_with_their_line_numbers(tmp_path, name):
    path = jsonl(tmp_path / name, ROWS)
    assert list(read_rows(path)) == [(f"{path}:{n}", row) for n, row in enumerate(ROWS, 1)]


@pytest.mark.slow
@law
@given(st.lists(st.dictionaries(NAMES, VALUES, max_size=4), max_size=6))
def test_rows_written_as_json_lines_are_read_as_they_were(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("law")
    for name in ("d.jsonl", "d.jsonl.gz"):
        assert rows_of(jsonl(folder / name, rows)) == rows
    assert rows_of(raw(folder / "d.json", b" \n" + json.dumps(rows).encode())) == rows


@pytest.mark.slow
@law
@given(
    st.lists(
        st.dictionaries(st.sampled_from(sorted(SPLITS)) | NAMES, VALUES, max_size=4),
        min_size=2,
        max_size=6,
    )
)
def test_of_several_rows_none_is_an_object_of_splits(tmp_path_factory, rows):
    assert rows_of(jsonl(tmp_path_factory.mktemp("law") / "d.jsonl", rows)) == rows


def test_gzip_is_seen_by_its_bytes_whatever_the_name_is(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_bytes(gzip.compress(b'{"a": 1}\n'))
    assert rows_of(path) == [{"a": 1}]


def test_a_plain_file_called_gz_is_read_as_it_is(tmp_path):
    path = tmp_path / "d.jsonl.gz"
    path.write_bytes(b'{"a": 1}\n')
    assert rows_of(path) == [{"a": 1}]


def test_a_byte_order_mark_carriage_returns_and_blank_lines_do_no_harm(tmp_path):
    path = raw(tmp_path / "d.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": 2}')
    assert list(read_rows(path)) == [(f"{path}:1", {"a": 1}), (f"{path}:4", {"a": 2})]


def test_an_array_is_read_item_by_item(tmp_path):
    path = raw(tmp_path / "d.json", b'\xef\xbb\xbf[{"a": 1},\n {"a": 2}]')
    assert list(read_rows(path)) == [(f"{path}:1", {"a": 1}), (f"{path}:2", {"a": 2})]


def test_parquet_comes_back_with_row_numbers_over_several_batches(tmp_path):
    rows = [{"a": n, "m": [{"role": "user", "content": str(n)}]} for n in range(600)]
    path = save_parquet(tmp_path / "d.parquet", rows)
    assert list(read_rows(path)) == [(f"{path}:{n}", row) for n, row in enumerate(rows, 1)]


def test_a_saved_dataset_and_a_saved_dictionary_of_splits_are_read(tmp_path):
    one = datasets.Dataset.from_list([{"a": 1}, {"a": 2}])
    one.with_format("numpy").save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": one, "test": one.select([1])}).save_to_disk(tmp_path / "two")
    where = f"{tmp_path / 'one'}[train]"
    assert list(read_rows(tmp_path / "one")) == [(f"{where}:1", {"a": 1}), (f"{where}:2", {"a": 2})]
    assert rows_of(tmp_path / "two", split="test") == [{"a": 2}]
    with pytest.raises(DataError, match=r"no split 'dev'; it has: test, train"):
        rows_of(tmp_path / "two", split="dev")
    with pytest.raises(DataError, match=r"no split 'dev'"):
        rows_of(tmp_path / "one", split="dev")


def test_a_damaged_saved_dataset_is_one_line(tmp_path):
    datasets.Dataset.from_list([{"a": 1}]).save_to_disk(tmp_path / "one")
    next((tmp_path / "one").glob("*.arrow")).write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be loaded") as caught:
        rows_of(tmp_path / "one")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "layout", ["{s}.jsonl", "{s}.jsonl.gz", "data/{s}.json", "{s}/any.jsonl", "data/{s}-0001.jsonl"]
)
def test_a_folder_is_read_by_the_usual_layouts(tmp_path, layout):
    for split in ("train", "test"):
        jsonl(tmp_path / layout.format(s=split), [{"split": split}])
    jsonl(tmp_path / "train_scores.jsonl", [{"split": "another file"}])
    assert rows_of(tmp_path) == [{"split": "train"}]
    assert rows_of(tmp_path, split="test") == [{"split": "test"}]


def test_the_shards_of_a_split_are_read_in_order_and_must_be_complete(tmp_path):
    for part in range(3):
        save_parquet(tmp_path / "data" / f"train-0000{part}-of-00003.parquet", [{"a": part}])
    assert rows_of(tmp_path) == [{"a": 0}, {"a": 1}, {"a": 2}]
    (tmp_path / "data" / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(DataError, match=r"2 shards of 3"):
        rows_of(tmp_path)


def test_a_subset_is_a_folder_inside(tmp_path):
    jsonl(tmp_path / "hard" / "train.jsonl", [{"a": "hard"}])
    assert rows_of(tmp_path, subset="hard") == [{"a": "hard"}]
    with pytest.raises(DataError, match=r"no such subset folder; did you mean .*hard\?"):
        rows_of(tmp_path, subset="hrad")
    with pytest.raises(DataError, match="subset 'hard' is for a folder or a dataset id"):
        rows_of(tmp_path / "hard" / "train.jsonl", subset="hard")


def test_the_only_file_of_a_folder_is_its_training_split_unless_its_name_says_otherwise(tmp_path):
    jsonl(tmp_path / "one" / "pairs.jsonl", [{"a": 1}])
    assert rows_of(tmp_path / "one") == [{"a": 1}]
    jsonl(tmp_path / "two" / "test.jsonl", [{"a": 1}])
    with pytest.raises(DataError, match=r"no file for split 'train'.*it has test\.jsonl"):
        rows_of(tmp_path / "two")


def test_two_files_for_one_split_are_not_chosen_between(tmp_path):
    jsonl(tmp_path / "train.jsonl", ROWS)
    jsonl(tmp_path / "train.json", ROWS)
    with pytest.raises(DataError, match=r"several files for split 'train'"):
        rows_of(tmp_path)


def test_an_empty_folder_says_so(tmp_path):
    with pytest.raises(DataError, match="it has no data files"):
        rows_of(tmp_path)


def test_a_missing_file_is_one_line_with_the_nearest_name(tmp_path):
    jsonl(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(
        DataError, match=r"trian\.jsonl: no such file.*did you mean .*/train\.jsonl"
    ):
        rows_of(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match=r"no such file or folder$"):
        rows_of(tmp_path / "zzzzz" / "none.jsonl")


def test_an_unknown_suffix_names_the_accepted_ones(tmp_path):
    with pytest.raises(DataError, match=r"unknown kind of file; accepted are \.jsonl,"):
        rows_of(raw(tmp_path / "d.xlsx", b"a,b\n"))


def test_a_misspelt_relative_path_is_not_looked_up_on_the_hub(tmp_path, monkeypatch):
    jsonl(tmp_path / "data" / "pairs" / "train.jsonl", ROWS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"no such file or folder; did you mean data/pairs\?"):
        rows_of("data/pair")


def test_a_dataset_id_without_a_network_is_one_line():
    code = (
        "from smorm.data.readers import read_rows\n"
        "from smorm.errors import DataError\n"
        "try: next(read_rows('nobody-here/nothing-there'))\n"
        "except DataError as error: print(error)"
    )
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=offline, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("nobody-here/nothing-there: no such local path, and as a Hugging")
    assert len(done.stdout.splitlines()) == 1


BROKEN_LINES = [
    (b'{"a": 1', "not valid JSON"),
    (b'{"a": NaN}', "not valid JSON"),
    (b'{"a": Infinity}', "not valid JSON"),
    (b'{"a": 1e999}', "not valid JSON: number is infinity"),
    (b'{"a": "\\ud800"}', "no low surrogate"),
    (b'{"a": "\xff\xfe"}', "0xFF at column 8 is not UTF-8"),
    (b"[" * 1100 + b"]" * 1100, "1,100 values, over the limit"),
    (b"[" * 900 + b"]" * 900, "nested deeper: over the limit of 100 levels"),
    (b'{"a": ' * 101 + b"1" + b"}" * 101, "nested deeper: over the limit of 100 levels; SMORM_"),
    (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' stands twice in one object"),
    (b'{"b": [{"a": 1, "a": 3}]}', "the key 'a' stands twice in one object"),
    (b'{"b": 1e400}', "not valid JSON"),
    (b'{"b": NaN}', "not valid JSON"),
    (b'{"b": -Infinity}', "not valid JSON"),
    (b'{"b": "\\ud800"}', "not valid JSON"),
    (b'{"b": "a\x00"}', "not valid JSON"),
    (b"[" + b"1," * 2000 + b"1]", "2,001 values, over the limit of 1,000 values a row"),
    (b'{"a": [' + b"{}," * 600 + b"{}]}", "1,203 values, over the limit of 1,000 values a row"),
    (b"{'a': 1}", "not valid JSON"),
    (b'{"a": 1} {"a": 2}', "not valid JSON"),
    (b"\x00\x01\x02", "not valid JSON"),
    (b"[1, 2]", "expected an object"),
    (b'"text"', "expected an object"),
    (b"7", "expected an object"),
    (b"null", "expected an object"),
    (b'{"a": "' + b"x" * 10_000 + b'"}', "over the limit of 10,000 bytes a line; SMORM_LIMIT_LINE"),
]


@pytest.mark.parametrize(("line", "reason"), BROKEN_LINES)
def test_a_broken_line_is_named_and_the_lines_after_it_are_read(
    tmp_path, monkeypatch, line, reason
):
    path = raw(tmp_path / "d.jsonl", b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    monkeypatch.setenv("SMORM_LIMIT_LINE_BYTES", "10000")
    monkeypatch.setenv("SMORM_LIMIT_ROW_VALUES", "1000")
    (_, first), (where, bad), (_, last) = scan_json(path)
    assert (first, last) == ({"a": 1}, {"a": 2})
    assert isinstance(bad, BadRecord)
    assert where == f"{path}:2"
    assert str(bad).startswith(f"{path}:2: line: ")
    assert reason in str(bad)
    assert "\n" not in str(bad)
    assert bad.raw


def test_reading_stops_at_a_broken_line_in_its_place(tmp_path):
    path = raw(tmp_path / "d.jsonl", b'{"a": 1}\n' * 6 + b'{"a": \n')
    reading = read_rows(path)
    assert [next(reading)[1] for _ in range(6)] == [{"a": 1}] * 6
    with pytest.raises(DataError, match=r"d\.jsonl:7: line: not valid JSON"):
        next(reading)


def test_utf16_is_recognised(tmp_path):
    path = raw(tmp_path / "d.jsonl", '{"a": 1}\n'.encode("utf-16"))
    with pytest.raises(DataError, match="UTF-16, expected UTF-8"):
        rows_of(path)


def test_a_row_within_the_limits_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("SMORM_LIMIT_ROW_VALUES", "10")
    text = '{"a": "[,,,,,,,,,,,,,,,,,,,", "b": "\\\\\\":", "c": {"a": [1, {"a": "\\": "}]}}'
    deep = '{"a": ' * 100 + "1" + "}" * 100
    path = raw(tmp_path / "d.jsonl", f"{text}\n{deep}\n".encode())
    monkeypatch.setenv("SMORM_LIMIT_ROW_VALUES", "200")
    assert [row for _, row in scan_json(path)] == [json.loads(text), json.loads(deep)]


def test_blank_lines_are_passed_over_quickly_and_counted(tmp_path):
    path = raw(tmp_path / "d.jsonl", b"\n" * 30_000_000 + b' {"a": 1}\n\n\n{"a": 2}' + b" \n" * 9)
    began = time.process_time()
    assert [where for where, _ in scan_json(path)] == [f"{path}:30000001", f"{path}:30000004"]
    assert time.process_time() - began < 5


def test_a_line_that_never_ends_is_given_up(tmp_path, monkeypatch):
    path = tmp_path / "d.jsonl"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)  # a sparse file of zeros
    monkeypatch.setattr("smorm.data.jsonlines._MOST_PASSED", 1 << 24)
    reading = scan_json(path)
    ((_, bad),) = [next(reading)]
    assert isinstance(bad, BadRecord)
    with pytest.raises(
        DataError, match=r"d\.jsonl:1: line: it does not end within 17,825,792 byte"
    ):
        next(reading)


def test_a_line_that_never_ends_is_not_held_in_memory(tmp_path, monkeypatch):
    path = raw(tmp_path / "d.jsonl", b"x" * 50_000)
    monkeypatch.setenv("SMORM_LIMIT_LINE_BYTES", "1000")
    ((_, bad),) = scan_json(path)
    assert isinstance(bad, BadRecord)
    assert len(bad.raw) == 1000


@pytest.mark.parametrize("kept", [30, 200])
def test_a_gzip_file_cut_short_is_one_line(tmp_path, kept):
    path = jsonl(tmp_path / "d.jsonl.gz", [{"a": os.urandom(40).hex()} for _ in range(50)])
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"d\.jsonl\.gz: the gzip file is cut short or damaged"):
        rows_of(path)


def test_a_gzip_file_with_a_flipped_byte_is_one_line(tmp_path):
    path = jsonl(tmp_path / "d.jsonl.gz", [{"a": os.urandom(40).hex()} for _ in range(50)])
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF  # in the checksum
    path.write_bytes(content)
    with pytest.raises(DataError, match="cut short or damaged"):
        rows_of(path)


@pytest.mark.parametrize("content", [b"[" + b" " * 3_000_000, b'{"a": 1}\n' * 300_000])
@pytest.mark.parametrize("name", ["d.jsonl.gz", "d.json.gz"])
def test_a_gzip_bomb_is_refused(tmp_path, monkeypatch, content, name):
    path = raw(tmp_path / name, content)
    monkeypatch.setenv("SMORM_LIMIT_GZIP_RATIO", "50")
    monkeypatch.setenv("SMORM_LIMIT_UNPACKED_BYTES", "100kB")
    with pytest.raises(
        DataError, match="gzip bomb: unpacks to over the limit of 50 times its size"
    ):
        list(scan_json(path))


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_read_in_pieces(tmp_path, monkeypatch, indent):
    monkeypatch.setattr("smorm.data.jsonvalues._CHUNK", 7)
    rows = [{"a": 'x",]}[{\\"', "b": [[], {}, [1, {"c": ""}]]}, {}, {"a": "\n" * 30}] * 20
    path = raw(tmp_path / "d.json", b" \xef\xbb\xbf"[1:] + json.dumps(rows, indent=indent).encode())
    assert list(scan_json(path)) == [(f"{path}:{n}", row) for n, row in enumerate(rows, start=1)]


def test_an_array_may_be_longer_than_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("SMORM_LIMIT_LINE_BYTES", "1000")
    path = jsonl(tmp_path / "d.json", [[{"a": "x" * 900}] * 30])
    assert len(rows_of(path)) == 30
    for item in ('{"a": "' + "x" * 2000, "[1, " * 500, " " * 2000):
        path = raw(tmp_path / "d.json", f'[{{"a": 1}}, {item}'.encode())
        with pytest.raises(DataError, match=r"d\.json:2: row: (over the limit of 1,000|not valid)"):
            rows_of(path)


@pytest.mark.parametrize(
    "content",
    [b"[", b'[{"a": 1}', b'[{"a": 1},', b'[{"a": 1}}', b'[{"a": 1}] 1', b'[{"a": [1}]', b"[}",
     b'[{"a": "]', b'[{"a": 1},]', b'[,{"a": 1}]', b"[{]}]"],
)  # fmt: skip
def test_a_broken_array_is_one_line(tmp_path, content):
    path = raw(tmp_path / "d.json", content + b"\n")
    with pytest.raises(DataError, match=r"^.*d\.json:\d: (row|line): not valid JSON"):
        rows_of(path)


def test_an_item_of_an_array_that_is_broken_is_named(tmp_path):
    broken = raw(tmp_path / "broken.json", b'[{"a": 1},\n{"a": }]')
    with pytest.raises(DataError, match=r"broken\.json:2: line: not valid JSON"):
        rows_of(broken)
    mixed = raw(tmp_path / "mixed.json", b'[{"a": 1}, 2]')
    with pytest.raises(DataError, match=r"mixed\.json:2: line: int, expected an object"):
        rows_of(mixed)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\x00" * 50 + b"PAR1", b"{}"])
def test_what_is_not_parquet_is_one_line(tmp_path, content):
    path = raw(tmp_path / "d.parquet", content)
    with pytest.raises(DataError, match=r"d\.parquet: not a readable Parquet file") as caught:
        rows_of(path)
    assert "\n" not in str(caught.value)


def test_parquet_with_damaged_pages_is_one_line(tmp_path):
    path = save_parquet(tmp_path / "d.parquet", [{"a": os.urandom(20).hex()} for _ in range(200)])
    content = bytearray(path.read_bytes())
    content[20:400] = bytes(380)
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable Parquet file"):
        rows_of(path)


def test_parquet_with_too_many_columns_is_refused(tmp_path):
    path = save_parquet(tmp_path / "d.parquet", [{f"c{n}": n for n in range(1001)}])
    with pytest.raises(DataError, match="1,001 columns, over the limit of 1,000"):
        rows_of(path)


def test_parquet_with_text_that_is_not_utf8_is_one_line(tmp_path):
    column = pyarrow.array([b"good", b"\xff\xfe"]).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"a": column}), tmp_path / "d.parquet")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        rows_of(tmp_path / "d.parquet")


@law
@given(content=st.binary(max_size=200))
def test_arbitrary_bytes_give_rows_or_a_data_error(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("bytes")
    for name in ("d.jsonl", "d.json", "d.parquet"):
        path = raw(folder / name, content)
        told, rows = str(path), []
        try:
            rows = [row for _, row in scan_rows(path)]
        except DataError as error:
            told = str(error)
        assert told.startswith(str(path))
        assert all(isinstance(row, dict | BadRecord) for row in rows)


def test_a_data_set_that_is_a_program_is_read_from_its_parquet_copy(tmp_path, monkeypatch):
    """The layout of the hub's branch of converted files: SUBSET/SPLIT/NUMBER.parquet."""
    (tmp_path / "someone" / "set" / "helpful" / "test").mkdir(parents=True)
    table = pyarrow.table({"input": ["q"], "targets": [{"choices": ["a", "b"], "labels": [1, 0]}]})
    parquet.write_table(table, tmp_path / "someone/set/helpful/test/0000.parquet")
    monkeypatch.chdir(tmp_path)
    (row,) = load_converted("someone/set", "test", "helpful")
    assert row["input"] == "q"


def test_the_program_of_a_data_set_is_never_run(tmp_path, monkeypatch):
    (tmp_path / "someone" / "set").mkdir(parents=True)
    (tmp_path / "someone" / "set" / "set.py").write_text("raise SystemExit('was run')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="could not be loaded"):
        load_hub("someone/set", "test", None)
