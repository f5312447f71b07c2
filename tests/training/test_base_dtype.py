"""Adapters on weights in bf16 or 4 bits, and moments in 8 bits."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from smorm import RewardModel
from smorm.config import Config
from smorm.errors import ConfigError, Interrupted
from smorm.model.base_dtype import convert_base, round_base
from smorm.model.export import export_view
from smorm.model.network import RewardNetwork
from smorm.model.store import load_model
from smorm.model.views import parse_view
from smorm.training import proof
from smorm.training.loop import train
from smorm.training.memory import measure
from smorm.training.optim import moment_bytes
from smorm.training.plan import Counter
from smorm.training.setup import prepare
from tests.model.architectures import tiny
from tests.training.runs import LAB, SCRATCH, bits, config_of
from tests.training.test_memory import sequences
from tests.training.test_resume import stopping_in

HAS_LIBRARY = importlib.util.find_spec("bitsandbytes") is not None
needs_library = pytest.mark.skipif(not HAS_LIBRARY, reason="needs bitsandbytes (smorm[qlora])")
BASES = ["bf16", pytest.param("nf4", marks=needs_library)]
ITEMS = [("What is it?", "A stone."), ("What is it?", "I do not know."), ("Why?", "Because.")]


def adapted(folder: Path, base: str, **training: Any) -> Config:
    lora = {"rank": 4, "alpha": 8, "dropout": 0.1, "base": base}
    return config_of(folder, model={**LAB, "lora": lora}, training={"max_steps": 3, **training})


@pytest.mark.slow
@pytest.mark.parametrize("base", BASES)
def test_adapters_on_a_smaller_base_are_trained_loaded_and_merged(
    tmp_path: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gaps = []
    compare = proof._compare

    def recorded(folder: Path, record: str, before: Any, after: Any, tolerance: float) -> None:
        gaps.append(np.abs(before - after).max())
        compare(folder, record, before, after, tolerance)

    monkeypatch.setattr(proof, "_compare", recorded)
    folder = train(adapted(tmp_path / "run", base, precision="bf16"))
    assert gaps
    assert max(gaps) <= proof.TOLERANCE[base]
    saved = load_file(folder / "adapter_model.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in saved.values())
    assert any(tensor.abs().max() > 0 for name, tensor in saved.items() if "lora_B" in name)
    # Computed in fp32 by the same rounded weights, and merged into them.
    scored = RewardModel.load(folder).score(ITEMS).preference
    half = RewardModel.load(folder, dtype="bfloat16").score(ITEMS).preference
    np.testing.assert_allclose(scored, half, rtol=0.05, atol=0.05)
    network, tokenizer, model_card = load_model(folder)
    F = parse_view("F", model_card.attributes)
    export_view(tmp_path / "plain", network, tokenizer, model_card, F)
    assert "base_dtype" not in (tmp_path / "plain" / "smorm.json").read_text()
    again = RewardModel.load(tmp_path / "plain").score(ITEMS).preference
    np.testing.assert_allclose(again, scored, rtol=1e-4, atol=1e-4)
    # Not those of the weights that were rounded: the base is what was trained on.
    card = folder / "smorm.json"
    card.write_text(card.read_text().replace(f'"base_dtype": "{base}"', '"base_dtype": "fp32"'))
    (folder / "manifest.json").unlink(missing_ok=True)
    other = RewardModel.load(folder).score(ITEMS).preference
    assert np.abs(other - scored).max() > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("base", BASES)
def test_a_smaller_base_holds_what_the_plan_says(tmp_path: Path, base: str) -> None:
    config = adapted(tmp_path, base)
    network = prepare(config).network
    held = sum(parameter.nbytes for parameter in network.parameters())
    # The scales of 4-bit weights are no parameters.
    assert Counter(config).needs("replicated", 1).weights == pytest.approx(held, rel=0.04)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert all(parameter.dtype == torch.float32 for parameter in trained)


@pytest.mark.parametrize("base", BASES)
def test_a_base_is_rounded_in_the_same_way_when_it_is_loaded(base: Any) -> None:
    sequence = [np.arange(3, 40, dtype=np.int32)]
    networks = [RewardNetwork(tiny("llama"), rows=2, pad_id=0).eval() for _ in range(2)]
    convert_base(networks[0].backbone, base)
    round_base(networks[1].backbone, base, torch.float32)
    with torch.no_grad():
        states = [network.pooled(network.arrange(sequence)).float() for network in networks]
        whole = RewardNetwork(tiny("llama"), rows=2, pad_id=0).eval()
        exact = whole.pooled(whole.arrange(sequence))
    size = exact.abs().max()
    assert (states[0] - states[1]).abs().max() < 0.03 * size
    assert (states[1] - exact).abs().max() > 1e-4 * size


@needs_library
def test_moments_in_8_bits_come_back_bit_for_bit(tmp_path: Path) -> None:
    def config(name: str) -> Config:
        return config_of(
            tmp_path / name, model=SCRATCH, training={"optimizer": "adamw_8bit", "max_steps": 4}
        )

    train(config("straight"))
    with stopping_in(8), pytest.raises(Interrupted):
        train(config("run"))
    last = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    moments = load_file(last / "optimizer.safetensors")
    assert {tensor.dtype for name, tensor in moments.items() if "/state" in name} == {
        torch.uint8,
        torch.float32,  # of small tensors
    }
    train(config("run"), resume=True)
    assert bits(tmp_path / "run") == bits(tmp_path / "straight")
    train(config_of(tmp_path / "usual", model=SCRATCH, training={"max_steps": 4}))
    assert bits(tmp_path / "usual") != bits(tmp_path / "straight")


@pytest.mark.slow
def test_moments_in_8_bits_take_a_quarter(tmp_path: Path) -> None:
    network = RewardNetwork(tiny("llama"), rows=3, pad_id=0).train()
    usual = measure(network, sequences(0, 2), half=False)
    small = measure(network, sequences(0, 2), half=False, optimizer="adamw_8bit")
    trained = list(network.parameters())
    assert usual.state == 3 * sum(parameter.nbytes for parameter in trained)
    assert usual.state - small.state == moment_bytes(trained, "adamw") - moment_bytes(
        trained, "adamw_8bit"
    )
    large = [torch.nn.Parameter(torch.empty(1 << 20, device="meta"))]
    assert moment_bytes(large, "adamw_8bit") == pytest.approx(0.25 * moment_bytes(large, "adamw"),
                                                              rel=0.02)  # fmt: skip


@pytest.mark.skipif(HAS_LIBRARY, reason="bitsandbytes is installed")
@pytest.mark.parametrize(
    ("key", "config"),
    [
        ("model.lora.base: nf4", lambda folder: adapted(folder, "nf4")),
        (
            "training.optimizer: adamw_8bit",
            lambda folder: config_of(folder, training={"optimizer": "adamw_8bit"}),
        ),
    ],
)
def test_without_the_library_it_is_refused_in_one_line(
    tmp_path: Path, key: str, config: Any
) -> None:
    with pytest.raises(ConfigError, match=rf"^{key} needs bitsandbytes: pip install 'smorm\[qlora"):
        train(config(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_model_on_a_4_bit_base_says_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train(adapted(tmp_path / "run", "bf16", max_steps=1))
    card = folder / "smorm.json"
    card.write_text(card.read_text().replace('"base_dtype": "bf16"', '"base_dtype": "nf4"'))
    (folder / "manifest.json").unlink(missing_ok=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"a 4-bit base needs bitsandbytes"):
        load_model(folder)


def test_a_smaller_base_is_not_sharded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.lora\.base: bf16: not with .* sharded"):
        train(adapted(tmp_path / "run", "bf16", parallel="sharded"))


def test_the_defaults_leave_the_hash_of_a_configuration_alone(tmp_path: Path) -> None:
    config = config_of(tmp_path, model={**LAB, "lora": {"rank": 4}})
    values = config.as_dict()
    assert "base" not in values["model"]["lora"]
    assert "optimizer" not in values["training"]
    assert adapted(tmp_path, "bf16").hash != adapted(tmp_path, "fp32").hash
