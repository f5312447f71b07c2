"""Files that are small to make and large to read: each through the verbs that would read it.

Nothing here is wrong by its form alone: what is asked is that no verb takes more than its time and
2 GiB for it, and that it says in one line what it refuses."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import yaml

from chaos.stage import Stage, config_values
from chaos.trial import Command, Trial, run_in_child, verb

FILE = "{file}"
"""Stands for the bomb in a command."""
_MIB = 1 << 20
_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Bomb:
    """A file's name, what writes it, and which verbs read such files (keys of `_readers`)."""

    name: str
    write: Callable[[Path], None]
    kind: str


def trials(stage: Stage, seed: int, count: int) -> Iterator[Trial]:
    """Each bomb in turn, through a verb drawn among those that read it."""
    readers = _readers(stage)
    every = _bombs(stage)
    Random(f"bombs-{seed}").shuffle(every)
    made: dict[str, Path] = {}
    for index in range(count):
        bomb = every[index % len(every)]
        random = Random(f"bombs-{seed}-{index}")
        # Each is made once, by another process: what writing it takes is not what reading takes.
        if bomb.name not in made:
            made[bomb.name] = _make(stage.folder / "bombs", bomb)
        arguments = random.choice(readers[bomb.kind])
        command = Command(_with_file(made[bomb.name], arguments))
        yield Trial(f"bombs/{bomb.name}/{arguments[0]}", [command], seconds=_SECONDS)


def _make(folder: Path, bomb: Bomb) -> Path:
    target = folder / bomb.name.replace(" ", "-")
    target.parent.mkdir(exist_ok=True)
    ended = run_in_child(lambda _: bomb.write(target), folder)
    if ended.code != 0:
        raise RuntimeError(f"{bomb.name}: {ended.output}")
    return target


def _with_file(path: Path, arguments: Sequence[str]) -> Callable[[Path], None]:
    """The command with the file's path for `FILE`; a server's section names it as its token."""

    def act(folder: Path) -> None:
        section = {"url": "http://127.0.0.1:9", "protocol": "smorm", "token_file": str(path)}
        (folder / "server.yaml").write_text(json.dumps(section), encoding="utf-8")
        verb(*[argument.replace(FILE, str(path)) for argument in arguments])(folder)

    return act


def _readers(stage: Stage) -> dict[str, tuple[tuple[str, ...], ...]]:
    """Of each kind of file the verbs that read it."""
    model, pairs, scores = str(stage.model), str(stage.pairs), str(stage.scores)
    config = stage.folder / "bombs.yaml"
    values = config_values(pairs, stage.rated, "run")
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    short, suite = ("training.max_steps=1",), f"pairs={pairs}"
    data = (
        ("check", FILE),
        ("check", pairs, "--dev", FILE),
        ("check", pairs, "--against", f"own={FILE}"),
        ("score", model, "--input", FILE, "--output", "o.jsonl"),
        ("score", model, "--input", FILE, "--output", "o.jsonl", "--skip-bad"),
        ("eval", model, "--suite", f"pairs={FILE}", "-o", "r.json", "--skip-bad"),
        ("eval", model, "--suite", f"best-of-k={FILE}", "-o", "r.json"),
        ("pick", scores, "--input", FILE, "--best", "-o", "p.jsonl"),
        ("relabel", FILE, "--gold", model, "-o", "p.jsonl"),
        ("view", model, "--data", FILE, "--kind", "learned", "-o", "v.json"),
        ("parity", model, str(stage.exported), "--view", "M", "--conversations", FILE),
        ("train", str(config), f"data.preference={FILE}", *short),
        ("train", str(config), f"data.rated={FILE}", *short),
        ("check", "--config", str(config), f"evaluation.preference={FILE}"),
    )
    configs = (
        ("train", FILE), ("check", "--config", FILE), ("stress", FILE), ("lab", FILE),
        ("eval", FILE, "--suite", suite, "-o", "r.json"),
    )  # fmt: skip
    rated = (
        ("check", FILE),
        ("score", model, "--input", FILE, "--output", "o.jsonl", "--skip-bad"),
        ("eval", model, "--suite", f"rated={FILE}", "-o", "r.json"),
        ("train", str(config), f"data.rated={FILE}", *short),
    )
    results = (
        ("report", FILE, "-o", "p.html", "--no-figures"),
        ("card", model, FILE, "-o", "R.md"),
    )
    scored = (
        ("pick", FILE, "--input", pairs, "--best", "-o", "p.jsonl"),
        ("eval", FILE, "--suite", suite, "-o", "r.json"),
    )
    views = (
        ("export", model, "--view", FILE, "--output", "e"),
        ("score", model, "--input", pairs, "--output", "o.jsonl", "--view", FILE),
    )
    texts = (
        ("score", model, "--input", pairs, "--output", "o.jsonl", "--chat-template", FILE),
        ("eval", "server.yaml", "--suite", suite, "-o", "r.json"),
        ("eval", "http://127.0.0.1:9", "--token-file", FILE, "--suite", suite, "-o", "r.json"),
    )
    models = (
        ("score", FILE, "--input", pairs, "--output", "o.jsonl"),
        ("card", FILE, "-o", "R.md"),
        ("export", FILE, "--view", "F", "--output", "e"),
    )
    everything = (*data, *configs, *results, *scored, *views, *texts, *models)
    return {
        "data": data, "config": configs, "rated": rated, "result": results, "scores": scored,
        "view": views, "text": texts, "any": everything,
    }  # fmt: skip


