"""The clients' own code against servers of one tiny model, compared with `smorm score`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.commands import run_smorm
from engines.environments import Environment
from engines.models import VIEW, TinyModel
from engines.results import Outcome, Row, compare
from smorm.arrays import Floats

DRIVERS = Path(__file__).parent / "drivers"
SOURCE = Path(__file__).parents[1] / "src"
DRIVER_SECONDS = 1800
PAIRS = 32  # of which each gives two conversations


@dataclass(frozen=True, slots=True)
class Client:
    """A client's code: its environment, its driver, what the driver is told, whom it can ask."""

    name: str
    environment: str
    driver: str
    options: Mapping[str, Any]
    targets: tuple[str, ...]
    needs_smorm: bool = False  # whether it loads code of ours into the client's process


SMORM, VLLM, EXPORT = "smorm serve", "vLLM", "export"
_SMORM_IN_VERL = {
    "route": "function",
    "function": {"path": "pkg://smorm.verl", "name": "compute_score"},
    "manager": {
        "source": "importlib", "name": "RewardManager",
        "module": {"path": "pkg://smorm.verl.manager"},
    },
}  # fmt: skip
CLIENTS = (
    Client("OpenRLHF, SingleTurnAgentExecutor", "openrlhf", "ask_openrlhf.py", {}, (SMORM,)),
    Client("OpenRLHF, its loader", "openrlhf", "ask_openrlhf_loader.py", {}, (EXPORT,)),
    Client(
        "verl, RewardLoopWorker as of vLLM", "verl", "ask_verl.py", {"route": "classify"},
        (SMORM, VLLM),
    ),
    Client(
        "verl, RewardLoopWorker as of SGLang", "verl", "ask_verl.py", {"route": "embeddings"},
        (SMORM,),
    ),
    Client(
        "verl, RewardLoopWorker with smorm.verl", "verl", "ask_verl.py", _SMORM_IN_VERL, (SMORM,),
        needs_smorm=True,
    ),
    Client(
        "LLaMA-Factory, CustomPPOTrainer.get_rewards", "llamafactory", "ask_llamafactory.py", {},
        (SMORM,),
    ),
)  # fmt: skip


def make_conversations(pairs: Path) -> list[dict[str, str]]:
    """Prompts and answers: pairs of the generated world, and texts that tokenizers treat apart."""
    conversations = []
    with pairs.open(encoding="utf-8") as lines:
        for line in list(lines)[:PAIRS]:
            pair = json.loads(line)
            conversations += [
                {"prompt": pair["prompt"], "response": pair[side]}
                for side in ("chosen", "rejected")
            ]
    return [*conversations, *SPECIAL_TEXTS]


SPECIAL_TEXTS = (
    {"prompt": "Übersetze: 你好", "response": "Hello — こんにちは, привет 👋🏽"},
    {"prompt": "two\n\nlines", "response": "  spaces before\tand a tab\n- a\n- list"},
    {"prompt": "Code?", "response": "```python\ndef f(x):\n    return x ** 2\n```"},
    {"prompt": "One word.", "response": "Yes"},
)


def expected_scores(model: TinyModel, conversations: Sequence[Any], workplace: Path) -> Floats:
    """What `smorm score` gives each conversation [N], the view's constant in it."""
    rows, scores = workplace / "conversations.jsonl", workplace / "scores.jsonl"
    rows.write_text("".join(f"{json.dumps(each)}\n" for each in conversations), "utf-8")
    run_smorm("score", model.folder, "--input", rows, "--output", scores, "--view", VIEW)
    with scores.open(encoding="utf-8") as lines:
        return np.array([json.loads(line)["view"] for line in lines])


def ask(
    client: Client, environment: Environment, target: str, url: str, model: TinyModel,
    conversations: Sequence[Any], expected: Floats, workplace: Path,
) -> Row:  # fmt: skip
    """Run a client's driver against a target, and compare."""
    job = {
        "url": url, "export": str(model.export), "conversations": list(conversations),
        **client.options,
    }  # fmt: skip
    answer, problem = run_driver(
        environment, client.driver, job, workplace, needs_smorm=client.needs_smorm
    )
    if answer is None:
        count = len(conversations)
        return Row(
            client.name, target, model.architecture, Outcome.REFUSED, 0, count, problem=problem
        )
    # Only our own server adds the constant, which an export's head cannot hold.
    constant = 0.0 if target == SMORM else model.constant
    return compare(
        client.name, target, model.architecture, answer["scores"], answer["errors"],
        expected - constant,
    )  # fmt: skip


def run_driver(
    environment: Environment | None, driver: str, job: Mapping[str, Any], workplace: Path, *,
    needs_smorm: bool = False,
) -> tuple[dict[str, Any] | None, str]:  # fmt: skip
    """A driver's answer, or None and why there is none. Without an environment it runs in ours;
    `needs_smorm`: it imports code of ours."""
    asked, answered = workplace / "job.json", workplace / "answer.json"
    answered.unlink(missing_ok=True)
    asked.write_text(json.dumps(job), "utf-8")
    # A client's packages are those of its environment alone.
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if needs_smorm:
        variables["PYTHONPATH"] = str(SOURCE)
    python = sys.executable if environment is None else str(environment.python)
    done = subprocess.run(
        [python, str(DRIVERS / driver), str(asked), str(answered)], stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False, env=variables, timeout=DRIVER_SECONDS,
    )  # fmt: skip
    if answered.is_file():
        return json.loads(answered.read_text("utf-8")), ""
    last = (done.stdout.strip().splitlines() or ["it wrote nothing"])[-1]
    return None, f"its driver ended with {done.returncode}: {last}"


def clients_of(target: str, names: Sequence[str]) -> Iterator[Client]:
    """The clients that can ask a target, of the environments that are named."""
    for client in CLIENTS:
        if target in client.targets and client.environment in names:
            yield client
