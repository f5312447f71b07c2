"""Exports under an older transformers: `python -m engines.older_transformers`.

Tools for reward models pin transformers (verl >= 5.5.3 and < 5.11, LLaMA-Factory <= 5.6). Tiny
models are trained and exported by the transformers that is installed here; the oldest of those
versions, in an environment of its own, must then load each export whole, make the same token ids of
text, and give the scores of training's path. Exit code 1 where it does not."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from engines.environments import build
from engines.models import ARCHITECTURES, VIEW, make_data, make_model
from smorm import RewardModel
from smorm.data.census import Census
from smorm.evaluation.parity.conversations import Conversation, built_in
from smorm.evaluation.parity.paths import GATES, allowed_difference, training_path
from smorm.files import write_json
from smorm.model.export import PlainModel
from smorm.model.store import versions
from smorm.model.views import apply_view
from smorm.text.chat import ChatInputs

READER = Path(__file__).parent / "drivers" / "read_export.py"
ENVIRONMENT = "older"
LONGEST = 512


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m engines.older_transformers")
    parser.add_argument("--output", type=Path, default=Path("results/engines/older.json"))
    parser.add_argument("--environments", type=Path, default=Path(".engines"))
    parser.add_argument("--architectures", default=",".join(ARCHITECTURES))
    options = parser.parse_args(arguments)
    names = options.architectures.split(",")
    if unknown := sorted(set(names) - set(ARCHITECTURES)):
        parser.error(f"--architectures: unknown {', '.join(unknown)}")
    python = build(options.environments, ENVIRONMENT).python
    rows = []
    with tempfile.TemporaryDirectory(prefix="smorm-older-") as folder:
        data = make_data(Path(folder) / "world")
        for name in names:
            model = make_model(Path(folder) / name, name, data)
            rows.append({"architecture": name, **compare(python, model.folder, model.export)})
            print(json.dumps(rows[-1]), flush=True)
    write_json(options.output, {"versions": versions(), "exports": rows})
    return int(not all(row["passed"] for row in rows))


def compare(python: Path, folder: Path, export: Path) -> dict[str, Any]:
    """A model's export read by another environment's transformers: its version, conversations,
    weights that it did not find, whether its token ids of text are those of training or those of
    the transformers here, and the largest difference of a score from training's path, in standard
    deviations of the scores."""
    model = RewardModel.load(folder)
    # With tools or reasoning of their own the template is asked in another way.
    every = built_in(model.renderer, Census(), longest=LONGEST)
    conversations = [conversation for conversation in every if conversation.is_plain]
    ids = [conversation.tokens.tolist() for conversation in conversations]
    answer = _read_by(python, export, conversations, ids)
    rows = training_path(model, conversations).rows
    assert rows is not None
    expected = apply_view(model.view(VIEW), rows, model.card.scales)
    # The head of the export has no bias for the view's constant.
    expected -= RewardModel.load(export).card.offset
    std = expected.std()
    difference = float(np.abs(np.array(answer["scores"]) - expected).max())
    allowed = allowed_difference(std, GATES["float32"], "float32")
    plain = PlainModel.load(export)
    own_ids = [plain.tokens(conversation.messages) for conversation in conversations]
    # For Qwen2 the newest takes a tokenizer class of its own, and the older one training's.
    gate = [not conversation.control for conversation in conversations]
    as_trained = list(compress(answer["own_ids"], gate)) == list(compress(ids, gate))
    same_ids = as_trained or answer["own_ids"] == own_ids
    return {
        "transformers": answer["version"], "conversations": len(conversations),
        "missing": answer["missing"], "same_ids": same_ids, "in_spreads": difference / float(std),
        "passed": bool(difference <= allowed and same_ids and not answer["missing"]),
    }  # fmt: skip


def _read_by(
    python: Path, export: Path, conversations: Sequence[Conversation], ids: list[list[int]]
) -> dict[str, Any]:
    """What `engines/drivers/read_export.py` answers; CalledProcessError where it fails."""
    turns = [ChatInputs.of(conversation.messages).messages for conversation in conversations]
    with tempfile.TemporaryDirectory(prefix="smorm-older-") as folder:
        job, answer = Path(folder) / "job.json", Path(folder) / "answer.json"
        write_json(job, {"export": str(export), "conversations": turns, "ids": ids})
        subprocess.run([python, READER, job, answer], check=True)
        found: dict[str, Any] = json.loads(answer.read_text("utf-8"))
    return found


if __name__ == "__main__":
    sys.exit(main())
