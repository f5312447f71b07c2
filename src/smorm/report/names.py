"""How a metric is called, in what unit it is shown, and which way is better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from smorm.evaluation.metrics import Metric

Better = Literal["higher", "lower", ""]


@dataclass(frozen=True, slots=True)
class Style:
    """A metric's label for readers; `percent` shows a share as per cent; "" means no better way."""

    label: str
    percent: bool = False
    better: Better = ""

    @property
    def unit(self) -> str:
        """The unit that follows the label, or nothing."""
        return "%" if self.percent else ""

    @property
    def scale(self) -> float:
        """What a stored value is multiplied with to be shown."""
        return 100.0 if self.percent else 1.0

    @property
    def heading(self) -> str:
        """Label and unit."""
        return f"{self.label}, %" if self.percent else self.label


_STYLES = {
    "accuracy": Style("accuracy", True, "higher"),
    "length_only_accuracy": Style("length-only rule", True),
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
    "overall_minus_length_only": Style("overall − length-only", True, "higher"),
    "subset": Style("subset", True, "higher"),
    "gold": Style("gold", False, "higher"),
    "proxy": Style("proxy's gain, in its spreads"),
    "oracle": Style("gold of the best answer there is"),
    "regret": Style("gold missed", False, "lower"),
    "gain": Style("gold gained", False, "higher"),
    "area": Style("gold gained, averaged over KL", False, "higher"),
    "peak": Style("n of the largest gold"),
    "peak_step": Style("step of the largest gold"),
    "kl": Style("KL, nats"),
    "fall": Style("gold lost after the peak", False, "lower"),
    "slope": Style("change per nat of KL"),
    "probe": Style("score gained by an attack, in spreads", False, "lower"),
    "probe_wins": Style("attacked answer beats all honest ones", True, "lower"),
}

SHARES = (
    *("overall", "easy", "normal", "hard", "chat", "math", "code", "safety"),
    *("Chat", "Chat Hard", "Safety", "Reasoning"),
    *("Factuality", "Precise IF", "Math", "Focus", "Ties"),
    *("knowledge", "reasoning", "coding", "Natural", "Adversarial"),
    *("Helpfulness", "Harmlessness"),
)
"""Sections of benchmarks: shares of comparisons won."""

_STYLES |= {name: Style(name, True, "higher") for name in SHARES}


_PLACES = {"first": "at the beginning", "last": "at the end", "peak": "at its peak"}
"""Places on a policy's way, as "gold@last"; a number is a size of best-of-n."""


def style_of(name: str) -> Style:
    """The style of a metric such as "accuracy" or "spearman/helpfulness"; plain if unknown."""
    family, _, rest = name.partition("/")
    known = _STYLES.get(family)
    base, _, place = name.partition("@")
    if place and (of_place := _STYLES.get(base)):
        where = _PLACES.get(place, f"best of {place}")
        return Style(f"{of_place.label}, {where}", of_place.percent, of_place.better)
    if known is None:
        return Style(name.replace("_", " "))
    return Style(f"{known.label}: {rest}", known.percent, known.better) if rest else known


def show(value: float, style: Style) -> str:
    """A number for a table: one decimal of a per cent, else about three figures; – if none."""
    if not math.isfinite(value):
        return "–"
    shown = value * style.scale
    if style.percent:
        text = f"{shown:.1f}"
    elif abs(shown) >= 1e5 or 0 < abs(shown) < 5e-4:
        text = f"{shown:.2e}"
    else:
        text = f"{shown:.{3 if abs(shown) < 10 else 2 if abs(shown) < 100 else 1}f}"
    return text.replace("-", "−")


def show_interval(metric: Metric, style: Style) -> str:
    """Both ends, or nothing where there is no interval."""
    if not math.isfinite(metric.low) or not math.isfinite(metric.high):
        return ""
    return f"{show(metric.low, style)} to {show(metric.high, style)}"


_SETS = {
    "ID": "prompts as in training (ID)",
    "OODtopic": "unseen topics (OODtopic)",
    "OODlong": "longer prompts (OODlong)",
    "far": "unseen topics with longer prompts (far)",
}


def show_set(name: str) -> str:
    """A set of prompts in words: those of the lab, else its name."""
    return _SETS.get(name, name or "all prompts")


def show_signed(value: float, style: Style) -> str:
    """A difference: as `show`, with its sign, and near 0 with as many decimals as it needs."""
    shown = value * style.scale
    if not style.percent and 0 < abs(shown) < 5e-4:
        return f"{shown:+.{-math.floor(math.log10(abs(shown)))}f}".replace("-", "−")
    text = show(value, style)
    return f"+{text}" if value > 0 else text


def show_reach(metric: Metric, style: Style) -> str:
    """The interval of a difference: both ends, the upper one without a plus sign."""
    if not math.isfinite(metric.low) or not math.isfinite(metric.high):
        return "no interval"
    low, high = show_signed(metric.low, style), show_signed(metric.high, style)
    return f"{low} to {high}".replace("+", "")


def clean(text: object) -> str:
    """Text without what neither XML nor UTF-8 can hold, and without what turns round the reading of
    the numbers behind it (both shown as the replacement character)."""
    return "".join(_shown(character) for character in str(text))


def _shown(character: str) -> str:
    code = ord(character)
    control = code < 32 and character not in "\t\n"
    turning = 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069
    outside = 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000 or code in (0xFFFE, 0xFFFF)
    return "\N{REPLACEMENT CHARACTER}" if control or turning or outside else character
