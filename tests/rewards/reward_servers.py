"""Real reward servers on loopback, in the shapes of vLLM, SGLang and our own, and how they fail.

A server is the standard library's, in a thread. `Engine` is a real model in plain transformers;
`counting` is a model whose score is the length of the text, for tests of the transport alone.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from smorm import RewardModel
from smorm.text.chat import Message, Messages

Rows = list[list[float]]
Scored = tuple[Rows, list[int]]
Twist = Callable[[Rows], Rows]


@dataclass
class Asked:
    """A request: what was asked, and the words before and after it."""

    method: str
    path: str
    body: Any
    headers: dict[str, str]


@dataclass
class Reply:
    """An answer; `content` may be JSON or raw bytes. Status 0: the connection is closed instead."""

    status: int = 200
    content: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class RewardServer:
    """A server whose `reply` gets each request; as a context it runs, and `asked` is its log."""

    def __init__(self, reply: Callable[[Asked], Reply]) -> None:
        self.asked: list[Asked] = []
        self.let_go = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            wbufsize = -1  # one packet an answer: its end would wait for the first one's receipt

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                raw = self.rfile.read(length)
                body = json.loads(raw) if raw else None
                asked = Asked(self.command, self.path, body, dict(self.headers))
                server.asked.append(asked)
                self._send(reply(asked))

            do_GET = do_POST  # noqa: N815

            def _send(self, answer: Reply) -> None:
                content = answer.content
                if answer.status == 0:
                    self.close_connection = True
                    return
                if not isinstance(content, bytes):
                    content = json.dumps(content).encode()
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> RewardServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def posts(self) -> list[Asked]:
        """The requests for scores."""
        return [one for one in self.asked if one.method == "POST"]


def as_is(rows: Rows) -> Rows:
    return rows


@dataclass
class Engine:
    """A folder through plain transformers, one sequence at a time, as an engine without padding.

    It keeps the rows of each sequence: tests ask for the same few again and again.
    """

    folder: Path

    def __post_init__(self) -> None:
        self._rows: dict[tuple[int, ...], list[float]] = {}
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.model = AutoModelForSequenceClassification.from_pretrained(self.folder).eval()
        self.regression = self.model.config.problem_type == "regression"

    def ids_of_messages(self, messages: list[dict[str, str]], begin: bool) -> list[int]:
        text = self.tokenizer.apply_chat_template(messages, tokenize=False)
        return self.ids_of_text(text, begin)

    def ids_of_text(self, text: str, begin: bool) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=begin)["input_ids"])

    def logits(self, sequences: list[list[int]]) -> Scored:
        rows = [list(self._row(tuple(ids))) for ids in sequences]
        return rows, [len(ids) for ids in sequences]

    def _row(self, ids: tuple[int, ...]) -> list[float]:
        if ids not in self._rows:
            with torch.inference_mode():
                self._rows[ids] = self.model(torch.tensor([ids])).logits[0].tolist()
        return self._rows[ids]


MODELS = {"object": "list", "data": [{"id": "rm", "object": "model"}]}
MISSING = Reply(404, {"detail": "Not Found"})


def listed(owner: str) -> Reply:
    return Reply(content={**MODELS, "data": [{**MODELS["data"][0], "owned_by": owner}]})


def vllm(
    engine: Engine, twist: Twist = as_is, *, double_bos: bool = False, longest: int = 1 << 20
) -> Any:
    """`vllm serve FOLDER --runner pooling --max-model-len LONGEST`."""

    def reply(asked: Asked) -> Reply:
        if asked.path == "/v1/models":
            return listed("vllm")
        if asked.path not in ("/classify", "/pooling"):
            return MISSING
        body = asked.body
        if "messages" in body:
            begin = body.get("add_special_tokens", False)
            ids = engine.ids_of_messages(body["messages"], begin)
            sequences = [[ids[0], *ids] if double_bos else ids]
        else:
            begin = body.get("add_special_tokens", True)
            inputs = [body["input"]] if isinstance(body["input"], str) else body["input"]
            sequences = [
                engine.ids_of_text(one, begin) if isinstance(one, str) else one for one in inputs
            ]
        if max(map(len, sequences)) > longest:
            return Reply(400, {"error": {"message": f"maximum context length is {longest} tokens",
                                         "type": "BadRequestError", "code": 400}})  # fmt: skip
        rows, counts = engine.logits(sequences)
        if body.get("use_activation", True) and not engine.regression:
            rows = sigmoid(rows)
        name = "probs" if asked.path == "/classify" else "data"
        kind = {"label": "LABEL_0", "num_classes": len(rows[0])} if name == "probs" else {}
        data = [{"index": at, name: row, **kind} for at, row in enumerate(twist(rows))]
        usage = {"prompt_tokens": sum(counts), "total_tokens": sum(counts), "completion_tokens": 0}
        return Reply(content={"id": "c-1", "object": "list", "model": "rm", "data": data,
                              "usage": usage})  # fmt: skip

    return reply


def sglang(engine: Engine, twist: Twist = as_is) -> Any:
    """`sglang.launch_server --is-embedding`."""

    def reply(asked: Asked) -> Reply:
        if asked.path == "/v1/models":
            return listed("sglang")
        if asked.path != "/classify":
            return MISSING
        sequences = asked.body.get("input_ids")
        if sequences is None:
            sequences = [engine.ids_of_text(text, True) for text in asked.body["text"]]
        rows, counts = engine.logits(sequences)
        answers = [
            {"embedding": row, "meta_info": {"id": str(at), "prompt_tokens": count}}
            for at, (row, count) in enumerate(zip(twist(rows), counts, strict=False))
        ]
        return Reply(content=answers)

    return reply


def smorm(model: RewardModel, twist: Twist = as_is) -> Any:
    """Our own server, by its contract."""

    def reply(asked: Asked) -> Reply:
        if asked.path == "/v1/info":
            return Reply(content={"model": model.name, "max_tokens": model.card.max_tokens})
        if asked.path != "/v1/score":
            return MISSING
        scores = model.score(asked.body["items"])
        names = asked.body.get("views", [model.card.default_view])
        values = twist([[float(v)] for v in scores.view(names[0])])
        items = [
            {"single": float(single), "views": {names[0]: value[0]}, "tokens": int(count),
             "truncated": False}
            for single, value, count in zip(
                scores.preference, values, scores.tokens, strict=False
            )
        ]  # fmt: skip
        return Reply(content={"id": "1", "model": model.name, "items": items})

    return reply


def counting(asked: Asked) -> Reply:
    """Our own server's shape: the score is the number of characters in the last message."""
    items = asked.body["items"]
    scores = [float(len(item["messages"][-1]["content"])) for item in items]
    return Reply(content={"items": [{"views": {"F": score}} for score in scores]})


def sigmoid(rows: Rows) -> Rows:
    return torch.tensor(rows).sigmoid().tolist()


def softmax(rows: Rows) -> Rows:
    return torch.tensor(rows).softmax(-1).tolist()


def shifted(by: float) -> Twist:
    return lambda rows: [[value + by for value in row] for row in rows]


def said(*texts: str) -> list[Messages]:
    """Conversations that end with these texts."""
    return [(Message("user", "Say it."), Message("assistant", text)) for text in texts]
