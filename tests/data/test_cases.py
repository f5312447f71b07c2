"""Inputs such as others have (`foreign_rows.py`): each is read as meant, or refused by name."""

import json

import pytest

from smorm.data.census import Census, DropReason, Reason
from smorm.data.messages import Spelling
from smorm.data.reading import Source, parse_row
from smorm.errors import DataError
from smorm.text.chat import INPUTS, Message
from tests.data.foreign_rows import (
    ARENA,
    ARENA_55K,
    CALL,
    HELPSTEER3,
    MAPPED,
    NECTAR,
    PKU,
    SHP,
    SIDES,
    SOURCES,
    TOOLS,
    TWO_SCORES,
    spoken,
)  # fmt: skip
from tests.data.sources import A, S, U, jsonl, records, say, turns


def read(name, census=None, **changes):
    row, settings = SOURCES[name]
    return parse_row({**row, **changes}, "d:1", census or Census(), Source("d", **settings))


def pair_of(name, **changes):
    (pair,) = read(name, **changes)
    texts = [message.content for message in (*pair.chosen, *pair.rejected)]
    return [(message.role, message.content) for message in pair.prompt], texts


def unread(census):
    return {reason.detail for reason in census.totals() if reason.kind is
            DropReason.CONTENT_NOT_READ}  # fmt: skip


PAIRS = {
    "alpaca": ([(U, "Translate to French\nThe cat sleeps.")], ["Le chat dort.", "Le chien dort."]),
    "orca": ([(S, "You are terse."), (U, "Which planet is the largest?")], ["Jupiter.", "Mars."]),
    "messages_and_sides": ([(U, "Multiply 1 by 3")], ["3", "4"]),
    "sharegpt": ([(U, "Name a fruit.")], ["A cherry.", "A rock."]),
    "content_parts": ([(U, "Say 0")], ["0", "no"]),
    "roles": ([("developer", "Be kind"), (U, "Hi")], ["Hello", "No"]),
    "side_object": ([(U, "Hi")], ["Hello!", "What."]),
    "columns": ([(U, "Hi"), (A, "Hello"), (U, "Is tea hot?")], ["Usually.", "Never."]),
    "columns_inside": ([(U, "Why?")], ["So.", "No."]),
    "system_of_conversations": ([(S, "Be kind."), (U, "q")], ["a", "b"]),
    "rejected_response": ([(U, "Multiply")], ["3", "1"]),
    "rejected_messages": ([(U, "Multiply")], ["3", "1"]),
    "distilabel": ([(S, "Be kind."), (U, "Say hi")], ["Hi", "Go"]),
    "distilabel_ratings": ([(U, "Say hi")], ["Hi", "Go"]),
    "pku": ([(U, "How do I pick a lock?")], ["Use a tension wrench.", "I cannot help."]),
    "shp": ([(U, "Why is the sky blue?")], ["Rayleigh scattering.", "Paint."]),
    "ab_mapped": ([(U, "Why?")], ["So.", "No."]),
    "helpsteer3": ([(U, "Say hi")], ["Hello, friend!", "Hi!"]),
    "lmarena": ([(U, "Name a colour.")], ["Sky.", "Blue."]),
    "lmarena_140k": ([(U, "q")], ["a", "b"]),
    "ranked_ratings": ([(U, "Say hi")], ["Hi", "Go"]),
    "two_scores": ([(U, "Add 1 and 1")], ["2", "dunno"]),
    "prompt_as_json": ([(S, "Be kind."), (U, "Why?")], ["It is tea.", "It is coal."]),
    "sides_as_json": ([(U, "Why?")], ["So.", "No."]),
    "hh": ([(U, "Say hi")], ["Hi!", "Go."]),
}


@pytest.mark.parametrize("name", list(PAIRS))
def test_a_pair_is_read_as_it_was_meant(name):
    assert pair_of(name) == PAIRS[name]


