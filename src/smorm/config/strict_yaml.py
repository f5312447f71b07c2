"""YAML without its surprises: the one reader of every YAML file and of every override.

YAML 1.1, which PyYAML reads, takes `010` for 8, `1:30` for 90, `no` for false and the last of two
equal keys; a few hundred bytes of aliases write out to gigabytes. Here `yes`, `no`, `on`, `off` and
dates are text (a key of true or false still takes the words), and the others are refused."""

import math
import re
from pathlib import Path
from typing import Any

import yaml

from smorm.errors import ConfigError, SmormError
from smorm.limits import limit, read_limited, refusal
from smorm.printing import PROBLEM, shorten

_INT, _FLOAT, _BOOL = (f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool"))
_DROPPED = {_BOOL, "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value"}


class _Refused(yaml.YAMLError):
    """What is valid YAML and yet not read; `line` counts from 1."""

    def __init__(self, node: yaml.Node | yaml.Event, problem: str) -> None:
        super().__init__(problem)
        start = node.start_mark
        assert start is not None  # a node of a text has one
        self.line = start.line + 1


class _Loader(yaml.SafeLoader):
    """A loader that refuses tags; its plain scalars are numbers, true, false, null or text."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        tag = getattr(event, "tag", None)
        if tag not in (None, "!"):
            raise _Refused(event, f"the tag {tag[:60]!r}: tags are not read")
        return super().compose_node(parent, index)


_resolvers = {}
for _first, _entries in yaml.SafeLoader.yaml_implicit_resolvers.items():
    _resolvers[_first] = [entry for entry in _entries if entry[0] not in _DROPPED]
_Loader.yaml_implicit_resolvers = _resolvers
_Loader.add_implicit_resolver(_BOOL, re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF"))


def read_yaml(path: Path, error_type: type[SmormError] = ConfigError) -> Any:
    """The value of a YAML file (UTF-8), None of an empty one. An error of that type, in one line
    with the file's, where it is too long or not plain YAML; the system's own are the caller's."""
    content = read_limited(path, "config_bytes", error_type)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise error_type(f"{path}:{line}: not UTF-8 text") from error
    try:
        return _Document(text).value
    except _Refused as error:
        raise error_type(f"{path}:{error.line}: {error}") from error
    except yaml.YAMLError as error:
        raise error_type(f"{path}: not valid YAML: {shorten(error, PROBLEM)}") from error


def parse_override(text: str) -> Any:
    """The value of `key=text`. A `#` that YAML would take for a comment is part of a text; what
    cannot keep it is refused. `ValueError` with what is wrong."""
    if len(text) > limit("config_bytes"):
        raise ValueError(refusal("config_bytes", len(text)))
    try:
        document = _Document(text)
    except _Refused as error:
        raise ValueError(str(error)) from error
    except yaml.YAMLError as error:
        raise ValueError("the value is not valid YAML") from error
    node = document.node
    end = 0 if node is None else node.end_mark.index
    if not text[end:].strip():
        return document.value
    if node is None or (isinstance(node, yaml.ScalarNode) and node.style is None):
        return text.strip()
    raise ValueError("YAML takes what follows ' #' for a comment: put the text in quotes")


class _Document:
    """One document: its checked node, None where it is empty, and its value."""

    def __init__(self, text: str) -> None:
        loader = _Loader(text)
        self._sizes: dict[int, tuple[int, int] | None] = {}
        self._most_values, self._most_levels = limit("config_values"), limit("depth")
        self.node: yaml.Node | None = None
        self.value: Any = None
        try:
            self.node = loader.get_single_node()
            if self.node is not None:
                self._measure(self.node)
                self.value = loader.construct_document(self.node)
        except RecursionError:
            raise yaml.YAMLError(refusal("depth")) from None
        except ValueError as error:  # of Python, for a number longer than it converts
            raise yaml.YAMLError(str(error)) from error
        finally:
            loader.dispose()

    def _measure(self, node: yaml.Node) -> tuple[int, int]:
        """Values and levels of a node with its aliases written out, each node looked at once."""
        if id(node) in self._sizes:
            known = self._sizes[id(node)]
            if known is None:
                raise _Refused(node, "an alias stands inside of what it stands for")
            return known
        self._sizes[id(node)] = None
        children: list[yaml.Node] = []
        if isinstance(node, yaml.ScalarNode):
            _refuse_surprises(node)
        elif isinstance(node, yaml.MappingNode):
            _refuse_duplicates(node)
            for pair in node.value:
                children += pair
        else:
            children = node.value
        values, levels = 1, 0
        for child in children:
            inside = self._measure(child)
            values += inside[0]
            levels = max(levels, inside[1])
        # A list or an object is a level, also an empty one.
        if not isinstance(node, yaml.ScalarNode):
            levels += 1
        if values > self._most_values:
            problem = refusal("config_values", values)
            raise _Refused(node, f"with its aliases written out {problem}")
        if levels > self._most_levels:
            raise _Refused(node, refusal("depth", levels))
        self._sizes[id(node)] = values, levels
        return values, levels


def _refuse_duplicates(node: yaml.MappingNode) -> None:
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _Refused(key, "a list or an object cannot be a key")
        name, line = (key.tag, key.value), key.start_mark.line + 1
        if name in lines:
            where = f"in lines {lines[name]} and {line}"
            raise _Refused(key, f"the key {key.value[:60]!r} stands twice, {where}")
        lines[name] = line


def _refuse_surprises(node: yaml.ScalarNode) -> None:
    """A plain number whose value is not what it looks like."""
    if node.tag not in (_INT, _FLOAT):
        return
    text = node.value.replace("_", "").lower()
    if len(text) > limit("digits"):
        raise _Refused(node, refusal("digits", len(text)))
    quoted = repr(node.value[:60])
    if ":" in text:
        raise _Refused(node, f"{quoted} is a number in base 60 to YAML: put it in quotes")
    if node.tag == _INT and re.fullmatch(r"[-+]?0[0-9]+", text):
        problem = f"{quoted} is an octal number to YAML: leave out its first 0, or put it in quotes"
        raise _Refused(node, problem)
    # Of text such as 1.0e+400 the number is infinite too.
    if node.tag == _FLOAT and (text.endswith((".inf", ".nan")) or math.isinf(float(text))):
        raise _Refused(node, f"{quoted}, expected a finite number")
