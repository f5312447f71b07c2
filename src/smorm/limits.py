"""Every limit on what is read, in one place; `docs/limits.md` is this table for people.

A limit acts before any configuration is read, so what raises it is a variable of the environment:
`SMORM_LIMIT_LINE_BYTES=64MiB`. Every refusal names the limit and its variable."""

import contextlib
import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smorm.errors import ConfigError, DataError, SmormError

PREFIX = "SMORM_LIMIT_"
_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30
_FACTORS = {
    "": 1, "b": 1, "k": _KIB, "m": _MIB, "g": _GIB, "kib": _KIB, "mib": _MIB, "gib": _GIB,
    "kb": 10**3, "mb": 10**6, "gb": 10**9,
}  # fmt: skip
_LARGEST = 2**62


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that is read of something.

    Attributes:
        default: in `unit`.
        unit: `bytes`, or what is counted (`attributes`, `seconds`).
        of: what it holds for, as the end of `the limit of 32 MiB ...`; may be empty.
        bounds: what it bounds, as a sentence for the documentation.
    """

    default: int
    unit: str
    of: str
    bounds: str

    def shown(self, amount: int) -> str:
        """An amount as the documentation and the refusals write it."""
        if self.unit != "bytes":
            return f"{amount:,} {self.unit}".rstrip()
        for factor, name in ((_GIB, "GiB"), (_MIB, "MiB"), (_KIB, "KiB")):
            if amount and amount % factor == 0:
                return f"{amount // factor:,} {name}"
        return f"{amount:,} bytes"


LIMITS: Mapping[str, Limit] = {
    # of data
    "line_bytes": Limit(
        32 * _MIB, "bytes", "a line", "One line of a JSON lines or CSV file, and one row of it."
    ),
    "cell_bytes": Limit(
        32 * _MIB, "bytes", "a cell", "One value of a Parquet file or a saved dataset, lists and "
        "objects with all that they hold.",
    ),
    "batch_bytes": Limit(
        _GIB, "bytes", "a batch", "Memory that the next rows of a Parquet file or a saved dataset "
        "may take when they are unpacked (on Linux).",
    ),
    "row_values": Limit(
        1_000_000, "values", "a row", "Values in one row, nested ones counted: the messages of a "
        "conversation, the numbers of a list."
    ),
    "json_bytes": Limit(
        128 * _MIB, "bytes", "a JSON value", "One value of a `.json` file that is no array of "
        "rows, such as an object of splits.",
    ),
    "json_values": Limit(
        4_000_000, "values", "a JSON value", "Values in it, nested ones counted."
    ),
    "depth": Limit(100, "levels", "", "Lists and objects inside one another, in data and YAML."),
    "digits": Limit(400, "digits", "a number", "Digits of one number in YAML and in JSON text."),
    "row_pairs": Limit(
        100_000, "pairs", "a row", "Pairs that one row of ranked answers may make."
    ),
    "rating": Limit(10**9, "", "a rating", "The size of a rating or a margin, of either sign."),
    "columns": Limit(1000, "columns", "a table", "Columns of a CSV or Parquet file."),
    "messages": Limit(10_000, "messages", "a conversation", "Messages of one conversation."),
    "conversation_bytes": Limit(
        4 * _MIB, "bytes", "a conversation", "One conversation as the template writes it, before "
        "it is made into tokens."
    ),
    "gzip_ratio": Limit(
        256, "times", "its size", "What a gzip file may unpack to, over its own size."
    ),
    "zstd_ratio": Limit(
        1024, "times", "its size", "The same of a zstd file and of a Parquet file's columns."
    ),
    "unpacked_bytes": Limit(
        64 * _MIB, "bytes", "unpacked", "What any packed file may unpack to, whatever its ratio."
    ),
    "attributes": Limit(1000, "attributes", "", "Attributes of a record, a source or a model."),
    "name_characters": Limit(200, "characters", "a name", "The name of an attribute or column."),
    # of configurations and other small files
    "config_bytes": Limit(256 * _KIB, "bytes", "a config", "One YAML file."),
    "config_values": Limit(
        50_000, "values", "a config", "Values of one YAML file, with its aliases written out."
    ),
    "tokens": Limit(
        1 << 24, "tokens", "a conversation", "The highest value that `data.max_tokens` and "
        "`--max-tokens` may have.",
    ),
    "token_bytes": Limit(64 * _KIB, "bytes", "a token's file", "A file that holds a token."),
    "template_bytes": Limit(_MIB, "bytes", "a chat template", "One chat template."),
    "result_bytes": Limit(
        64 * _MIB, "bytes", "a JSON file", "One result file, card or other JSON file of smorm."
    ),
    "results": Limit(2000, "results", "a page", "Results on one page or card."),
    "suites": Limit(100, "suites", "a page", "Suites among them; each has a figure."),
    # of model folders
    "labels": Limit(10_000, "labels", "a model", "Rows of a model's score head."),
    "layers": Limit(1000, "layers", "a model", "Layers that a model's `config.json` may name."),
    "experts": Limit(4096, "experts", "a layer", "Experts that it may name."),
    "positions": Limit(1 << 27, "positions", "a model", "Positions that it may name."),
    "buffer_values": Limit(
        1 << 30, "numbers", "a model", "Numbers that a model makes at its start and no file holds, "
        "such as masks over all pairs of positions.",
    ),
    "settings_bytes": Limit(
        16 * _MIB, "bytes", "a JSON file of a model", "One `config.json`, index of weights or "
        "other settings of a model, a tokenizer or adapters.",
    ),
    "tokenizer_bytes": Limit(256 * _MIB, "bytes", "a tokenizer's file", "One `tokenizer.json`."),
    "header_bytes": Limit(
        32 * _MIB, "bytes", "a header", "The names and shapes at the start of a safetensors file."
    ),
    "probe_seconds": Limit(
        10, "seconds", "a probe", "Processor time in which a chat template, a tokenizer or an "
        "adapter's patterns must show what they do, before they are used.",
    ),
    "probe_bytes": Limit(2 * _GIB, "bytes", "a probe", "Memory in which they must do so."),
    "render_seconds": Limit(
        10, "seconds", "a conversation", "Processor time of a chat template for one conversation."
    ),
    "added_tokens": Limit(
        50_000, "tokens", "a tokenizer", "Tokens that a tokenizer has beside its vocabulary."
    ),
    "token_characters": Limit(
        10_000, "characters", "a token", "A token of a vocabulary, and the longest word that a "
        "tokenizer looks for whole.",
    ),
    "token_growth": Limit(
        128, "times", "its length", "What a tokenizer may make of a text: characters by its "
        "normalizer, and tokens.",
    ),
}  # fmt: skip


def limit(name: str) -> int:
    """The limit that holds now: what its variable says, else the default. Loops ask once, before
    they begin. `ConfigError`: the variable holds no amount."""
    text = os.environ.get(setting(name))
    if text is None:
        return LIMITS[name].default
    return _parsed(name, text)


def setting(name: str) -> str:
    """The variable that raises a limit."""
    return PREFIX + name.upper()


def refusal(name: str, size: float | None = None) -> str:
    """What a message says of something over a limit; `size` is its amount, where it is known."""
    about = LIMITS[name]
    amount = "" if size is None else f"{f'{size:,} {about.unit}'.rstrip()}, "
    most = f"{about.shown(limit(name))} {about.of}".rstrip()
    return f"{amount}over the limit of {most}; {setting(name)} raises it"


def deeper_than(value: object, levels: int) -> bool:
    """Whether lists and objects of a JSON value lie in one another at more levels than that."""
    containers: list[Any] = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        inner: list[Any] = []
        for each in containers:
            children = each.values() if isinstance(each, dict) else each
            inner += [child for child in children if type(child) in (dict, list)]
        if not inner:
            return False
        containers = inner
    return True


def read_limited(path: Path | str, name: str, error_type: type[SmormError] = DataError) -> bytes:
    """The content of a small file. An error of that type where it is longer than the limit, which
    `/dev/zero` is as well; the system's own errors are the caller's."""
    most = limit(name)
    with open(path, "rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise error_type(f"{path}: {refusal(name)}")
    return content


@contextlib.contextmanager
def bounded_memory(name: str) -> Iterator[None]:
    """A library that asks for more memory than the limit gets a `MemoryError`. For the whole
    process, so for short calls alone; Linux, elsewhere nothing is bounded."""
    try:
        # The sixth number of `statm` is what the limit counts, in pages.
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[5])
    except OSError:
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = pages * resource.getpagesize() + limit(name)
    if soft != resource.RLIM_INFINITY:
        most = min(most, soft)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def refuse_unknown_settings() -> None:
    """`ConfigError` for a variable that looks like a limit's and is none, or holds no amount."""
    for variable, text in os.environ.items():
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in LIMITS:
            near = difflib.get_close_matches(name, LIMITS, n=1, cutoff=0)
            raise ConfigError(f"{variable}: no limit has that name; did you mean {setting(*near)}?")
        _parsed(name, text)


def _parsed(name: str, text: str) -> int:
    match = re.fullmatch(r"\s*([0-9_,]{1,30})\s*([kmg]?i?b?)\s*", text, re.IGNORECASE)
    is_size = LIMITS[name].unit == "bytes"
    if match is not None and (is_size or not match[2]) and match[2].lower() in _FACTORS:
        digits = match[1].replace("_", "").replace(",", "")
        amount = int(digits or 0) * _FACTORS[match[2].lower()]
        if 0 < amount <= _LARGEST:
            return amount
    example = "64MiB" if is_size else str(2 * LIMITS[name].default)
    expected = f"an amount of {LIMITS[name].unit} above 0, such as {example}"
    raise ConfigError(f"{setting(name)}: {text[:100]!r}, expected {expected}")
