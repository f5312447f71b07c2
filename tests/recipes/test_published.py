"""Each published recipe builds everything but its weights: data, tokenizer, network, one step."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from experiments import published
from smorm.config import load_config
from smorm.model.backbone import build_backbone
from smorm.model.shapes import SHAPES
from smorm.training.loop import train
from smorm.training.methods import make_method
from smorm.training.plan import plan
from smorm.training.setup import prepare
from smorm.training.step import run_step
from tests.cli.conftest import smorm as smorm
from tests.conftest import ROOT
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
ONE_GPU = [f"{name}-1gpu" for name in PUBLISHED]
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


@pytest.fixture(params=[*PUBLISHED, *ONE_GPU])
def recipe(request, tmp_path):
    """The recipe with local stand-ins for what it would download, and what is expected of it."""
    return stand_in(request.param, tmp_path)


def stand_in(name, tmp_path, *overrides):
    architecture, style, *expected = PUBLISHED[name.removesuffix("-1gpu")]
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
            f"output.folder={tmp_path / 'runs' / name}",
            "training.device=cpu",
            *overrides,
        ],
    )
    return config, expected


def test_every_recipe_is_covered_by_a_test():
    covered = {*PUBLISHED, *ONE_GPU, *FROM_SCRATCH, *RIVALS, *STRESS, "truthfulqa-armo"}
    covered |= {"distilled"}  # tests/cli/test_distillation.py
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


SHORT = ("training.max_steps=1", "training.batch_size=3", "training.learning_rate=0.01")


@pytest.mark.parametrize(
    "name",
    ["gemma-2b-uf40k-helpsteer2", "llama-8b-skywork-helpsteer2", *ONE_GPU[1:2]],
    ids=["replicated", "sharded", "adapters"],
)
def test_a_published_recipe_runs_to_its_row_beside_the_papers(name, tmp_path, smorm, capsys):
    config, _ = stand_in(name, tmp_path, *SHORT)
    train(config)
    suites = [f"{suite}={bench_file(tmp_path, suite)}" for suite in ("rewardbench", "rm-bench")]
    words = [word for suite in suites for word in ("--suite", suite)]
    output = tmp_path / "results.json"
    code, _, err = smorm(
        "eval", config.output.folder, *words, "--view", "F", "--view", "L", "--output", output
    )
    assert code == 0, err
    assert published.main([str(output)]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    measured = [row for row in rows if row[0].removeprefix("| ") == name]
    assert measured
    assert all(row[-1][0].isdigit() and ", n " in row[-1] for row in measured), rows


def bench_file(folder, suite):
    """A few rows of a benchmark's plain shape."""
    rows = [
        {
            "prompt": f"Question {number}?",
            "chosen": "Yes, it is.",
            "rejected": "No.",
            "subset": subset,
        }
        for number, subset in enumerate(
            ("alpacaeval-easy", "mt-bench-hard", "xstest-should-refuse")
        )
    ]
    if suite == "rm-bench":
        answers = {"chosen": ["a b", "a c", "a d"], "rejected": ["x", "y z", "z"]}
        rows = [
            {"id": f"{domain}/{number}", "domain": domain, "prompt": f"Ask {number}", **answers}
            for domain in ("chat", "math", "code", "safety-refuse", "safety-response")
            for number in range(2)
        ]
    path = folder / f"{suite}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_page_of_the_recipes_has_the_table_of_the_script(capsys):
    published.main([])
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() in page


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PUBLISHED, *ONE_GPU])
def test_a_published_recipe_is_planned_with_its_own_keys(name, tmp_path):
    """By the shape of its backbone, but with two layers: counting all of them takes a minute."""
    config = load_config(RECIPES / f"{name}.yaml")
    fields = {**SHAPES[config.model.backbone], "num_hidden_layers": 2}
    folder = tmp_path / "shape"
    folder.mkdir()
    values = {"model_type": fields.pop("architecture"), **fields}
    (folder / "config.json").write_text(json.dumps(values))
    config = load_config(RECIPES / f"{name}.yaml", [f"model.backbone={folder}"])
    configured = plan(config).rows[-1]
    assert configured.parallel == (
        "sharded" if config.training.parallel == "sharded" else "replicated"
    )
    assert configured.fits
    assert (configured.needs.gradients < 0.1 * configured.needs.weights) is name.endswith("-1gpu")


@pytest.mark.parametrize("name", ONE_GPU)
def test_on_one_gpu_only_the_way_of_training_differs(name):
    one_gpu = load_config(RECIPES / f"{name}.yaml").as_dict()
    eight = load_config(RECIPES / f"{name.removesuffix('-1gpu')}.yaml").as_dict()
    assert one_gpu["model"].pop("lora")["base"] == "bf16"
    del eight["model"]["lora"]
    for values in (one_gpu, eight):
        for key in ("learning_rate", "max_batch_tokens", "parallel"):
            values["training"].pop(key, None)
        del values["output"]
    assert one_gpu == eight


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


@pytest.mark.parametrize("name", [*PUBLISHED, *ONE_GPU])
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
