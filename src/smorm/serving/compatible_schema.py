"""Requests and answers of the routes of other servers."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from smorm.serving.schema import with_example

Texts = str | list[str]
Inputs = str | list[str] | list[int] | list[list[int]]

_TALK = [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "4"}]
_ID = "classify-0f3a9c1d2b4e5f600f3a9c1d2b4e5f60"


class _Body(BaseModel):
    """These clients send more than is read here, which changes no score."""

    model_config = ConfigDict(extra="allow")

    model: str | None = Field(
        None, description="Served name; needed where there are several, else not read."
    )


class OpenRlhfBody(_Body):
    model_config = with_example({"query": ["User: What is 2 + 2?\nAssistant: 4"]}, extra="allow")

    query: Texts = Field(description="Rendered texts; special tokens are real.")
    prompts: list[Any] | None = Field(None, description="Not read.")
    labels: list[Any] | None = Field(None, description="Not read.")


class VllmBody(_Body):
    model_config = with_example(
        {"messages": _TALK},
        {"input": "User: What is 2 + 2?\nAssistant: 4", "add_special_tokens": True},
        {"input": [[5, 6, 7], [5, 6, 8]]},
        extra="allow",
    )

    input: Inputs | None = Field(None, description="Rendered texts, or token ids.")
    messages: list[dict[str, Any]] | None = Field(
        None, description="A conversation whose last turn is the response: rendered here."
    )
    tools: list[dict[str, Any]] | None = Field(None, description="For the chat template.")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="The same.")
    add_special_tokens: bool | None = Field(
        None, description="Of texts: false where they hold all special tokens."
    )
    use_activation: bool | None = Field(None, description="True is refused: rewards are raw.")


class ClassifyBody(VllmBody):
    """vLLM's, or with `text` or `input_ids` SGLang's."""

    model_config = with_example(
        {"messages": _TALK},
        {"input": "User: What is 2 + 2?\nAssistant: 4", "add_special_tokens": True},
        {"input": [[5, 6, 7], [5, 6, 8]]},
        {"text": "User: What is 2 + 2?\nAssistant: 4"},
        {"input_ids": [[5, 6, 7], [5, 6, 8]]},
        extra="allow",
    )

    text: Texts | None = Field(None, description="SGLang's: rendered texts.")
    input_ids: list[int] | list[list[int]] | None = Field(None, description="SGLang's: token ids.")


class EmbeddingsBody(_Body):
    model_config = with_example({"input": [[5, 6, 7], [5, 6, 8]]}, extra="allow")

    input: Inputs = Field(description="Rendered texts, or token ids.")


class LlamaFactoryBody(_Body):
    model_config = with_example({"messages": ["User: What is 2 + 2?\nAssistant: 4"]}, extra="allow")

    messages: list[str] = Field(description="Rendered texts; special tokens are real.")
    max_length: int | None = Field(None, description="Not read: nothing is cut.")


class OpenRlhfAnswer(BaseModel):
    model_config = with_example(
        {"rewards": [2.01], "scores": [2.01], "extra_logs": {"preference": [1.52]}}
    )

    rewards: list[float]
    scores: list[float] = Field(description="The same numbers.")
    extra_logs: dict[str, list[float]] = Field(description="Every row by its name.")


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int


class _List(BaseModel):
    object: str
    model: str
    usage: Usage


class _VllmAnswer(_List):
    id: str
    created: int = Field(description="Seconds since 1970.")


class Classified(BaseModel):
    index: int
    label: str
    probs: list[float] = Field(description="The raw reward: one number, no probability.")
    num_classes: int


_USAGE = {"prompt_tokens": 14, "total_tokens": 14, "completion_tokens": 0}
_VLLM = {"object": "list", "created": 1_790_000_000, "model": "chat", "usage": _USAGE}


class ClassifyAnswer(_VllmAnswer):
    model_config = with_example(
        {"id": _ID, "data": [{"index": 0, "label": "LABEL_0", "probs": [2.01], "num_classes": 1}],
         **_VLLM}
    )  # fmt: skip

    data: list[Classified]


class Pooled(BaseModel):
    index: int
    object: str
    data: list[float]


class PoolingAnswer(_VllmAnswer):
    model_config = with_example(
        {"id": _ID, "data": [{"index": 0, "object": "pooling", "data": [2.01]}], **_VLLM}
    )

    data: list[Pooled]


class SglangMeta(BaseModel):
    prompt_tokens: int


class SglangScore(BaseModel):
    """SGLang's: of one text it is the answer, of several a list of them is."""

    embedding: list[float]
    meta_info: SglangMeta


class Embedded(BaseModel):
    index: int
    object: str
    embedding: list[float]


class EmbeddingsAnswer(_List):
    model_config = with_example(
        {"object": "list", "model": "chat", "usage": _USAGE,
         "data": [{"index": 0, "object": "embedding", "embedding": [2.01]}]}
    )  # fmt: skip

    data: list[Embedded]


class LlamaFactoryAnswer(BaseModel):
    model_config = with_example(
        {"id": _ID, "object": "score.evaluation", "model": "chat", "scores": [2.01]}
    )

    id: str
    object: str
    model: str
    scores: list[float]


class ModelEntry(BaseModel):
    id: str
    object: str
    owned_by: str


class ModelsAnswer(BaseModel):
    model_config = with_example(
        {"object": "list", "data": [{"id": "chat", "object": "model", "owned_by": "smorm"}]}
    )

    object: str
    data: list[ModelEntry]
