"""Each rival from its configuration to a report: trained, saved, scored, exported, evaluated."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
)

from smorm import RewardModel
from smorm.cli.main import run_verb
from smorm.errors import ModelError
from smorm.model.language import load_language_model
from smorm.training.loop import train
from smorm.world import backbone_path
from tests.training.runs import LAB, LORA, SCRATCH, bits, config_of, metrics, world
from tests.training.test_resume import run

REGULARISED = {"positive_regularisation": 0.1, "centering": 0.01, "bsr": 0.1}
RIVALS: dict[str, dict[str, Any]] = {
    "regularised": {"objective": {"kind": "preference", **REGULARISED}},
    "frozen": {"model": {**LAB, "freeze": True}, "objective": {"kind": "preference"}},
    "odin": {"model": LAB, "objective": {"kind": "odin"}},
    "grm": {"model": LAB, "objective": {"kind": "grm", "grm": {"regulariser": "dpo"}}},
    "grm, adapters": {"model": LORA, "objective": {"kind": "grm"}},
}
ROWS = {"odin": ("length",)}


@pytest.fixture(scope="module", params=RIVALS)
def rival(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A short run: its name, settings and folder."""
    folder = tmp_path_factory.mktemp("rival") / "run"
    changes = {**RIVALS[request.param], "training": {"max_batch_tokens": 100}}
    train(config_of(folder, **changes))
    return request.param, changes, folder


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Run a command line in this process."""
    monkeypatch.setattr(sys, "argv", ["smorm", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        sys.exit(run_verb())
    return int(left.value.code or 0)


@pytest.mark.slow
def test_it_scores_exports_and_evaluates_like_any_other_model(
    rival: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _, folder = rival
    model = RewardModel.load(folder)
    assert model.attributes == ROWS.get(name, ())
    assert model.card.default_view == "F"
    rows = [orjson.loads(line) for line in world()["eval-pairs-far"].read_bytes().splitlines()]
    conversations = [(row["prompt"], row["chosen"]) for row in rows]
    expected = model.score(conversations).view()
    np.testing.assert_allclose(expected, model.score(conversations).preference)
    plain = tmp_path / "plain"
    assert command(monkeypatch, "export", folder, "--view", "F", "--output", plain) == 0
    tokenizer = AutoTokenizer.from_pretrained(plain)
    network, info = AutoModelForSequenceClassification.from_pretrained(
        plain, output_loading_info=True
    )
    assert not info["missing_keys"] | info["unexpected_keys"]
    for (prompt, response), value in zip(conversations, expected, strict=True):
        chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        ids = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            assert float(network(**ids).logits) == pytest.approx(value, abs=1e-4)
    suite, output = f"pairs/far={world()['eval-pairs-far']}", tmp_path / "r.json"
    assert command(monkeypatch, "eval", folder, "--suite", suite, "--output", output) == 0
    assert "accuracy" in output.read_text()


@pytest.mark.slow
def test_stopped_and_resumed_it_has_the_same_bits_and_the_same_cost(
    rival: Any, tmp_path: Path
) -> None:
    _, changes, folder = rival
    run(config_of(tmp_path / "run", **changes), 4, 3)
    assert bits(tmp_path / "run") == bits(folder)
    assert metrics(tmp_path / "run") == metrics(folder)
    cost = [(path / "cost.json").read_bytes() for path in (tmp_path / "run", folder)]
    assert cost[0] == cost[1]


def test_its_cost_is_written_down(rival: Any) -> None:
    name, _, folder = rival
    cost = json.loads((folder / "cost.json").read_text())
    tokens = [line["tokens"] for line in metrics(folder).values()]
    assert cost["steps"] == len(tokens) == 5
    assert cost["tokens"]["trained"] == sum(tokens)
    assert cost["passes"] >= 5
    assert cost["passes_per_score"] == 1
    first = {"regularised", "odin"}
    assert cost["tokens"]["first_pass"] == (sum(tokens) if name in first else 0)
    assert (cost["tokens"]["reference"] > 0) == (name == "grm")
    model = RewardModel.load(folder).network
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert cost["parameters"]["model"] == parameters
    assert cost["parameters"]["language_head"] == 0  # it is the embedding
    trained = sum(weight.numel() for weight in weights_of(folder).values())
    assert cost["parameters"]["trained"] == trained


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """What the last checkpoint holds: all that was trained."""
    found: dict[str, torch.Tensor] = load_file(
        max((folder / "checkpoints").glob("step-*")) / "weights.safetensors"
    )
    return found


def test_only_the_head_moves_on_a_frozen_backbone(tmp_path: Path) -> None:
    model = train(config_of(tmp_path / "run", **RIVALS["frozen"]))
    assert set(weights_of(tmp_path / "run")) == {"head.weight"}
    before, after = (load_file(f / "model.safetensors") for f in (backbone_path(), model))
    shared = set(before) & set(after)
    assert len(shared) > 5
    assert all(torch.equal(before[name], after[name]) for name in shared)


def test_odins_rows_are_saved_as_they_were_applied(tmp_path: Path) -> None:
    model = train(config_of(tmp_path / "run", **RIVALS["odin"]))
    rows = load_file(model / "model.safetensors")["score.weight"]
    assert rows.shape[0] == 2
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(rows.mean(1), torch.zeros(2), atol=1e-6, rtol=0)
    raw = weights_of(tmp_path / "run")["head.weight"]
    assert not torch.allclose(raw, rows)


@pytest.mark.slow
def test_odin_takes_the_length_out_of_the_quality_row(tmp_path: Path) -> None:
    """Against the first step of the same run without its terms."""
    training = {"max_steps": 60, "learning_rate": 3e-3, "max_batch_tokens": 4000}
    found = {}
    for weight, steps in ((0.0, 1), (1.0, 60)):
        training["max_steps"] = steps
        odin = {"length": weight, "orthogonality": weight}
        folder = tmp_path / f"{weight}"
        train(
            config_of(
                folder, model=LAB, objective={"kind": "odin", "odin": odin}, training=training
            )
        )
        found[weight] = list(metrics(folder).values())[-10:]
    late = [
        np.mean([abs(line["length_correlation/quality"]) for line in found[1.0]]),
        np.mean([line["length_correlation/length"] for line in found[1.0]]),
    ]
    assert "length_correlation/quality" not in found[0.0][0]
    assert late[0] < 0.3
    assert late[1] > 0.7


@pytest.mark.slow
def test_grm_keeps_the_language_and_does_not_save_its_head(tmp_path: Path) -> None:
    training = {"max_steps": 25, "learning_rate": 3e-3, "max_batch_tokens": 4000}
    found = {}
    for share in (0.001, 0.9):
        folder = tmp_path / f"{share}"
        model = train(
            config_of(
                folder,
                model=LAB,
                objective={"kind": "grm", "grm": {"share": share}},
                training=training,
            )
        )
        assert not any("lm_head" in name for name in load_file(model / "model.safetensors"))
        lines = list(metrics(folder).values())
        found[share] = np.mean([line["log_likelihood"] for line in lines[-5:]])
    assert found[0.9] > found[0.001] + 1


@pytest.mark.slow
def test_bsr_and_centering_hold_the_rewards_near_zero(tmp_path: Path) -> None:
    training = {"max_steps": 30, "learning_rate": 3e-3, "max_batch_tokens": 4000}
    found = {}
    for name, section in (("none", {}), ("bsr", {"bsr": 1.0}), ("centering", {"centering": 1.0})):
        config = config_of(
            tmp_path / name,
            model=SCRATCH,
            objective={"kind": "preference", **section},
            training=training,
        )
        model = RewardModel.load(train(config))
        rows = [orjson.loads(line) for line in world()["train-pairs"].read_bytes().splitlines()]
        sides = [(row["prompt"], row[side]) for row in rows for side in ("chosen", "rejected")]
        found[name] = abs(float(model.score(sides).preference.mean()))
    assert found["bsr"] < 0.2
    assert found["centering"] < 0.2


# Language models of other kinds


def language_model(folder: Path, config: Any) -> Path:
    """A random one with the lab's tokenizer, saved as a Hugging Face folder."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(backbone_path()).save_pretrained(folder)
    return folder


