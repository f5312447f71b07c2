"""The published schemas of the reward-model benchmarks, row by row."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smorm.data.census import Census, DropReason, Reason
from smorm.data.formats import FORMATS
from tests.data.benchmark_rows import HH, JB, LB, MT, OTHER, PAIR, PC, PH, R2, RB, RP, TALK
from tests.data.sources import A, S, U, jsonl, law, raw, records, say, turns

JUDGED = [name for name in FORMATS if FORMATS[name].kind == "candidates"]
JUDGED.remove("candidates")
CLEAN = st.text(max_size=20).filter(lambda text: text.strip() == text and text)


def not_read(*names: str, count: int) -> dict[Reason, int]:
    return {Reason(DropReason.NOT_READ, name): count for name in names}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "d.jsonl"


def texts(record):
    return [response[-1].content for response in record.responses]


def one(path, row, form, census=None):
    (record,) = records(jsonl(path, [row]), format=form, census=census)
    return record


@pytest.mark.parametrize("form", [name for name in JUDGED if name != "rm_bench"])
def test_every_benchmark_takes_a_converted_pair(path, form):
    subset = "shp" if form == "pref_sets" else "s"
    record = one(path, {**PAIR, "subset": subset}, form)
    assert (record.prompt, texts(record), record.chosen) == (turns((U, "p")), ["c", "r"], 1)
    assert (record.id, record.source) == ("7", subset)


def test_rm_bench_takes_a_converted_row(path):
    row = {**PAIR, "chosen": ["a", "b", "c"], "rejected": ["d", "e", "f"], "subset": "math"}
    record = one(path, row, "rm_bench")
    assert (texts(record), record.chosen, record.source) == (list("abcdef"), 3, "math")
    assert one(path, {**row, "subset": "xstest-should-refuse"}, "rm_bench").source is None


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("c", "r", ["c", "r"]),
        (["c", "d"], "r", ["c", "d", "r"]),
        (say((A, "c")), ["r", "s"], ["c", "r", "s"]),
        ([say((A, "c")), say((A, "d"))], [say((A, "r"))], ["c", "d", "r"]),
        ([say((A, "c")), "d"], ["r"], ["c", "d", "r"]),
        (say((U, "p"), (A, "c")), say((U, "p"), (A, "r")), ["c", "r"]),
    ],
)
def test_a_side_is_text_or_messages_or_a_list_of_them(path, chosen, rejected, expected):
    record = one(path, {"prompt": "p", "chosen": chosen, "rejected": rejected}, "best_of_k")
    assert texts(record) == expected
    assert record.chosen == expected.index("r")
    assert record.prompt == turns((U, "p"))


def test_whole_conversations_share_their_beginning_as_the_prompt(path):
    before = ((S, "be kind"), (U, "q"), (A, "a"), (U, "more"))
    row = {"chosen": say(*before, (A, "c")), "rejected": say(*before, (A, "r"))}
    record = one(path, row, "best_of_k")
    assert (record.prompt, texts(record)) == (turns(*before), ["c", "r"])


def test_prompt_messages_win_over_the_prompts_text(path):
    asked = say((U, "q"), (A, "a"), (U, "more"))
    record = one(path, {**PAIR, "prompt_messages": asked}, "best_of_k")
    assert record.prompt == turns((U, "q"), (A, "a"), (U, "more"))


def test_raw_texts_without_a_prompt_stay_raw(path):
    record = one(path, {"chosen": "c", "rejected": "r"}, "best_of_k")
    assert (record.prompt, record.responses) == ((), (turns(("text", "c")), turns(("text", "r"))))


def test_correct_responses_come_first(path):
    row = {"prompt": "p", "responses": ["a", "b", {"response": "c"}], "correct": [False, 1, True]}
    record = one(path, {**row, "id": 3.0, "source": "math"}, "best_of_k")
    assert (texts(record), record.chosen) == (["b", "c", "a"], 2)
    assert (record.id, record.source) == ("3", "math")


@law
@given(st.lists(st.tuples(CLEAN, st.booleans()), min_size=2, max_size=9))
def test_the_reordering_is_stable_and_loses_nothing(tmp_path_factory, given):
    path = tmp_path_factory.mktemp("law") / "d.jsonl"
    row = {"prompt": "p", "responses": [text for text, _ in given],
           "correct": [right for _, right in given]}  # fmt: skip
    right = [text for text, is_right in given if is_right]
    wrong = [text for text, is_right in given if not is_right]
    census = Census()
    rows = [row, {**PAIR, "chosen": "kept"}]
    found = records(jsonl(path, rows), format="best_of_k", census=census)[:-1]
    if right and wrong:
        assert [(texts(r), r.chosen) for r in found] == [(right + wrong, len(right))]
        assert census[DropReason.EQUAL_RESPONSES] == (not set(right).isdisjoint(wrong))
    else:
        assert (found, census[DropReason.JUDGED_ALIKE]) == ([], 1)


@law
@given(st.lists(CLEAN, min_size=1, max_size=5), st.lists(CLEAN, min_size=1, max_size=5))
def test_lists_of_responses_keep_their_order(tmp_path_factory, good, bad):
    path = tmp_path_factory.mktemp("law") / "d.jsonl"
    record = one(path, {"prompt": "p", "chosen": good, "rejected": bad}, "best_of_k")
    assert (texts(record), record.chosen) == (good + bad, len(good))


def test_empty_and_equal_responses_are_kept_and_counted(path):
    census = Census()
    rows = [{**PAIR, "rejected": ""}, {**PAIR, "chosen": ["x", "r"]}, PAIR]
    found = records(jsonl(path, rows), format="best_of_k", census=census)
    assert [texts(record) for record in found] == [["c", ""], ["x", "r", "r"], ["c", "r"]]
    assert census.totals() == {
        Reason(DropReason.EMPTY_RESPONSE): 1,
        Reason(DropReason.EQUAL_RESPONSES): 1,
    }


def test_ids_become_text_and_nan_is_no_id(tmp_path):
    import pyarrow as arrow
    from pyarrow import parquet

    rows = [{**PAIR, "id": 4.0, "subset": None, "source": "a"}, {**PAIR, "id": float("nan")}]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "d.parquet")
    found = records(tmp_path / "d.parquet", format="best_of_k")
    assert [(record.id, record.source) for record in found] == [("4", "a"), (None, "s")]


def test_a_prior_sets_turns_take_their_roles_by_place(path):
    row = {"prompt": say(("human", "q"), ("gpt", "a"), ("human", "more")), "chosen": "c",
           "rejected": "r", "subset": "helpful-base"}  # fmt: skip
    record = one(path, row, "pref_sets")
    assert (record.prompt, record.source) == (turns((U, "q"), (A, "a"), (U, "more")), None)
    assert one(path, {**row, "prompt": ["q", "a", "more"]}, "pref_sets").prompt == record.prompt


def test_rewardbench_2_keeps_all_right_answers_first(path):
    record = one(path, R2, "rewardbench2")
    assert (texts(record), record.chosen, record.id, record.source) == (
        ["a", "b", "c"], 2, "tied:4", "Ties",
    )  # fmt: skip


def test_rmbs_pairs_and_best_of_n_are_told_apart_by_their_fields(path):
    pair, best = records(jsonl(path, [RP, RB]), format="rmb")
    assert (texts(pair), pair.chosen, pair.id) == (["a", "b"], 1, "9")
    assert pair.source == "pairs/Harmlessness/S1"
    assert (texts(best), best.chosen, best.id) == (["a", "b", "c", "d"], 1, "8")
    assert best.source == "best-of-n/Helpfulness/Chat/Discussion"
    assert best.prompt == turns((U, "q"), (A, "r"), (U, "s"))


def test_rmb_without_a_path_still_says_which_kind_it_is(path):
    rows = [{k: v for k, v in row.items() if k != "category_path"} for row in (RP, RB)]
    rows[0]["rejected"] = rows[0].pop("reject")
    assert [r.source for r in records(jsonl(path, rows), format="rmb")] == ["pairs", "best-of-n"]


@pytest.mark.parametrize(("label", "expected"), [("A>B", ["a", "b"]), ("B>A", ["b", "a"])])
def test_judgebench_puts_the_labelled_response_first(path, label, expected):
    record = one(path, {**JB, "label": label}, "judgebench")
    assert (texts(record), record.id, record.source) == (expected, "j", "livebench-math")


def test_llmbar_puts_the_labelled_output_first(path):
    first, second = records(jsonl(path, [{**LB, "label": 1}, LB]), format="llmbar")
    assert (texts(first), texts(second), first.source) == (["a", "b"], ["b", "a"], None)


def test_hhhs_transcripts_become_turns(path):
    text = "one\n\nAssistant:  two\n\nlines\n\nHuman:  three"
    record = one(path, {**HH, "input": text}, "hhh")
    assert record.prompt == turns((U, "one"), (A, "two\n\nlines"), (U, "three"))
    assert (texts(record), record.chosen) == (["b", "a"], 1)
    invited = one(path, {**HH, "input": text + "\n\nAssistant:"}, "hhh")
    assert invited.prompt == record.prompt
    converted = one(path, {**PAIR, "prompt": text}, "hhh")
    assert converted.prompt == record.prompt


def test_ppe_puts_the_winner_first_and_counts_ties(path):
    census = Census()
    rows = [PH, {**PH, "winner": "tie"}, {**PH, "winner": "model_a"},
            {**PH, "winner": "tie (bothbad)"}]  # fmt: skip
    found = records(jsonl(path, rows), format="ppe_human", census=census)
    assert [texts(record) for record in found] == [["b", "a"], ["a", "b"]]
    assert (found[0].id, found[0].source, census.totals()) == (
        "x",
        None,
        {**not_read("model_a", "model_b", "language", count=2), Reason(DropReason.JUDGED_TIE): 2},
    )


def test_arena_sets_have_other_names_for_the_answers(path):
    answers = {"response_a": "a", "response_b": "b"}
    row = {k: v for k, v in PH.items() if k not in ("response_1", "response_2")}
    assert texts(one(path, {**row, **answers}, "ppe_human")) == ["b", "a"]
    asked = say((U, "q"), (A, "r"), (U, "s"))
    assert one(path, {**PH, "prompt": asked}, "ppe_human").prompt == turns(
        (U, "q"), (A, "r"), (U, "s")
    )
    whole = {"question_id": "z", "winner": "model_b", "conversation_a": TALK,
             "conversation_b": OTHER}  # fmt: skip
    record = one(path, whole, "ppe_human")
    assert record.prompt == turns((U, "q"))
    assert record.responses[0] == turns((A, "b1"), (U, "more"), (A, "b2"))


def test_ppes_correct_responses_come_first(path):
    census = Census()
    rows = [PC, {**PC, "benchmark": "ifeval"}, {**PC, "scores": [0, 0, 0]}]
    first, second = records(jsonl(path, rows), format="ppe_correctness", census=census)
    assert (texts(first), first.chosen, first.id) == (["b", "c", "a"], 2, "5")
    assert (first.source, second.source, census.totals()) == (
        None,
        "ifeval",
        {**not_read("model_name", count=3), Reason(DropReason.JUDGED_ALIKE): 1},
    )


def test_mt_bench_reads_a_conversation_up_to_the_judged_turn(path):
    first, second = records(jsonl(path, [MT, {**MT, "turn": 2}]), format="mt_bench")
    assert (first.prompt, first.responses) == (
        turns((U, "q")),
        (turns((A, "b1")), turns((A, "a1"))),
    )
    assert second.prompt == turns((U, "q"))
    assert second.responses[0] == turns((A, "b1"), (U, "more"), (A, "b2"))
    assert first.id == "81"


def test_what_both_conversations_share_is_the_prompt(path):
    row = {**MT, "turn": 2, "winner": "model_a",
           "conversation_b": [*TALK[:3], *say((A, "b2"))]}  # fmt: skip
    record = one(path, row, "mt_bench")
    assert record.prompt == turns((U, "q"), (A, "a1"), (U, "more"))
    assert texts(record) == ["a2", "b2"]


def test_a_tie_is_never_a_win_of_either_side(path):
    census = Census()
    rows = [{**MT, "winner": winner} for winner in ("tie", "tie (inconsistent)", "both_bad")]
    found = records(jsonl(path, [*rows, MT]), format="mt_bench", census=census)
    later = [f"conversation_{side}[2:], turns after the judged one" for side in "ab"]
    expected = {**not_read("model_a", "model_b", "judge", *later, count=1)}
    assert (len(found), census.totals()) == (1, expected | {Reason(DropReason.JUDGED_TIE): 3})


def test_rm_bench_marks_its_three_chosen_and_needs_no_domain_in_a_domains_file(tmp_path):
    row = {"id": 1, "prompt": "p", "chosen": ["a", "b", "c"], "rejected": ["d", "e", "a"],
           "subset": "alpacaeval"}  # fmt: skip
    census = Census()
    path = raw(tmp_path / "chat_filtered.json", json.dumps([row]).encode())
    (record,) = records(path, format="rm_bench", census=census)
    assert (record.chosen, record.source, census[DropReason.EQUAL_RESPONSES]) == (3, None, 1)
