"""A reward model, or a server of one, as the callable that TRL's GRPO and RLOO trainers take.

    from smorm.trl import reward_function
    trainer = GRPOTrainer(model=policy, reward_funcs=reward_function("runs/x/model", view="M"), ...)
    trainer = GRPOTrainer(model=policy, reward_funcs=reward_function("http://host:8000", "M"), ...)

TRL calls it with prompts and completions as text or as messages. The reward model renders them with
its own template and tokenizer, so policy and reward model need not share one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from smorm.client import ItemError, RewardClient, Score
from smorm.data.census import Census
from smorm.data.fields import Context
from smorm.data.messages import read_messages, template_inputs
from smorm.data.records import Item
from smorm.errors import ConfigError, DataError
from smorm.model.views import View, apply_view
from smorm.printing import get_logger
from smorm.scoring.reward_model import RewardModel
from smorm.scoring.scorer import DEFAULT_BATCH_TOKENS, Scored, Scorer
from smorm.text.changes import Change
from smorm.text.chat import Message, Messages
from smorm.text.limits import Unscored, UnscoredReason

log = get_logger(__name__)

RewardFunction = Callable[..., list[float | None]]


@dataclass(frozen=True, slots=True)
class _Rewarded:
    """A completion's reward, and what the template did not write of it."""

    value: float
    changes: Sequence[Change | str]


_Judge = Callable[[Sequence[Item | Unscored]], Iterator[_Rewarded | Unscored]]


