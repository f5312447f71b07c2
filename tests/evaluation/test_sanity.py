"""Sanity tests pass on what is right, and each planted fault fails with its cause named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig

from smorm import RewardModel
from smorm.data.census import Census
from smorm.data.reading import Source, read_preferences
from smorm.data.records import Item
from smorm.errors import DataError
from smorm.evaluation.inspector import head_notes
from smorm.evaluation.result import Result, read_results
from smorm.evaluation.sanity import check_sanity
from smorm.model.export import export_view
from smorm.model.network import Batch, RewardNetwork
from smorm.text.chat import Message
from tests.tiny import trained, world


@pytest.fixture(scope="module")
def items() -> list[Item]:
    source = Source(world()["eval-pairs-ID"])
    return [pair.item for pair in read_preferences(source, census=Census())][:40]


def model() -> RewardModel:
    return RewardModel.load(trained())


@pytest.fixture(scope="module")
def found_of_items(items) -> Result:
    """What is found of the trained model and its default view: leave it as it is."""
    return check_sanity(model(), items)


def pairs_of(*triples: tuple[str, str, str]) -> list[Item]:
    return [
        Item((Message("user", p),), ((Message("assistant", a),), (Message("assistant", b),)))
        for p, a, b in triples
    ]


@pytest.fixture
def spoiled(tmp_path) -> Callable[..., RewardModel]:
    """A copy of the model as of others (no card of ours), with another template or head."""

    def make(template: Callable[[str], str] = str, head: Callable = torch.clone) -> RewardModel:
        folder = shutil.copytree(trained(), tmp_path / "out")
        for name in ("manifest.json", "smorm.json"):
            (folder / name).unlink()
        file = folder / "chat_template.jinja"
        file.write_text(template(file.read_text()))
        weights = load_file(folder / "model.safetensors")
        weights["score.weight"] = head(weights["score.weight"]).contiguous()
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return RewardModel.load(folder)

    return make


# What is right


@pytest.mark.parametrize("view", [None, "F", "L"])
def test_a_trained_model_passes_every_test(items, found_of_items, view):
    result = check_sanity(model(), items, view) if view else found_of_items
    assert result.failures == ()
    assert not any("untrained" in note for note in result.notes)
    values = {name: metric.value for name, metric in result.metrics.items()}
    assert values["finite"] == values["raw"] == 1.0
    assert values["swapped"] == 0.0
    assert 0.2 < values["shuffled"] < 0.8
    assert {f"equal/{what}" for what in ("responses", "prompts", "last_word", "response")} <= {
        name for name, value in values.items() if value == 0.0
    }
    assert values["batch_difference"] < 1e-4
    assert 0 < values["plain_difference"] < 1e-4
    assert result.metrics["swapped"].n == len(items)


def test_the_result_can_be_written_and_read_again(found_of_items, tmp_path):
    result = found_of_items
    result.write(tmp_path / "r.json")
    (again,) = read_results(tmp_path / "r.json")
    assert again.kind == "sanity"
    assert again.failures == result.failures
    assert again.checks == result.checks
    assert again.metrics.keys() == result.metrics.keys()


def test_the_same_seed_gives_the_same_numbers(items):
    loaded, few = model(), items[:16]
    first, again, other = (check_sanity(loaded, few, seed=seed) for seed in (1, 1, 2))
    assert first.metrics == again.metrics
    assert first.metrics["shuffled"] != other.metrics["shuffled"]


def test_a_large_suite_is_sampled_and_says_so(items):
    many = items * 6
    result = check_sanity(model(), many)
    assert result.metrics["swapped"].n == 200
    assert f"200 of {len(many)} pairs were drawn." in result.notes


def test_pairs_that_do_not_fit_are_left_out_and_counted(items):
    long = pairs_of(("word " * 400, "one answer", "another"))
    result = check_sanity(model(), [*items[:5], *long])
    assert result.metrics["swapped"].n == 5
    assert "1 pairs could not be scored: left out." in result.notes
    with pytest.raises(DataError, match="no pair could be scored"):
        check_sanity(model(), long)


def test_items_with_one_response_are_refused(items):
    with pytest.raises(DataError, match="fewer than two responses"):
        check_sanity(model(), [replace(items[0], responses=items[0].responses[:1])])


def test_every_test_says_what_was_expected_and_seen_and_few_equal_scores_are_allowed(
    items, found_of_items
):
    result = found_of_items
    assert [check.test for check in result.checks] == list(result.metrics)
    assert all(check.passed for check in result.checks)
    by_test = {check.test: check for check in result.checks}
    # 5 % and 3.29 standard errors of it: sqrt(0.05 * 0.95 / 40) is 3.4 %
    assert by_test["equal/responses"].expected == "at most 16% equal"
    assert by_test["equal/responses"].observed == "0 of 40"
    assert by_test["shuffled"].expected.startswith("0.5 ± 0.2")
    # one pair of ten that holds the same words in another case is no failing model
    doubled = pairs_of(*[("what is it", "the sun", "the sun ")])
    assert check_sanity(model(), [*items[:9], *doubled]).failures == ()


# Planted faults


def failed(result: Result) -> dict[str, str]:
    """Test to cause."""
    return {failure.test: failure.text for failure in result.failures}


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("rows", [1, 6])
def test_pad_as_eos_is_named_on_a_model_of_others_and_gone_once_exported(
    items, tmp_path, data_folder, rows
):
    source = data_folder / "stories260k" / "hf"
    torch.manual_seed(0)
    names = {0: "preference"} | {index: f"LABEL_{index}" for index in range(1, rows)}
    theirs = AutoModelForSequenceClassification.from_pretrained(
        source, id2label=names, problem_type="regression"
    )
    theirs.save_pretrained(tmp_path / "theirs")
    AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path / "theirs")
    loaded = RewardModel.load(tmp_path / "theirs")
    found = check_sanity(loaded, items[:10])
    assert list(failed(found)) == ["plain_difference"]
    cause = failed(found)["plain_difference"]
    assert "pad token '</s>', which is also the EOS" in cause
    assert "35352" in cause
    assert any("look untrained: preference" in note for note in found.notes)
    parts = (loaded.network, loaded.tokenizer, loaded.card, loaded.view("F"))
    folder = export_view(tmp_path / "ours", *parts).folder
    assert check_sanity(RewardModel.load(folder), items[:10]).failures == ()


def test_a_template_that_drops_the_response_is_named(items, spoiled):
    loop = "for message in messages"
    bad = spoiled(lambda text: text.replace(loop, f"{loop}[:1]"))
    found = failed(check_sanity(bad, items))
    assert {"equal/responses", "equal/last_word", "equal/response"} <= found.keys()
    assert "equal/prompts" not in found
    assert "template: 40 of 40 different texts become the same tokens" in found["equal/responses"]


def test_a_template_that_drops_the_prompt_is_named(items, spoiled):
    loop = "for message in messages"
    bad = spoiled(lambda text: text.replace(loop, f"{loop}[-1:]"))
    found = failed(check_sanity(bad, items))
    assert list(found) == ["equal/prompts"]
    assert "another prompt changes no score" in found["equal/prompts"]
    assert "template: " in found["equal/prompts"]


def test_a_head_of_zeros_is_named(items, spoiled):
    result = check_sanity(spoiled(head=torch.zeros_like), items)
    found = failed(result)
    assert {"equal/responses", "equal/prompts"} <= found.keys()
    assert "head: the row of view F is all zeros" in found["equal/responses"]
    assert any("constant (not trained): preference" in note for note in result.notes)
    assert any("equal to each other" in note for note in result.notes)


class ByPlace(RewardNetwork):
    """The score depends on the place in the batch."""

    def forward(self, batch: Batch) -> torch.Tensor:
        scores = super().forward(batch)
        return scores - torch.arange(len(scores))[:, None]


class Squashed(RewardNetwork):
    """An activation behind the head."""

    def forward(self, batch: Batch) -> torch.Tensor:
        return super().forward(batch).sigmoid()


class Broken(RewardNetwork):
    """Broken weights."""

    def forward(self, batch: Batch) -> torch.Tensor:
        return super().forward(batch) * float("nan")


def wearing(kind: type[RewardNetwork]) -> RewardModel:
    loaded = model()
    loaded.network.__class__ = kind
    return loaded


def test_a_score_that_depends_on_its_place_is_named(items):
    found = failed(check_sanity(wearing(ByPlace), items, "F"))
    assert {"swapped", "shuffled", "batch_difference"} <= found.keys()
    assert "keep their winner" in found["swapped"]
    assert "the side that comes first" in found["shuffled"]


def test_an_activation_behind_the_head_is_named(items):
    found = failed(check_sanity(wearing(Squashed), items))
    assert "activation: the scores are not the head's output but between 0 and 1" in found["raw"]
    assert "swapped" not in found


def test_scores_that_are_not_finite_end_the_tests(items):
    result = check_sanity(wearing(Broken), items)
    assert result.metrics["finite"].value == 0.0
    assert failed(result)["finite"].startswith("finite: weights: ")


def test_prompts_that_differ_only_where_they_are_cut_are_named(items):
    loaded = model()
    loaded.card = replace(loaded.card, overlong="truncate_prompt")
    answers = [message.content for message in (items[0].responses[0] + items[0].responses[1])]
    words = items[0].prompt[0].content.split()
    first, second, third, filler = list(dict.fromkeys(words))[:4]
    pairs = pairs_of(
        *((f"{word} " * 30 + f"{filler} " * 300, *answers) for word in (first, second, third))
    )
    found = failed(check_sanity(loaded, pairs))
    assert list(found) == ["equal/prompts"]
    assert (
        "truncation: 3 of 3 conversations are longer than the limit of 256"
        in (found["equal/prompts"])
    )


def test_words_that_the_vocabulary_does_not_know_are_named():
    texts = [("猫是什么", "一种动物", "一种植物"), ("狗是什么", "朋友", "敌人")]
    found = failed(check_sanity(model(), pairs_of(*texts)))
    assert "tokenizer: " in found["equal/responses"]
    assert "does not know" in found["equal/responses"]


def test_another_folder_than_the_model_in_memory_is_not_compared(items):
    loaded = model()
    loaded.network.head.weight.data *= 2
    result = check_sanity(loaded, items[:5])
    assert "plain_difference" not in result.metrics
    assert any("holds another head" in note for note in result.notes)
    loaded.name = str(Path("no") / "such" / "folder")
    assert any("no such" in note for note in check_sanity(loaded, items[:5]).notes)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), width=st.sampled_from([512, 2048]))
def test_a_fresh_head_is_suspected_and_a_trained_one_is_not(seed, width):
    torch.manual_seed(seed)
    normal = torch.randn(1, width) * 0.02
    uniform = torch.nn.Linear(width, 1, bias=False).weight
    for row in (normal, uniform):
        (note,) = head_notes(row, ["preference"], LlamaConfig())
        assert "look untrained" in note
        assert head_notes(row, ["preference"], None) == []  # known to be trained
    grown = torch.randn(1, width) * 0.035 + 0.02
    assert head_notes(grown, ["preference"], LlamaConfig()) == []
