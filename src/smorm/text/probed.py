"""The program that `smorm.text.probe` starts: it tries what an untrusted folder brings (chat
templates, a tokenizer's pipeline, an adapter's patterns) on texts that show how much it takes.

It runs under limits of the system on processor time and memory, and may be killed at any point: the
part that is tried is told before it begins. What cannot be used for other reasons is no matter of
this program: the loader says that better. It imports no package that is slow to import.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
CONFIG_FILES = ("tokenizer_config.json", "smorm.json")
MORE_TEMPLATES = "additional_chat_templates"
# How often a piece of a text is repeated: many enough for a pattern of cubic time, and few enough
# for those of quadratic time, which well-known tokenizers have.
_REPEATS = 2000
_LONG = "A plain text: 1234567890, naïve café, 你好, 🙂\n\n\tdef f(x): return x\n" * 100
_CONSTANTS = 64
# Of a regular expression: what stands for no character of its own.
_MARKS = re.compile(r"\\[pP]\{[^}]*\}|\(\?(?:[a-z-]*:|[=!>]|<[=!])|\[:\w+:\]|\\[a-zA-Z]")
_TOOL = {
    "type": "function",
    "function": {
        "name": "find",
        "description": "Find a place",
        "parameters": {"type": "object", "properties": {"name": {"type": "string"}}},
    },
}
_CALL = {"id": "a1", "type": "function", "function": {"name": "find", "arguments": {"name": "x"}}}


class Excess(Exception):  # noqa: N818  (a finding, not an error of this program)
    """Something is over the limit of that name; `amount` is its size, where it is known."""

    def __init__(self, limit: str, amount: int | None = None) -> None:
        super().__init__(limit)
        self.limit, self.amount = limit, amount


class Failure(Exception):  # noqa: N818  (a finding as well)
    """A part fails on a text that it should take."""


def main() -> None:
    """Answer the one request on the standard input: a line before each part, and a last one."""
    request = json.load(sys.stdin)
    limits: dict[str, int] = request["limits"]
    _end_with_parent(request["parent"])
    _bound(limits["probe_seconds"], limits["probe_bytes"])
    answer: dict[str, Any] = {"done": True}
    try:
        for name, check in _parts(request, limits):
            _say({"part": name})
            check()
    except Excess as excess:
        answer = {"limit": excess.limit, "amount": excess.amount}
    except MemoryError:
        answer = {"limit": "probe_bytes", "amount": None}
    except Failure as failure:
        answer = {"failure": str(failure)}
    _say(answer)
    sys.stdout.flush()
    # Without tidying up, which takes as long as a probe.
    os._exit(0)


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _end_with_parent(parent: int) -> None:
    """Let the system end this process with the one that started it, however that ends."""
    # Elsewhere the limit on processor time does: nothing here waits for anything.
    if sys.platform == "linux":
        import ctypes

        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _bound(seconds: int, memory: int) -> None:
    """Limit this process's processor time and, where the system can, its memory."""
    try:
        import resource
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime) + seconds
    # A second later the signal cannot be ignored any more.
    resource.setrlimit(resource.RLIMIT_CPU, (most, most + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


Part = tuple[str, Callable[[], None]]


def _parts(request: dict[str, Any], limits: dict[str, int]) -> Iterator[Part]:
    """What is to be tried: the name of each part and what tries it."""
    if request.get("patterns"):
        patterns, names = request["patterns"], request["names"]
        for where, pattern in patterns:
            yield where, partial(_try_pattern, pattern, names)
    if request.get("template") is not None:
        yield request["part"], partial(try_template, request["template"], limits)
    if request.get("folder") is not None:
        folder = Path(request["folder"])
        file = folder / "tokenizer.json"
        if file.is_file():
            yield file.name, partial(try_tokenizer, file, limits)
        yield from _templates(folder, limits)


def _templates(folder: Path, limits: dict[str, int]) -> Iterator[Part]:
    sources: dict[str, None] = {}
    files = [folder / TEMPLATE_FILES[0], *sorted((folder / MORE_TEMPLATES).glob("*.jinja"))]
    for file in files:
        if file.is_file():
            source = file.read_text(encoding="utf-8", errors="replace")
            sources[source] = None
            yield file.name, partial(try_template, source, limits)
    for name in (*CONFIG_FILES, TEMPLATE_FILES[1]):
        for source in _saved_templates(folder / name):
            # The same template often stands in several places.
            if source not in sources:
                sources[source] = None
                yield f"{name}: chat_template", partial(try_template, source, limits)


def _saved_templates(file: Path) -> list[str]:
    """The templates in a JSON file: one, several by name, or a list of named ones."""
    try:
        saved = json.loads(file.read_bytes()).get("chat_template")
    except (OSError, ValueError, AttributeError, RecursionError):
        return []
    values = [saved]
    if isinstance(saved, dict):
        values = list(saved.values())
    if isinstance(saved, list):
        values = [entry.get("template") for entry in saved if isinstance(entry, dict)]
    return [value for value in values if isinstance(value, str)]


def _try_pattern(pattern: str, names: list[str]) -> None:
    """Match a regular expression as PEFT does, with the names that it will be matched with."""
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return
    for name in names:
        compiled.match(name)
        compiled.fullmatch(name)


def try_template(source: str, limits: dict[str, int]) -> None:
    """Render conversations with a template in jinja2's plain sandbox. `Excess`: too much text."""
    if len(source.encode("utf-8", "replace")) > limits["template_bytes"]:
        raise Excess("template_bytes")
    environment = _environment()
    from jinja2 import meta, nodes

    try:
        tree = environment.parse(source)
        template = environment.from_string(source)
        unknown = meta.find_undeclared_variables(tree)
    except MemoryError:
        raise
    except Exception:
        return
    constants = {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
    shortest = sorted(constants, key=lambda text: (len(text), text))[:_CONSTANTS]
    switches = dict.fromkeys(unknown - {"messages", "tools"} - set(environment.globals), True)
    for messages, options in _conversations(shortest, switches):
        _render(template, messages, options, limits["conversation_bytes"])


def _render(template: Any, messages: Any, options: dict[str, Any], most: int) -> None:
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    inputs = {"tools": None, "documents": None, "add_generation_prompt": False, **tokens, **options}
    size = 0
    try:
        for piece in template.generate(messages=messages, **inputs):
            size += len(piece)
            if size > most:
                raise Excess("conversation_bytes")
    except (MemoryError, Excess):
        raise
    except Exception:
        # It refuses these roles or contents, as it may.
        return


def _conversations(
    constants: list[str], switches: dict[str, Any]
) -> Iterator[tuple[list[dict[str, Any]], dict[str, Any]]]:
    """Conversations that a template may treat in its own way: roles, long and odd texts, tools, and
    whatever text it compares with."""
    tools = {"tools": [_TOOL] * 3}
    for text in ("a", "", "<|im_end|> </s> [INST] <think>x</think>", _LONG):
        answered = [_turn("user", text), _turn("assistant", text)]
        yield answered, {}
        yield [_turn("system", text), *answered * 2], {}
        yield answered, {"add_generation_prompt": True, **switches}
    called = {**_turn("assistant", "a"), "reasoning_content": "b", "tool_calls": [_CALL]}
    talk = [_turn("user", "a"), called, _turn("tool", "c", name="find"), _turn("assistant", "d")]
    yield talk, tools
    yield [_turn("developer", "a"), *talk], {**tools, **switches}
    yield [_turn("user", "a"), _turn("assistant", "b")] * 100, {}
    for constant in constants:
        yield [_turn("user", constant), _turn("assistant", constant)], switches
        yield [_turn("user", "a"), _turn(constant, "a")], tools


def _turn(role: str, content: str, **fields: str) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


def _environment() -> Any:
    """A sandbox as transformers makes it, without importing transformers."""
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = frozenset({"generation"})  # type: ignore[assignment]

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def to_json(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None,
        sort_keys: bool = False,
    ) -> str:  # fmt: skip
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
            sort_keys=sort_keys,
        )  # fmt: skip

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda format: "2024-01-31"
    return environment


def try_tokenizer(file: Path, limits: dict[str, int]) -> None:
    """Try a `tokenizer.json`. Its vocabulary is measured; what is around it (normalizer, regular
    expressions, post-processor, decoder) is run. `Excess`: something is over a limit."""
    try:
        saved = _parsed(file.read_bytes())
        if not isinstance(saved, dict):
            return
        _measure(saved, limits)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return
    texts = list(_texts_for(set(_patterns(saved))))
    # Building the vocabulary of a large model takes longer than all else here, and what it does is
    # known: a text goes through a small one.
    saved["model"] = {"type": "WordLevel", "vocab": {"u": 0}, "unk_token": "u"}
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(json.dumps(saved))
    except MemoryError:
        raise
    # A panic of the Rust side is a BaseException.
    except BaseException:
        return
    try:
        _run(tokenizer, texts, limits["token_growth"])
    except (MemoryError, Excess, KeyboardInterrupt):
        raise
    except BaseException as error:
        # Its regular expressions give up after millions of steps, and the loader would not notice.
        raise Failure(str(error).partition("\n")[0][:200]) from None


def _parsed(content: bytes) -> Any:
    """JSON; `ValueError`, `RecursionError`, `MemoryError`."""
    import orjson

    try:
        return orjson.loads(content)
    except ValueError:
        # So it also calls a lack of memory; the slower parser tells.
        return json.loads(content)


def _measure(saved: dict[str, Any], limits: dict[str, int]) -> None:
    """What can be told from the file alone."""
    added = saved.get("added_tokens") or ()
    if len(added) > limits["added_tokens"]:
        raise Excess("added_tokens", len(added))
    model = saved.get("model") or {}
    # Unigram has pairs of a token and its score.
    tokens: Iterable[Any] = model.get("vocab") or ()
    if isinstance(tokens, list):
        tokens = [pair[0] for pair in tokens]
    longest = max(map(len, tokens), default=0)
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        longest = max(longest, len(model.get(name) or ""))
    longest = max(longest, model.get("max_input_chars_per_word") or 0)
    if longest > limits["token_characters"]:
        raise Excess("token_characters", longest)
    for name in ("normalizer", "decoder"):
        growth = _growth(saved.get(name))
        if growth > limits["token_growth"]:
            raise Excess("token_growth", growth)


def _growth(component: Any) -> int:
    """How many times longer a text may become, at most, in a normalizer or decoder."""
    if not isinstance(component, dict):
        return 1
    growth = 1
    for child in (*component.get("normalizers", ()), *component.get("decoders", ())):
        growth *= _growth(child)
    if component.get("type") == "Replace":
        pattern, content = component["pattern"], component["content"]
        # A regular expression may match one character, and an empty text beside each.
        if "String" not in pattern:
            return growth * (1 + 2 * len(content))
        return growth * max(1, -(-len(content) // max(1, len(pattern["String"]))))
    if component.get("type") == "Prepend":
        return growth * (1 + len(component["prepend"]))
    if component.get("type") == "Precompiled":
        table = base64.b64decode(component["precompiled_charsmap"] or "")
        # The size of a trie (4 bytes), the trie, and what it maps to, with zeros between.
        texts = table[4 + int.from_bytes(table[:4], "little") :]
        return growth * max(1, max(map(len, texts.split(b"\0"))))
    return growth


def _patterns(saved: Any) -> Iterator[str]:
    """All regular expressions in a tokenizer but its model."""
    waiting = [saved.get(name) for name in ("normalizer", "pre_tokenizer", "decoder")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            if isinstance(value.get("Regex"), str):
                yield value["Regex"]


def _texts_for(patterns: set[str]) -> Iterator[str]:
    """Texts on which a regular expression takes long, if there are any: what it matches repeated,
    an end that it does not match, and then what it may look for before it tries at all."""
    pieces = dict.fromkeys((" ", "a", "A", "0", "\n", "!", "é", "你", "aA", "a ", " \n"))
    sought = ""
    for pattern in sorted(patterns):
        plain = _MARKS.sub("\0", pattern)
        runs = re.findall(r"\w+|[^\w\\()\[\]{}|?*+^$.\0]", plain)[:32]
        letters = dict.fromkeys("".join(runs)[:32])
        pieces |= dict.fromkeys(runs) | letters
        pieces |= dict.fromkeys(map("".join, pairwise(letters)))
        sought += "".join(re.findall(r"[^\w\s()\[\]{}|?*+^$\0]+|\w+", plain))
    yield ""
    yield _LONG
    for piece in list(pieces)[:96]:
        repeated = (piece * _REPEATS)[:_REPEATS]
        yield f"{repeated}\x01{sought}"
        yield f"x{repeated}!{sought}"


def _run(tokenizer: Any, texts: list[str], growth: int) -> None:
    """Take texts through a tokenizer. `Excess`: it makes too much of one."""
    bare = tokenizer.encode("a", add_special_tokens=False)
    processed = tokenizer.encode("a")
    if len(processed.ids) - len(bare.ids) > growth:
        raise Excess("token_growth", len(processed.ids))
    for text in texts:
        made = len(tokenizer.encode(text, add_special_tokens=False).ids)
        if made > growth * (len(text) + 1):
            raise Excess("token_growth", made // (len(text) + 1))
    if tokenizer.decoder is not None:
        for text in texts:
            tokenizer.decoder.decode([text[:_REPEATS], "b"])


if __name__ == "__main__":
    main()
