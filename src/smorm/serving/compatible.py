"""Routes of other reward servers on the same port, each text tokenised as its client means it.

OpenRLHF sends the policy's own tokens as text, special ones included. vLLM's and SGLang's `input`
gets the tokenizer's special tokens where the request does not say otherwise; `messages` are
rendered. LLaMA-Factory sends rendered texts. Any error is the whole request's: these clients read
numbers by their place. Scores are the served view's, raw; activations that a client asks for are
refused."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from smorm.data.census import Census
from smorm.data.fields import Context
from smorm.data.messages import read_messages, template_inputs
from smorm.data.records import Item
from smorm.errors import DataError
from smorm.serving import compatible_schema as schema
from smorm.serving.guard import Refused
from smorm.serving.schema import HELD_ERRORS, READING_ERRORS, SCORING_ERRORS
from smorm.serving.served import Served, Unit
from smorm.serving.service import Done, Failed, MakeUnit, Service, finite
from smorm.serving.settings import DEADLINE, HELD_DEADLINE

REFUSED_WHEN_FULL = ("/classify", "/pooling", "/v1/embeddings")
"""Routes that answer 429 where too much waits; the others hold requests until there is room."""


def routes(service: Service, route_class: type[APIRoute]) -> APIRouter:
    """The routes, each a few lines over `_values`."""
    router = APIRouter(route_class=route_class, tags=["Routes of other servers"])
    classified: Any = schema.ClassifyAnswer | schema.SglangScore | list[schema.SglangScore]

    @router.post("/get_reward", summary="Rewards as OpenRLHF asks them.",
                 responses={200: {"model": schema.OpenRlhfAnswer}, **HELD_ERRORS})  # fmt: skip
    async def get_reward(body: schema.OpenRlhfBody, request: Request) -> Response:
        """Held, not refused, while the queue is full: five failures are a missing reward there."""
        served = _served(service, body.model)
        texts = [body.query] if isinstance(body.query, str) else body.query
        makers = [_of_text(service, served, text, special=False) for text in texts]
        done = await _values(service, served, makers, request, hold=True)
        rewards = [value for value, _ in done]
        logs = _rows_as_logs(served, [result for _, result in done])
        return _json({"rewards": rewards, "scores": rewards, "extra_logs": logs})

    @router.post("/classify", summary="Rewards as vLLM and SGLang ask them.",
                 responses={200: {"model": classified}, **SCORING_ERRORS})  # fmt: skip
    async def classify(body: schema.ClassifyBody, request: Request) -> Response:
        served = _served(service, body.model)
        if body.text is not None or body.input_ids is not None:
            return _json(await _sglang(service, served, body, request))
        done = await _values(service, served, _vllm_makers(service, served, body), request)
        data = []
        for index, (value, _) in enumerate(done):
            data.append({"index": index, "label": "LABEL_0", "probs": [value], "num_classes": 1})
        return _json(_vllm_answer("classify", served, data, done))

    @router.post("/pooling", summary="Rewards as vLLM's pooling gives them.",
                 responses={200: {"model": schema.PoolingAnswer}, **SCORING_ERRORS})  # fmt: skip
    async def pooling(body: schema.VllmBody, request: Request) -> Response:
        served = _served(service, body.model)
        done = await _values(service, served, _vllm_makers(service, served, body), request)
        data = []
        for index, (value, _) in enumerate(done):
            data.append({"index": index, "object": "pooling", "data": [value]})
        return _json(_vllm_answer("pooling", served, data, done))

    @router.post("/v1/embeddings", summary="Rewards as SGLang's embeddings give them.",
                 responses={200: {"model": schema.EmbeddingsAnswer}, **SCORING_ERRORS})  # fmt: skip
    async def embeddings(body: schema.EmbeddingsBody, request: Request) -> Response:
        served = _served(service, body.model)
        makers = _of_inputs(service, served, body.input, special=True)
        done = await _values(service, served, makers, request)
        data = []
        for index, (value, _) in enumerate(done):
            data.append({"index": index, "object": "embedding", "embedding": [value]})
        return _json({"object": "list", "model": served.name, "data": data,
                      "usage": _usage(done)})  # fmt: skip

    @router.post("/v1/score/evaluation", summary="Rewards as LLaMA-Factory asks them.",
                 responses={200: {"model": schema.LlamaFactoryAnswer}, **HELD_ERRORS})  # fmt: skip
    async def evaluation(body: schema.LlamaFactoryBody, request: Request) -> Response:
        served = _served(service, body.model)
        makers = [_of_text(service, served, text, special=False) for text in body.messages]
        done = await _values(service, served, makers, request, hold=True)
        return _json({"id": uuid.uuid4().hex, "object": "score.evaluation", "model": served.name,
                      "scores": [value for value, _ in done]})  # fmt: skip

    @router.get("/v1/models", summary="Names of the served rewards, as vLLM and SGLang list them.",
                responses={200: {"model": schema.ModelsAnswer}, **READING_ERRORS})  # fmt: skip
    async def models() -> Response:
        data = [{"id": name, "object": "model", "owned_by": "smorm"} for name in service.served]
        return _json({"object": "list", "data": data})

    return router


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")


def _served(service: Service, name: str | None) -> Served:
    """By the name where one is served under it. These clients send a path or any name: of one
    reward alone it does not matter."""
    if len(service.served) == 1:
        return service.find(None)
    return service.find(name)


async def _values(
    service: Service,
    served: Served,
    makers: Sequence[MakeUnit],
    request: Request,
    *,
    hold: bool = False,
) -> list[tuple[float, Done]]:
    """The served view's value of each text; the first failure is the request's."""
    service.view_names(served, None)
    seconds = HELD_DEADLINE if hold else DEADLINE
    results = await service.score(served, makers, request.scope, seconds, hold=hold)
    values = []
    for index, result in enumerate(results):
        if isinstance(result, Failed):
            message = f"item {index}: {result.message}"
            # 400, not 422: what vLLM answers, and what its clients do not try again.
            status = 400 if result.status == 422 else result.status
            raise Refused(status, result.kind, message)
        (value,) = finite(served.values(result.rows))
        values.append((value, result))
    return values


def _of_text(service: Service, served: Served, text: str, *, special: bool) -> MakeUnit:
    most = service.options.limits.characters

    def make() -> Unit:
        if len(text) > most:
            raise DataError(f"{len(text):,} characters, the limit is {most:,}")
        return served.text_unit(text, add_special_tokens=special)

    return make


def _of_inputs(
    service: Service, served: Served, value: schema.Inputs, *, special: bool
) -> list[MakeUnit]:
    """A text, texts, token ids, or several lists of them."""
    if isinstance(value, str):
        return [_of_text(service, served, value, special=special)]
    if not value:
        raise Refused(400, "invalid", "nothing to score", "input")
    if isinstance(value[0], int):
        return [partial(served.ids_unit, value)]
    makers: list[MakeUnit] = []
    for entry in value:
        if isinstance(entry, str):
            makers.append(_of_text(service, served, entry, special=special))
        else:
            makers.append(partial(served.ids_unit, entry))
    return makers


def _vllm_makers(service: Service, served: Served, body: schema.VllmBody) -> list[MakeUnit]:
    if body.use_activation:
        raise Refused(400, "invalid", "rewards are raw here: no activation", "use_activation")
    if body.messages is not None:
        return [_of_messages(service, served, body)]
    if body.input is None:
        raise Refused(400, "invalid", "neither input nor messages", "input")
    special = body.add_special_tokens is not False
    return _of_inputs(service, served, body.input, special=special)


def _of_messages(service: Service, served: Served, body: schema.VllmBody) -> MakeUnit:
    def make() -> Unit:
        from smorm.serving.app import checked_size

        context = Context("messages", Census(), configurable=False)
        row = {"tools": body.tools, "chat_template_kwargs": body.chat_template_kwargs}
        options = {name: value for name, value in row.items() if value}
        turns = read_messages(body.messages, "messages", context)
        inputs = template_inputs(options, context)
        item = Item(inputs + turns[:-1], (turns[-1:],), "messages")
        return served.unit(checked_size(item, service.options.limits.characters), "refuse")

    return make


async def _sglang(
    service: Service, served: Served, body: schema.ClassifyBody, request: Request
) -> Any:
    if body.input_ids is not None:
        makers = _of_inputs(service, served, body.input_ids, special=False)
    else:
        makers = _of_inputs(service, served, body.text or "", special=True)
    done = await _values(service, served, makers, request)
    answers = []
    for value, result in done:
        tokens = result.unit.tokens or [0]
        answers.append({"embedding": [value], "meta_info": {"prompt_tokens": tokens[0]}})
    # As SGLang: one text gives one object.
    single = isinstance(body.text, str) or (body.input_ids and isinstance(body.input_ids[0], int))
    return answers[0] if single else answers


def _vllm_answer(
    kind: str, served: Served, data: list[dict[str, Any]], done: Sequence[tuple[float, Done]]
) -> dict[str, Any]:
    return {"id": f"{kind}-{uuid.uuid4().hex}", "object": "list", "created": int(time.time()),
            "model": served.name, "data": data, "usage": _usage(done)}  # fmt: skip


def _usage(done: Sequence[tuple[float, Done]]) -> dict[str, int]:
    tokens = sum(sum(result.unit.tokens or ()) for _, result in done)
    return {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}


def _rows_as_logs(served: Served, done: Sequence[Done]) -> dict[str, list[float]]:
    """Every row by its name: what OpenRLHF logs beside the reward."""
    logs: dict[str, list[float]] = {}
    for result in done:
        for columns in served.columns(result.rows):
            named = dict(columns["attributes"])
            if columns["preference"] is not None:
                named["preference"] = columns["preference"]
            for name, value in named.items():
                logs.setdefault(name, []).append(float(value))
    return logs
