"""Regular expressions in PEFT's `adapter_config.json`: it matches them with the name of every
module of a model, and a single one can take hours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smorm.model_files import read_settings
from smorm.text import probe

CONFIG = "adapter_config.json"


def refuse_slow_patterns(folder: Path, model: Any) -> None:
    """Try the patterns of adapters on the modules of the model that they go on; `UnboundedError`
    where that takes too long."""
    patterns = _patterns(read_settings(folder / CONFIG))
    # Of plain names nothing needs to be tried.
    if any(not pattern.replace(".", "").isidentifier() for _, pattern, _ in patterns):
        names = [name for name, _ in model.named_modules()]
        texts = [(key, form.replace("{}", pattern)) for key, pattern, form in patterns]
        probe.refuse_patterns(folder / CONFIG, texts, names)


def _patterns(config: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Each pattern, the key that holds it, and the expression in which PEFT puts it."""
    patterns = []
    for key, form in (
        ("target_modules", "{}"),
        ("exclude_modules", "{}"),
        ("modules_to_save", r"(^|.*\.){}($|\..*)"),
        ("layers_pattern", r"(?:^|.*?\.){}\.(?P<idx>\d+)\."),
        ("rank_pattern", r"(.*\.)?({})$"),
        ("alpha_pattern", r"(.*\.)?({})$"),
    ):
        values = config.get(key) or ()
        if isinstance(values, str):
            values = [values]
        elif form == "{}" or not isinstance(values, (list, dict)):
            # A list of modules' names is no pattern.
            continue
        patterns += [(key, value, form) for value in values if isinstance(value, str)]
    return patterns
