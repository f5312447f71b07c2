"""Data files of the world, in the product's own record shapes (JSONL).

Training files ask in-distribution prompts of the `train` split. A training or development pair is
labelled as an annotator would: Bradley–Terry on gold with a temperature, so some labels are wrong.
Training ratings carry noise. Evaluation files, one of each kind per regime, ask prompts of the
`eval` split and carry the truth: the better answer by gold is `chosen`, a pair of equal gold is
drawn anew, and ratings are the true attributes. Two answers of a pair always differ. Ratings run
from 0 to 4, as in HelpSteer2: the attribute (0..1) times 4, of training ratings in whole numbers.

Each file has its own stream of chance, a function of the seed and its name: a file's first n
records do not depend on how many are asked of it, nor on the other files.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from smorm import files
from smorm.errors import ConfigError
from smorm.world.gold import ATTRIBUTES, gold, judge
from smorm.world.world import REGIMES, Prompt, Regime, Split, World, make_world, sample_prompt
from smorm.world.writer import Habits, write_answer

TOP_RATING: Final = 4

_Row = dict[str, Any]
_TIE: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Annotation:
    """How answers come about and how they are judged: what may vary while the world stays.

    Attributes:
        temperature: of the Bradley–Terry labels, in units of gold (0..1).
        rating_noise: standard deviation of the noise on a training rating, in units of the
            attribute (0..1), before rounding.
        answers_per_prompt: rated answers to each prompt, one after another (HelpSteer2 has 2).
        habits: of the writers.

    Raises:
        ConfigError: a temperature that is not above 0, noise below 0, or no answer to a prompt.
    """

    temperature: float = 0.15
    rating_noise: float = 0.15
    answers_per_prompt: int = 1
    habits: Habits = field(default_factory=Habits)

    def __post_init__(self) -> None:
        if not (0 < self.temperature < math.inf and 0 <= self.rating_noise < math.inf):
            raise ConfigError(
                f"temperature {self.temperature}, rating noise {self.rating_noise}: expected a "
                "number above 0, and one from 0"
            )
        if self.answers_per_prompt < 1:
            raise ConfigError(f"answers_per_prompt {self.answers_per_prompt}: expected 1 or more")


_USUAL: Final = Annotation()


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
    """Write all files of one seed; the same arguments give the same bytes.

    Args:
        folder: Where to write; made when missing, files of the same names are replaced.
        seed: Of all chance in the data (the world has its own).
        num_pairs: Pairs to train on.
        num_rated: Rated answers to train on.
        num_dev_pairs: Pairs to tune on, noisy like the training pairs.
        num_eval_pairs: Pairs per regime with true labels.
        num_eval_rated: Rated answers per regime with true attributes.
        world: Another world than the one that the shipped backbone knows.
        annotation: Noise, habits, and how many rated answers a prompt has.

    Returns:
        Name → file: `train-pairs`, `train-rated`, `dev-pairs`, and `eval-pairs-REGIME` and
        `eval-rated-REGIME` for ID, OODtopic, OODlong and far.

    Raises:
        OutputError: a file could not be written.
    """
    world = world or make_world()
    jobs: dict[str, tuple[Callable[..., _Row], Regime, Split, int]] = {
        "train-pairs": (labelled_pair, "ID", "train", num_pairs),
        "train-rated": (noisy_rating, "ID", "train", num_rated),
        "dev-pairs": (labelled_pair, "ID", "dev", num_dev_pairs),
    }
    for regime in REGIMES:
        jobs[f"eval-pairs-{regime}"] = (true_pair, regime, "eval", num_eval_pairs)
        jobs[f"eval-rated-{regime}"] = (true_rating, regime, "eval", num_eval_rated)
    written: dict[str, Path] = {}
    for name, (make, regime, split, count) in jobs.items():
        written[name] = Path(folder) / f"{name}.jsonl"
        repeats = annotation.answers_per_prompt if "rated" in name else 1
        rows = partial(make, world, annotation)
        _write(written[name], rows, name, regime, split, count, seed, repeats)
    return written


def _write(
    path: Path,
    make: Callable[[Prompt, np.random.Generator], _Row],
    name: str,
    regime: Regime,
    split: Split,
    count: int,
    seed: int,
    repeats: int,
) -> None:
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    lines = []
    for index in range(count):
        if index % repeats == 0:
            prompt = sample_prompt(rng, regime, split)
        row = make(prompt, rng)
        meta = {**row.pop("meta"), "regime": regime}
        identity = {"id": f"{name}-{index:05d}", "source": f"lab-{regime}", "meta": meta}
        lines.append(orjson.dumps({"prompt": prompt.text, **row, **identity}))
    files.write_bytes(path, b"".join(line + b"\n" for line in lines))


def labelled_pair(world: World, how: Annotation, prompt: Prompt, rng: np.random.Generator) -> _Row:
    """Two different answers, the label drawn by Bradley–Terry on gold / temperature."""
    one, two = _two_answers(world, how, prompt, rng)
    gap = gold(world, prompt, one) - gold(world, prompt, two)
    # as a hyperbolic tangent it overflows at no temperature
    one_wins = rng.random() < 0.5 + 0.5 * math.tanh(gap / how.temperature / 2)
    return _pair(world, prompt, *((one, two) if one_wins else (two, one)))


def true_pair(world: World, how: Annotation, prompt: Prompt, rng: np.random.Generator) -> _Row:
    """Two answers of different gold, the better one chosen; ties are drawn anew."""
    while True:
        one, two = _two_answers(world, how, prompt, rng)
        gap = gold(world, prompt, one) - gold(world, prompt, two)
        if abs(gap) > _TIE:
            return _pair(world, prompt, *((one, two) if gap > 0 else (two, one)))


def noisy_rating(world: World, how: Annotation, prompt: Prompt, rng: np.random.Generator) -> _Row:
    """One answer with its attributes plus noise, as whole numbers 0..4."""
    answer = write_answer(world, prompt, rng, habits=how.habits)
    quality = judge(world, prompt, answer)
    noise = how.rating_noise * rng.standard_normal(len(ATTRIBUTES))
    scores: dict[str, float] = {}
    for (name, value), error in zip(quality.attributes.items(), noise, strict=True):
        rating = round((value + float(error)) * TOP_RATING)
        scores[name] = float(min(TOP_RATING, max(0, rating)))
    return {"response": answer, "scores": scores, "meta": {"gold": quality.gold}}


def true_rating(world: World, how: Annotation, prompt: Prompt, rng: np.random.Generator) -> _Row:
    """One answer with its true attributes, times 4."""
    answer = write_answer(world, prompt, rng, habits=how.habits)
    quality = judge(world, prompt, answer)
    scores = {name: value * TOP_RATING for name, value in quality.attributes.items()}
    return {"response": answer, "scores": scores, "meta": {"gold": quality.gold}}


def _two_answers(
    world: World, how: Annotation, prompt: Prompt, rng: np.random.Generator
) -> tuple[str, str]:
    one = write_answer(world, prompt, rng, habits=how.habits)
    while (two := write_answer(world, prompt, rng, habits=how.habits)) == one:
        pass
    return one, two


def _pair(world: World, prompt: Prompt, chosen: str, rejected: str) -> _Row:
    meta = {
        "gold_chosen": gold(world, prompt, chosen),
        "gold_rejected": gold(world, prompt, rejected),
    }
    return {"chosen": chosen, "rejected": rejected, "meta": meta}
