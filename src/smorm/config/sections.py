"""The sections of the configuration, their keys, and what each may hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from smorm.config.base import Fraction, Positive, Section, plain_value
from smorm.config.objective import Objective, kinds_with, parse_objective
from smorm.files import fingerprint
from smorm.limits import limit, refusal
from smorm.names import names_problem

# Keys that may change between a run and its resumption: they do not touch the result.
BOOKKEEPING = (
    "output.folder",
    "data.workers",
    "data.cache",
    "training.threads",
    "training.parallel",
    "training.offload",
    "training.accept_other_bits",
    "training.log_every",
    "training.evaluate_every",
    "training.save_every",
    "training.keep_checkpoints",
    "training.tensorboard",
    "training.report_to",
)

UNNAMED = "dev"
"""What held-out records are called by where their set has no name."""


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str | dict) else value


def _positive_or_auto(noun: str) -> BeforeValidator:
    def check(value: Any) -> Any:
        if value != "auto" and not (isinstance(value, int) and value > 0):
            raise ValueError(f"a number of {noun} above 0, or auto, got {value!r}")
        return value

    return BeforeValidator(check)


def _named_once(value: dict[str, str] | list[str] | None) -> Any:
    if problem := names_problem(value or ()):
        raise ValueError(problem)
    return value


class Architecture(Section):
    """A backbone built from scratch: a transformers model type and its config's fields."""

    # transformers checks the fields: which there are depends on the model type
    model_config = ConfigDict(extra="allow", frozen=True)
    architecture: str
    seed: int | None = None

    def fields(self) -> dict[str, Any]:
        """What goes to transformers' config class."""
        return {key: plain_value(value) for key, value in (self.model_extra or {}).items()}


class TrainedTokenizer(Section):
    """A byte-level BPE tokenizer trained on the run's own training texts."""

    train: Literal["bpe"]
    vocab_size: Annotated[int, Field(ge=300)] = 8000


HeadStart = Literal["random", "zero", "probe", "trl", "openrlhf"]
"""What the rows of a linear head are before the first step (`smorm.model.heads.START_STD`, and
`smorm.training.head_start` for `probe`)."""
DEFAULT_HEAD_START: HeadStart = "random"
"""Of a configuration that names none, where its method and head can start so."""

BaseDtype = Literal["fp32", "bf16", "nf4"]
"""How the weights below adapters are held."""


class LoraConfig(Section):
    """Low-rank adapters through peft; the score head is always trained whole and saved."""

    rank: Positive = 32
    alpha: Annotated[float, Field(gt=0)] = 64.0
    dropout: Fraction = 0.05
    targets: str | list[str] = "all-linear"
    base: BaseDtype = "fp32"

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # As in a source: a configuration without this key keeps its hash.
        values: dict[str, Any] = handler(self)
        if self.base == "fp32":
            values.pop("base", None)  # where it was not excluded before
        return values

    def adapters(self) -> dict[str, Any]:
        """What peft makes of it."""
        return self.model_dump(exclude={"base"})


class ModelSection(Section):
    """What is trained. The head `mlp` is a hidden layer of 1024 (ReLU) before the one score, which
    no other program can load."""

    backbone: str | Architecture
    tokenizer: str | TrainedTokenizer | None = None
    chat_template: Path | None = None
    system: Literal["refuse", "merge"] = "refuse"
    layout: Literal["auto", "forest", "packed", "padded"] = "auto"
    lora: LoraConfig | None = None
    freeze: bool = False
    head: Literal["linear", "mlp"] = "linear"
    head_start: HeadStart | None = None

    @model_validator(mode="after")
    def _tokenizer_for_scratch(self) -> ModelSection:
        # a pretrained backbone brings its own, which the ids must fit
        from_scratch = isinstance(self.backbone, Architecture)
        if from_scratch and self.tokenizer is None:
            raise ValueError("tokenizer: a backbone from scratch needs one, e.g. {train: bpe}")
        if from_scratch and self.lora is not None:
            raise ValueError("lora: adapters need a pretrained backbone, not one from scratch")
        if self.freeze and self.lora is not None:
            raise ValueError("freeze: adapters train the backbone; leave out freeze or lora")
        return self

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # As in a source: a configuration without this key keeps its hash.
        values: dict[str, Any] = handler(self)
        if self.system == "refuse":
            del values["system"]
        # `Config.as_dict` writes it, resolved.
        del values["head_start"]
        return values


