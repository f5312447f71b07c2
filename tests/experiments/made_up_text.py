"""What the comparison on real text reads besides the tasks: text to pretrain on, and pools."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.text_backbone import Backbone
from experiments.text_runs import Plan
from tests.experiments.made_up import make_data

TINY = Backbone(
    hidden_size=16, intermediate_size=32, layers=2, heads=2, vocab_size=320, width=128,
    tokens=4096, held_out_tokens=256, batch=4,
)  # fmt: skip
EPOCHS = {task: {"Multi": (0.5,), "*": (0.25,)} for task in ("truthfulqa", "ukp")}
# A whole answer of the made-up test split.
LEAKED = "clear true helpful one 21"


def _write(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()))


def documents() -> list[str]:
    """Six hundred documents of a few sentences, and one that holds a test answer."""
    rng = np.random.default_rng(0)
    words = ["river", "stone", "clear", "vague", "true", "false", "walks", "sings", "slowly"]
    found = []
    for at in range(600):
        text = " ".join(rng.choice(words, 30))
        found.append(f"Human: What of {at}?\n\nAssistant: {text}" if at % 2 else text)
    return [*found, f"Human: Tell me.\n\nAssistant: {LEAKED}"]


def pools() -> list[Any]:
    """Ten prompts with eight answers, of which gold prefers the longer; the last has few answers,
    and every answer but one fits 128 tokens."""
    found = []
    for at in range(11):
        count = 8 if at < 10 else 3
        answers = [{"model": str(k), "response": "word " * (k + 1 + at % 3), "gold": k / 8}
                   for k in range(count)]  # fmt: skip
        found.append({"prompt": f"Say number {at}", "responses": answers})
    found[0]["responses"].append({"model": "9", "response": "very long " * 200, "gold": 1.0})
    return found


def make_text_data(folder: Path) -> Path:
    """Write the folder; returns it."""
    make_data(folder)
    _write(folder / "pretrain_text" / "permissive.jsonl.gz",
           [{"text": text, "source": "made up"} for text in documents()])  # fmt: skip
    _write(folder / "alpaca_eval_bon" / "dev.jsonl.gz", pools())
    return folder


def tiny_plan(folder: Path) -> Plan:
    """Two seeds of everything on made-up data, in one process."""
    return Plan(
        make_text_data(folder / "data"), folder / "out", folder / "work", seeds=2, members=2,
        jobs=1, backbone=TINY, sizes=(1, 2, 4, 8), epochs=EPOCHS,
    )  # fmt: skip