SIZES = {
    "vocab_size": 227,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.mark.slow
def test_a_language_head_of_its_own_trains_along_resumes_and_is_left_behind(
    tmp_path: Path,
) -> None:
    backbone = language_model(tmp_path / "lm", LlamaConfig(**SIZES, tie_word_embeddings=False))
    changes = {
        "model": {"backbone": str(backbone)},
        "objective": {"kind": "grm", "grm": {"regulariser": "dpo"}},
        "training": {"max_batch_tokens": 100},
    }
    model = train(config_of(tmp_path / "straight", **changes))
    run(config_of(tmp_path / "stopped", **changes), 4, 3)
    assert bits(tmp_path / "stopped") == bits(tmp_path / "straight")
    head = weights_of(tmp_path / "straight")["language.linear.weight"]
    before = load_file(backbone / "model.safetensors")["lm_head.weight"]
    assert not torch.equal(head, before)
    assert not any("lm_head" in name for name in load_file(model / "model.safetensors"))
    cost = json.loads((tmp_path / "straight" / "cost.json").read_text())
    assert cost["parameters"]["language_head"] == head.numel() == 227 * 32
    assert cost["parameters"]["trained"] == cost["parameters"]["model"] + head.numel()


def test_soft_capped_logits_are_those_of_the_model_and_scaled_ones_are_refused(
    tmp_path: Path,
) -> None:
    capped = language_model(tmp_path / "capped", Gemma2Config(**SIZES, final_logit_softcapping=0.5))
    _, head = load_language_model(str(capped), 227)
    assert head.softcap == 0.5
    scaled = language_model(tmp_path / "scaled", GraniteConfig(**SIZES, logits_scaling=4.0))
    with pytest.raises(ModelError, match=r"not those of a linear head.*not supported for granite"):
        load_language_model(str(scaled), 227)


def test_a_vocabulary_that_grew_keeps_the_head_tied(tmp_path: Path) -> None:
    for tied in (True, False):
        config = LlamaConfig(**SIZES, tie_word_embeddings=tied)
        folder = language_model(tmp_path / f"tied-{tied}", config)
        backbone, head = load_language_model(str(folder), 240)
        assert head.linear.weight.shape[0] == 240
        assert (head.linear.weight is backbone.get_input_embeddings().weight) == tied
