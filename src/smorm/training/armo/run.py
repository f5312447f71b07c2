"""ArmoRM on the trainer's data and configuration (Wang et al., 2024, arXiv 2406.12845).

The backbone stays as it comes, so its hidden states are computed once. Then follow a ridge row for
each attribute, multiples of verbosity to subtract from them over the responses of all pairs, and a
gate on the state at the end of the prompt, by Bradley–Terry on the pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from smorm import files
from smorm.config import Config
from smorm.errors import ConfigError
from smorm.model.heads import GatedHead
from smorm.model.store import save_model
from smorm.training.armo.attributes import PairFeatures, Stage1, StateReader, fit_rows, read_pairs
from smorm.training.armo.gate import Debiased, find_multiples, make_head, train_gate
from smorm.training.folder import Cost, refuse_another_run, write_beginnings, write_cost
from smorm.training.memory import resolve_batch_tokens
from smorm.training.methods.armo import ArmoSection
from smorm.training.setup import prepare

FILE = "armo.json"


def train_armo(config: Config, *, resume: bool = False) -> Path:
    """Fit an ArmoRM as configured; returns the model folder, `<output.folder>/model`.

    The run's folder is that of `smorm.training.loop.train` without checkpoints, and has
    `armo.json`: each attribute's penalty, held-out errors, multiple and correlations, and its mean
    share. Of `training`, batch size, steps, rates and schedule are the gate's.
    """
    folder = config.output.folder
    if resume:
        problem = "--resume: objective.kind armo writes no checkpoints"
        raise ConfigError(f"{problem}: leave out --resume, and it starts from the beginning")
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
    refuse_another_run(folder, folder / "checkpoints", resume=False)
    prepared = resolve_batch_tokens(prepare(config), resume=False)
    settings, seed = config.objective.settings(ArmoSection), config.training.seed
    data, names = prepared.train, prepared.card.attributes
    cost = Cost()
    reader = StateReader.of(prepared, cost)
    # After the reader: a template that cannot be used leaves no half-written folder.
    write_beginnings(prepared, folder)
    stage1 = fit_rows(reader, data, names, settings, seed)
    pairs = read_pairs(reader, data, stage1)
    multiples = find_multiples(names, stage1, pairs, settings.correlation)
    head = make_head(reader, stage1, multiples, settings, seed)
    train_gate(prepared, head, pairs, cost)
    head.eval()  # the gate's dropout off, for the shares below and in the saved model
    report = {
        "debias": settings.debias,
        "scale": float(head.scale.detach()),
        "attributes": _attributes(names, head, stage1, multiples, pairs),
    }
    files.write_json(folder / FILE, report)
    write_cost(folder, prepared.network, config.objective.kind, cost)
    save_model(folder / "model", prepared.network, prepared.tokenizer, prepared.card)
    return folder / "model"


def _attributes(
    names: Sequence[str],
    head: GatedHead,
    stage1: Stage1,
    multiples: Sequence[Debiased],
    pairs: PairFeatures,
) -> dict[str, Any]:
    """What was chosen for each attribute, and how much the gate uses it."""
    # Averaged over prompts, not over pairs: a prompt with many pairs counts once.
    with torch.inference_mode():
        shares = head.gate_weights(pairs.prompts.to(head.scale.device)).mean(0).tolist()
    report: dict[str, Any] = {}
    for name, row, debiased, share in zip(names, stage1.rows, multiples, shares, strict=True):
        correlation = None
        if stage1.verbosity is not None:
            correlation = {"before": debiased.before, "after": debiased.after}
        report[name] = {
            "alpha": row.alpha,
            "held_out_error": {f"{alpha:g}": error for alpha, error in row.errors.items()},
            "held_out_ratings": row.held_out,
            "multiple": debiased.multiple,
            "correlation": correlation,
            "mean_share": share,
        }
    return report
