"""What a chat template may take while it renders one conversation: time, text and memory.

transformers renders in jinja2's sandbox, which keeps a template from reaching anything but its
inputs, and bounds nothing else than one `range`. A template may take too much for some texts
alone, so no trial beforehand can tell (`smorm.text.probe` is one, for what this module does not
see): the bounds stand where templates run. `install` puts them into transformers' own sandbox;
what a template within them writes is the same as before.

* Processor time: a clock is read in every loop, call, filter and operator.
* Text: what is written, and every value on the way, is at most the limit of a conversation.
  Whatever can make much of little (`*`, `**`, `center`, `replace`, `join`, formats) is computed
  only where its result has a fitting size; a nested list counts as what it would be written out.
"""

from __future__ import annotations

import functools
import re
import sys
import threading
import time
from collections.abc import (
    Callable,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    ValuesView,
)
from math import inf
from types import FunctionType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from smorm import limits
from smorm.errors import UnboundedError

_COUNTED = "counted"
# How often the clock is read (it is a call of the system), and how many times the limit of a
# conversation all values of one rendering may be together, in bytes.
_TICKS, _TOGETHER = 32, 256
# A text that is looked at no further: what makes many of them is bounded by the clock.
_SMALL = 4096
# What a value counts for beside its characters: in a list it is written with at least two, and
# takes some dozen bytes of memory.
_VALUE = 8
# Filters and methods whose result grows with a number or with the product of two texts.
_GROWING = frozenset({
    "batch", "center", "expandtabs", "format", "format_map", "indent", "join", "ljust", "replace",
    "rjust", "round", "slice", "to_bytes", "tojson", "translate", "wordwrap", "zfill",
})  # fmt: skip
# A predicted size may be this much over the limit: it is an estimate from above.
_SLACK = 16
_COLLECTIONS = (list, tuple, set, frozenset, KeysView, ItemsView, ValuesView)
_NESTED_FORMAT = re.compile(r"\{[^{}]*\{")


class _Spent(threading.local):
    """What the rendering in this thread has taken, and what it may."""

    seconds = limits.LIMITS["render_seconds"].default
    most = limits.LIMITS["conversation_bytes"].default
    deadline: float | None = None
    ticks = 0
    together = 0

    def begin(self, seconds: int, most: int) -> None:
        self.seconds, self.most = seconds, most
        self.deadline, self.ticks, self.together = None, 0, 0

    def tick(self, work: int = 1) -> None:
        self.ticks += work
        if self.ticks < _TICKS:
            return
        self.ticks = 0
        now = time.thread_time()
        # From the first reading on: most templates are done before it.
        if self.deadline is None:
            self.deadline = now + self.seconds
        if now > self.deadline:
            refusal = limits.refusal("render_seconds")
            raise UnboundedError(f"the chat template is too slow: {refusal}")

    def refuse_over(self, size: float) -> None:
        if size > self.most:
            refusal = limits.refusal("conversation_bytes")
            raise UnboundedError(f"the chat template makes too much text: {refusal}")


_spent = _Spent()


def install() -> None:
    """Let every chat template that transformers compiles in this process be bounded; templates that
    it has compiled before are compiled anew."""
    from transformers.utils import chat_template_utils as transformers_templates

    compile_template = transformers_templates._cached_compile_jinja_template
    if isinstance(compile_template, _Compiler):
        return
    # Here and not in a renderer of ours: all else that transformers does to messages and tools
    # before a template sees them stays its own, and every way to its templates is bounded.
    transformers_templates._cached_compile_jinja_template = _Compiler(compile_template)
    transformers_templates._compile_jinja_template.cache_clear()


class _Compiler:
    """Compiles templates for transformers' environment, with the bounds in it."""

    def __init__(self, plain: Callable[[str], jinja2.Template]) -> None:
        self.plain = plain

    def __call__(self, source: str) -> jinja2.Template:
        # The environment of an empty template: compiling one already runs what is constant in it.
        environment = self.plain("").environment
        bound(environment)
        bounds = limits.limit("render_seconds"), limits.limit("conversation_bytes")
        _spent.begin(*bounds)
        template = environment.from_string(source)
        render = template.root_render_func

        def bounded(context: Any) -> Iterator[str]:
            _spent.begin(*bounds)
            length = 0
            for piece in render(context):
                length += len(piece)
                if length > bounds[1]:
                    _spent.refuse_over(length)
                yield piece

        template.root_render_func = bounded
        return template


