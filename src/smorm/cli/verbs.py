"""The verbs of the command line: a short file for one or two, each loaded when it is called."""

import logging
import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from smorm.terminal import Handler, echo
from smorm.version import __version__

VERBS = {
    "demo": "See what resists reward hacking: train and compare on a small generated world.",
    "check": "Look for faults in data before training on it.",
    "train": "Train a reward model from a YAML config.",
    "score": "Score every line of a file.",
    "join": "Join the shards of a scored file.",
    "pick": "Pick the best answers of a scored file, or pairs of them.",
    "eval": "Measure models on benchmarks, pairs or ratings.",
    "view": "Fit a view on held-out data: weights, calibration, pessimism.",
    "export": "Write a plain model folder that other programs load.",
    "merge": "Average the weights of models trained from one start.",
    "parity": "Compare a model's scores with an export's or a server's.",
    "diagnose": "Measure the method's theory on a trained model, and what to do about it.",
    "stress": "Optimise against rewards (best-of-n, RL), measure by a gold reward.",
    "relabel": "Swap the labels of pairs where a gold reward disagrees.",
    "lab": "Compare methods on a generated world with known truth.",
    "serve": "Serve rewards over HTTP, for reinforcement learning and for people.",
    "report": "Make one HTML page of result files.",
    "card": "Write a Hugging Face model card of a model and its results.",
}
_VERBOSE_LIBRARIES = (
    "httpx", "httpx2", "datasets", "transformers", "filelock", "matplotlib", "fontTools"
)  # fmt: skip


class _Verbs(TyperGroup):
    """Knows the verbs' names and imports only the one that is called, so that help is fast."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            return None
        if ctx.resilient_parsing or cmd_name not in sys.argv[1:]:
            # The list of verbs needs their names and summaries only.
            return TyperCommand(cmd_name, short_help=VERBS[cmd_name], help=VERBS[cmd_name])
        app = typer.Typer(**_PLAIN)
        module = import_module(f"smorm.cli.{cmd_name}_command")
        app.command(cmd_name, help=module.run.__doc__)(module.run)
        return typer.main.get_command(app)


_PLAIN: dict[str, Any] = {"add_completion": False, "rich_markup_mode": None}
app = typer.Typer(cls=_Verbs, no_args_is_help=True, pretty_exceptions_enable=False, **_PLAIN)


def _version(requested: bool) -> None:
    if requested:
        echo(f"smorm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version."
    ),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Warnings and results only."),
) -> None:
    """Train, check, attack and serve reward models that resist reward hacking."""
    logging.basicConfig(
        level=logging.WARNING if quiet else logging.INFO, format="%(message)s", handlers=[Handler()]
    )
    # The hub logs each of its retries; their outcome is one error of ours.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    for library in _VERBOSE_LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING)
