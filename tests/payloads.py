"""Texts that drive a terminal, deceive a reader or fill a screen, and how to tell that none did."""

from __future__ import annotations

import re

HOSTILE = {
    "link": "\x1b]8;;http://evil.example\x07click\x1b]8;;\x07",
    "clipboard": "\x1b]52;c;aGFjaw==\x07",
    "title": "\x1b]0;owned\x1b\\",
    "colour": "\x1b[31mred\x1b[0m",
    "cursor": "\x1b[2K\x1b[1Aerror: none",
    "c1": "\x9b31m\x90q\x9c",
    "overwrite": "bad\rgood",
    "bell": "a\x07\x08b\x7f",
    "direction": "a\u202egpj.exe\u2066b",
    "invisible": "pa\u200by\u2060pal\ufeff\U000e0041",
    "long": "x" * 20_000,
}
EVERYTHING = "".join(HOSTILE.values())
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0041]"
)


def assert_harmless(text: str, longest: int = 2_500) -> None:
    """No control or invisible character but line ends and tabs, and no line of a value's length."""
    match = _CONTROL.search(text)
    assert match is None, repr(text[max(0, match.start() - 60) : match.end() + 20])
    assert max(map(len, text.splitlines()), default=0) <= longest
