"""Hostile requests to one server while good ones are scored beside them: none may break it, hang,
reach its log, or change another's score.

A third is generated from the server's own OpenAPI, and answers must be as it says."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import orjson

from chaos.served.bodies import BODIES, MAX_ITEMS, Hostile
from chaos.served.process import ServerProcess, ended_by, rewards_file, wait_for
from chaos.served.traffic import (
    MARK,
    SECONDS,
    TOLERANCE,
    Answer,
    Talk,
    Traffic,
    post,
    send,
    talks_of,
)
from chaos.served.wires import SLOW, WIRES
from chaos.stage import Stage
from chaos.trial import Fault, Found
from smorm import RewardModel
from smorm.errors import SmormError

_THREADS = 6
MAX_TOKENS = 256
_STATUSES = (200, 400, 404, 405, 408, 413, 414, 415, 422, 429, 431)
_MEMORY_BYTES = 1 << 30  # that the server's own process may take above what it starts with
_SLOW_SHARE = 40  # one of so many is a slow body
_QUIET_SECONDS = 90.0  # until nothing of the trials is left in the server
Problems = Iterator[tuple[Fault, str]]


def fuzz(stage: Stage, folder: Path, count: int, seed: int) -> tuple[int, list[Found]]:
    """So many hostile requests; how many there were, and what was wrong."""
    server = ServerProcess(
        folder / "server", f"joint={stage.model}", f"length={rewards_file('reward')}",
        "--port", "0", "--max-items", str(MAX_ITEMS), "--max-tokens", str(MAX_TOKENS),
    )  # fmt: skip
    findings: list[Found] = []

    def add(name: str, problems: Problems) -> None:
        findings.extend(Found(f"served_fuzz/{name}", *problem) for problem in problems)

    try:
        server.wait_until_serving()
        talks = talks_of(stage.model)
        # What a first request loads is no leak.
        for talk in talks:
            post(server.port, "/v1/score", talk.body())
        descriptors, memory = server.descriptors(), server.peak_bytes()
        with Traffic(server.port, talks, threads=1) as traffic:
            done = _send_all(stage, server.port, talks, count, seed, add)
        add("good-requests", ((Fault.WRONG, problem) for problem in traffic.problems))
        add("server", _after(server, talks, descriptors, memory))
    finally:
        server.kill()
    return done, findings


def _send_all(
    stage: Stage, port: int, talks: list[Talk], count: int, seed: int, add: Any
) -> int:  # fmt: skip
    """Send everything; how many requests there were."""
    conversations = _Conversations(stage.model)
    kinds = itertools.cycle([*BODIES, *WIRES, *_Conversations.KINDS])
    generated = count // 3
    with ThreadPoolExecutor(_THREADS) as pool, ThreadPoolExecutor(64) as waiting:
        sent: list[tuple[str, Future[list[tuple[Fault, str]]]]] = []
        for index in range(count - generated):
            random = Random(f"served-fuzz-{seed}-{index}")
            talk = talks[random.randrange(len(talks))]
            if index % _SLOW_SHARE == _SLOW_SHARE - 1:
                sent.append((f"slow/{index}", waiting.submit(_on_wire, "slow", random, port, talk)))
                continue
            kind = next(kinds)
            if kind in WIRES:
                future = pool.submit(_on_wire, kind, random, port, talk)
            elif kind in BODIES:
                future = pool.submit(_with_body, BODIES[kind](random), port)
            else:
                future = pool.submit(conversations.send, kind, random, port)
            sent.append((f"{kind}/{index}", future))
        if generated:
            add("openapi", _generated(port, generated, seed))
        for name, future in sent:
            add(name, iter(future.result()))
    return count


def _with_body(hostile: Hostile, port: int) -> list[tuple[Fault, str]]:
    try:
        answer = send(port, hostile.method, hostile.path, hostile.body, hostile.headers)
    except TimeoutError:
        return [(Fault.HANG, f"{hostile.method} {hostile.path}")]
    except (OSError, http.client.HTTPException) as error:
        # It may stop reading what is far too large.
        if len(hostile.body) > 4 * (8 << 20) and isinstance(error, OSError):
            return []
        return [(Fault.WRONG, f"no answer to {hostile.path}: {type(error).__name__}: {error}")]
    return list(_dishonest(answer, hostile))


def _dishonest(answer: Answer, hostile: Hostile) -> Problems:
    beginning = (
        f"{hostile.method} {hostile.path[:60]} {hostile.body[:160]!r}: {answer.body[:200]!r}"
    )
    if answer.status not in (*_STATUSES, *hostile.statuses):
        yield Fault.WRONG, f"status {answer.status}: {beginning}"
    if "application/json" not in answer.headers.get("content-type", ""):
        return
    if hostile.method == "HEAD":
        return
    try:
        value = answer.json()
    except ValueError:
        yield Fault.WRONG, f"not JSON: {beginning}"
        return
    if answer.status >= 400 and not (isinstance(value, dict) and "type" in value.get("error", {})):
        yield Fault.WRONG, f"an error of another form: {beginning}"


def _on_wire(kind: str, random: Random, port: int, talk: Talk) -> list[tuple[Fault, str]]:
    behave = SLOW if kind == "slow" else WIRES[kind]
    try:
        return [(Fault.WRONG, problem) for problem in behave(random, port, talk)]
    except TimeoutError:
        return [(Fault.HANG, f"{kind}: no answer")]
    except (OSError, ValueError, LookupError) as error:
        return [(Fault.WRONG, f"{kind}: {type(error).__name__}: {error}")]


class _Conversations:
    """Odd texts that must get the score of `RewardModel.score`."""

    KINDS = ("control-tokens", "odd-texts", "many-messages")

    def __init__(self, path: Path) -> None:
        self.model = RewardModel.load(path, max_tokens=MAX_TOKENS)
        self.expected: dict[tuple[str, ...], tuple[float, int] | None] = {}
        self._lock = threading.Lock()
        tokenizer = self.model.tokenizer
        self.tokens = [
            *tokenizer.all_special_tokens,
            "<|im_start|>",
            "<|im_end|>",
            "[INST]",
            "</s>",
        ]

    def send(self, kind: str, random: Random, port: int) -> list[tuple[Fault, str]]:
        texts = self._texts(kind, random)
        roles = itertools.cycle(("user", "assistant"))
        talk = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
        try:
            body = {"model": "joint", "items": [{"messages": talk}]}
            answer = post(port, "/v1/score", body)
        except (OSError, http.client.HTTPException) as error:
            return [(Fault.WRONG, f"{kind}: {type(error).__name__}: {error}")]
        (item,) = answer.json()["items"]
        scores = self._score(talk)
        if scores is None:
            if "error" not in item:
                return [(Fault.WRONG, f"{kind}: scored, though it is too long: {item}")]
            return []
        value, tokens = scores
        if "error" in item or abs(item["preference"] - value) > TOLERANCE:
            return [(Fault.WRONG, f"{kind}: {item}, not {value}: {texts!a}"[:600])]
        if item["tokens"] != tokens:
            return [
                (Fault.WRONG, f"{kind}: {item['tokens']} tokens, not {tokens}: {texts!a}"[:600])
            ]
        return []

    def _texts(self, kind: str, random: Random) -> list[str]:
        if kind == "many-messages":
            return ["a"] * random.choice((2_000, 6_000))
        if kind == "control-tokens":
            words = [*random.choices(self.tokens, k=4), "words"]
            random.shuffle(words)
            return [f"{MARK} {random.choice(self.tokens)}", "".join(words)]
        odd = (
            "\x00",
            "a\x00b",
            "\x1b[2J",
            "\u202eabc",
            "\ufeff",
            "🙂" * 9,
            "e\u0301",
            "\r\r",
            " ",
            "",
        )
        return [MARK + random.choice(odd), random.choice(odd) + "x"]

    def _score(self, talk: list[dict[str, str]]) -> tuple[float, int] | None:
        """Preference and tokens by the library; None where it has no score."""
        key = tuple(message["content"] for message in talk)
        with self._lock:
            if key not in self.expected:
                self.expected[key] = None
                with contextlib.suppress(SmormError):
                    scores = self.model.score([{"messages": talk}])
                    self.expected[key] = float(scores.preference[0]), int(scores.tokens[0])
            return self.expected[key]


def _generated(port: int, count: int, seed: int) -> Problems:
    """Requests that schemathesis makes of the server's own OpenAPI, half of them against it."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from schemathesis.specs.openapi import checks as openapi

    base = f"http://127.0.0.1:{port}"
    specification = orjson.loads(send(port, "GET", "/openapi.json").body)
    schema = schemathesis.openapi.from_dict(specification)
    checks = [
        schemathesis.checks.not_a_server_error, openapi.status_code_conformance,
        openapi.content_type_conformance, openapi.response_schema_conformance,
    ]  # fmt: skip
    operations = [
        (method, path)
        for path, methods in specification["paths"].items()
        for method in methods
        if method == "post"
    ]
    problems: list[tuple[Fault, str]] = []
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    each = -(-count // (len(operations) * len(modes)))
    for method, path in operations:
        for mode in modes:
            strategy = schema[path][method].as_strategy(generation_mode=mode)
            asked = given(case=strategy)(_asker(base, checks, problems))
            limits = settings(
                max_examples=each, database=None, deadline=None, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            seeded(seed)(limits(asked))()
    yield from problems


def _asker(
    base: str, checks: list[Any], problems: list[tuple[Fault, str]]
) -> Callable[[Any], None]:
    """What sends a generated case and checks its answer."""

    def ask(case: Any) -> None:
        # Most made-up names are no model's, and would be refused before anything else.
        if isinstance(case.body, dict) and case.body.get("model") is not None:
            case.body["model"] = "joint"
        try:
            response = case.call(base_url=base, timeout=SECONDS)
            case.validate_response(response, checks=checks)
        except Exception as error:
            operation = f"{case.operation.path} {case.body!a:.300}"
            problems.append((Fault.WRONG, f"{operation}: {error!s:.600}"))

    return ask


def _after(server: ServerProcess, talks: list[Talk], descriptors: int, memory: int) -> Problems:
    """What must hold once all is over."""
    if server.process.poll() is not None:
        yield Fault.EXIT, f"the server ended with {server.process.poll()}: {server.output[-600:]}"
        return
    if send(server.port, "GET", "/readyz").status != 200:
        yield Fault.WRONG, "not ready after the last request"
    for talk in talks:
        problem = talk.wrong(post(server.port, "/v1/score", talk.body()))
        if problem is not None:
            yield Fault.WRONG, f"after the last request: {problem}"
    metrics = send(server.port, "GET", "/metrics").body.decode()
    if "smorm_waiting_items 0.0" not in metrics:
        yield Fault.WRONG, "items still wait, though nobody asks"
    # Connections of clients that said nothing more end by themselves.
    if not wait_for(lambda: server.descriptors() <= descriptors + 2, _QUIET_SECONDS):
        names = os.listdir(f"/proc/{server.process.pid}/fd")
        yield Fault.LITTER, f"{len(names)} open files, {descriptors} before"
    if server.peak_bytes() - memory > _MEMORY_BYTES:
        yield Fault.MEMORY, f"{(server.peak_bytes() - memory) >> 20} MiB"
    yield from server.said(MARK, "evil.example")
    yield from ended_by(server, signal.SIGTERM)
