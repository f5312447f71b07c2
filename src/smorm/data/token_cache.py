"""A source becomes tokens, stored under the fingerprint of all that decides them.

An entry of the cache is a sealed folder (`smorm.files.atomic_folder`). Its key knows no path: data
that was moved is found again, and its records stand under the names of today."""

import functools
import hashlib
import inspect
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import orjson

import smorm.data
import smorm.text
from smorm import files
from smorm.arrays import Tokens
from smorm.data.augment import Augment, augmented
from smorm.data.census import Census, DropReason
from smorm.data.encode import Conversation, Encoder, tokenizer_digest
from smorm.data.formats import FORMATS
from smorm.data.readers import Contents
from smorm.data.reading import OnBad, Source, quarantine_file, read_records
from smorm.data.records import Preference, Rated, Record, prompt_hash
from smorm.data.token_store import QUARANTINE, StoreKind, StoreWriter, TokenStore, open_store
from smorm.data.tokeniser import Tokeniser
from smorm.errors import CheckpointError, DataError, OutputError
from smorm.printing import get_logger

log = get_logger(__name__)

PROGRESS_EVERY = 100_000
# Bytes of a source from which `auto` caches its tokens: less than that takes a few seconds.
CACHED_FROM = 8 << 20
# Modules that work on tokens or ratings: a change of theirs leaves the tokens as they are.
_AFTER_TOKENS = {"mixing", "scaling", "pairing"}


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A source as tokens. Bad records stop it, or go into the run's file `quarantine` (`skip`),
    from a cached source as well. `augment` adds extra pairs to it."""

    source: Source
    kind: StoreKind
    on_bad_record: OnBad
    quarantine: Path
    augment: Augment | None = None


def tokens_of(request: TokenRequest, tokeniser: Tokeniser, cache: str | None) -> TokenStore:
    """The source's tokens: mapped from the cache, or made now.

    `cache` is a folder, `auto` (the user's cache folder, for large sources only) or None (tokens
    that last for this run). Raises what `read_records` does, and `OutputError`."""
    source = request.source
    contents = source.contents()
    folder = _cache_folder(cache, contents)
    if folder is None:
        return _for_this_run(request, contents, tokeniser)
    target = folder / f"tokens-{_key(request, contents, tokeniser.encoder)}"
    store = _cached(target, contents.names)
    if store is not None:
        log.info("tokens: read from cache %s: %s, %d records", target, source.path, store.records)
        copy_quarantine(target, request.quarantine, store.renamed)
        return store
    try:
        with files.atomic_folder(target) as scratch:
            write_tokens(scratch, request, contents, tokeniser)
            # the key was computed from the bytes at the start
            contents.refuse_change()
    except OutputError:
        # Another run that published the same entry in the very same moment does no harm. One that
        # did so before is replaced by equal bytes, and keeps those that it has mapped.
        if _cached(target, contents.names) is None:
            raise
    log.info("tokens: kept in cache %s", target)
    return open_store(target, contents.names)


def _cache_folder(cache: str | None, contents: Contents) -> Path | None:
    if cache is None or not contents.is_known:
        return None
    if cache != "auto":
        return Path(cache).expanduser()
    if contents.size < CACHED_FROM:
        return None
    folder = default_cache()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # nobody asked for this folder: the run goes on without
        log.warning("tokens: %s: %s: nothing is cached for the next run", folder, error.strerror)
        return None
    return folder


def default_cache() -> Path:
    """`$SMORM_CACHE`, or `smorm` in the user's cache folder."""
    habit = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "smorm")
    return Path(os.environ.get("SMORM_CACHE") or habit).expanduser()


