"""Rows as other people's files have them, each with what its source has to say of it."""

from __future__ import annotations

import json
from typing import Any

from tests.data.benchmark_rows import GOOD
from tests.data.sources import A, S, U, say

CALL = {"id": "c1", "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city":"Oslo"}'}}  # fmt: skip
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]
WEATHER = [{"role": "user", "content": "Weather in Oslo?"},
           {"role": "assistant", "content": None, "tool_calls": [CALL]},
           {"role": "tool", "tool_call_id": "c1", "content": '{"t":3}'}]  # fmt: skip
RATINGS = {"helpfulness": 3, "correctness": 4, "coherence": 4, "complexity": 2, "verbosity": 1}
SIDES = {"chosen": "It is tea.", "rejected": "It is coal."}


def gpt(*turns: tuple[str, str]) -> list[dict[str, str]]:
    """Messages as ShareGPT spells them."""
    return [{"from": name, "value": value} for name, value in turns]


def parts(text: str) -> list[dict[str, Any]]:
    """A content as a list of one text part, with the keys of a table of mixed parts."""
    return [{"type": "text", "text": text, "image": None, "mimeType": None}]


def spoken(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


TRANSCRIPT = "\n\nHuman: Say hi\n\nAssistant: "
PKU = {"prompt": "How do I pick a lock?", "response_0": "Use a tension wrench.",
       "response_1": "I cannot help.", "is_response_0_safe": False, "is_response_1_safe": True,
       "better_response_id": 0, "safer_response_id": 1}  # fmt: skip
SHP = {"post_id": "a1", "domain": "askx_train", "history": "Why is the sky blue?",
       "human_ref_A": "Rayleigh scattering.", "human_ref_B": "Paint.", "labels": 1, "score_A": 40,
       "score_B": 3, "score_ratio": 13.33}  # fmt: skip
HELPSTEER3 = {"domain": "general", "language": "english", "context": say((U, "Say hi")),
              "response1": "Hi!", "response2": "Hello, friend!", "overall_preference": 2,
              "individual_preference": [{"score": 2, "reasoning": "nicer"}]}  # fmt: skip
NECTAR = {"prompt": TRANSCRIPT, "num_responses": 3, "turns": 1, "good_natured": True,
          "answers": [{"answer": "Hi!", "model": "m1", "rank": 1.0},
                      {"answer": "Go away.", "model": "m2", "rank": 2.0},
                      {"answer": "...", "model": "m3", "rank": 3.0}]}  # fmt: skip
TWO_SCORES = {"prompt": "Add 1 and 1", "chosen": say((U, "Add 1 and 1"), (A, "2")),
              "rejected": say((U, "Add 1 and 1"), (A, "dunno")), "chosen-rating": 5.0,
              "rejected-rating": 2.0, "score_chosen": 9.0, "score_rejected": 2.0}  # fmt: skip
MAPPED = {"system": "", "history": [["Hi", "Hello"]], "question": "Is tea hot?",
          "response_chosen": "Usually.", "response_rejected": "Never."}  # fmt: skip
COLUMNS = {"prompt": "question", "chosen": "response_chosen", "rejected": "response_rejected",
           "history": "history", "system": "system"}  # fmt: skip
ARENA = {"question_id": "q", "model_a": "x", "model_b": "y", "winner": "model_b", "turn": 1,
         "conversation_a": say((U, "Name a colour."), (A, "Blue.")),
         "conversation_b": say((U, "Name a colour."), (A, "Sky."))}  # fmt: skip
ARENA_55K = {"id": "1", "model_a": "x", "model_b": "y",
             "prompt": '["Name a colour.","And one more?"]', "response_a": '["Blue.","Red."]',
             "response_b": '["Sky.","Sea."]', "winner_model_a": "1", "winner_model_b": "0",
             "winner_tie": "0"}  # fmt: skip
ULTRAFEEDBACK = {"source": "evol", "instruction": "Do it.", "models": ["m", "n"], "completions": [
    {"model": "m", "response": text, "critique": "good", "annotations":
     {"helpfulness": {"Rating": "5", "Rationale": "because"}, "honesty": {"Rating": "N/A"}}}
    for text in ("one", "two")]}  # fmt: skip
OPENAI = {"input": {"messages": say((U, "Hi")), "tools": TOOLS, "parallel_tool_calls": True},
          "preferred_output": say((A, "Hello!")),
          "non_preferred_output": say((A, "What."))}  # fmt: skip
UNIFIED = {"conv_A": say((U, "Sum"), (A, "two")), "conv_B": say((U, "Sum"), (A, "six")),
           "conv_A_rating": 2.0, "conv_B_rating": 1.0, "source": "argilla/summarize"}  # fmt: skip

SOURCES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # name: (row, the keys of its source)
    "preference": ({"prompt": "Why?", **SIDES, "margin": 2.0, "id": 7, "source": "s"}, {}),
    "system": ({"prompt": say((S, "Be kind."), (U, "Why?")), "chosen": say((A, "So.")),
                "rejected": say((A, "No."))}, {}),
    "implicit_prompt": ({"chosen": say((U, "q"), (A, "a")), "rejected": say((U, "q"), (A, "b"))},
                        {}),
    "prompt_messages": ({"prompt": "Human: q", "prompt_messages": say((U, "q")), **SIDES}, {}),
    "whole_texts": ({"chosen": "one whole text", "rejected": "another"}, {}),
    "alpaca": ({"instruction": "Translate to French", "input": "The cat sleeps.",
                "chosen": "Le chat dort.", "rejected": "Le chien dort."},
               {"format": "alpaca_preference"}),
    "alpaca_list": ({"instruction": "Translate", "input": "The cat.",
                     "output": ["Le chat.", "Chat.", "Dog."]},
                    {"format": "ranked", "label": "best_first",
                     "columns": {"prompt": ["instruction", "input"], "responses": "output"}}),
    "orca": ({"system": "You are terse.", "question": "Which planet is the largest?",
              "chosen": "Jupiter.", "rejected": "Mars."}, {"format": "orca_dpo"}),
    "orca_columns": ({"system": "You are terse.", "question": "Largest planet?",
                      "chosen": "Jupiter.", "rejected": "Mars."},
                     {"columns": {"prompt": "question"}, "ignore": ["system"]}),
    "messages_and_sides": ({"messages": say((U, "Multiply 1 by 3")), "chosen": "3",
                            "rejected": "4"}, {}),
    "hh": ({"chosen": TRANSCRIPT + "Hi!", "rejected": TRANSCRIPT + "Go."}, {"format": "hh_rlhf"}),
    "skywork": ({"chosen": say((U, "q"), (A, "a")), "rejected": say((U, "q"), (A, "b")),
                 "source": "magpie"}, {"format": "skywork"}),
    "sharegpt": ({"conversations": gpt(("human", "Name a fruit.")),
                  "chosen": gpt(("gpt", "A cherry."))[0], "rejected": gpt(("gpt", "A rock."))[0]},
                 {}),
    "sharegpt_system": ({"system": "Be kind.", "conversations": gpt(("human", "Name a fruit.")),
                         "chosen": gpt(("gpt", "A cherry."))[0],
                         "rejected": gpt(("gpt", "A rock."))[0], "tools": json.dumps(TOOLS)},
                        {"format": "sharegpt_preference"}),
    "content_parts": ({"prompt": [spoken(U, parts("Say 0"))], "chosen": [spoken(A, parts("0"))],
                       "rejected": [spoken(A, ["n", "o"])]}, {}),
    "roles": ({"prompt": [spoken("developer", "Be kind"), spoken("human", "Hi")],
               "chosen": [spoken("gpt", "Hello")], "rejected": [spoken("model", "No")]}, {}),
    "function": ({"prompt": [*WEATHER[:2], spoken("function", "3")], **SIDES}, {}),
    "side_object": ({"prompt": say((U, "Hi")), "chosen": spoken(A, "Hello!"),
                     "rejected": spoken(A, "What.")}, {}),
    "columns": (MAPPED, {"columns": COLUMNS}),
    "columns_inside": ({"doc": {"meta": {"ask": "Why?", "by": "me"}, "lang": "en"}, "key": "k1",
                        "out": {"good": "So.", "bad": "No."}},
                       {"columns": {"prompt": "doc.meta.ask", "chosen": "out.good",
                                    "rejected": "out.bad", "id": "key"}}),
    "columns_beside_their_name": ({"prompt": "a template", "question": "Why?", **SIDES},
                                  {"columns": {"prompt": "question"}}),
    "system_of_conversations": ({"system": "Be kind.", "chosen": say((U, "q"), (A, "a")),
                                 "rejected": say((U, "q"), (A, "b"))},
                                {"columns": {"system": "system"}}),
    "system_of_messages": ({"system": "Be kind.", "messages": say((U, "q"), (A, "a")),
                            "quality": 1}, {"columns": {"system": "system", "scores": "quality"}}),
    "pointwise": ({"query": "Explain 1", "response": "Physics.", "feedback": 0.1},
                  {"columns": {"prompt": "query", "scores": "feedback"}}),
    "raw_text_score": ({"text": "Essay number 1 is fine.", "score": 0.2},
                       {"columns": {"text": "text", "scores": "score"}}),
    "kto": ({"prompt": "Add 1 and 1", "completion": "2", "label": True}, {"format": "kto"}),
    "kto_messages": ({"messages": say((U, "Add"), (A, "2")), "label": False},
                     {"attributes": ["label"], "booleans": True}),
    "rejected_response": ({"messages": say((U, "Multiply"), (A, "3")), "rejected_response": "1"},
                          {}),
    "rejected_messages": ({"messages": say((U, "Multiply"), (A, "3")),
                           "rejected_messages": say((U, "Multiply"), (A, "1"))}, {}),
    "rejected_list": ({"prompt": "Multiply 1 by 3", "chosen": "3", "rejected": ["4", "5"]}, {}),
    "nectar": (NECTAR, {"format": "nectar"}),
    "ranked": ({**NECTAR, "prompt": "Say hi"},
               {"format": "ranked", "columns": {"responses": "answers"}}),
    "ranked_ratings": ({"prompt": "Say hi", "responses": ["Hi", "Go"], "ratings": [4, 2]},
                       {"format": "ranked"}),
    "distilabel": ({"instruction": "Say hi", "system_prompt": "Be kind.", "chosen": "Hi",
                    "rejected": "Go", "generations": ["Hi", "Go"], "order": ["a", "b"]},
                   {"format": "distilabel"}),
    "distilabel_ratings": ({"instruction": "Say hi", "generations": ["Hi", "Go"],
                            "ratings": [5, 1], "rationales": ["kind", "rude"]},
                           {"format": "distilabel_ratings"}),
    "pku": (PKU, {"format": "pku_saferlhf"}),
    "pku_safety": (PKU, {"format": "pku_saferlhf_safety"}),
    "shp": (SHP, {"format": "shp"}),
    "ab_words": ({"prompt": "Why?", "response_a": "So.", "response_b": "No.", "label": "tie"},
                 {"format": "ab"}),
    "ab_mapped": ({"q": "Why?", "one": "So.", "two": "No.", "vote": "first"},
                  {"format": "ab", "label": {"first": ["first"], "second": ["second"]},
                   "columns": {"prompt": "q", "response_a": "one", "response_b": "two",
                               "label": "vote"}}),
    "helpsteer3": (HELPSTEER3, {"format": "helpsteer3"}),
    "lmarena": (ARENA, {"format": "lmarena"}),
    "lmarena_140k": (
        {
            **ARENA,
            "winner": "model_a",
            "conversation_a": [spoken(U, parts("q")), spoken(A, parts("a"))],
            "conversation_b": [spoken(U, parts("q")), spoken(A, parts("b"))],
        },
        {"format": "lmarena"},
    ),
    "lmarena_55k": (ARENA_55K, {"format": "lmarena_55k"}),
    "two_scores": (TWO_SCORES, {"columns": {"margin": "chosen-rating - rejected-rating"}}),
    "two_scores_unread": (TWO_SCORES, {}),
    "string_scores": ({"prompt": "q 1", "response": "fine", "scores": {"help": "1", "true": "N/A"}},
                      {"na": ["N/A"], "numbers_in_text": True}),
    "prompt_as_json": ({"prompt": json.dumps(say((S, "Be kind."), (U, "Why?"))), **SIDES}, {}),
    "sides_as_json": ({"prompt": "Why?", "chosen": json.dumps(say((U, "Why?"), (A, "So."))),
                       "rejected": json.dumps(say((U, "Why?"), (A, "No.")))}, {}),
    "conversation_as_json": ({"conversations": json.dumps(gpt(("human", "q"), ("gpt", "a"))),
                              "quality": 1}, {"attributes": ["quality"]}),
    "raters": ({"prompt": "q 1", "response": "fine", "scores": {"help": [1, 2, None]}}, {}),
    "flat_scores": ({"prompt": "q", "response": "fine", **RATINGS}, {"format": "helpsteer2"}),
    "ultrafeedback": (ULTRAFEEDBACK, {"format": "ultrafeedback"}),
    "unified": (UNIFIED, {"format": "unified_feedback"}),
    "openai": (OPENAI, {"format": "openai_preference"}),
    "tools": ({"prompt": WEATHER, "chosen": say((A, "It is 3 degrees.")),
               "rejected": say((A, "It is 30.")), "tools": TOOLS}, {}),
    "tools_column": ({"prompt": say((U, "Weather?")), "chosen": say((A, "Call.")),
                      "rejected": say((A, "No idea.")), "tools": json.dumps(TOOLS)}, {}),
    "thinking": ({"prompt": "Why?", "chosen": [{**spoken(A, "So."), "reasoning_content": "look"}],
                  "rejected": "<think>\nlook\n</think>\n\nNo."}, {}),
    "template_inputs": ({"prompt": "Why?", **SIDES,
                         "chat_template_kwargs": {"document": "d1"}}, {}),
    "candidates": ({"id": "keep-1", "prompt": "Name a colour.", "responses": ["Blue.", "Sky."],
                    "model": "policy-7", "meta": {"lang": "en"}}, {}),
    "candidate_messages": ({"prompt": "Name a colour.",
                            "responses": [spoken(A, "Blue."), {"response": "Sky.", "by": "me"}]},
                           {}),
    "one_response": ({"uid": "x-9", "prompt": "Name a fruit.", "response": "Pear."}, {}),
    "conversation": ({"messages": say((U, "q"), (A, "a"), (U, "r"), (A, "b"))}, {}),
    "alpaca_eval": ({"dataset": "helpful", "instruction": "Name a colour.", "output": "Blue.",
                     "generator": "m1"},
                    {"columns": {"prompt": "instruction", "response": "output"}}),
    "openrlhf": ({"input": "Name a colour.", "output": "Blue."},
                 {"columns": {"prompt": "input", "response": "output"}}),
    "rm_bench": ({"id": 12, "prompt": "p", "chosen": ["c1", "c2", "c3"],
                  "rejected": ["r1", "r2", "r3"], "domain": "chat"}, {"format": "rm_bench"}),
    **{f"benchmark_{name}": (row, {"format": name}) for name, row in GOOD.items()},
}  # fmt: skip
"""One row of every shape and format that can be read."""
