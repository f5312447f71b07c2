"""Pools sampled from a policy through transformers' `generate`. A prompt's answers are a function
of the seed and of its own text, whatever other prompts are sampled."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch

from smorm import files
from smorm.data.census import Census, DropReason
from smorm.data.fields import Context
from smorm.data.formats.generic import prompt_of
from smorm.data.readers import read_rows
from smorm.data.reading import Source
from smorm.data.records import Messages, prompt_key
from smorm.errors import DataError, ModelError, third_party
from smorm.model import adapters
from smorm.model.backbone import (
    load_lora,
    load_pretrained,
    merge_lora,
    missing_weights,
    position_limit,
)
from smorm.model.border import check_ids, check_model
from smorm.model.device import pick_device
from smorm.model_files import local_folder
from smorm.stress.config import SampleSection
from smorm.stress.pools import hashed
from smorm.text.chat import ChatInputs, Message, Renderer
from smorm.text.tokenizers import load_tokenizer

_ANSWER = "Forty-two"  # stands for an answer, to see what a template writes before one


def sample_file(
    source: Source, section: SampleSection, output: Path, census: Census, *, device: str = "cpu"
) -> int:
    """Write a pool of answers for every different prompt of a file, as rows `{"prompt",
    "responses": [{"response", "finished"}]}`. Answers without an end, prompts that lost their first
    tokens and prompts with little room for answers are counted. Returns the number of prompts.

    Raises:
        ModelError: the policy cannot be loaded.
        DataError: a row without a prompt, none at all, one that the policy's template refuses, or
            one that fills the policy's positions."""
    prompts = list(read_prompts(source, census))
    if not prompts:
        raise DataError(f"{source.path}: no prompt in it")
    policy = Policy(section, device)
    with files.atomic_file(output) as stream:
        for where, prompt in prompts:
            answers = policy.sample(prompt, where, census)
            inputs = ChatInputs.of(prompt)
            row = {"prompt": inputs.messages, **inputs.options, "responses": answers}
            # A single question is its text.
            if len(prompt) == 1 and prompt[0].role == "user":
                row["prompt"] = prompt[0].content
            stream.write(orjson.dumps(row) + b"\n")
    return len(prompts)


def read_prompts(source: Source, census: Census) -> Iterator[tuple[str, Messages]]:
    """The different prompts of a file (`source.limit` is the most), each with its place."""
    keys: set[str] = set()
    for where, row in read_rows(source.path, source.split, source.subset):
        prompt = prompt_of(row, Context(where, census))
        if prompt_key(prompt) in keys:
            census.add(DropReason.REPEATED_SAMPLE, where)
            continue
        if source.limit is not None and len(keys) == source.limit:
            census.add(DropReason.LIMIT, where)
            return
        keys.add(prompt_key(prompt))
        yield where, prompt


