"""`smorm.json`: what the rows of a model folder mean.

Types hold wherever a card is made. What its fields say about each other holds wherever one is read
or written (`check_card`)."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    FiniteFloat,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass

from smorm.config import BaseDtype
from smorm.data.scaling import AttributeScale
from smorm.errors import ConfigError, ModelError
from smorm.limits import limit, refusal
from smorm.model.views import PREFERENCE, parse_view
from smorm.model_files import read_settings
from smorm.names import name_problem
from smorm.printing import brief
from smorm.text.limits import Overlong
from smorm.typed import first_problem

CARD = "smorm.json"
MAX_TOKENS = 2048
# Beyond these a rating on its own scale is no number in fp32 any more.
_LARGEST, _SMALLEST = 1e30, 1e-30


def _usable_name(name: str) -> str:
    if problem := name_problem(name):
        raise ValueError(problem)
    return name


def _within_limit(tokens: int) -> int:
    if not 0 < tokens <= limit("tokens"):
        raise ValueError(f"{tokens}, expected 1 to {limit('tokens')}")
    return tokens


HeadKind = Literal["linear", "mlp", "gated"]
Name = Annotated[str, AfterValidator(_usable_name)]
TokenLimit = Annotated[int, AfterValidator(_within_limit)]


@dataclass(frozen=True, slots=True, config=ConfigDict(strict=True, extra="forbid"))
class ModelCard:
    """What `smorm.json` holds."""

    attributes: tuple[Name, ...] = ()
    # One per attribute; the rows hold `(value - offset) / scale`.
    scales: tuple[AttributeScale, ...] = ()
    # Each attribute's mean rating in training, on its own scale.
    means: dict[str, FiniteFloat] = field(default_factory=dict)
    # A name, or the JSON form of a linear view.
    default_view: str | dict[str, Any] = "F"
    # False for a regression alone: its row 0 is all zeros.
    preference_trained: bool = True
    max_tokens: TokenLimit = MAX_TOKENS
    overlong: Overlong = "error"
    chat_template: str | None = None
    renderer: str = ""
    # What is added to the preference row, which a bias-free head cannot hold: an exported view's
    # constant, or the `score.bias` of another trainer's head.
    offset: FiniteFloat = 0.0
    # The rows are another trainer's labels, and none is a preference row: row 0 of the network is
    # all zeros, is not stored, and no view reads it.
    foreign: bool = False
    classifier: bool = False  # its labels were trained as classes
    view: dict[str, Any] | None = None
    base: str | None = None  # folder or hub id of a LoRA run's backbone
    base_dtype: BaseDtype = "fp32"  # as its weights were held below the adapters
    head: HeadKind = "linear"  # `smorm.model.heads`
    hashes: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of all rows, the preference row first."""
        return (PREFERENCE, *self.attributes)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the rows that a folder holds."""
        return self.attributes if self.foreign else self.rows

    def as_dict(self) -> dict[str, Any]:
        values = {"format": 1, **asdict(self)}
        # Older versions read the card of every model that they could have trained.
        if self.base_dtype == "fp32":
            del values["base_dtype"]
        return values


_ADAPTER = TypeAdapter(ModelCard)


@contextmanager
def card_errors(where: Path | str) -> Iterator[None]:
    """What is wrong with a card's fields is one line of a `ModelError`."""
    try:
        yield
    except ValidationError as error:
        raise ModelError(f"{where}: not a model card of smorm: {first_problem(error)}") from error


def read_card(folder: Path) -> ModelCard:
    """The card of a model folder; `ModelError` where it is missing, damaged or not a card."""
    path = folder / CARD
    return card_of(read_settings(path), path)


def card_of(values: dict[str, Any], where: Path | str) -> ModelCard:
    """A card of its JSON; `ModelError` where it is none."""
    form = values.pop("format", 1)
    if form != 1 or isinstance(form, bool):
        raise ModelError(f"{where}: its format is {brief(form)}; this version reads 1")
    with card_errors(where):
        # Its strict JSON mode takes a list for a tuple, and nothing else for anything else.
        card = _ADAPTER.validate_json(json.dumps(values))
    if card.foreign and not card.attributes:
        # As older versions exported a view of labels: the one row is no label any more.
        card = replace(card, foreign=False, classifier=False)
    check_card(where, card)
    return card


def check_card(where: Path | str, card: ModelCard) -> None:
    """Refuse a card whose fields contradict each other, or say what no model can be."""
    if problem := next(_contradictions(card), None):
        raise ModelError(f"{where}: not a model card of smorm: {problem}")


def _contradictions(card: ModelCard) -> Iterator[str]:
    names = card.attributes
    if len(names) > limit("labels"):
        yield f"attributes: {refusal('labels', len(names))}"
    if len(set(names)) < len(names):
        yield "attributes: two of one name"
    if names != tuple(scale.name for scale in card.scales):
        yield "scales: expected one for each of the attributes, in their order"
    for scale in card.scales:
        if not _SMALLEST <= scale.scale <= _LARGEST:
            yield f"scales: {scale.name}: scale is {scale.scale:g}, expected a number above 0"
        if not abs(scale.offset) <= _LARGEST:
            yield f"scales: {scale.name}: offset is {scale.offset:g}, expected a finite number"
    yield from _unusable_view(card)


def _unusable_view(card: ModelCard) -> Iterator[str]:
    # Labels without a preference row have no view of their own: one is asked for by name.
    if card.foreign:
        return
    try:
        parse_view(card.default_view, card.attributes)
    except ConfigError as error:
        yield f"default_view: {error}"
