"""Whole runs: what each objective trains, and what a run writes and tells."""

from __future__ import annotations

import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from smorm.config import load_config, parse_config
from smorm.errors import ConfigError, DataError, ModelError, NonFiniteLossError
from smorm.files import verify_folder
from smorm.model.device import pick_device
from smorm.model.inference import score_units
from smorm.model.store import load_model
from smorm.text.tokenizers import TEMPLATE
from smorm.training.limit import within_positions
from smorm.training.loop import train
from smorm.training.optim import learning_rate_factor, make_optimizer, named_trainable
from smorm.training.setup import prepare
from smorm.world import ATTRIBUTES
from tests.model.architectures import tiny
from tests.training.runs import (
    LAB,
    LORA,
    at_rate,
    bits,
    config_of,
    jsonl,
    metrics,
    prepared,
    rows_of,
    world,
)


def last(folder: Path) -> dict[str, Any]:
    found = metrics(folder)
    return found[max(found)]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Weights of the last checkpoint."""
    return load_file(max((folder / "checkpoints").glob("step-*")) / "weights.safetensors")


# Objectives


@pytest.mark.parametrize(
    ("kind", "rows", "view", "terms"),
    [
        ("joint", ("preference", *ATTRIBUTES), "M", {"loss/preference", "loss/regression"}),
        ("preference", ("preference",), "F", {"loss/preference"}),
        ("regression", ("preference", *ATTRIBUTES), "L", {"loss/regression"}),
    ],
)
def test_each_objective_trains_its_own_rows(
    tmp_path: Path, kind: str, rows: tuple[str, ...], view: str, terms: set[str]
) -> None:
    config = config_of(tmp_path / "run", objective={"kind": kind})
    network, _, card = load_model(train(config))
    assert card.rows == rows
    assert card.default_view == view
    assert card.preference_trained == (kind != "regression")
    assert {key for key in last(tmp_path / "run") if key.startswith("loss/")} == terms
    if kind == "regression":
        assert (network.head.weight[0] == 0).all(), "an untrained row is no score"
        assert (network.head.weight[1:] != 0).any(1).all()
    verify_folder(tmp_path / "run" / "model")


def test_training_lowers_both_losses(tmp_path: Path) -> None:
    training = {"max_steps": 40, "learning_rate": 5e-3, "max_batch_tokens": 4000}
    train(config_of(tmp_path / "run", model=LAB, training=training))
    found = metrics(tmp_path / "run")
    for term in ("loss/preference", "loss/regression"):
        early, late = (
            np.mean([found[s][term] for s in steps]) for steps in ((1, 2, 3), (38, 39, 40))
        )
        assert late < 0.7 * early, term


@pytest.mark.parametrize("factor", [0.25, 2.5])
def test_learned_noise_moves_to_the_residual_variance(tmp_path: Path, factor: float) -> None:
    """It begins at 1; the residuals of a model that stays as it is lie far below, or far above."""
    rows = rows_of("train-rated")
    for row in rows:
        row["scores"] = {name: factor * value for name, value in row["scores"].items()}
    config = config_of(
        tmp_path / "run",
        model=LAB,
        data={"scaling": "none", "rated": jsonl(tmp_path / "rated.jsonl", rows)},
        objective={"weighting": "learned", "noise_learning_rate": 0.2},
        training={
            "max_steps": 50,
            "learning_rate": 1e-9,
            "schedule": "constant",
            "max_batch_tokens": 4000,
        },
    )
    train(config)
    found = metrics(tmp_path / "run")
    residual = np.mean([line["mse"] for line in found.values()])
    variance = [v**2 for k, v in found[50].items() if k.startswith("noise/")]
    assert len(variance) == len(ATTRIBUTES)
    assert abs(math.log(residual)) > 0.5, "the start must be far from it"
    assert math.log(np.mean(variance)) == pytest.approx(math.log(residual), abs=0.25)
    assert "log_variance" in weights_of(tmp_path / "run")


def test_adapters_train_and_the_rest_of_the_backbone_does_not(tmp_path: Path) -> None:
    train(config_of(tmp_path / "run", model=LORA))
    saved = set(weights_of(tmp_path / "run"))
    assert "head.weight" in saved
    assert all("lora_" in name for name in saved - {"head.weight"})


def test_several_rated_sources_with_names_of_their_own_train_together(tmp_path: Path) -> None:
    rows = rows_of("train-rated")
    renamed = [{**row, "scores": {"x": 4.0 + n % 3, "y": n % 2}} for n, row in enumerate(rows[:6])]
    flat = [
        {"prompt": row["prompt"], "response": row["response"], "clarity": n % 5}
        for n, row in enumerate(rows[6:10])
    ]
    partly = [{**row, "scores": {**row["scores"], "x": None}} for row in rows[10:]]
    config = config_of(
        tmp_path / "run",
        data={
            "rated": [
                jsonl(tmp_path / "renamed.jsonl", renamed),
                {"path": jsonl(tmp_path / "flat.jsonl", flat), "attributes": ["clarity"]},
                jsonl(tmp_path / "partly.jsonl", partly),
            ]
        },
        objective={"weighting": "learned"},
    )
    network, _, card = load_model(train(config))
    assert set(card.attributes) == {"x", "y", "clarity", *ATTRIBUTES}
    assert len(network.head.weight) == 1 + len(card.attributes)
    x = card.scales[card.attributes.index("x")]
    assert (x.offset, x.scale) == pytest.approx((5.0, math.sqrt(2 / 3)))
    report = json.loads((tmp_path / "run" / "data.json").read_text())
    assert report["attributes"] == list(card.attributes)
    assert all(
        math.isfinite(v) for line in metrics(tmp_path / "run").values() for v in line.values()
    )


def test_only_the_attributes_that_are_asked_for_are_trained_in_their_order(tmp_path: Path) -> None:
    two = [ATTRIBUTES[1], ATTRIBUTES[0]]
    _, _, card = load_model(train(config_of(tmp_path / "run", data={"attributes": two})))
    assert list(card.attributes) == two
    with pytest.raises(ConfigError, match=r"data\.attributes: no record rates wit; rated are"):
        train(config_of(tmp_path / "other", data={"attributes": ["wit"]}))


# A backbone that comes without a pad token, as many do


@pytest.fixture(scope="module")
def padless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained folder whose vocabulary has no token to pad with: one will be added."""
    folder = tmp_path_factory.mktemp("padless")
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    core.train_from_iterator(["metals brief tin"], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    tiny("llama", vocab_size=len(tokenizer)).save_pretrained(folder)
    return folder


def test_the_row_that_is_added_for_padding_is_the_same_in_every_run(
    tmp_path: Path, padless: Path
) -> None:
    model, training = {"backbone": str(padless)}, {"max_steps": 1}
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)  # whatever was drawn before
        train(config_of(tmp_path / name, model=model, training=training))
    assert bits(tmp_path / "one") == bits(tmp_path / "two")


