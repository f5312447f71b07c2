"""The app, and our own routes: `/v1/score`, `/v1/compare`, `/v1/info`, `/livez`, `/readyz`,
`/metrics`."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import orjson
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from smorm.data.census import Census, DropReason
from smorm.data.items import as_items
from smorm.data.records import Item
from smorm.errors import DataError
from smorm.serving import compatible, pages, schema
from smorm.serving.guard import REQUEST_ID, Guard, Refused
from smorm.serving.served import Served, Unit
from smorm.serving.service import Done, Failed, Service, finite
from smorm.serving.settings import DEADLINE
from smorm.version import __version__

_TAGS = [
    {"name": "Rewards", "description": "All rows and views of each response."},
    {"name": "Routes of other servers", "description": "The served view's value, with each text "
     "tokenised as that server's clients mean it."},
    {"name": "State", "description": "Of the process, for those who run it."},
]  # fmt: skip


_READINESS: dict[int | str, dict[str, Any]] = {
    200: {"model": schema.ReadyAnswer},
    503: {"model": schema.ReadyAnswer, "description": "Draining, or the last batch failed."},
    **schema.READING_ERRORS,
}


# Held routes are not among them: their clients make a missing reward of a refusal.
_REFUSED_WHEN_FULL = frozenset({"/v1/score", "/v1/compare", *compatible.REFUSED_WHEN_FULL})


class _JsonRequest(Request):
    """Reads JSON as RFC 8259 has it: no NaN, no lone surrogates, no endless depth."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            try:
                self._json = orjson.loads(await self.body())
            except orjson.JSONDecodeError as error:
                raise Refused(400, "bad_json", f"not JSON: {error}") from error
        return self._json


class JsonRoute(APIRoute):
    """A route whose request is a `_JsonRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_JsonRequest(request.scope, request.receive))

        return handle


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        description = super().openapi()
        schemes = {"token": {"type": "http", "scheme": "bearer"}}
        description["components"]["securitySchemes"] = schemes
        # `{}`: a server without a token file asks for none.
        description["security"] = [{"token": []}, {}]
        return description


def make_app(service: Service) -> Guard:
    """The app of a service, behind its guard."""
    app = _App(
        title="smorm", version=__version__, docs_url=None, redoc_url=None, openapi_tags=_TAGS,
        description="Rewards as `smorm score` gives them; raw, never squashed.",
    )  # fmt: skip
    app.state.service = service
    included = routers(service)
    for router in included:
        app.include_router(router)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    options = service.options
    return Guard(
        app, tokens=options.tokens, limits=options.limits, metrics=service.metrics,
        routes=["/openapi.json", *(route.path for route in api_routes(included))],
        check_room=partial(_check_room, service),
    )  # fmt: skip


def routers(service: Service) -> list[APIRouter]:
    """All routes but that of the description."""
    return [_own_routes(service), compatible.routes(service, JsonRoute), pages.routes()]


def api_routes(included: list[APIRouter]) -> list[APIRoute]:
    """Their routes: an app's own list holds the routers themselves, in newer FastAPI."""
    return [route for router in included for route in router.routes if isinstance(route, APIRoute)]


def _check_room(service: Service, path: str) -> None:
    """Refused (429) where one item more of this route may not wait."""
    if path in _REFUSED_WHEN_FULL:
        service.check_room(1, math.inf)


def as_json(value: Any, status: int = 200) -> Response:
    """A JSON answer. Numbers were found finite before: orjson would write NaN as null."""
    return Response(orjson.dumps(value), status, media_type="application/json")


