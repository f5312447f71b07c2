"""Backbones: from a folder, a hub id, or an architecture built from scratch; adapters on them.

No code of a model is ever run (`auto_map` is refused), and only safetensors weights are read."""

import difflib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from smorm import files
from smorm.errors import ConfigError, ModelError, first_line
from smorm.model import foreign
from smorm.printing import get_logger
from smorm.text.tokenizers import refuse_remote_code

log = get_logger(__name__)

_SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")
# Weights in safetensors, configs and tokenizers; never code, pickles or other frameworks' weights.
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]


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


def build_backbone(
    architecture: str, fields: dict[str, Any], *, seed: int, tokenizer: Any, max_tokens: int
) -> Any:
    """A randomly initialised decoder of a transformers model type, in fp32. Vocabulary, special ids
    and (unless given) the number of positions follow the tokenizer and the token limit."""
    from transformers import AutoConfig, AutoModel

    with _named_errors(architecture):
        known = _known_fields(architecture, fields)
        settings = {name: getattr(tokenizer, name) for name in _SPECIAL_IDS}
        # Not every architecture has these two: Mamba has no positions.
        if "vocab_size" in known:
            settings["vocab_size"] = len(tokenizer)
        if "max_position_embeddings" in known:
            settings["max_position_embeddings"] = max_tokens
        config = AutoConfig.for_model(architecture, **{**settings, **fields})
        # Forked: building a model changes no other random number of the process.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return AutoModel.from_config(config, dtype=torch.float32)


@contextmanager
def _named_errors(architecture: str) -> Iterator[None]:
    """Whatever transformers finds wrong with an architecture's fields is a ConfigError."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except ConfigError:
        raise
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        reason: BaseException = error
        # Its own first line only names the function that complained.
        if isinstance(error, StrictDataclassError) and error.__cause__ is not None:
            reason = error.__cause__
        problem = f"model.backbone: {architecture}: {first_line(reason, 200)}"
        raise ConfigError(problem) from error


def _known_fields(architecture: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of an architecture's config; ConfigError for one that it does not have."""
    from transformers import AutoConfig

    known: dict[str, Any] = AutoConfig.for_model(architecture).to_dict()
    unknown = sorted(set(fields) - set(known))
    if unknown:
        hint = ""
        for nearest in difflib.get_close_matches(unknown[0], list(known), n=1):
            hint = f": did you mean {nearest}?"
        problem = f"{architecture} has no field {', '.join(unknown)}{hint}"
        raise ConfigError(f"model.backbone: {problem}")
    return known


def load_pretrained(
    auto_class: Any, path: str, problem: str, dtype: torch.dtype, **more: Any
) -> Any:
    """A model of a folder or hub id by one of transformers' Auto classes, and its loading info.
    `ModelError`, with the problem in it: not found, no safetensors weights, code of its own, a
    package that is missing."""
    refuse_remote_code(path)
    foreign.refuse_pickles(Path(path))
    options = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True, **more}
    try:
        with quiet():
            return auto_class.from_pretrained(path, trust_remote_code=False, **options)
    except ImportError as error:
        raise ModelError(f"{path}: a package is missing: {first_line(error)}") from error
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{path}: {problem}: {first_line(error)}") from error


def missing_weights(info: dict[str, Any]) -> list[str]:
    """Weights that transformers has drawn at random, which it only logs, by its loading info."""
    return sorted(info["missing_keys"]) + sorted(map(str, info["mismatched_keys"]))


def load_backbone(path: str, *, dtype: torch.dtype = torch.float32) -> Any:
    """The decoder of a Hugging Face folder or hub id, without its language head. `ModelError` as of
    `load_pretrained`, or where weights are missing."""
    backbone, unread = load_decoder(path, dtype)
    # Of a local folder `start_head` takes the row over.
    if "score.weight" in unread and not Path(path).is_dir():
        problem = "has a score head, which is not used: to start from it, give a local folder"
        log.warning("%s %s", path, problem)
    return backbone


def load_decoder(path: str, dtype: torch.dtype) -> tuple[Any, set[str]]:
    """As `load_backbone`, and the names of the tensors that are no part of the decoder."""
    from transformers import AutoModel

    refuse_architecture(path)
    backbone, info = load_pretrained(AutoModel, path, "cannot be loaded", dtype)
    missing = missing_weights(info)
    if missing:
        raise ModelError(
            f"{path}: {len(missing)} weights of the decoder are missing or have another shape "
            f"(first: {missing[0]}); they would be random"
        )
    return backbone, set(info["unexpected_keys"])


