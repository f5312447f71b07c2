"""OpenRLHF's rollout: `SingleTurnAgentExecutor.execute` fetches the reward of what was generated.

The policy's engine is replaced by one that gives the response of the job; the prompt's tokens, the
text that is sent, the request and the reading of the answer are OpenRLHF's."""

import asyncio
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from openrlhf.utils.agent import SingleTurnAgentExecutor
from transformers import AutoTokenizer

LONGEST = 4096  # tokens, more than any conversation has


class Replay:
    """A policy engine that has already generated."""

    def __init__(self, token_ids: list[int]) -> None:
        self.token_ids = token_ids

    async def generate(self, prompt_token_ids: list[int], *_: Any, **__: Any) -> Any:
        generated = SimpleNamespace(token_ids=self.token_ids, finish_reason="stop", logprobs=None)
        return SimpleNamespace(outputs=[generated])


async def ask(executor: Any, tokenizer: Any, conversation: dict[str, str]) -> float | None:
    user = {"role": "user", "content": conversation["prompt"]}
    messages = [user, {"role": "assistant", "content": conversation["response"]}]
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    # The policy's prompt is all before the response, as its own template would end it.
    start = whole.rindex(conversation["response"])
    # What a policy generates is tokens of its own: they merge with none of the prompt.
    response_ids = tokenizer(whole[start:], add_special_tokens=False)["input_ids"]
    sampling = SimpleNamespace(max_tokens=len(response_ids), logprobs=None)
    output = await executor.execute(
        whole[:start], "", sampling, LONGEST, tokenizer, Replay(response_ids)
    )
    rewards = output["reward"]
    return None if rewards is None else float(rewards[0])


async def ask_all(job: dict[str, Any]) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(job["export"], trust_remote_code=False)
    executor = SingleTurnAgentExecutor(f"{job['url']}/get_reward")
    tasks = [ask(executor, tokenizer, conversation) for conversation in job["conversations"]]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    failed = [isinstance(result, BaseException) for result in results]
    pairs = list(zip(results, failed, strict=True))
    return {
        "scores": [None if bad else result for result, bad in pairs],
        "errors": [repr(result) if bad else None for result, bad in pairs],
    }


if __name__ == "__main__":
    answer = asyncio.run(ask_all(json.loads(Path(sys.argv[1]).read_text("utf-8"))))
    Path(sys.argv[2]).write_text(json.dumps(answer), "utf-8")
