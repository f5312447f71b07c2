"""TRL's side: `RewardTrainer` as its users run it, suspended after every optimizer step.

Its own `train()` with its own data loader, collator, autocast, clipping, optimizer and logging;
a step's time runs from one hand-over to the next, so it holds the loading and collating of a batch
too. Three settings:

- `default`: what `RewardConfig()` gives on a machine without a GPU once `use_cpu=True` is set
  (without it the configuration is refused): bf16 autocast and gradient checkpointing.
- `tuned`: bf16 autocast, no checkpointing.
- `fp32`: no autocast, no checkpointing: the reference of the losses.

Common to all: the learning rate and a constant schedule as on smorm's side, `logging_steps=1` (to
see every loss), and the batches in the order in which they are given (`sequential`), because both
sides must see the same ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from bench.lockstep import Lockstep
from bench.ours import LEARNING_RATE, MAX_TOKENS
from smorm.data.records import Preference
from smorm.model.backbone import quiet
from smorm.model.network import RewardNetwork

Setting = Literal["default", "tuned", "fp32"]
SETTINGS: dict[Setting, dict[str, Any]] = {
    "default": {},
    "tuned": {"gradient_checkpointing": False},
    "fp32": {"gradient_checkpointing": False, "bf16": False},
}


@dataclass(slots=True)
class Watch:
    """What is seen of a run from outside.

    Attributes:
        losses: one a step.
        positions: rows of every step's batch, padding included.
        dtype: what the first layer's query projection gives: the precision that is really used.
        forwards: forward passes of the first layer in all steps (two a step when recomputed).
        gradients: of the first step after clipping, by name, where they were asked for.
    """

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
    config._attn_implementation = "sdpa"  # transformers' default, which smorm's layout replaced
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    model.base_model.load_state_dict(network.backbone.state_dict())
    model.score.weight.data.copy_(network.head.weight.data[:rows])
    return model


class TrlSide:
    """A `RewardTrainer` on `records` in their order, `batch_size` a step in so many `parts`.

    `step()` takes the next optimizer step. Use it in a `with` statement: the trainer's thread ends
    with it.
    """

    def __init__(
        self,
        setting: Setting,
        model: Any,
        tokenizer: Any,
        records: Sequence[Preference],
        batch_size: int,
        folder: Path,
        *,
        keep_gradients: bool = False,
        parts: int = 1,
    ) -> None:
        self.watch = Watch(gradients={} if keep_gradients else None)
        self.trainer = make_trainer(
            setting, model, tokenizer, records, batch_size, folder, parts=parts
        )
        model.base_model.layers[0].self_attn.q_proj.register_forward_hook(self._see)
        model.register_forward_pre_hook(self._count, with_kwargs=True)
        self._lockstep = Lockstep(self._train)
        self._lockstep.advance()

    def _see(self, module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        self.watch.dtype = str(output.dtype).removeprefix("torch.")
        self.watch.forwards += 1

    def _count(self, module: Any, inputs: Any, options: dict[str, Any]) -> None:
        if len(self.watch.positions) == len(self.watch.losses):
            self.watch.positions.append(0)
        self.watch.positions[-1] += int(options["input_ids"].numel())

    def _train(self, lockstep: Lockstep) -> None:
        self.trainer.add_callback(_callback(lockstep, self.watch))
        self.trainer.train()

    def step(self) -> float:
        """The next optimizer step; returns its loss."""
        before = len(self.watch.losses)
        self._lockstep.advance()
        if len(self.watch.losses) != before + 1:
            raise RuntimeError("the trainer came to its end: it was given too few batches")
        return self.watch.losses[-1]

    def token_ids(self, row: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """What TRL's tokenisation made of the record in this row."""
        example = self.trainer.train_dataset[row]
        chosen, rejected = example["chosen_ids"], example["rejected_ids"]
        return np.asarray(chosen, np.int32), np.asarray(rejected, np.int32)

    def close(self) -> None:
        """End the trainer's thread."""
        self._lockstep.close()

    def __enter__(self) -> TrlSide:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def make_trainer(
    setting: Setting,
    model: Any,
    tokenizer: Any,
    records: Sequence[Preference],
    batch_size: int,
    folder: Path,
    *,
    parts: int = 1,
) -> Any:
    """The trainer, silent, on records in their order; `parts` are its accumulation steps."""
    import datasets
    from transformers import PrinterCallback
    from trl import RewardConfig, RewardTrainer

    datasets.disable_progress_bars()
    with quiet(), warnings.catch_warnings():
        # TRL still sets an option of transformers under its former name
        warnings.filterwarnings("ignore", category=FutureWarning)
        options = RewardConfig(
            output_dir=str(folder / "trl"),
            use_cpu=True,
            per_device_train_batch_size=batch_size // parts,
            gradient_accumulation_steps=parts,
            max_length=MAX_TOKENS,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            train_sampling_strategy="sequential",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **SETTINGS[setting],
        )
        dataset = datasets.Dataset.from_list([_row(record) for record in records])
        trainer = RewardTrainer(
            model=model, args=options, train_dataset=dataset, processing_class=tokenizer
        )
    trainer.remove_callback(PrinterCallback)
    if len(trainer.train_dataset) != len(records):
        raise RuntimeError("TRL left records out: the two sides would see different batches")
    return trainer


def _row(record: Preference) -> dict[str, Any]:
    """A conversational preference as TRL documents it: message lists, an explicit prompt."""
    parts = {"prompt": record.prompt, "chosen": record.chosen, "rejected": record.rejected}
    return {name: [asdict(message) for message in part] for name, part in parts.items()}


def _callback(lockstep: Lockstep, watch: Watch) -> Any:
    """Hands the turn back before the first step and after every step's log line."""
    from transformers import TrainerCallback

    class Turns(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            lockstep.pause()

        def on_pre_optimizer_step(
            self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
        ) -> None:
            if watch.gradients is not None and not watch.gradients:
                for name, parameter in model.named_parameters():
                    watch.gradients[name] = parameter.grad.detach().clone()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in (logs or {}):
                watch.losses.append(float(logs["loss"]))
                lockstep.pause()

    return Turns()
