"""What a model folder and its run's folder say about a model; files are read, nothing is loaded."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import yaml

from smorm.errors import DataError, ModelError
from smorm.files import read_json

CARD = "smorm.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_DATA_FILES = (".jsonl", ".json", ".gz", ".parquet", ".yaml", ".csv")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model as its files describe it: `smorm.json`, the architecture in `config.json`, and beside
    the model `config.yaml`, `data.json` and `cost.json` (empty without one)."""

    name: str
    card: Mapping[str, Any]
    model_type: str
    config: Mapping[str, Any]
    data: Mapping[str, Any]
    cost: Mapping[str, Any]

    @property
    def attributes(self) -> list[str]:
        return list(map(str, self.card.get("attributes", [])))

    @property
    def hashes(self) -> dict[str, str]:
        """Of configuration and data: they identify a run."""
        return {str(key): str(value) for key, value in self.card.get("hashes", {}).items()}

    @property
    def default_view(self) -> str:
        """The view that is used unless another is requested."""
        view = self.card.get("view") or self.card.get("default_view", "F")
        return str(view.get("name", "own")) if isinstance(view, Mapping) else str(view)

    @property
    def standard_view(self) -> str | None:
        """The default view where it is F, L or M; an export's one row is F."""
        view = "F" if self.is_export else self.default_view
        return view if view in ("F", "L", "M") else None

    @property
    def head(self) -> str:
        """Its kind: `linear`, `mlp` or `gated`."""
        return str(self.card.get("head", "linear"))

    @property
    def has_length_row(self) -> bool:
        """Whether its further row is ODIN's of length, which no ratings trained."""
        return self.attributes == ["length"] and not self.card.get("means")

    @property
    def is_export(self) -> bool:
        """Whether the folder is an export: one row that holds a view."""
        return bool(self.card.get("view"))

    @property
    def base_model(self) -> str | None:
        """The backbone's id on the Hugging Face hub, where it has one."""
        backbone = self.config.get("model", {}).get("backbone")
        return next(iter(hub_ids([self.card.get("base"), backbone])), None)

    @property
    def datasets(self) -> list[str]:
        return hub_ids(map(itemgetter(0), self.sources))

    @property
    def sources(self) -> list[tuple[str, str]]:
        sources = []
        for kind in ("preference", "rated"):
            listed = self.config.get("data", {}).get(kind) or []
            if not isinstance(listed, list):
                listed = [listed]
            for source in listed:
                path = source.get("path") if isinstance(source, Mapping) else source
                sources.append((str(path), kind))
        return sources

    def scale_of(self, attribute: str) -> Mapping[str, Any]:
        """Offset and scale between an attribute's ratings and what its row predicts."""
        scales = self.card.get("scales", [])
        return next((scale for scale in scales if scale.get("name") == attribute), {})


def hub_ids(names: Iterable[Any]) -> list[str]:
    """Those that can only be ids on the hub: no file's name, and no folder of this machine."""
    ids = []
    for name in dict.fromkeys(names):
        if not isinstance(name, str) or not _HUB_ID.fullmatch(name):
            continue
        # "data/pairs" has the form of an id: a folder of that name says that it is none.
        if not name.endswith(_DATA_FILES) and not Path(name.partition("/")[0]).exists():
            ids.append(name)
    return ids


def read_facts(path: Path | str) -> ModelFacts:
    """Read a model folder, or the folder of the run that made it."""
    folder = Path(path)
    if not (folder / "config.json").is_file() and (folder / "model").is_dir():
        folder = folder / "model"
    if not (folder / CARD).is_file():
        raise ModelError(f"{path}: no {CARD}: give a model folder that smorm wrote, or its run's")
    card = _mapping(folder / CARD)
    model_type = str(_mapping(folder / "config.json").get("model_type", ""))
    # Only a folder called "model" belongs to the run around it: an export can lie anywhere.
    run = folder.resolve().parent
    if folder.name != "model" or not (run / "config.yaml").is_file():
        return ModelFacts(folder.resolve().name, card, model_type, {}, {}, {})
    config, data = _mapping(run / "config.yaml"), _mapping(run / "data.json")
    return ModelFacts(run.name, card, model_type, config, data, _mapping(run / "cost.json"))


def _mapping(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = yaml.safe_load(path.read_bytes()) if path.suffix == ".yaml" else read_json(path)
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not valid YAML: {error}") from error
    # An empty YAML file is None.
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected keys and values")
    return value
