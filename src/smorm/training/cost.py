"""What a run cost, so that methods can be compared at equal cost: `cost.json` of the run's folder.

Counted are tokens as they are computed (shared ones once), not time, which depends on the machine.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from smorm import files
from smorm.model.network import RewardNetwork
from smorm.training.checkpoint import list_checkpoints, read_state
from smorm.training.step import StepResult

FILE = "cost.json"


@dataclass(slots=True)
class Cost:
    """Counted over the steps of a run, those before a resumption included.

    Attributes:
        steps: optimizer steps.
        passes: forward passes with a gradient (micro-batches).
        tokens: rows that they computed.
        first_pass_tokens: rows computed without a gradient, for terms over a whole step.
    """

    steps: int = 0
    passes: int = 0
    tokens: int = 0
    first_pass_tokens: int = 0

    def add(self, result: StepResult) -> None:
        """Count one more step."""
        self.steps += 1
        self.passes += result.micro_batches
        self.tokens += result.tokens
        self.first_pass_tokens += result.first_pass_tokens

    def as_dict(self) -> dict[str, int]:
        """JSON form, as it is kept in checkpoints."""
        return asdict(self)


def cost_until(checkpoints: Path, done: int) -> Cost:
    """What was counted until the checkpoint of `done` steps. Those of earlier versions have no
    counts: then `steps` says how many were counted."""
    if done:
        for path in list_checkpoints(checkpoints):
            if path.name.endswith(f"-{done:08d}"):
                return Cost(**read_state(path).get("cost", {}))
    return Cost()


def write_cost(
    folder: Path, network: RewardNetwork, kind: str, cost: Cost, reference_tokens: int = 0
) -> None:
    """Write `cost.json`.

    `parameters`: of the model that scores; of those that were trained; and of a language head that
    is there for training only (none where it is the embedding). `passes_per_score`: forward passes
    for the score of one response.

    Args:
        kind: the method.
        reference_tokens: tokens that were computed before the first step.

    Raises:
        OutputError: it could not be written.
    """
    scoring = [*network.backbone.parameters(), *network.head.parameters()]
    counts = {"model": 0, "trained": 0, "language_head": 0}
    counts["model"] = sum(parameter.numel() for parameter in scoring)
    # `parameters` lists a shared tensor once: a tied language head is the embedding.
    for parameter in network.parameters():
        counts["trained"] += parameter.numel() * parameter.requires_grad
        counts["language_head"] += parameter.numel()
    counts["language_head"] -= counts["model"]
    report = {
        "kind": kind,
        "parameters": counts,
        "passes_per_score": 1,
        "steps": cost.steps,
        "passes": cost.passes,
        "tokens": {
            "trained": cost.tokens,
            "first_pass": cost.first_pass_tokens,
            "reference": reference_tokens,
        },
    }
    files.write_json(folder / FILE, report)
