"""The single way in for models of folders and hub ids, whoever made them.

Before anything is built, a folder's files are looked at (`smorm.model_files`), what its config asks
for is compared with the headers of its weights (`smorm.model.headers`), and the architecture with
what smorm reads. What the libraries then find wrong is an error of ours (`third_party`)."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from smorm.errors import ModelError, third_party
from smorm.limits import limit, refusal
from smorm.model import foreign
from smorm.model.headers import WEIGHTS, Stored, stored_weights
from smorm.model_files import entries, local_folder, read_settings
from smorm.printing import brief

CONFIG = "config.json"
# Keys by which a config leads to other weights than the folder's, or changes transformers itself.
_DETOURS = ("transformers_weights", "fusion_config")
# How many weights a model may have for each that is stored; quantised ones are packed, 16 of two
# bits in one of 32.
_MOST, _MOST_PACKED = 2, 16


@dataclass(frozen=True, slots=True)
class CheckedModel:
    """A model that may be built.

    Attributes:
        name: as it was asked for: a folder, or a hub id.
        folder: where it is, read by transformers.
        config: transformers' own.
        weights: what its files hold, by the headers.
        rows: of the embedding; the ids that the decoder reads are below.
        width: the hidden size.
    """

    name: str
    folder: Path
    config: Any
    weights: Mapping[str, Stored]
    rows: int
    width: int


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and load reports: what matters is checked here."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def check_model(name: Path | str) -> CheckedModel:
    """A decoder of a folder or hub id, checked; `ModelError` names the folder, the file and what is
    wrong with it."""
    folder = local_folder(name)
    weights = stored_weights(folder)
    config = read_config(folder, len(weights))
    foreign.refuse_architecture(name, config)
    if (folder / "adapter_config.json").exists():
        raise ModelError(f"{folder}: adapters beside a {CONFIG}: keep one of the two")
    foreign.refuse_other_formats(folder)
    if not weights:
        raise ModelError(f"{folder}: no weights ({WEIGHTS}) in it")
    rows, width = _compare(folder, config, weights)
    _refuse_pad(folder / CONFIG, config, rows)
    return CheckedModel(str(name), folder, config, weights, rows, width)


def read_config(folder: Path, tensors: int = 0) -> Any:
    """transformers' configuration of a folder, after what it takes without a look is bounded, also
    by the number of tensors in the weights (0: not known)."""
    from transformers import AutoConfig

    path = folder / CONFIG
    if not path.exists():
        raise ModelError(f"{folder}: no {CONFIG} in it")
    _check_settings(path, read_settings(path), tensors)
    with quiet(), third_party(path, "cannot be used"):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def check_ids(name: Path | str, tokenizer: Any, rows: int) -> None:
    """Refuse a tokenizer with tokens that the embedding has no row for. A pad token may be beyond:
    nothing reads it, and `fit_embeddings` adds its row."""
    with third_party(name, "no usable tokenizer"):
        vocabulary = tokenizer.get_vocab()
        beyond = [token for token, number in vocabulary.items() if not 0 <= number < rows]
        read = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token}
    unread = {tokenizer.pad_token} - read
    if others := sorted(set(beyond) - unread):
        first = f"first: {brief(others[0])}, id {vocabulary[others[0]]}"
        raise ModelError(
            f"{name}: its tokenizer has {len(others)} tokens beyond the {rows} rows of the "
            f"embedding ({first}): it belongs to another model, or the embedding was not resized"
        )


def _check_settings(path: Path, values: dict[str, Any], tensors: int) -> None:
    """Refuse in a `config.json` what makes transformers build without end, or otherwise than from
    the folder's own weights."""
    from transformers import PretrainedConfig

    for key in values:
        # transformers sets every key it does not know as an attribute, over its own methods too.
        if key.startswith("__") or callable(getattr(PretrainedConfig, key, None)):
            raise ModelError(f"{path}: {key}: is no setting of a model")
        if key in _DETOURS:
            raise ModelError(f"{path}: {key}: is not read here: take it out")
    for key, value in entries(values):
        _bound(path, key, value, tensors)
    _refuse_quantisation(path, values.get("quantization_config"))


