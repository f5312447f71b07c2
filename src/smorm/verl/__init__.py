"""Rewards of a running `smorm serve` in verl (0.9):

    reward.custom_reward_function.path=pkg://smorm.verl
    reward.custom_reward_function.name=compute_score
    +reward.custom_reward_function.reward_kwargs.url=http://127.0.0.1:8000

verl calls `compute_score` once for each rollout, many at a time; calls that come together are one
request. Of its reward managers `naive`, `dapo` and `rate_limited` hand on neither the prompt nor
the rollout's messages, only the dataset's `extra_info` (verl's older trainer, `use_v1=False`, adds
the prompt as `raw_prompt`): name the manager of `smorm.verl.manager`, which adds it, or hold the
prompt in `extra_info`. Imports neither torch nor verl."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from smorm.client import AsyncRewardClient, Score
from smorm.client.session import encoded
from smorm.client.sharing import SharedRequests
from smorm.client.transport import read_token
from smorm.client.wires import chat
from smorm.data.items import conversations_of
from smorm.errors import ConfigError, DataError

URL, TOKEN_FILE = "SMORM_REWARD_URL", "SMORM_REWARD_TOKEN_FILE"
RAW_PROMPT = "raw_prompt"
"""Key of `extra_info` where verl, or the manager of `smorm.verl.manager`, puts the prompt."""
_SINGLE_TURN = 2  # verl counts the prompt and the answer

# One client for each loop and address: connections and waiting calls belong to a loop.
_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, SharedRequests]]
_shared = WeakKeyDictionary()


async def compute_score(
    data_source: Any,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    url: str | None = None,
    view: str | None = None,
    model: str | None = None,
    token_file: str | None = None,
    prompt_key: str = "prompt",
    flat_turns: bool = False,
    truncation: Any = "refuse",
    timeout: float = 300.0,
    tries: int = 10,
    reward_router_address: Any = None,
    reward_model_tokenizer: Any = None,
) -> dict[str, float]:
    """The reward of one rollout, as verl's `compute_score`: `{"score": the view's value}`, and
    beside it every row as `smorm/NAME` (what `algorithm.gdpo_reward_keys` can name).

    `data_source` and `ground_truth` are verl's, and not used, nor are the last two, which it gives
    where it runs a reward model of its own. The others after `extra_info` are
    `reward.custom_reward_function.reward_kwargs`.

    Args:
        solution_str: the decoded answer, as verl's managers give it (without special tokens).
        extra_info: holds the prompt, as messages or text, under `raw_prompt`, else `prompt_key`.
        url: of the server; by default the environment's SMORM_REWARD_URL.
        view: by default the server's own.
        model: a served name, where the server has several.
        token_file: a file with the bearer token; by default the environment's
            SMORM_REWARD_TOKEN_FILE, if it is set.
        flat_turns: whether to score rollouts of several turns (tools), whose turns verl joins to
            one text. They are refused by default: that is no conversation of the reward model.
        truncation: `refuse` a conversation over the limit, or `left_prompt`.
        timeout: seconds for one request, with all tries.
        tries: how often it is sent at most.

    Raises ConfigError without an address, DataError without a prompt, RewardServerError where there
    is no finite score: a rollout never gets a reward that was made up."""
    address = url or os.environ.get(URL)
    if not address:
        raise ConfigError(f"no reward server: give reward_kwargs.url, or set {URL}")
    info = extra_info or {}
    prompt = _prompt_of(info, prompt_key)
    turns = info.get("num_turns")
    if turns is not None and int(turns) > _SINGLE_TURN and not flat_turns:
        raise DataError(
            f"a rollout of {int(turns)} turns, which verl joins to one text: set "
            "reward_kwargs.flat_turns=true to score that text as one answer"
        )
    (conversation,) = conversations_of({"prompt": prompt, "response": solution_str})
    # Alone: in a request with others, one text that is not valid Unicode would fail them all.
    encoded(chat(conversation))
    secret = token_file or os.environ.get(TOKEN_FILE)
    requests = _requests_of(address, secret, view, model, truncation, timeout, tries)
    return _as_rewards(await requests.score(conversation))


def _as_rewards(score: Score) -> dict[str, float]:
    # The same keys for every rollout of a model: verl makes columns of them.
    rewards = {"score": score.value}
    if score.preference is not None:
        rewards["smorm/preference"] = score.preference
    for name, value in score.attributes.items():
        rewards[f"smorm/{name}"] = value
    return rewards


def _prompt_of(extra_info: Mapping[str, Any], prompt_key: str) -> Any:
    for key in (RAW_PROMPT, prompt_key):
        prompt = extra_info.get(key)
        if prompt is None:
            continue
        if isinstance(prompt, str):
            return prompt
        # Lists come as arrays, too, and Parquet fills messages with keys that are null.
        return [
            {name: value for name, value in dict(turn).items() if value is not None}
            for turn in prompt
        ]
    raise DataError(
        f"extra_info holds no prompt, under {RAW_PROMPT} or {prompt_key} (it has "
        f"{', '.join(map(str, extra_info)) or 'nothing'}): name the reward manager of "
        "smorm.verl.manager, or put the prompt into the data set's extra_info (docs/clients.md)"
    )


def _requests_of(
    url: str, token_file: str | None, view: str | None, *options: Any
) -> SharedRequests:
    loop = asyncio.get_running_loop()
    shared = _shared.setdefault(loop, {})
    key = (url, token_file, view, *options)
    if key not in shared:
        model, truncation, timeout, tries = options
        token = None if token_file is None else read_token(Path(token_file), "token_file")
        client = AsyncRewardClient(
            url,
            "smorm",
            token,
            timeout,
            model=model,
            views=() if view is None else (view,),
            truncation=truncation,
            tries=tries,
        )

        async def score_all(conversations: Any) -> Any:
            return await client.details(conversations, errors="return")

        shared[key] = SharedRequests(score_all)
    return shared[key]
