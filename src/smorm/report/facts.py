"""What the files of a model folder, and of the run that made it, say about the model.

Anybody may have written them: each is checked against a type where it is read, and nothing after
needs to look again."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from smorm.config.strict_yaml import read_yaml
from smorm.errors import DataError, ModelError
from smorm.model.run_folder import RunCost, RunData, read_cost, read_data
from smorm.typed import Facts, checked, read_typed

CARD = "smorm.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_DATA_FILES = (".jsonl", ".json", ".gz", ".parquet", ".yaml", ".csv")


class Scale(Facts):
    """How an attribute's ratings were standardised: its row holds (value - offset) / scale."""

    name: str
    offset: float
    scale: float


class Card(Facts):
    """What is shown of `smorm.json`. `smorm.model.card` has all of it, and torch with it."""

    attributes: list[str] = Field(default_factory=list)
    scales: list[Scale] = Field(default_factory=list)
    means: Mapping[str, float] = {}
    default_view: str | dict[str, Any] = "F"
    view: dict[str, Any] | None = None
    preference_trained: bool = True
    max_tokens: int | None = None
    overlong: str = ""
    chat_template: str | None = None
    renderer: str = ""
    base: str | None = None
    head: str = "linear"
    hashes: Mapping[str, Any] = {}
    versions: Mapping[str, str] = {}

    def scale_of(self, name: str) -> Scale | None:
        """The scale of an attribute, where there is one."""
        for scale in self.scales:
            if scale.name == name:
                return scale
        return None


class ModelConfig(Facts):
    """What is shown of `config.json`."""

    model_type: str = ""


class RunConfig(Facts):
    """The sections of a run's `config.yaml` of which something is shown."""

    model: Mapping[str, Any] = {}
    data: Mapping[str, Any] = {}
    objective: Mapping[str, Any] = {}
    training: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model as its files describe it."""

    name: str
    card: Card
    model_type: str
    config: Mapping[str, Any]  # all of the run's configuration; empty without a run
    sections: RunConfig = field(default_factory=RunConfig)
    data: RunData = field(default_factory=RunData)
    cost: RunCost | None = None  # runs of old versions have none

    @property
    def attributes(self) -> list[str]:
        return self.card.attributes

    @property
    def hashes(self) -> dict[str, str]:
        """Of configuration and data: they identify a run."""
        return {key: str(value) for key, value in self.card.hashes.items()}

    @property
    def default_view(self) -> str:
        """The view that is used unless another is requested."""
        view = self.card.view or self.card.default_view
        return str(view.get("name", "own")) if isinstance(view, dict) else view

    @property
    def standard_view(self) -> str | None:
        """The default view where it is F, L or M; an export's one row is F."""
        view = "F" if self.is_export else self.default_view
        return view if view in ("F", "L", "M") else None

    @property
    def has_length_row(self) -> bool:
        """Whether its further row is ODIN's of length, which no ratings trained."""
        return self.attributes == ["length"] and not self.card.means

    @property
    def is_export(self) -> bool:
        """Whether it has one row, which holds a view."""
        return bool(self.card.view)

    @property
    def base_model(self) -> str | None:
        """The backbone's id on the Hugging Face hub, where it has one."""
        names = [self.card.base, self.sections.model.get("backbone")]
        return next(iter(hub_ids(names)), None)

    @property
    def sources(self) -> list[tuple[str, str]]:
        sources = []
        for kind in ("preference", "rated"):
            listed = self.sections.data.get(kind) or []
            if not isinstance(listed, list):
                listed = [listed]
            for source in listed:
                path = source.get("path") if isinstance(source, Mapping) else source
                sources.append((str(path), kind))
        return sources


def hub_ids(names: Iterable[Any]) -> list[str]:
    """Those that can only be ids on the hub: no file's name, and no folder of this machine."""
    ids = []
    for name in dict.fromkeys(map(str, names)):
        if not _HUB_ID.fullmatch(name) or name.endswith(_DATA_FILES):
            continue
        # "data/pairs" has the form of an id: a folder of that name says that it is none.
        if not Path(name.partition("/")[0]).exists():
            ids.append(name)
    return ids


def read_facts(path: Path | str) -> ModelFacts:
    """Read a model folder, or the folder of the run that made it. `ModelError`: it is none;
    `DataError`: a file of it holds something else than such files do."""
    folder = Path(path)
    if not (folder / "config.json").is_file() and (folder / "model").is_dir():
        folder = folder / "model"
    if not (folder / CARD).is_file():
        raise ModelError(f"{path}: no {CARD}: give a model folder that smorm wrote, or its run's")
    card, config = read_typed(folder / CARD, Card), ModelConfig()
    if (folder / "config.json").is_file():
        config = read_typed(folder / "config.json", ModelConfig)
    # Only a folder called "model" belongs to the run around it: an export can lie anywhere.
    run = folder.resolve().parent
    if folder.name != "model" or not (run / "config.yaml").is_file():
        return ModelFacts(folder.resolve().name, card, config.model_type, {})
    values = read_yaml(run / "config.yaml", DataError) or {}
    sections = checked(RunConfig, values, run / "config.yaml")
    cost = read_cost(run) if (run / "cost.json").is_file() else None
    return ModelFacts(run.name, card, config.model_type, values, sections, read_data(run), cost)