def _key(request: TokenRequest, contents: Contents, encoder: Encoder) -> str:
    options = asdict(request.source)
    del options["path"]
    # as a list: the order of names is the order of the model's rows, and keys are sorted below
    if isinstance(options["attributes"], dict):
        options["attributes"] = list(options["attributes"].items())
    decisive = {
        "contents": contents.digest(),
        "options": options,
        "kind": request.kind,
        "on_bad_record": request.on_bad_record,
        "renderer": encoder.renderer.fingerprint,
        "tokenizer": tokenizer_digest(encoder.renderer.tokenizer),
        "max_tokens": encoder.max_tokens,
        "overlong": encoder.overlong,
        # rather too much of the code than too little: a stale entry would be trained on unseen
        "code": _code(),
        "format": _format_code(request.source.format),
    }
    if request.augment is not None:
        decisive["augment"] = asdict(request.augment)
    return hashlib.sha256(orjson.dumps(decisive, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


@functools.cache
def _code() -> str:
    """Hash of the code that reads and renders, and the versions of the libraries that it uses."""
    digest = hashlib.sha256()
    for package in (smorm.data, smorm.text):
        for path in sorted(Path(str(package.__file__)).parent.rglob("*.py")):
            if path.stem not in _AFTER_TOKENS:
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
    if not target.exists():
        return None
    try:
        files.verify_folder(target)
        return open_store(target, names)
    except (CheckpointError, DataError, KeyError, OSError) as error:
        log.warning("tokens: the cache is damaged: %s. Tokenising again.", error)
        return None


def _for_this_run(request: TokenRequest, contents: Contents, tokeniser: Tokeniser) -> TokenStore:
    # an unlinked file lives as long as it is mapped: nothing is left behind, however the run ends
    with files.scratch_folder("smorm-tokens") as scratch, files.named_errors(scratch):
        write_tokens(scratch, request, contents, tokeniser)
        return open_store(scratch)


def write_tokens(
    folder: Path, request: TokenRequest, contents: Contents, tokeniser: Tokeniser
) -> None:
    """Read, tokenise and write the source; in memory are a few chunks of its records."""
    started, count = time.monotonic(), 0
    path, on_bad = request.source.path, request.on_bad_record
    # Two censuses: the reader runs ahead by as many chunks as there are processes, and the order
    # of what is counted must not depend on their number.
    reading, encoding = Census(), Census()
    records = read_records(request.source, request.kind, reading, on_bad, folder / QUARANTINE)
    if request.augment is not None:
        records = augmented(records, request.augment, reading)
    try:
        with StoreWriter(folder, request.kind, contents.names) as writer:
            for record, outcome in tokeniser.tokenised(records, _conversation, contents.size):
                count += 1
                if count % PROGRESS_EVERY == 0:
                    log.info("tokens: %s: %d records so far", path, count)
                _append(writer, record, outcome.resolve(record.where, encoding, on_bad), encoding)
            reading.merge(encoding)
            writer.finish(reading, count)
    finally:  # bad records are there to be repaired, above all when the run stops
        copy_quarantine(folder, request.quarantine, {})
    seconds, workers = time.monotonic() - started, tokeniser.workers_for(contents.size)
    log.info("tokens: %s: %d records in %.1f s, %d process(es)", path, count, seconds, workers)


def _conversation(record: Record) -> Conversation:
    return record.prompt, record.item.responses


def _append(writer: StoreWriter, record: Record, tokens: list[Tokens], census: Census) -> None:
    prompt = prompt_hash(record.prompt)
    if isinstance(record, Rated):
        # of a response that does not fit, the ratings alone
        writer.add_rated(tokens, record.scores, prompt, record.where)
    elif isinstance(record, Preference) and tokens:
        chosen, rejected = tokens
        # A pair of equal sides teaches nothing, whether they were equal from the start or became so
        # by the limit (7 % of UltraFeedback at 512 tokens).
        if np.array_equal(chosen, rejected):
            census.add(DropReason.SAME_TOKENS, record.where)
        else:
            writer.add_pair(chosen, rejected, record.margin or 0.0, prompt, record.where)


def copy_quarantine(folder: Path, target: Path, names: Mapping[str, str]) -> None:
    """Append a store's bad records to the run's file, under the source's names of today."""
    quarantine = folder / QUARANTINE
    if not quarantine.is_file():
        return
    with quarantine.open("rb") as lines, quarantine_file(target) as out:
        for line in lines:
            if names:
                entry = orjson.loads(line)
                # the reason begins with the place, which may have moved
                name, _, row = entry["where"].rpartition(":")
                where = f"{names.get(name, name)}:{row}"
                reason = where + entry["reason"].removeprefix(entry["where"])
                line = orjson.dumps({**entry, "where": where, "reason": reason}) + b"\n"
            out.write(line)
