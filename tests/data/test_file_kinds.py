"""Files as others write them: CSV, zstd, other encodings, and JSON in other layouts than lines."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from smorm.data.census import BadRecord, Census, Defect, DropReason
from smorm.data.csvfiles import scan_csv
from smorm.data.jsonlines import scan_json
from smorm.data.readers import contents_of, read_rows, scan_rows
from smorm.errors import DataError
from tests.data.sources import jsonl, raw, records

PAIRS = [
    {"prompt": "What is 1+1?", "chosen": "2", "rejected": "3"},
    {"prompt": "Wie heißt „2“?", "chosen": "zwei,\r\n\"two\"", "rejected": " "},
]  # fmt: skip
CSV = (
    'prompt,chosen,rejected\r\nWhat is 1+1?,2,3\r\n"Wie heißt „2“?","zwei,\r\n""two""", \r\n'
)  # fmt: skip
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in PAIRS)
SPLITS = {"train": [{"a": 1}, {"a": 2}], "test": [{"a": 3}]}


def rows_of(path, **settings):
    return [row for _, row in read_rows(path, **settings)]


def zstd(path, content):
    path.write_bytes(pyarrow.compress(content, codec="zstd", asbytes=True))
    return path


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("name", ["d.csv", "d.csv.gz"])
def test_csv_gives_texts_under_the_names_of_its_first_line(tmp_path, name, mark):
    path = raw(tmp_path / name, (mark + CSV).encode())
    assert list(read_rows(path)) == [(f"{path}:2", PAIRS[0]), (f"{path}:3", PAIRS[1])]


@pytest.mark.parametrize("name", ["d.csv.zst", "d.jsonl.zst", "d.json.zst", "d.ndjson.zst"])
def test_zstd_is_read_in_every_text_format_and_seen_by_its_bytes(tmp_path, name):
    content = (CSV if ".csv" in name else LINES).encode()
    assert rows_of(zstd(tmp_path / name, content)) == PAIRS
    # Two frames behind one another, and a name that says nothing of it.
    plain = tmp_path / name.removesuffix(".zst")
    content += b"a,b,c\n" if ".csv" in name else b'{"a": 1}\n'
    half = content.index(b"\n") + 1
    frames = [pyarrow.compress(part, codec="zstd", asbytes=True) for part in
              (content[:half], content[half:])]  # fmt: skip
    plain.write_bytes(b"".join(frames))
    assert len(rows_of(plain)) == 3


def test_a_zstd_file_that_is_damaged_or_a_bomb_is_one_line(tmp_path, monkeypatch):
    whole = zstd(tmp_path / "d.jsonl.zst", LINES.encode() * 50).read_bytes()
    for content in (whole[:30], whole[:3] + whole[4:], whole + b"more"):
        path = raw(tmp_path / "damaged.jsonl.zst", content)
        with pytest.raises(DataError, match=r"damaged\.jsonl\.zst") as caught:
            rows_of(path)
        assert "\n" not in str(caught.value)
    monkeypatch.setenv("SMORM_LIMIT_ZSTD_RATIO", "50")
    monkeypatch.setenv("SMORM_LIMIT_UNPACKED_BYTES", "100kB")
    for name, scan in (("b.jsonl.zst", scan_json), ("b.csv.zst", scan_csv)):
        bomb = zstd(tmp_path / name, b'{"a": 1}\n' * 300_000)
        with pytest.raises(DataError, match=r"refused as a zstd bomb: .*SMORM_LIMIT_ZSTD_RATIO"):
            list(scan(bomb))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a,a\n1,2\n", ":1: columns of the same name: a"),
        (b'a,b\n1,"2\n3,4\n', ":3: unexpected end of data; from line 2 on"),
        (b'a,b\n1,"2"x\n', ":2: ',' expected after '\"'"),
        (b"pr\xe9,b\n1,2\n", ":1: byte 0xE9 at column 3 is not UTF-8"),
    ],
)
def test_csv_that_cannot_be_read_is_one_line(tmp_path, content, problem):
    path = raw(tmp_path / "d.csv", content)
    with pytest.raises(DataError) as caught:
        rows_of(path)
    assert str(caught.value).startswith(f"{path}{problem}")


