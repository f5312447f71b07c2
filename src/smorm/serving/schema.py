"""Requests and answers of our own routes, as `/docs` shows them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

View = str | dict[str, Any]
Truncation = Literal["refuse", "left_prompt"]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="Served name; needed where there are several.")
    truncation: Truncation = Field(
        "refuse", description="Of what is over the limit: an error, or the prompt is shortened."
    )
    deadline_ms: int | None = Field(None, ge=1, le=600_000, description="Default: 60,000.")


class ScoreRequest(_Request):
    items: list[dict[str, Any]] = Field(
        description="Rows as in files: {messages}, {prompt, response}, {prompt, responses}, with "
        "tools where there are some. What cannot be read is an error in its place."
    )
    views: list[View] | None = Field(
        None, description="F, L, M, or {row: weight}; default: the reward's own."
    )


class CompareRequest(_Request):
    prompt: Any = Field(None, description="Text or messages.")
    responses: list[Any] = Field(min_length=2, description="Texts or messages.")
    tools: list[dict[str, Any]] | None = None
    views: list[View] | None = None


class ErrorBody(BaseModel):
    type: str
    message: str
    field: str | None = None
    request_id: str | None = None


class ErrorAnswer(BaseModel):
    error: ErrorBody


class ScoredResponse(BaseModel):
    preference: float | None
    attributes: dict[str, float]
    views: dict[str, float]
    tokens: int | None
    truncated: bool


class ScoredItem(ScoredResponse):
    changes: list[str] = Field(description="What the template did not write of it.")


class ScoredItems(BaseModel):
    responses: list[ScoredResponse]
    changes: list[str]


class ScoreAnswer(BaseModel):
    model: str
    items: list[ScoredItem | ScoredItems | ErrorAnswer] = Field(
        description="In the request's order; of several responses under `responses`."
    )


class Verdict(BaseModel):
    order: list[int] = Field(description="Responses from best to worst.")
    best: int
    margin: float = Field(description="Best less second best.")


class CompareAnswer(BaseModel):
    model: str
    responses: list[ScoredResponse]
    views: dict[str, Verdict]
    probability: float | None = Field(
        description="Of the first response over the second, by the Bradley-Terry preference row."
    )
