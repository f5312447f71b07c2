"""What a model folder and its run's folder say about a model; files are read, nothing is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from smorm.errors import DataError, ModelError
from smorm.files import read_json

CARD = "smorm.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = (".jsonl", ".json", ".gz", ".parquet", ".yaml", ".csv")


@dataclass(frozen=True, slots=True)
class Facts:
    """A model as its files describe it.

    Attributes:
        name: the run's folder name, or the model folder's.
        card: the content of `smorm.json`.
        model_type: the backbone's architecture, of `config.json`.
        adapters: whether the folder holds LoRA adapters instead of whole weights.
        config: `config.yaml` beside the model; empty without one.
        data: `data.json` beside it.
        cost: `cost.json` beside it.
    """

    name: str
    card: Mapping[str, Any]
    model_type: str
    adapters: bool
    config: Mapping[str, Any]
    data: Mapping[str, Any]
    cost: Mapping[str, Any]

    @property
    def attributes(self) -> list[str]:
        """Names of the attribute rows."""
        return [str(name) for name in self.card.get("attributes", [])]

    @property
    def hashes(self) -> dict[str, str]:
        """Of configuration and data: what tells runs apart."""
        return {str(key): str(value) for key, value in self.card.get("hashes", {}).items()}

    @property
    def default_view(self) -> str:
        """The view that is served unless another is asked for."""
        view = self.card.get("view") or self.card.get("default_view", "F")
        return str(view.get("name", "own")) if isinstance(view, Mapping) else str(view)

    @property
    def head(self) -> str:
        """Its kind: `linear`, `mlp` or `gated`."""
        return str(self.card.get("head", "linear"))

    @property
    def by_length(self) -> bool:
        """Whether its further row is ODIN's of length, which no ratings trained."""
        return self.attributes == ["length"] and not self.card.get("means")

    @property
    def folded(self) -> bool:
        """Whether the folder is an export: one row that holds a view."""
        return bool(self.card.get("view"))

    @property
    def base_model(self) -> str | None:
        """The backbone's id on the Hugging Face hub, where it has one."""
        backbone = self.config.get("model", {}).get("backbone")
        return next(iter(hub_ids([self.card.get("base"), backbone])), None)

    @property
    def datasets(self) -> list[str]:
        """Ids on the Hugging Face hub of what it was trained on."""
        return hub_ids(path for path, _ in self.sources)

    @property
    def sources(self) -> list[tuple[str, str]]:
        """Where its data came from: path and kind."""
        data = self.config.get("data", {})
        return [
            (str(_path(source)), kind)
            for kind in ("preference", "rated")
            for source in _listed(data.get(kind))
        ]


def hub_ids(names: Iterable[Any]) -> list[str]:
    """Those that can only be ids on the hub: no file's name, and no folder of this machine."""
    return list(
        dict.fromkeys(
            name
            for name in names
            if isinstance(name, str)
            and _HUB_ID.fullmatch(name)
            and not name.endswith(_FILES)
            and not Path(name.partition("/")[0]).exists()
        )
    )


def read_facts(path: Path | str) -> Facts:
    """Read a model folder, or the folder of the run that made it.

    Raises:
        ModelError: no model of smorm lies there.
        DataError: one of its files cannot be read.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file() and (folder / "model").is_dir():
        folder = folder / "model"
    if not (folder / CARD).is_file():
        raise ModelError(f"{path}: no {CARD}: give a model folder that smorm wrote, or its run's")
    run = folder.resolve().parent
    beside = folder.name == "model" and (run / "config.yaml").is_file()
    return Facts(
        name=run.name if beside else folder.resolve().name,
        card=_object(folder / CARD),
        model_type=str(_object(folder / "config.json").get("model_type", "")),
        adapters=(folder / "adapter_config.json").is_file(),
        config=_yaml(run / "config.yaml") if beside else {},
        data=_object(run / "data.json") if beside else {},
        cost=_object(run / "cost.json") if beside else {},
    )


def _object(path: Path) -> dict[str, Any]:
    """A JSON object; nothing where there is no file."""
    value = read_json(path) if path.is_file() else {}
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected an object")
    return value


def _yaml(path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(path.read_bytes()) or {}
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected keys and values")
    return value


def _listed(sources: Any) -> list[Any]:
    return sources if isinstance(sources, list) else [sources] if sources else []


def _path(source: Any) -> Any:
    return source.get("path") if isinstance(source, Mapping) else source