def test_a_row_of_csv_that_is_damaged_is_a_bad_record_and_the_next_one_is_read(tmp_path):
    path = raw(tmp_path / "d.csv", b"a,b\n1,2,3\n1\n\ncaf\xe9,2\nx,\n")
    scanned = [row for _, row in scan_rows(path)]
    defects = [row.defect for row in scanned if isinstance(row, BadRecord)]
    assert defects == [Defect.WRONG_COUNT, Defect.WRONG_COUNT, Defect.NOT_UTF8]
    assert str(scanned[0]) == (
        f"{path}:2: line: 3 values, expected 2 (a comma in a text needs quotes)"
    )
    # An empty value is what a table has for null.
    assert scanned[3] == {"a": "x", "b": None}


def test_limits_hold_for_csv(tmp_path, monkeypatch):
    monkeypatch.setenv("SMORM_LIMIT_LINE_BYTES", "1000")
    # The last one's fields are short, but its row has many lines.
    for content in (b"x" * 5000, b'"' + b"x\n" * 2000 + b'"', b'"x\n"' + b',"x\n"' * 500):
        with pytest.raises(
            DataError, match=r"d\.csv:2: line: over the limit of 1,000 bytes a line"
        ):
            list(scan_csv(raw(tmp_path / "d.csv", b"a\n" + content + b"\n")))
    monkeypatch.setenv("SMORM_LIMIT_COLUMNS", "20")
    with pytest.raises(DataError, match=r"d\.csv:1: 21 columns, over the limit of 20 columns"):
        list(scan_csv(raw(tmp_path / "d.csv", b"a" + b",b" * 20 + b"\n")))


def test_blank_lines_of_csv_are_counted_and_a_text_keeps_its_own(tmp_path):
    path = raw(tmp_path / "d.csv", b'\n \na,b\n\n\r\n1,"2\n\n\n3"\n\n4,5\n\n')
    (where, row), (last, _) = scan_csv(path)
    assert (where, last) == (f"{path}:6", f"{path}:11")
    assert row == {"a": "1", "b": "2\n\n\n3"}


def test_numbers_in_csv_are_read_and_an_index_is_no_text(tmp_path):
    census = Census()
    text = ",prompt,chosen,rejected,margin,meta\n0,p,a,b,1.5,\n1,p,a,c,,\n"
    first, second = records(raw(tmp_path / "d.csv", text.encode()), census=census)
    assert (first.margin, second.margin) == (1.5, None)
    assert census[DropReason.RATING_CONVERTED] == 1
    assert [reason.detail for reason in census.totals() if reason.kind is DropReason.NOT_READ] == [
        "index"
    ]
    rated = raw(tmp_path / "r.csv", b"prompt,response,good,help\np,a,True,3\np,b,False,\n")
    one, two = records(rated, "rated", attributes=["good", "help"], booleans=True)
    assert (one.scores, two.scores) == ({"good": 1.0, "help": 3.0}, {"good": 0.0, "help": None})
    with pytest.raises(DataError, match=r"help: text '4,5', expected a number"):
        records(raw(rated, b'prompt,response,help\np,a,"4,5"\n'), "rated", attributes=["help"])


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.csv", "d.jsonl.gz"])
def test_another_encoding_is_named_with_the_remedy(tmp_path, encoding, name):
    content = CSV if ".csv" in name else LINES
    path = raw(tmp_path / name, content.encode(encoding))
    with pytest.raises(DataError) as caught:
        rows_of(path)
    assert str(caught.value) == (
        f"{path}: the file is {encoding[:6].upper()}, expected UTF-8: convert the file "
        f"(iconv -f {encoding[:6].upper()} -t UTF-8 {name} > utf8_{name})"
    )


@pytest.mark.parametrize("name", ["d.jsonl", "d.csv", "d.json", "d.parquet"])
@pytest.mark.parametrize(
    ("content", "step"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 9\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>404</html>\n", "download the file itself"),
        (b"PK\x03\x04\x14\0\6\0", "save it as CSV"),
        (b"\xfd7zXZ\0\0\4", "unxz"),
    ],
)
def test_a_file_of_another_kind_is_named_with_the_next_step(tmp_path, name, content, step):
    with pytest.raises(DataError, match=step) as caught:
        rows_of(raw(tmp_path / name, content))
    assert "\n" not in str(caught.value)


