"""What people write first: FastAPI around transformers' classifier, one request at a time.

python -m bench.serving.plain_server FOLDER PORT"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from bench.serving.classifier import Classifier


def make_app(folder: Path) -> FastAPI:
    """`POST /score` takes `{"messages"}`, and gives `{"score"}`."""
    app, classifier, turn = FastAPI(), Classifier(folder), threading.Lock()

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {}

    @app.post("/score")
    def score(body: dict[str, Any]) -> dict[str, float]:
        # FastAPI calls this in a thread; threads of one model would only take its core in turns.
        with turn:
            return {"score": classifier.score([body["messages"]])[0]}

    return app


if __name__ == "__main__":
    uvicorn.run(
        make_app(Path(sys.argv[1])), host="127.0.0.1", port=int(sys.argv[2]),
        log_level="warning", access_log=False, backlog=2048,
    )  # fmt: skip
