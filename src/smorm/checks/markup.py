"""Signs in texts that they were meant in another shape than they are read in: speakers or chat
markup written out, messages as JSON text, prompts that the sides repeat or do not share."""

import re
from itertools import chain

from smorm.checks.findings import FindingKind
from smorm.checks.table import responses_of
from smorm.data.census import Census
from smorm.data.records import Messages, Preference, Record, text_of
from smorm.text.chat import INPUTS

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
_MARKERS = [marker for markers in FAMILIES.values() for marker in markers]
# One sign is in every marker. Few texts hold any, and to look for one letter costs next to nothing.
_SIGNS = {
    sign: re.compile("|".join(re.escape(marker) for marker in _MARKERS if sign in marker))
    for sign in ("<", "[", "#", "ASSISTANT: ")
}
# Shorter prompts begin answers by accident: "Why?", "Why? Because ..."
_SHORTEST_PROMPT = 12
# A list of messages, or one, as JSON or as Python prints it.
_MESSAGES = re.compile(r"\s*\[?\s*\{\s*[\"'](role|from|content|value)[\"']\s*:")


def examine(record: Record, tally: Census) -> None:
    """Count the signs in a record's texts, each kind once."""
    responses = responses_of(record)
    texts: list[str] = []
    messages_as_text = False
    for message in chain(record.prompt, *responses):
        if message.role == INPUTS:
            continue
        texts.append(message.content)
        # What a tool answers may well be JSON.
        if message.content.lstrip()[:1] in ("[", "{") and message.role != "tool":
            messages_as_text |= _MESSAGES.match(message.content) is not None
    if messages_as_text:
        tally.add(FindingKind.MESSAGES_AS_TEXT, record.where)
    # One text: each sign is looked for once a record.
    text = "\0".join(texts)
    if "\n\nHuman:" in text or "\n\nAssistant:" in text:
        tally.add(FindingKind.HH_MARKERS, record.where)
    if _has_markup(text):
        for family, markers in FAMILIES.items():
            if any(marker in text for marker in markers):
                tally.add(FindingKind.CHAT_MARKUP, record.where, detail=family)
    if _repeat_prompt(record.prompt, responses):
        tally.add(FindingKind.PROMPT_REPEATED, record.where)
    if isinstance(record, Preference) and _prompts_differ(record):
        tally.add(FindingKind.PROMPTS_DIFFER, record.where)


def _prompts_differ(pair: Preference) -> bool:
    """Whether the sides are whole conversations without a common beginning."""
    begin = pair.prompt[0].role if pair.prompt else INPUTS
    return len(pair.prompt) < 2 and begin == INPUTS and pair.chosen[0].role in ("user", "system")


def _has_markup(text: str) -> bool:
    return any(sign in text and markers.search(text) for sign, markers in _SIGNS.items())


def _repeat_prompt(prompt: Messages, responses: tuple[Messages, ...]) -> bool:
    """Whether every response begins with the prompt's text, or that of its last message."""
    if not prompt:
        return False
    # Most responses do not even begin like one of its messages.
    start = responses[0][0].content.lstrip()
    if not any(start.startswith(turn.content.strip()[:_SHORTEST_PROMPT]) for turn in prompt):
        return False
    starts = [response[0].content.lstrip() for response in responses]
    for question in (text_of(prompt).strip(), prompt[-1].content.strip()):
        repeated = all(start.startswith(question) for start in starts)
        if len(question) >= _SHORTEST_PROMPT and repeated:
            return True
    return False
