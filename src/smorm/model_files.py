"""The files of a model, an adapter or a tokenizer, before a library opens them.

Whoever wrote such a folder may be anybody. So its files are regular and of bounded size, its
settings are JSON objects, and nothing in them asks to run code. A hub id is fetched first, and then
is a folder like any other."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smorm.errors import ModelError, first_line
from smorm.file_kinds import HEAD, other_kind
from smorm.limits import deeper_than, limit, read_limited, refusal

# Weights in safetensors, configs and tokenizers; never code, pickles or other frameworks' weights.
_SETTINGS = ("*.json", "*.jinja", "*.model", "*.txt")
_WEIGHTS = "*.safetensors"
_READ = {".json", ".jinja", ".model", ".txt", ".safetensors"}
_OF_TOKENIZERS = {"tokenizer", "vocab", "merges", "added_tokens", "special_tokens_map", "spiece"}
# Keys by which a configuration asks for code that is not in this installation.
_CODE = ("auto_map", "custom_generate", "trust_remote_code", "megatron_config")
# Part of keys that name an implementation: one with an owner before a slash comes from the hub.
_KERNEL = "_implementation"


def local_folder(name: Path | str, *, weights: bool = True) -> Path:
    """The folder of that name, or of the hub's model of that id, with or without its weights. Its
    files are checked as by `check_files`. `ModelError`: there is none, or it is refused."""
    folder, text = Path(name), str(name)
    if not os.path.isdir(folder):
        if text.startswith(("/", ".", "~")) or text.count("/") > 1 or os.path.exists(folder):
            raise ModelError(f"{text}: no such folder")
        folder = fetch(text, weights=weights)
    check_files(folder)
    return folder


def fetch(name: str, *, weights: bool = True) -> Path:
    """The local folder of a hub model, downloaded into the hub's own cache if need be."""
    from huggingface_hub import snapshot_download

    patterns = [*_SETTINGS, _WEIGHTS] if weights else list(_SETTINGS)
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # offline, missing, gated: each has a class of its own
        raise ModelError(
            f"{name}: no such local folder, and from the Hugging Face hub it could not be fetched "
            f"(offline, or not there): {first_line(error)}"
        ) from error


def check_files(folder: Path) -> None:
    """Refuse a folder with a file that is none (a device would never end, and a pipe never begin),
    with settings that are no JSON object, a pointer in the stead of a file, or code. Nothing is
    loaded."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise ModelError(f"{folder}: cannot be read: {error.strerror}") from error
    for path in paths:
        if path.suffix in _READ:
            refuse_irregular(path)
            _refuse_other_kinds(path)
        if path.stem in _OF_TOKENIZERS and path.stat().st_size > limit("tokenizer_bytes"):
            raise ModelError(f"{path}: {refusal('tokenizer_bytes', path.stat().st_size)}")
    for path in paths:
        if path.name == "custom_generate":
            _refuse_code(path, "it")
        # Under any version's name: transformers reads config.4.0.0.json where config.json says so.
        if path.suffix == ".json" and "config" in path.name.lower():
            _refuse_code_in(path)


def read_settings(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model folder; `ModelError`: missing, not JSON, too large."""
    try:
        content = read_limited(path, "settings_bytes", ModelError)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        # As transformers reads it: NaN and infinity are numbers there, and keys may be escaped.
        values = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not valid JSON: {first_line(error)}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path}: expected a JSON object")
    if deeper_than(values, limit("depth")):
        raise ModelError(f"{path}: nested deeper: {refusal('depth')}")
    return values


def entries(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key of an object and of all that it holds, with its value."""
    level: list[Any] = [values]
    while level:
        below: list[Any] = []
        for node in level:
            children = node
            if isinstance(node, dict):
                yield from node.items()
                children = node.values()
            below += [child for child in children if isinstance(child, dict | list)]
        level = below


def refuse_irregular(path: Path) -> None:
    """`ModelError` for what is no file that can be read. Asked before it is opened: opening a pipe
    waits for somebody to write into it."""
    try:
        mode = path.stat().st_mode
    except OSError as error:  # a link to nothing, or to itself
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise ModelError(f"{path}: not a regular file")
    if not os.access(path, os.R_OK):
        raise ModelError(f"{path}: cannot be read: permission denied")


def _refuse_other_kinds(path: Path) -> None:
    """`ModelError` for a Git LFS pointer or a web page under a file's name."""
    with path.open("rb") as file:
        kind = other_kind(file.read(HEAD))
    if kind:
        raise ModelError(f"{path}: the file is {kind}")


def _refuse_code_in(path: Path) -> None:
    for key, value in entries(read_settings(path)):
        if key in _CODE and value:
            _refuse_code(path, key)
        if _KERNEL in key and "/" in str(value):
            _refuse_code(path, key)


def _refuse_code(path: Path, what: str) -> None:
    raise ModelError(
        f"{path}: {what} asks to run code of the model: this is refused. Where transformers has "
        f"its architecture, take {what} out; else serve it with its own program and give its http "
        "address as the reward"
    )
