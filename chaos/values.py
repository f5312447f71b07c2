"""Values that break programs, and small changes of JSON-like values."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from random import Random
from typing import Any

OSC = "\x1b]8;;http://evil.example\x07link\x1b]8;;\x07"
TEXTS = (
    "", " ", "\n\n", "0", "nan", "N/A", "null", "true", "\x00", "\x7f\x9b31m", OSC, "\u202eabc",
    "\ufeff", "\ud83d\ude00", "e\u0301" * 50, "<script>alert(1)</script>", "{{ 7 * 7 }}",
    "{% for i in range(9) %}x{% endfor %}", "=HYPERLINK(\"http://evil\")", "<|im_start|>system",
    "<|eos|>", "[INST]", "<think>", "\n\nHuman: hi\n\nAssistant: yes", "../../etc/passwd",
    "a" * 20_000, "[{\"role\": \"user\", \"content\": \"hi\"}]", "%s%n", "'; --", "\r\rover",
    "http://user:secret@host/?api_key=secret",
)  # fmt: skip
NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 1e308, -1e308, 1e30, 5e-324, 2**63, -(2**63), 2**64, 10**400, 0.1, True, False, None,
    float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
ROLES = (
    "user",
    "assistant",
    "system",
    "tool",
    "function",
    "human",
    "gpt",
    "developer",
    "",
    "bogus",
)
KEYS = (
    "prompt", "chosen", "rejected", "response", "scores", "messages", "system", "tools", "id",
    "margin", "source", "conversations", "instruction", "input", "label", "candidates", "answers",
    "preference", "text", "completion", "images", "content", "role",
)  # fmt: skip


def some_value(random: Random, depth: int = 0) -> Any:
    """A value of any kind, at most a few levels deep."""
    kind = random.randrange(8 if depth < 3 else 3)
    if kind in (0, 1):
        return random.choice(TEXTS)
    if kind == 2:
        return random.choice(NUMBERS)
    if kind == 3:
        return [some_value(random, depth + 1) for _ in range(random.randrange(4))]
    if kind == 4:
        return {
            random.choice(KEYS): some_value(random, depth + 1) for _ in range(random.randrange(4))
        }
    if kind == 5:
        return some_messages(random)
    if kind == 6:
        return nested(random.choice((5, 70, 900, 5000)))
    return [random.choice(TEXTS) for _ in range(random.choice((1, 3, 200)))]


def some_messages(random: Random) -> list[dict[str, Any]]:
    """Messages, some with what does not belong there."""
    messages = []
    for _ in range(random.randrange(1, 5)):
        message: dict[str, Any] = {"role": random.choice(ROLES), "content": random.choice(TEXTS)}
        if random.random() < 0.3:
            message[random.choice(("tool_calls", "reasoning_content", "name", "content"))] = (
                random.choice((None, [], [{"type": "image"}], 3, "text", {"function": {}}))
            )
        messages.append(message)
    return messages


class Raw(str):
    """JSON text that stands in the output as it is."""

    __slots__ = ()


def nested(depth: int) -> Raw:
    """A list that many levels deep, as JSON text: `json` itself could not write it."""
    return Raw("[" * depth + "]" * depth)


def dumps(value: Any) -> str:
    """JSON text in which `Raw` texts stand as they are; NaN and infinities as JavaScript's."""
    raws: list[Raw] = []

    def marked(item: Any) -> Any:
        if isinstance(item, Raw):
            raws.append(item)
            return f"\x01raw{len(raws) - 1}\x01"
        if isinstance(item, dict):
            return {key: marked(each) for key, each in item.items()}
        if isinstance(item, list):
            return [marked(each) for each in item]
        return item

    text = json.dumps(marked(value), ensure_ascii=False)
    for index, raw in enumerate(raws):
        text = text.replace(json.dumps(f"\x01raw{index}\x01"), raw)
    return text


def change(random: Random, value: Any) -> Any:
    """A copy with one to three changes at places drawn among all levels."""
    root = [copy.deepcopy(value)]
    for _ in range(random.randrange(1, 4)):
        places = list(_places(root))
        holder, key = random.choice(places)
        _CHANGES[random.randrange(len(_CHANGES))](random, holder, key)
    return root[0] if root else None


def _places(holder: Any) -> list[tuple[Any, Any]]:
    found = []
    keys = list(holder) if isinstance(holder, dict) else range(len(holder))
    for key in keys:
        found.append((holder, key))
        if isinstance(holder[key], (dict, list)):
            found.extend(_places(holder[key]))
    return found


def _replace(random: Random, holder: Any, key: Any) -> None:
    holder[key] = some_value(random)


def _wrap(random: Random, holder: Any, key: Any) -> None:
    holder[key] = random.choice(([holder[key]], {"content": holder[key]}, [[holder[key]], 1]))


def _remove(random: Random, holder: Any, key: Any) -> None:
    if isinstance(holder, dict) or len(holder) > 1:
        del holder[key]


def _rename(random: Random, holder: Any, key: Any) -> None:
    if isinstance(holder, dict):
        holder[random.choice((*KEYS, *TEXTS[:12]))] = holder.pop(key)


def _add(random: Random, holder: Any, key: Any) -> None:
    if isinstance(holder, dict):
        holder[random.choice((*KEYS, *TEXTS[:12]))] = some_value(random)
    else:
        holder.append(some_value(random))


def _edit_text(random: Random, holder: Any, key: Any) -> None:
    if isinstance(holder[key], str):
        place = random.randrange(len(holder[key]) + 1)
        holder[key] = holder[key][:place] + random.choice(TEXTS) + holder[key][place:]
    elif isinstance(holder[key], (int, float)):
        holder[key] = random.choice(NUMBERS)


_CHANGES: tuple[Callable[[Random, Any, Any], None], ...] = (
    _replace, _replace, _wrap, _remove, _rename, _add, _edit_text, _edit_text,
)  # fmt: skip


def damage(random: Random, content: bytes) -> bytes:
    """Bytes with one kind of damage that files meet."""
    kind = random.randrange(10)
    place = random.randrange(len(content) + 1)
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + random.randbytes(random.randrange(1, 9)) + content[place:]
    if kind == 2:
        return content[:place] + b"\x00" * random.choice((1, 5000)) + content[place:]
    if kind == 3:
        return b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n")
    if kind == 4:
        return content.decode("utf-8", "replace").encode(
            random.choice(("utf-16", "utf-32", "utf-7"))
        )
    if kind == 5:
        return content.replace(b"\n", b"", random.randrange(1, 3))
    if kind == 6:
        return content[:place] + b"\n" * random.choice((3, 100_000)) + content[place:]
    if kind == 7:
        return content.replace(b'"', b"'", random.randrange(1, 9))
    if kind == 8:
        flipped = bytearray(content)
        for _ in range(random.randrange(1, 5)):
            if flipped:
                flipped[random.randrange(len(flipped))] ^= 1 << random.randrange(8)
        return bytes(flipped)
    return (
        content[:place]
        + random.choice((b"1" * 5000, b"1e99999", b"\\u0000", b"\\ud800"))
        + content[place:]
    )
