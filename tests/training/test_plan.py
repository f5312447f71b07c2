"""`smorm train --plan`: what is counted without weights is what a step with weights takes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from smorm.config import Config
from smorm.errors import ConfigError
from smorm.model.shapes import SHAPES
from smorm.training.memory import longest_units, measure
from smorm.training.plan import MACHINES, Counter, Plan, build_fake, count_activations, plan
from smorm.training.setup import prepare
from smorm.world import backbone_path
from tests.cli.conftest import smorm as smorm
from tests.training.runs import SCRATCH, config_of

SMALL = {
    "backbone": {
        "architecture": "llama",
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "tokenizer": {"train": "bpe", "vocab_size": 340},
}
TOKENS = 2048


@pytest.fixture
def shape_only(tmp_path: Path) -> Path:
    """A folder that holds a backbone's `config.json` and nothing else."""
    folder = tmp_path / "shape"
    folder.mkdir()
    (folder / "config.json").write_text((backbone_path() / "config.json").read_text())
    return folder


def large(folder: Path, **fields: Any) -> Path:
    """A folder with the `config.json` of a backbone of 8 billion weights, but of few layers."""
    values = dict(SHAPES["meta-llama/Llama-3.1-8B-Instruct"]) | fields
    values["model_type"] = values.pop("architecture")
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    return folder


# Against what a step takes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "training"),
    [
        (SCRATCH, {"precision": "bf16", "gradient_checkpointing": True}),
        (SMALL, {"precision": "fp32"}),
    ],
    ids=["tiny, checkpointed", "small"],
)
def test_planned_bytes_are_those_of_a_step_on_one_cpu_process(
    tmp_path: Path, model: dict[str, Any], training: dict[str, Any]
) -> None:
    config = config_of(tmp_path, model=model, training=training)
    half = training["precision"] == "bf16"
    prepared = prepare(config)
    units = longest_units(prepared.train)
    measured = measure(prepared.network, units, half=half)
    constant, per_token = count_activations(
        build_fake(config, on_cpu=True), half=half, units=units, on_cpu=True
    )
    planned = constant + per_token * TOKENS
    taken = measured.constant + measured.per_token * TOKENS
    ratio = planned / taken
    # Shown by pytest -rP.
    sys.stdout.write(f"activations of {TOKENS} tokens: {ratio:.3f} of what was measured\n")
    assert 0.85 <= ratio <= 1.15
    row = Counter(config).own_row()
    assert row.tokens == config.training.max_batch_tokens
    weights = sum(parameter.nbytes for parameter in prepared.network.parameters())
    # The head's attribute rows: their number is in the data.
    assert abs(row.needs.weights - weights) < 0.01 * weights
    assert abs(row.needs.gradients + row.needs.moments - measured.state) < 0.01 * measured.state


# What changes it


def needs(config: Config) -> Any:
    return Counter(config).needs("replicated", 1)


@pytest.mark.slow
def test_a_folder_with_a_config_alone_is_planned_and_checkpointing_and_adapters_count(
    tmp_path: Path, shape_only: Path
) -> None:
    model: dict[str, Any] = {"backbone": str(shape_only)}
    plain = needs(config_of(tmp_path, model=model))
    checkpointed = needs(
        config_of(tmp_path, model=model, training={"gradient_checkpointing": True})
    )
    assert checkpointed.per_token < 0.7 * plain.per_token
    assert checkpointed.weights == plain.weights
    adapters = needs(config_of(tmp_path, model={**model, "lora": {"rank": 4}}))
    assert adapters.weights > plain.weights
    assert adapters.gradients < 0.3 * plain.gradients
    assert adapters.moments == 2 * adapters.gradients
    frozen = needs(config_of(tmp_path, model={**model, "freeze": True}))
    assert frozen.per_token < 0.3 * plain.per_token
    assert frozen.gradients < 0.01 * plain.gradients


