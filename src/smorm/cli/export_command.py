"""`smorm export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    model: Annotated[str, typer.Argument(help="Model folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder.")],
    view: Annotated[
        str | None, typer.Option(help="F, L, M or a JSON file: folded into one row.")
    ] = None,
    all_rows: Annotated[
        bool, typer.Option("--all-rows", help="Keep every row (adapters are merged).")
    ] = False,
) -> None:
    """Write a plain model folder that other programs load.

    With --view, an ordinary one-label ...ForSequenceClassification for TRL, verl, OpenRLHF, vLLM,
    SGLang or RewardBench. The folder is loaded again by plain transformers and must give the same
    scores.
    """
    from smorm.cli.options import view_of
    from smorm.errors import ConfigError
    from smorm.model.export import export_all_rows, export_view
    from smorm.scoring.reward_model import RewardModel

    if (view is None) == (not all_rows):
        raise ConfigError("export: give either --view or --all-rows")
    if output.exists():
        raise ConfigError(f"--output {output}: exists already; name a new folder")
    loaded = RewardModel.load(model)
    parts = (output, loaded.network, loaded.tokenizer, loaded.card)
    chosen = None if all_rows else loaded.view(view_of(view))
    done = export_all_rows(*parts) if chosen is None else export_view(*parts, chosen)
    typer.echo(
        f"{done.folder}: plain transformers gives the same scores "
        f"(largest difference {done.difference:.1e}, where scores spread by {done.spread:.2f})"
    )
    if not done.same_tokens:
        typer.echo(
            "warning: AutoTokenizer makes other tokens of this folder's text than the model was "
            "trained on (it prefers a class of its own for this model type): give other programs "
            "token ids, or load the tokenizer with PreTrainedTokenizerFast.",
            err=True,
        )
    if done.offset:
        typer.echo(
            f"The view's constant {done.offset:+.6g} is not in the folder's one row (its head has "
            "no bias; it cancels in every comparison). smorm adds it; other programs do not."
        )
