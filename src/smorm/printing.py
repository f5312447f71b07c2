"""What people are shown: text without control characters and secrets, and of bounded length.

A name, a key or a server's answer can hold anything. Whatever of it reaches a terminal, a log, a
page or a file for people goes through here; `smorm.terminal` is the terminal's side of it."""

import logging
import re
import reprlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

# Characters: of a value in a message, of a word that is taken for a value, of what is wrong with a
# record or key, of a line, of an error, and of what is looked at.
VALUE, WORD, PROBLEM, LINE, ERROR, MOST = 200, 400, 600, 2_000, 4_000, 100_000
HIDDEN = "***"
_SHORTEST_SECRET, _SHORT_SECRET = 4, 12  # characters

# C0 and C1 controls and surrogates cannot stand in XML or UTF-8, and the first drive a terminal.
# Direction controls would let a name reverse the numbers behind it; what has no width hides.
# The joiners U+200C and U+200D stay: Persian, Indic scripts and emoji are written with them.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f]"
)
_LONG_WORD = re.compile(rf"\S{{{WORD + 1},}}")


def clean(text: object) -> str:
    """Text with control, direction, invisible and surrogate characters replaced by U+FFFD; lines
    and tabs stay."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(text).replace("\r\n", "\n"))


_QUERY_KEY = re.compile(
    r"([?&;#](?:[\w.-]{0,40}(?:key|token|secret|password|passwd|pwd|signature|credential)"
    r"|sig|auth|pass)=)([^\s&;#\"'<>]+)",
    re.IGNORECASE,
)
# Each keeps what says that there was a secret, as group 1.
_SECRETS = (
    # The user and password of an address; one that was taken for a path has one slash.
    re.compile(r"(:/+)[^\s/?#\"'<>]+(?=@)"),
    # A key in its query, or set to a value elsewhere.
    _QUERY_KEY,
    re.compile(
        r"((?:api[_-]?key|access[_-]?key|(?:access|auth|client|secret)[_-]?(?:token|secret|key)"
        r"|password|passwd)(?:=|[\"']\s*:\s*[\"']))[^\s&;,\"'<>]+",
        re.IGNORECASE,
    ),
    re.compile(
        r"(authorization[\"']?\s*[:=]\s*[\"']?(?:(?:bearer|basic|digest|token)\s+)?)[^\s\"',;]+",
        re.IGNORECASE,
    ),
    # Words follow "bearer" too: a token is long, or has a digit.
    re.compile(r"(\bbearer\s+)(?=\S{0,200}\d|\S{20})[\w.~+/=-]{8,}", re.IGNORECASE),
    # Tokens that are known by their beginning.
    re.compile(
        r"(?<![A-Za-z0-9])(hf_(?=[A-Za-z]*\d|[A-Za-z]{20})|gh[opsru]_|github_pat_|glpat-"
        r"|xox[abprs]-|sk-(?=[\w-]*\d)|AKIA(?=[0-9A-Z]{16})|AIza)[\w-]{10,}"
    ),
    re.compile(r"(\beyJ)[\w-]{8,}\.[\w-]{8,}\.[\w-]*"),  # a JSON web token
)
_known: dict[str, re.Pattern[str]] = {}


def keep_secret(value: str) -> None:
    """Hide a token or key that this process uses, from now on and wherever it stands."""
    for text in {value, quote(value, safe=""), unquote(value)}:
        pattern = re.escape(text)
        # A short one may be a part of words, and one of a few characters is a word.
        if len(text) < _SHORT_SECRET:
            pattern = rf"(?<![A-Za-z0-9]){pattern}(?![A-Za-z0-9])"
        if len(text) >= _SHORTEST_SECRET:
            _known[text] = re.compile(pattern)


def keep_secrets_of(url: str) -> None:
    """Hide the keys in the query of an address."""
    for key in _QUERY_KEY.finditer(url):
        keep_secret(key[2])


def redact(text: object) -> str:
    """Text with `***` in place of passwords, keys and tokens: those that stand where such stand,
    and those that were given to `keep_secret`."""
    redacted = str(text)
    for known in list(_known.values()):
        redacted = known.sub(HIDDEN, redacted)
    for secret in _SECRETS:
        redacted = secret.sub(rf"\1{HIDDEN}", redacted)
    return redacted


def printable(text: object) -> str:
    """Text for people: `redact`, then `clean`."""
    return clean(redact(text))


def shorten(value: object, limit: int = VALUE) -> str:
    """A value on one line for a message, printable, with its middle left out where it has more
    than `limit` characters."""
    return cut(" ".join(printable(cut(str(value), MOST)).split()), limit)


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 120


def brief(value: object) -> str:
    """The `repr` of a user's value for an error, cut where it is long; unlike `shorten` it never
    goes through the whole of a large one."""
    return _REPR.repr(value)


def message(text: object) -> str:
    """Lines for people: printable, with long values and long lines shortened."""
    # Cut last: half a secret would not be known as one.
    cleaned = printable(cut(str(text), MOST))
    cleaned = _LONG_WORD.sub(lambda word: cut(word[0], VALUE), cleaned)
    return "\n".join(cut(line, LINE) for line in cleaned.split("\n"))


def error_message(text: object) -> str:
    """A message of at most `ERROR` characters."""
    return cut(message(text), ERROR)


def cut(text: str, limit: int) -> str:
    """The beginning and the end of a text, of at most `limit` characters together."""
    if len(text) <= limit:
        return text
    note = f" ... ({len(text):,} characters) ... "
    rest = max(limit - len(note), 0)
    return f"{text[: rest - rest // 3]}{note}{text[len(text) - rest // 3 :]}"


def address_of(url: str) -> str:
    """An address without what may be secret in it: user, password, query and fragment."""
    try:
        split = urlsplit(url)
    except ValueError:  # no address at all
        return redact(url)
    host = split.netloc.rpartition("@")[2]
    return split._replace(netloc=host, query="", fragment="").geturl()


def without_secrets(value: Any) -> Any:
    """JSON-like values, as a file for people has them: addresses without their secrets."""
    if isinstance(value, Mapping):
        return {key: without_secrets(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    # Any other text may be a path, which must still lead somewhere.
    return redact(value) if isinstance(value, str) and "://" in value else value


def get_logger(name: str) -> logging.Logger:
    """The logger of a module; its records are messages before any handler sees them."""
    logger = logging.getLogger(name)
    logger.addFilter(_as_message)
    return logger


def _as_message(record: logging.LogRecord) -> bool:
    record.msg, record.args = message(record.getMessage()), None
    return True


# A spreadsheet takes text that begins with these for a formula, and runs it.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def csv_cell(text: str) -> str:
    """Text for a cell of a CSV file: with a leading `'` where a spreadsheet would run it. A number
    stays as it is; `text_of_cell` takes it off again."""
    return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text


def text_of_cell(cell: str) -> str:
    """What `csv_cell` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
