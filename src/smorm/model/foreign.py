"""Folders that others made: what their rows are called, how their configuration counts positions,
and one sentence, with the next step, for each kind that cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from smorm.errors import ModelError
from smorm.model.headers import read_headers
from smorm.model.views import PREFERENCE
from smorm.model_files import read_settings

# What trainers call the one row of a reward model; "LABEL_0" is transformers' own default.
_REWARD_NAMES = {"label_0", "reward", "rewards", "score", "preference"}
_SERVE = "serve it with its own program and give its http address as the reward"


class Unreadable(Enum):
    """Why a folder cannot be read; `{what}` is what was found in it."""

    ENCODER_DECODER = (
        "{what} is an encoder-decoder: smorm reads the state of a decoder's last token. Take a "
        f"decoder's reward model, or {_SERVE}"
    )
    ENCODER = (
        "{what} is an encoder, which has no last token that reads all others: smorm reads "
        f"decoders. Take a decoder's reward model, or {_SERVE}"
    )
    PICKLED = (
        "its weights are pickled ({what}), and a pickle can run code: where you trust it, load it "
        "in plain transformers and write it with save_pretrained, which gives safetensors"
    )
    DISTRIBUTED = (
        "it holds a distributed checkpoint ({what}): load it in plain transformers and write it "
        "with save_pretrained, which gives whole weights"
    )
    QUANTISED = (
        "its head is quantised ({what}), so scores would be rounded: take the original weights, "
        "or quantise them again without the module `score`"
    )
    LAYERS = (
        "its head has several layers ({what}), and what is between them is code that the folder "
        f"does not hold; smorm reads one linear layer, score.weight: {_SERVE}"
    )
    VALUE_HEAD = (
        "its head is a value head ({what}), which estimates returns for PPO: if it was trained "
        "to be a reward, save it as score.weight of an AutoModelForSequenceClassification with "
        "num_labels=1"
    )
    OTHER_HEAD = (
        "its head is {what}, and smorm reads one linear layer, score.weight: save it as an "
        f"AutoModelForSequenceClassification of a decoder, or {_SERVE}"
    )
    MORE_PARTS = (
        "beside score.weight it holds {what}, which would go unread, and scores would differ "
        f"from its own: {_SERVE}"
    )
    NO_HEAD = (
        "no score head (score.weight) in it: a head would be random. Is this a language model? "
        "Train one with `smorm train`"
    )
    NO_WEIGHTS = "no weights in it (no .safetensors file): {what}"
    NO_ADAPTED_HEAD = (
        "the adapters hold no head (score.weight), and neither does their base {what}: a head "
        'would be random. Train them with modules_to_save: ["score"]'
    )
    NO_BASE = (
        "its base model {what} is not a folder here: put the folder or the hub id under "
        "base_model_name_or_path in adapter_config.json"
    )
    ADAPTER_KIND = (
        "adapters of the kind {what} cannot be merged into their base: LoRA and its relatives can"
    )
    UNREAD_ADAPTERS = (
        "{what} of the adapters fit no part of their base: is base_model_name_or_path in "
        "adapter_config.json the model that they were trained on?"
    )


class UnreadableModelError(ModelError):
    """A folder of others that cannot be read; `kind` says why."""

    def __init__(self, where: Path | str, kind: Unreadable, what: str = "") -> None:
        super().__init__(f"{where}: {kind.value.format(what=what)}")
        self.kind = kind


def refuse_architecture(where: Path | str, config: Any) -> None:
    """Refuse a transformers config that is not a decoder's."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise UnreadableModelError(where, Unreadable.ENCODER_DECODER, kind)
    # An encoder may be set up as a decoder, and then reads like one.
    masked = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if masked and not getattr(config, "is_decoder", False):
        raise UnreadableModelError(where, Unreadable.ENCODER, kind)


def stored_tensors(folder: Path) -> dict[str, str]:
    """Name and dtype of every tensor in a folder's safetensors files; `ModelError`: damaged."""
    stored = read_headers(sorted(folder.glob("*.safetensors")))
    return {name: tensor.dtype for name, tensor in stored.items()}


def refuse_other_formats(folder: Path) -> None:
    """Refuse a folder whose only weights are pickles, and one with a distributed checkpoint, which
    transformers would read in place of the weights."""
    refuse_pickles(folder)
    for path in folder.glob("shard-*-model-*.safetensors"):
        raise UnreadableModelError(folder, Unreadable.DISTRIBUTED, path.name)


def refuse_pickles(folder: Path) -> None:
    """Refuse a folder whose only weights are pickles."""
    if any(folder.glob("*.safetensors")):
        return
    names: list[str] = []
    for pattern in ("*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt"):
        names += sorted(path.name for path in folder.glob(pattern))
    # The trainer's own settings are a pickle too, and no weights.
    weights = [name for name in names if name != "training_args.bin"]
    if weights:
        raise UnreadableModelError(folder, Unreadable.PICKLED, weights[0])