class Policy:
    """A language model of a folder or hub id, ready to answer."""

    def __init__(self, section: SampleSection, device: str = "cpu") -> None:
        self.section = section
        self.tokenizer = load_tokenizer(section.policy)
        self.renderer = Renderer(self.tokenizer)
        self.model = _load_policy(section.policy, self.tokenizer).to(pick_device(device)).eval()

    def sample(self, prompt: Messages, where: str, census: Census) -> list[dict[str, Any]]:
        """Answers to a prompt, each `{"response", "finished"}`."""
        ids = self.prompt_ids(prompt, where)
        if len(ids) > self.section.prompt_tokens:
            census.add(DropReason.CUT_PROMPT, where)
            ids = ids[-self.section.prompt_tokens :]
        max_new_tokens = self._max_new_tokens(len(ids), where, census)
        context = torch.tensor([ids], device=self.model.device)
        devices = [context.device] if context.is_cuda else []
        answers: list[dict[str, Any]] = []
        # The caller's random state is left alone, and a prompt's answers depend on no other prompt.
        with torch.inference_mode(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(hashed(self.section.seed, prompt_key(prompt)))
            while len(answers) < self.section.answers:
                count = min(self.section.batch, self.section.answers - len(answers))
                answers += self._answers(context, count, max_new_tokens)
        unfinished = sum(not answer["finished"] for answer in answers)
        if unfinished:
            census.add(DropReason.UNFINISHED, where, unfinished)
        return answers

    def _max_new_tokens(self, length: int, where: str, census: Census) -> int:
        """How many tokens an answer may have; past its positions a policy writes nonsense."""
        requested = self.section.max_new_tokens
        positions = position_limit(self.model)
        if positions is None or length + requested <= positions:
            return requested
        if length >= positions:
            raise DataError(
                f"{where}: prompt: has {length} tokens and the policy only {positions} positions: "
                "set prompt_tokens lower"
            )
        census.add(DropReason.LITTLE_ROOM, where, detail=str(positions))
        return positions - length

    def _answers(self, context: Any, count: int, max_new_tokens: int) -> list[dict[str, Any]]:
        section = self.section
        # What a generation_config.json asks for is found out here.
        with third_party(section.policy, "cannot answer"):
            sequences = self.model.generate(
                context,
                attention_mask=torch.ones_like(context),
                do_sample=True,
                temperature=section.temperature,
                top_p=section.top_p,
                top_k=section.top_k,
                max_new_tokens=max_new_tokens,
                num_return_sequences=count,
                pad_token_id=self.renderer.pad_id,
            )
            ends = torch.tensor(sorted(self._ends()), device=context.device)
        new = sequences[:, context.shape[1] :]
        finished = torch.isin(new, ends).any(dim=1).tolist()
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        answers = []
        for text, end in zip(texts, finished, strict=True):
            answers.append({"response": text.strip(), "finished": end})
        return answers

    def _ends(self) -> set[int]:
        # A configuration names one token, several or none.
        tokens = self.model.generation_config.eos_token_id
        return set(np.atleast_1d([] if tokens is None else tokens).tolist())

    def prompt_ids(self, prompt: Messages, where: str) -> list[int]:
        """The conversation so far, and whatever the template writes before an answer."""
        try:
            text = self._text_before(prompt)
        except DataError as error:
            raise DataError(f"{where}: prompt: {error} (the policy's template)") from error
        return self.renderer.control.encode_marked(text)

    def _text_before(self, prompt: Sequence[Message]) -> str:
        """A rendered conversation up to where an answer begins."""
        text = self.renderer.text(prompt, marked=True, add_generation_prompt=True)
        end = self.tokenizer.eos_token
        if not end or not text.endswith(end):
            return text
        # A template that knows of no generation prompt closed the conversation, and nobody answers
        # after its end. What it writes before an answer is seen from an answer.
        answer_turn = Message("assistant", _ANSWER)
        answered = self.renderer.text([*prompt, answer_turn], marked=True)
        before, answer, _ = answered.rpartition(_ANSWER)
        # A space belongs to the answer's first token.
        return before.rstrip(" ") if answer else text


def _load_policy(path: str, tokenizer: Any) -> Any:
    from transformers import AutoModelForCausalLM

    folder = local_folder(path)
    adapted = adapters.holds_adapters(folder)
    base = adapters.find_base(folder, adapters.check_adapters(folder)) if adapted else path
    checked = check_model(base)
    check_ids(path, tokenizer, checked.rows)
    model, info = load_pretrained(AutoModelForCausalLM, checked, "no usable policy", "auto")
    if missing := missing_weights(info):
        raise ModelError(
            f"{path}: no usable policy: {len(missing)} weights are missing and would be random "
            f"(first: {missing[0]})"
        )
    if "score.weight" in info["unexpected_keys"]:
        raise ModelError(f"{path}: no usable policy: it is a reward model, with a score head")
    return merge_lora(load_lora(model, folder)) if adapted else model
