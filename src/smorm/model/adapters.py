"""PEFT adapters for sequence classification, as other trainers write them: adapters and a head in
one file, a base model by its name. They are merged into their base when they are loaded."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, FiniteFloat, PositiveInt, ValidationError
from safetensors.torch import load_file
from torch import Tensor

from smorm.data.readers import may_be_hub_id
from smorm.errors import ModelError, third_party
from smorm.limits import limit, refusal
from smorm.model import foreign, heads
from smorm.model.backbone import fit_embeddings, import_peft, load_pretrained, missing_weights
from smorm.model.border import check_ids, check_model
from smorm.model.foreign import Unreadable, UnreadableModelError
from smorm.model.headers import Stored, read_headers
from smorm.model.patterns import refuse_slow_patterns
from smorm.model_files import check_files, fetch, read_settings
from smorm.printing import brief
from smorm.typed import first_problem

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Kinds that put tokens of their own before a text, or load other adapters: no weight of the base
# changes.
_UNMERGEABLE = (
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT",
    "XLORA",
)  # fmt: skip


class AdapterConfig(BaseModel):
    """What of `adapter_config.json` decides how adapters are built. Its other keys are PEFT's."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    peft_type: str
    base_model_name_or_path: str | None = None
    r: int | None = None
    lora_alpha: FiniteFloat | None = None
    target_modules: str | list[str] | None = None
    exclude_modules: str | list[str] | None = None
    modules_to_save: list[str] | None = None
    rank_pattern: dict[str, PositiveInt] | None = None
    alpha_pattern: dict[str, FiniteFloat] | None = None
    layers_to_transform: int | list[int] | None = None
    layer_replication: list[list[int]] | None = None
    init_lora_weights: bool | str | None = None
    use_rslora: bool | None = None
    use_dora: bool | None = None


def holds_adapters(folder: Path) -> bool:
    """Whether a folder holds PEFT's adapters, ours or another trainer's."""
    return (folder / CONFIG).exists()


def check_adapters(folder: Path) -> AdapterConfig:
    """The configuration of adapters, compared with the header of their weights. `ModelError`: wrong
    types, a kind that cannot be merged, no safetensors weights, more ranks or layers than there
    are. Nothing is built."""
    check_files(folder)
    path = folder / CONFIG
    try:
        config = AdapterConfig.model_validate(read_settings(path))
    except ValidationError as error:
        raise ModelError(f"{path}: {first_problem(error)}") from error
    if config.peft_type in _UNMERGEABLE:
        raise UnreadableModelError(folder, Unreadable.ADAPTER_KIND, config.peft_type)
    with import_peft() as peft:
        if config.peft_type not in peft.PEFT_TYPE_TO_CONFIG_MAPPING:
            kind = repr(config.peft_type[:80])
            raise UnreadableModelError(folder, Unreadable.ADAPTER_KIND, kind)
    _check_sizes(path, config, _headers(folder))
    return config


def _check_sizes(path: Path, config: AdapterConfig, stored: dict[str, Stored]) -> None:
    largest = 0
    for tensor in stored.values():
        largest = max(largest, *tensor.shape, 0)
    ranks = [config.r or 0, *(config.rank_pattern or {}).values()]
    if max(ranks) > largest:
        raise ModelError(
            f"{path}: r is {brief(max(ranks))}, its weights have at most {largest} rows"
        )
    layers = 0
    for span in config.layer_replication or ():
        layers += max(span, default=0) - min(span, default=0)
    if layers > limit("layers"):
        raise ModelError(f"{path}: layer_replication: {refusal('layers', layers)}")
    # `pissa_niter_16`: so many passes over every weight.
    passes = re.search(r"\d+$", str(config.init_lora_weights))
    if passes and len(passes.group()) > 3:
        raise ModelError(
            f"{path}: init_lora_weights: {config.init_lora_weights!r}: too many passes"
        )


def find_base(folder: Path, config: AdapterConfig) -> Path:
    """The folder of the model that adapters were trained on: a folder by its path (also as seen
    from the adapters), or a hub model, fetched."""
    name = config.base_model_name_or_path
    if not name:
        raise UnreadableModelError(folder, Unreadable.NO_BASE, repr(name))
    for path in (Path(name), folder / name):
        if os.path.isdir(path):
            return path
    if not may_be_hub_id(name):
        raise UnreadableModelError(folder, Unreadable.NO_BASE, repr(name[:300]))
    return fetch(name)


