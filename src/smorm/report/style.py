"""How a metric is named for readers, in what unit it is shown, and whether more of it is better."""

import math
from dataclasses import dataclass
from typing import Literal

from smorm.evaluation.metric_names import RULES, MetricName
from smorm.evaluation.metrics import Metric


@dataclass(frozen=True, slots=True)
class Style:
    """How a metric is shown."""

    label: str
    percent: bool = False  # a share, as per cent
    better: Literal["higher", "lower", ""] = ""  # "" where neither is

    @property
    def scale(self) -> float:
        """What a stored value is multiplied with to be shown."""
        return 100.0 if self.percent else 1.0

    @property
    def heading(self) -> str:
        return self.label + ", %" * self.percent

    def show(self, value: float) -> str:
        """A number for a table: one decimal of a per cent, else about three figures; – if NaN."""
        if not math.isfinite(value):
            return "–"
        scaled = value * self.scale
        size = abs(scaled)
        digits = ".1f"
        if not self.percent and (size >= 1e5 or 0 < size < 5e-4):
            digits = ".2e"
        elif not self.percent and size < 10:
            digits = ".3f"
        elif not self.percent and size < 100:
            digits = ".2f"
        # A minus sign is as wide as a digit: columns of numbers stay aligned.
        return f"{scaled:{digits}}".replace("-", "−")

    def interval(self, metric: Metric) -> str:
        """Both ends of the interval, or nothing where there is none."""
        if not math.isfinite(metric.low + metric.high):
            return ""
        return f"{self.show(metric.low)} to {self.show(metric.high)}"

    def signed(self, value: float) -> str:
        """A difference: as `show`, with its sign, and near 0 with as many decimals as it needs."""
        scaled = value * self.scale
        # Three decimals would show 0 beside an interval that excludes it.
        if not self.percent and 0 < abs(scaled) < 5e-4:
            return f"{scaled:+.{-math.floor(math.log10(abs(scaled)))}f}".replace("-", "−")
        return ("+" if value > 0 else "") + self.show(value)

    def signed_interval(self, metric: Metric) -> str:
        """The interval of a difference; its ends without plus signs."""
        if not math.isfinite(metric.low + metric.high):
            return "no interval"
        return f"{self.signed(metric.low)} to {self.signed(metric.high)}".replace("+", "")


SECTIONS = (
    *("overall", "easy", "normal", "hard", "chat", "math", "code", "safety"),
    *("Chat", "Chat Hard", "Safety", "Reasoning"),
    *("Factuality", "Precise IF", "Math", "Focus", "Ties"),
    *("knowledge", "reasoning", "coding", "Natural", "Adversarial"),
    *("Helpfulness", "Harmlessness"),
)
"""Sections of benchmarks: shares of comparisons won."""

_STYLES = {
    "accuracy": Style("accuracy", True, "higher"),
    "length_only_accuracy": Style("length-only rule", True),
    "shortest_only_accuracy": Style("shortest-only rule", True),
    "accuracy_minus_length_only": Style("accuracy − length-only", True, "higher"),
    "accuracy_chosen_longer": Style("accuracy, preferred is longer", True, "higher"),
    "accuracy_chosen_shorter": Style("accuracy, preferred is shorter", True, "higher"),
    "margin": Style("mean margin, score units"),
    "length_correlation": Style("Spearman with length"),
    "length_correlation_within_prompt": Style("Spearman with length, within prompt"),
    "spearman": Style("Spearman", False, "higher"),
    "mse": Style("mean squared error, rating units²", False, "lower"),
    "mse_of_mean": Style("mean squared error of predicting the mean"),
    "matrix": Style("wins, chosen / rejected style", True, "higher"),
    "ties_half": Style("ties as half", True, "higher"),
    "length_only": Style("length-only rule", True),
    "shortest_only": Style("shortest-only rule", True),
    "overall_minus_length_only": Style("overall − length-only", True, "higher"),
    "subset": Style("subset", True, "higher"),
    "gold": Style("gold", False, "higher"),
    "proxy": Style("proxy gain, standard deviations"),
    "oracle": Style("gold of the best response"),
    "regret": Style("gold missed", False, "lower"),
    "gain": Style("gold gained", False, "higher"),
    "area": Style("gold gained, averaged over KL", False, "higher"),
    "peak": Style("n of the largest gold"),
    "peak_step": Style("step of the largest gold"),
    "kl": Style("KL, nats"),
    "fall": Style("gold lost after the peak", False, "lower"),
    "drop": Style("gold lost from the peak to the lowest after it", False, "lower"),
    "trough": Style("n of the lowest gold after the peak"),
    "trough_step": Style("step of the lowest gold after the peak"),
    "slope": Style("change per nat of KL"),
    "probe": Style("score gained by an attack, standard deviations", False, "lower"),
    "probe_wins": Style("attacked response beats all honest ones", True, "lower"),
    **{name: Style(name, True, "higher") for name in SECTIONS},
}
_CHECKPOINTS = {"first": "at the start", "last": "at the end", "peak": "at its peak"}
_PROMPT_SETS = {
    "ID": "prompts as in training (ID)",
    "OODtopic": "unseen topics (OODtopic)",
    "OODlong": "longer prompts (OODlong)",
    "far": "unseen topics with longer prompts (far)",
}


def style_of(name: str) -> Style:
    """The style of a metric such as "accuracy" or "spearman/helpfulness"; plain if unknown."""
    # Whole names first: "accuracy_minus_length_only" has a label of its own.
    if name in _STYLES:
        return _STYLES[name]
    parsed = MetricName.parse(name)
    family, detail = parsed.name, parsed.subset
    if parsed.over in RULES:
        family, detail = parsed.over, parsed.name
    style = _STYLES.get(family)
    if style is None:
        return Style(name.replace("_", " "))
    label = style.label
    if parsed.n is not None:
        label += f", best of {parsed.n}"
    elif parsed.point is not None:
        label += f", {_CHECKPOINTS.get(parsed.point, parsed.point)}"
    if detail:
        label += f": {detail}"
    return Style(label, style.percent, style.better)


def show_prompts(name: str, *, in_distribution: bool = True) -> str:
    """A set of prompts in words: those of the generated world, else its name. A set is called as in
    training only where `in_distribution`: a name alone knows nothing of a model."""
    if name == "ID" and not in_distribution:
        return name
    return _PROMPT_SETS.get(name, name or "all prompts")