def _bound(path: Path, key: str, value: Any, tensors: int) -> None:
    # Names of labels, kinds of layers: one each.
    if isinstance(value, list | dict) and len(value) > limit("labels"):
        raise ModelError(f"{path}: {key}: {refusal('labels', len(value))}")
    name = _limit_of(key)
    if name is None or not isinstance(value, int | float):
        return
    if value > limit(name):
        raise ModelError(f"{path}: {key} is {brief(value)}: {refusal(name)}")
    # Each layer has one tensor at least.
    if name == "layers" and 0 < tensors < value:
        raise ModelError(f"{path}: {key} is {brief(value)}, its weights are {tensors} tensors")


def _limit_of(key: str) -> str | None:
    """Which limit holds for the number under a key; sizes are compared with the weights."""
    if key == "num_labels":
        return "labels"
    if key in ("n_ctx", "n_positions") or "position_embeddings" in key:
        return "positions"
    counts = key.startswith(("num_", "n_"))
    if counts and "layer" in key:
        return "layers"
    return "experts" if counts and "expert" in key else None


def _refuse_quantisation(path: Path, settings: Any) -> None:
    """Refuse a method that transformers does not know: it would read the bits as they are."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    if settings is None:
        return
    method = settings.get("quant_method") if isinstance(settings, dict) else settings
    if not isinstance(method, str) or method not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        raise ModelError(f"{path}: quantization_config: unknown quant_method {method!r}")


def _compare(folder: Path, config: Any, weights: Mapping[str, Stored]) -> tuple[int, int]:
    """Compare the decoder that a config describes with the weights beside it; rows and width of its
    embedding. On the meta device: shapes alone, no memory for any number."""
    from transformers import AutoModel

    with quiet(), third_party(folder / CONFIG, "cannot be built"), torch.device("meta"):
        shape = AutoModel.from_config(config, trust_remote_code=False)
        rows, width = shape.get_input_embeddings().weight.shape
        hidden = config.get_text_config().hidden_size
    if hidden != width:
        raise ModelError(f"{folder / CONFIG}: hidden_size is {hidden}, its embedding has {width}")
    _refuse_large_buffers(folder / CONFIG, shape)
    packed = getattr(config, "quantization_config", None) is not None
    _refuse_other_shapes(folder, shape, weights, packed=packed)
    return int(rows), int(width)


def _refuse_large_buffers(path: Path, shape: Any) -> None:
    count = sum(buffer.numel() for buffer in shape.buffers())
    if count > limit("buffer_values"):
        raise ModelError(f"{path}: {refusal('buffer_values', count)}")


def _refuse_other_shapes(
    folder: Path, shape: Any, weights: Mapping[str, Stored], *, packed: bool
) -> None:
    prefix, num_weights = f"{shape.base_model_prefix}.", 0
    for name, parameter in shape.named_parameters():
        num_weights += parameter.numel()
        stored = weights.get(name) or weights.get(prefix + name)
        # The order of the dimensions is left to transformers, which turns some around.
        if stored is None or packed or stored.count == parameter.numel():
            continue
        raise ModelError(
            f"{folder}: {CONFIG} asks for {name} of {list(parameter.shape)}, {stored.path.name} "
            f"holds {list(stored.shape)}: they do not belong together"
        )
    # Under other names too: what is not there would be drawn at random.
    held = sum(stored.count for stored in weights.values())
    if num_weights > (_MOST_PACKED if packed else _MOST) * held:
        raise ModelError(
            f"{folder}: {CONFIG} asks for {num_weights:,} weights, and there are {held:,}: they do "
            "not belong together"
        )


def _refuse_pad(path: Path, config: Any, rows: int) -> None:
    pad = config.get_text_config().pad_token_id
    if pad is not None and not (isinstance(pad, int) and 0 <= pad < rows):
        raise ModelError(f"{path}: pad_token_id is {pad!r}, expected 0 to {rows - 1}, or null")
