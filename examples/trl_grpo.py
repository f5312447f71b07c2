"""TRL (1.16) trains by GRPO against a reward model's folder, or a running `smorm serve MODEL`:

    python examples/trl_grpo.py --policy Qwen/Qwen3-0.6B --prompts prompts.jsonl \\
        --reward http://127.0.0.1:8000 --view M --output grpo"""

import argparse

import torch
from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer

from smorm.trl import reward_function


def main(arguments=None):
    """Train, and return the trainer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", required=True)
    parser.add_argument("--prompts", required=True, help='JSON lines: {"prompt": text or messages}')
    parser.add_argument("--reward", required=True, help="a folder, a hub id or http://...")
    parser.add_argument("--view", help="F, L or M; by default the reward's own")
    parser.add_argument("--output", required=True)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--completion-tokens", type=int, default=256)
    options = parser.parse_args(arguments)
    settings = GRPOConfig(
        options.output,
        max_steps=options.steps,
        num_generations=options.generations,
        per_device_train_batch_size=options.generations,
        max_completion_length=options.completion_tokens,
        logging_steps=1,
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
        bf16=torch.cuda.is_available(),
    )
    trainer = GRPOTrainer(
        options.policy,
        reward_funcs=reward_function(options.reward, options.view),
        args=settings,
        train_dataset=load_dataset("json", data_files=options.prompts, split="train"),
    )
    trainer.train()
    return trainer


if __name__ == "__main__":
    main()