Label = Literal["signed", "index", "number", "first_better", "best_first"]


class SourceConfig(Section):
    """One file, folder or dataset id of records."""

    path: str
    format: str = "auto"
    split: str = "train"
    subset: str | None = None
    attributes: dict[str, str] | list[str] | None = None
    limit: Positive | None = None
    stride: Positive = 1
    columns: dict[str, str | list[str]] = Field(default_factory=dict)
    ignore: list[str] = Field(default_factory=list)
    label: Label | dict[str, Any] | None = None
    na: list[str] = Field(default_factory=list)
    booleans: bool = False
    numbers_in_text: bool = False
    streaming: bool = False

    _attribute_names = field_validator("attributes", mode="after")(_named_once)

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # These keys came later: without them a configuration has the hash that it had before.
        values: dict[str, Any] = handler(self)
        later = (
            "columns",
            "ignore",
            "label",
            "na",
            "booleans",
            "numbers_in_text",
            "streaming",
            "name",
        )
        for key in later:
            if not values.get(key, True):
                del values[key]
        return values


Sources = Annotated[list[SourceConfig], BeforeValidator(_listed)]


def _sets(value: Any) -> Any:
    """`{NAME: sources}` as a list of sources that have the name of their set."""
    # A mapping with keys of a source is one.
    if not isinstance(value, dict) or value.keys() & SourceConfig.model_fields.keys():
        return _listed(value)
    sources: list[Any] = []
    for name, members in value.items():
        for source in [members] if isinstance(members, str | dict) else members or [None]:
            fields = {"path": source} if isinstance(source, str) else source
            sources.append({**fields, "name": name} if isinstance(fields, dict) else fields)
    return sources


class HeldOutSource(SourceConfig):
    """A source of held-out records. Sources of one name are one set."""

    name: Annotated[str, Field(pattern=r"^[^/\s]+$")] | None = None


HeldOut = Annotated[list[HeldOutSource], BeforeValidator(_sets)]


class MixingConfig(Section):
    """How pairs and ratings meet in a step."""

    mode: Literal["ratio", "zip"] = "ratio"
    rated_per_pair: Annotated[float, Field(gt=0)] = 1.0
    group_by_prompt: bool = False

    @model_validator(mode="after")
    def _zip_is_its_own_order(self) -> MixingConfig:
        if self.group_by_prompt and self.mode == "zip":
            pairing = "zip itself says which rating stands beside which pair, so that nothing can"
            raise ValueError(f"group_by_prompt: {pairing} move to its prompt; use mode: ratio")
        return self


Negative = Literal["cross_prompt", "first_words", "shuffled_words", "repeated_start"]


class AugmentSection(Section):
    """Extra pairs whose rejected side is bad by its making."""

    share: Annotated[float, Field(gt=0, le=4)] = 0.5
    kinds: Annotated[list[Negative], Field(min_length=1)] = Field(
        default_factory=lambda: list(get_args(Negative))
    )

    @field_validator("kinds", mode="after")
    @classmethod
    def _once_each(cls, value: list[Negative]) -> list[Negative]:
        if len(set(value)) < len(value):
            raise ValueError("a kind is there twice")
        return value


