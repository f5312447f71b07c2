"""The comparison on real text, by its parts and by its command, on made-up data."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import text
from experiments.tasks import TASKS
from experiments.text_backbone import conversation, overlapping, read_corpus, windows
from experiments.text_measure import TextSuite, overall_rating, summarise
from experiments.text_rewards import Member, Reward, rewards_of, words
from experiments.text_runs import (
    METHODS,
    REFERENCE,
    ScoredRun,
    TextRun,
    choose_epochs,
    files_of_tests,
    make_run,
)
from smorm.checks.overlap import read_benchmarks
from smorm.data.records import Rated
from smorm.errors import DataError
from smorm.evaluation.accuracy import measure_pairs
from smorm.evaluation.metrics import bootstrap_means, interval, mean_over_seeds
from smorm.evaluation.result import Result, read_results
from smorm.text.chat import RAW, Message, Renderer
from smorm.text.tokenizers import train_bpe
from tests.experiments.made_up_text import LEAKED, documents, make_text_data, tiny_plan


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return tiny_plan(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def done(plan):
    """Two seeds of everything."""
    text.run_everything(plan)
    return plan


def test_a_document_with_marks_is_a_conversation_and_any_other_is_raw_text():
    assert conversation("Human: a\n\nb\n\nAssistant: c\n\nAssistant: d") == (
        Message("user", "a\n\nb"),
        Message("assistant", "c\n\nAssistant: d"),
    )
    for plain in ("Once upon a time", "Human: no answer", "x Human: a\n\nAssistant: b"):
        assert conversation(plain) == (Message(RAW, plain),)


def test_a_document_that_holds_a_test_answer_is_left_out_and_told(plan):
    corpus = read_corpus(plan.data / "pretrain_text" / "permissive.jsonl.gz", files_of_tests(plan))
    everything = [*corpus.training, *corpus.held_out]
    assert corpus.left_out == 1
    assert len(everything) == len(documents()) - 1
    assert not any(LEAKED in message.content for one in everything for message in one)
    assert corpus.overlap["truthfulqa_pairs"]["responses"] == 1
    assert corpus.overlap["alpaca_eval_bon"]["either"] == 0


def test_a_run_of_thirteen_words_within_a_document_is_found():
    run = " ".join(f"word{at}" for at in range(13))
    held = [Rated((Message("user", "ask"),), (Message("assistant", f"so {run} so"),), {"a": 1.0})]
    texts = [f"before {run} after", " ".join(f"word{at}" for at in range(12)), "nothing of it"]
    found = overlapping([conversation(one) for one in texts], read_benchmarks([("t", held)]))
    assert found == {0}


def test_windows_hold_each_document_at_most_once_and_depend_on_the_seed():
    docs = [conversation(one) for one in documents()[:40]]
    renderer = Renderer(train_bpe(documents(), 320))
    one, same, other = (windows(docs, renderer, 64, 10**6, seed) for seed in (0, 0, 1))
    total = sum(len(renderer.render(doc)) for doc in docs)
    assert one.size == total // 64 * 64
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    with pytest.raises(DataError, match="do not fill a window of 999999 tokens"):
        windows(docs, renderer, 999999, 1, 0)


def test_the_overall_rating_is_the_mean_of_the_ratings_in_units_of_training():
    def rated(**scores):
        return Rated((Message("user", "p"),), (Message("assistant", "r"),), scores)

    training = [rated(a=0.0, b=10.0), rated(a=2.0, b=30.0)]
    found = overall_rating([rated(a=3.0, b=20.0), rated(a=1.0), rated(b=40.0)], training)
    assert found == pytest.approx([1.0, 0.0, 2.0])


def _scored(plan, method, seed, values, epochs=1.0):
    run = make_run(plan, TASKS["ukp"], method, seed, epochs, plan.files("ukp"), plan.work)
    named = {name: [np.array(row) for row in column] for name, column in values.items()}
    by_view = dict.fromkeys(METHODS[method].views, named)
    return ScoredRun(TextRun(run, epochs, {}), by_view, {}, [], {}, {}, {}, [], 0.0, 0.0)


def test_the_epochs_with_the_best_validation_accuracy_are_chosen_and_the_fewer_of_equals(plan):
    right, wrong = {"validation": [[1.0, 0.0]]}, {"validation": [[0.0, 1.0]]}
    tried = [
        _scored(plan, "Single", 50, right, 2.0),
        _scored(plan, "Single", 50, right, 1.0),
        _scored(plan, "Single", 50, wrong, 0.5),
        _scored(plan, "GRM", 50, wrong, 1.0),
        _scored(plan, "GRM", 50, right, 2.0),
    ]
    found = choose_epochs(tried)["ukp"]
    assert {name: one["chosen"] for name, one in found.items()} == {"Single": 1.0, "GRM": 2.0}
    assert [row["criterion"] for row in found["Single"]["tried"]] == [0.0, 1.0, 1.0]


def test_members_of_an_ensemble_are_standardised_before_they_are_combined(plan):
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(20, 2))
    new = rng.normal(size=(5, 2))
    sets = {REFERENCE: reference, "new": new}
    wide = {name: 1000 * values + 7 for name, values in sets.items()}
    flat = {name: -values for name, values in sets.items()}
    finished = {
        (name, seed): _scored(plan, name, seed, wide if name == "Single" else flat)
        for name, seed in [*((name, 0) for name in METHODS), ("Single", 100)]
    }
    rewards = rewards_of(finished, 0, 2, [str(at) for at in range(20)])
    by_label = {(one.name, one.view): np.array(one.values("new")) for one in rewards}
    # Multi is Single turned around: on one scale they cancel out but for Single's offset.
    assert np.ptp(by_label["SM", "mean"]) == pytest.approx(0, abs=1e-9)
    both = by_label["Single × 2", "mean"]
    assert np.corrcoef(both.ravel(), new.ravel())[0, 1] == pytest.approx(1)
    assert rewards[0].is_baseline


def test_the_rule_that_the_longest_wins_counts_words():
    assert words(None, [[{"content": "a b  c"}], [{"content": ""}]]) == [3.0, 0.0]


def test_suites_tell_what_was_trained_on_from_what_was_measured():
    spellings = {
        "pairs/ID-ukp": TextSuite("pairs", "ukp", "ukp"),
        "pairs/OOD-truthfulqa-to-ukp": TextSuite("pairs", "truthfulqa", "ukp"),
    }
    for text_of_suite, suite in spellings.items():
        assert str(suite) == text_of_suite
        assert TextSuite.parse(text_of_suite) == suite


@pytest.mark.slow
def test_the_command_writes_every_reward_of_every_seed_on_every_set(done):
    results = read_results(done.output / "results.json")
    plain = {(one.suite, one.model, one.view, one.fingerprint.get("seed"))
             for one in results if one.kind in ("eval", "stress")}  # fmt: skip
    rewards = 11
    # Four sets of pairs and four of overall ratings, two of attributes by two models, and best-of-n
    # of two trainings, with the longest answer once in each.
    assert len(plain) == 2 * (8 * rewards + 2 * 2 + 2 * rewards) + 2
    kinds = {one.kind: one.suite.partition("/")[0] for one in results}
    assert kinds["training"] == "training"
    assert kinds["cost"] == "cost"
    costs = {(one.model, one.view): one.metrics for one in results if one.kind == "cost"}
    assert costs["SM", "mean"]["passes_per_score"].value == 2
    single = costs["Single", "F"]["training_tokens"].value
    assert costs["Single × 2", "min"]["training_tokens"].value > single


@pytest.mark.slow
def test_an_accuracy_is_that_of_the_kept_scores_and_the_summary_is_their_mean(done):
    results = [one for one in read_results(done.output / "results.json") if one.kind == "eval"]
    summary = json.loads((done.output / "summary.json").read_text(encoding="utf-8"))
    seeds = [
        one.metrics["accuracy"].value
        for one in results
        if (one.suite, one.model) == ("pairs/OOD-ukp-to-truthfulqa", "ODIN")
    ]
    row = summary["suites"]["pairs/OOD-ukp-to-truthfulqa"]["ODIN"]["accuracy"]
    assert row["seeds"] == pytest.approx(seeds)
    over = mean_over_seeds(seeds, 2)
    assert (row["value"], row["seeds_low"]) == pytest.approx((over.value, over.low))


@pytest.mark.slow
def test_best_of_n_by_length_finds_the_gold_that_goes_with_length(done):
    summary = json.loads((done.output / "summary.json").read_text(encoding="utf-8"))
    assert summary["pools"]["prompts_kept"] == 10
    assert summary["pools"]["answers_kept"] == 80
    row = summary["suites"]["best-of-n/OOD-ukp-to-alpaca_eval"]["longest answer"]
    # Gold is k / 8 of the k-th answer, and the answers grow with k.
    assert row["gold@8"]["value"] == pytest.approx(7 / 8)
    assert row["gold@1"]["value"] == pytest.approx(np.mean(np.arange(8) / 8))
    assert row["gain"]["difference"]["seeds"] != []


@pytest.mark.slow
def test_what_is_finished_is_used_again(done):
    models = {p: p.stat().st_mtime_ns for p in done.work.rglob("model.safetensors")}
    before = (done.output / "README.md").read_text(encoding="utf-8").partition("## Cost")[0]
    text.run_everything(replace(done, output=done.output.parent / "again"))
    again = (done.output.parent / "again" / "README.md").read_text(encoding="utf-8")
    assert again.partition("## Cost")[0] == before
    assert {p: p.stat().st_mtime_ns for p in done.work.rglob("model.safetensors")} == models
    assert "Single × 2 (min)" in before
    assert str(done.work) not in before


def test_without_data_it_says_so_in_one_line_and_writes_nothing(tmp_path, capsys):
    asked = ["--data", str(tmp_path / "none"), "--output", str(tmp_path / "out")]
    assert text.main(asked) == 0
    told = capsys.readouterr().out.strip()
    assert told == f"skipped: no data folder at {tmp_path / 'none'} (name it with --data)"
    assert not (tmp_path / "out").exists()


def test_a_data_folder_without_text_is_an_error_that_names_it(tmp_path, capsys):
    data = make_text_data(tmp_path / "data")
    (data / "pretrain_text" / "permissive.jsonl.gz").unlink()
    asked = ["--data", str(data), "--output", str(tmp_path / "out"), "--work", str(tmp_path / "w")]
    assert text.main(asked) == 3
    assert "permissive.jsonl.gz: no such file" in capsys.readouterr().err


def _pairs_result(model, seed, outcomes, prompts):
    chosen = np.asarray(outcomes, dtype=float)
    same = np.ones(len(chosen))
    measured = measure_pairs(
        chosen, 1 - chosen, prompts, chosen_lengths=same, rejected_lengths=same, length_unit="words"
    )
    return Result(
        "eval", "pairs/ID-ukp", model, "F", measured.metrics, fingerprint={"seed": seed},
        outcomes=measured.outcomes,
    )  # fmt: skip


@pytest.mark.slow
@given(st.lists(st.lists(st.booleans(), min_size=8, max_size=8), min_size=6, max_size=6))
def test_a_summary_is_the_mean_over_seeds_and_its_interval_that_of_averaged_outcomes(rows):
    prompts = [str(at // 2) for at in range(8)]
    table = np.array(rows, dtype=float)
    single, other = table[:3], table[3:]
    results = [
        _pairs_result(model, seed, values[seed], prompts)
        for seed in range(3)
        for model, values in (("Single", single), ("BSR", other))
    ]
    found = summarise(results)["pairs/ID-ukp"]
    row, gap = found["BSR"]["accuracy"], found["BSR"]["accuracy"]["difference"]
    assert "difference" not in found["Single"]["accuracy"]
    assert row["value"] == pytest.approx(other.mean())
    low, high = interval(bootstrap_means((other - single).mean(axis=0), prompts))
    assert (gap["low"], gap["high"]) == pytest.approx((low, high))
    over = mean_over_seeds((other - single).mean(axis=1).tolist(), 8)
    assert (gap["seeds_low"], gap["seeds_high"]) == pytest.approx((over.low, over.high))


def test_a_reward_of_one_part_is_that_part_as_it_is(plan):
    one = Reward("Single", "F", 0, (Member(_scored(plan, "Single", 0, {"x": [[1.0, 2.0]]}), "F"),))
    assert [list(values) for values in one.values("x")] == [[1.0, 2.0]]
