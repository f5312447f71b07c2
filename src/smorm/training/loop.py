"""Training, top to bottom: prepare, step, report, save."""

import math
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import torch

from smorm.config import Config, decisive
from smorm.errors import ConfigError, Interrupted, NonFiniteLossError, OtherRankError
from smorm.locks import only_run
from smorm.model.base_dtype import import_bitsandbytes
from smorm.model.network import RewardNetwork
from smorm.model.run_folder import CHECKPOINTS, how_far, steps_of
from smorm.printing import get_logger
from smorm.stopping import Stop, defer, handled
from smorm.training import folder, numerics, optim
from smorm.training.batches import Batches, prefetched
from smorm.training.best import Best
from smorm.training.distributed.ranks import current, joined, was_restarted, world_size
from smorm.training.head_start import start_rows
from smorm.training.memory import resolve_splitting
from smorm.training.methods import Method, make_method, method_class
from smorm.training.proof import save_proven
from smorm.training.saving import Named, Saver
from smorm.training.setup import Prepared, build_network, prepare
from smorm.training.step import Abandoned, StepResult, diagnose_step, run_step, some_records
from smorm.training.trackers import refuse_missing
from smorm.training.tracking import due, reporting

log = get_logger(__name__)


def train(config: Config, *, resume: bool = False) -> Path:
    """Train as configured; returns the model folder, `<output.folder>/model` (docs/training.md).
    Processes that torchrun started train one model together; the first one writes the folder.

    Raises:
        ConfigError: the folder holds a run and `resume` is False, or another process trains there.
        CheckpointError: all checkpoints are damaged, or of another run.
        NonFiniteLossError: a loss term or its gradient became NaN or infinite.
        UnprovenError: the saved model does not score as the trained one.
        OtherRankError: another process of the same training failed or is gone.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; the checkpoint of the last step was written."""
    run, method = config.output.folder, method_class(config)
    if world_size() > 1 and not method.over_ranks:
        problem = f"objective.kind {config.objective.kind} takes no gradient steps over ranks"
        raise ConfigError(f"{problem}: run it without torchrun")
    if config.training.parallel == "sharded":
        _refuse_sharded(config, method)
    # A process that torchrun starts again goes on from the newest checkpoint.
    resume = resume or was_restarted()
    try:
        with handled(), joined(config) as ranks, only_run(run) if ranks.is_first else nullcontext():
            return method.train(config, resume=resume)
    except KeyboardInterrupt:
        # Before the first step: from there on a stop waits until there is a checkpoint.
        message = f"{run}: stopped before there was a step to save"
        if steps_of(run):
            message = f"{run}: stopped; --resume goes on from {how_far(run)}"
        raise Interrupted(message) from None


def open_run(config: Config, *, resume: bool) -> Prepared:
    """Prepare a run in its folder, which must hold no other unless the run goes on."""
    refuse_missing(config)
    _refuse_unusable(config)
    recorded = None
    if resume:
        recorded = folder.newest_numerics(config.output.folder / CHECKPOINTS)
    elif current().is_first:
        folder.refuse_another_run(config.output.folder)
    numerics.settle_threads(config, recorded)
    return resolve_splitting(prepare(config), resume=resume)


def _refuse_unusable(config: Config) -> None:
    """ConfigError where a key needs a library that is missing, or ranks that hold all weights."""
    lora, keys = config.model.lora, []
    if lora is not None and lora.base != "fp32":
        keys.append(f"model.lora.base: {lora.base}")
        # A language head computes in the type of its own weights.
        if method_class(config).keeps_language_head:
            raise ConfigError(f"{keys[0]}: not with objective.kind {config.objective.kind}")
    if config.training.optimizer == "adamw_8bit":
        keys.append("training.optimizer: adamw_8bit")
    for key in keys:
        if not key.endswith("bf16"):
            import_bitsandbytes(key)
        # The parts of a layer must have one type, and be tensors that have parts.
        if current().sharded:
            raise ConfigError(f"{key}: not with training.parallel sharded: use replicated")