@pytest.mark.parametrize("layout", ["forest", "padded"])
def test_adapters_on_it_come_back_with_the_same_scores(
    tmp_path: Path, padless: Path, layout: Any
) -> None:
    model = {"backbone": str(padless), "lora": {"rank": 4, "dropout": 0.0}, "layout": layout}
    train(config_of(tmp_path / "run", model=model))
    first, _, _ = load_model(tmp_path / "run")
    again, _, _ = load_model(tmp_path / "run")
    units = [[pair.chosen, pair.rejected] for pair in prepared().train.pairs[:4]]
    units = [[np.minimum(tokens, 250) for tokens in unit] for unit in units]
    found = []
    for network in (first, again):
        network.use_layout(layout)
        found.append(np.concatenate(score_units(network, units, 500)))
    assert np.array_equal(*found)
    kept = weights_of(tmp_path / "run")
    for name, parameter in first.named_parameters():
        if name in kept:
            assert torch.equal(parameter, kept[name]), name


# Precision


@pytest.mark.slow
def test_under_bf16_the_master_weights_and_moments_stay_in_fp32(tmp_path: Path) -> None:
    train(config_of(tmp_path / "half", training={"precision": "bf16"}))
    train(config_of(tmp_path / "full"))
    checkpoint = max((tmp_path / "half" / "checkpoints").glob("step-*"))
    for name in ("weights", "optimizer"):
        tensors = load_file(checkpoint / f"{name}.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    half, full = metrics(tmp_path / "half")[1], metrics(tmp_path / "full")[1]
    assert half["loss"] != full["loss"]
    assert half["loss"] == pytest.approx(full["loss"], rel=0.05)
    assert bits(tmp_path / "half") != bits(tmp_path / "full")


def test_automatic_precision_is_the_device_s_own_and_is_written_down(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    expected = "bf16" if "avx512_bf16" in flags or "amx_bf16" in flags else "fp32"
    with caplog.at_level(logging.INFO):
        train(config_of(tmp_path / "auto", training={"precision": "auto", "device": "cpu"}))
    assert f"precision: {expected}" in caplog.text
    written = load_config(tmp_path / "auto" / "config.yaml")
    assert written.training.precision == expected
    train(config_of(tmp_path / "named", training={"precision": expected, "device": "cpu"}))
    assert bits(tmp_path / "auto") == bits(tmp_path / "named")


# Numbers that are none


def test_a_run_whose_weights_explode_names_step_term_and_records(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(NonFiniteLossError) as caught:
        train(at_rate(config_of(folder), learning_rate=1e25))
    told = str(caught.value)
    assert told.startswith("step 2: the ")
    assert " term is " in told
    assert str(world()["train-pairs"]) in told or str(world()["train-rated"]) in told
    assert caught.value.exit_code == 1
    assert not (folder / "model").exists()
    assert sorted(metrics(folder)) == [1]


def test_a_gradient_that_overflows_while_the_loss_is_finite_is_told_too(tmp_path: Path) -> None:
    config = at_rate(config_of(tmp_path / "run"), head_learning_rate=1e17)
    with pytest.raises(NonFiniteLossError, match="step 2: the gradient of the loss is inf") as told:
        train(config)
    assert str(world()["train-pairs"]) in str(told.value)


# What a run writes


def test_a_run_writes_what_it_was_told_and_what_it_met(tmp_path: Path) -> None:
    pairs = rows_of("train-pairs")
    pairs[2]["rejected"] = pairs[2]["chosen"]
    pairs[5]["chosen"] = 7
    rated = rows_of("train-rated")
    rated[1]["scores"] = dict.fromkeys(rated[1]["scores"])
    config = config_of(
        tmp_path / "run",
        data={
            "preference": jsonl(tmp_path / "pairs.jsonl", pairs),
            "rated": jsonl(tmp_path / "rated.jsonl", rated),
            "on_bad_record": "skip",
        },
    )
    train(config)
    folder = tmp_path / "run"
    report = json.loads((folder / "data.json").read_text())
    assert report["pairs"] == 22
    assert report["rated"] == 13
    counted = report["counted"]
    assert sum(entry["count"] for entry in counted.values()) >= 3
    places = " ".join(place for entry in counted.values() for place in entry["examples"])
    for place in ("pairs.jsonl:3", "pairs.jsonl:6", "rated.jsonl:2"):
        assert place in places, counted
    assert "pairs.jsonl:6" in (folder / "quarantine.jsonl").read_text()
    again = load_config(folder / "config.yaml")
    assert again == config
    assert report["fingerprint"]["config"] == config.hash
    _, _, card = load_model(folder / "model")
    assert card.hashes == report["fingerprint"]


def test_held_out_records_are_measured_on_the_attributes_own_scale(tmp_path: Path) -> None:
    evaluation = {
        "preference": str(world()["dev-pairs"]),
        "rated": str(world()["eval-rated-ID"]),
        "limit": 4,
    }
    config = config_of(tmp_path / "run", evaluation=evaluation, training={"evaluate_every": 2})
    train(config)
    found = metrics(tmp_path / "run")
    measured = {step for step, line in found.items() if "dev/accuracy" in line}
    assert measured == {2, 4, 5}
    assert found[5]["dev/accuracy"] in (0, 0.25, 0.5, 0.75, 1)
    assert {f"dev/mse/{name}" for name in ATTRIBUTES} <= set(found[5])


def test_metrics_come_at_the_interval_and_at_both_ends(tmp_path: Path) -> None:
    training = {"log_every": 3, "diagnose_every": 4, "max_steps": 8}
    train(config_of(tmp_path / "run", training=training))
    found = metrics(tmp_path / "run")
    assert sorted(found) == [1, 3, 5, 6, 8]
    assert [step for step, line in found.items() if "gradient/cosine" in line] == [1, 5]
    assert {"loss", "accuracy", "mse", "gradient_norm", "learning_rate_factor", "tokens"} <= set(
        found[3]
    )


def test_what_was_measured_is_written_between_two_logged_steps_too(tmp_path: Path) -> None:
    evaluation = {"preference": str(world()["dev-pairs"])}
    training = {"log_every": 3, "evaluate_every": 2}
    train(config_of(tmp_path / "run", evaluation=evaluation, training=training))
    found = metrics(tmp_path / "run")
    assert sorted(found) == [1, 2, 3, 4, 5]
    assert [step for step, line in found.items() if "dev/accuracy" in line] == [2, 4, 5]


def test_a_run_from_the_beginning_has_no_lines_of_one_that_was_killed_there(
    tmp_path: Path,
) -> None:
    config = config_of(tmp_path / "run")
    train(config)
    log = tmp_path / "run" / "metrics.jsonl"
    lines = log.read_bytes()
    log.write_bytes(lines + b'{"step":70,"loss":9.0}\n{"step":80,"lo')
    for part in ("checkpoints", "model"):
        shutil.rmtree(tmp_path / "run" / part)
    train(config)
    assert list(metrics(tmp_path / "run")) == [1, 2, 3, 4, 5]


def test_held_out_records_that_no_row_is_measured_on_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    evaluation = {"preference": str(world()["dev-pairs"]), "rated": str(world()["eval-rated-ID"])}
    with caplog.at_level(logging.INFO, logger="smorm"):
        prepare(config_of(tmp_path, evaluation=evaluation))
        assert "not measured" not in caplog.text
        for kind, unused in (("preference", "rated"), ("regression", "preference")):
            caplog.clear()
            prepare(config_of(tmp_path, evaluation=evaluation, objective={"kind": kind}))
            assert f"evaluation.{unused}: not measured: objective.kind {kind}" in caplog.text
            assert caplog.text.count("not measured") == 1


def test_margins_that_no_pair_has_are_refused_and_those_that_some_have_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    objective = {"kind": "preference", "use_margin": True}
    with pytest.raises(ConfigError, match=r"objective\.use_margin: none of the 24 pairs"):
        train(config_of(tmp_path / "none", objective=objective))
    assert not (tmp_path / "none").exists()
    rows = rows_of("train-pairs")
    path = jsonl(tmp_path / "pairs.jsonl", [{**row, "margin": 0.5} for row in rows[:9]] + rows[9:])
    with caplog.at_level(logging.INFO, logger="smorm"):
        train(config_of(tmp_path / "some", objective=objective, data={"preference": path}))
    assert "9 of 24 pairs have a margin above 0" in caplog.text


def test_a_run_tells_its_progress_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="smorm"):
        train(config_of(tmp_path / "run"))
    assert "24 pairs, 14 rated responses, forest layout" in caplog.text
    assert "step 5/5  loss " in caplog.text
    assert "tokens/s" in caplog.text


def test_the_length_of_a_run_follows_its_epochs(tmp_path: Path) -> None:
    train(config_of(tmp_path / "run", training={"max_steps": None, "epochs": 0.7}))
    assert max(metrics(tmp_path / "run")) == math.ceil(0.7 * 24 / 6)


def test_tensorboard_mirrors_the_metrics(tmp_path: Path) -> None:
    train(config_of(tmp_path / "run", training={"tensorboard": True, "max_steps": 1}))
    assert list((tmp_path / "run" / "tensorboard").glob("events.out.tfevents.*"))


# What is refused before anything is trained


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": {"backbone": "/no/such/folder"}}, ModelError, "/no/such/folder: "),
        (
            {"model": {**LAB, "lora": {"targets": ["no_such"]}}},
            ConfigError,
            r"model\.lora\.targets: ",
        ),
        ({"model": {**LAB, "chat_template": "/no/such.jinja"}}, ConfigError, "model.chat_template"),
        ({"model": LAB, "data": {"max_tokens": 512}}, ConfigError, "the backbone has 256"),
        ({"training": {"device": "gpu"}}, ConfigError, r"training\.device: 'gpu' cannot be used: "),
        ({"data": {"preference": "/no/pairs.jsonl"}}, DataError, r"/no/pairs\.jsonl: no such file"),
        ({"data": {"max_tokens": 8}}, DataError, r"train-pairs\.jsonl:1: "),
        (
            {"data": {"max_tokens": 8, "overlong": "drop"}},
            DataError,
            "no usable training record is left: ",
        ),
    ],
)
def test_what_cannot_be_trained_is_told_and_nothing_is_written(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        train(config_of(tmp_path / "run", **changes))
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_an_unusable_device_is_told() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"training\.device: 'cuda' cannot be used"):
            pick_device("cuda", "training.device")


