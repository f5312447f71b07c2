"""verl's `RewardLoopWorker.compute_score`, with its own `reward.yaml`.

"route": "classify"    its reward model on vLLM: `POST /classify` of text
"route": "embeddings"  on SGLang: `POST /v1/embeddings` of text
"route": "function"    `reward.custom_reward_function`: the job's "function" (file and name)"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import verl
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl import DataProto
from verl.experimental.reward_loop import RewardLoopWorker

ENGINES = {"classify": "vllm", "embeddings": "sglang"}


def config_of(job: dict[str, Any]) -> Any:
    reward = OmegaConf.load(Path(verl.__file__).parent / "trainer/config/reward/reward.yaml")
    if job["route"] == "function":
        function = {**job["function"], "reward_kwargs": {"url": job["url"]}}
        reward.custom_reward_function = function
        reward.reward_manager = OmegaConf.merge(reward.reward_manager, job["manager"])
    else:
        reward.reward_model.enable = True
        # The name under which the server knows the model; the tokenizer is read from there, too.
        reward.reward_model.model_path = job["export"]
        reward.reward_model.rollout.name = ENGINES[job["route"]]
    model = {"path": job["export"], "tokenizer_path": None}
    return OmegaConf.create({"reward": reward, "actor_rollout_ref": {"model": model}})


def sample(tokenizer: Any, conversation: dict[str, str]) -> DataProto:
    """One rollout as verl's agent loop makes it: the response's tokens, EOS last."""
    user = [{"role": "user", "content": conversation["prompt"]}]
    text = conversation["response"]
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    prompt = tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=True)
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    batch = {
        "prompts": torch.tensor([prompt_ids]),
        "responses": torch.tensor([ids]),
        "attention_mask": torch.ones(1, len(prompt_ids) + len(ids), dtype=torch.long),
    }
    fields: dict[str, list[Any]] = {
        "raw_prompt": [user],
        "data_source": ["engines"],
        "reward_model": [{"ground_truth": ""}],
        "extra_info": [{}],
    }
    columns = {}
    for name, values in fields.items():
        columns[name] = np.empty(1, dtype=object)
        columns[name][0] = values[0]
    return DataProto(batch=TensorDict(batch, batch_size=1), non_tensor_batch=columns)


async def ask_all(job: dict[str, Any]) -> dict[str, Any]:
    worker = RewardLoopWorker(config_of(job), job["url"].removeprefix("http://"))
    samples = [sample(worker.input_tokenizer, each) for each in job["conversations"]]
    tasks = [worker.compute_score(each) for each in samples]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    scores: list[float | None] = []
    errors: list[str | None] = []
    for result in results:
        if isinstance(result, BaseException):
            scores.append(None)
            errors.append(repr(result))
        else:
            scores.append(float(result["reward_score"]))
            errors.append(None)
    return {"scores": scores, "errors": errors}


if __name__ == "__main__":
    answer = asyncio.run(ask_all(json.loads(Path(sys.argv[1]).read_text("utf-8"))))
    Path(sys.argv[2]).write_text(json.dumps(answer), "utf-8")