def train_by_steps(config: Config, *, resume: bool) -> Path:
    """The training loop: as `train`, for every method whose training is gradient steps."""
    prepared = open_run(config, resume=resume)
    config, network, training = prepared.config, prepared.network, prepared.config.training
    ranks = prepared.ranks
    head_start = start_rows(prepared, resume=resume)
    # The method comes before a checkpoint is loaded: it may need the outputs of the model that
    # training began with (GRM's reference), and computes the same again when a run goes on.
    method = make_method(prepared)
    named = optim.named_trainable(network, method.parameters)
    rate = method.parameter_learning_rate
    optimizer = optim.make_optimizer(training, network, method.parameters, rate)
    # Weights and moments come from the checkpoint; order, dropout and rate follow from the step.
    checkpoints = config.output.folder / CHECKPOINTS
    done, cost, total = 0, folder.Cost(), prepared.num_steps
    best = Best.of(training, None)
    if resume:
        done, cost, best_before = folder.resume_run(prepared, checkpoints, named, optimizer)
        best = Best.of(training, best_before)
    if ranks.is_first:
        folder.write_beginnings(prepared)

    saver = Saver(checkpoints, named, optimizer, training.keep_checkpoints, ranks)
    # A single process on a CPU trains in the memory that a copy would take.
    behind = ranks.world > 1 or network.device.type != "cpu"

    def save(step: int, *, behind: bool = False) -> None:
        state = {"step": step, "data": prepared.data_hash, "config": decisive(config.as_dict())}
        state |= {"cost": asdict(cost), "numerics": numerics.describe()}
        if training.best is not None:
            state["best"] = best.state
        if ranks.is_first or ranks.sharded:
            saver.save(state, behind=behind)

    # From here on a stop waits for a checkpoint; after the last step the run is finished.
    stop = defer()
    with (
        saver,
        reporting(prepared, done, total) as report,
        prefetched(prepared.batcher, prepared.order, range(done, total)) as batches,
    ):
        for step in range(done, done if best.stops else total):
            saver.check()
            started = time.monotonic()
            try:
                result = _update(prepared, method, step, optimizer, named, batches, stop)
            except Abandoned:
                # Its gradients are partial: the checkpoint is of the step before it.
                save(step)
                ranks.gather()  # nobody ends while the first rank writes
                state = f"stopped after step {step} of {total}"
                raise Interrupted(f"{state}; go on with --resume") from None
            except OtherRankError as error:
                # So torchrun, which starts the ranks again, loses no step.
                if error.lost and not ranks.sharded:
                    save(step)
                raise
            cost.add(result)
            seconds = max(time.monotonic() - started, 1e-9)
            result.values |= {"tokens": result.tokens, "tokens_per_second": result.tokens / seconds}
            report(step + 1, result.values)
            done = step + 1
            better = best.update(done, result.values)
            if better or (due(done, training.save_every) and done < total):
                save(done, behind=behind)
            if best.stops:
                log.info("stopped early: %s was not better in %d measurements after step %d",
                         training.best, best.without, best.step)  # fmt: skip
                break
    # Before the model: a run that is killed here goes on from it, and writes the model again.
    save(done)
    if best.step and (ranks.is_first or ranks.sharded):
        folder.load_best(config, best, done, named, optimizer)
    # Gradients and moments make room for the model that is loaded again.
    optimizer.zero_grad()
    optimizer.state.clear()
    if ranks.sharded:
        network = _gathered(prepared, named)
    if ranks.is_first:
        folder.write_cost(prepared, cost, method.reference_tokens, head_start)
        network.head.finalize()  # ODIN's rows as they were applied: a plain linear head
        save_proven(replace(prepared, network=network))
    ranks.gather()  # a process that ends while others work would be a lost one
    return config.output.folder / "model"


def _refuse_sharded(config: Config, method: type[Method]) -> None:
    # A language head is tied to an embedding that is sharded; a step in two halves has no passes
    # that all ranks compute together.
    if method.keeps_language_head or config.training.diagnose_every:
        key = "objective.kind" if method.keeps_language_head else "training.diagnose_every"
        raise ConfigError(f"{key}: not with training.parallel sharded: use replicated")


def _gathered(prepared: Prepared, named: Named) -> RewardNetwork:
    """The trained network, whole, on the first rank's host: tensor by tensor into one that is built
    there anew, so that no second copy of it is ever in memory. On other ranks it stays as it is."""
    from smorm.training.distributed.tensors import gathered

    network = prepared.network
    if prepared.ranks.is_first:
        training = prepared.config.training.model_copy(update={"device": "cpu"})
        config = prepared.config.model_copy(update={"training": training})
        network = build_network(config, prepared.tokenizer, len(prepared.card.attributes))
    prepared.ranks.gather()
    targets = dict(network.named_parameters())
    for name, parameter in named.items():
        weight = gathered(parameter.detach())
        # What a method trains beside the network is no part of the model.
        if prepared.ranks.is_first and name in targets:
            targets[name].data.copy_(weight)
    return network


def _update(
    prepared: Prepared,
    method: Method,
    step: int,
    optimizer: torch.optim.Optimizer,
    named: Named,
    batches: Batches,
    stop: Stop,
) -> StepResult:
    """One step of the optimizer. Every `diagnose_every` steps it compares two kinds of rows."""
    training = prepared.config.training
    factor = optim.begin_step(optimizer, training, step, prepared.num_steps)
    if due(step, training.diagnose_every) and len(method.trains) > 1:
        result = diagnose_step(prepared, method, step, named, batches=batches, stop=stop)
    else:
        result = run_step(prepared, method, step, batches=batches, stop=stop)
    norm = optim.clip_gradients(named.values(), training.max_grad_norm)
    # Before the update: weights and moments stay as they were in the last checkpoint.
    if not math.isfinite(norm):
        pairs, rated = prepared.order.step(step)
        where = [prepared.train.pairs[index].where for index in pairs]
        where += [prepared.train.rated[index].where for index in rated]
        raise NonFiniteLossError(
            f"step {step + 1}: the gradient of the loss is {norm}. Records of this step: "
            f"{some_records(where)}. Lower training.learning_rate, or look at the records."
        )
    optimizer.step()
    result.values |= method.state_metrics()
    result.values |= {"gradient_norm": norm, "learning_rate_factor": factor}
    return result
