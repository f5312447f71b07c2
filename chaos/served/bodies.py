"""Hostile requests to a server that are whole as HTTP: bodies, headers, methods and paths."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from chaos.served.traffic import MARK
from chaos.values import NUMBERS, Raw, change, damage, dumps, nested

JSON = {"Content-Type": "application/json"}
MAX_BODY = 8 << 20
"""Bytes: the server's own limit."""
MAX_ITEMS = 64
"""What the trials' server is told by its flag."""


@dataclass(frozen=True, slots=True)
class Hostile:
    """A request, and the statuses that answer it honestly beside those of any request."""

    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=lambda: dict(JSON))
    method: str = "POST"
    statuses: tuple[int, ...] = ()


def valid(random: Random) -> tuple[str, Any]:
    """A path, and a value that it takes."""
    talk = [{"role": "user", "content": f"{MARK} hello"}, {"role": "assistant", "content": "Hi."}]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    return random.choice((
        ("/v1/score", {"model": "joint", "items": [{"prompt": MARK, "response": "yes"},
            {"messages": talk}, {"prompt": talk[:1], "responses": ["a", "b"]}],
            "views": ["F", "M", {"preference": 1.0}], "truncation": "left_prompt",
            "deadline_ms": 60_000}),
        ("/v1/score", {"model": "length", "items": [{"messages": talk, "tools": tools}]}),
        ("/v1/compare", {"model": "joint", "prompt": MARK, "responses": ["a", "b"], "views": ["F"],
            "tools": tools}),
        ("/classify", {"model": "joint", "messages": talk, "tools": tools,
            "chat_template_kwargs": {"enable_thinking": True}}),
        ("/classify", {"model": "joint", "input": [MARK, "b"], "add_special_tokens": False}),
        ("/classify", {"model": "joint", "text": [MARK, "b"]}),
        ("/classify", {"model": "joint", "input_ids": [[5, 6, 7], [8]]}),
        ("/pooling", {"model": "joint", "input": [[5, 6, 7], [8]], "use_activation": False}),
        ("/v1/embeddings", {"model": "joint", "input": [5, 6, 7]}),
        ("/get_reward", {"model": "joint", "query": [MARK, "b"], "prompts": ["a", "b"]}),
        ("/v1/score/evaluation", {"model": "joint", "messages": [MARK, "b"], "max_length": 5}),
    ))  # fmt: skip


def encoded(value: Any) -> bytes:
    return dumps(value).encode("utf-8", "surrogatepass")


def _changed(random: Random) -> Hostile:
    path, value = valid(random)
    return Hostile(path, encoded(change(random, value)))


def _damaged(random: Random) -> Hostile:
    path, value = valid(random)
    return Hostile(path, damage(random, encoded(value)))


def _replaced(random: Random, replacements: tuple[Any, ...]) -> Hostile:
    """One value of any level is another."""
    path, value = valid(random)
    holder: Any = [value]
    key: Any = 0
    while isinstance(holder[key], (dict, list)) and holder[key] and random.random() < 0.7:
        holder = holder[key]
        key = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    replacement = random.choice(replacements)
    if holder is not value and isinstance(holder, list) and holder == [value]:
        return Hostile(path, encoded(replacement))
    holder[key] = replacement
    return Hostile(path, encoded(value))


def _surrogates(random: Random) -> Hostile:
    bad = (Raw('"\\ud800"'), Raw('"a\\udc00b"'), Raw('"\\ud83d\\ud83d"'), Raw('"\\u0000"'),
           Raw('"\\uZZZZ"'), Raw('"\\x00"'), "\ud800", "a\x00b")  # fmt: skip
    return _replaced(random, bad)


def _depth(random: Random) -> Hostile:
    levels = random.choice((70, 900, 1_023, 5_000, 100_000))
    objects = Raw('{"a":' * levels + "1" + "}" * levels)
    return _replaced(random, (nested(levels), objects, Raw("[" * levels)))


def _numbers(random: Random) -> Hostile:
    more = (Raw("1" * 5_000), Raw("1e400"), Raw("-1e400"), Raw("NaN"), Raw("Infinity"), Raw("-0"),
            Raw("1e99999999"), [2**31, 2**63], [-1], [1e308, 1.5], [True], [[10**30]],
            {"preference": 1e308}, {"preference": Raw("1e400")},
            {"preference": -1e308})  # fmt: skip
    return _replaced(random, (*NUMBERS, *more))


def _twice(random: Random) -> Hostile:
    path, value = valid(random)
    key = json.dumps(random.choice(list(value)))
    rest = encoded(value).decode("utf-8")[1:]
    return Hostile(path, f"{{{key}: {dumps(random.choice(NUMBERS))}, {rest}".encode())


def _compressed(random: Random) -> Hostile:
    path, value = valid(random)
    content = random.choice((encoded(value), b" " * (50 << 20)))
    packed = random.choice((gzip.compress(content, 1), zlib.compress(content, 1)))
    coding = random.choice(("gzip", "deflate", "br", "zstd", "gzip, gzip", "identity", "bogus", ""))
    headers = {**JSON, "Content-Encoding": coding} if coding else JSON
    return Hostile(path, packed, headers)