def _bombs(stage: Stage) -> list[Bomb]:
    """Every bomb; none is written yet."""
    pair = stage.rows(stage.pairs, 1)[0]
    row = json.dumps(pair).encode() + b"\n"
    deep, digits = b"[" * 5000 + b"]" * 5000, b"9" * 4301
    bombs = [
        Bomb("a line of 30 MB.jsonl", _of(b'{"prompt": "p", "chosen": "', b"a " * 500_000, 30,
                                         b'", "rejected": "b"}\n', row), "data"),
        Bomb("a line of 31 MB of objects.jsonl", _of(b'{"prompt": "p", "chosen": "c", "rejected": '
             b'"r", "meta": [{}', b",{}" * 100_000, 103, b"]}\n", row), "data"),
        Bomb("a line of 31 MB of numbers.jsonl", _of(b'{"prompt": "p", "chosen": "c", "rejected": '
             b'"r", "meta": [0', b",1" * 100_000, 155, b"]}\n", row), "data"),
        Bomb("a line of 31 MB of keys.jsonl", _keys, "data"),
        Bomb("a line of 200 MB.jsonl", _of(b'{"prompt": "', b"a" * _MIB, 200, b'"}'), "data"),
        Bomb("a word of 3 MB.jsonl", _of(b'{"prompt": "p", "chosen": "', b"a" * _MIB, 3,
                                         b'", "rejected": "b"}\n', row), "data"),
        Bomb("a word of 31 MB.csv", _of(b"prompt,chosen,rejected\np,", b"a" * _MIB, 31, b",b\n"),
             "data"),
        Bomb("blank lines.jsonl", _of(row, b"\n" * _MIB, 100, row), "data"),
        Bomb("blank lines.csv", _of(b"prompt,chosen,rejected\n", b"\n" * _MIB, 100, b"a,b,c\n"),
             "data"),
        Bomb("blank lines.json", _of(b"[" + row, b"\n" * _MIB, 100, b"]"), "data"),
        Bomb("blank lines.jsonl.gz", _packed_blank, "data"),
        Bomb("spaces.jsonl", _of(row, b" " * _MIB, 100, b"\n", row), "data"),
        Bomb("an open quote.csv", _of(b'prompt,chosen,rejected\n"', b"a\n" * (_MIB // 2), 100),
             "data"),
        Bomb("many columns.csv", _of(b"prompt,chosen,rejected", b",a" * 100_000, 10, b"\na,b,c\n"),
             "data"),
        Bomb("empty objects.json", _of(b"[{}", b",{}" * 100_000, 4, b"]"), "data"),
        Bomb("an object of many keys.json", _of(b'{"a": [', b'{"a":1},' * 100_000, 10, b"{}]}"),
             "data"),
        Bomb("a message a word.jsonl", _messages, "data"),
        Bomb("a message a word as text.jsonl", _messages_as_text, "data"),
        Bomb("answers without end.jsonl", _answers, "data"),
        Bomb("cells of 200 MB.parquet", _large_cell, "data"),
        Bomb("cells of 30 MB.parquet", _large_cells, "data"),
        Bomb("cells of many numbers.parquet", _large_lists, "data"),
        Bomb("many columns.parquet", _many_columns, "data"),
        Bomb("deep.jsonl", _of(b'{"prompt": "p", "chosen": "c", "rejected": "r", "meta": ', deep, 1,
                               b"}\n", row), "data"),
        Bomb("digits.jsonl", _of(b'{"prompt": "p", "chosen": "c", "rejected": "r", "margin": ',
                                 digits, 1, b"}\n", row), "data"),
        Bomb("20,000 attributes.jsonl", _attributes, "rated"),
        Bomb("20,000 attributes, others a row.jsonl", _other_attributes, "rated"),
        Bomb("aliases.yaml", _aliases, "config"),
        Bomb("aliases in place.yaml", _merged_aliases, "config"),
        Bomb("deep.yaml", _of(b"model: ", deep, 1), "config"),
        Bomb("deep by lines.yaml", _deep_lines, "config"),
        Bomb("digits.yaml", _of(b"training: {seed: ", digits, 1, b"}\n"), "config"),
        Bomb("keys.yaml", _of(b"", b"k: 1\n" * 1000, 1000), "config"),
        Bomb("deep.json", _of(b'{"kind": ', deep, 1, b"}"), "any"),
        Bomb("digits.json", _of(b'{"kind": ', digits, 1, b"}"), "any"),
        Bomb("many metrics.json", _metrics, "result"),
        Bomb("many results.json", _results, "result"),
        Bomb("long names.json", _long_names, "result"),
        Bomb("a line of 31 MB of scores.jsonl", _of(b'{"id": "0", "preference": 1, "attributes": '
             b'{}, "view": "F", "responses": [1', b",1" * 100_000, 155, b"]}\n"), "scores"),
        Bomb("deep scores.jsonl", _of(b'{"id": "0", "preference": ', deep, 1, b"}\n"), "scores"),
        Bomb("many weights.json", _weights, "view"),
        Bomb("100 MB of text", _of(b"", b"a" * _MIB, 100), "text"),
    ]  # fmt: skip
    devices = ("", ".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".jsonl.zst", ".yaml")
    bombs += [Bomb(f"device{ending}", _device, "any") for ending in devices]
    bombs += [Bomb(f"device as data{ending}", _device, "data") for ending in devices[:7]]
    bombs += [Bomb(f"device as {kind}.json", _device, kind) for kind in ("text", "view", "scores")]
    return bombs


def _of(start: bytes, piece: bytes, count: int, *rest: bytes) -> Callable[[Path], None]:
    """What writes a piece that many times, between a start and the rest."""

    def write(path: Path) -> None:
        with path.open("wb") as stream:
            stream.write(start)
            for _ in range(count):
                stream.write(piece)
            stream.writelines(rest)

    return write


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _packed_blank(path: Path) -> None:
    with gzip.open(path, "wb", 1) as stream:
        for _ in range(1000):
            stream.write(b"\n" * _MIB)


def _keys(path: Path) -> None:
    with path.open("wb") as stream:
        stream.write(b'{"prompt": "p", "chosen": "c", "rejected": "r"')
        for number in range(900_000):
            stream.write(b',"key%d":%d' % (number, number))
        stream.write(b"}\n")


def _messages(path: Path) -> None:
    turns = [{"role": ("user", "assistant")[n % 2], "content": "a"} for n in range(200_000)]
    path.write_text(json.dumps({"messages": turns}) + "\n", encoding="utf-8")


def _messages_as_text(path: Path) -> None:
    turns = [{"role": ("user", "assistant")[n % 2], "content": "a"} for n in range(200_000)]
    path.write_text(json.dumps({"messages": json.dumps(turns)}) + "\n", encoding="utf-8")


def _answers(path: Path) -> None:
    """Ranked answers, which would make fifty million pairs."""
    answers = [f"answer {n}" for n in range(10_000)]
    row = {"prompt": "p", "responses": answers, "scores": list(range(10_000))}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")


def _large_cell(path: Path) -> None:
    _write_table(path, {"chosen": ["a" * (200 * _MIB)]}, 1)


def _large_cells(path: Path) -> None:
    """Each is within the limit of a cell; 300 of them lie in one group of rows."""
    _write_table(path, {"chosen": ["a" * (30 * _MIB)] * 60}, 60)


def _large_lists(path: Path) -> None:
    _write_table(path, {"meta": [[0] * 20_000_000]}, 1)


def _many_columns(path: Path) -> None:
    _write_table(path, {f"c{number}": ["a"] for number in range(20_000)}, 1)


def _write_table(path: Path, columns: dict[str, list[object]], rows: int) -> None:
    import pyarrow
    import pyarrow.parquet

    texts = {name: ["text"] * rows for name in ("prompt", "chosen", "rejected")}
    table = pyarrow.table({**texts, **columns})
    pyarrow.parquet.write_table(table, path, compression="zstd")


def _attributes(path: Path) -> None:
    scores = {f"attribute {number}": 1 for number in range(20_000)}
    row = json.dumps({"prompt": "p", "response": "r", "scores": scores})
    path.write_text(f"{row}\n" * 20, encoding="utf-8")


def _other_attributes(path: Path) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for line in range(400):
            scores = {f"attribute {line}-{number}": 1 for number in range(50)}
            row = {"prompt": "p", "response": f"r {line}", "scores": scores}
            stream.write(json.dumps(row) + "\n")


def _aliases(path: Path) -> None:
    """747 bytes that write out to gigabytes."""
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{','.join(['*' + before] * 9)}]")
    path.write_text("\n".join(lines), encoding="utf-8")


def _merged_aliases(path: Path) -> None:
    lines = ["a: &a {x: 1}"]
    for before, name in zip("abcdefghijklmn", "bcdefghijklmno", strict=True):
        lines.append(f"{name}: &{name} {{<<: [{','.join(['*' + before] * 9)}]}}")
    path.write_text("\n".join(lines), encoding="utf-8")


def _deep_lines(path: Path) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for level in range(600):
            stream.write(" " * level + "a:\n")


def _metrics(path: Path) -> None:
    entry = {"value": 0.5, "n": 10, "low": 0.4, "high": 0.6}
    metrics = {f"metric {number}": entry for number in range(200_000)}
    result = {"kind": "eval", "suite": "pairs", "model": "m", "view": "F", "metrics": metrics}
    path.write_text(json.dumps(result), encoding="utf-8")


def _results(path: Path) -> None:
    results = []
    for number in range(20_000):
        metrics = {"accuracy": {"value": 0.5, "n": 10, "low": 0.4, "high": 0.6}}
        results.append({"kind": "eval", "suite": f"pairs/{number}", "model": f"m{number}",
                        "view": "F", "metrics": metrics})  # fmt: skip
    path.write_text(json.dumps(results), encoding="utf-8")


def _long_names(path: Path) -> None:
    metrics = {"accuracy": {"value": 0.5, "n": 10, "low": 0.4, "high": 0.6}}
    name = "n" * (5 * _MIB)
    result = {"kind": "eval", "suite": name, "model": name, "view": name, "metrics": metrics}
    path.write_text(json.dumps(result), encoding="utf-8")


def _weights(path: Path) -> None:
    weights = {f"attribute {number}": 1.0 for number in range(500_000)}
    path.write_text(json.dumps(weights), encoding="utf-8")