def reward_function(
    model: RewardModel | RewardClient | Path | str,
    view: Any = None,
    *,
    name: str | None = None,
    max_batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> RewardFunction:
    """A function `(prompts, completions, **columns) -> rewards`, one per completion, in order.

    Args:
        model: a reward model, the folder or hub id of one, the address of a running server, or a
            `RewardClient` (with a token, a timeout, views and what else it needs).
        view: F, L, M or a definition; of a server a name. By default the model's, the server's or
            the client's own.
        name: how TRL calls its metrics (`rewards/NAME/mean`); by default `smorm_VIEW`.
        max_batch_tokens: tokens per forward pass of a local model; a reward does not depend on it.

    A prompt given as text is the user's message, a completion given as text the assistant's answer.
    Messages are read as those of files, as TRL's own parser returns them: content that is absent or
    null, `reasoning_content`, `tool_calls`, `name`; a column `tools` or `chat_template_kwargs` goes
    to the chat template. All completions of one prompt are scored in one tree, its tokens computed
    once. A prompt that does not fit is shortened from its left end (of a `RewardClient` as its
    `truncation` says).

    A completion without a score gets None, which TRL leaves out: counted under `smorm/too_long`
    where it does not fit by itself, else under `smorm/unusable`, and the first one's reason is
    logged. Neither a prompt nor a completion ends a run; a server that fails does, after its
    client's last try: `RewardServerError`.

    `ConfigError`: unknown view. `ModelError`: no such model. `DataError`: unequal numbers."""
    if isinstance(model, str) and model.startswith(("http://", "https://")):
        # A training run outlives a restart of its server.
        views = () if view is None else (_view_name(view),)
        model = RewardClient(model, views=views, truncation="left_prompt", timeout=300, tries=10)
        view = None
    if isinstance(model, RewardClient):
        if view is not None:
            raise ConfigError(f"view {view}: give the client its views")
        judge, title = _by_server(model), _title_of(model)
    else:
        loaded = model if isinstance(model, RewardModel) else RewardModel.load(model)
        chosen = loaded.view(view)
        judge, title = _by_model(loaded, chosen, max_batch_tokens), str(chosen.name)
    tell = _TellOnce()

    def reward(
        prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        rewards: list[float | None] = []
        too_long = 0
        for result in judge(_readable(prompts, completions, columns)):
            if isinstance(result, Unscored):
                rewards.append(None)
                too_long += result.reason in _TOO_LONG
                tell(result.reason, f"no reward: {result}")
                continue
            rewards.append(_finite(result.value))
            for change in result.changes:
                tell(change, f"of this reward model: {change}")
        _count(columns.get("log_metric"), too_long, rewards.count(None) - too_long)
        return rewards

    reward.__name__ = name or f"smorm_{title}"
    return reward


def _by_model(model: RewardModel, view: View, max_batch_tokens: int) -> _Judge:
    scorer = Scorer(model.network, model.renderer, "truncate_prompt", max_batch_tokens)

    def judge(readable: Sequence[Item | Unscored]) -> Iterator[_Rewarded | Unscored]:
        for result in _scored_alone(scorer, readable):
            if isinstance(result, Unscored):
                yield result
            else:
                value = apply_view(view, result.rows, model.card.scales)[0]
                yield _Rewarded(float(value), result.changes)

    return judge


# What the server says of a completion that is itself to blame; any other error is the server's.
_BLAMED = {
    "too_long": UnscoredReason.TOO_LONG,
    "bad_item": UnscoredReason.BAD_RECORD,
    "non_finite": UnscoredReason.BAD_RECORD,
}


def _by_server(client: RewardClient) -> _Judge:
    def judge(readable: Sequence[Item | Unscored]) -> Iterator[_Rewarded | Unscored]:
        items = [item for item in readable if isinstance(item, Item)]
        following = iter(_scores(client, [item.prompt + item.responses[0] for item in items]))
        for item in readable:
            if isinstance(item, Unscored):
                yield item
                continue
            score = next(following)
            if isinstance(score, Score):
                yield _Rewarded(score.value, score.changes)
            elif score.kind in _BLAMED:
                yield Unscored(_BLAMED[score.kind], f"{item.where}: {score.text}")
            else:
                raise score

    return judge


def _scores(client: RewardClient, conversations: Sequence[Messages]) -> Sequence[Score | ItemError]:
    if client.protocol == "smorm":
        return client.details(conversations, errors="return")
    # Other servers serve one row, and fail as a whole.
    values = client.score(conversations)
    if values.ndim != 1:
        raise ConfigError(f"{client.url}: gives {values.shape[1]} scores an answer: serve one row")
    return [Score(float(value), {}, None, {}, None, False) for value in values]


def _title_of(client: RewardClient) -> str:
    """The view that a client scores by."""
    if client.views:
        return client.views[0]
    if client.protocol != "smorm":
        return "server"
    info = client.info()
    models = info.get("models")
    if client.model_id is not None and isinstance(models, Mapping):
        info = models.get(client.model_id, {})
    return str(info.get("default_view") or "server")


def _view_name(view: Any) -> str:
    if not isinstance(view, str):
        raise ConfigError(f"view {view}: a server takes the name of a view")
    return view


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _count(log_metric: Any, too_long: int, unusable: int) -> None:
    """Tell TRL, where it has a function for it, how many completions have no reward."""
    if callable(log_metric):
        log_metric("smorm/too_long", float(too_long))
        log_metric("smorm/unusable", float(unusable))


class _TellOnce:
    """Logs what is told once a kind: a run of 1,000 steps would say it 1,000 times."""

    def __init__(self) -> None:
        self._reported: set[Change | UnscoredReason | str] = set()

    def __call__(self, kind: Change | UnscoredReason | str, text: str) -> None:
        if kind not in self._reported:
            self._reported.add(kind)
            log.warning("smorm reward: %s", text)


_TOO_LONG = (UnscoredReason.TOO_LONG, UnscoredReason.RESPONSE_TOO_LONG)


def _scored_alone(
    scorer: Scorer, readable: Sequence[Item | Unscored]
) -> Iterator[Scored | Unscored]:
    """One result of each completion, in order; those of equal prompts are scored as one item."""
    items: list[Item] = []
    # In runs, not over all: TRL repeats a prompt for each of its generations, side by side.
    for item in readable:
        if isinstance(item, Unscored):
            continue
        if items and items[-1].prompt == item.prompt:
            items[-1] = replace(items[-1], responses=items[-1].responses + item.responses)
        else:
            items.append(item)
    scores: list[Scored | Unscored] = []
    for item, result in zip(items, scorer.score(items), strict=True):
        if isinstance(result, Unscored):
            # One completion that has no score takes its prompt's others with it: one by one.
            scores += scorer.score([item.only([index]) for index in range(len(item))])
        else:
            for index, tokens in enumerate(result.tokens):
                rows = result.rows[index : index + 1]
                scores.append(replace(result, rows=rows, tokens=[tokens]))
    following = iter(scores)
    for item in readable:
        yield item if isinstance(item, Unscored) else next(following)


def _readable(
    prompts: Sequence[Any], completions: Sequence[Any], columns: Mapping[str, Any]
) -> list[Item | Unscored]:
    """Each completion under its prompt, or why it cannot be read."""
    if len(prompts) != len(completions):
        raise DataError(f"{len(prompts)} prompts for {len(completions)} completions")
    inputs: list[dict[str, Any]] = [{} for _ in prompts]
    for name in ("tools", "chat_template_kwargs"):
        values = columns.get(name)
        if isinstance(values, Sequence) and len(values) == len(prompts):
            for row, value in zip(inputs, values, strict=True):
                row[name] = value
    items: list[Item | Unscored] = []
    for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        where = f"completion {index + 1}"
        context = Context(where, Census(), configurable=False)
        try:
            question = _messages(prompt, "user", "prompt", context)
            answer = _messages(completion, "assistant", "completion", context)
            items.append(Item(template_inputs(inputs[index], context) + question, (answer,), where))
        except DataError as error:
            items.append(Unscored(UnscoredReason.BAD_RECORD, str(error)))
    return items


def _messages(value: Any, role: str, field: str, context: Context) -> Messages:
    if isinstance(value, str):
        return (Message(role, value),)
    if not isinstance(value, Sequence) or not value:
        raise context.wrong(field, value, "text or messages with role and content")
    turns = []
    for turn in value:
        # A parser leaves out the content of an answer that has none, or that was not finished.
        if isinstance(turn, Mapping) and turn.get("content") is None and not turn.get("tool_calls"):
            turn = {**turn, "content": ""}
        turns.append(turn)
    return read_messages(turns, field, context)