class DataSection(Section):
    """What it is trained on."""

    preference: Sources = Field(default_factory=list)
    rated: Sources = Field(default_factory=list)
    attributes: list[str] | None = None
    scaling: Literal["standardize", "unit", "none"] = "standardize"
    mixing: MixingConfig = MixingConfig()
    augment: AugmentSection | None = None
    max_tokens: Annotated[int, Field(ge=8)] = 2048
    overlong: Literal["error", "drop", "truncate_prompt"] = "error"
    on_bad_record: Literal["stop", "skip"] = "stop"
    workers: Annotated[int | Literal["auto"], _positive_or_auto("processes")] = "auto"
    cache: str | None = "auto"

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # The key came later: without it a configuration has the hash that it had before.
        values: dict[str, Any] = handler(self)
        if values["augment"] is None:
            del values["augment"]
        return values

    _attribute_names = field_validator("attributes", mode="after")(_named_once)

    @field_validator("max_tokens", mode="after")
    @classmethod
    def _of_a_conversation(cls, value: int) -> int:
        if value > limit("tokens"):
            raise ValueError(refusal("tokens", value))
        return value

    @field_validator("cache", mode="after")
    @classmethod
    def _folder(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("a folder, auto or null, got nothing")
        return value


class TrainingSection(Section):
    """How it is minimised. A step is one optimizer update."""

    seed: Annotated[int, Field(ge=0)] = 0
    epochs: Annotated[float, Field(gt=0)] = 1.0
    max_steps: Positive | None = None
    batch_size: Positive = 32
    max_batch_tokens: Annotated[int | Literal["auto"], _positive_or_auto("tokens")] = 4096
    memory_budget: str | None = None
    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    head_learning_rate: Annotated[float, Field(gt=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Fraction = 0.03
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    device: str = "auto"
    threads: Positive | None = None
    accept_other_bits: bool = False
    parallel: Literal["auto", "replicated", "sharded"] = "auto"
    offload: bool = False
    step_parts: Annotated[int | Literal["auto"], _positive_or_auto("parts")] = "auto"
    log_every: Positive = 10
    evaluate_every: Positive | None = None
    save_every: Positive | None = None
    keep_checkpoints: Positive = 2
    diagnose_every: Positive | None = None
    tensorboard: bool = False
    report_to: Annotated[
        list[Literal["tensorboard", "wandb", "trackio"]], BeforeValidator(_listed)
    ] = Field(default_factory=list)
    best: str | None = None
    stop_after: Positive | None = None

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # These keys came later: without them a configuration has the hash that it had before.
        values: dict[str, Any] = handler(self)
        for key in ("report_to", "best", "stop_after", "accept_other_bits", "offload"):
            if not values[key]:
                del values[key]
        if self.parallel == "auto":
            del values["parallel"]
        if self.optimizer == "adamw":
            del values["optimizer"]
        if self.step_parts in ("auto", 1):
            del values["step_parts"]
        return values

    @model_validator(mode="after")
    def _offloaded(self) -> TrainingSection:
        if self.offload and self.parallel != "sharded":
            raise ValueError("offload: of sharded weights only: add training.parallel: sharded")
        return self

    @model_validator(mode="after")
    def _measured(self) -> TrainingSection:
        if self.stop_after is not None and self.best is None:
            raise ValueError("stop_after: say by which held-out set: add training.best: NAME")
        if self.best is not None and self.evaluate_every is None:
            raise ValueError("best: is looked for at each evaluation: add training.evaluate_every")
        return self

    @field_validator("memory_budget", mode="before")
    @classmethod
    def _memory(cls, value: Any) -> Any:
        if value is None:
            return None
        # a bare number is bytes; YAML reads it as one
        pattern = r"\s*[\d.]+\s*([kmgt]i?b)?\s*"
        if not isinstance(value, int | str) or not re.fullmatch(pattern, str(value), re.I):
            raise ValueError(f"expected memory such as 8GB or 500MB, got {value!r}")
        return str(value)


class EvaluationSection(Section):
    """Held-out records, measured while training: a list, or `{NAME: list}` of named sets."""

    preference: HeldOut = Field(default_factory=list)
    rated: HeldOut = Field(default_factory=list)
    limit: Positive | None = None

    def sets(self) -> dict[str, EvaluationSection]:
        """A section for each set, by its name."""
        sources = (*self.preference, *self.rated)
        sections = {}
        for name in dict.fromkeys(source.name for source in sources):
            sources_by_kind = {}
            for kind in ("preference", "rated"):
                sources_by_kind[kind] = [each for each in getattr(self, kind) if each.name == name]
            sections[name or UNNAMED] = self.model_copy(update=sources_by_kind)
        return sections


class OutputSection(Section):
    """Where results go."""

    folder: Path
    default_view: Literal["F", "L", "M"] | dict[str, Any] | None = None


class Config(Section):
    """The whole configuration of a training run."""

    model: ModelSection
    data: DataSection
    objective: Objective = Field(default_factory=lambda: parse_objective({}))
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSection = EvaluationSection()
    output: OutputSection

    @model_validator(mode="after")
    def _fits_the_method(self) -> Config:
        # Here rather than in the sections, each of which sees only itself.
        objective, kind = self.objective, self.objective.kind
        if objective.method.uses_pairs and not self.data.preference:
            raise ValueError(f"data.preference: objective.kind {kind} needs preference pairs")
        if objective.method.uses_ratings and not self.data.rated:
            raise ValueError(f"data.rated: objective.kind {kind} needs rated responses")
        head = self.model.head
        if head not in objective.method.heads:
            kinds = kinds_with(lambda method: head in method.heads)
            raise ValueError(f"model.head: {head} goes with kind {kinds}, not {kind}")
        self._refuse_unfit_start()
        self._refuse_unknown_best()
        objective.method.check(self)
        return self

    def _refuse_unfit_start(self) -> None:
        start, kind = self.model.head_start, self.objective.kind
        if start is None or self._can_start(start):
            return
        if self.model.head != "linear":
            problem = f"goes with model.head linear, not {self.model.head}"
        else:
            kinds = kinds_with(lambda method: start in method.head_starts)
            problem = f"goes with kind {kinds}, not {kind}"
        raise ValueError(f"model.head_start: {start} {problem}: leave it out")

    def _can_start(self, start: HeadStart) -> bool:
        # The rows of a head that is not linear are no rows that a probe could fit.
        if self.model.head != "linear":
            return start == "random"
        return start in self.objective.method.head_starts

    @property
    def head_start(self) -> HeadStart:
        """How the head's rows begin: as `model.head_start` says, else by the default."""
        if self.model.head_start is not None:
            return self.model.head_start
        return DEFAULT_HEAD_START if self._can_start(DEFAULT_HEAD_START) else "random"

    def _refuse_unknown_best(self) -> None:
        best, method, names = self.training.best, self.objective.method, []
        for name, held_out in self.evaluation.sets().items():
            pairs = held_out.preference and method.uses_pairs
            if pairs or (held_out.rated and method.uses_ratings):
                names.append(name)
        if best is not None and best not in names:
            known = f"there are {', '.join(names)}" if names else "there is none (evaluation)"
            raise ValueError(f"training.best: {best}: no held-out set has that name; {known}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as written to `config.yaml`."""
        values = self.model_dump(mode="json")
        # Resolved, so that it stays what it was if the default changes. While that is `random`, a
        # configuration that starts so has the hash that it had before there was a choice.
        if {self.head_start, DEFAULT_HEAD_START} != {"random"}:
            values["model"]["head_start"] = self.head_start
        return values

    @property
    def hash(self) -> str:
        """Fingerprint of everything that decides the result."""
        return fingerprint(decisive(self.as_dict()))


def decisive(values: dict[str, Any]) -> dict[str, Any]:
    """Flat `dotted.key: value` of all that decides the result."""
    flat: dict[str, Any] = {}
    bookkeeping = set(BOOKKEEPING)
    # The best step is one of those that are measured.
    if values.get("training", {}).get("best"):
        bookkeeping.discard("training.evaluate_every")

    def walk(prefix: str, node: Any) -> None:
        if isinstance(node, dict) and node:
            for key, child in node.items():
                walk(f"{prefix}.{key}".removeprefix("."), child)
        # an empty mapping is a value too
        elif prefix not in bookkeeping:
            flat[prefix] = node

    walk("", values)
    return flat
