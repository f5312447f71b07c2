"""Low-rank adapters through peft. The score head stays outside: always trained and saved."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smorm.errors import ConfigError, ModelError
from smorm.model.backbone import first_line


@contextmanager
def _peft() -> Iterator[Any]:
    """Import peft, and silence its warnings about transformers' newer names."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*keys did not match any targeted module.*")
        try:
            import peft
        except ImportError as error:
            raise ConfigError("model.lora needs peft: pip install 'smorm[lora]'") from error
        yield peft


def add_lora(
    backbone: Any, *, rank: int, alpha: float, dropout: float, targets: str | list[str]
) -> Any:
    """Wrap a backbone with trainable adapters; its own weights are frozen."""
    with _peft() as peft:
        config = peft.LoraConfig(
            r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets
        )
        try:
            return peft.get_peft_model(backbone, config)
        except ValueError as error:
            raise ConfigError(f"model.lora.targets: {first_line(error)}") from error


def load_lora(backbone: Any, folder: Path, *, trainable: bool = False) -> Any:
    """Put saved adapters on a backbone."""
    with _peft() as peft:
        try:
            return peft.PeftModel.from_pretrained(backbone, folder, is_trainable=trainable)
        except (ValueError, RuntimeError, OSError) as error:
            reason = f"the adapters could not be loaded: {first_line(error)}"
            raise ModelError(f"{folder}: {reason}") from error


def save_lora(backbone: Any, folder: Path) -> None:
    """Write the adapters (not the base model) as safetensors."""
    with _peft():
        # The only rows that we ever add to an embedding are padding, which nothing reads.
        backbone.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)


def is_lora(backbone: Any) -> bool:
    """Whether a backbone carries peft's adapters."""
    return hasattr(backbone, "peft_config")


def merge_lora(backbone: Any) -> Any:
    """The backbone with its adapters added into its weights."""
    # In place: a copy would double the memory of an export.
    with _peft():
        return backbone.merge_and_unload()