def test_parquet_and_arrow_under_the_name_of_lines_are_named(tmp_path):
    table = pyarrow.table({"prompt": ["p"]})
    parquet.write_table(table, tmp_path / "d.parquet")
    path = raw(tmp_path / "d.jsonl", (tmp_path / "d.parquet").read_bytes())
    with pytest.raises(DataError, match=r"a Parquet file: .* ends in \.parquet"):
        rows_of(path)
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as out:
        out.write_table(table)
    with pytest.raises(DataError, match="an Arrow file: save it as"):
        rows_of(path)


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ('{"a": NaN}', "write null"),
        ('{"a": -Infinity}', "write null"),
        ('{"a": 1},', "a comma stands behind the object"),
        ("{'a': 1}", "write them by json.dumps"),
        ('{"a": None}', "write them by json.dumps"),
        ('{"a": 1}\r{"a": 2}', "carriage return"),
    ],
)
def test_a_line_that_is_no_json_says_what_writes_such(tmp_path, line, remedy):
    path = raw(tmp_path / "d.jsonl", f'{line}\n{{"a": 1}}\n'.encode())
    with pytest.raises(DataError, match=remedy):
        rows_of(path)


@pytest.mark.parametrize(
    "table",
    [
        {"prompt": ["p", "q"], "chosen": ["a", "b"], "rejected": ["c", "d"]},
        {"prompt": {"0": "p", "1": "q"}, "chosen": {"0": "a", "1": "b"}},
    ],
)
def test_a_table_by_its_columns_is_named(tmp_path, table):
    with pytest.raises(DataError, match=r"one object of columns.*orient='records', lines=True"):
        rows_of(raw(tmp_path / "d.json", json.dumps(table).encode()))


def test_an_only_row_of_lists_or_objects_is_no_table(tmp_path):
    say = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    for row in ({"chosen": say, "rejected": say}, {"chosen": say[1], "rejected": say[0]}):
        assert rows_of(raw(tmp_path / "d.json", json.dumps(row).encode())) == [row]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", ", ", "; "])
def test_csv_of_other_separators_and_blanks_before_quotes(tmp_path, separator):
    names, texts = ["prompt", "chosen"], ['"q, r; s|t"', '"a ""b"""']
    content = "\n".join(separator.join(values) for values in (names, texts))
    path = raw(tmp_path / "d.csv", content.encode())
    assert rows_of(path) == [{"prompt": "q, r; s|t", "chosen": 'a "b"'}]


@pytest.mark.parametrize(
    ("content", "remedy"),
    [("a,b\r1,2\r", r"tr '\\r' '\\n'"), ('a,b\n"say \\"so\\"",2\n', "is written twice")],
)
def test_csv_that_cannot_be_read_says_what_to_do(tmp_path, content, remedy):
    with pytest.raises(DataError, match=remedy):
        rows_of(raw(tmp_path / "d.csv", content.encode()))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.jsonl", '{"a": "café"}\n{"a": "thé"}\n'),
        ("d.json", '[{"a": "café"},\n {"a": "thé"}]'),
        ("d.json", '{"a":\n "café"}'),
        ("d.csv", "a,b\ncafé,1\n"),
    ],
)
def test_cp1252_is_named_with_the_remedy(tmp_path, name, content):
    path = raw(tmp_path / name, content.encode("cp1252"))
    with pytest.raises(DataError, match="byte 0xE9 at column") as caught:
        rows_of(path)
    assert f"(iconv -f CP1252 -t UTF-8 {name} > utf8_{name})" in str(caught.value)


@pytest.mark.parametrize("indent", [0, 1, 4, "\t"])
@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.json.gz"])
def test_objects_printed_over_several_lines_are_rows(tmp_path, name, indent):
    rows = [{"a": {"b": [{"c": "}\n{"}]}}, {"a": "]"}, {"a": [[], {}]}]
    text = "\n".join(json.dumps(row, indent=indent) for row in rows)
    path = raw(tmp_path / name, b"\xef\xbb\xbf" + text.encode())
    scanned = list(read_rows(path))
    assert [row for _, row in scanned] == rows
    first = len(json.dumps(rows[0], indent=indent).splitlines())
    assert [where for where, _ in scanned[:2]] == [f"{path}:1", f"{path}:{first + 1}"]


