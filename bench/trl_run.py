"""TRL's `RewardTrainer` as its users run it, suspended after every optimizer step.

Its own `train()` with its own data loader, collator, autocast, clipping, optimizer and logging;
a step's time runs from one suspension to the next, so it includes loading and collating a batch.
Three settings:

- `default`: what `RewardConfig()` gives on a machine without a GPU once `use_cpu=True` is set
  (without it the configuration is refused): bf16 autocast and gradient checkpointing.
- `tuned`: bf16 autocast, no checkpointing.
- `fp32`: no autocast, no checkpointing: the reference of the losses.

Common to all: the learning rate and a constant schedule as in smorm's run, `logging_steps=1` (to
read every loss), and the batches in the order in which they are given (`sequential`), because both
runs must take the same ones."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from bench.smorm_run import LEARNING_RATE, MAX_TOKENS, Batch, Step
from bench.texts import preference_row
from bench.thread_coroutine import ThreadCoroutine
from bench.training_data import TrainingSet
from smorm.arrays import Tokens
from smorm.data.records import Preference
from smorm.model.border import quiet
from smorm.model.network import RewardNetwork
from smorm.training.setup import Prepared

Setting = Literal["default", "tuned", "fp32"]
SETTINGS: dict[Setting, dict[str, Any]] = {
    "default": {},
    "tuned": {"gradient_checkpointing": False},
    "fp32": {"gradient_checkpointing": False, "bf16": False},
}


@dataclass(slots=True)
class Observed:
    """What hooks and callbacks record of a run.

    Attributes:
        losses: one a step.
        positions: of every step's batch, padding included.
        dtype: of the first layer's query projection: the precision that is really used.
        forwards: forward passes of the first layer in all steps (two a step when recomputed).
        gradients: of the first step after clipping, by name, where they were requested."""

    losses: list[float] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    dtype: str = ""
    forwards: int = 0
    gradients: dict[str, torch.Tensor] | None = None


def classifier(network: RewardNetwork, rows: int = 1) -> Any:
    """transformers' own sequence classifier with the first `rows` of the head, same weights."""
    from transformers import AutoModelForSequenceClassification

    config = type(network.backbone.config).from_dict(network.backbone.config.to_dict())
    config.num_labels = rows
    config.pad_token_id = network.pad_id
    # transformers' default; the copied config names smorm's forest attention
    config._attn_implementation = "sdpa"
    model = AutoModelForSequenceClassification.from_config(
        config, dtype=torch.float32, trust_remote_code=False
    )
    model.base_model.load_state_dict(network.backbone.state_dict())
    model.score.weight.data.copy_(network.head.weight.data[:rows])
    return model


