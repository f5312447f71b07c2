"""Signs in texts that they were meant in another shape than they are read in: speakers or chat
markup written out, messages as JSON text, prompts that the sides repeat."""

import re
from itertools import chain

from smorm.checks.findings import FindingKind
from smorm.checks.table import responses_of
from smorm.data.census import Census
from smorm.data.records import Messages, Record, text_of
from smorm.text.chat import INPUTS

HH_MARKERS = ("\n\nHuman:", "\n\nAssistant:")
FAMILIES = {
    "ChatML": ("<|im_start|>", "<|im_end|>"),
    "Llama 3": ("<|start_header_id|>", "<|eot_id|>"),
    "Llama 4": ("<|header_start|>", "<|header_end|>"),
    "Llama 2 and Mistral": ("[INST]", "[/INST]", "<<SYS>>"),
    "Gemma": ("<start_of_turn>", "<end_of_turn>"),
    "Zephyr and Phi-3": ("<|user|>", "<|assistant|>", "<|end|>"),
    "DeepSeek": ("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
    "Command R": ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
    "Granite": ("<|start_of_role|>", "<|end_of_role|>"),
    "gpt-oss": ("<|start|>", "<|channel|>", "<|message|>"),
    "Alpaca": ("### Instruction:", "### Response:"),
    "Vicuna": ("\nASSISTANT: ", " ASSISTANT: "),
    "the end of a text": ("</s>", "<|endoftext|>", "<|end_of_text|>"),
}
"""What chat templates write around messages, by the models or data sets that are known for it."""
# One of them is in every marker above, and few texts hold any: the others need no search for each.
_IN_MARKERS = ("<", "INST]", "### ", "ASSISTANT: ")
# Shorter prompts begin answers by accident: "Why?", "Why? Because ..."
_SHORTEST_PROMPT = 12
# A list of messages, or one, as JSON or as Python prints it.
_MESSAGES = re.compile(r"\s*\[?\s*\{\s*[\"'](role|from|content|value)[\"']\s*:")


def examine(record: Record, tally: Census) -> None:
    """Count the signs in a record's texts, each kind once."""
    responses = responses_of(record)
    messages = [message for message in chain(record.prompt, *responses) if message.role != INPUTS]
    # One text: each sign is looked for once a record.
    text = "\0".join([message.content for message in messages])
    if any(marker in text for marker in HH_MARKERS):
        tally.add(FindingKind.HH_MARKERS, record.where)
    if any(sign in text for sign in _IN_MARKERS):
        for family, markers in FAMILIES.items():
            if any(marker in text for marker in markers):
                tally.add(FindingKind.CHAT_MARKUP, record.where, detail=family)
    # What a tool answers may well be JSON.
    if any(_MESSAGES.match(turn.content) for turn in messages if turn.role != "tool"):
        tally.add(FindingKind.MESSAGES_AS_TEXT, record.where)
    if _repeat_prompt(record.prompt, responses):
        tally.add(FindingKind.PROMPT_REPEATED, record.where)


def _repeat_prompt(prompt: Messages, responses: tuple[Messages, ...]) -> bool:
    """Whether every response begins with the prompt's text, or that of its last message."""
    if not prompt:
        return False
    starts = [response[0].content.lstrip() for response in responses]
    for question in (text_of(prompt).strip(), prompt[-1].content.strip()):
        repeated = all(start.startswith(question) for start in starts)
        if len(question) >= _SHORTEST_PROMPT and repeated:
            return True
    return False