def test_lmarenas_55k_battles_are_conversations():
    (pair,) = read("lmarena_55k")
    assert [message.content for message in pair.chosen] == ["Blue.", "And one more?", "Red."]
    census = Census()
    assert not read("lmarena_55k", census, winner_model_a="0", winner_tie="1")
    assert census[DropReason.JUDGED_TIE] == 1
    assert not read("lmarena_55k", census, response_b='["Sky.",null]')
    assert census[DropReason.NO_ANSWER] == 1
    with pytest.raises(DataError, match="winner_model_a: 2 of winner_model_a"):
        read("lmarena_55k", winner_model_b="1")
    row = {**ARENA_55K, "winner": ARENA["winner"]}
    with pytest.raises(DataError, match="it looks like format 'lmarena_55k'"):
        parse_row(row, "d:1", Census())


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (SOURCES["alpaca"][0], "instruction, input: not read, and the pair has no prompt"),
        (SOURCES["orca"][0], "system, question: not read, and the pair has no prompt"),
        (SOURCES["hh"][0], "looks like a transcript of format 'hh_rlhf'"),
        (MAPPED, "the row has: system, history, question"),
        (PKU, "it looks like format 'pku_saferlhf"),
        (SHP, "it looks like format 'shp'"),
        (HELPSTEER3, "it looks like format 'helpsteer3'"),
        (NECTAR, "it looks like format 'nectar'"),
        (ARENA, "'lmarena'"),
        (SOURCES["kto"][0], "it looks like format 'kto'"),
        (SOURCES["pointwise"][0], "prompt: missing; the row has: query, response, feedback"),
        (SOURCES["raw_text_score"][0], "the row has: text, score"),
        (SOURCES["alpaca_eval"][0], "the row has: dataset, instruction, output, generator"),
        (SOURCES["openrlhf"][0], "the row has: input, output"),
        ({"doc_id": 0, "doc": {"question": "6*7?"}, "resps": [["42"]]}, "the row has: doc_id, doc"),
        ({"question_id": 81, "choices": [{"turns": ["A blog."]}]}, "the row has: question_id"),
        ({"custom_id": "r1", "response": {"body": {}}}, "prompt: missing; the row has: custom_id"),
        ({"question": "q", "chosen": ["Blue."], "rejected": ["A stone."]}, "chosen[0]"),
        ({"prompt": [spoken(U, [{"type": "image_url", "image_url": "x"}])], **SIDES},
         "prompt[0].content[0]: a part of type 'image_url'; only text can be read"),
        ({"prompt": "p", "response": "r", "scores": {"help": "0"}},
         "scores.help: text '0', expected a number (numbers_in_text: true"),
        ({"prompt": "p", "response": "r", "scores": {"help": True}}, "booleans: true in the"),
    ],
)  # fmt: skip
def test_what_is_not_read_without_a_word_from_the_source_is_refused_by_name(row, problem):
    with pytest.raises(DataError) as caught:
        parse_row(row, "d:1", Census())
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ratings_of_every_spelling_are_read_and_counted():
    for name, scores in {
        "kto": {"label": 1.0}, "kto_messages": {"label": 0.0}, "pointwise": {"feedback": 0.1},
        "raw_text_score": {"score": 0.2}, "raters": {"help": 1.5},
        "string_scores": {"help": 1.0, "true": None}, "system_of_messages": {"quality": 1.0},
    }.items():  # fmt: skip
        (record,) = read(name)
        assert record.scores == scores, name
    census = Census()
    read("string_scores", census)
    read("raters", census)
    assert census[DropReason.RATING_NOT_AVAILABLE] == census[DropReason.SEVERAL_RATERS] == 1
    assert census.count(Reason(DropReason.RATING_CONVERTED, "text")) == 1
    (whole,) = read("raw_text_score")
    assert (whole.prompt, whole.response) == ((), turns(("text", "Essay number 1 is fine.")))
    assert [record.scores for record in read("pku_safety")] == [{"safe": 0.0}, {"safe": 1.0}]


def test_the_number_of_raters_is_kept_with_the_record_and_counted():
    scores = {"help": [1, 2, "N/A", None], "tone": [4, 4, 1], "one": 3}
    census = Census()
    (record,) = parse_row({"prompt": "p", "response": "r", "scores": scores}, "d:1", census,
                          Source("d", na=["N/A"]))  # fmt: skip
    assert record.scores == {"help": 1.5, "tone": 3.0, "one": 3.0}
    assert record.raters == {"help": 2, "tone": 3}
    assert census.count(Reason(DropReason.SEVERAL_RATERS, "3")) == 1


def test_an_answer_is_scored_whatever_its_rating_says():
    row = {"prompt": "p", "response": "r", "scores": {"help": "good", "tone": 2}}
    census = Census()
    (record,) = parse_row(row, "d:1", census, Source("d", every_response=True))
    assert record.response == turns((A, "r"))
    assert census[DropReason.RATING_UNREADABLE] == 1
    assert not unread(census)
    with pytest.raises(DataError, match=r"scores\.help: text 'good'"):
        parse_row(row, "d:1", Census())


JSON_TURNS = json.dumps(say((U, "Why?")))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": f"{JSON_TURNS} What is this?", **SIDES},
        {"prompt": JSON_TURNS[:-1], **SIDES},
        {"prompt": '[{"role": "admin", "content": "x"}]', **SIDES},
        {"prompt": '[{"role": "user", "name": "Bob"}]', **SIDES},
        {"prompt": '["Why?", "So?"]', **SIDES},
        {"prompt": '[1, {"role": "user", "content": "x"}]', **SIDES},
        {"prompt": "[]", **SIDES},
        {"prompt": "Why?", "chosen": json.dumps(say((A, "So."))), "rejected": "No."},
        {"prompt": "Why?", "chosen": JSON_TURNS, "rejected": JSON_TURNS.replace("Why", "How")},
    ],
)
def test_a_text_that_only_looks_like_messages_stays_one(row):
    (pair,) = parse_row(row, "d:1", census := Census())
    sides = [message.content for message in (*pair.prompt, *pair.chosen, *pair.rejected)]
    assert sides == [row["prompt"], row["chosen"], row["rejected"]]
    assert not census.total


