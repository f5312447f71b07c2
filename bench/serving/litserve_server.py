"""LitServe's batching around transformers' classifier.

    PYTHON -m bench.serving.litserve_server FOLDER PORT

PYTHON is of an environment with `pip install litserve` beside what smorm needs."""

import sys
from pathlib import Path
from typing import Any

import litserve
from fastapi import Request

from bench.serving.classifier import Classifier

BATCH = 16
"""Requests of a batch at most: LitServe counts requests, not tokens."""
BATCH_SECONDS = 0.01
"""How long a batch waits to become full."""


class RewardApi(litserve.LitAPI):
    """`POST /score` takes `{"messages"}`, and gives `{"score"}`."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(**options)
        self.folder = folder

    def setup(self, device: str) -> None:
        self.classifier = Classifier(self.folder)

    # LitServe reads the annotation: of a `Request` it gives the JSON.
    def decode_request(self, request: Request) -> Any:
        body: Any = request
        return body["messages"]

    def predict(self, conversations: list[Any]) -> list[float]:
        return self.classifier.score(conversations)

    def encode_response(self, score: float) -> dict[str, float]:
        return {"score": score}


if __name__ == "__main__":
    api = RewardApi(
        Path(sys.argv[1]), max_batch_size=BATCH, batch_timeout=BATCH_SECONDS, api_path="/score"
    )
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=1, healthcheck_path="/health",
        track_requests=False, timeout=300,
    )  # fmt: skip
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", generate_client_file=False
    )