def test_a_broken_object_over_several_lines_does_not_take_the_next_one_with_it(tmp_path):
    path = raw(tmp_path / "d.jsonl", b'{\n "a": 1,\n "b": {\n{\n "a": 2\n}\n{\n "a": }\n{"a": 3}\n')
    (at, broken), (_, whole), (_, other), (_, last) = scan_rows(path)
    assert (at, whole, last) == (f"{path}:1", {"a": 2}, {"a": 3})
    assert isinstance(broken, BadRecord)
    assert isinstance(other, BadRecord)


def test_an_object_over_several_lines_has_a_limit(tmp_path, monkeypatch):
    path = raw(tmp_path / "d.jsonl", b"{\n" + b' "a": 1,\n' * 500)
    monkeypatch.setenv("SMORM_LIMIT_LINE_BYTES", "1000")
    with pytest.raises(DataError, match=r"d\.jsonl:1: line: over the limit of 1,000 bytes a line"):
        list(scan_json(path))


@pytest.mark.parametrize("name", ["d.jsonl", "d.ndjson", "d.jsonl.gz"])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_read_whatever_the_file_is_called(tmp_path, name, indent):
    path = raw(tmp_path / name, json.dumps(PAIRS, indent=indent).encode() + b"\n")
    assert list(read_rows(path)) == [(f"{path}:{n}", row) for n, row in enumerate(PAIRS, 1)]


def test_lines_that_are_arrays_are_bad_records_one_by_one(tmp_path):
    path = jsonl(tmp_path / "d.jsonl", [[1, 2], {"a": 1}])
    (_, bad), (_, row) = scan_rows(path)
    assert isinstance(bad, BadRecord)
    assert row == {"a": 1}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["d.json", "d.json.gz", "d.jsonl"])
def test_the_sources_split_chooses_in_an_object_of_splits(tmp_path, name, indent):
    path = raw(tmp_path / name, json.dumps(SPLITS, indent=indent).encode())
    assert list(read_rows(path)) == [(f"{path}:1", {"a": 1}), (f"{path}:2", {"a": 2})]
    assert rows_of(path, split="test") == [{"a": 3}]
    with pytest.raises(DataError, match=r"no split 'dev'; it has: train, test"):
        rows_of(path, split="dev")


def test_one_list_in_an_object_is_the_training_data_and_messages_are_none(tmp_path):
    path = raw(tmp_path / "d.json", b'{"data": [{"a": 1}]}')
    assert rows_of(path) == [{"a": 1}]
    with pytest.raises(DataError, match=r"no split 'test'; it has: data"):
        rows_of(path, split="test")
    held_out = raw(tmp_path / "t.json", b'{"test": [{"a": 1}]}')
    with pytest.raises(DataError, match=r"no split 'train'; it has: test"):
        rows_of(held_out)
    # A list beside other things is data where it has the split's name.
    assert rows_of(raw(path, b'{"version": 2, "train": [{"a": 1}]}')) == [{"a": 1}]
    talk = {"messages": [{"role": "user", "content": "q"}]}
    assert rows_of(jsonl(tmp_path / "m.json", [talk])) == [talk]


def test_folders_find_the_new_kinds_and_a_table_beside_the_data_is_left_alone(tmp_path):
    raw(tmp_path / "one" / "train.csv", CSV.encode())
    assert rows_of(tmp_path / "one") == PAIRS
    zstd(tmp_path / "one" / "test.jsonl.zst", LINES.encode())
    assert rows_of(tmp_path / "one", split="test") == PAIRS
    jsonl(tmp_path / "two" / "pairs.jsonl", PAIRS)
    raw(tmp_path / "two" / "statistics.csv", b"a,b\n1,2\n")
    assert rows_of(tmp_path / "two") == PAIRS


def test_equal_bytes_that_are_read_in_another_way_are_other_contents(tmp_path):
    names = ("d.jsonl", "d.csv", "d.jsonl.zst", "d.csv.zst")
    digests = {contents_of(raw(tmp_path / name, b"a,b\n")).digest() for name in names}
    assert len(digests) == len(names)


def test_a_row_with_one_list_of_objects_is_no_object_of_splits(tmp_path):
    path = tmp_path / "d.jsonl"
    row = {"responses": [{"response": "a"}, {"response": "b"}]}
    path.write_text(f"{json.dumps(row)}\n" * 2)
    assert list(read_rows(path)) == [(f"{path}:1", row), (f"{path}:2", row)]