def read_adapted_head(folder: Path, base: Path) -> dict[str, Tensor]:
    """`score.weight` and perhaps `score.bias`: the adapters' own, else those of their base."""
    stored = {_plain_name(name): tensor for name, tensor in _read_weights(folder).items()}
    head = {name: stored[name] for name in (heads.WEIGHT, heads.BIAS) if name in stored}
    if heads.WEIGHT in head:
        heads.refuse_unusable(folder, head[heads.WEIGHT])
        if heads.BIAS in head:
            heads.check_bias(folder, head[heads.BIAS], len(head[heads.WEIGHT]))
        return head
    others = {name: str(tensor.dtype) for name, tensor in stored.items() if "lora_" not in name}
    if any("head" in name or "score" in name or "classifier" in name for name in others):
        foreign.refuse_head(folder, others)
    weight = heads.find_head(base)
    if weight is None:
        raise UnreadableModelError(folder, Unreadable.NO_ADAPTED_HEAD, str(base))
    head[heads.WEIGHT], bias = weight, heads.find_bias(base, len(weight))
    if bias is not None:
        head[heads.BIAS] = bias
    return head


def load_adapted(
    folder: Path, base: Path, head: Tensor, tokenizer: Any, dtype: torch.dtype
) -> tuple[Any, Tensor]:
    """The decoder of a base with adapters merged into it, and its `score.weight`, which adapters
    may change too. `head` [rows, D] is what they were trained with."""
    from transformers import AutoModelForSequenceClassification

    checked = check_model(base)
    heads.check_width(folder, head, checked.width)
    check_ids(folder, tokenizer, checked.rows)
    # PEFT finds modules by their names in the class that was trained.
    model, info = load_pretrained(
        AutoModelForSequenceClassification, checked, "cannot be loaded", dtype, labels=len(head)
    )
    missing = [name for name in missing_weights(info) if not name.startswith("score.")]
    if missing:
        raise ModelError(f"{base}: {missing[0]} is missing in it; it would be random")
    fit_embeddings(model, len(tokenizer))
    refuse_slow_patterns(folder, model)
    with import_peft() as peft:
        with third_party(folder, "the adapters could not be loaded"):
            adapted = peft.PeftModel.from_pretrained(model, str(folder), torch_device="cpu")
        if not hasattr(adapted.base_model, "merge_and_unload"):
            kind = str(adapted.peft_config["default"].peft_type.value)
            raise UnreadableModelError(folder, Unreadable.ADAPTER_KIND, kind)
        with third_party(folder, "the adapters could not be merged"):
            placed = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
            _refuse_unread(folder, placed)
            merged = adapted.merge_and_unload()
    return getattr(merged, merged.base_model_prefix), merged.score.weight.detach()


def adapts_head(folder: Path) -> bool:
    """Whether adapters stand on the head itself, so that only the merged one is applied."""
    return any(".score.lora_" in name for name in _headers(folder))


def _headers(folder: Path) -> dict[str, Stored]:
    if not (folder / WEIGHTS).is_file():
        foreign.refuse_pickles(folder)
        raise ModelError(f"{folder}: no {WEIGHTS} in it")
    return read_headers([folder / WEIGHTS])


def _read_weights(folder: Path) -> dict[str, Tensor]:
    with third_party(folder / WEIGHTS, "damaged"):
        return load_file(folder / WEIGHTS)


def _plain_name(name: str) -> str:
    """A tensor's name in the model that was trained, without what PEFT puts around it."""
    name = re.sub(r"\.modules_to_save(\.\w+)?(?=\.)", "", name)
    return re.sub(r"\.original_module(?=\.)", "", name).removeprefix("base_model.model.")


def _refuse_unread(folder: Path, placed: dict[str, Tensor]) -> None:
    """Refuse adapters of which PEFT placed a part only, which it does without a word."""
    stored = {_plain_name(name) for name in _headers(folder)}
    unread = {name for name in stored - set(map(_plain_name, placed)) if "embed" not in name}
    if unread:
        text = f"{len(unread)} tensors (first: {min(unread)})"
        raise UnreadableModelError(folder, Unreadable.UNREAD_ADAPTERS, text)
