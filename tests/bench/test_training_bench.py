"""The training benchmarks, small: TRL as TRL, the same tokens on both sides, the same numbers."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import batching, training, training_data
from bench.comparison import gradient_gap
from bench.gemm_share import (
    attention_flops,
    count_flops,
    linear_weights,
    plausible_flops,
    step_flops,
)
from bench.padded_run import collate, start_padded
from bench.smorm_run import run_config, start_smorm
from bench.trl_run import classifier, make_trainer, start_trl
from smorm.training.setup import Prepared, prepare
from smorm.trees.forest import grow
from tests.trees.sequences import dense_mask

NOWHERE = Path("/nowhere")


@functools.cache
def world(kind: str = "hh", precision: str = "fp32") -> tuple[training_data.TrainingSet, Prepared]:
    """A generated set and a tiny run on it."""
    folder = Path(tempfile.mkdtemp(prefix="smorm-bench-"))
    make = {
        "hh": training_data.hh_set,
        "many": training_data.many_set,
        "joint": training_data.joint_set,
    }
    data = make[kind](NOWHERE, folder, 48)
    tokenizer = training_data.write_tokenizer([data], 8000, folder)
    config = run_config(
        "tiny", folder, data.pairs, data.rated,
        precision=precision, batch_size=4, tokenizer=tokenizer,
    )  # fmt: skip
    return data, prepare(config)


def test_both_runs_train_on_the_same_token_ids_and_lose_the_same(tmp_path: Path) -> None:
    data, prepared = world()
    batches = batching.random_batches(prepared)[:3]
    with start_trl("fp32", prepared, data, batches, tmp_path, record_gradients=True) as trl:
        for row, index in enumerate(i for pairs, _ in batches for i in pairs):
            pair = prepared.train.pairs[int(index)]
            chosen, rejected = trl.token_ids(row)
            assert chosen.tolist() == pair.chosen.tolist()
            assert rejected.tolist() == pair.rejected.tolist()
        run = start_smorm(prepared, batches)
        for step in range(3):
            assert abs(trl.step().loss - run.step().loss) < 1e-6
            if step == 0:
                gap, largest = gradient_gap(run, trl.gradients)
                assert gap < 1e-5 < largest
        assert trl.observed.dtype == "float32"
        assert trl.observed.forwards == 3
        padded = [batching.padded_tokens(prepared, batch) for batch in batches]
        assert trl.observed.positions == padded


def test_other_tokens_in_trls_run_are_refused(tmp_path: Path) -> None:
    data, prepared = world()
    reversed_records = training_data.TrainingSet(data.records[::-1], data.pairs, None, data.origin)
    with pytest.raises(RuntimeError, match="different token ids"):
        start_trl(
            "fp32", prepared, reversed_records, batching.random_batches(prepared)[:2], tmp_path
        )


@pytest.mark.slow
def test_a_suspended_trl_run_loses_what_an_uninterrupted_one_does(tmp_path: Path) -> None:
    data, prepared = world()
    batches = batching.random_batches(prepared)[:3]
    records = [data.record(prepared, int(i)) for pairs, _ in batches for i in pairs]
    trainer = make_trainer(
        "default", classifier(prepared.network), prepared.tokenizer, records, 4, tmp_path
    )
    trainer.train()
    expected = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    ours = start_smorm(prepared, batches)
    with (
        start_trl("default", prepared, data, batches, tmp_path) as trl,
        start_trl("default", prepared, data, batches, tmp_path) as second,
    ):
        losses = []
        for _ in batches:
            losses.append(trl.step().loss)
            ours.step()
            assert second.step().loss == losses[-1]
        # what the default does: bf16, and every forward pass twice
        assert trl.observed.dtype == "bfloat16"
        assert trl.observed.forwards == 6
    assert losses == expected[:3]  # the other one goes on for three epochs


@pytest.mark.parametrize("items", [1, 4])
def test_the_padded_run_is_the_joint_objective_of_the_official_code(items: int) -> None:
    _, prepared = world("joint")
    batches = tuple(prepared.order.step(step) for step in range(2))
    inputs, targets = collate(prepared, batches[0], 1024)
    assert inputs["input_ids"].shape == (12, 1024)
    assert targets.shape == (4, 6)
    lengths = [len(prepared.train.rated[int(i)].tokens) for i in batches[0][1]]
    assert inputs["attention_mask"].sum(1)[8:].tolist() == lengths
    padded, ours = start_padded(prepared, batches, items=items), start_smorm(prepared, batches)
    assert abs(padded.step().loss - ours.step().loss) < 1e-6
    gap, largest = gradient_gap(ours, padded.gradients)
    assert gap < 1e-5 < largest
    assert abs(padded.step().loss - ours.step().loss) < 1e-6


def test_length_grouping_takes_every_pair_once_and_pads_less() -> None:
    _, prepared = world()
    grouped = batching.length_grouped_batches(prepared, 4)
    indices = np.concatenate([pairs for pairs, _ in grouped])
    assert sorted(indices.tolist()) == list(range(len(prepared.train.pairs)))
    random = batching.random_batches(prepared)
    sizes = [
        sum(batching.padded_tokens(prepared, b) for b in batches) for batches in (grouped, random)
    ]
    assert sizes[0] < 0.8 * sizes[1]


def test_steps_of_whole_prompts_compute_each_response_once() -> None:
    _, prepared = world("many")
    batches = batching.prompt_batches(prepared, 6, prompts=2)
    among = batching.distinct_pairs(batches)
    for pairs, _ in batches:
        prompts = [prepared.train.pairs[int(i)].prompt for i in pairs]
        assert len(pairs) == 12
        assert sorted(map(prompts.count, set(prompts))) == [6, 6]
        sides = {
            side.tobytes()
            for i in pairs
            for side in (prepared.train.pairs[int(i)].chosen, prepared.train.pairs[int(i)].rejected)
        }
        assert len(sides) == 8
        distinct = sum(len(side) // 4 for side in sides)
        assert batching.forest_tokens(prepared, (pairs, batching.NO_RATED)) <= distinct
        assert start_smorm(prepared, ((pairs, batching.NO_RATED),)).step().positions <= distinct
    grouped = batching.length_grouped_batches(prepared, 12, among=among)
    assert set(batching.distinct_pairs(grouped)) <= set(among)


def test_flops_are_those_of_the_products_that_ran() -> None:
    layer = torch.nn.Linear(24, 40, bias=False)
    x = torch.randn(7, 24, requires_grad=True)
    assert count_flops(lambda: layer(x).sum().backward()) == 3 * 2 * 7 * 24 * 40
    _, prepared = world()
    run = start_smorm(prepared, tuple(batching.random_batches(prepared)[:1]))
    rate, source = step_flops(run)
    assert run.done == 0
    assert source == "counted"
    assert 0.5 * 6 * linear_weights(prepared.network) <= rate
    assert rate <= 1.01 * 6 * linear_weights(prepared.network)


def test_flops_that_the_counter_cannot_see_are_taken_from_below() -> None:
    _, prepared = world()
    rate, source = plausible_flops(prepared.network, 100.0)
    assert rate == 6 * linear_weights(prepared.network) / 2
    assert source.startswith("formula")


def test_attention_is_counted_by_who_sees_whom() -> None:
    _, prepared = world()
    forest = grow([np.arange(n, dtype=np.int32) for n in (9, 17)])
    attended = int(dense_mask(forest).sum())
    assert attention_flops(prepared.network, [forest]) == attended * 2 * 6 * 32 * 2


@pytest.mark.slow
def test_the_command_measures_and_writes_the_agreed_names(tmp_path: Path) -> None:
    slow = ("train_vs_trl_tuned", "peak_memory_vs_trl")
    names = [name for name in training.NAMES if name not in slow]
    file = tmp_path / "training.json"
    options = ["--json", str(file), "--model", "tiny", "--data", str(NOWHERE), "--limit", "60"]
    options += ["--rounds", "1", "--steps", "1", "--equality-steps", "1", "--only", ",".join(names)]
    options += ["--warmup", "1", "--peak-repeats", "1"]
    assert training.main(options) == 0
    content = json.loads(file.read_text(encoding="utf-8"))
    assert list(content["ratios"]) == names
    assert all(set(entry) == {"median", "low", "high", "n"} for entry in content["ratios"].values())
    assert all(entry["n"] == 1 for entry in content["ratios"].values())
    assert set(content["equality"]) == {*names[:3], "gradients"}
    assert max(content["equality"].values()) < 1e-5
    assert 0 < content["ratios"]["gemm_share_bf16"]["median"] < 1
    assert "generated" in content["detail"]["train_vs_trl_default"]["texts"]
    assert content["detail"]["train_vs_trl_default"]["trl_computes_in"] == "bfloat16"
    assert content["detail"]["train_vs_trl_default"]["trl_forward_passes_of_a_row"] == 2
    assert content["machine"]["peak"].keys() == {"bf16", "fp32"}


def test_an_unknown_name_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        training.main(["--json", str(tmp_path / "x.json"), "--only", "train_vs_nobody"])
    assert stopped.value.code == 2