@pytest.mark.slow
def test_autocast_copies_replicated_weights_and_sharded_ones_are_gathered(
    tmp_path: Path, shape_only: Path
) -> None:
    result = plan(
        config_of(tmp_path, model={"backbone": str(shape_only)}, training={"precision": "bf16"})
    )
    replicated, sharded = (row.needs for row in result.rows[3:5])
    assert replicated.gathered == 0
    assert sharded.constant < replicated.constant
    assert sharded.weights < 0.2 * replicated.weights
    assert sharded.moments == -(-replicated.moments // 8)
    # A part of all gradients, and until the last pass those of all weights.
    assert sharded.gradients == replicated.gradients + -(-replicated.gradients // 8)
    assert 0 < sharded.gathered <= result.parameters * 2


def test_one_micro_batch_a_step_needs_no_gradients_of_all_weights(
    tmp_path: Path, shape_only: Path
) -> None:
    model = {"backbone": str(shape_only)}
    config = config_of(tmp_path, model=model, training={"max_batch_tokens": 4096})
    counter = Counter(config)
    gradients = [counter.needs(kind, 8).gradients for kind in ("sharded", "replicated")]
    assert gradients[0] < 0.2 * gradients[1]


# What is reported


def fitting(result: Plan) -> list[bool]:
    return [row.fits for row in result.rows]


def test_what_fits_holds_a_longest_pair_and_the_own_row_names_the_first_machine(
    tmp_path: Path,
) -> None:
    folder = large(tmp_path / "large", num_hidden_layers=3, intermediate_size=43008)
    config = config_of(
        tmp_path, model={"backbone": str(folder)}, training={"max_batch_tokens": 8192}
    )
    result = plan(config)
    assert fitting(result) == [False, True, True, True, True, True]
    configured = result.rows[-1]
    assert (configured.machine, configured.tokens, configured.parallel) == (
        MACHINES[1],
        8192,
        "replicated",
    )
    for row in result.rows:
        assert (row.total <= row.machine.size) is row.fits
        needs = row.needs
        lasting = needs.weights + needs.gradients + needs.moments + needs.gathered
        assert row.total == lasting + row.activations


def test_the_verb_prints_a_table_and_exits_with_1_where_the_own_values_fit_nowhere(
    smorm: Any, tmp_path: Path
) -> None:
    folder = large(
        tmp_path / "large", num_hidden_layers=1, hidden_size=65536, intermediate_size=262144
    )
    text = f"""
model: {{backbone: {folder}}}
data: {{preference: nowhere.jsonl, max_tokens: 512}}
objective: {{kind: preference}}
training: {{batch_size: 8, max_batch_tokens: 1024}}
output: {{folder: {tmp_path / "run"}}}
"""
    config, output = tmp_path / "run.yaml", tmp_path / "plan.json"
    config.write_text(text)
    code, out, err = smorm("train", config, "--plan", "--output", output)
    assert code == 1, err
    assert "8 x 80 GB *" in out
    rows = json.loads(output.read_text())["rows"]
    assert [row["configured"] for row in rows] == [False] * 5 + [True]
    assert not rows[-1]["fits"]
    assert not (tmp_path / "run").exists()
    small = large(tmp_path / "small", num_hidden_layers=2, hidden_size=64)
    code, out, _ = smorm("train", config, f"model.backbone={small}", "--plan")
    assert code == 0
    assert "1 x 24 GB *" in out


def test_what_is_not_counted_is_refused(smorm: Any, tmp_path: Path, shape_only: Path) -> None:
    config = config_of(tmp_path, model={"backbone": str(shape_only)}, objective={"kind": "grm"})
    with pytest.raises(ConfigError, match=r"--plan: objective\.kind grm"):
        plan(config)
    code, _, err = smorm("train", "x.yaml", "--output", tmp_path / "plan.json")
    assert code == 2
    assert "--output: goes with --plan" in err


PUBLISHED = {
    "google/gemma-2b-it": 2_506_172_416,
    "mistralai/Mistral-7B-Instruct-v0.2": 7_241_732_096 - 32_000 * 4096,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248 - 128_256 * 4096,
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_shapes_of_hub_ids_have_the_published_number_of_parameters(name: str) -> None:
    fields = dict(SHAPES[name])
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(fields.pop("architecture"), **fields))
    # Without the language head, where it is not the embedding.
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name]
