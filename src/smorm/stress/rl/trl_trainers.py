"""GRPO and RLOO through TRL's trainers, rewarded by our callable and traced by a callback."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from smorm.client.wires import chat
from smorm.errors import ConfigError
from smorm.files import scratch_folder
from smorm.model.border import quiet
from smorm.stress.config import RLSection
from smorm.stress.rl.actor import Actor, TokenisedPrompt
from smorm.stress.rl.reward_signal import RewardSignal


def train_with_trl(
    actor: Actor,
    signal: RewardSignal,
    prompts: Sequence[TokenisedPrompt],
    seed: int,
    after: Callable[[int], None],
) -> None:
    """All steps of GRPO or RLOO; `after` is called with the number of each when it is done.
    ConfigError where TRL is not installed, or refuses the settings or the devices."""
    try:
        import trl
    except ImportError as error:
        raise ConfigError(
            f"rl.algorithm: {actor.rl.algorithm} runs on TRL: pip install 'smorm[rl]', or take ppo"
        ) from error
    from datasets import Dataset
    from transformers import PrinterCallback

    name = actor.rl.algorithm.upper()
    rows = []
    for index, prompt in enumerate(prompts):
        rows.append({"prompt": chat(prompt.prompt), "prompt_index": index})
    # TRL wants a folder, and saves nothing in it; its seeding of torch ends with the fork.
    with (
        scratch_folder("smorm-trl") as folder,
        torch.random.fork_rng(devices=actor.devices),
        quiet(),
    ):
        arguments = trl_arguments(actor.rl, str(folder), seed, actor.start.device.type == "cpu")
        if signal.constraint is not None and actor.rl.algorithm == "grpo":
            # Divided by the group's standard deviation, the multiplier would cancel but for its
            # sign, and nothing would hold the proxy.
            arguments["scale_rewards"] = "none"
        try:
            trainer = getattr(trl, f"{name}Trainer")(
                actor.model,
                reward_funcs=_reward(actor, signal, prompts),
                args=getattr(trl, f"{name}Config")(**arguments),
                train_dataset=Dataset.from_list(rows),
                processing_class=actor.tokenizer,
                callbacks=[_callback(actor.rl, after)],
            )
        except ValueError as error:
            raise ConfigError(f"TRL's {name}Trainer refuses: {error}") from error
        # It prints a dictionary at the end, in the middle of our own lines.
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def trl_arguments(section: RLSection, folder: str, seed: int, on_cpu: bool) -> dict[str, Any]:
    """Our settings in TRL's words; what is not here is TRL's default. TRL counts gradient steps, we
    count samplings: one of ours is `updates_per_step` of its."""
    # The largest divisor of a gradient step that fits a batch: TRL accumulates whole ones only.
    micro = min(section.gradient_step, section.batch)
    while section.gradient_step % micro:
        micro -= 1
    return {
        "output_dir": folder, "seed": seed,
        "max_steps": section.steps * updates_per_step(section),
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": section.gradient_step // micro,
        "steps_per_generation": section.answers // micro,
        "num_generations": section.answers_per_prompt,
        "num_iterations": section.all_passes,
        "learning_rate": section.learning_rate, "lr_scheduler_type": "constant",
        "max_grad_norm": section.max_grad_norm, "weight_decay": 0.0,
        "beta": section.kl_coefficient, "epsilon": section.clip,
        "temperature": section.temperature, "max_completion_length": section.max_new_tokens,
        "disable_dropout": True, "gradient_checkpointing": False,
        "bf16": not on_cpu, "use_cpu": on_cpu,
        "logging_strategy": "no", "save_strategy": "no", "report_to": [], "disable_tqdm": True,
    }  # fmt: skip


def updates_per_step(section: RLSection) -> int:
    """Gradient steps of one sampling."""
    return section.answers // section.gradient_step * section.all_passes


def _reward(
    actor: Actor, signal: RewardSignal, prompts: Sequence[TokenisedPrompt]
) -> Callable[..., list[float | None]]:
    """Our rewards in the shape that TRL calls; None is an answer without one."""

    def reward(
        completion_ids: Sequence[Any], prompt_index: Sequence[int], **_: Any
    ) -> list[float | None]:
        # From the ids, not from TRL's text: the same decoding as in evaluation.
        texts = list(map(actor.text_of, completion_ids))
        normalised = signal(list(map(prompts.__getitem__, prompt_index)), texts)
        rewards: list[float | None] = (normalised * signal.multiplier).tolist()
        for index in np.flatnonzero(np.isnan(normalised)):
            rewards[index] = None  # TRL's word for an answer that has no reward
        return rewards

    reward.__name__ = "proxy"
    return reward


def _callback(section: RLSection, after: Callable[[int], None]) -> Any:
    from transformers import TrainerCallback

    updates = updates_per_step(section)

    class AfterSteps(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % updates == 0:
                after(state.global_step // updates)

    return AfterSteps()
