"""The configuration: one YAML file, strictly validated, overridden by `dotted.key=value`.

An unknown key is an error that names the nearest known one. The resolved configuration and its hash
are written beside the model.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from smorm.errors import ConfigError
from smorm.files import fingerprint

BOOKKEEPING = (
    "output.folder",
    "training.threads",
    "training.log_every",
    "training.evaluate_every",
    "training.save_every",
    "training.keep_checkpoints",
    "training.tensorboard",
)
"""Keys that may change between a run and its resumption: they do not touch the result."""

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A part of the configuration: no unknown keys, no silent conversions of kind."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_where_it_belongs(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        if isinstance(value, bool) and field.annotation is not bool:
            raise ValueError("true and false are no values of this key")
        return value


def _number(value: Any) -> Any:
    """YAML 1.1 reads `1e-5` as text. Where a key says its type that is mended already."""
    if isinstance(value, dict):
        return {key: _number(child) for key, child in value.items()}
    if isinstance(value, str) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+", value):
        return float(value)
    return value


def _listed(value: Any) -> Any:
    """Let a single source stand for a list of one."""
    if not isinstance(value, dict):
        return value
    sources = ("preference", "rated")
    return {
        key: [item] if key in sources and isinstance(item, str | dict) else item
        for key, item in value.items()
    }


class Architecture(Section):
    """A backbone built from scratch: a transformers model type and its config's fields."""

    model_config = ConfigDict(extra="allow", frozen=True)
    architecture: str
    seed: int | None = None

    def fields(self) -> dict[str, Any]:
        """What goes to transformers' config class."""
        return {key: _number(value) for key, value in (self.model_extra or {}).items()}


class TrainedTokenizer(Section):
    """A byte-level BPE tokenizer trained on the run's own training texts."""

    train: Literal["bpe"]
    vocab_size: Annotated[int, Field(ge=300)] = 8000


class LoraConfig(Section):
    """Low-rank adapters through peft; the score head is always trained whole and saved."""

    rank: Positive = 32
    alpha: Annotated[float, Field(gt=0)] = 64.0
    dropout: Fraction = 0.05
    targets: str | list[str] = "all-linear"


class ModelSection(Section):
    """What is trained."""

    backbone: str | Architecture
    tokenizer: str | TrainedTokenizer | None = None
    chat_template: Path | None = None
    layout: Literal["auto", "forest", "packed", "padded"] = "auto"
    lora: LoraConfig | None = None

    @model_validator(mode="after")
    def _tokenizer_for_scratch(self) -> ModelSection:
        if isinstance(self.backbone, Architecture) and self.tokenizer is None:
            raise ValueError("tokenizer: a backbone from scratch needs one, e.g. {train: bpe}")
        if isinstance(self.backbone, Architecture) and self.lora is not None:
            raise ValueError("lora: adapters need a pretrained backbone, not one from scratch")
        return self


class SourceConfig(Section):
    """One file, folder or dataset id of records."""

    path: str
    format: str = "auto"
    split: str = "train"
    subset: str | None = None
    attributes: dict[str, str] | list[str] | None = None
    limit: Positive | None = None
    stride: Positive = 1

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


Sources = list[SourceConfig]


class MixingConfig(Section):
    """How pairs and ratings meet in a step.

    `ratio`: `rated_per_pair` rated responses for each pair, whatever the sizes of the sets.
    `zip`: item i is (pair i mod |pairs|, rating i mod |ratings|), the paper's pairing.
    """

    mode: Literal["ratio", "zip"] = "ratio"
    rated_per_pair: Annotated[float, Field(gt=0)] = 1.0


class DataSection(Section):
    """What it is trained on."""

    preference: Sources = []
    rated: Sources = []
    attributes: list[str] | None = None
    scaling: Literal["standardize", "unit", "none"] = "standardize"
    mixing: MixingConfig = MixingConfig()
    max_tokens: Annotated[int, Field(ge=8)] = 2048
    overlong: Literal["error", "drop", "truncate_prompt"] = "error"
    on_bad_record: Literal["stop", "skip"] = "stop"

    @model_validator(mode="before")
    @classmethod
    def _one_source(cls, value: Any) -> Any:
        return _listed(value)


