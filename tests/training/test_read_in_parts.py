"""Sharded ranks read their own rows of a backbone's weights, and train with the same bits."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import transformers

from smorm.model.border import check_model, quiet
from smorm.model.pieces import Pieces
from smorm.model.shallow import ReadWholeError, open_decoder, take_tables
from smorm.training import setup
from smorm.training.loop import train
from smorm.world import backbone_path
from tests.training.ranks import in_ranks
from tests.training.runs import bits, config_of, metrics
from tests.training.test_ranks import CHANGES, printed

LAYERS = 7


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of more layers than the laboratory's, in bf16, with its tokenizer."""
    folder = tmp_path_factory.mktemp("deep") / "backbone"
    files = shutil.ignore_patterns("*.safetensors", "manifest.json")
    shutil.copytree(backbone_path(), folder, ignore=files)
    config = transformers.AutoConfig.from_pretrained(folder)
    config.num_hidden_layers, config.initializer_range = LAYERS, 0.1
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:1] * LAYERS
    torch.manual_seed(3)
    with quiet():
        model = transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
        model.save_pretrained(folder, max_shard_size="200KB")
    return folder


def train_both(backbone: Path, folder: Path) -> None:
    """Train in parts, and count what this rank read of each weight; then with all weights."""
    rows: Counter[str] = Counter()
    read = Pieces.read

    def counted(self: Pieces, name: str, first: int = 0, past: int | None = None) -> torch.Tensor:
        found = read(self, name, first, past)
        rows[name] += len(found) if past is not None else 0
        return found

    def refused(*_: Any) -> Any:
        raise ReadWholeError("this test says so")

    Pieces.read = counted  # type: ignore[method-assign]
    changes: dict[str, Any] = {**CHANGES, "model": {"backbone": str(backbone)}}
    changes["training"] = {**CHANGES["training"], "parallel": "sharded", "max_steps": 2}
    train(config_of(folder / "parts", **changes))
    (folder / f"rows-{dist.get_rank()}.json").write_text(json.dumps(rows))
    setup.open_start = refused
    train(config_of(folder / "whole", **changes))


@pytest.mark.slow
def test_ranks_that_read_their_own_rows_train_with_the_bits_of_whole_ones(
    deep: Path, tmp_path: Path
) -> None:
    assert in_ranks(2, train_both, tmp_path, deep, tmp_path) == [0, 0], printed(tmp_path)
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    assert bits(tmp_path / "parts") == bits(tmp_path / "whole")
    shapes = Pieces(deep.glob("*.safetensors")).shapes
    counts = [json.loads((tmp_path / f"rows-{rank}.json").read_text()) for rank in (0, 1)]
    names = {name for name in counts[0] if name.startswith("model.layers.")}
    assert any(name.startswith(f"model.layers.{LAYERS - 1}.") for name in names)
    for name in names:
        assert [count[name] for count in counts] == [-(-shapes[name][0] // 2), shapes[name][0] // 2]


def test_a_backbone_that_is_read_in_parts_is_the_one_that_is_loaded(deep: Path) -> None:
    expected = transformers.AutoModel.from_pretrained(deep, dtype=torch.float32)
    opened, shallow = open_decoder(check_model(deep))
    assert len(shallow.layers) == 2
    take_tables(opened.backbone, shallow)
    for name, weight in expected.named_parameters():
        half = len(weight) // 2
        parts = [opened.read(name, 0, half), opened.read(name, half, len(weight))]
        assert torch.equal(torch.cat(parts).float(), weight)
    found = dict(opened.backbone.named_buffers())
    for name, table in expected.named_buffers():
        assert torch.equal(found[name], table)


def test_what_is_converted_while_it_is_loaded_is_read_whole(tmp_path: Path) -> None:
    """Experts are stored one by one, and computed as one tensor."""
    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "pad_token_id": 0}
    layers = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.MixtralConfig(**sizes, **layers, num_local_experts=2)
    with quiet():
        transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ReadWholeError, match="is not stored as it is used"):
        open_decoder(check_model(tmp_path))