def test_a_response_that_spells_messages_adds_no_turns():
    answer = json.dumps(say((U, "Thanks!"), (A, "You are welcome.")))
    (record,) = parse_row({"prompt": JSON_TURNS, "response": answer}, "d:1", census := Census())
    assert record.prompt == turns((U, "Why?"))
    assert record.responses == (turns((A, answer)),)
    assert census.count(Reason(Spelling.JSON_TEXT, "prompt")) == 1


def test_unread_keys_of_messages_in_json_text_are_named():
    census = Census()
    prompt = json.dumps([{"role": U, "content": "Why?", "note": "by me"}])
    parse_row({"prompt": prompt, **SIDES}, "d:1", census)
    assert unread(census) == {"prompt[].note"}


def test_labels_of_two_answers_give_a_side_a_margin_or_a_counted_tie():
    (pair,) = read("helpsteer3")
    assert pair.margin == 2.0
    (other,) = read("helpsteer3", overall_preference=-3)
    assert (other.chosen[0].content, other.margin) == ("Hi!", 3.0)
    census = Census()
    assert not read("helpsteer3", census, overall_preference=0)
    assert not read("ab_words", census)
    assert census[DropReason.JUDGED_TIE] == 2
    assert pair_of("shp", labels=0)[1] == ["Paint.", "Rayleigh scattering."]
    assert pair_of("pku", better_response_id=1)[1] == ["I cannot help.", "Use a tension wrench."]
    with pytest.raises(DataError, match="label: 1 could mean either answer: say label: signed"):
        read("ab_words", label=1)


def test_ranks_ratings_and_orders_give_a_pair_for_every_two_answers():
    best_first = [("Hi!", "Go away."), ("Hi!", "..."), ("Go away.", "...")]
    for name in ("nectar", "ranked"):
        pairs = [(pair.chosen[0].content, pair.rejected[0].content) for pair in read(name)]
        assert pairs == best_first
    assert len(read("alpaca_list")) == 3
    with pytest.raises(DataError, match="label: best_first where their order is the ranking"):
        parse_row({"prompt": "p", "responses": ["a", "b"]}, "d:1", Census(),
                  Source("d", "ranked"))  # fmt: skip
    census = Census()
    assert not read("ranked_ratings", census, ratings=[4, None])
    assert census[DropReason.IN_NO_PAIR] == 1
    assert [pair.rejected[0].content for pair in read("rejected_list")] == ["4", "5"]


def test_a_margin_of_two_columns_makes_ties_and_unread_scores_are_named(tmp_path):
    census = Census()
    rows = [TWO_SCORES, {**TWO_SCORES, "rejected-rating": 5.0}]
    settings = SOURCES["two_scores"][1]
    (pair,) = records(jsonl(tmp_path / "d.jsonl", rows), census=census, **settings)
    assert (pair.margin, census[DropReason.EQUAL_RATINGS]) == (3.0, 1)
    assert unread(census) == {"score_chosen", "score_rejected"}


def test_tools_and_calls_come_to_the_template_as_they_are():
    (pair,) = read("tools")
    carrier, question, call, result = pair.prompt
    assert (carrier.role, json.loads(carrier.content)) == (INPUTS, {"tools": TOOLS})
    assert call.as_dict()["tool_calls"] == [CALL]
    assert call.as_dict().get("content") is None
    assert json.loads(result.fields) == {"tool_call_id": "c1"}
    assert question == Message(U, "Weather in Oslo?")
    (written,) = read("tools_column")
    assert written.prompt[0] == carrier
    (thought,) = read("thinking")
    assert thought.chosen[0].as_dict()["reasoning_content"] == "look"


def test_spellings_of_messages_are_counted():
    census = Census()
    for name in ("sharegpt", "roles", "function", "content_parts"):
        read(name, census)
    for spelling in (Spelling.FROM_VALUE, Spelling.ROLE_MAPPED, Spelling.TEXT_PARTS,
                     Spelling.ONE_MESSAGE):  # fmt: skip
        assert census[spelling]


def test_a_column_in_whose_stead_another_is_read_is_named_by_its_own_name():
    census = Census()
    (pair,) = read("columns_beside_their_name", census)
    assert pair.prompt == turns((U, "Why?"))
    assert unread(census) == {"prompt"}
    census = Census()
    read("columns", census, question=[{"role": U, "content": "Is tea hot?", "note": "by me"}])
    assert unread(census) == {"question[].note"}


def test_candidates_may_be_messages_and_ids_are_kept():
    (record,) = read("candidate_messages")
    assert [response[0].content for response in record.responses] == ["Blue.", "Sky."]
    for identity in ("keep-1", 0.5, 7, True):
        (record,) = read("candidates", id=identity)
        assert record.id == identity
    assert say((A, "Blue.")) == [
        message.as_dict() for message in read("alpaca_eval")[0].responses[0]
    ]
