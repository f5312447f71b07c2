"""Rewards from a running server: ours, vLLM or SGLang.

    from smorm.client import RewardClient
    with RewardClient("http://127.0.0.1:8000", views=["M"]) as client:
        rewards = client.score([{"prompt": "What is 2 + 2?", "response": "4"}])

`AsyncRewardClient` is the same to be awaited. A failure is an error that quotes the server, never a
number: a reward of 0 or None in its place trains a policy on noise. Neither torch nor transformers
is imported: of other packages it needs httpx2, numpy, orjson, safetensors and tenacity.

transport.py   requests, retries, deadlines     wires.py     what each kind of server is sent
session.py     from rows to scores, once        sharing.py   single calls as few requests"""

from smorm.client.clients import AsyncRewardClient, RewardClient
from smorm.client.results import Comparison, ItemError, Score, Verdict
from smorm.client.transport import RewardServerError

__all__ = [
    "AsyncRewardClient",
    "Comparison",
    "ItemError",
    "RewardClient",
    "RewardServerError",
    "Score",
    "Verdict",
]