def refuse_head(folder: Path, tensors: Mapping[str, str]) -> None:
    """The error for a folder in which no `score.weight` can be read, by what it holds instead."""
    value = [name for name in tensors if _component(name) in ("v_head", "value_head", "critic")]
    if (folder / "value_head.bin").is_file():
        value.append("value_head.bin")
    score = sorted(name for name in tensors if name.startswith("score."))
    layers = [name for name in score if name.count(".") > 1 and name.endswith(".weight")]
    if layers:
        raise UnreadableModelError(folder, Unreadable.LAYERS, ", ".join(layers[:3]))
    if score:
        raise UnreadableModelError(folder, Unreadable.QUANTISED, ", ".join(score[:3]))
    if value:
        raise UnreadableModelError(folder, Unreadable.VALUE_HEAD, value[0])
    others = heads_beside(tensors)
    if others:
        raise UnreadableModelError(folder, Unreadable.OTHER_HEAD, ", ".join(others[:3]))
    if not tensors:
        raise UnreadableModelError(folder, Unreadable.NO_WEIGHTS, _elsewhere(folder))
    raise UnreadableModelError(folder, Unreadable.NO_HEAD)


def _elsewhere(folder: Path) -> str:
    """Where the weights of a folder without any may be, as the next step."""
    inside = sorted(path.parent.name for path in folder.glob("*/config.json"))
    if inside:
        return f"there is a model in it, name that folder: {folder / inside[-1]}"
    if any(folder.glob("*.gguf")):
        return "GGUF is not read, take the model that it was made of"
    return "is it the folder of a model?"


def heads_beside(names: Iterable[str]) -> list[str]:
    """Tensors that belong neither to a decoder nor to its language head nor to `score`."""
    # A decoder is one component with nearly all tensors; a head has a few of its own.
    counts: dict[str, int] = {}
    listed = sorted(names)
    for name in listed:
        counts[_component(name)] = counts.get(_component(name), 0) + 1
    small = {name for name, count in counts.items() if count <= max(2, len(listed) // 4)}
    decoder = {"lm_head", "score", "model", "transformer", "gpt_neox", "backbone", "base_model"}
    heads = small - decoder
    # A folder without prefixes is a decoder saved alone: its parts are no heads.
    if not set(counts) & {"model", "transformer", "gpt_neox", "backbone", "base_model"}:
        heads = {name for name in heads if "head" in name or "classifier" in name}
    return [name for name in listed if _component(name) in heads]


def _component(name: str) -> str:
    return name.partition(".")[0]


def row_names(config: Mapping[str, Any], count: int) -> list[str]:
    """What the rows of a head are called in `id2label` of its `config.json`."""
    labels = config.get("id2label")
    if not isinstance(labels, Mapping):
        labels = {}
    names = [str(labels.get(str(row), f"LABEL_{row}")) for row in range(count)]
    # Of two rows of one name a view could mean either.
    if len(set(names)) < count:
        return [f"{name}_{row}" for row, name in enumerate(names)]
    return names


def check_labels(folder: Path, config: Mapping[str, Any], count: int) -> None:
    """Refuse a `config.json` that names another number of labels than the head has rows."""
    labels = config.get("id2label")
    named = len(labels) if isinstance(labels, Mapping) else config.get("num_labels", count)
    if named != count:
        problem = f"config.json names {named} labels, its head has {count} rows"
        raise ModelError(f"{folder}: {problem}")


def preference_row(names: Sequence[str]) -> int | None:
    """Which row is the reward: the one called so, or the only one where it has no other name."""
    if PREFERENCE in names:
        return names.index(PREFERENCE)
    if len(names) == 1 and names[0].lower() in _REWARD_NAMES:
        return 0
    return None


def is_classifier(config: Mapping[str, Any], count: int) -> bool:
    """Whether several labels were trained as classes, by `problem_type`."""
    return count > 1 and config.get("problem_type") != "regression"


def count_positions(config: Any) -> int | None:
    """How many positions a transformers config allows, scaled rotary embeddings counted; None
    where it does not say."""
    text = config.get_text_config()
    limit: int | None = getattr(text, "max_position_embeddings", None) or None
    scaling = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None)
    if limit is None or not isinstance(scaling, Mapping):
        return limit
    # Where layers have sets of their own (Gemma 3), the limit is of the whole already.
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    factor = float(scaling.get("factor") or 1.0)
    original = scaling.get("original_max_position_embeddings")
    if kind == "default" or factor <= 1.0:
        return limit
    if original:
        # YaRN and Llama 3 say what was pretrained. The limit is before or after scaling: Qwen's
        # guide leaves it, most others raise it, and the larger of the two holds for both.
        return max(limit, int(original * factor))
    if kind in ("linear", "dynamic", "yarn"):
        return int(limit * factor)
    return limit


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a folder, empty where there is none (adapters)."""
    path = folder / "config.json"
    return read_settings(path) if path.exists() else {}
