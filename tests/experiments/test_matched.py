"""What makes the comparison fair: same order, same weights, same tokenizer, and `dev` untouched."""

import json

import pytest
import torch

from experiments.real import METHODS, make_run, shared_tokenizer
from experiments.tasks import TASKS, dev_files, read_lines, read_tuning, split_validation
from experiments.tuning import grid
from smorm.config import load_config
from smorm.training.setup import prepare
from tests.experiments.made_up import make_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("matched") / "data")


@pytest.fixture(scope="module", params=TASKS)
def prepared(request, data, tmp_path_factory):
    """All three methods of a task, ready to train with one seed."""
    work, task = tmp_path_factory.mktemp("work"), TASKS[request.param]
    files = dev_files(task, data)
    tokenizer = shared_tokenizer(task, files, work)
    runs = {name: make_run(task, name, 3, files, tokenizer, work) for name in METHODS}
    return {name: prepare(run.config(work / "run")) for name, run in runs.items()}


def test_single_and_smorm_read_the_same_pairs_in_the_same_order(prepared):
    single, smorm = prepared["Single"], prepared["SMORM"]
    for step in (0, 1, 7):
        assert (single.order.step(step)[0] == smorm.order.step(step)[0]).all()
    for one, other in zip(single.train.pairs, smorm.train.pairs, strict=True):
        assert (one.chosen == other.chosen).all()
        assert (one.rejected == other.rejected).all()


def test_multi_and_smorm_read_the_same_ratings(prepared):
    multi, smorm = prepared["Multi"].train, prepared["SMORM"].train
    assert (multi.targets == smorm.targets).all()
    assert all((a.tokens == b.tokens).all() for a, b in zip(multi.rated, smorm.rated, strict=True))


def test_all_methods_begin_with_the_same_weights(prepared):
    smorm = prepared["SMORM"].network
    for method in ("Single", "Multi"):
        other = prepared[method].network.backbone.state_dict()
        for name, weight in smorm.backbone.state_dict().items():
            assert torch.equal(weight, other[name]), (method, name)
    head = smorm.head.weight
    assert torch.equal(prepared["Single"].network.head.weight, head[:1])
    assert torch.equal(prepared["Multi"].network.head.weight[1:], head[1:])


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_no_group_of_the_validation_split_is_in_its_training_part(task, data, tmp_path):
    files = split_validation(task, data, tmp_path)
    sides = [
        {task.group(row["prompt"]) for path in paths for row in read_lines(path)}
        for paths in ((files.train_pairs, files.train_rated), (files.test_pairs, files.test_rated))
    ]
    assert not sides[0] & sides[1]
    assert sides[1]
    whole = dev_files(task, data)
    for part, (train, held) in {
        whole.train_pairs: (files.train_pairs, files.test_pairs),
        whole.train_rated: (files.train_rated, files.test_rated),
    }.items():
        rows = [json.dumps(row) for row in read_lines(part)]
        kept = [json.dumps(row) for path in (train, held) for row in read_lines(path)]
        assert sorted(rows) == sorted(kept)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_tuning_reads_no_dev_file_and_gives_every_method_as_many_tries(task, data, tmp_path):
    runs = grid(task, data, tmp_path)
    assert not any("dev" in path.name for run in runs for path in run.files.paths())
    tries = [sum(run.name == method for run in runs) for method in METHODS]
    assert len(set(tries)) == 1


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_the_recipe_has_the_values_that_were_chosen_for_smorm(task):
    training = load_config(task.recipe).training
    chosen = read_tuning()["chosen"][task.name]["SMORM"]
    assert chosen == {
        "training.learning_rate": training.learning_rate,
        "training.epochs": training.epochs,
    }


def test_what_was_chosen_is_the_best_of_what_was_tried():
    tuning = read_tuning()
    for task, methods in tuning["tried"].items():
        for method, rows in methods.items():
            best = max(rows, key=lambda row: row["criterion"])
            chosen = tuning["chosen"][task][method]
            assert chosen.items() <= best.items(), (task, method)


def test_a_run_of_other_data_or_settings_has_another_folder(data, tmp_path):
    task = TASKS["ukp"]
    files, split = dev_files(task, data), split_validation(task, data, tmp_path / "split")
    tokenizer = shared_tokenizer(task, files, tmp_path)
    runs = [
        make_run(task, "Single", 0, files, tokenizer, tmp_path),
        make_run(task, "Single", 1, files, tokenizer, tmp_path),
        make_run(task, "Single", 0, split, tokenizer, tmp_path),
        make_run(task, "Single", 0, files, tokenizer, tmp_path, ("training.epochs=7",)),
    ]
    folders = [run.path() for run in runs]
    assert len(set(folders)) == len(runs)
    assert folders[0] == runs[0].path()
