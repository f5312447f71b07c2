"""A backbone whose weights are read in parts, so that no process ever holds all of them.

It is built on torch's meta device, where weights have shapes alone. Its first layers, so many that
there is one of each kind, are loaded by transformers as ever, in a shallow backbone. That proves
that the rows read here are the weights that transformers would load, gives the tables that are
computed and not stored (rotary frequencies), and lets a layout be verified."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from smorm.model.backbone import load_decoder
from smorm.model.border import CheckedModel, quiet
from smorm.model.cpu.fuse import decoder_layers
from smorm.model.pieces import Pieces


class ReadWholeError(Exception):
    """Why the weights of a model can only be read whole."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A backbone of which no weight was read.

    Attributes:
        backbone: in fp32, on the meta device.
        names: how the files call each weight.
        pieces: the files.
    """

    backbone: Any
    names: Mapping[str, str]
    pieces: Pieces

    def read(self, name: str, first: int = 0, past: int | None = None) -> Tensor:
        """Rows of a weight, as they are stored."""
        return self.pieces.read(self.names[name], first, past)


def open_decoder(model: CheckedModel) -> tuple[Opened, Any]:
    """A checked model, to be read in parts, and the shallow backbone: embedding, first layers, and
    what follows the last one. `ReadWholeError`: its files do not hold the weights as they are used,
    or each layer is another. `ModelError` as of `load_decoder`."""
    from transformers import AutoModel

    config = model.config
    if getattr(config, "quantization_config", None) is not None:
        raise ReadWholeError("its weights are quantised")
    with quiet(), torch.random.fork_rng(devices=[]), torch.device("meta"):
        backbone = AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)
    names = _stored_names(backbone, model)
    count = _layers_of_each_kind(backbone)
    shallow, _ = load_decoder(replace(model, config=_cut(config, count)), torch.float32)
    pieces = Pieces(dict.fromkeys(stored.path for stored in model.weights.values()))
    opened = Opened(backbone, names, pieces)
    for name, weight in shallow.named_parameters():
        if not torch.equal(opened.read(name).to(weight.dtype), weight):
            raise ReadWholeError(f"{name} is converted while it is loaded")
    backbone.name_or_path = backbone.config.name_or_path = model.name
    return opened, shallow


def _stored_names(backbone: Any, model: CheckedModel) -> dict[str, str]:
    """How the files call each weight: by its name, or behind the prefix of the decoder."""
    names: dict[str, str] = {}
    owners: dict[int, str] = {}
    for name, parameter in backbone.named_parameters(remove_duplicate=False):
        if id(parameter) in owners:
            raise ReadWholeError(f"{name} and {owners[id(parameter)]} are one weight")
        owners[id(parameter)] = name
        candidates = [name, f"{backbone.base_model_prefix}.{name}"]
        stored = [each for each in candidates if each in model.weights]
        if len(stored) != 1 or model.weights[stored[0]].shape != tuple(parameter.shape):
            raise ReadWholeError(f"{name} is not stored as it is used")
        if parameter.ndim == 0:
            raise ReadWholeError(f"{name} has no rows")
        names[name] = stored[0]
    return names


def _layers_of_each_kind(backbone: Any) -> int:
    """How many of the first layers have one of every kind; at least two."""
    total = backbone.config.get_text_config().num_hidden_layers
    layers = decoder_layers(backbone, total)
    if any(True for layer in layers for _ in layer.buffers()):
        raise ReadWholeError("its layers have tables of their own")
    kinds = [_kind(layer) for layer in layers]
    if not kinds:
        raise ReadWholeError("it has no list of layers")
    count = max(2, 1 + max(kinds.index(kind) for kind in kinds))
    if count >= total:
        raise ReadWholeError(f"its {total} layers are too few, or all differ")
    return count


def _kind(layer: nn.Module) -> list[Any]:
    """What distinguishes a layer from others: its modules, their settings and their shapes."""
    kind: list[Any] = []
    for name, module in layer.named_modules():
        settings = {
            key: value
            for key, value in vars(module).items()
            if isinstance(value, bool | int | float | str | None) and "idx" not in key
        }
        shapes = {key: tuple(value.shape) for key, value in module.named_parameters(recurse=False)}
        kind.append((name, type(module), settings, shapes))
    return kind


def _cut(config: Any, count: int) -> Any:
    """The configuration of a model of the first `count` layers."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    total = text.num_hidden_layers
    changes: dict[str, Any] = {"num_hidden_layers": count}
    # Lists with an entry for each layer.
    for key, value in text.to_dict().items():
        if isinstance(value, list) and len(value) == total:
            changes[key] = value[:count]
    for key, value in changes.items():
        setattr(text, key, value)
    return config


def take_tables(backbone: Any, shallow: Any) -> None:
    """Give a backbone on meta the tables of its shallow one; layers have none."""
    loaded = dict(shallow.named_modules())
    for name, module in backbone.named_modules():
        for key in [key for key, buffer in module._buffers.items() if buffer is not None]:
            module._buffers[key] = loaded[name]._buffers[key]
