"""Prompts with several answers, as pairs and ratings: from the lab, and from arena_bench_v1."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.tasks import read_lines
from smorm.files import write_text
from smorm.world import make_world, measure_quality, sample_prompt, write_answer

# Of a prompt, as in UltraFeedback.
ANSWERS = 4
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answered:
    """A prompt's answers, each with its scores and the one number that pairs are ordered by."""

    prompt: str
    answers: list[tuple[str, dict[str, float], float]]


def lab_answers(prompts: int = 160) -> list[Answered]:
    """Of the generated world, with their true attributes."""
    world, rng = make_world(), np.random.default_rng(0)
    answered: dict[str, Answered] = {}
    while len(answered) < prompts:
        prompt = sample_prompt(rng, "ID", "train")
        # Sorted, since the order of a set of texts differs between processes.
        # Equal answers count once; a prompt that then has fewer than `ANSWERS` is drawn again.
        texts = sorted({write_answer(world, prompt, rng) for _ in range(ANSWERS)})
        if len(texts) == ANSWERS:
            answers = []
            for text in texts:
                quality = measure_quality(world, prompt, text)
                answers.append((text, dict(quality.attributes), quality.gold))
            answered[prompt.text] = Answered(prompt.text, answers)
    return list(answered.values())


def arena_answers(path: Path, longest: int = 900, prompts: int = 120) -> list[Answered]:
    """Graded answers of arena_bench_v1 of at most so many characters, short prompts."""
    by_prompt: dict[str, list[tuple[str, dict[str, float], float]]] = {}
    for row in read_lines(path):
        if len(row["response"]) <= longest and len(row["prompt"]) <= longest:
            answer = (row["response"], row["scores"], row["scores"]["gpt4_score"])
            by_prompt.setdefault(row["prompt"], []).append(answer)
    answered = []
    for prompt, answers in by_prompt.items():
        first = answers[:ANSWERS]
        # Equal scores make no pair.
        if len(first) == ANSWERS and len({score for *_, score in first}) > 1:
            answered.append(Answered(prompt, first))
    return answered[:prompts]


def write_records(answered: list[Answered], folder: Path) -> dict[str, str]:
    """All pairs of different score, and all ratings, in the product's record shapes."""
    pairs: list[Row] = []
    rated: list[Row] = []
    # Permutations, not combinations: either of two answers can be the better one.
    for entry in answered:
        for (chosen, _, high), (rejected, _, low) in itertools.permutations(entry.answers, 2):
            if high > low:
                pairs.append({"prompt": entry.prompt, "chosen": chosen, "rejected": rejected})
        for text, scores, _ in entry.answers:
            rated.append({"prompt": entry.prompt, "response": text, "scores": scores})
    paths = {"preference": folder / "pairs.jsonl", "rated": folder / "rated.jsonl"}
    for path, rows in zip(paths.values(), (pairs, rated), strict=True):
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return {kind: str(path) for kind, path in paths.items()}