def bound(environment: Any) -> None:
    """Put the bounds into a sandbox; templates are compiled after it."""
    environment.__class__ = BoundedEnvironment
    environment.finalize = _sized
    for name, function in environment.filters.items():
        environment.filters[name] = _bounded_filter(name, function)
    environment.filters[_COUNTED] = _counted
    environment.filters["list"] = _bounded_filter("list", _counted_list)
    # Random words, by the thousand.
    environment.globals.pop("lipsum", None)


class _BoundedCode(CodeGenerator):
    """Writes the code of templates with the bounds where jinja2 has no place for them."""

    def visit_Template(self, node: nodes.Template, frame: Any = None) -> None:  # noqa: N802
        for loop in list(node.find_all(nodes.For)):
            counted = nodes.Filter(loop.iter, _COUNTED, [], [], None, None, lineno=loop.lineno)
            loop.iter = counted.set_environment(self.environment)
        super().visit_Template(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Any) -> None:  # noqa: N802
        self.write("environment.joined((")
        for operand in node.nodes:
            self.visit(operand, frame)
            self.write(", ")
        self.write("))")

    def visit_List(self, node: nodes.List, frame: Any) -> None:  # noqa: N802
        self.write("environment.finalize(")
        super().visit_List(node, frame)
        self.write(")")

    def visit_Dict(self, node: nodes.Dict, frame: Any) -> None:  # noqa: N802
        self.write("environment.finalize(")
        super().visit_Dict(node, frame)
        self.write(")")

    def visit_Tuple(self, node: nodes.Tuple, frame: Any) -> None:  # noqa: N802
        if node.ctx != "load":
            super().visit_Tuple(node, frame)
            return
        self.write("environment.finalize(")
        super().visit_Tuple(node, frame)
        self.write(")")


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox with bounds on time and text. The names of its methods are jinja2's."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    code_generator_class = _BoundedCode

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        """Join what a template, a macro or a block has written."""
        texts = list(pieces)
        _spent.refuse_over(sum(map(len, texts)))
        return "".join(texts)

    @staticmethod
    def joined(values: tuple[Any, ...]) -> str:
        """The operator `~`."""
        if sum(map(size, values)) > _spent.most:
            _spent.refuse_over(inf)
        return str(_checked("".join(map(str, values))))

    def call_binop(self, context: Any, operator: str, first: Any, second: Any) -> Any:
        """A binary operator, where its result has a fitting size."""
        # The sum of two texts is looked at when it is made, which is quicker.
        if operator != "+" or type(first) is not str or type(second) is not str:
            _spent.tick()
            _refuse_operation(operator, first, second)
        return _checked(self.binop_table[operator](first, second))

    def call(__self, __context: Any, __function: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """A call, where its result has a fitting size."""
        _spent.tick()
        method = __function
        if isinstance(method, FunctionType):
            # jinja2 wraps `str.format`.
            method = getattr(method, "__wrapped__", method)
        if getattr(method, "__name__", "") in _GROWING:
            args = tuple(map(_listed, args))
            owner = getattr(method, "__self__", None)
            _refuse_growth(method.__name__, owner, args, kwargs)
        return _checked(super().call(__context, __function, *args, **kwargs))


def size(value: Any) -> int:
    """How long a value would be written out, about: the characters of texts, and a few for each
    value in it, as often as it stands there. `UnboundedError` where it is over the limit."""
    if isinstance(value, str):
        return len(value)
    total, values, waiting = 0, 0, [value]
    while waiting:
        item = waiting.pop()
        values += 1
        if isinstance(item, (str, bytes)):
            total += len(item)
        elif isinstance(item, _COLLECTIONS):
            waiting.extend(item)
        elif isinstance(item, Namespace):
            waiting.append(item._Namespace__attrs)
        elif isinstance(item, dict):
            waiting.extend(item)
            waiting.extend(item.values())
        elif isinstance(item, int):
            total += item.bit_length() // 3
        total += _VALUE
        _spent.refuse_over(total)
    # Counting is work too.
    _spent.tick(values)
    return total


def _sized(value: Any) -> Any:
    """A value that is written: a text is counted where it is put together with others."""
    if type(value) is not str:
        _spent.refuse_over(size(value))
    return value


def _checked(value: Any) -> Any:
    """A new value, where it is within the limit, alone and with all made before."""
    if type(value) is str and len(value) < _SMALL:
        return value
    _spent.tick()
    if isinstance(value, (str, bytes, list, tuple)):
        _spent.together += sys.getsizeof(value)
        if _spent.together > _TOGETHER * _spent.most:
            _spent.refuse_over(inf)
    _spent.refuse_over(size(value))
    return value


def _counted(values: Iterable[Any]) -> Iterator[Any]:
    """What a loop goes over."""
    for value in values:
        _spent.tick()
        yield value


def _counted_list(values: Iterable[Any]) -> list[Any]:
    return list(_counted(values))


def _listed(value: Any) -> Any:
    """Lazy values as a list, whose size can be told."""
    return list(_counted(value)) if isinstance(value, Iterator) else value


def _bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    # jinja2 may pass its context first: the attribute that asks for it is copied by `wraps`.
    skipped = int(hasattr(function, "jinja_pass_arg"))

    @functools.wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        _spent.tick()
        if name in _GROWING:
            arguments = [*args[:skipped], *map(_listed, args[skipped:])]
            value, *others = arguments[skipped:]
            if name == "join":
                # As a method the separator is the owner.
                separator = others[0] if others else kwargs.get("d", "")
                _refuse_growth(name, str(separator), (value,), {})
            else:
                _refuse_growth(name, value, tuple(others), kwargs)
            args = tuple(arguments)
        return _checked(function(*args, **kwargs))

    return bounded


def _refuse_operation(operator: str, first: Any, second: Any) -> None:
    """Refuse a binary operation with too large a result, before it is computed."""
    if operator == "%":
        if isinstance(first, (str, bytes)):
            _refuse_format(str(first), second, "*" in str(first))
    elif operator == "**":
        if isinstance(first, int) and isinstance(second, int):
            _spent.refuse_over(first.bit_length() * second)
    elif operator == "+":
        if not isinstance(first, (int, float)):
            _spent.refuse_over(size(first) + size(second))
    elif isinstance(first, int) and isinstance(second, int):
        _spent.refuse_over(first.bit_length() + second.bit_length())
    else:
        for value, times in ((first, second), (second, first)):
            if isinstance(times, int):
                _spent.refuse_over(size(value) * times)


def _refuse_growth(name: str, value: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse a filter or method with too large a result, before it is computed."""
    arguments = (*args, *kwargs.values())
    largest = max(map(_amount, arguments), default=0)
    if name in ("batch", "center", "ljust", "rjust", "slice", "to_bytes", "zfill"):
        _spent.refuse_over(largest)
    elif name == "round":
        # A power of ten with as many digits.
        _spent.refuse_over(largest**2)
    elif name in ("expandtabs", "indent"):
        text = str(value)
        lines = 1 + text.count("\n") + text.count("\t")
        _spent.refuse_over(len(text) + lines * largest)
    elif name in ("tojson", "translate", "wordwrap"):
        longest = max(map(size, arguments), default=0)
        if name == "tojson":
            longest = largest
        _spent.refuse_over(size(value) * longest / _SLACK)
    elif name == "join":
        items = args[0] if args else ()
        count = len(items) if hasattr(items, "__len__") else 0
        _spent.refuse_over(size(items) + count * len(value))
    elif name == "replace" and len(arguments) > 1:
        text, old, new = str(value), str(arguments[0]), str(arguments[1])
        _spent.refuse_over(len(text) + text.count(old) * len(new))
    elif name in ("format", "format_map"):
        text = str(value)
        _refuse_format(text, arguments, "*" in text or _NESTED_FORMAT.search(text) is not None)


def _refuse_format(text: str, arguments: Any, widths: bool) -> None:
    """Refuse a format that writes too much: long values often, or a width."""
    fields = text.count("%") + text.count("{")
    if not fields:
        return
    values = tuple(arguments) if isinstance(arguments, (tuple, list)) else (arguments,)
    longest = max(map(size, values), default=0)
    if widths:
        longest = max(longest, max(map(_amount, values), default=0))
    _spent.refuse_over(fields * longest / _SLACK)
    for digits in re.findall(r"\d+", text):
        _spent.refuse_over(inf if len(digits) > 9 else int(digits))


def _amount(value: Any) -> int:
    """A number itself, of anything else its size."""
    if isinstance(value, (int, float)):
        return int(min(abs(value), 2**62))
    if isinstance(value, Mapping):
        return max(map(_amount, value.values()), default=0)
    return size(value)