class TrlRun:
    """A `RewardTrainer` on `records` in their order, `batch_size` a step in `accumulation` passes.

    Use it in a `with` statement: the trainer's thread ends with it."""

    def __init__(
        self,
        setting: Setting,
        model: Any,
        tokenizer: Any,
        records: Sequence[Preference],
        batch_size: int,
        folder: Path,
        *,
        record_gradients: bool = False,
        accumulation: int = 1,
    ) -> None:
        self.observed = Observed(gradients={} if record_gradients else None)
        self.trainer = make_trainer(
            setting, model, tokenizer, records, batch_size, folder, accumulation=accumulation
        )
        # Hooks do not change what is computed, and a wrapped model would.
        model.base_model.layers[0].self_attn.q_proj.register_forward_hook(self._record_forward)
        model.register_forward_pre_hook(self._record_positions, with_kwargs=True)
        self._coroutine = ThreadCoroutine(self._train)
        # up to `on_train_begin`: the trainer's set-up is not part of the first step
        self._coroutine.resume()

    def _record_forward(self, module: Any, inputs: Any, output: torch.Tensor) -> None:
        self.observed.dtype = str(output.dtype).removeprefix("torch.")
        self.observed.forwards += 1

    def _record_positions(self, module: Any, inputs: Any, options: dict[str, Any]) -> None:
        # With accumulation a step has several passes: the first one after a loss begins a step.
        if len(self.observed.positions) == len(self.observed.losses):
            self.observed.positions.append(0)
        self.observed.positions[-1] += int(options["input_ids"].numel())

    def _train(self, coroutine: ThreadCoroutine) -> None:
        self.trainer.add_callback(_suspending_callback(coroutine, self.observed))
        self.trainer.train()

    def step(self) -> Step:
        """The next optimizer step.

        Raises:
            RuntimeError: the trainer has no more batches."""
        before = len(self.observed.losses)
        self._coroutine.resume()
        if len(self.observed.losses) != before + 1:
            raise RuntimeError("the trainer came to its end: it was given too few batches")
        return Step(self.observed.losses[-1], self.observed.positions[-1])

    @property
    def gradients(self) -> dict[str, torch.Tensor]:
        """The first step's, after clipping; empty where they were not requested."""
        return self.observed.gradients or {}

    def token_ids(self, row: int) -> tuple[Tokens, Tokens]:
        """What TRL's tokenisation made of the record in this row."""
        example = self.trainer.train_dataset[row]
        chosen, rejected = example["chosen_ids"], example["rejected_ids"]
        return np.asarray(chosen, np.int32), np.asarray(rejected, np.int32)

    def close(self) -> None:
        """End the trainer's thread."""
        self._coroutine.close()

    def __enter__(self) -> TrlRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start_trl(
    setting: Setting,
    prepared: Prepared,
    data: TrainingSet,
    batches: Sequence[Batch],
    folder: Path,
    *,
    record_gradients: bool = False,
    accumulation: int = 1,
) -> TrlRun:
    """TRL from `prepared`'s weights, on the same batches.

    Raises:
        RuntimeError: TRL's token ids and smorm's differ."""
    # One batch more than is taken: at its end the trainer would leave the last step's time open.
    indices = np.concatenate([pairs for pairs, _ in [*batches, batches[-1]]]).tolist()
    records = [data.record(prepared, index) for index in indices]
    # TRL changes the tokenizer that it is given
    tokenizer = copy.deepcopy(prepared.tokenizer)
    run = TrlRun(
        setting, classifier(prepared.network), tokenizer, records, len(batches[0][0]), folder,
        record_gradients=record_gradients, accumulation=accumulation
    )  # fmt: skip
    # Equal losses could hide a different truncation or a second BOS; equal ids cannot.
    for row, index in enumerate(indices):
        pair = prepared.train.pairs[index]
        if not all(map(np.array_equal, run.token_ids(row), (pair.chosen, pair.rejected))):
            run.close()
            raise RuntimeError(f"pair {index}: TRL and smorm made different token ids of it")
    return run


def make_trainer(
    setting: Setting,
    model: Any,
    tokenizer: Any,
    records: Sequence[Preference],
    batch_size: int,
    folder: Path,
    *,
    accumulation: int = 1,
) -> Any:
    """The trainer, silent, on records in their order.

    Raises:
        RuntimeError: TRL dropped records."""
    import datasets
    from transformers import PrinterCallback
    from trl import RewardTrainer

    datasets.disable_progress_bars()
    with quiet(), warnings.catch_warnings():
        # TRL still sets an option of transformers under its former name
        warnings.filterwarnings("ignore", category=FutureWarning)
        options = reward_config(
            folder / "trl", batch_size // accumulation, accumulation, use_cpu=True,
            max_length=MAX_TOKENS, learning_rate=LEARNING_RATE, **SETTINGS[setting],
        )  # fmt: skip
        dataset = datasets.Dataset.from_list(list(map(preference_row, records)))
        trainer = RewardTrainer(
            model=model, args=options, train_dataset=dataset, processing_class=tokenizer
        )
    trainer.remove_callback(PrinterCallback)
    # It filters what is over `max_length`.
    if len(trainer.train_dataset) != len(records):
        raise RuntimeError("TRL dropped records: the two runs would take different batches")
    return trainer


def reward_config(folder: Path, batch_size: int, accumulation: int, **options: Any) -> Any:
    """TRL's options: nothing that is saved, shown or shuffled; every loss is logged."""
    from trl import RewardConfig

    return RewardConfig(
        output_dir=str(folder),
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **options,
    )


def _suspending_callback(coroutine: ThreadCoroutine, observed: Observed) -> Any:
    """Suspends the trainer before the first step and after every step's log line."""
    from transformers import TrainerCallback

    class Suspend(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            coroutine.suspend()

        def on_pre_optimizer_step(
            self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
        ) -> None:
            # Clipping comes before this call and the update after it.
            if observed.gradients is not None and not observed.gradients:
                for name, parameter in model.named_parameters():
                    observed.gradients[name] = parameter.grad.detach().clone()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            # The last log line, of the whole run, has no `loss`.
            if "loss" in (logs or {}):
                observed.losses.append(float(logs["loss"]))
                coroutine.suspend()

    return Suspend()
