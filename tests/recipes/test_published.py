"""Each published recipe builds everything but its weights: data, tokenizer, network, one step."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from smorm.config import load_config
from smorm.model.backbone import build_backbone
from smorm.training.methods import make_method
from smorm.training.setup import prepare
from smorm.training.step import run_step
from tests.recipes.public_rows import ROWS
from tests.recipes.test_rivals import RIVALS
from tests.text import styles

RECIPES = Path(__file__).parents[2] / "recipes"
HELPSTEER2 = ["helpfulness", "correctness", "coherence", "complexity", "verbosity"]
ULTRAFEEDBACK = ["instruction_following", "honesty", "truthfulness", "helpfulness"]
PUBLISHED = {
    # recipe: (architecture, tokenizer's style, pairs left, attributes)
    "gemma-2b-uf40k-helpsteer2": ("gemma", "gemma", 2, HELPSTEER2),
    "mistral-7b-uf400k-ultrafeedback": ("mistral", "mistral", 20, ULTRAFEEDBACK),
    "llama-8b-skywork-helpsteer2": ("llama", "llama3", 6, HELPSTEER2),
}
FROM_SCRATCH = {"truthfulqa", "ukp"}
STRESS = {"lab-ppo", "lab-grpo"}  # tested in tests/stress/rl
TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "head_dim": 8,
}


def tiny_model(folder, architecture, style):
    """The recipe's family at a tiny size, as a folder that a hub id would give."""
    tokenizer = styles.build(style)
    fields = {**TINY, **({"sliding_window": None} if architecture == "mistral" else {})}
    backbone = build_backbone(architecture, fields, seed=0, tokenizer=tokenizer, max_tokens=4096)
    backbone.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rows_file(path, form):
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[form]()), encoding="utf-8")
    return path


@pytest.fixture(params=PUBLISHED)
def recipe(request, tmp_path):
    """The recipe with local stand-ins for what it would download."""
    name = request.param
    architecture, style, *expected = PUBLISHED[name]
    path = RECIPES / f"{name}.yaml"
    form = {
        part: getattr(load_config(path).data, part)[0].format for part in ("preference", "rated")
    }
    config = load_config(
        path,
        [
            f"model.backbone={tiny_model(tmp_path / 'hub', architecture, style)}",
            f"data.preference.path={rows_file(tmp_path / 'pairs.jsonl', form['preference'])}",
            "data.preference.subset=null",  # a file has none
            f"data.rated.path={rows_file(tmp_path / 'rated.jsonl', form['rated'])}",
            f"output.folder={tmp_path / 'run'}",
            "training.device=cpu",
        ],
    )
    return config, expected


def test_every_recipe_is_covered_by_a_test():
    covered = {*PUBLISHED, *FROM_SCRATCH, *RIVALS, *STRESS, "truthfulqa-armo"}
    assert {path.stem for path in RECIPES.glob("*.yaml")} == covered


def test_a_published_recipe_builds_and_makes_a_step(recipe):
    config, (pairs, attributes) = recipe
    prepared = prepare(config)
    assert len(prepared.train.pairs) == pairs
    assert [scale.name for scale in prepared.card.scales] == attributes
    assert {(scale.offset, scale.scale) for scale in prepared.card.scales} == {(0.0, 1.0)}
    assert prepared.network.layout == "forest"
    in_step, rated_in_step = prepared.order.step(0)
    assert len(in_step) == len(rated_in_step) == 512
    result = run_step(prepared, make_method(prepared), 0)
    assert np.isfinite(result.values["loss/preference"])
    assert np.isfinite(result.values["loss/regression"])
    gradient = prepared.network.head.weight.grad
    assert gradient is not None
    assert torch.isfinite(gradient).all()
    assert (gradient.abs().sum(dim=1) > 0).all()


def test_zip_pairs_each_pair_with_the_rating_of_its_number(recipe):
    order = prepare(recipe[0]).order
    pairs, rated = order.step(0)
    longer = max(order.num_pairs, order.num_rated)
    items = {(i % order.num_pairs, i % order.num_rated) for i in range(longer)}
    assert {(int(p), int(r)) for p, r in zip(pairs, rated, strict=True)} <= items


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_has_the_published_values(name):
    config = load_config(RECIPES / f"{name}.yaml")
    training = config.training
    assert (training.learning_rate, training.batch_size, config.data.max_tokens) == (
        5e-6,
        512,
        3000,
    )
    assert (training.schedule, training.warmup, training.max_grad_norm) == ("cosine", 0.03, 5.0)
    assert training.precision == "bf16"
    assert training.gradient_checkpointing
    assert config.model.lora is None
    assert config.data.scaling == "none"
    assert config.data.mixing.mode == "zip"
    assert (config.objective.kind, config.objective.weighting) == ("joint", "official")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_says_where_each_value_comes_from(name):
    lines = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    begin = lines.index("data:")
    values = [line for line in lines[begin:] if ":" in line and not line.strip().endswith(":")]
    tags = ("[paper]", "[code]", "[lineage]", "[inferred]", "[ours]")
    untold = [line for line in values if not any(tag in line for tag in tags)]
    assert all(line.strip().startswith(("folder:", "format: skywork")) for line in untold), untold


def test_stride_40k_and_400k_are_every_20th_and_every_2nd_pair():
    strides = {
        name: yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))["data"][
            "preference"
        ].get("stride")
        for name in PUBLISHED
    }
    assert list(strides.values()) == [20, 2, None]
