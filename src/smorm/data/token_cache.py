"""Tokens of a source, kept under the fingerprint of all that decides them.

An entry of the cache is a sealed folder (`smorm.files.whole_folder`): a killed writer leaves
nothing that looks like one, every byte is checked before it is used, and a damaged entry is written
anew. Two runs that write the same entry at once both end with a whole one. The key knows no path:
data that was moved is found again, and its places are told by the names of today.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import orjson

import smorm.data
import smorm.text
from smorm import files
from smorm.data.contents import Contents, contents_of
from smorm.data.encode import Encoder
from smorm.data.formats import FORMATS
from smorm.data.token_building import Wanted, pass_on_quarantine, write_tokens
from smorm.data.token_store import TokenStore, open_store
from smorm.data.token_worker import tokenizer_digest
from smorm.data.tokenising import Tokeniser
from smorm.errors import CheckpointError, DataError, OutputError

log = logging.getLogger(__name__)

WORTH_KEEPING = 8 << 20
"""Bytes of a source from which `auto` keeps its tokens: less than that takes a few seconds."""
_BEHIND_TOKENS = {"mixing", "grouping", "scaling", "token_views"}
"""Modules that work on tokens or ratings: a change of theirs leaves the tokens as they are."""
_TORN_AFTER = 24 * 3600.0


def tokens_of(wanted: Wanted, tokeniser: Tokeniser, cache: str | None) -> TokenStore:
    """The source's tokens: mapped from the cache, or made now.

    Args:
        cache: a folder; `auto` for the user's cache folder and large sources only; None for
            tokens that are kept for this run alone.

    Raises:
        DataError, ConfigError: as `read_preferences` and `read_rated`; over-long or not renderable.
        OutputError: the tokens or the quarantine file could not be written.
    """
    contents = contents_of(wanted.source)
    folder = _cache_folder(cache, contents)
    if folder is None:
        return _for_this_run(wanted, contents, tokeniser)
    target = folder / f"tokens-{_key(wanted, contents, tokeniser.encoder)}"
    store = _cached(target, contents.names)
    if store is not None:
        path, count = wanted.source.path, store.records
        log.info("tokens: read from cache %s: %s, %d records", target, path, count)
        pass_on_quarantine(target, wanted.quarantine, store.renamed)
        return store
    _remove_torn(folder)
    return _made(target, wanted, contents, tokeniser)


def _cache_folder(cache: str | None, contents: Contents) -> Path | None:
    """Where this source's tokens are kept, if they are."""
    if cache is None or not contents.files:
        return None
    if cache != "auto":
        return Path(cache).expanduser()
    if contents.size < WORTH_KEEPING:
        return None
    folder = default_cache()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.warning("tokens: %s: %s: nothing is kept for the next run", folder, error.strerror)
        return None
    return folder


def default_cache() -> Path:
    """`$SMORM_CACHE`, or `smorm` in the user's cache folder."""
    if own := os.environ.get("SMORM_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "smorm"


def _key(wanted: Wanted, contents: Contents, encoder: Encoder) -> str:
    """Fingerprint of all that decides the tokens, and of nothing else."""
    options = asdict(wanted.source)
    del options["path"]
    columns = options["attributes"]  # the order of names is the order of the model's rows
    options["attributes"] = [*columns.items()] if isinstance(columns, dict) else columns
    decisive = {
        "contents": contents.digest(),
        "options": options,
        "kind": wanted.kind,
        "on_bad_record": wanted.on_bad_record,
        "renderer": encoder.renderer.fingerprint,
        "tokenizer": tokenizer_digest(encoder.renderer.tokenizer),
        "max_tokens": encoder.max_tokens,
        "overlong": encoder.overlong,
        "code": _code(),
        "format": _format_code(wanted.source.format),
    }
    return hashlib.sha256(orjson.dumps(decisive, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


@functools.cache
def _code() -> str:
    """Hash of the code that reads and renders, and the versions of the libraries that it uses."""
    digest = hashlib.sha256()
    for package in (smorm.data, smorm.text):
        for path in sorted(Path(str(package.__file__)).parent.rglob("*.py")):
            if path.stem in _BEHIND_TOKENS:
                continue
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    for library in ("tokenizers", "transformers", "jinja2"):
        digest.update(f"{library} {version(library)}\n".encode())
    return digest.hexdigest()


def _format_code(name: str) -> str:
    """Hash of the module that parses a named format: it may be another package's."""
    if name == "auto":
        return ""
    try:
        return files.sha256(Path(str(inspect.getsourcefile(FORMATS[name].parse))))
    except (TypeError, OSError):
        # code without a file may change unseen: what it parsed is never found again
        return os.urandom(16).hex()


def _cached(target: Path, names: Sequence[str]) -> TokenStore | None:
    """The entry if every byte of it is as it was written; a damaged one is told."""
    if not target.exists():
        return None
    try:
        files.verify_folder(target)
        return open_store(target, names)
    except (CheckpointError, DataError, KeyError, OSError) as error:
        log.warning("tokens: the cache is damaged: %s. Tokenising again.", error)
        return None


class _AlreadyThere(Exception):  # noqa: N818  (a state: another run was quicker)
    pass


def _made(target: Path, wanted: Wanted, contents: Contents, tokeniser: Tokeniser) -> TokenStore:
    try:
        with files.whole_folder(target) as scratch:
            write_tokens(scratch, wanted, contents, tokeniser)
            contents.refuse_change()
            if _whole(target):
                raise _AlreadyThere
    except _AlreadyThere:
        pass
    except OutputError:
        if not _whole(target):  # else another run published in the very same moment
            raise
    store = open_store(target, contents.names)
    log.info("tokens: kept in cache %s", target)
    return store


def _whole(target: Path) -> bool:
    try:
        files.verify_folder(target)
    except CheckpointError:
        return False
    return True


def _for_this_run(wanted: Wanted, contents: Contents, tokeniser: Tokeniser) -> TokenStore:
    """Tokens in a temporary folder, which is unlinked as soon as it is mapped."""
    scratch = Path(tempfile.mkdtemp(prefix="smorm-tokens-"))
    try:
        with files.named_errors(scratch):
            write_tokens(scratch, wanted, contents, tokeniser)
        return open_store(scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _remove_torn(folder: Path) -> None:
    """Remove what killed writers left a day ago; a younger one may be at work still."""
    for torn in folder.glob(".tokens-*"):
        try:
            latest = max(path.stat().st_mtime for path in (torn, *torn.rglob("*")))
        except OSError:  # it was finished, or removed by another run
            continue
        if time.time() - latest > _TORN_AFTER:
            shutil.rmtree(torn, ignore_errors=True)
