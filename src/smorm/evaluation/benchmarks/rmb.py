"""RMB (Zhou et al., ICLR 2025): helpfulness and harmlessness, in pairs and best of n."""

import re

from smorm.data import fields
from smorm.data.fields import Context
from smorm.data.formats import Format
from smorm.data.messages import read_messages
from smorm.data.records import Candidates
from smorm.evaluation.accuracy import ScoredItems, accuracies, wins
from smorm.evaluation.benchmarks import Benchmark, rows
from smorm.evaluation.outcomes import Outcomes, even, weighted

_FOLDER = re.compile(r"^(BoN_set|Pairwise_set)/")


def parse(row: rows.Row, context: Context) -> list[Candidates]:
    """Pairs and best-of-n alike.
    Pairs: {pair_uid, conversation_input, chosen: {llm_name, answer}, reject (or rejected): {...},
    category_path}. Best-of-n: {bon_uid, conversation_input, bon_best: {...}, loser_list: [{...}],
    category_path}. The source is "pairs" or "best-of-n" and the path without its first folder,
    such as "best-of-n/Helpfulness/Chat/Discussion"."""
    # Its own pairs have a field "chosen" too, so that alone does not show a converted row.
    if row.get("conversation_input") is None and "chosen" in row:
        return rows.comparison(row, context)
    value = fields.required(row, "conversation_input", context)
    prompt = read_messages(value, "conversation_input", context)
    prompt = fields.filled_prompt(prompt, "conversation_input", context)
    protocol, good, bad = _responses(row, context)
    # The folder says pairs or best-of-n once more; the rest is the goal and the category.
    path = _FOLDER.sub("", rows.first_text(row, ("category_path",), context) or "")
    identity = rows.first_text(row, ("pair_uid", "bon_uid", "id"), context)
    subset = f"{protocol}/{path}" if path else protocol
    return rows.labelled(prompt, good, bad, context, identity, subset)


def _responses(row: rows.Row, context: Context) -> tuple[str, rows.Responses, rows.Responses]:
    if row.get("bon_best") is None and row.get("loser_list") is None:
        # The published files say "reject", their converted copies "rejected".
        name = "rejected" if row.get("rejected") is not None else "reject"
        chosen = _answer(fields.required(row, "chosen", context), "chosen", context)
        return "pairs", chosen, _answer(fields.required(row, name, context), name, context)
    best = _answer(fields.required(row, "bon_best", context), "bon_best", context)
    losers = fields.required(row, "loser_list", context)
    if not isinstance(losers, list) or not losers:
        raise context.wrong("loser_list", losers, "a list of at least one {llm_name, answer}")
    bad: rows.Responses = {}
    for index, loser in enumerate(losers):
        bad |= _answer(loser, f"loser_list[{index}]", context)
    return "best-of-n", best, bad


def _answer(value: object, name: str, context: Context) -> rows.Responses:
    if not isinstance(value, dict):
        raise context.wrong(name, value, "an object {llm_name, answer}")
    answer = fields.required(value, "answer", context, name)
    return rows.text_response(answer, f"{name}.answer", context)


def rule(items: ScoredItems) -> Outcomes:
    """Best-of-n and pairs of helpfulness and harmlessness; `overall` is the mean of these four."""
    sections = {}
    for goal in ("Helpfulness", "Harmlessness"):
        for protocol in ("best-of-n", "pairs"):
            # Items are pooled over categories: a category counts by its size.
            counts: dict[str, float] = {}
            for name in sorted(set(items.subsets)):
                if name.startswith(protocol) and goal in name:
                    counts[name] = items.subsets.count(name)
            if counts:
                sections[f"{goal}/{protocol}"] = weighted(counts)
    return accuracies(items, wins, sections, even(sections))


FORMAT = Format(
    "candidates",
    parse,
    "{conversation_input, chosen and reject or bon_best and loser_list, category_path}",
    signs=frozenset({"conversation_input"}),
)
RMB = Benchmark(
    "rmb", "RMB", FORMAT, rule, ("overall", "Helpfulness/best-of-n", "Harmlessness/best-of-n")
)
