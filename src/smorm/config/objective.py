"""The section that says what is minimised, and the registry of the training methods."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Protocol, TypeVar

import pydantic
from pydantic import Field
from pydantic.fields import FieldInfo

from smorm.config.base import Section
from smorm.registry import Registry

Weight = Annotated[float, Field(ge=0.0)]
S = TypeVar("S", bound=Section)
REGULARISERS = ("positive_regularisation", "centering", "bsr")


class MethodSpec(Protocol):
    """What a configuration reads of a method; `smorm.training.methods.Method` documents it."""

    section: type[Section] | None
    uses_pairs: bool
    uses_ratings: bool
    regularised: bool
    heads: tuple[str, ...]
    head_starts: tuple[str, ...]

    def check(self, config: Any) -> None: ...

    def label(self, objective: ObjectiveSection) -> str: ...


METHODS: Registry[MethodSpec] = Registry(
    "objective.kind",
    "smorm.methods",
    {
        "joint": "smorm.training.methods.joint:Joint",
        "preference": "smorm.training.methods.preference:Preference",
        "regression": "smorm.training.methods.regression:Regression",
        "odin": "smorm.training.methods.odin:Odin",
        "grm": "smorm.training.methods.grm:Grm",
        "armo": "smorm.training.methods.armo:Armo",
    },
)

# Every resolved configuration holds these sections. Hashes of configurations, by which runs are
# resumed and found again, were computed with them; no name may be added.
_ALWAYS_WRITTEN = ("odin", "grm", "armo")


class ObjectiveSection(Section):
    """What is minimised (`docs/training.md`). `kind` is the method, which has its settings in a
    section of its name."""

    kind: str = "joint"
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    use_margin: bool = False
    positive_regularisation: Weight = 0.0
    centering: Weight = 0.0
    bsr: Weight = 0.0
    weighting: Literal["paper", "official", "fixed", "learned"] = "official"
    weight: Annotated[float, Field(gt=0)] = 1.0
    reduction: Literal["sum", "mean"] = "mean"
    noise_learning_rate: Annotated[float, Field(gt=0)] = 0.01

    @pydantic.field_validator("kind", mode="after")
    @classmethod
    def _registered(cls, kind: str) -> str:
        if kind in METHODS:
            return kind
        known, hint = METHODS.names(), ""
        for name in difflib.get_close_matches(kind, known, n=1):
            hint = f"; did you mean {name!r}?"
        raise ValueError(f"expected one of {', '.join(known)}, got {kind!r}{hint}")

    @pydantic.model_validator(mode="after")
    def _acts_on_the_method(self) -> ObjectiveSection:
        # Compared with defaults, not with what was written: resolved configurations hold all keys.
        for name in REGULARISERS:
            if getattr(self, name) and not self.method.regularised:
                kinds = kinds_with(lambda method: method.regularised)
                raise ValueError(f"{name}: with kind {kinds} only, not {self.kind}")
        for name in ("label_smoothing", "use_margin"):
            if getattr(self, name) and not self.method.uses_pairs:
                unused = f"of preference pairs, which kind {self.kind} does not use"
                raise ValueError(f"{name}: {unused}")
        # Fields that this class does not have are sections of methods.
        for name, field in type(self).model_fields.items():
            is_section = name not in ObjectiveSection.model_fields
            if is_section and name != self.kind and getattr(self, name) != field.get_default():
                raise ValueError(f"{name}: with kind {name} only, not {self.kind}")
        return self

    @property
    def method(self) -> MethodSpec:
        return METHODS[self.kind]

    def settings(self, section: type[S]) -> S:
        """The section of this method, an instance of the given class."""
        settings = getattr(self, self.kind)
        assert isinstance(settings, section)
        return settings

    @classmethod
    def known_fields(cls) -> dict[str, FieldInfo]:
        """The keys of every method's section too."""
        return _class_with(METHODS.importable()).model_fields


# A method has a section under its name (`objective.odin`), so the class of the objective section is
# made when a configuration is read, of the methods that it names.
def _class_with(methods: Mapping[str, MethodSpec]) -> type[ObjectiveSection]:
    sections = []
    for name, method in methods.items():
        if method.section is not None:
            sections.append((name, method.section))
    return _made_class(tuple(sections))


# Cached: equal configurations must have sections of one class to compare equal.
@functools.cache
def _made_class(sections: tuple[tuple[str, type[Section]], ...]) -> type[ObjectiveSection]:
    fields: dict[str, Any] = {name: (section, section()) for name, section in sections}
    return pydantic.create_model("ObjectiveSection", __base__=ObjectiveSection, **fields)


def parse_objective(values: Any) -> Any:
    """The section from plain values; pydantic refuses anything else."""
    if not isinstance(values, dict):
        return values
    # No more methods than are named: an installed one that cannot be imported must not stop a run
    # that does not use it.
    named = [*_ALWAYS_WRITTEN, *values, values.get("kind")]
    methods = {name: METHODS[name] for name in METHODS if name in named}
    return _class_with(methods).model_validate(values)


Objective = Annotated[
    pydantic.SerializeAsAny[ObjectiveSection], pydantic.BeforeValidator(parse_objective)
]


def kinds_with(trait: Callable[[MethodSpec], bool]) -> str:
    """The methods with a trait, for an error: `joint or preference`."""
    return " or ".join(name for name, method in METHODS.importable().items() if trait(method))
