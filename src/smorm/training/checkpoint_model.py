"""A run's checkpoint as a model folder, so that whatever takes a model takes any step of a run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from smorm import files
from smorm.config import Config, load_config
from smorm.errors import CheckpointError, ConfigError
from smorm.model.card import CARD, ModelCard, read_card
from smorm.model.network import RewardNetwork
from smorm.model.run_folder import CHECKPOINTS, checkpoint_of, steps_of
from smorm.model.store import save_model
from smorm.printing import get_logger
from smorm.text.tokenizers import load_tokenizer
from smorm.training.folder import BEGINNING, stored_tensors
from smorm.training.optim import named_trainable
from smorm.training.setup import build_network, prepare

log = get_logger(__name__)


def model_at(run: Path, step: int) -> Path:
    """The model folder of a checkpoint, `RUN/models/step-N`, written when it is first asked for.
    `run` may be the run's `model` folder too. ConfigError where there is no such checkpoint."""
    if run.name == "model" and not (run / CHECKPOINTS).is_dir():
        run = run.parent
    checkpoint = checkpoint_of(run / CHECKPOINTS, step)
    if not files.is_sealed(checkpoint):
        raise ConfigError(f"--step {step}: {_which_steps(run)}")
    try:
        return _model_of(run, checkpoint, step)
    except (CheckpointError, OSError, SafetensorError) as error:
        # A training that goes on removes its older checkpoints.
        if files.is_sealed(checkpoint):
            raise
        problem = f"--step {step}: was removed while it was read; {_which_steps(run)}"
        raise ConfigError(problem) from error


def _model_of(run: Path, checkpoint: Path, step: int) -> Path:
    files.verify_folder(checkpoint)
    target = run / "models" / checkpoint.name
    source = files.sha256(checkpoint / files.MANIFEST)
    # Of an earlier run in the same folder it would be another model.
    if (target / CARD).is_file() and read_card(target).hashes.get("checkpoint") == source:
        return target
    config = load_config(run / "config.yaml")
    # Whoever measures a checkpoint need not have the device that it was trained on.
    training = config.training.model_copy(update={"device": "cpu"})
    config = config.model_copy(update={"training": training})
    network, tokenizer, card = _beginning(run, config)
    _load_weights(checkpoint, network)
    network.head.finalize()
    hashes = {**card.hashes, "checkpoint": source}
    save_model(target, network, tokenizer, replace(card, hashes=hashes))
    log.info("step %d of %s: %s", step, run, target)
    return target


def _which_steps(run: Path) -> str:
    steps = steps_of(run)
    if not steps:
        return f"{run} is not a run's folder with checkpoints"
    return f"{run} has no checkpoint of it; there are {', '.join(map(str, steps))}"


def _beginning(run: Path, config: Config) -> tuple[RewardNetwork, Any, ModelCard]:
    folder = run / BEGINNING
    if not folder.is_dir():  # a run of an older version: from its data
        prepared = prepare(config)
        return prepared.network, prepared.tokenizer, prepared.card
    tokenizer, card = load_tokenizer(str(folder)), read_card(folder)
    return build_network(config, tokenizer, len(card.attributes)), tokenizer, card


def _load_weights(checkpoint: Path, network: RewardNetwork) -> None:
    weights = stored_tensors(checkpoint, "weights")
    # What a method trains beside the network (a noise, for example) is no part of the model.
    for name, parameter in named_trainable(network, {}).items():
        if weights.shapes.get(name) != tuple(parameter.shape):
            raise CheckpointError(f"{checkpoint}: holds other parameters than its run: {name}")
        parameter.data.copy_(weights.read(name))
