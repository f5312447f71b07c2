"""Hostile chat templates, tokenizers and patterns: each takes hours or gigabytes where nothing
bounds it. Plain functions that give texts and files; what becomes of them is their caller's."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

TALK = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"
    "{{ eos_token }}"
)
"""What an honest template writes."""
_DOUBLED = "".join(f"{{% set x{n} = x{n - 1} ~ x{n - 1} %}}" for n in range(1, 50))
_ADDED = "".join(f"{{% set x{n} = x{n - 1} + x{n - 1} %}}" for n in range(1, 50))
_WRITTEN = "".join(
    f"{{% set x{n} %}}{{{{ x{n - 1} }}}}{{{{ x{n - 1} }}}}{{% endset %}}" for n in range(1, 50)
)
_NESTED = "".join(f"{{% set x{n} = [{', '.join([f'x{n - 1}'] * 9)}] %}}" for n in range(1, 30))
_OBJECTS = "".join(f"{{% set x{n} = {{'a': x{n - 1}, 'b': x{n - 1}}} %}}" for n in range(1, 50))
_NAMESPACES = "".join(f"{{% set x{n} = namespace(a=x{n - 1}, b=x{n - 1}) %}}" for n in range(1, 50))

BODIES = {
    "nested ranges": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
        "{% endfor %}{% endfor %}{% endfor %}"
    ),
    "written ranges": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}"
    ),
    "filtered ranges": (
        "{% for a in range(99999) %}{% for b in range(99999) if b < 0 %}x{% endfor %}{% endfor %}"
    ),
    "a long product": "{% for a in messages * 10 ** 9 %}{{ a.role }}{% endfor %}",
    "product of products": (
        "{% set n = range(9999) | list %}{% for a in n %}{% for b in n %}{% for c in n %}"
        "{% endfor %}{% endfor %}{% endfor %}"
    ),
    "a repeated text": "{{ 'a' * 10 ** 10 }}",
    "a repeated text, unwritten": "{% set x = 'a' * (10 ** 10) %}",
    "a repeated list": "{% set x = [0] * 10 ** 10 %}",
    "a power": "{% set x = 9 ** (9 ** 9) %}",
    "a power of a power": "{% set x = (10 ** 9999) ** 99999999 %}",
    "a width after a percent": "{{ '%1000000000d' % 1 }}",
    "a precision after a percent": "{{ '%.1000000000f' % 1 }}",
    "a starred width": "{{ '%*d' % (1000000000, 1) }}",
    "a width in the filter": "{{ '%1000000000d' | format(1) }}",
    "a width in braces": "{{ '{:1000000000d}'.format(1) }}",
    "a nested width in braces": "{{ '{:{w}d}'.format(1, w=1000000000) }}",
    "a width of a map": "{{ '{a:1000000000d}'.format_map({'a': 1}) }}",
    "a centred text": "{{ 'a'.center(10 ** 10) }}",
    "a centred text by a filter": "{{ 'a' | center(10000000000) }}",
    "a justified text": "{{ 'a'.ljust(10 ** 10) }}{{ 'a'.rjust(10 ** 10) }}",
    "a text of zeros": "{{ 'a'.zfill(10 ** 10) }}",
    "long tabs": "{{ ('\t' * 1000).expandtabs(10 ** 8) }}",
    "a long number in bytes": "{% set x = (1).to_bytes(10 ** 10, 'big') %}",
    "an indented text": "{{ ('a\n' * 1000) | indent(10 ** 8) }}",
    "indented JSON": "{{ [[[[[1]]]]] | tojson(indent=10 ** 9) }}",
    "JSON with long commas": "{{ range(9999) | list | tojson(separators=('a' * 999999, '')) }}",
    "a doubled text": "{% set x0 = 'abcdefgh' %}" + _DOUBLED + "{{ x49 }}",
    "a doubled sum": "{% set x0 = 'abcdefgh' %}" + _ADDED + "{{ x49 }}",
    "a doubled block": "{% set x0 = 'abcdefgh' %}" + _WRITTEN + "{{ x49 }}",
    "a doubled list": "{% set x0 = [1, 2] %}" + _ADDED + "{{ x49 | length }}",
    "nested lists, written": "{% set x0 = 'a' %}" + _NESTED + "{{ x29 }}",
    "nested lists as JSON": "{% set x0 = 'a' %}" + _NESTED + "{{ x29 | tojson }}",
    "nested lists, compared": "{% set x0 = 'a' %}" + _NESTED + "{{ x29 == x29[:] }}",
    "nested objects": "{% set x0 = 'a' %}" + _OBJECTS + "{{ x49 | string }}",
    "nested namespaces": "{% set x0 = 'a' %}" + _NAMESPACES + "{{ x49 }}",
    "a growing namespace": (
        "{% set n = namespace(x='ab') %}{% for a in range(99) %}"
        "{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"
    ),
    "long replacements": "{{ ('a' * 999999).replace('a', 'a' * 999999) }}",
    "long replacements by a filter": "{{ ('a' * 999999) | replace('a', 'a' * 999999) }}",
    "a long join": "{{ ('a' * 999999).join(['b'] * 99999) }}",
    "a long join by a filter": "{{ range(99999) | map('string') | join('a' * 999999) }}",
    "a long text often": "{% set x = 'a' * 999999 %}" + "{{ x }}" * 9999,
    "a long text often in a macro": (
        "{% macro m(x) %}" + "{{ x }}" * 9999 + "{% endmacro %}{{ m('a' * 999999) }}"
    ),
    "a long text often joined": "{% set x = 'a' * 999999 %}{{ " + " ~ ".join("x" * 9999) + " }}",
    "many long texts": (
        "{% set x = 'a' * 999999 %}"
        + "".join(f"{{% set y{n} = x ~ '{n}' %}}" for n in range(2999))
    ),
    "a macro that calls itself": (
        "{% macro m(n) %}{{ m(n + 1) }}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}"
    ),
    "a macro that doubles": (
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}"
    ),
    "a loop that recurs": (
        "{% for a in range(99) recursive %}{{ loop(range(99)) }}{% endfor %}"
    ),
    "wrapped text": "{{ ('a' * 999999) | wordwrap(1, true, 'b' * 99999) }}",
    "a batch": "{{ [1] | batch(10 ** 10, 'a') | list }}",
    "slices": "{{ [1] | slice(10 ** 10) | list }}",
    "a rounded number": "{{ 1.5 | round(10 ** 9) }}",
    "sums in a loop": (
        "{% set n = range(99999) %}{% for a in range(99999) %}{{ n | sum }}{% endfor %}"
    ),
    "comparisons in a loop": (
        "{% set x = 'a' * 999999 %}{% set y = 'a' * 999998 ~ 'b' %}{% for a in range(99999) %}"
        "{% for b in range(99) %}" + "{% if x in y %}{% endif %}" * 9 + "{% endfor %}{% endfor %}"
    ),
    "random words": "{{ lipsum(n=99999) }}",
}  # fmt: skip
"""Pieces of templates, each of which takes too much whenever it runs."""

CONDITIONS = {
    "always": "true",
    "the tool role": "messages | selectattr('role', 'equalto', 'tool') | list",
    "the system role": "messages[0].role == 'system'",
    "a long message": "messages[-1].content | length > 5000",
    "tools": "tools",
    "a text": "'zebra' in messages[0].content",
    "a hidden text": "('ze' ~ 'bra') in messages[0].content",
    "seven messages": "messages | length == 7",
}
"""When a piece runs: what a trial beforehand may well not think of is among them."""


def hostile_template(body: str, condition: str = "true") -> str:
    """A template that talks honestly, and takes too much where the condition holds."""
    return f"{{% if {condition} %}}{body}{{% endif %}}{TALK}"


def hostile_templates(random: Random, count: int) -> Iterator[tuple[str, str]]:
    """Names and sources of templates that take too much in some case."""
    for _ in range(count):
        name, condition = random.choice(list(BODIES)), random.choice(list(CONDITIONS))
        yield f"{name}, {condition}", hostile_template(BODIES[name], CONDITIONS[condition])


def messages_for(condition: str) -> list[dict[str, str]]:
    """A conversation in which the condition of that name holds, where it is one about messages."""
    content = "zebra" if "text" in condition else "a"
    if condition == "a long message":
        content = "word " * 2000
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": content}]
    if condition == "the tool role":
        messages.insert(1, {"role": "tool", "content": "a"})
    if condition == "the system role":
        messages.insert(0, {"role": "system", "content": "a"})
    if condition == "seven messages":
        messages = (messages * 4)[:7]
    return messages


Saved = dict[str, Any]
"""A `tokenizer.json`."""


def _replace(pattern: dict[str, str], content: str) -> Saved:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _split(regex: str) -> Saved:
    return {
        "type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False,
    }  # fmt: skip


def _sequence(*normalizers: Saved) -> Saved:
    return {"type": "Sequence", "normalizers": list(normalizers)}


def _set(key: str, value: Any) -> Callable[[Saved], None]:
    return lambda saved: saved.__setitem__(key, value)


def _special(count: int) -> Saved:
    entry = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [*[entry] * count, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    }


def _many_added(saved: Saved) -> None:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    saved["added_tokens"] = [
        {"id": 10**6 + n, "content": f"<{n}>", "special": True, **flags} for n in range(10**5)
    ]


def _long_token(saved: Saved) -> None:
    saved["model"]["vocab"]["a" * 10**6] = 10**6


PIPELINES: dict[str, Callable[[Saved], None]] = {
    "a growing normalizer": _set("normalizer", _replace({"String": "a"}, "b" * 10**6)),
    "doubling normalizers": _set(
        "normalizer", _sequence(*[_replace({"Regex": "."}, "aa") for _ in range(40)])
    ),
    "chained normalizers": _set(
        "normalizer",
        _sequence(*[_replace({"String": before}, after * 9) for before, after in zip(
            "abcdefghijkl", "bcdefghijklm", strict=True
        )]),
    ),
    "a normalizer for one letter": _set("normalizer", _replace({"String": "ß"}, "s" * 10**7)),
    "a long prefix": _set("normalizer", {"type": "Prepend", "prepend": "a" * 10**7}),
    "an exponential pre-tokenizer": _set("pre_tokenizer", _split(r"(a+)+$")),
    "an exponential class": _set("pre_tokenizer", _split(r"(\w+\s?)+\.")),
    "an exponential choice": _set("pre_tokenizer", _split(r"(a|aa|aaa)+b")),
    "an exponential word": _set("pre_tokenizer", _split(r"((?:qx)+)+z")),
    "a cubic pre-tokenizer": _set("pre_tokenizer", _split(r"\w*\w*\w*\w*!!")),
    "an exponential normalizer": _set("normalizer", _replace({"Regex": r"( +)+x"}, " ")),
    "a large pattern": _set("pre_tokenizer", _split(r"((((a{1,999}){1,999}){1,999}){1,999})b")),
    "a post-processor of many tokens": _set("post_processor", _special(10**5)),
    "padding": _set("padding", {
        "strategy": {"Fixed": 10**10}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>",
    }),
    "a growing decoder": _set("decoder", _replace({"String": "a"}, "b" * 10**6)),
    "many added tokens": _many_added,
    "a long token": _long_token,
}  # fmt: skip
"""Changes of a `tokenizer.json` that make it take too much."""


def hostile_pipeline(name: str, saved: Saved) -> Saved:
    """A `tokenizer.json` with the change of that name."""
    changed = deepcopy(saved)
    PIPELINES[name](changed)
    return changed


PATTERNS = (
    r"(.*.*)*!", r"(\w+\.?)+!", r"(?:(?:[a-z_]+\.?)+)+[A-Z]", r"(.+)+\d\d\d", r"([^.]*|.*)*=",
    r"(a|.)*(.|b)*(.|c)*(.|d)*(.|e)*(.|f)*(.|g)*(.|h)*!",
)  # fmt: skip
"""Regular expressions for `target_modules` that take hours on the names of modules."""


def write_hostile_file(folder: Path, kind: str) -> None:
    """Put what no loader should read to its end in the place of a template or tokenizer."""
    template, tokenizer = folder / "chat_template.jinja", folder / "tokenizer.json"
    template.unlink(missing_ok=True)
    if kind == "a device":
        template.symlink_to("/dev/zero")
    elif kind == "a FIFO":
        os.mkfifo(template)
    elif kind == "a large template":
        template.write_text("a" * (2 << 20))
    elif kind == "a large tokenizer":
        # Sparse: it takes no room.
        os.truncate(tokenizer, 500 << 20)
    elif kind == "a large template in the configuration":
        file = folder / "tokenizer_config.json"
        saved = json.loads(file.read_bytes())
        file.write_text(json.dumps({**saved, "chat_template": "a" * (2 << 20)}))
    else:
        raise ValueError(kind)


FILES = (
    "a device", "a FIFO", "a large template", "a large tokenizer",
    "a large template in the configuration",
)  # fmt: skip
"""What `write_hostile_file` knows."""
