"""Requests and answers of our own routes, and the errors of all, as `/docs` shows them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

View = str | dict[str, Any]
Truncation = Literal["refuse", "left_prompt"]


def with_example(
    *examples: Any, extra: Literal["allow", "ignore", "forbid"] = "ignore"
) -> ConfigDict:
    """A model's configuration whose JSON schema has examples."""
    return ConfigDict(json_schema_extra={"examples": list(examples)}, extra=extra)


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="Served name; needed where there are several.")
    truncation: Truncation = Field(
        "refuse", description="Of what is over the limit: an error, or the prompt is shortened."
    )
    deadline_ms: int | None = Field(None, ge=1, le=600_000, description="Default: 60,000.")


class ScoreRequest(_Request):
    model_config = with_example(
        {
            "items": [
                {"prompt": "What is 2 + 2?", "response": "4"},
                {
                    "messages": [
                        {"role": "user", "content": "Hi"},
                        {"role": "assistant", "content": "Hello"},
                    ]
                },
                {"prompt": "Name a river.", "responses": ["The Nile.", "Rome."]},
            ],
            "truncation": "left_prompt",
        },
        extra="forbid",
    )

    items: list[dict[str, Any]] = Field(
        description="Rows as in files: {messages}, {prompt, response}, {prompt, responses}, with "
        "tools where there are some. What cannot be read is an error in its place."
    )
    views: list[View] | None = Field(
        None, description="F, L, M, or {row: weight}; default: the reward's own."
    )


class CompareRequest(_Request):
    model_config = with_example(
        {"prompt": "What is 2 + 2?", "responses": ["4", "Five, I think."]}, extra="forbid"
    )

    prompt: Any = Field(None, description="Text or messages.")
    responses: list[Any] = Field(min_length=2, description="Texts or messages.")
    tools: list[dict[str, Any]] | None = Field(None, description="For the chat template.")
    views: list[View] | None = Field(
        None, description="F, L, M, or {row: weight}; default: those of F, L, M that it has."
    )


class Problem(BaseModel):
    type: str = Field(description="A word for programs.")
    message: str = Field(description="A sentence for people.")


class RequestProblem(Problem):
    field: str | None = Field(None, description="Of the request.")
    request_id: str | None = Field(None, description="As in the header x-request-id.")


class ErrorAnswer(BaseModel):
    """The answer of a request that failed."""

    error: RequestProblem


class FailedItem(BaseModel):
    """In the place of an item that has no score."""

    error: Problem


class ScoredResponse(BaseModel):
    preference: float | None = Field(description="Null where no such row was trained.")
    attributes: dict[str, float] = Field(description="Each on its own scale.")
    views: dict[str, float]
    tokens: int | None = Field(description="Of prompt and response; null without a tokenizer.")
    truncated: bool = Field(description="Whether text was taken from the prompt.")


class ScoredItem(ScoredResponse):
    changes: list[str] = Field(description="What the template did not write of it.")


class ScoredItems(BaseModel):
    responses: list[ScoredResponse]
    changes: list[str] = Field(description="What the template did not write of it.")


_SCORED = {
    "preference": 1.52, "attributes": {"helpfulness": 3.1, "verbosity": 1.9},
    "views": {"F": 1.52, "L": 2.5, "M": 2.01}, "tokens": 14, "truncated": False,
}  # fmt: skip
_OTHER = {
    "preference": -0.4, "attributes": {"helpfulness": 1.2, "verbosity": 1.5},
    "views": {"F": -0.4, "L": 1.35, "M": 0.475}, "tokens": 16, "truncated": False,
}  # fmt: skip


class ScoreAnswer(BaseModel):
    model_config = with_example(
        {
            "model": "chat",
            "items": [
                {**_SCORED, "changes": []},
                {"error": {"type": "bad_item", "message": "item: messages: no assistant's turn"}},
                {"responses": [_SCORED, _OTHER], "changes": []},
            ],
        }
    )

    model: str
    items: list[ScoredItem | ScoredItems | FailedItem] = Field(
        description="In the request's order; of several responses under `responses`."
    )


