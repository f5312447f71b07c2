"""`smorm export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from typer import Argument, Option

from smorm.cli import options
from smorm.cli.options import StepOption, Text, at_step, view_of
from smorm.errors import ConfigError, Interrupted, SmormError
from smorm.terminal import echo

if TYPE_CHECKING:
    from smorm.evaluation.parity.check import Parity

# Tokens of the longest conversations of an export's check; `smorm parity` takes longer ones.
LONGEST = 256
# transformers names the class Gemma3TextForSequenceClassification, of which vLLM knows no decoder.
VLLM_GEMMA3 = """--convert classify --hf-overrides '{"architectures":["Gemma3ForCausalLM"]}'"""


@options.loads_models
def run(
    model: str = Argument(help="Model folder, or a run's folder."),
    output: Path = Option(..., "--output", "-o", help="New folder."),
    view: Text = Option(None, help="F, L, M, JSON or a JSON file: folded into one row."),
    step: StepOption = None,
    all_rows: bool = Option(False, "--all-rows", help="Keep every row (adapters are merged)."),
    loading: options.Loading = options.LOADING,
) -> None:
    """Write a plain model folder that other programs load.

    With --view, an ordinary one-label ...ForSequenceClassification for TRL, verl, OpenRLHF, vLLM,
    SGLang or RewardBench. The folder is loaded again by plain transformers and must give the same
    scores (`smorm parity` shows every path, and compares a running server too)."""
    from smorm.data.census import Census
    from smorm.evaluation.parity.check import against_folder, measure_model
    from smorm.evaluation.parity.conversations import built_in
    from smorm.files import refuse_unwritable_folder
    from smorm.model.export import export_all_rows, export_view
    from smorm.model.run_folder import stored_size
    from smorm.model.views import fold
    from smorm.scoring.reward_model import RewardModel

    if (view is None) == (not all_rows):
        raise ConfigError("export: give either --view or --all-rows")
    if output.exists():
        raise ConfigError(f"--output {output}: exists already; name a new folder")
    start = at_step(model, step)
    refuse_unwritable_folder(output, stored_size(start))
    loaded = RewardModel.load(start, **loading.options)
    chosen = None if all_rows else loaded.view(view_of(view))
    if chosen is not None:
        # A view that does not fold is refused before any work.
        fold(chosen, loaded.network.head.weight, loaded.card.scales)
    census = Census()
    conversations = built_in(loaded.renderer, census, longest=LONGEST)
    # Before the export, which merges adapters in place: the check then covers the merge.
    ours = measure_model(loaded, conversations, census.lines(), quick=True)
    contents = loaded.network, loaded.tokenizer, loaded.card
    if chosen is None:
        exported = export_all_rows(output, *contents)
    else:
        exported = export_view(output, *contents, chosen)
    try:
        parity = against_folder(ours, str(output), chosen, quick=True)
    except KeyboardInterrupt:
        unchecked = f"{output}: whole, but stopped before it was checked: `smorm parity` does it"
        raise Interrupted(unchecked) from None
    _report(parity, output)
    if exported.new_pad is not None:
        echo(
            f"The pad token is now {exported.new_pad}: conversations could end with the one "
            "before, and plain transformers would have scored an earlier token."
        )
    if exported.offset:
        echo(
            f"The view's constant {exported.offset:+.6g} is not in the folder's one row (its head "
            "has no bias; it cancels in every comparison). smorm adds it; other programs do not."
        )


def _report(parity: Parity, folder: Path) -> None:
    if not parity.passed and not parity.only_tokens_differ:
        raise SmormError(
            f"{folder}: plain transformers gives other scores: do not use it. "
            + "; ".join(map(str, parity.failures))
        )
    largest = max(row.difference for row in parity.rows if row.passed)
    echo(
        f"{folder}: plain transformers gives the same scores (largest difference {largest:.1e}, "
        f"standard deviation of the scores {parity.std:.2f})"
    )
    if parity.only_tokens_differ:
        echo(
            "warning: that holds for the model's token ids. Of text other programs make other "
            "tokens than the model was trained on: " + "; ".join(map(str, parity.failures)),
            err=True,
        )
    warn_of_engines(parity.comparison.ours.model.network.backbone.config.model_type)


def warn_of_engines(model_type: str) -> None:
    """What engines do with an export of this architecture that nobody would expect."""
    from smorm.model.export import RANDOM_BIAS_IN_SGLANG

    if model_type in RANDOM_BIAS_IN_SGLANG:
        echo(
            f"warning: SGLang adds a `score.bias` to {model_type} that it draws at random at each "
            "start (sglang#38768): rewards of different starts or replicas have different offsets. "
            "Serve it with smorm or vLLM; `smorm parity MODEL ADDRESS` shows the offset.",
            err=True,
        )
    if model_type == "gemma3_text":
        echo(f"vLLM knows this architecture by another name: vllm serve ... {VLLM_GEMMA3}")
