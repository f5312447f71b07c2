"""A reward model as the callable that TRL's GRPO and RLOO trainers take.

    from smorm.trl import reward_function
    trainer = GRPOTrainer(model=policy, reward_funcs=reward_function("runs/x/model", view="M"), ...)

TRL calls it with prompts and completions as text or as messages. The reward model renders them with
its own template and tokenizer, so policy and reward model need not share one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from smorm.data.records import Item
from smorm.errors import DataError
from smorm.model.views import apply_view
from smorm.scoring.reward_model import RewardModel
from smorm.scoring.scorer import DEFAULT_BATCH_TOKENS, Scorer
from smorm.text.chat import Message, Messages
from smorm.text.limits import Unscored

RewardFunction = Callable[..., list[float | None]]


def reward_function(
    model: RewardModel | Path | str,
    view: Any = None,
    *,
    name: str | None = None,
    max_batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> RewardFunction:
    """A function `(prompts, completions, **columns) -> rewards`, one per completion, in order.

    Args:
        model: a reward model, or the folder or hub id of one.
        view: F, L, M or a definition; by default the model's own.
        name: how TRL calls its metrics (`rewards/NAME/mean`); by default `smorm_VIEW`.
        max_batch_tokens: tokens per forward pass; a reward does not depend on it.

    A prompt given as text is the user's message, a completion given as text the assistant's answer.
    All completions of one prompt are scored in one tree, its tokens computed once. A prompt that
    does not fit is shortened from its left end; a completion that does not fit by itself gets None,
    which TRL leaves out, and is counted under `smorm/too_long`.

    `ConfigError`: an unknown view. `ModelError`: no such model. `DataError` when called with a
    prompt or completion that is neither text nor messages."""
    loaded = model if isinstance(model, RewardModel) else RewardModel.load(model)
    resolved = loaded.view(view)
    scorer = Scorer(loaded.network, loaded.renderer, "truncate_prompt", max_batch_tokens)

    def reward(
        prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        rewards: list[float | None] = []
        items = _items(prompts, completions)
        for item, scored in zip(items, scorer.score(items), strict=True):
            results = [scored]
            if isinstance(scored, Unscored):
                # One completion that is too long takes its prompt's others with it: one by one.
                results = scorer.score([item.only([i]) for i in range(len(item.responses))])
            for result in results:
                if isinstance(result, Unscored):
                    rewards.append(None)
                else:
                    rewards += apply_view(resolved, result.rows, loaded.card.scales).tolist()
        log_metric = columns.get("log_metric")
        if callable(log_metric):
            log_metric("smorm/too_long", float(rewards.count(None)))
        return rewards

    reward.__name__ = name or f"smorm_{resolved.name}"
    return reward


def _items(prompts: Sequence[Any], completions: Sequence[Any]) -> list[Item]:
    """One item per run of equal prompts, so that the completions keep their order."""
    if len(prompts) != len(completions):
        raise DataError(f"{len(prompts)} prompts for {len(completions)} completions")
    items: list[Item] = []
    # In runs, not over all: TRL repeats a prompt for each of its generations, side by side.
    for number, (prompt, completion) in enumerate(zip(prompts, completions, strict=True), start=1):
        question = _messages(prompt, "user", f"prompt {number}")
        answer = _messages(completion, "assistant", f"completion {number}")
        if items and items[-1].prompt == question:
            items[-1] = replace(items[-1], responses=(*items[-1].responses, answer))
        else:
            items.append(Item(question, (answer,), f"completion {number}"))
    return items


def _messages(value: Any, role: str, where: str) -> Messages:
    if isinstance(value, str):
        return (Message(role, value),)
    if isinstance(value, Sequence) and value and all(map(_is_message, value)):
        return tuple(Message(str(message["role"]), message["content"]) for message in value)
    raise DataError(f"{where}: expected text or messages with role and content")


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and "role" in value and isinstance(value.get("content"), str)
