"""A reward model as the callable that TRL's GRPO and RLOO trainers take.

    from smorm.data.records import Item
from smorm.trl import reward_function
    trainer = GRPOTrainer(model=policy, reward_funcs=reward_function("runs/x/model", view="M"), ...)

TRL calls it with prompts and completions as text or as messages. The reward model renders them with
its own template and tokenizer, so policy and reward model need not share one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from smorm.data.records import Item
from smorm.errors import DataError
from smorm.model.views import View, apply_view
from smorm.scoring.reward_model import RewardModel
from smorm.scoring.scorer import DEFAULT_BATCH_TOKENS, Scored, Scorer
from smorm.text.chat import Message, Messages
from smorm.text.limits import Unscored

Reward = Callable[..., list[float | None]]


def reward_function(
    model: RewardModel | Path | str,
    view: Any = None,
    *,
    name: str | None = None,
    max_batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> Reward:
    """A function `(prompts, completions, **columns) -> rewards`, one reward a completion, in order.

    Args:
        model: a reward model, or the folder or hub id of one.
        view: F, L, M or a definition; by default the model's own.
        name: how TRL calls its metrics (`rewards/NAME/mean`); by default `smorm_VIEW`.
        max_batch_tokens: tokens of a forward pass; a reward does not depend on it.

    A prompt given as text is the user's message, a completion given as text the assistant's answer.
    All completions of one prompt are scored in one tree, its tokens computed once. A prompt that
    does not fit is shortened from its left end; a completion that does not fit by itself gets None,
    which TRL leaves out, and is counted under `smorm/too_long`.

    Raises:
        ConfigError: an unknown view. ModelError: no such model.
        DataError (when called): a prompt or completion that is neither text nor messages.
    """
    loaded = model if isinstance(model, RewardModel) else RewardModel.load(model)
    chosen = loaded.view(view)
    scorer = Scorer(loaded.network, loaded.renderer, "truncate_prompt", max_batch_tokens)

    def reward(
        prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        items, owners = _items(prompts, completions)
        rewards: list[float | None] = [None] * len(completions)
        for item, places, scored in zip(items, owners, scorer.score(items), strict=True):
            # one completion that is too long takes its prompt's others with it: one by one then
            alone = [Item(item.prompt, (one,), item.where) for one in item.responses]
            results = scorer.score(alone) if isinstance(scored, Unscored) else [scored]
            values = [value for one in results for value in _values(one, chosen, loaded)]
            for place, value in zip(places, values, strict=True):
                rewards[place] = value
        _count(columns.get("log_metric"), rewards)
        return rewards

    reward.__name__ = name or f"smorm_{chosen.name}"
    return reward


def _values(scored: Scored | Unscored, view: View, model: RewardModel) -> list[float | None]:
    if isinstance(scored, Unscored):
        return [None]
    return [float(value) for value in apply_view(view, scored.rows, model.card.scales)]


def _items(
    prompts: Sequence[Any], completions: Sequence[Any]
) -> tuple[list[Item], list[list[int]]]:
    """One item a run of equal prompts, and the places of its completions."""
    if len(prompts) != len(completions):
        raise DataError(f"{len(prompts)} prompts for {len(completions)} completions")
    items: list[Item] = []
    owners: list[list[int]] = []
    for place, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        asked = _messages(prompt, "user", f"prompt {place + 1}")
        answer = _messages(completion, "assistant", f"completion {place + 1}")
        if items and items[-1].prompt == asked:
            items[-1] = Item(asked, (*items[-1].responses, answer), items[-1].where)
            owners[-1].append(place)
        else:
            items.append(Item(asked, (answer,), f"completion {place + 1}"))
            owners.append([place])
    return items, owners


def _messages(value: Any, role: str, where: str) -> Messages:
    if isinstance(value, str):
        return (Message(role, value),)
    fits = isinstance(value, Sequence) and value and all(isinstance(m, Mapping) for m in value)
    if not fits or not all(isinstance(m.get("content"), str) and "role" in m for m in value):
        raise DataError(f"{where}: expected text or messages with role and content")
    return tuple(Message(str(m["role"]), m["content"]) for m in value)


def _count(log_metric: Any, rewards: Sequence[float | None]) -> None:
    if callable(log_metric):
        log_metric("smorm/too_long", float(sum(one is None for one in rewards)))
