"""The BOS of a text, written by the tokenizer too where the chat template writes it.

Some programs (verl) cut the template's BOS off a rendered text and expect the tokenizer to put it
there again. A tokenizer that adds none gives them another score, without an error."""

from __future__ import annotations

from typing import Any

from smorm.errors import DataError
from smorm.text.chat import PROBES, Message, Renderer


def ensure_bos(renderer: Renderer) -> bool:
    """Let the renderer's tokenizer begin a text with the BOS, where its template begins every
    conversation with one and it adds none. Whether it does so now and did not before: it stays as
    it was where conversations would get other ids, and where it has no pipeline to change."""
    tokenizer: Any = renderer.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    bos = tokenizer.bos_token_id
    before = _conversations(renderer)
    if backend is None or bos is None or any(ids[:1] != [bos] for ids in before):
        return False
    if tokenizer("a")["input_ids"][:1] == [bos]:
        return False
    processor = backend.post_processor
    backend.post_processor = _with_bos(processor, str(tokenizer.bos_token), bos)
    # A saved setting wins over the pipeline when the folder is loaded.
    settings = tokenizer.init_kwargs
    setting = settings.get("add_bos_token")
    if setting is not None:
        settings["add_bos_token"] = True
        tokenizer.add_bos_token = True
    ids = tokenizer("a")["input_ids"]
    if ids[:1] == [bos] and ids[1:2] != [bos] and _conversations(renderer) == before:
        return True
    if setting is not None:
        settings["add_bos_token"] = setting
        tokenizer.add_bos_token = setting
    backend.post_processor = processor
    return False


def _with_bos(processor: Any, bos: str, bos_id: int) -> Any:
    """A post-processor that does what `processor` does, and puts the BOS before each text."""
    from tokenizers.processors import Sequence, TemplateProcessing

    added = TemplateProcessing(
        single=[bos, "$A"], pair=[bos, "$A", f"{bos}:1", "$B:1"], special_tokens=[(bos, bos_id)]
    )
    if processor is None:
        return added
    # One that trims offsets, or adds another token, goes on doing so.
    return Sequence([processor, added])


def _conversations(renderer: Renderer) -> list[list[int]]:
    """Ids of each probe that the template takes, as plain transformers makes them."""
    conversations = []
    for roles in PROBES:
        turns = [Message(role, "a").as_dict() for role in roles]
        try:
            renderer.render([Message(role, "a") for role in roles])
        except DataError:
            continue
        ids = renderer.tokenizer.apply_chat_template(
            turns, tokenize=True, return_dict=False, chat_template=renderer.chat_template
        )
        conversations.append(list(ids))
    return conversations
