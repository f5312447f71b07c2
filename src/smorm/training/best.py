"""The best step of a run by one of its held-out sets, and when to stop looking for a better one."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from smorm.config.sections import UNNAMED, TrainingSection


def measured_as(name: str | None, metric: str) -> str:
    """The name of a held-out set's metric: `dev/accuracy`, or `dev/NAME/accuracy`."""
    return f"dev/{metric}" if name in (None, UNNAMED) else f"dev/{name}/{metric}"


@dataclass(slots=True)
class Best:
    """The best step so far (0 before there is one). `score` grows with quality and is compared
    from its first number on; `without` counts the measurements since then."""

    held_out: str | None
    patience: int | None
    step: int = 0
    score: list[float] = field(default_factory=list)
    without: int = 0

    @classmethod
    def of(cls, training: TrainingSection, state: Mapping[str, Any] | None) -> "Best":
        """As it was in a checkpoint's state, or before the first step."""
        return cls(training.best, training.stop_after, **(state or {}))

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        values = asdict(self)
        return {name: values[name] for name in ("step", "score", "without")}

    @property
    def stops(self) -> bool:
        """Whether there were too many measurements without a better one."""
        return self.patience is not None and self.without >= self.patience

    def update(self, step: int, values: Mapping[str, float]) -> bool:
        """Take a step's numbers; True where it is the best so far."""
        score = self._score_of(values)
        if not score:
            return False
        if self.step and score <= self.score:
            self.without += 1
            return False
        self.step, self.score, self.without = step, score, 0
        return True

    def _score_of(self, values: Mapping[str, float]) -> list[float]:
        """Accuracy, then log loss between equal ones; of ratings alone the mean squared error."""
        if self.held_out is None:
            return []
        accuracy = values.get(measured_as(self.held_out, "accuracy"))
        if accuracy is not None:
            return [accuracy, -values[measured_as(self.held_out, "preference_loss")]]
        prefix = measured_as(self.held_out, "mse/")
        errors = [value for name, value in values.items() if name.startswith(prefix)]
        return [-float(np.mean(errors))] if errors else []
