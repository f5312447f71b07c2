"""Data files of the world, in the product's own record shapes (JSONL).

Training files ask in-distribution prompts of the `train` split. A training or development pair is
labelled as an annotator would: Bradley–Terry on gold with temperature 0.15, so some labels are
wrong. Training ratings carry noise. Evaluation files, one of each kind per regime, ask prompts of
the `eval` split and carry the truth: the better answer by gold is `chosen`, a pair of equal gold is
drawn anew, and ratings are the true attributes. Two answers of a pair always differ.

Each file has its own stream of chance, a function of the seed and its name: a file's first n
records do not depend on how many are asked of it, nor on the other files.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from smorm import files
from smorm.lab.gold import ATTRIBUTES, gold, judge
from smorm.lab.world import REGIMES, Prompt, Regime, Split, World, make_world, sample_prompt
from smorm.lab.writer import write_answer

TEMPERATURE: Final = 0.15
"""Of the Bradley–Terry labels, in units of gold."""
RATING_NOISE: Final = 0.15
"""Standard deviation of the noise on a training rating, before rounding."""
RATING_STEP: Final = 0.25

_Row = dict[str, Any]
_TIE: Final = 1e-9


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
        _write(written[name], partial(make, world), name, regime, split, count, seed)
    return written


def _write(
    path: Path,
    make: Callable[[Prompt, np.random.Generator], _Row],
    name: str,
    regime: Regime,
    split: Split,
    count: int,
    seed: int,
) -> None:
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    lines = []
    for index in range(count):
        prompt = sample_prompt(rng, regime, split)
        row = make(prompt, rng)
        meta = {**row.pop("meta"), "regime": regime}
        identity = {"id": f"{name}-{index:05d}", "source": f"lab-{regime}", "meta": meta}
        lines.append(orjson.dumps({"prompt": prompt.text, **row, **identity}))
    files.write_bytes(path, b"".join(line + b"\n" for line in lines))


def labelled_pair(world: World, prompt: Prompt, rng: np.random.Generator) -> _Row:
    """Two different answers, the label drawn by Bradley–Terry on gold / 0.15."""
    one, two = _two_answers(world, prompt, rng)
    gap = gold(world, prompt, one) - gold(world, prompt, two)
    one_wins = rng.random() < 1 / (1 + math.exp(-gap / TEMPERATURE))
    return _pair(world, prompt, *((one, two) if one_wins else (two, one)))


def true_pair(world: World, prompt: Prompt, rng: np.random.Generator) -> _Row:
    """Two answers of different gold, the better one chosen; ties are drawn anew."""
    while True:
        one, two = _two_answers(world, prompt, rng)
        gap = gold(world, prompt, one) - gold(world, prompt, two)
        if abs(gap) > _TIE:
            return _pair(world, prompt, *((one, two) if gap > 0 else (two, one)))


def noisy_rating(world: World, prompt: Prompt, rng: np.random.Generator) -> _Row:
    """One answer with its attributes plus noise 0.15, rounded to quarters within 0..1."""
    answer = write_answer(world, prompt, rng)
    quality = judge(world, prompt, answer)
    noise = RATING_NOISE * rng.standard_normal(len(ATTRIBUTES))
    scores: dict[str, float] = {}
    for (name, value), error in zip(quality.attributes.items(), noise, strict=True):
        quarters = round((value + float(error)) / RATING_STEP)
        scores[name] = min(1.0, max(0.0, quarters * RATING_STEP))
    return {"response": answer, "scores": scores, "meta": {"gold": quality.gold}}


def true_rating(world: World, prompt: Prompt, rng: np.random.Generator) -> _Row:
    """One answer with its true attributes."""
    answer = write_answer(world, prompt, rng)
    quality = judge(world, prompt, answer)
    return {"response": answer, "scores": quality.attributes, "meta": {"gold": quality.gold}}


def _two_answers(world: World, prompt: Prompt, rng: np.random.Generator) -> tuple[str, str]:
    one = write_answer(world, prompt, rng)
    while (two := write_answer(world, prompt, rng)) == one:
        pass
    return one, two


def _pair(world: World, prompt: Prompt, chosen: str, rejected: str) -> _Row:
    meta = {
        "gold_chosen": gold(world, prompt, chosen),
        "gold_rejected": gold(world, prompt, rejected),
    }
    return {"chosen": chosen, "rejected": rejected, "meta": meta}
