"""The model card: front matter that the hub's library reads, facts of the files, honest words."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from smorm.errors import ConfigError, DataError, ModelError
from smorm.evaluation.metrics import Metric
from smorm.evaluation.result import Result
from smorm.model.card import read_card
from smorm.report.card import code, fenced, model_card, plain
from smorm.report.facts import hub_ids, read_facts
from tests.report.made_up import hacked, near, rising, runs
from tests.tiny import trained


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder as training left it, under a name that can be read."""
    folder = tmp_path_factory.mktemp("card") / "joint-0"
    shutil.copytree(trained("joint").parent, folder)
    return folder


def own_results(facts):
    accuracy = {"accuracy": near(0.7), "length_correlation": near(0.1)}
    results = [
        Result("eval", f"pairs/{name}", "SMORM", "F", accuracy, [], {"model": facts.hashes})
        for name in ("ID", "OODtopic")
    ]
    rated = {"spearman": near(0.4), "spearman/style": near(0.3), "mse": Metric(1.0, 40)}
    print_of = {"model": facts.hashes}
    return [*results, Result("eval", "rated/ID", "SMORM", "attributes", rated, [], print_of)]


def card(run, results=(), **wishes):
    return model_card(read_facts(run), list(results), **wishes)


def test_the_front_matter_is_read_by_the_hubs_own_library(run):
    text = card(
        run, own_results(read_facts(run)), license_id="apache-2.0", language="en", repo="me/reward"
    )
    data = ModelCard(text).data
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "text-classification"
    assert data.license == "apache-2.0"
    assert data.language == "en"
    assert "reward-model" in data.tags
    assert data.model_name == "me/reward"
    results = {
        (evaluation.dataset_name, evaluation.metric_type): evaluation.metric_value
        for evaluation in data.eval_results
    }
    assert results["pairs/ID", "accuracy"] == 0.7
    assert results["rated/ID", "spearman"] == 0.4


def test_without_results_there_is_no_model_index_and_the_card_says_so(run):
    text = card(run)
    matter = yaml.safe_load(text.split("---")[1])
    assert "model-index" not in matter
    assert "license" not in matter
    assert "how good it is, this card cannot say" in text
    assert "was not measured here" in text


def test_the_card_tells_rows_scales_limit_training_and_fingerprints(run):
    facts = read_facts(run)
    text = card(run, own_results(facts))
    assert text.count("\n# joint-0\n") == 1
    for name, scale in zip(facts.attributes, facts.card.scales, strict=True):
        assert f"| `{name}` | prediction of its rating" in text
        assert f"{scale.scale:.3f}" in text
    for expected in (
        "up to 256 tokens (longer ones are refused)",
        "Trained on 120 preference pairs and 60 rated responses",
        "`training.learning_rate` | 0.001",
        "| parameters | 163,584 |",
        "70.0 (68.0 to 72.0)",
        "Spearman: style",
        *facts.hashes.values(),
        facts.card.renderer,
    ):
        assert expected in text, expected


def test_folders_of_this_machine_are_not_published(run):
    facts = read_facts(run)
    text = card(run)
    backbone = facts.config["model"]["backbone"]
    assert Path(backbone).is_absolute()
    assert str(Path(backbone).parent) not in text
    assert "/tmp" not in text
    assert "backbone: …/backbone" in text


def test_the_code_of_the_card_runs_and_both_ways_give_one_reward(run, smorm, tmp_path, monkeypatch):
    monkeypatch.chdir(run.parent)
    shutil.rmtree("exported", ignore_errors=True)
    text = card(run)
    ours, theirs = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    (shell,) = re.findall(r"```sh\n(.*?)```", text, flags=re.S)
    assert smorm(*shell.split()[1:])[0] == 0
    names: dict[str, object] = {}
    exec(ours, names)
    exec(theirs, names)
    constant = read_card(Path("exported")).offset
    assert names["reward"] + constant == pytest.approx(float(names["rewards"][0]), abs=1e-4)


def test_an_export_is_told_as_one_row(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    text = card("exported")
    assert "the view `M` is folded" in text
    assert "No run is beside this model" in text
    assert text.count("```python") == 1


def test_results_of_this_run_are_told_apart_from_those_of_the_method(run):
    facts = read_facts(run)
    result, *_ = own_results(facts)
    mine = replace(result, fingerprint={**result.fingerprint, "seed": 0})
    others = [
        replace(result, metrics={"accuracy": near(value)}, fingerprint={"model": {}, "seed": seed})
        for seed, value in ((1, 0.6), (2, 0.5))
    ]
    text = card(run, [mine, *others])
    assert "The same method over 3 seeds" in text
    assert "60.0 (" in text  # the mean of 0.7, 0.6 and 0.5
    assert "| 70.0 (68.0 to 72.0) |" in text


def test_means_over_seeds_are_called_so_where_no_result_is_of_this_run(run):
    results = runs({("SMORM", "F"): {"ID": rising(0.8)}}, range(3))
    assert "Means over 3 training runs" in card(run, results)


def test_over_optimisation_is_told_beside_the_baseline(run):
    methods = {
        ("Single", "F"): {"OODtopic": rising(0.8)},
        ("SMORM", "F"): {"OODtopic": hacked(0.7, 0.6)},
    }
    text = card(run, runs(methods), name="SMORM")
    assert "gold of the best of 256 compared with Single: lower for SMORM −0.2" in text
    assert "gold under best-of-n after its peak: it drops for SMORM by 0.1" in text
    assert "| Single" not in text


def test_results_of_several_models_need_a_name_unless_hashes_tell(run):
    methods = {("a", "F"): {"ID": rising(0.7)}, ("b", "F"): {"ID": rising(0.8)}}
    with pytest.raises(ConfigError, match=r"results are of a, b, .* --name"):
        card(run, runs(methods))
    with pytest.raises(ConfigError, match=r"--name c: .* a, b"):
        card(run, runs(methods), name="c")
    text = card(run, [*runs(methods), *own_results(read_facts(run))])
    assert "| SMORM | F |" in text


def test_a_folder_without_a_model_of_smorm_is_an_error(tmp_path):
    with pytest.raises(ModelError, match=r"no smorm\.json"):
        read_facts(tmp_path)


@pytest.mark.parametrize("content", ["[1]", "a: [", "- x"])
def test_a_broken_configuration_is_named(run, tmp_path, content):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / "config.yaml").write_text(content)
    with pytest.raises(DataError, match=r"config\.yaml"):
        read_facts(folder)


