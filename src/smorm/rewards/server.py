"""A running server as a reward: ours, vLLM or SGLang."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from smorm.client import RewardClient
from smorm.client.transport import read_token
from smorm.data.records import Item
from smorm.errors import ConfigError, SmormError
from smorm.model.store import resolve
from smorm.printing import shorten
from smorm.rewards.protocol import Results, Reward, RewardView, ScoringOptions, split_rows
from smorm.rewards.section import RewardSection
from smorm.text.chat import Renderer
from smorm.text.tokenizers import load_tokenizer


class ServerReward(Reward):
    """A server as a reward: a column for each view that was requested when it was opened."""

    kind = "url"

    def __init__(self, client: RewardClient, views: Sequence[str] = ()) -> None:
        self.client, self.views, self.name = client, tuple(views), client.url

    @classmethod
    def open(cls, section: RewardSection, options: ScoringOptions) -> Self:
        views = options.views or (section.view,)
        names = list(map(str, filter(None, views)))
        token = renderer = None
        if section.token_file is not None:
            token = read_token(section.token_file)
        if section.tokenizer is not None:
            renderer = Renderer(load_tokenizer(str(resolve(section.tokenizer))))
        url, protocol, timeout = str(section.url), section.protocol, section.timeout
        client = RewardClient(url, protocol, token, timeout, views=names, renderer=renderer)
        # A key that nothing reads would be taken for one that works.
        engines = ("vllm", "sglang")
        uses = (("view", names, ("smorm",)), ("tokenizer", section.tokenizer, engines))
        for key, value, readers in uses:
            if value and client.protocol not in readers:
                raise ConfigError(
                    f"{key}: {client.url} is a server of {client.protocol}, which has no use for "
                    "it: leave it out"
                )
        return cls(client, names)

    @property
    def provenance(self) -> dict[str, Any]:
        model = self.client.model_id
        return {"url": self.client.url, "model": model if model is None else shorten(model)}

    def score(self, items: Sequence[Item]) -> Results:
        """The server's scores; a failure of the server stops everything."""
        # Flat, so that requests are full whatever the number of responses of an item.
        conversations = []
        for item in items:
            conversations += [item.prompt + response for response in item.responses]
        answer = self.client.answer(conversations)
        width = answer.rows.shape[1]
        if width != max(1, len(self.views)):
            raise SmormError(
                f"{self.client.url}: gives {width} scores an answer: serve a model with one row, "
                "such as an exported view"
            )
        return split_rows(answer.rows, answer.tokens, items)

    def view(self, value: Any = None) -> RewardView:
        """One of the views that it was opened with; None is the first, or the server's own."""
        if value is None and not self.views:
            return super().view()
        if value is None:
            value = self.views[0]
        if value not in self.views:
            raise ConfigError(f"view {value}: {self.client.url} was not asked for it")
        index = self.views.index(value)
        return RewardView(value, lambda rows: rows[:, index], {"name": value})
