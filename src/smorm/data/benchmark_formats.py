"""Rows of best-of-k benchmarks and of any judged file, by their schemas, as judged candidates.

Every parser gives one `Candidates` for a row: the good responses first, `chosen` of them (see
`smorm.data.judging` for what is counted and what is left out).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from smorm.data import fields
from smorm.data.census import Defect
from smorm.data.fields import Context
from smorm.data.formats import Format
from smorm.data.formats import generic as shapes
from smorm.data.judging import (
    SOURCES,
    Sides,
    first_text,
    flags,
    is_messages,
    judged,
    ordered,
    sides_of,
    split,
    text_side,
)
from smorm.data.records import Candidates, Messages
from smorm.text.chat import RAW, Message

PREF_SETS = (
    "anthropic", "anthropic_harmless", "anthropic_helpful", "anthropic_hhh", "mtbench_gpt4",
    "mtbench_human", "pku_better", "pku_safer", "shp", "summarize", "summarize_prompted",
)  # fmt: skip

_TIES_ID = re.compile(r"(ref|tied):\d+")
RM_BENCH_STYLES = 3
RM_BENCH_DOMAINS = ("chat", "math", "code", "safety")
_RMB_FOLDER = re.compile(r"^(BoN_set|Pairwise_set)/")


def best_of_k(row: Mapping[str, Any], context: Context) -> list[Candidates]:
    """`{prompt, chosen, rejected}` or `{prompt, responses, correct}`; optional `id`, `subset`.

    Chosen and rejected are text, a message list, or a list of either; without a prompt both are
    whole conversations (or raw texts), as in `shapes.preference`. `correct` holds true or false
    (or 1 and 0) for each response. `allenai/reward-bench` has this shape (split filtered: prompt,
    chosen, chosen_model, rejected, rejected_model, subset, id). The source is the row's `subset`,
    `source` or `domain`.
    """
    return _comparison(row, context, first_text(row, SOURCES, context))


def _comparison(row: Mapping[str, Any], context: Context, source: str | None) -> list[Candidates]:
    identity = first_text(row, ("id",), context)
    if row.get("responses") is not None:
        (one,) = shapes.candidates({**row, "id": identity, "source": source}, context)
        right = flags(fields.required(row, "correct", context), "correct", context)
        return ordered(one, right, "correct", context)
    chosen, rejected = (fields.required(row, name, context) for name in ("chosen", "rejected"))
    if shapes.has_prompt(row):
        prompt = shapes.prompt_of(row, context)
        good, rest = sides_of(chosen, "chosen", context), sides_of(rejected, "rejected", context)
    else:
        prompt, good, rest = _implicit(chosen, rejected, context)
    return judged(prompt, good, rest, context, identity, source)


def _implicit(chosen: object, rejected: object, context: Context) -> tuple[Messages, Sides, Sides]:
    if isinstance(chosen, str) and isinstance(rejected, str):
        return (), {"chosen": (Message(RAW, chosen),)}, {"rejected": (Message(RAW, rejected),)}
    if not (is_messages(chosen) and is_messages(rejected)):
        problem = "missing; only two whole conversations as message lists can go without"
        raise context.bad("prompt", Defect.MISSING_FIELD, problem)
    return split(
        fields.messages(chosen, "chosen", context), fields.messages(rejected, "rejected", context),
        ("chosen", "rejected"), context,
    )  # fmt: skip


def pref_sets(row: Mapping[str, Any], context: Context) -> list[Candidates]:
    """`allenai/pref-test-sets`: prompt as turns, chosen and rejected as text; a split is a subset.

    The roles of the turns are taken by their place, user first, whatever the rows call them, as
    `rewardbench/utils.py` does. A row's own `subset` is a part of its split and no source, unless
    it names one of the sets (`PREF_SETS`), as in a file that was put together from several.
    """
    if isinstance(row.get("prompt"), list):
        turns = [_turn(line, at) for at, line in enumerate(row["prompt"])]
        row = {**row, "prompt": turns}
    subset = first_text(row, ("subset",), context)
    return _comparison(row, context, subset if subset in PREF_SETS else None)


def _turn(line: object, at: int) -> object:
    role = "assistant" if at % 2 else "user"
    if isinstance(line, str):  # early versions of the set have bare texts
        return {"role": role, "content": line}
    return {**line, "role": role} if isinstance(line, dict) else line


def rewardbench2(row: Mapping[str, Any], context: Context) -> list[Candidates]:
    """`allenai/reward-bench-2`: lists of chosen and rejected texts, with their published numbers.

    Raises:
        BadRecord: num_correct, num_incorrect or total_completions disagrees with the lists, or an
            item of Ties has an id other than "ref:N" or "tied:N", by which its score pairs items.
    """
    found = best_of_k(row, context)
    for one in found:
        good, size = one.chosen or 0, len(one.responses)
        counts = {
            "num_correct": good, "num_incorrect": size - good, "total_completions": size
        }  # fmt: skip
        for name, count in counts.items():
            if row.get(name) is not None and row[name] != count:
                problem = f"{fields.describe(row[name])}, expected {count}, as many as are listed"
                raise context.bad(name, Defect.WRONG_COUNT, problem)
        if (one.source or "").lower() == "ties" and not _TIES_ID.fullmatch(one.id or ""):
            problem = f'{fields.describe(one.id)}, expected "ref:N" or "tied:N" in Ties'
            raise context.bad("id", Defect.BAD_ID, problem)
    return found


def rmb(row: Mapping[str, Any], context: Context) -> list[Candidates]:
    """RMB (Zhou et al., ICLR 2025), pairs and best-of-n alike, told apart by their fields.

    Pairs: {pair_uid, conversation_input, chosen: {llm_name, answer}, reject (or rejected): {...},
    category_path}. Best-of-n: {bon_uid, conversation_input, bon_best: {...}, loser_list: [{...}],
    category_path}. The source is "pairs" or "best-of-n" and the path without its first folder,
    such as "best-of-n/Helpfulness/Chat/Discussion".
    """
    if row.get("conversation_input") is None and "chosen" in row:
        return best_of_k(row, context)
    value = fields.required(row, "conversation_input", context)
    prompt = fields.messages(value, "conversation_input", context)
    prompt = fields.filled_prompt(prompt, "conversation_input", context)
    way, good, rest = _rmb_sides(row, context)
    path = _RMB_FOLDER.sub("", first_text(row, ("category_path",), context) or "")
    identity = first_text(row, ("pair_uid", "bon_uid", "id"), context)
    return judged(prompt, good, rest, context, identity, f"{way}/{path}" if path else way)


def _rmb_sides(row: Mapping[str, Any], context: Context) -> tuple[str, Sides, Sides]:
    if row.get("bon_best") is None and row.get("loser_list") is None:
        other = "rejected" if row.get("rejected") is not None else "reject"
        pair = [_answer(fields.required(row, n, context), n, context) for n in ("chosen", other)]
        return "pairs", pair[0], pair[1]
    good = _answer(fields.required(row, "bon_best", context), "bon_best", context)
    losers = fields.required(row, "loser_list", context)
    if not isinstance(losers, list) or not losers:
        raise context.wrong("loser_list", losers, "a list of at least one {llm_name, answer}")
    rest: Sides = {}
    for at, loser in enumerate(losers):
        rest |= _answer(loser, f"loser_list[{at}]", context)
    return "best-of-n", good, rest


def _answer(value: object, name: str, context: Context) -> Sides:
    if not isinstance(value, dict):
        raise context.wrong(name, value, "an object {llm_name, answer}")
    answer = fields.required_in(value, "answer", name, context)
    return text_side(answer, f"{name}.answer", context)


def rm_bench(row: Mapping[str, Any], context: Context) -> list[Candidates]:
    """`THU-KEG/RM-Bench`: 3 chosen then 3 rejected responses, each concise, detailed, markdown.

    The domain becomes the record's source. The files of single domains (`chat_filtered.json`, …)
    have none, and their `subset` says where a prompt is from: there the source is None, unless the
    subset is called after a domain.
    """
    prompt = shapes.prompt_of(row, context)
    responses: list[Messages] = []
    for name in ("chosen", "rejected"):
        values = fields.required(row, name, context)
        if not isinstance(values, list) or len(values) != RM_BENCH_STYLES:
            raise context.wrong(name, values, f"a list of {RM_BENCH_STYLES} texts")
        for at, value in enumerate(values):
            content = fields.text(value, f"{name}[{at}]", context)
            responses.append((Message("assistant", content),))
    known = {"id": row.get("id"), "source": _rm_bench_domain(row, context)}
    one = shapes.candidates_of(known, prompt, tuple(responses), context)
    right = [True] * RM_BENCH_STYLES + [False] * RM_BENCH_STYLES
    return ordered(one, right, "chosen", context)


def _rm_bench_domain(row: Mapping[str, Any], context: Context) -> str | None:
    if "domain" in row:
        return fields.text(fields.required(row, "domain", context), "domain", context)
    subset = fields.optional_text(row, "subset", context) or ""
    return subset if subset.startswith(RM_BENCH_DOMAINS) else None


RM_BENCH = Format(
    "candidates",
    rm_bench,
    "{prompt, chosen: 3, rejected: 3, domain}",
    signs=frozenset({"prompt", "chosen", "rejected", "domain"}),
)
BEST_OF_K = Format(
    "candidates",
    best_of_k,
    "{prompt?, chosen, rejected, subset?}",
    signs=frozenset({"responses", "correct"}),
)
REWARDBENCH = Format(
    "candidates",
    best_of_k,
    "{prompt, chosen, rejected, subset, id}",
    signs=frozenset({"chosen_model", "rejected_model"}),
)
PREF_SETS_FORMAT = Format("candidates", pref_sets, "{prompt: [...], chosen, rejected}")
REWARDBENCH2 = Format(
    "candidates",
    rewardbench2,
    "{prompt, chosen: [...], rejected: [...], num_correct, subset, id}",
    signs=frozenset({"chosen", "rejected", "num_correct"}),
)
RMB = Format(
    "candidates",
    rmb,
    "{conversation_input, chosen and reject or bon_best and loser_list, category_path}",
    signs=frozenset({"conversation_input"}),
)
