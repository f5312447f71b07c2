"""How programs that score by a model folder make tokens of a conversation, done offline.

Each follows the source of the version that it names. A policy is taken to have the folder's own
tokenizer and chat template: text of another template gives other tokens in any case."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from smorm.errors import ConfigError
from smorm.evaluation.parity.conversations import Conversation
from smorm.model.export import PlainModel

Turns = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Client:
    """A program, and the token ids [T] that its engine gets for messages."""

    title: str  # its name and version
    sends: str  # what it makes of a conversation
    ids: Callable[[PlainModel, Turns], list[int]]
    # What a folder of several rows is to it; it reads one.
    of_several_rows: str
    # What to do where its ids differ.
    remedy: str
    batch: int = 1  # conversations that it pads together, on the right


def _template(plain: PlainModel, turns: Turns, **options: Any) -> str:
    return str(
        plain.tokenizer.apply_chat_template(
            turns, tokenize=False, chat_template=plain.template, **options
        )
    )


def _encoded(plain: PlainModel, text: str, *, special: bool) -> list[int]:
    return list(plain.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])


def _verl(plain: PlainModel, turns: Turns) -> list[int]:
    """`RewardLoopWorker._preprocess_reward_inputs`; the engine adds special tokens."""
    tokenizer = plain.tokenizer
    # Its policy's EOS is removed from the response, wherever it stands.
    answer = turns[-1]["content"].replace(tokenizer.eos_token or "\0", "")
    text = _template(plain, [*turns[:-1], {"role": "assistant", "content": answer}])
    if tokenizer.bos_token is not None:
        text = text.removeprefix(tokenizer.bos_token)
    return _encoded(plain, text, special=True)


def _of_a_rollout(plain: PlainModel, turns: Turns) -> list[int]:
    """A policy's prompt and answer up to its EOS, decoded and tokenised again."""
    tokenizer = plain.tokenizer
    text = _template(plain, turns[:-1], add_generation_prompt=True)
    text += turns[-1]["content"] + (tokenizer.eos_token or "")
    rollout = _encoded(plain, text, special=False)
    decoded = tokenizer.decode(rollout, skip_special_tokens=False)
    return _encoded(plain, decoded, special=False)


def _whole_text(plain: PlainModel, turns: Turns) -> list[int]:
    return _encoded(plain, _template(plain, turns), special=False)


def _whole_text_with_special_tokens(plain: PlainModel, turns: Turns) -> list[int]:
    return _encoded(plain, _template(plain, turns), special=True)


EXPORT_ONE = "`smorm export MODEL --view M` writes one"
_OWN_TEMPLATE = (
    "train with the policy's tokenizer and chat template, or reward by messages "
    "(`smorm.trl.reward_function`, RewardClient), which the reward model's template renders"
)

CLIENTS = {
    "verl": Client(
        "verl 0.9", "text without BOS, special tokens on", _verl,
        "verl reads the last row of an answer",
        "let the tokenizer write the BOS, as `smorm export` does",
    ),
    "openrlhf": Client(
        "OpenRLHF 0.11", "the rollout decoded, no special tokens added", _of_a_rollout,
        "OpenRLHF refuses it", _OWN_TEMPLATE,
    ),
    "llamafactory": Client(
        "LLaMA-Factory 0.9", "the rollout decoded, no special tokens added", _of_a_rollout,
        "a server of it answers with one", _OWN_TEMPLATE,
    ),
    "vllm": Client(
        "vLLM 0.32", "messages", _whole_text,
        "clients of vLLM read one", "send token ids (RewardClient does, given the tokenizer)",
    ),
    "sglang": Client(
        "SGLang 0.5", "rendered text, special tokens on", _whole_text_with_special_tokens,
        "clients of SGLang read the last",
        "send `input_ids` (RewardClient does), or the text without its BOS",
    ),
    "trl": Client(
        "TRL 1.16", "rendered text, no special tokens added", _whole_text,
        "GRPOTrainer loads one row", "give GRPOTrainer `smorm.trl.reward_function`", batch=8,
    ),
}  # fmt: skip
VERL = CLIENTS["verl"]


def clients_of(names: Sequence[str]) -> list[Client]:
    """Clients by their names, each once; ConfigError for an unknown one."""
    for name in names:
        if name not in CLIENTS:
            near = difflib.get_close_matches(name, CLIENTS, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ConfigError(f"--as {name}: expected one of {', '.join(CLIENTS)}{hint}")
    return [CLIENTS[name] for name in dict.fromkeys(names)]


def can_send(conversation: Conversation) -> bool:
    """Whether it is what a policy answers: roles and texts alone, an assistant's text last."""
    messages = conversation.messages
    return conversation.is_plain and len(messages) > 1 and messages[-1].role == "assistant"
