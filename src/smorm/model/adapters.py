"""PEFT adapters for sequence classification, as other trainers write them: adapters and a head in
one file, a base model by its name. They are merged into their base when they are loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from smorm import files
from smorm.data.readers import may_be_hub_id
from smorm.errors import ModelError, first_line
from smorm.model import foreign, heads
from smorm.model.backbone import (
    fetch_model,
    fit_embeddings,
    import_peft,
    load_pretrained,
    missing_weights,
    refuse_architecture,
)
from smorm.model.foreign import Unreadable, UnreadableModelError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_BASE = "base_model_name_or_path"
# Kinds that put tokens of their own before a text: no weight of the base changes.
_PROMPTS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")


def holds_adapters(folder: Path) -> bool:
    """Whether a folder holds PEFT's adapters, ours or another trainer's."""
    return (folder / CONFIG).is_file()


def find_base(folder: Path) -> Path:
    """The folder of the model that adapters were trained on: a folder by its path (also as seen
    from the adapters), or a hub model, fetched."""
    config = files.read_json(folder / CONFIG, ModelError)
    if not isinstance(config, dict):
        raise ModelError(f"{folder / CONFIG}: expected a JSON object")
    name, kind = config.get(_BASE), config.get("peft_type")
    if kind in _PROMPTS:
        raise UnreadableModelError(folder, Unreadable.ADAPTER_KIND, kind)
    if not isinstance(name, str) or not name:
        raise UnreadableModelError(folder, Unreadable.NO_BASE, repr(name))
    for path in (Path(name), folder / name):
        if path.is_dir():
            return path
    if not may_be_hub_id(name):
        raise UnreadableModelError(folder, Unreadable.NO_BASE, repr(name))
    return fetch_model(name)


def read_adapted_head(folder: Path, base: Path) -> dict[str, Tensor]:
    """`score.weight` and perhaps `score.bias`: the adapters' own, else those of their base."""
    stored = {_plain_name(name): tensor for name, tensor in _read_weights(folder).items()}
    head = {name: stored[name] for name in (heads.WEIGHT, heads.BIAS) if name in stored}
    if heads.WEIGHT in head:
        heads.refuse_quantised(folder, head[heads.WEIGHT])
        return head
    others = {name: str(tensor.dtype) for name, tensor in stored.items() if "lora_" not in name}
    if any("head" in name or "score" in name or "classifier" in name for name in others):
        foreign.refuse_head(folder, others)
    weight = heads.find_head(base)
    if weight is None:
        raise UnreadableModelError(folder, Unreadable.NO_ADAPTED_HEAD, str(base))
    head[heads.WEIGHT], bias = weight, heads.find_bias(base)
    if bias is not None:
        head[heads.BIAS] = bias
    return head


def load_adapted(
    folder: Path, base: Path, rows: int, vocab_size: int, dtype: torch.dtype
) -> tuple[Any, Tensor]:
    """The decoder of a base with adapters merged into it, and its `score.weight`, which adapters
    may change too."""
    from transformers import AutoModelForSequenceClassification

    refuse_architecture(str(base))
    # PEFT finds modules by their names in the class that was trained.
    model, info = load_pretrained(
        AutoModelForSequenceClassification, str(base), "cannot be loaded", dtype, num_labels=rows
    )
    missing = [name for name in missing_weights(info) if not name.startswith("score.")]
    if missing:
        raise ModelError(f"{base}: {missing[0]} is missing in it; it would be random")
    fit_embeddings(model, vocab_size)
    with import_peft() as peft:
        try:
            adapted = peft.PeftModel.from_pretrained(model, folder, torch_device="cpu")
        except (ValueError, RuntimeError, OSError, TypeError, KeyError, ImportError) as error:
            reason = f"the adapters could not be loaded: {first_line(error)}"
            raise ModelError(f"{folder}: {reason}") from error
        if not hasattr(adapted.base_model, "merge_and_unload"):
            kind = str(adapted.peft_config["default"].peft_type.value)
            raise UnreadableModelError(folder, Unreadable.ADAPTER_KIND, kind)
        _refuse_unread(folder, peft.get_peft_model_state_dict(adapted, save_embedding_layers=False))
        merged = adapted.merge_and_unload()
    return getattr(merged, merged.base_model_prefix), merged.score.weight.detach()


def adapts_head(folder: Path) -> bool:
    """Whether adapters stand on the head itself, so that only the merged one is applied."""
    return any(".score.lora_" in name for name in _read_weights(folder))


def _read_weights(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.is_file():
        foreign.refuse_pickles(folder)
        raise ModelError(f"{folder}: no {WEIGHTS} in it")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ModelError(f"{path}: damaged: {first_line(error)}") from error


def _plain_name(name: str) -> str:
    """A tensor's name in the model that was trained, without what PEFT puts around it."""
    name = re.sub(r"\.modules_to_save(\.\w+)?(?=\.)", "", name)
    return re.sub(r"\.original_module(?=\.)", "", name).removeprefix("base_model.model.")


def _refuse_unread(folder: Path, placed: dict[str, Tensor]) -> None:
    """Refuse adapters of which PEFT placed a part only, which it does without a word."""
    stored = {_plain_name(name) for name in _read_weights(folder)}
    unread = {name for name in stored - set(map(_plain_name, placed)) if "embed" not in name}
    if unread:
        text = f"{len(unread)} tensors (first: {min(unread)})"
        raise UnreadableModelError(folder, Unreadable.UNREAD_ADAPTERS, text)
