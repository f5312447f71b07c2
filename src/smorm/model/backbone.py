"""Backbones and tokenizers: from a folder, a hub id, or an architecture built from scratch.

No code of a model is ever run (`auto_map` is refused), and only safetensors weights are read.
"""

import difflib
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from smorm.errors import ConfigError, ModelError

log = logging.getLogger(__name__)

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

    try:
        known = AutoConfig.for_model(architecture).to_dict()
        unknown = sorted(set(fields) - set(known))
        if unknown:
            hint = ""
            for nearest in difflib.get_close_matches(unknown[0], list(known), n=1):
                hint = f": did you mean {nearest}?"
            problem = f"{architecture} has no field {', '.join(unknown)}{hint}"
            raise ConfigError(f"model.backbone: {problem}")
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
    except ConfigError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        reason = first_line(error, 200)
        raise ConfigError(f"model.backbone: {architecture}: {reason}") from error


def load_backbone(path: str, *, dtype: torch.dtype = torch.float32) -> Any:
    """The decoder of a Hugging Face folder or hub id, without its language head.

    `ModelError`: not found, needs code of its own, no safetensors weights, or some are missing.
    """
    from transformers import AutoModel

    refuse_remote_code(path)
    try:
        with quiet():
            backbone, info = AutoModel.from_pretrained(
                path, dtype=dtype, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be loaded: {first_line(error)}") from error
    # Of a local folder `start_head` takes the row over.
    if "score.weight" in info["unexpected_keys"] and not Path(path).is_dir():
        problem = "has a score head, which is not used: to start from it, give a local folder"
        log.warning("%s %s", path, problem)
    missing = missing_weights(info)
    if missing:
        raise ModelError(
            f"{path}: {len(missing)} weights of the decoder are missing or have another shape "
            f"(first: {missing[0]}); they would be random"
        )
    return backbone


def missing_weights(info: dict[str, Any]) -> list[str]:
    """Weights that transformers has drawn at random, which it only logs, by its loading info."""
    return sorted(info["missing_keys"]) + sorted(map(str, info["mismatched_keys"]))


def refuse_remote_code(path: str) -> None:
    """Refuse a folder whose model or tokenizer asks to run code of its own, or that does not
    exist."""
    # Of a hub id transformers refuses code by itself: `trust_remote_code` is never set.
    folder = Path(path)
    if not folder.is_dir():
        if path.startswith(("/", ".", "~")) or path.count("/") > 1:
            raise ModelError(f"{path}: no such folder")
        return
    for name in ("config.json", "tokenizer_config.json"):
        file = folder / name
        if file.is_file() and '"auto_map"' in file.read_text(encoding="utf-8", errors="replace"):
            raise ModelError(f"{file}: auto_map asks to run code of the model: this is refused")


def load_tokenizer(path: str) -> Any:
    """The tokenizer of a folder or hub id; `ModelError` where it cannot be loaded."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    refuse_remote_code(path)
    try:
        # AutoTokenizer prefers the class of some model types (Qwen2's) to the saved one, and that
        # class splits text in another way: the saved class decides.
        if _tokenizer_class(Path(path)) in ("TokenizersBackend", "PreTrainedTokenizerFast"):
            return PreTrainedTokenizerFast.from_pretrained(path)
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path}: no usable tokenizer: {first_line(error)}") from error


def _tokenizer_class(folder: Path) -> str | None:
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return None
    values = json.loads(file.read_text(encoding="utf-8"))
    return values.get("tokenizer_class") if isinstance(values, dict) else None


def fit_embeddings(backbone: Any, vocab_size: int) -> None:
    """Enlarge the embedding for added tokens (new rows are drawn around the mean of the others)."""
    # Never made smaller: many models have more rows than tokens, for the sake of the hardware.
    if backbone.get_input_embeddings().weight.shape[0] < vocab_size:
        with quiet():
            backbone.resize_token_embeddings(vocab_size, mean_resizing=True)


def position_limit(backbone: Any) -> int | None:
    """How many positions the backbone was built for, where its config says so."""
    return getattr(backbone.config.get_text_config(), "max_position_embeddings", None) or None


def first_line(error: Exception, limit: int = 300) -> str:
    """The first line of an error's text that is not empty, else the error's type."""
    for line in str(error).splitlines():
        if line.strip():
            return line.strip()[:limit]
    return type(error).__name__


def fetch_model(name: str) -> Path:
    """The local folder of a hub model, downloaded into the hub's own cache where it is not in
    it."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except Exception as error:  # offline, missing, gated: each has a class of its own
        raise ModelError(
            f"{name}: no such local folder, and from the Hugging Face hub it could not be fetched "
            f"(offline, or not there): {first_line(error)}"
        ) from error
