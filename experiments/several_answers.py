"""Prompts with several answers, as pairs and ratings: from the lab, and from arena_bench_v1."""

from __future__ import annotations

import gzip
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smorm.files import write_text
from smorm.world import make_world, measure_quality, sample_prompt, write_answer

ANSWERS = 4
"""A prompt, as UltraFeedback has them."""
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answered:
    """A prompt's answers, each with its scores and the one number that pairs are ordered by."""

    prompt: str
    answers: list[tuple[str, dict[str, float], float]]


def lab_answers(prompts: int = 160) -> list[Answered]:
    """Of the generated world, with their true attributes."""
    world, rng = make_world(), np.random.default_rng(0)
    found: dict[str, Answered] = {}
    while len(found) < prompts:
        prompt = sample_prompt(rng, "ID", "train")
        texts = {write_answer(world, prompt, rng) for _ in range(ANSWERS)}
        judged = [(text, measure_quality(world, prompt, text)) for text in sorted(texts)]
        answers = [(text, dict(quality.attributes), quality.gold) for text, quality in judged]
        if len(answers) == ANSWERS:
            found[prompt.text] = Answered(prompt.text, answers)
    return list(found.values())


def arena_answers(path: Path, longest: int = 900, prompts: int = 120) -> list[Answered]:
    """Graded answers of arena_bench_v1 of at most so many characters, short prompts."""
    rows: dict[str, list[tuple[str, dict[str, float], float]]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        for row in map(json.loads, stream):
            if len(row["response"]) <= longest and len(row["prompt"]) <= longest:
                answer = (row["response"], row["scores"], row["scores"]["gpt4_score"])
                rows.setdefault(row["prompt"], []).append(answer)
    enough = [Answered(p, a[:ANSWERS]) for p, a in rows.items() if len(a) >= ANSWERS]
    return [one for one in enough if len({score for *_, score in one.answers}) > 1][:prompts]


def write_records(found: list[Answered], folder: Path) -> dict[str, str]:
    """All pairs of different score, and all ratings, in the product's record shapes."""
    pairs: list[Row] = []
    rated: list[Row] = []
    for one in found:
        for (a, _, high), (b, _, low) in itertools.permutations(one.answers, 2):
            if high > low:
                pairs.append({"prompt": one.prompt, "chosen": a, "rejected": b})
        for text, scores, _ in one.answers:
            rated.append({"prompt": one.prompt, "response": text, "scores": scores})
    paths = {"preference": folder / "pairs.jsonl", "rated": folder / "rated.jsonl"}
    for path, rows in zip(paths.values(), (pairs, rated), strict=True):
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return {kind: str(path) for kind, path in paths.items()}
