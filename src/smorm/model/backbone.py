"""Backbones: from a folder, a hub id, or an architecture built from scratch; adapters on them.

Whatever is loaded has passed `smorm.model.border`: no code of a model is ever run, and only
safetensors weights are read."""

import copy
import difflib
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from smorm.errors import ConfigError, ModelError, cause_of, first_line, third_party
from smorm.model import foreign
from smorm.model.border import CheckedModel, check_model, quiet, read_config
from smorm.model.patterns import refuse_slow_patterns
from smorm.model_files import local_folder, read_settings
from smorm.printing import get_logger

log = get_logger(__name__)

_SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")


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
            return AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)


@contextmanager
def _named_errors(architecture: str) -> Iterator[None]:
    """Whatever transformers finds wrong with an architecture's fields is a ConfigError."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # each architecture complains in its own way
        problem = f"model.backbone: {architecture}: {cause_of(error)[:200]}"
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
    auto_class: Any, model: CheckedModel, problem: str, dtype: torch.dtype | str, labels: int = 0
) -> Any:
    """A checked model by one of transformers' Auto classes (`labels` rows of a new head), and its
    loading info. `ModelError`, with the problem in it: damaged weights, a missing package."""
    config = model.config
    if labels:
        config = copy.deepcopy(config)
        config.num_labels = labels
    # The configuration that was checked, and never another one.
    options = {"config": config, "dtype": dtype, "use_safetensors": True}
    with quiet(), third_party(model.folder, problem):
        loaded, info = auto_class.from_pretrained(
            str(model.folder), trust_remote_code=False, output_loading_info=True, **options
        )
    # By the name that the user knows, which adapters on it will be saved with.
    loaded.name_or_path = loaded.config.name_or_path = model.name
    return loaded, info


def missing_weights(info: dict[str, Any]) -> list[str]:
    """Weights that transformers has drawn at random, which it only logs, by its loading info."""
    return sorted(info["missing_keys"]) + sorted(map(str, info["mismatched_keys"]))


def load_backbone(path: str, *, dtype: torch.dtype = torch.float32) -> Any:
    """The decoder of a Hugging Face folder or hub id, without its language head. `ModelError` as of
    `check_model`, or where weights are missing."""
    backbone, unread = load_decoder(check_model(path), dtype)
    warn_of_unread_head(path, unread)
    return backbone


def warn_of_unread_head(path: str, unread: Collection[str]) -> None:
    """Say it where one of the tensors that are no part of the decoder is a score head."""
    # Of a local folder `start_head` takes the row over.
    if "score.weight" in unread and not Path(path).is_dir():
        problem = "has a score head, which is not used: to start from it, give a local folder"
        log.warning("%s %s", path, problem)


def load_decoder(model: CheckedModel, dtype: torch.dtype) -> tuple[Any, set[str]]:
    """As `load_backbone`, and the names of the tensors that are no part of the decoder."""
    from transformers import AutoModel

    backbone, info = load_pretrained(AutoModel, model, "cannot be loaded", dtype)
    missing = missing_weights(info)
    if missing:
        raise ModelError(
            f"{model.name}: {len(missing)} weights of the decoder are missing or have another "
            f"shape (first: {missing[0]}); they would be random"
        )
    return backbone, set(info["unexpected_keys"])


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
    try:
        folder = local_folder(adapted_model(Path(path)) or path, weights=False)
        return foreign.count_positions(read_config(folder))
    except ModelError:
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
    if not path.exists():
        return None
    name = read_settings(path).get("base_model_name_or_path")
    return str(name) if name else None


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
    """Put saved adapters, which were checked, on a backbone."""
    refuse_slow_patterns(folder, backbone)
    with import_peft() as peft, third_party(folder, "the adapters could not be loaded"):
        return peft.PeftModel.from_pretrained(backbone, str(folder))


def save_lora(backbone: Any, folder: Path) -> None:
    """Write the adapters (not the base model) as safetensors."""
    for config in backbone.peft_config.values():
        # A set is written in an order that the process's hash seed decides.
        if isinstance(config.target_modules, set):
            config.target_modules = sorted(config.target_modules)
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
