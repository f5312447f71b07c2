"""From YAML and `dotted.key=value` to a checked configuration, with errors in the user's words."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from smorm.config.base import Section
from smorm.config.sections import Config
from smorm.errors import ConfigError

S = TypeVar("S", bound=Section)


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read and validate a YAML file with `dotted.key=value` overrides.

    Raises:
        ConfigError: missing file, broken YAML, unknown key, wrong value; one line each.
    """
    return load_section(Config, path, overrides)


def load_section(section: type[S], path: Path | str, overrides: Sequence[str] = ()) -> S:
    """As `load_config`, for any configuration that is made of sections.

    Raises:
        ConfigError: missing file, broken YAML, unknown key, wrong value; one line each.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such config file{_near_file(path)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        needed = [name for name, key in section.model_fields.items() if key.is_required()]
        raise ConfigError(f"{path}: expected a mapping with the keys {', '.join(needed)}, ...")
    return parse_section(section, overridden(values, overrides), where=str(path))


def parse_config(values: dict[str, Any], where: str = "config") -> Config:
    """Validate plain values.

    Raises:
        ConfigError: every problem on a line of its own: `where: key: what is wrong`.
    """
    return parse_section(Config, values, where)


def parse_section(section: type[S], values: dict[str, Any], where: str = "config") -> S:
    """As `parse_config`, for any configuration that is made of sections.

    Raises:
        ConfigError: every problem on a line of its own: `where: key: what is wrong`.
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        problems = error.errors()
        told = [item for item in problems if not _beside_the_point(item, problems)]
        lines = dict.fromkeys(f"{where}: {_explain(item, section)}" for item in told)
        raise ConfigError("\n".join(lines)) from error


def overridden(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Plain values with `dotted.key=value` laid over them, in place.

    Raises:
        ConfigError: an override that is none, or whose value is not YAML.
    """
    for override in overrides:
        _override(values, override)
    return values


def _override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override {override!r}: expected dotted.key=value")
    *parents, last = key.split(".")
    node: Any = values
    for name in parents:
        child = node.setdefault(name, {}) if isinstance(node, dict) else None
        if child is None and isinstance(node, dict):
            child = node[name] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"override {override!r}: {name} is not a section")
        node = child
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML") from error


_BRANCHES = {"str", "Architecture", "TrainedTokenizer", "list[str]", "dict[str,str]"}
"""What pydantic adds to the place of a problem where a key takes one of several types."""


def _beside_the_point(item: Any, problems: Sequence[Any]) -> bool:
    """A complaint about a type that was not meant: that of another type goes into the value."""
    *outer, last = item["loc"] or ("",)
    return last in _BRANCHES and any(
        list(other["loc"][: len(outer)]) == outer and len(other["loc"]) > len(item["loc"])
        for other in problems
    )


def _explain(item: Any, section: type[Section]) -> str:
    """One pydantic problem in the user's words."""
    place = [str(part) for part in item["loc"] if part not in _BRANCHES]
    key = ".".join(place)
    if item["type"] == "extra_forbidden":
        return f"unknown key {key}{_nearest(place, section)}"
    if item["type"] == "missing":
        return f"{key}: missing"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return message if not key else f"{key}: {message}"
    return f"{key}: {message[0].lower()}{message[1:]}, got {item['input']!r}"


def _nearest(place: list[str], section: type[Section]) -> str:
    known = _known_keys(section, place[:-1])
    near = difflib.get_close_matches(place[-1], known, n=1, cutoff=0.5)
    if near:
        return f": did you mean {'.'.join([*place[:-1], near[0]])}?"
    return f": expected one of {', '.join(known)}" if known else ""


def _known_keys(section: type[Section], place: list[str]) -> list[str]:
    for name in place:
        if name.isdigit():
            continue
        field = section.known_fields().get(name)
        if field is None:
            return []
        found = _section_of(field.annotation)
        if found is None:
            return []
        section = found
    return list(section.known_fields())


def _section_of(annotation: Any) -> type[Section] | None:
    """The section type inside an annotation such as `list[SourceConfig]` or `LoraConfig | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        if (found := _section_of(part)) is not None:
            return found
    return None


def _near_file(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=1)
    return f": did you mean {path.with_name(near[0])}?" if near else ""


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML."""
    text: str = yaml.safe_dump(config.as_dict(), sort_keys=False, allow_unicode=True)
    return text
