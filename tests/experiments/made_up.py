"""A made-up data folder with the layout of the real one, small enough to train on in seconds."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

GOOD, BAD = "clear true helpful", "vague false useless"
README = (
    "# made up\n\nTF-IDF + length linear baseline (fit on train): "
    '{"dev": 0.75, "dev_n": 8, "dev_longer": 0.5, "hidden": 0.7}\n'
)
ATTRIBUTES = {
    "truthfulqa": ("truthful", "informative"),
    "ukp": ("support", "clarity"),
}
FOLDERS = {
    "truthfulqa": ("truthfulqa_pairs", "truthfulqa_attributes"),
    "ukp": ("ukp_convarg1", "ukp_convarg_attributes"),
}


def _prompt(task: str, number: int) -> str:
    if task == "ukp":
        side = ("Yes", "No")[number % 2]
        return f"Debate topic: number {number // 2}\nWrite for this position: {side}"
    return f"What is {number}?"


def _rows(task: str, prompts: range) -> tuple[list[Any], list[Any]]:
    pairs, rated = [], []
    for number in prompts:
        prompt = _prompt(task, number)
        for word in ("one", "two"):
            good, bad = f"{GOOD} {word} {number}", f"{BAD} {word} {number}"
            pairs.append({"prompt": prompt, "chosen": good, "rejected": bad, "source": "made up"})
            for response, value in ((good, 1.0), (bad, 0.0)):
                scores = {name: (value + place) % 2 for place, name in enumerate(ATTRIBUTES[task])}
                rated.append({"prompt": prompt, "response": response, "scores": scores})
    return pairs, rated


def make_data(folder: Path) -> Path:
    """Write the folder; returns it."""
    for task, names in FOLDERS.items():
        for split, prompts in (("train", range(20)), ("dev", range(20, 28))):
            pairs, rated = _rows(task, prompts)
            if task == "truthfulqa" and split == "train":
                # The recipe reads every 14th of these ratings.
                rated *= 14
            for name, rows in zip(names, (pairs, rated), strict=True):
                path = folder / name / f"{split}.jsonl.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                text = "".join(json.dumps(row) + "\n" for row in rows)
                path.write_bytes(gzip.compress(text.encode()))
        (folder / names[0] / "README.md").write_text(README, encoding="utf-8")
    return folder
