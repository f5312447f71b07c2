"""Public data sets that are one of the generic shapes under other names of columns.

The same can be said in a source: `columns:` and `label:` there win over what stands here.
"""

from smorm.data.formats import Format, ab, generic, ranked

ORCA_DPO = Format(
    "preference",
    generic.preference,
    "{system, question, chosen, rejected}",
    signs=frozenset({"question", "chosen", "rejected"}),
    columns={"system": "system", "prompt": "question"},
)
"""`Intel/orca_dpo_pairs`."""

ALPACA_PREFERENCE = Format(
    "preference",
    generic.preference,
    "{instruction, input, chosen, rejected, system?, history?}",
    signs=frozenset({"instruction", "chosen", "rejected"}),
    columns={"system": "system", "history": "history", "prompt": ["instruction", "input"]},
)
"""LLaMA-Factory's ranking files in alpaca shape; instruction and input are one question."""

SHAREGPT_PREFERENCE = Format(
    "preference",
    generic.preference,
    "{conversations, chosen, rejected, system?, tools?}",
    signs=frozenset({"conversations", "chosen", "rejected"}),
    columns={"system": "system", "prompt": "conversations"},
)
"""LLaMA-Factory's ranking files in sharegpt shape."""

OPENAI_PREFERENCE = Format(
    "preference",
    generic.preference,
    "{input: {messages, tools?}, preferred_output, non_preferred_output}",
    signs=frozenset({"input", "preferred_output", "non_preferred_output"}),
    columns={
        "prompt": "input.messages",
        "tools": "input.tools",
        "chosen": "preferred_output",
        "rejected": "non_preferred_output",
    },
)
"""Files of OpenAI's preference fine-tuning."""

DISTILABEL = Format(
    "preference",
    generic.preference,
    "{instruction, chosen, rejected}",
    signs=frozenset({"instruction", "generations", "chosen", "rejected"}),
    columns={"system": "system_prompt", "prompt": "instruction"},
)
"""Binarised data sets of distilabel."""

DISTILABEL_RATINGS = Format(
    "preference",
    ranked.parse,
    "{instruction, generations: [...], ratings: [...]}",
    signs=frozenset({"instruction", "generations", "ratings"}),
    columns={
        "system": "system_prompt",
        "prompt": "instruction",
        "responses": "generations",
    },
)
"""distilabel's judged generations: a pair for every two of different rating."""

HELPSTEER3 = Format(
    "preference",
    ab.parse,
    "{context, response1, response2, overall_preference}",
    signs=frozenset({"context", "response1", "response2", "overall_preference"}),
    columns={
        "prompt": "context",
        "response_a": "response1",
        "response_b": "response2",
        "label": "overall_preference",
    },
    labels="signed",
)
"""`nvidia/HelpSteer3`: below 0 the first response is better; the size is the margin, 0 a tie."""

PKU_SAFERLHF = Format(
    "preference",
    ab.parse,
    "{prompt, response_0, response_1, better_response_id}",
    signs=frozenset({"prompt", "response_0", "response_1", "better_response_id"}),
    columns={
        "response_a": "response_0",
        "response_b": "response_1",
        "label": "better_response_id",
    },
    labels="index",
)
"""`PKU-Alignment/PKU-SafeRLHF`; with `columns: {label: safer_response_id}` the safer one."""

SHP = Format(
    "preference",
    ab.parse,
    "{history, human_ref_A, human_ref_B, labels}",
    signs=frozenset({"history", "human_ref_A", "human_ref_B", "labels"}),
    columns={
        "prompt": "history",
        "response_a": "human_ref_A",
        "response_b": "human_ref_B",
        "label": "labels",
    },
    labels="first_better",
)
"""`stanfordnlp/SHP`: the label is 1 where the first comment has more votes."""

KTO = Format(
    "rated",
    generic.rated,
    "{prompt, completion, label: true or false}",
    signs=frozenset({"prompt", "completion", "label"}),
    columns={"response": "completion"},
    attributes={"label": "label"},
    booleans=True,
)
"""TRL's unpaired shape: the rating `label` is 1 where the completion is a good one, else 0."""
