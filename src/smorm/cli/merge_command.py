"""`smorm merge`."""

from pathlib import Path

from typer import Argument, Option

from smorm.errors import ConfigError
from smorm.terminal import echo


def run(
    models: list[str] = Argument(help="Model folders, two or more."),
    output: Path = Option(..., "--output", "-o", help="New folder."),
    weight: list[float] | None = Option(
        None, help="A model's part in the average, in the models' order; default: equal."
    ),
) -> None:
    """Average the weights of models trained from one start (WARM).

    The models need the same architecture, tokenizer, rows and scaling; LoRA adapters are merged
    first. The result is an ordinary model folder with the cost of one model, in fp32."""
    from smorm.scoring.merge import merge_models

    if output.exists():
        raise ConfigError(f"--output {output}: exists already; name a new folder")
    merged = merge_models(models, output, weight or None)
    for note in merged.notes:
        echo(note, err=True)
    # Nothing is before the first model, which therefore has no cosine.
    alike = ["", *(f", cosine to those before {cosine:.4f}" for cosine in merged.cosines)]
    for name, share, note in zip(merged.names, merged.shares, alike, strict=True):
        echo(f"{share:.4g} of {name}{note}")
    echo(f"cost: 1 forward pass a response, {merged.parameters:,} parameters")
    echo(f"merged: {output}")
