"""TRL's GRPO against `smorm serve` and with the export, its rewards compared with `smorm score`.

TRL is installed beside smorm, so this client needs no environment of its own; what it scores is
what its policy, the generated world's, wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from engines.clients import EXPORT, SMORM, expected_scores, run_driver
from engines.models import VIEW, TinyModel
from engines.results import Outcome, Row, compare
from smorm.world import backbone_path

NAME = "TRL, GRPOTrainer, 3 steps"
PROMPTS = 8


def trl_rows(
    model: TinyModel, url: str, data: Mapping[str, Path], workplace: Path
) -> Iterator[Row]:
    """A row of the server's rewards and one of the export's."""
    with data["train-pairs"].open(encoding="utf-8") as lines:
        prompts = [json.loads(next(lines))["prompt"] for _ in range(PROMPTS)]
    job = {"url": url, "view": VIEW, "export": str(model.export),
           "policy": str(backbone_path()), "prompts": prompts}  # fmt: skip
    answer, problem = run_driver(None, "ask_trl.py", job, workplace, needs_smorm=True)
    if answer is None:
        for target in (SMORM, EXPORT):
            outcome = Outcome.REFUSED
            yield Row(NAME, target, model.architecture, outcome, 0, 0, problem=problem)
        return
    expected = expected_scores(model, answer["conversations"], workplace)
    errors = [None] * len(expected)
    yield compare(NAME, SMORM, model.architecture, answer["scores"], errors, expected)
    exported = answer["export_scores"]
    without_constant = expected - model.constant
    yield compare(NAME, EXPORT, model.architecture, exported, errors, without_constant)
