"""TRL's `GRPOTrainer` for three steps, with two rewards: `smorm.trl.reward_function` of a running
server, and the exported folder, which TRL loads itself. Unlike the other drivers it makes its own
conversations: the answer has them too, under `conversations`, and scores of both rewards, under
`scores` and `export_scores`.

    PYTHON engines/drivers/ask_trl.py JOB.json ANSWER.json

The job is `{"url", "view", "export", "policy", "prompts"}`."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from smorm.trl import reward_function

STEPS = 3


class Recording(GRPOTrainer):
    """GRPO that keeps what it rewarded, and how."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conversations: list[dict[str, str]] = []
        self.rewards: list[list[float]] = []

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Any:
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        for prompt, completion in zip(prompts, completions, strict=True):
            texts = {"prompt": prompt[-1]["content"], "response": completion[-1]["content"]}
            self.conversations.append(texts)
        self.rewards += rewards.tolist()
        return rewards


def train(job: dict[str, Any], folder: str) -> dict[str, Any]:
    prompts = [[{"role": "user", "content": prompt}] for prompt in job["prompts"]]
    settings = GRPOConfig(
        folder, per_device_train_batch_size=8, num_generations=4, max_completion_length=16,
        max_steps=STEPS, logging_steps=1, report_to=[], use_cpu=True, bf16=False,
        learning_rate=1e-4, save_strategy="no", disable_tqdm=True, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = Recording(
        job["policy"],
        reward_funcs=[reward_function(job["url"], job["view"]), job["export"]],
        args=settings,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
    )
    trainer.train()
    if trainer.state.global_step != STEPS:
        raise RuntimeError(f"{trainer.state.global_step} steps instead of {STEPS}")
    served, exported = map(list, zip(*trainer.rewards, strict=True))
    return {
        "conversations": trainer.conversations, "scores": served, "export_scores": exported,
    }  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="smorm-engines-grpo-") as scratch:
        answer = train(json.loads(Path(sys.argv[1]).read_text("utf-8")), scratch)
    Path(sys.argv[2]).write_text(json.dumps(answer), "utf-8")