def test_ids_on_the_hub_are_known_from_files_and_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    names = ["nvidia/HelpSteer2", "data/pairs", "x/train.jsonl", "../a/b", None, "plain", "a/b"]
    assert hub_ids(names) == ["nvidia/HelpSteer2", "a/b"]


def test_base_model_and_data_sets_on_the_hub_are_named(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["model"]["backbone"] = "Qwen/Qwen3-0.6B"
    config["data"]["rated"] = [{"path": "nvidia/HelpSteer2"}]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    data = ModelCard(card(folder)).data
    assert data.base_model == "Qwen/Qwen3-0.6B"
    assert data.datasets == ["nvidia/HelpSteer2"]


HOSTILE = "a|b `c` <script>\n# d ``` --- [x](y) & 名前"


def test_hostile_names_are_shown_and_never_become_markup(run):
    result = Result("eval", f"pairs/{HOSTILE}", HOSTILE, HOSTILE, {"accuracy": near(0.7)}, [],
                    {"data": HOSTILE})  # fmt: skip
    text = card(run, [result], repo=HOSTILE)
    assert ModelCard(text).data.eval_results[0].metric_value == 0.7
    tokens = MarkdownIt("commonmark").enable("table").parse(text.split("\n---\n", 1)[1])
    markup = [node for token in tokens for node in [token, *(token.children or [])]]
    raw = [node.content for node in markup if node.type in ("html_block", "html_inline")]
    assert {text.strip() for text in raw} == {
        "<details><summary>The whole configuration</summary>",
        "</details>",
    }
    titles = [
        tokens[at + 1].content for at, node in enumerate(tokens) if node.type == "heading_open"
    ]
    assert titles[1:4] == ["What it scores", "What goes in", "Use"]
    assert not any(node.type == "link_open" for node in markup)


def test_markdown_is_taken_as_text():
    assert plain("a|b*c_<d>\ne") == r"a\|b\*c\_\<d\> e"
    assert code("a`b") == "`` a`b ``"
    assert fenced("x\n```\ny").startswith("````\n")


def as_head(run, tmp_path, **changes):
    """The same folder with another card."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    path = folder / "model" / "smorm.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return card(folder)


@pytest.mark.parametrize(
    ("head", "expected"), [("mlp", "an MLP as its head"), ("gated", "gated head")]
)
def test_a_head_that_is_not_linear_is_told_and_no_export_is_promised(run, tmp_path, head, expected):
    text = as_head(run, tmp_path, head=head)
    assert expected in text
    assert "one linear head" not in text
    assert "cannot be exported" in text
    assert "smorm export" not in text
    assert ModelCard(text).data.library_name == "smorm"


def test_the_length_row_of_odin_is_no_prediction_of_a_rating(run, tmp_path):
    scales = [{"name": "length", "offset": 0.0, "scale": 1.0}]
    text = as_head(run, tmp_path, attributes=["length"], scales=scales, means={})
    assert "ODIN's length row" in text
    assert "prediction of its rating" not in text
    assert "the mean of the attributes" not in text
    assert "predict ratings was not measured" not in text


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("smorm.json", {"attributes": [1]}),
        ("smorm.json", {"scales": [["style", 0.0]]}),
        ("smorm.json", {"means": {"style": "high"}}),
        ("smorm.json", {"hashes": []}),
        ("smorm.json", {"versions": 7}),
        ("smorm.json", {"max_tokens": "many"}),
        ("config.json", {"model_type": ["llama"]}),
        ("../data.json", {"pairs": -1}),
        ("../data.json", {"counted": [1]}),
        ("../cost.json", {"parameters": 5}),
        ("../cost.json", {"tokens": {"trained": 0.5}}),
    ],
)
def test_files_that_hold_something_else_are_named_in_one_line(run, tmp_path, file, changes):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "model" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(DataError, match=rf"{path.name}: {next(iter(changes))}"):
        read_facts(tmp_path / "run")


def test_a_configuration_whose_sections_are_none_is_named(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text("training: 7\n")
    with pytest.raises(DataError, match=r"config.yaml: training: .*dictionary.*7"):
        read_facts(tmp_path / "run")
