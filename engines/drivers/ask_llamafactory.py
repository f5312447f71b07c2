"""LLaMA-Factory's PPO with `reward_model_type: api`: its trainer's `get_rewards` decodes the tokens
and asks the server through `get_rewards_from_server`.

The method is called on a stand-in of the trainer, which would need a policy to train: of the
trainer it reads the tokenizer, the address and the kind of reward model alone."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from stand_in import stand_in
from transformers import AutoTokenizer

BATCH = 8


def ask_all(job: dict[str, Any]) -> dict[str, Any]:
    # For models that hear; its wheel is the CUDA build.
    stand_in("torchaudio")
    from llamafactory.train.ppo.trainer import CustomPPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(job["export"], trust_remote_code=False)
    trainer = SimpleNamespace(
        finetuning_args=SimpleNamespace(reward_model_type="api"),
        tokenizer=tokenizer,
        reward_model=f"{job['url']}/v1/score/evaluation",
    )
    queries: list[torch.Tensor] = []
    responses: list[torch.Tensor] = []
    for conversation in job["conversations"]:
        user = {"role": "user", "content": conversation["prompt"]}
        messages = [user, {"role": "assistant", "content": conversation["response"]}]
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        # The policy's prompt is all before the response, as its own template would end it.
        start = whole.rindex(conversation["response"])
        # What a policy generates is tokens of its own: they merge with none of the prompt.
        for part, texts in ((queries, whole[:start]), (responses, whole[start:])):
            part.append(torch.tensor(tokenizer(texts, add_special_tokens=False)["input_ids"]))
    scores: list[float | None] = []
    errors: list[str | None] = []
    for start in range(0, len(queries), BATCH):
        batch = slice(start, start + BATCH)
        count = len(queries[batch])
        try:
            rewards = CustomPPOTrainer.get_rewards(trainer, queries[batch], responses[batch])
        except Exception as error:  # whatever it raises is a row of the table
            scores += [None] * count
            errors += [repr(error)] * count
        else:
            scores += map(float, rewards)
            errors += [None] * count
    return {"scores": scores, "errors": errors}


if __name__ == "__main__":
    answer = ask_all(json.loads(Path(sys.argv[1]).read_text("utf-8")))
    Path(sys.argv[2]).write_text(json.dumps(answer), "utf-8")
