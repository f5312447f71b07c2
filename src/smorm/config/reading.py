"""From YAML and `dotted.key=value` to a checked configuration, with errors in the user's words."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from smorm.config.base import Section
from smorm.config.sections import Config
from smorm.config.strict_yaml import parse_override, read_yaml
from smorm.errors import ConfigError
from smorm.files import nearest_name
from smorm.limits import limit, refusal
from smorm.printing import PROBLEM, brief, cut, without_secrets
from smorm.typed import problem_text

S = TypeVar("S", bound=Section)

# What pydantic adds to the location of a problem where a key takes one of several types.
_BRANCHES = {"str", "Architecture", "TrainedTokenizer", "list[str]", "dict[str,str]"}


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read and validate a training run's YAML file; see `load_section`."""
    return load_section(Config, path, overrides)


def load_section(section: type[S], path: Path | str, overrides: Sequence[str] = ()) -> S:
    """Read and validate a YAML file with `dotted.key=value` overrides. `ConfigError` has a line for
    each problem: missing file, broken YAML, unknown key, wrong value."""
    path = Path(path)
    try:
        values = read_yaml(path)
    except FileNotFoundError as error:
        hint = ""
        # any file: `train.yml` for `train.yaml` is a near name as well
        if near := nearest_name(path):
            hint = f": did you mean {near}?"
        raise ConfigError(f"{path}: no such config file{hint}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    # an empty file is null
    if not isinstance(values, dict):
        required = [name for name, key in section.model_fields.items() if key.is_required()]
        raise ConfigError(f"{path}: expected a mapping with the keys {', '.join(required)}, ...")
    return parse_section(section, overridden(values, overrides), where=str(path))


def parse_config(values: dict[str, Any], where: str = "config") -> Config:
    """Validate plain values of a training run; see `parse_section`."""
    return parse_section(Config, values, where)


def parse_section(section: type[S], values: dict[str, Any], where: str = "config") -> S:
    """Validate plain values; a `ConfigError` has every problem on a line: `where: key: problem`."""
    try:
        return section.model_validate(values)
    except ValidationError as error:
        problems = error.errors()
        # a dict keeps the order and drops what two branches of a type complain about alike
        lines: dict[str, None] = {}
        for problem in problems:
            if not _is_of_another_branch(problem, problems):
                lines[f"{where}: {cut(_explain(problem, section), PROBLEM)}"] = None
        raise ConfigError("\n".join(lines)) from error


def overridden(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Plain values with `dotted.key=value` laid over them, in place."""
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"override {brief(override)}: expected dotted.key=value")
        *parents, last = key.split(".")
        if len(parents) >= limit("depth"):
            raise ConfigError(f"override {brief(override)}: {refusal('depth', len(parents) + 1)}")
        node = values
        for name in parents:
            # a section that the file leaves empty is null in YAML
            if node.get(name) is None:
                node[name] = {}
            node = node[name]
            if not isinstance(node, dict):
                raise ConfigError(f"override {brief(override)}: {name} is not a section")
        try:
            node[last] = parse_override(text)
        except ValueError as error:
            raise ConfigError(f"override {brief(override)}: {error}") from error
    return values


def _is_of_another_branch(problem: Mapping[str, Any], problems: Sequence[Any]) -> bool:
    """Whether the value was meant as another of the types that its key takes: pydantic reports
    every type, and the one that was meant has a problem at a longer location."""
    *outer, last = problem["loc"] or ("",)
    longer = [list(each["loc"]) for each in problems if len(each["loc"]) > len(problem["loc"])]
    return last in _BRANCHES and any(location[: len(outer)] == outer for location in longer)


def _explain(problem: Mapping[str, Any], section: type[Section]) -> str:
    path = [str(name) for name in problem["loc"] if name not in _BRANCHES]
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key}{_nearest(path, section)}"
    if problem["type"] == "missing":
        return f"{key}: missing"
    return f"{key}: {problem_text(problem)}".removeprefix(": ")


def _nearest(path: list[str], section: type[Section]) -> str:
    # The keys of the section at the path; none where there is no section.
    keys = section.known_fields()
    for name in path[:-1]:
        # an index of a list is no key
        if name in keys:
            keys = _keys_of(keys[name].annotation)
    near = difflib.get_close_matches(path[-1], keys, n=1, cutoff=0.5)
    if near:
        return f": did you mean {'.'.join([*path[:-1], near[0]])}?"
    return f": expected one of {', '.join(keys)}" if keys else ""


def _keys_of(annotation: Any) -> dict[str, FieldInfo]:
    """The keys of the section in an annotation such as `list[SourceConfig]`; none without one."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation.known_fields()
    for argument in getattr(annotation, "__args__", ()):
        if keys := _keys_of(argument):
            return keys
    return {}


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML, without the secrets of addresses."""
    values = without_secrets(config.as_dict())
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return text