class Verdict(BaseModel):
    order: list[int] = Field(description="Responses from best to worst, counted from 0.")
    best: int
    margin: float = Field(description="Best less second best.")


class CompareAnswer(BaseModel):
    model_config = with_example(
        {
            "model": "chat",
            "responses": [_SCORED, _OTHER],
            "views": {"M": {"order": [0, 1], "best": 0, "margin": 1.535}},
            "probability": 0.872,
            "changes": [],
        }
    )

    model: str
    responses: list[ScoredResponse]
    views: dict[str, Verdict]
    probability: float | None = Field(
        description="Of the first response over the second, by the Bradley-Terry preference row."
    )
    changes: list[str] = Field(description="What the template did not write of it.")


class Scale(BaseModel):
    """A row of the network is `(rating - offset) / scale`."""

    offset: float
    scale: float
    mean: float | None = Field(description="Mean rating in training; null where it is not known.")


class Fingerprint(BaseModel):
    renderer: str | None = Field(None, description="Of how conversations become tokens.")
    weights: dict[str, str] = Field({}, description="Hashes of the files with weights.")
    versions: dict[str, str] = Field({}, description="Of the packages that it was trained with.")


class ModelInfo(BaseModel):
    rows: list[str] = Field(description="Empty for a reward that is one number.")
    scales: dict[str, Scale]
    views: list[str] = Field(description="Those of F, L, M that it has.")
    default_view: str | None = Field(description="Null: each request must name one.")
    max_tokens: int | None
    dtype: str | None
    tolerance: float = Field(description="Largest difference to `smorm score` on one device.")
    fingerprint: Fingerprint


class Bounds(BaseModel):
    items: int = Field(description="Of a request.")
    characters: int = Field(description="Of an item.")
    body_bytes: int


class InfoAnswer(BaseModel):
    """Of one reward alone, what `models` says of it stands at the top too."""

    model_config = ConfigDict(extra="allow")

    server: str
    version: str
    models: dict[str, ModelInfo]
    limits: Bounds


class LiveAnswer(BaseModel):
    live: bool


class ReadyAnswer(BaseModel):
    ready: bool
    reason: str | None = Field(None, description="Why it is not.")


_ERRORS = {
    400: ("bad_json", "not JSON: unexpected end of data", "Not JSON, or it cannot be scored."),
    401: ("unauthorized", "a bearer token is needed", "No bearer token, or an unknown one."),
    404: ("unknown_model", "no such model; there are chat, code", "No such model is served."),
    408: ("too_slow", "the body did not arrive in 20 s", "The body came too slowly."),
    413: ("too_large", "over the limit of 8,388,608 bytes", "More than one request may hold."),
    415: ("compressed", "send the body as it is, without an encoding", "Compressed."),
    422: ("invalid", "Field required", "Not as the schema says."),
    429: ("overloaded", "2048 items wait already", "Too much waits; Retry-After says when."),
    500: ("non_finite", "a view's value is not finite", "The model failed."),
    503: ("stopping", "the server is stopping", "The server is stopping."),
    504: ("deadline", "the deadline came before there was room", "The deadline came first."),
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route's description says of the errors that it may answer."""
    answers: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        kind, message, description = _ERRORS[status]
        error = {"type": kind, "message": message, "field": None, "request_id": "0f3a9c1d2b4e5f60"}
        answers[status] = {
            "model": ErrorAnswer,
            "description": description,
            "content": {"application/json": {"example": {"error": error}}},
        }
    return answers


SCORING_ERRORS = errors(*_ERRORS)
HELD_ERRORS = errors(*(status for status in _ERRORS if status != 429))
"""Of routes that wait while the queue is full."""
READING_ERRORS = errors(401)
