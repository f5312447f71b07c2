"""Data files of the world, in the product's own record shapes (JSONL).

Training files have in-distribution prompts of the `train` split. The label of a training or
development pair is drawn by Bradley–Terry on gold with a temperature, so some labels are wrong;
training ratings carry noise. Evaluation files, one of each kind per regime, have prompts of the
`eval` split and carry the truth: the better answer by gold is `chosen`, a pair of equal gold is
drawn anew, and ratings are the true attributes. Two answers of a pair always differ. Ratings run
from 0 to 4, as in HelpSteer2: the attribute (0..1) times 4, rounded in training files."""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from smorm import files
from smorm.errors import ConfigError
from smorm.world.gold import ATTRIBUTES, gold, measure_quality
from smorm.world.world import REGIMES, Prompt, Regime, Split, World, make_world, sample_prompt
from smorm.world.writer import Habits, write_answer

TOP_RATING: Final = 4

_Row = dict[str, Any]
_TIE: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Annotation:
    """How answers are written and annotated, in one and the same world."""

    temperature: float = 0.15  # of the Bradley–Terry labels, in units of gold (0..1)
    # Standard deviation on a training rating before rounding, in units of the attribute (0..1).
    rating_noise: float = 0.15
    # Rated answers to each prompt, one after another (HelpSteer2 has 2).
    answers_per_prompt: int = 1
    habits: Habits = field(default_factory=Habits)  # of the writers

    def __post_init__(self) -> None:
        if not (0 < self.temperature < math.inf and 0 <= self.rating_noise < math.inf):
            raise ConfigError(
                f"temperature {self.temperature}, rating noise {self.rating_noise}: expected a "
                "number above 0, and one from 0"
            )
        if self.answers_per_prompt < 1:
            raise ConfigError(f"answers_per_prompt {self.answers_per_prompt}: expected 1 or more")


_USUAL: Final = Annotation()
Maker = Callable[[World, Annotation, Prompt, np.random.Generator], _Row]


def write_dataset(
    folder: Path | str,
    *,
    seed: int,
    num_pairs: int = 3000,
    num_rated: int = 1000,
    num_dev_pairs: int = 500,
    num_eval_pairs: int = 800,
    num_eval_rated: int = 300,
    world: World | None = None,
    annotation: Annotation = _USUAL,
) -> dict[str, Path]:
    """Write all files of one seed, over those of the same names; the same arguments give the same
    bytes. Numbers of evaluation records are of each regime; the world is by default the one that
    the shipped backbone knows. Returns name to file: `train-pairs`, `train-rated`, `dev-pairs`, and
    `eval-pairs-REGIME` and `eval-rated-REGIME` of each regime."""
    world = world or make_world()
    makers: dict[str, tuple[Maker, Regime, Split, int]] = {
        "train-pairs": (labelled_pair, "ID", "train", num_pairs),
        "train-rated": (noisy_rating, "ID", "train", num_rated),
        "dev-pairs": (labelled_pair, "ID", "dev", num_dev_pairs),
    }
    for regime in REGIMES:
        makers[f"eval-pairs-{regime}"] = (true_pair, regime, "eval", num_eval_pairs)
        makers[f"eval-rated-{regime}"] = (true_rating, regime, "eval", num_eval_rated)
    written: dict[str, Path] = {}
    for name, (make, regime, split, count) in makers.items():
        # A generator a file: its first n records depend neither on its size nor on other files.
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        is_rating = make in (noisy_rating, true_rating)
        repeats = annotation.answers_per_prompt if is_rating else 1
        lines = []
        for index in range(count):
            if index % repeats == 0:
                prompt = sample_prompt(rng, regime, split)
            row = make(world, annotation, prompt, rng)
            # The order of the keys is part of the bytes of a file.
            meta = {**row.pop("meta"), "regime": regime}
            origin = {"id": f"{name}-{index:05d}", "source": f"lab-{regime}", "meta": meta}
            lines.append(orjson.dumps({"prompt": prompt.text, **row, **origin}) + b"\n")
        written[name] = Path(folder) / f"{name}.jsonl"
        files.write_bytes(written[name], b"".join(lines))
    return written


def labelled_pair(world: World, how: Annotation, prompt: Prompt, rng: np.random.Generator) -> _Row:
    """Two different answers, the label drawn by Bradley–Terry on gold / temperature."""
    first, second, gap = _two_answers(world, how, prompt, rng)
    # The logistic function as a hyperbolic tangent: it overflows at no temperature.
    if rng.random() < 0.5 + 0.5 * math.tanh(gap / how.temperature / 2):
        return _pair(world, prompt, first, second)
    return _pair(world, prompt, second, first)


def true_pair(world: World, how: Annotation, prompt: Prompt, rng: np.random.Generator) -> _Row:
    """Two answers of different gold, the better one chosen; ties are drawn anew."""
    while True:
        first, second, gap = _two_answers(world, how, prompt, rng)
        if gap > _TIE:
            return _pair(world, prompt, first, second)
        if gap < -_TIE:
            return _pair(world, prompt, second, first)


def noisy_rating(world: World, how: Annotation, prompt: Prompt, rng: np.random.Generator) -> _Row:
    """One answer with its attributes plus noise, as whole numbers 0..4."""
    answer = write_answer(world, prompt, rng, habits=how.habits)
    quality = measure_quality(world, prompt, answer)
    noise = how.rating_noise * rng.standard_normal(len(ATTRIBUTES))
    scores: dict[str, float] = {}
    for (name, value), error in zip(quality.attributes.items(), noise, strict=True):
        rating = round((value + float(error)) * TOP_RATING)
        scores[name] = float(min(TOP_RATING, max(0, rating)))
    return {"response": answer, "scores": scores, "meta": {"gold": quality.gold}}


def true_rating(world: World, how: Annotation, prompt: Prompt, rng: np.random.Generator) -> _Row:
    """One answer with its true attributes, times 4."""
    answer = write_answer(world, prompt, rng, habits=how.habits)
    quality = measure_quality(world, prompt, answer)
    scores = {name: value * TOP_RATING for name, value in quality.attributes.items()}
    return {"response": answer, "scores": scores, "meta": {"gold": quality.gold}}


def _two_answers(
    world: World, how: Annotation, prompt: Prompt, rng: np.random.Generator
) -> tuple[str, str, float]:
    # Equal texts tell nothing of a preference, and a label between them would be noise alone.
    first = second = write_answer(world, prompt, rng, habits=how.habits)
    while second == first:
        second = write_answer(world, prompt, rng, habits=how.habits)
    return first, second, gold(world, prompt, first) - gold(world, prompt, second)


def _pair(world: World, prompt: Prompt, chosen: str, rejected: str) -> _Row:
    meta = {
        "gold_chosen": gold(world, prompt, chosen),
        "gold_rejected": gold(world, prompt, rejected),
    }
    return {"chosen": chosen, "rejected": rejected, "meta": meta}