def _large(random: Random) -> Hostile:
    size = random.choice((MAX_BODY - 200, MAX_BODY + 1, 3 * MAX_BODY, 5 * MAX_BODY))
    kind = random.randrange(5)
    if kind == 0:
        return Hostile("/v1/score", b'{"items": "' + b"x" * size + b'"}')
    if kind == 1:
        items = [{"prompt": MARK, "response": "y"}] * random.choice((MAX_ITEMS + 1, 20_000))
        return Hostile("/v1/score", encoded({"model": "joint", "items": items}))
    if kind == 2:
        length = random.choice((399_000, 400_001, 4_000_000))
        item = {"prompt": MARK, "response": random.choice(("x", "ab ", "漢")) * length}
        value = {"model": random.choice(("joint", "length")), "items": [item],
                 "truncation": random.choice(("refuse", "left_prompt"))}  # fmt: skip
        return Hostile("/v1/score", encoded(value))
    if kind == 3:
        ids = [[5] * random.choice((255, 257, 100_000))] * random.choice((1, MAX_ITEMS + 1))
        return Hostile("/classify", encoded({"model": "joint", "input": ids}))
    keys = {f"k{index}": index for index in range(50_000)}
    return Hostile("/v1/score", encoded({"model": "joint", "items": [], **keys}))


def _messages(random: Random) -> Hostile:
    """Conversations of thousands of messages, in order or not."""
    count = random.choice((1_000, 5_000, 20_000))
    roles = random.choice((("user", "assistant"), ("user",), ("system",), ("tool", "assistant")))
    talk = [{"role": roles[index % len(roles)], "content": "a"} for index in range(count)]
    if random.random() < 0.5:
        value = {"model": random.choice(("joint", "length")), "items": [{"messages": talk}],
                 "truncation": random.choice(("refuse", "left_prompt"))}  # fmt: skip
        return Hostile("/v1/score", encoded(value))
    return Hostile("/classify", encoded({"model": "joint", "messages": talk}))


def _method(random: Random) -> Hostile:
    path, value = valid(random)
    path = random.choice((path, "/", "/livez", "/readyz", "/v1/info", "/metrics", "/docs"))
    methods = ("PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "FROB", "get", "GET")
    return Hostile(path, encoded(value), method=random.choice(methods), statuses=(200,))


def _path(random: Random) -> Hostile:
    path, value = valid(random)
    odd = (f"/{path}", f"{path}/", f"{path}%00", f"{path}?model=x&model=y", "/%2e%2e/etc/passwd",
           "/" + "a" * 60_000, "/v1/score/%ff", "//evil.example/v1/score", f"{path};x",
           "/v1/%73core", "/*", f"{path}#x", "/?" + "q=1&" * 10_000)  # fmt: skip
    return Hostile(random.choice(odd), encoded(value), statuses=(307,))


def _type(random: Random) -> Hostile:
    path, value = valid(random)
    kinds = ("text/plain", "multipart/form-data; boundary=x", "multipart/form-data",
             "application/x-www-form-urlencoded", "application/json; charset=utf-16",
             "application/json; charset=bogus", "application/vnd.x+json", "image/png", "", ";;;",
             "application/json, text/plain")  # fmt: skip
    content = encoded(value)
    if random.random() < 0.3:
        content = dumps(value).encode(random.choice(("utf-16", "utf-32", "utf-7")), "replace")
    return Hostile(path, content, {"Content-Type": random.choice(kinds)})


def _headers(random: Random) -> Hostile:
    path, value = valid(random)
    odd = (("Authorization", "Bearer " + "x" * 5_000), ("X-Request-Id", "\x7f" * 9),
           ("Cookie", "a=b; " * 2_000), ("Host", "evil.example"), ("X-Forwarded-For", "' OR 1"),
           ("Range", "bytes=0-1"), ("If-None-Match", "*"), ("Accept", "image/png"),
           ("Origin", "http://evil.example"), ("Transfer-Encoding", "identity"),
           ("Upgrade", "websocket"), ("Content-Language", "\xff"))  # fmt: skip
    headers = {**JSON, **dict(random.sample(odd, 3))}
    if "Upgrade" in headers:
        headers["Connection"] = "Upgrade"
    return Hostile(path, encoded(value), headers)


def _deadline(random: Random) -> Hostile:
    item = {"prompt": MARK, "response": "y"}
    value = {"model": "joint", "items": [item] * 8, "deadline_ms": random.choice((1, 2, 5))}
    return Hostile("/v1/score", encoded(value), statuses=(504,))


BODIES: dict[str, Callable[[Random], Hostile]] = {
    "changed": _changed,
    "damaged": _damaged,
    "surrogates": _surrogates,
    "depth": _depth,
    "numbers": _numbers,
    "duplicate-keys": _twice,
    "compressed": _compressed,
    "large": _large,
    "messages": _messages,
    "methods": _method,
    "paths": _path,
    "content-types": _type,
    "headers": _headers,
    "deadlines": _deadline,
}