class ObjectiveSection(Section):
    """What is minimised.

    `kind`: `joint` (SMORM), `preference` (Single: Bradley–Terry alone) or `regression` (Multi).
    `weighting` of the regression term: `paper` (sum over attributes, weight 1), `official` (mean
    over attributes, weight 1), `fixed` (`weight` times the `reduction` over attributes) or
    `learned` (maximum-likelihood noise per attribute).
    """

    kind: Literal["joint", "preference", "regression"] = "joint"
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    use_margin: bool = False
    weighting: Literal["paper", "official", "fixed", "learned"] = "official"
    weight: Annotated[float, Field(gt=0)] = 1.0
    reduction: Literal["sum", "mean"] = "mean"
    noise_learning_rate: Annotated[float, Field(gt=0)] = 0.01


class TrainingSection(Section):
    """How it is minimised. A step is one optimizer update."""

    seed: Annotated[int, Field(ge=0)] = 0
    epochs: Annotated[float, Field(gt=0)] = 1.0
    max_steps: Positive | None = None
    batch_size: Positive = 32
    max_batch_tokens: Positive = 4096
    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    head_learning_rate: Annotated[float, Field(gt=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Fraction = 0.03
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    device: str = "auto"
    threads: Positive | None = None
    log_every: Positive = 10
    evaluate_every: Positive | None = None
    save_every: Positive | None = None
    keep_checkpoints: Positive = 2
    diagnose_every: Positive | None = None
    tensorboard: bool = False


class EvaluationSection(Section):
    """Held-out records, measured while training."""

    preference: Sources = []
    rated: Sources = []
    limit: Positive | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_source(cls, value: Any) -> Any:
        return _listed(value)


class OutputSection(Section):
    """Where results go."""

    folder: Path
    default_view: Literal["F", "L", "M"] | None = None


class Config(Section):
    """The whole configuration of a training run."""

    model: ModelSection
    data: DataSection
    objective: ObjectiveSection = ObjectiveSection()
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSection = EvaluationSection()
    output: OutputSection

    @model_validator(mode="after")
    def _data_for_objective(self) -> Config:
        kind = self.objective.kind
        if kind in ("joint", "preference") and not self.data.preference:
            raise ValueError(f"data.preference: objective.kind {kind} needs preference pairs")
        if kind in ("joint", "regression") and not self.data.rated:
            raise ValueError(f"data.rated: objective.kind {kind} needs rated responses")
        return self

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as written to `config.yaml`."""
        return self.model_dump(mode="json")

    @property
    def hash(self) -> str:
        """Fingerprint of everything that decides the result."""
        return fingerprint(decisive(self.as_dict()))


def decisive(values: dict[str, Any]) -> dict[str, Any]:
    """Flat `dotted.key: value` of all that decides the result."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, node: Any) -> None:
        if isinstance(node, dict) and node:
            for key, child in node.items():
                walk(f"{prefix}.{key}" if prefix else str(key), child)
        elif prefix not in BOOKKEEPING:
            flat[prefix] = node

    walk("", values)
    return flat


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read and validate a YAML file with `dotted.key=value` overrides.

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
        raise ConfigError(f"{path}: expected a mapping with the keys model, data, output, ...")
    for override in overrides:
        _override(values, override)
    return parse_config(values, where=str(path))


def parse_config(values: dict[str, Any], where: str = "config") -> Config:
    """Validate plain values.

    Raises:
        ConfigError: every problem on a line of its own: `where: key: what is wrong`.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = error.errors()
        told = [item for item in problems if not _beside_the_point(item, problems)]
        lines = dict.fromkeys(f"{where}: {_explain(item)}" for item in told)
        raise ConfigError("\n".join(lines)) from error


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


def _explain(item: Any) -> str:
    """One pydantic problem in the user's words."""
    place = [str(part) for part in item["loc"] if part not in _BRANCHES]
    key = ".".join(place)
    if item["type"] == "extra_forbidden":
        return f"unknown key {key}{_nearest(place)}"
    if item["type"] == "missing":
        return f"{key}: missing"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return message if not key else f"{key}: {message}"
    return f"{key}: {message[0].lower()}{message[1:]}, got {item['input']!r}"


def _nearest(place: list[str]) -> str:
    known = _known_keys(Config, place[:-1])
    near = difflib.get_close_matches(place[-1], known, n=1, cutoff=0.5)
    if near:
        return f": did you mean {'.'.join([*place[:-1], near[0]])}?"
    return f": expected one of {', '.join(known)}" if known else ""


def _known_keys(section: type[BaseModel], place: list[str]) -> list[str]:
    for name in place:
        if name.isdigit():
            continue
        field = section.model_fields.get(name)
        if field is None:
            return []
        found = _section_of(field.annotation)
        if found is None:
            return []
        section = found
    return list(section.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section type inside an annotation such as `list[SourceConfig]` or `LoraConfig | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
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
