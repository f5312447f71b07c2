"""Weights averaged: laws on real folders, and what has no average is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm import RewardModel
from smorm.config import parse_config
from smorm.data.scaling import AttributeScale
from smorm.errors import ConfigError, ModelError
from smorm.model.backbone import fit_embeddings
from smorm.model.store import load_model, save_model
from smorm.scoring.merge import merge_models
from smorm.training.loop import train
from tests.tiny import config_values, trained, world


def records() -> list[dict]:
    """Some pairs of the world."""
    return [orjson.loads(line) for line in world()["eval-pairs-ID"].read_bytes().splitlines()[:4]]


def changed(folder: Path, seed: int = 0, *, head: float = 0.0, body: float = 0.0, **card) -> Path:
    """The tiny model with noise in its head or backbone, or another card."""
    network, tokenizer, own = load_model(trained())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            size = head if name.startswith("head") else body
            if size:
                weight += size * torch.randn(weight.shape, generator=generator)
    save_model(folder, network, tokenizer, replace(own, **card))
    return folder


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return {name: w.detach() for name, w in load_model(path)[0].named_parameters()}


def test_a_model_merged_with_itself_is_the_model_bit_for_bit(tmp_path):
    folders = [trained(), changed(tmp_path / "same"), changed(tmp_path / "too")]
    merged = merge_models(folders, tmp_path / "out", [1, 2, 4])
    expected = weights_of(trained())
    found = weights_of(tmp_path / "out")
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert merged.cosines == pytest.approx((1.0, 1.0))
    assert merged.shares == pytest.approx((1 / 7, 2 / 7, 4 / 7))
    assert merged.notes == ()


def test_every_weight_is_the_weighted_mean(tmp_path):
    folders = [changed(tmp_path / str(s), s, head=0.1, body=0.02) for s in range(3)]
    merge_models(folders, tmp_path / "out", [1, 2, 5])
    parts = [weights_of(folder) for folder in folders]
    for name, found in weights_of(tmp_path / "out").items():
        expected = sum(s * part[name] for s, part in zip((0.125, 0.25, 0.625), parts, strict=True))
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("heads")
    return [changed(folder / str(s), s, head=0.3) for s in range(3)]


@pytest.fixture(scope="module")
def scores_of_heads(heads) -> list:
    return [RewardModel.load(folder).score(records()) for folder in heads]


@settings(deadline=None, max_examples=3)
@given(weights=st.lists(st.floats(0.1, 10), min_size=3, max_size=3))
def test_merging_is_linear_in_the_head(heads, scores_of_heads, tmp_path_factory, weights):
    out = tmp_path_factory.mktemp("out") / "merged"
    merge_models(heads, out, weights)
    scores = [*scores_of_heads, RewardModel.load(out).score(records())]
    shares = np.array(weights) / sum(weights)
    for what in ("preference", "attributes"):
        *parts, found = (getattr(one, what) for one in scores)
        expected = sum(share * part for share, part in zip(shares, parts, strict=True))
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_rows_on_scales_near_each_other_are_averaged_on_their_own_scale(tmp_path):
    scales = RewardModel.load(trained()).card.scales
    moved = tuple(AttributeScale(s.name, s.offset + 0.1 * s.scale, 1.1 * s.scale) for s in scales)
    folders = [
        changed(tmp_path / "a", 1, head=0.3),
        changed(tmp_path / "b", 2, head=0.3, scales=moved),
    ]
    merged = merge_models(folders, tmp_path / "out")
    one, two, found = (
        RewardModel.load(path).score(records()).attributes for path in (*folders, tmp_path / "out")
    )
    np.testing.assert_allclose(found, (one + two) / 2, atol=1e-5)
    assert any("on their own scale" in note for note in merged.notes)
    card = RewardModel.load(tmp_path / "out").card
    assert card.scales[0].scale == pytest.approx(1.05 * scales[0].scale)


def test_the_constants_of_exported_views_are_averaged_too(tmp_path):
    folders = [changed(tmp_path / "a", 1, head=0.3, offset=1.0),
               changed(tmp_path / "b", 2, head=0.3, offset=4.0)]  # fmt: skip
    merge_models(folders, tmp_path / "out")
    one, two, found = (
        RewardModel.load(path).score(records(), "F").view() for path in (*folders, tmp_path / "out")
    )
    np.testing.assert_allclose(found, (one + two) / 2, atol=1e-5)


def test_the_card_says_of_what_the_model_is_made(tmp_path):
    folders = [
        changed(tmp_path / "a"),
        changed(tmp_path / "b", max_tokens=99, means={"style": 3.0}),
    ]
    merged = merge_models(folders, tmp_path / "out", [3, 1])
    card = RewardModel.load(tmp_path / "out").card
    own = RewardModel.load(trained()).card
    assert card.hashes["merged 1"].startswith(
        f"0.75 of {folders[0]} (config {own.hashes['config']}"
    )
    assert card.hashes["merged 2"].startswith(f"0.25 of {folders[1]} ")
    assert card.max_tokens == 99
    assert card.means == {"style": pytest.approx(0.75 * own.means["style"] + 0.75)}
    assert "The models' token limits differ: the smallest is kept." in merged.notes


def run(folder: Path, **changes) -> Path:
    return train(parse_config(config_values(folder, **changes)))


@pytest.mark.slow
def test_seeds_trained_from_one_backbone_merge_adapters_too(tmp_path):
    lora = {"lora": {"rank": 4, "alpha": 8}}
    folders = [run(tmp_path / str(s), model=lora, training={"seed": s, "max_steps": 3})
               for s in range(2)]  # fmt: skip
    merged = merge_models([*folders, trained()], tmp_path / "out")
    assert min(merged.cosines) > 0.9
    assert merged.notes == ()
    found = RewardModel.load(tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    assert np.isfinite(found.score(records()).view("M")).all()


def test_models_of_different_beginnings_are_told(tmp_path):
    other = changed(tmp_path / "b", 7, body=2.0)
    merged = merge_models([trained(), other], tmp_path / "out")
    assert merged.cosines[0] < 0.5
    assert "not trained from the same beginning" in merged.notes[0]


def test_other_rows_or_scales_are_refused_and_nothing_is_written(tmp_path):
    scales = RewardModel.load(trained()).card.scales
    wide = tuple(replace(scale, scale=4 * scale.scale) for scale in scales)
    high = tuple(replace(scale, offset=scale.offset + scale.scale) for scale in scales)
    named = tuple(replace(scale, name=f"new_{scale.name}") for scale in scales)
    rename = {"attributes": tuple(scale.name for scale in named), "scales": named}
    others = {
        "different rows: preference, correctness": trained("preference"),
        "on ratings alone": trained("regression"),
        "on different scales": changed(tmp_path / "wide", scales=wide),
        "hold correctness on different": changed(tmp_path / "high", scales=high),
        "and preference, new_correctness": changed(tmp_path / "names", **rename),
    }
    for said, folder in others.items():
        with pytest.raises(ModelError, match=said):
            merge_models([trained(), folder], tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_another_architecture_or_tokenizer_is_refused(tmp_path):
    small = {"architecture": "llama", "hidden_size": 32, "intermediate_size": 64,
             "num_hidden_layers": 1, "num_attention_heads": 2}  # fmt: skip
    steps = {"max_steps": 1}
    tokens = {"train": "bpe", "vocab_size": 300}
    one = run(
        tmp_path / "1", model={"backbone": small, "tokenizer": tokens}, training=steps,
        data={"max_tokens": 4000},
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"of different architectures: .*is .* and "):
        merge_models([trained(), one], tmp_path / "out")
    for folder, token in (("2", "never-seen"), ("3", "not-seen-either")):
        network, tokenizer, card = load_model(trained())
        tokenizer.add_tokens([token])
        fit_embeddings(network.backbone, len(tokenizer))
        save_model(tmp_path / folder, network, tokenizer, card)
    with pytest.raises(ModelError, match="have different tokenizers"):
        merge_models([tmp_path / "2", tmp_path / "3"], tmp_path / "out")


def test_another_chat_template_is_refused(tmp_path):
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    other = changed(tmp_path / "b", chat_template=template, renderer="")
    with pytest.raises(ModelError, match="render conversations to different tokens"):
        merge_models([trained(), other], tmp_path / "out")


def test_another_way_with_long_prompts_is_told(tmp_path):
    other = changed(tmp_path / "b", overlong="truncate_prompt")
    merged = merge_models([trained(), other], tmp_path / "out")
    assert "The models treat prompts over their limit differently: error is kept." in merged.notes
    assert merge_models([trained(), trained()], tmp_path / "same").notes == ()


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")]])
def test_weights_that_cannot_be_are_refused(tmp_path, weights):
    with pytest.raises(ConfigError, match="merge: "):
        merge_models([trained(), trained()], tmp_path / "out", weights)


def test_one_model_is_nothing_to_merge(tmp_path):
    with pytest.raises(ConfigError, match="two models or more"):
        merge_models([trained()], tmp_path / "out")