def _own_routes(service: Service) -> APIRouter:
    router = APIRouter(route_class=JsonRoute)

    @router.get("/livez", summary="Whether the process runs.", tags=["State"],
                responses={200: {"model": schema.LiveAnswer}},
                openapi_extra={"security": []})  # fmt: skip
    async def livez() -> Response:
        return as_json({"live": True})

    @router.get("/readyz", summary="Whether requests should be sent here.", tags=["State"],
                responses=_READINESS)  # fmt: skip
    async def readyz() -> Response:
        if service.ready:
            return as_json({"ready": True})
        reason = "draining" if service.draining else "the last batch got no answer"
        return as_json({"ready": False, "reason": reason}, 503)

    @router.get("/metrics", summary="Queue, batches, latencies, refusals: for Prometheus.",
                tags=["State"], response_class=PlainTextResponse,
                responses=schema.READING_ERRORS)  # fmt: skip
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @router.get("/v1/info", summary="Rows, scales, views, fingerprints, limits.", tags=["Rewards"],
                responses={200: {"model": schema.InfoAnswer}, **schema.READING_ERRORS})  # fmt: skip
    async def info() -> Response:
        models = {name: served.info() for name, served in service.served.items()}
        limits = service.options.limits
        bounds = {"items": limits.items, "characters": limits.characters,
                  "body_bytes": limits.body_bytes}  # fmt: skip
        # One model's facts stand at the top too: most servers have one.
        first = next(iter(models.values())) if len(models) == 1 else {}
        return as_json({"server": "smorm", "version": __version__, "models": models,
                        "limits": bounds, **first})  # fmt: skip

    @router.post("/v1/score", summary="Scores of conversations.", tags=["Rewards"],
                 responses={200: {"model": schema.ScoreAnswer},
                            **schema.SCORING_ERRORS})  # fmt: skip
    async def score(body: schema.ScoreRequest, request: Request) -> Response:
        """All rows, attributes on their scales, and views of every response, in order."""
        served = service.find(body.model)
        views = service.view_names(served, body.views)
        makers = [partial(_unit_of, service, served, row, body.truncation) for row in body.items]
        results = await service.score(served, makers, request.scope, _seconds(body))
        items = [_as_item(served, result, views) for result in results]
        return as_json({"model": served.name, "items": items})

    @router.post("/v1/compare", summary="Which answer to one prompt wins.", tags=["Rewards"],
                 responses={200: {"model": schema.CompareAnswer},
                            **schema.SCORING_ERRORS})  # fmt: skip
    async def compare(body: schema.CompareRequest, request: Request) -> Response:
        """Responses to one prompt: who wins by each view, and by how much."""
        served = service.find(body.model)
        views = service.view_names(served, body.views or served.info()["views"] or None)
        row: dict[str, Any] = {"prompt": body.prompt, "responses": body.responses}
        if body.tools:
            row["tools"] = body.tools
        maker = partial(_unit_of, service, served, row, body.truncation)
        (result,) = await service.score(served, [maker], request.scope, _seconds(body))
        if isinstance(result, Failed):
            raise Refused(result.status, result.kind, result.message)
        responses = _responses(served, result, views)
        verdicts = {
            name: _verdict([response["views"][name] for response in responses]) for name in views
        }
        answer = {"model": served.name, "responses": responses, "views": verdicts,
                  "probability": _probability(responses),
                  "changes": list(result.unit.changes)}  # fmt: skip
        return as_json(answer)

    return router


def _seconds(body: schema.ScoreRequest | schema.CompareRequest) -> float:
    return DEADLINE if body.deadline_ms is None else body.deadline_ms / 1000


def _unit_of(service: Service, served: Served, row: Any, truncation: str) -> Unit:
    """A row as files have it; DataError for what would not be read of it, too."""
    census = Census()
    items = as_items(row, 0, census)
    if len(items) != 1:
        raise DataError(f"one item holds {len(items)} records: send them as items of their own")
    for reason in census.totals():
        if reason.kind is DropReason.CONTENT_NOT_READ:
            raise DataError(str(reason))
    return served.unit(checked_size(items[0], service.options.limits.characters), truncation)


def checked_size(item: Item, most: int) -> Item:
    """The item; DataError where its texts have too many characters, before they are tokenised."""
    size = 0
    for messages in (item.prompt, *item.responses):
        size += sum(len(message.content) + len(message.fields) for message in messages)
    if size > most:
        raise DataError(f"{size:,} characters, the limit is {most:,}")
    return item


def _as_item(served: Served, result: Done | Failed, views: dict[str, Any]) -> dict[str, Any]:
    if isinstance(result, Failed):
        return result.as_dict()
    responses = _responses(served, result, views)
    changes = list(result.unit.changes)
    if len(responses) == 1:
        return {**responses[0], "changes": changes}
    return {"responses": responses, "changes": changes}


def _responses(served: Served, done: Done, views: dict[str, Any]) -> list[dict[str, Any]]:
    values = {name: finite(served.values(done.rows, view), 422) for name, view in views.items()}
    tokens: list[int | None] = [None] * len(done.rows)
    if done.unit.tokens is not None:
        tokens = list(done.unit.tokens)
    responses = []
    for index, columns in enumerate(served.columns(done.rows)):
        of_views = {name: column[index] for name, column in values.items()}
        responses.append({**columns, "views": of_views, "tokens": tokens[index],
                          "truncated": done.unit.truncated})  # fmt: skip
    return responses


def _verdict(values: list[float]) -> dict[str, Any]:
    order = sorted(range(len(values)), key=lambda index: -values[index])
    margin = values[order[0]] - values[order[1]]
    return {"order": order, "best": order[0], "margin": margin}


def _probability(responses: list[dict[str, Any]]) -> float | None:
    first, second = responses[0]["preference"], responses[1]["preference"]
    if first is None or second is None:
        return None
    # Of the two forms of the logistic function the one that cannot overflow.
    difference = first - second
    if difference >= 0:
        return 1 / (1 + math.exp(-difference))
    return math.exp(difference) / (1 + math.exp(difference))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    service: Service = request.app.state.service
    service.metrics.refusals.labels(error.kind).inc()
    body = error.body(request.scope[REQUEST_ID])
    return Response(body, error.status, media_type="application/json", headers=error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    """What pydantic found first, without the value, which may be a user's text."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(key) for key in first["loc"] if key != "body")
    return await _refused(request, Refused(422, "invalid", first["msg"], field))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, Refused):  # raised while FastAPI read the body
        return await _refused(request, error.__cause__)
    headers = dict(error.headers or {})
    return await _refused(request, Refused(error.status_code, "http", str(error.detail), **headers))