# The optimizer


@pytest.mark.parametrize(
    ("step", "schedule", "expected"),
    [
        (0, "cosine", 0.25),
        (3, "cosine", 1.0),
        (4, "cosine", 1.0),
        (22, "cosine", 0.5),
        (39, "cosine", 0.5 * (1 + math.cos(math.pi * 35 / 36))),
        (22, "linear", 0.5),
        (39, "linear", 1 / 36),
        (1, "linear", 0.5),
        (39, "constant", 1.0),
        (1, "constant", 0.5),
    ],
)
def test_the_learning_rate_warms_up_and_decays(step: int, schedule: str, expected: float) -> None:
    assert learning_rate_factor(step, 40, 0.1, schedule) == pytest.approx(expected)


def test_no_step_has_a_learning_rate_of_zero() -> None:
    for total in (1, 2, 7, 40):
        for warmup in (0.0, 0.03, 0.5, 1.0):
            for schedule in ("cosine", "linear", "constant"):
                factors = [learning_rate_factor(s, total, warmup, schedule) for s in range(total)]
                assert all(0 < factor <= 1 for factor in factors)


def test_vectors_head_and_noise_do_not_decay_and_have_rates_of_their_own(tmp_path: Path) -> None:
    ready = prepared(objective={"weighting": "learned"})
    noise = {"log_variance": torch.nn.Parameter(torch.zeros(2))}
    config = config_of(
        tmp_path,
        objective={"weighting": "learned", "noise_learning_rate": 0.5},
        training={"weight_decay": 0.1, "learning_rate": 1e-3, "head_learning_rate": 1e-2},
    )
    optimizer = make_optimizer(
        config.training, ready.network, noise, config.objective.noise_learning_rate
    )
    named = {id(p): n for n, p in named_trainable(ready.network, noise).items()}
    seen = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            seen[named[id(parameter)]] = (group["weight_decay"], group["initial_lr"])
    assert seen.keys() == set(named.values())
    for name, parameter in named_trainable(ready.network, noise).items():
        expected = (0.1 if parameter.ndim > 1 else 0.0, 1e-3)
        expected = {"head.weight": (0.0, 1e-2), "log_variance": (0.0, 0.5)}.get(name, expected)
        assert seen[name] == expected, name


@pytest.mark.parametrize("positions", [64, 4096])
def test_a_default_limit_follows_the_positions_of_the_backbone(positions: int) -> None:
    backbone = {"architecture": "gpt2", "n_embd": 16, "n_head": 2, "n_positions": positions}
    values = {
        "model": {"backbone": backbone, "tokenizer": {"train": "bpe"}},
        "data": {"preference": "pairs.jsonl"},
        "objective": {"kind": "preference"},
        "output": {"folder": "run"},
    }
    config = parse_config(values)
    fitted = within_positions(config)
    assert fitted.data.max_tokens == min(positions, 2048)
    # What fits already stays the same configuration, with the same hash.
    assert (fitted is config) == (positions == 4096)
    values["data"] |= {"max_tokens": 2048}
    assert parse_config(values).hash == config.hash
    if positions == 64:
        with pytest.raises(ConfigError, match="the backbone has 64 positions: set"):
            within_positions(parse_config(values))
    values["model"]["backbone"] = {"architecture": "llama", "hidden_size": 32}
    assert within_positions(parse_config(values)).data.max_tokens == 2048