def refuse_architecture(path: str) -> None:
    """Refuse a folder or hub id that is not a decoder's, before its weights are read."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    refuse_remote_code(path)
    try:
        with quiet():
            config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except StrictDataclassError as error:
        # Its own first line only names the function that complained.
        reason = first_line(error.__cause__ or error, 200)
        raise ModelError(f"{path}: its config.json cannot be used: {reason}") from error
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{path}: cannot be loaded: {first_line(error)}") from error
    foreign.refuse_architecture(path, config)


def fit_embeddings(backbone: Any, vocab_size: int) -> None:
    """Enlarge the embedding for added tokens (new rows are drawn around the mean of the others)."""
    # Never made smaller: many models have more rows than tokens, for the sake of the hardware.
    if backbone.get_input_embeddings().weight.shape[0] < vocab_size:
        with quiet():
            backbone.resize_token_embeddings(vocab_size, mean_resizing=True)


def position_limit(backbone: Any) -> int | None:
    """How many positions the backbone was built for, where its config says so."""
    return foreign.count_positions(backbone.config)


def positions_of(path: str) -> int | None:
    """As `position_limit`, of a folder or hub id that is not loaded; None where it has no usable
    config, which loading it says better."""
    from transformers import AutoConfig

    try:
        with quiet():
            name = adapted_model(Path(path)) or path
            config = AutoConfig.from_pretrained(name, trust_remote_code=False)
            return foreign.count_positions(config)
    except (OSError, ValueError, KeyError):
        return None


def architecture_positions(architecture: str, fields: dict[str, Any]) -> int | None:
    """How many positions `build_backbone` will give one from scratch; None where that follows the
    token limit. ConfigError as there, for fields that are not usable."""
    from transformers import AutoConfig

    name = "max_position_embeddings"
    with _named_errors(architecture):
        if name in _known_fields(architecture, fields) and name not in fields:
            # Built nevertheless: what is wrong with other fields is told before tokenising.
            AutoConfig.for_model(architecture, **fields)
            return None
        return foreign.count_positions(AutoConfig.for_model(architecture, **fields))


def adapted_model(folder: Path) -> str | None:
    """The folder or hub id of the model that a folder of adapters is for; None without adapters."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        return None
    name = files.read_json(path, ModelError).get("base_model_name_or_path")
    return str(name) if name else None


def fetch_model(name: str) -> Path:
    """The local folder of a hub model, downloaded into the hub's own cache if need be."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except Exception as error:  # offline, missing, gated: each has a class of its own
        raise ModelError(
            f"{name}: no such local folder, and from the Hugging Face hub it could not be fetched "
            f"(offline, or not there): {first_line(error)}"
        ) from error


@contextmanager
def import_peft() -> Iterator[Any]:
    """Import peft, and silence its warnings about transformers' newer names."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*keys did not match any targeted module.*")
        # What is missing or fits nowhere is looked for where adapters are read.
        warnings.filterwarnings("ignore", message=".*missing adapter keys.*")
        try:
            import peft
        except ImportError as error:
            raise ConfigError("adapters (LoRA) need peft: pip install 'smorm[lora]'") from error
        yield peft


def add_lora(
    backbone: Any, *, rank: int, alpha: float, dropout: float, targets: str | list[str]
) -> Any:
    """Wrap a backbone with trainable low-rank adapters; its own weights are frozen."""
    with import_peft() as peft:
        config = peft.LoraConfig(
            r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets
        )
        try:
            return peft.get_peft_model(backbone, config)
        except ValueError as error:
            raise ConfigError(f"model.lora.targets: {first_line(error)}") from error


def load_lora(backbone: Any, folder: Path) -> Any:
    """Put saved adapters on a backbone."""
    with import_peft() as peft:
        try:
            return peft.PeftModel.from_pretrained(backbone, folder)
        except (ValueError, RuntimeError, OSError) as error:
            reason = f"the adapters could not be loaded: {first_line(error)}"
            raise ModelError(f"{folder}: {reason}") from error


def save_lora(backbone: Any, folder: Path) -> None:
    """Write the adapters (not the base model) as safetensors."""
    with import_peft():
        # The only rows that we ever add to an embedding are padding, which nothing reads.
        backbone.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)


def is_lora(backbone: Any) -> bool:
    """Whether a backbone carries peft's adapters."""
    return hasattr(backbone, "peft_config")


def merge_lora(backbone: Any) -> Any:
    """The backbone with its adapters, if any, added into its weights."""
    if not is_lora(backbone):
        return backbone
    # In place: a copy would double the memory of an export.
    with import_peft():
        return backbone.merge_and_unload()
