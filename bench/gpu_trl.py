"""TRL's `RewardTrainer` in the GPU benchmark, on pairs that are tokens already."""

from __future__ import annotations

import itertools
import time
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bench.gpu_models import Shape, build, flat, pairs
from bench.gpu_parts import Setting, attempt, rates


def trl_training(setting: Setting, shape: Shape, rate: dict[str, float]) -> dict[str, Any]:
    """Optimizer steps of the trainer at its defaults (bf16, checkpointing) and without
    checkpointing, 8 pairs a device batch and the same pairs in all as ours."""
    return {
        name: attempt(partial(_steps, setting, shape, rate, checkpointed))
        for name, checkpointed in (("defaults", True), ("no checkpointing", False))
    }


def _steps(
    setting: Setting, shape: Shape, rate: dict[str, float], checkpointed: bool
) -> dict[str, Any]:
    import datasets
    from transformers import AutoModelForSequenceClassification, PrinterCallback, TrainerCallback
    from trl import RewardConfig, RewardTrainer

    units = pairs(setting.pairs_a_step, shape.fields["vocab_size"], 2, tiny=setting.tiny)
    steps = setting.repeats + 2
    rows = [{"chosen_ids": u[0].tolist(), "rejected_ids": u[1].tolist()} for u in units] * steps
    config = shape.config()
    config.num_labels = 1
    ours = build(shape, setting.device, torch.float32)
    with setting.device:
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    model.base_model.load_state_dict(ours.backbone.state_dict())
    model.score.weight.data.copy_(ours.head.weight.data)
    del ours
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            setting.synchronize()
            ends.append(time.perf_counter())

    with TemporaryDirectory() as folder:
        options = RewardConfig(
            output_dir=folder,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=max(1, len(units) // 8),
            gradient_checkpointing=checkpointed,
            bf16=True,
            use_cpu=setting.device.type == "cpu",
            max_length=None,
            learning_rate=1e-6,
            lr_scheduler_type="constant",
            train_sampling_strategy="sequential",
            max_steps=steps,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = RewardTrainer(
            model=model,
            args=options,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=_tokenizer(),
            callbacks=[Clock()],
        )
        trainer.remove_callback(PrinterCallback)
        if setting.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(setting.device)
        trainer.train()
    seconds = sorted(b - a for a, b in itertools.pairwise(ends[1:]))
    median = seconds[len(seconds) // 2]
    lengths = [len(sequence) for sequence in flat(units)]
    padded = sum(16 * max(lengths[i : i + 16]) for i in range(0, len(lengths), 16))
    found = rates(median, padded, shape, rate, flops=6)
    found |= {"seconds": median, "low": seconds[0], "high": seconds[-1], "n": len(seconds)}
    found["pairs_per_second"] = len(units) / median
    found["first_loss"] = next(log["loss"] for log in trainer.state.log_history if "loss" in log)
    if setting.device.type == "cuda":
        found["peak_gb"] = torch.cuda.max_memory_allocated(setting.device) / 1e9
    return found


def _tokenizer() -> Any:
    """The trainer asks for one, to pad and to save; nothing is tokenised with it."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    names = {"<pad>": 0, "<s>": 1, "</s>": 2}
    made = Tokenizer(WordLevel(names, unk_token="<pad>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
