"""What is refused before a model is built: sizes that its weights lack, files that are none."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from chaos.folders import PAIRS, make_folders
from smorm import RewardModel
from smorm.errors import ModelError, third_party
from smorm.model.border import check_model
from smorm.model.store import load_model, load_start


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("folders")
    return {**make_folders(folder), "base": folder / "base"}


def edited(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refused(folder: Path, load: Callable[[Path], Any] = RewardModel.load) -> str:
    """The one line of a refusal, which names the folder and comes at once."""
    began = time.monotonic()
    with pytest.raises(ModelError) as caught:
        load(folder)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert str(folder) in line
    assert time.monotonic() - began < 20
    return line


SIZES: dict[str, tuple[Any, str]] = {
    "num_hidden_layers": (10**6, "SMORM_LIMIT_LAYERS"),
    "num_labels": (10**9, "SMORM_LIMIT_LABELS"),
    "num_local_experts": (10**7, "SMORM_LIMIT_EXPERTS"),
    "max_position_embeddings": (10**12, "SMORM_LIMIT_POSITIONS"),
    "num_hidden_layer": (10**400, "SMORM_LIMIT_LAYERS"),
    "hidden_size": (10**9, "do not belong together"),
    "intermediate_size": (10**11, "do not belong together"),
    "vocab_size": (10**9, "do not belong together"),
    "num_attention_heads": (0, "config.json: cannot be"),
    "num_key_value_heads": (3, "do not belong together"),
    "head_dim": (6, "do not belong together"),
    "pad_token_id": (-1, "pad_token_id is -1, expected 0 to 279"),
    "id2label": ({str(row): "x" for row in range(20_000)}, "SMORM_LIMIT_LABELS"),
    "quantization_config": ({"quant_method": "none such"}, "unknown quant_method 'none such'"),
    "hidden_act": ("none such", "none such"),
    "transformers_weights": ("../other.safetensors", "transformers_weights"),
    "get_text_config": (5, "get_text_config: is no setting"),
    "model_type": ("none such", "none such"),
}


@pytest.mark.parametrize("key", list(SIZES))
def test_a_size_that_the_weights_do_not_have_is_refused(folders, tmp_path, key):
    value, found = SIZES[key]
    folder = shutil.copytree(folders["llama"], tmp_path / "m")
    edited(folder / "config.json", **{key: value})
    line = refused(folder)
    assert "config.json" in line
    assert found in line


@pytest.mark.parametrize("value", [-1, 2.0, "2", True, None, [2]])
@pytest.mark.parametrize("key", ["num_hidden_layers", "hidden_size", "vocab_size"])
def test_a_size_that_is_no_number_is_refused(folders, tmp_path, key, value):
    folder = shutil.copytree(folders["qwen2"], tmp_path / "m")
    edited(folder / "config.json", **{key: value})
    assert "config.json" in refused(folder)


def test_more_layers_than_tensors_are_refused_before_they_are_built(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("SMORM_LIMIT_LAYERS", "10000000")
    folder = shutil.copytree(folders["llama"], tmp_path / "m")
    edited(folder / "config.json", num_hidden_layers=10**6)
    assert "its weights are 21 tensors" in refused(folder)


# Heads


def head(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        weights["score.weight"] = change(weights["score.weight"]).contiguous()
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


HEADS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "integers": (lambda weight: weight.to(torch.int64), "score.weight is int64"),
    "bool": (lambda weight: weight > 0, "score.weight is bool"),
    "complex": (lambda weight: weight.to(torch.complex64), "score.weight is complex64"),
    "3-D": (lambda weight: weight[None], "is [1, 3, 16], expected [rows, hidden size]"),
    "flat": (lambda weight: weight.flatten(), "is [48], expected [rows, hidden size]"),
    "empty": (lambda weight: weight[:0], "is [0, 16], expected [rows, hidden size]"),
    "narrow": (lambda weight: weight[:, :8], "its head reads 8 numbers, its decoder gives 16"),
    "more rows": (lambda weight: torch.cat([weight, weight]), "has 6 rows"),
    "nan": (lambda weight: weight * float("nan"), "no matrix of finite numbers"),
    "infinite": (lambda weight: weight + float("inf"), "no matrix of finite numbers"),
}


@pytest.mark.parametrize("name", list(HEADS))
def test_a_head_that_is_no_matrix_of_its_rows_is_refused(folders, tmp_path, name):
    change, found = HEADS[name]
    folder = shutil.copytree(folders["llama"], tmp_path / "m")
    head(change)(folder)
    assert found in refused(folder)


def test_labels_and_rows_of_others_must_be_as_many(folders, tmp_path):
    folder = shutil.copytree(folders["foreign"], tmp_path / "m")
    edited(folder / "config.json", id2label={"0": "a", "1": "b"})
    assert "names 2 labels, its head has 1 rows" in refused(folder)


@pytest.mark.parametrize("bias", [torch.zeros(2), torch.zeros(1, 1), torch.tensor([float("nan")])])
def test_a_bias_is_one_finite_number_a_row(folders, tmp_path, bias):
    folder = shutil.copytree(folders["foreign"], tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "score.bias": bias}, folder / "model.safetensors", {"format": "pt"})
    assert "score.bias: expected one finite number for each of 1 rows" in refused(folder)


# Files


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def as_zero(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def as_deep(path: Path) -> None:
    path.write_text('{"a": ' * 200 + "1" + "}" * 200)


FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "pipe": (as_pipe, "not a regular file"),
    "folder": (as_folder, "not a regular file"),
    "device": (as_zero, "not a regular file"),
    "loop": (as_loop, "cannot be read"),
    "not JSON": (lambda path: path.write_text("{"), "not valid JSON"),
    "empty": (lambda path: path.write_text(""), "not valid JSON"),
    "list": (lambda path: path.write_text("[]"), "expected a JSON object"),
    "not UTF-8": (lambda path: path.write_bytes(b"\xff\xfe{"), "not valid JSON"),
    "large": (lambda path: path.write_text(" " * (30 << 20)), "SMORM_LIMIT_SETTINGS_BYTES"),
    "digits": (lambda path: path.write_text('{"a": ' + "9" * 6000 + "}"), "not valid JSON"),
    "deep": (as_deep, "SMORM_LIMIT_DEPTH"),
}


@pytest.mark.parametrize("what", list(FILES))
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "adapter_config.json"])
def test_settings_that_are_no_file_of_settings_are_refused(folders, tmp_path, name, what):
    change, found = FILES[what]
    kind = "foreign-adapters" if name == "adapter_config.json" else "foreign"
    folder = shutil.copytree(folders[kind], tmp_path / "m")
    change(folder / name)
    line = refused(folder)
    assert str(folder / name) in line
    assert found in line


@pytest.mark.parametrize("change", [as_pipe, as_folder, as_loop, as_zero])
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "smorm.json"])
def test_other_files_must_be_regular_too(folders, tmp_path, name, change):
    folder = shutil.copytree(folders["llama"], tmp_path / "m")
    change(folder / name)
    assert str(folder / name) in refused(folder)


def test_files_may_be_links_as_in_the_hubs_cache(folders, tmp_path):
    (tmp_path / "m").mkdir()
    for path in folders["llama"].iterdir():
        (tmp_path / "m" / path.name).symlink_to(path)
    assert len(RewardModel.load(tmp_path / "m").score(PAIRS)) == len(PAIRS)


def test_a_header_over_the_limit_is_not_read(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("SMORM_LIMIT_HEADER_BYTES", "1KiB")
    folder = shutil.copytree(folders["llama"], tmp_path / "m")
    assert "SMORM_LIMIT_HEADER_BYTES" in refused(folder)


def shared_out(folder: Path, placed: Any = None) -> None:
    """The weights of a folder in one shard, by an index that places them (by default rightly)."""
    shard = "model-00001-of-00001.safetensors"
    names = dict.fromkeys(load_file(folder / "model.safetensors"), shard)
    (folder / "model.safetensors").rename(folder / shard)
    index = {"metadata": {}, "weight_map": names if placed is None else placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_weights_in_shards_are_read(folders, tmp_path):
    folder = shutil.copytree(folders["llama"], tmp_path / "m")
    before = RewardModel.load(folder).score(PAIRS).rows
    shared_out(folder)
    assert (RewardModel.load(folder).score(PAIRS).rows == before).all()


@pytest.mark.parametrize(
    ("placed", "found"),
    [
        ({}, "weight_map: expected the file of each tensor"),
        ([], "weight_map: expected the file of each tensor"),
        ({"score.weight": "../base/model.safetensors"}, "expected the name of a file beside it"),
        ({"score.weight": "/dev/zero"}, "expected the name of a file beside it"),
        ({"score.weight": 7}, "expected the name of a file beside it"),
        ({"score.weight": "pytorch_model.bin"}, "expected the name of a file beside it"),
        ({"score.weight": "none.safetensors"}, "no such file, but the index names it"),
        ({"other": "model-00001-of-00001.safetensors"}, "other: is not in model-00001-of-00001"),
    ],
)
def test_an_index_of_other_files_is_refused(folders, tmp_path, placed, found):
    folder = shutil.copytree(folders["llama"], tmp_path / "m")
    shared_out(folder, placed)
    assert found in refused(folder)


def test_a_distributed_checkpoint_is_not_read_in_place_of_the_weights(folders, tmp_path):
    folder = shutil.copytree(folders["foreign"], tmp_path / "m")
    shard = folder / "shard-00001-model-00001-of-00001.safetensors"
    shutil.copy(folder / "model.safetensors", shard)
    assert "a distributed checkpoint" in refused(folder)


# Tokenizers


def test_tokens_that_the_embedding_has_no_row_for_are_refused(folders, tmp_path):
    folder = shutil.copytree(folders["foreign"], tmp_path / "m")
    _, tokenizer, _ = load_model(folder)
    tokenizer.add_tokens(["one more"])
    tokenizer.save_pretrained(folder)
    assert "1 tokens beyond the 280 rows of the embedding (first: 'one more'" in refused(folder)


def test_a_pad_token_may_be_beyond_the_embedding(folders, tmp_path):
    folder = shutil.copytree(folders["foreign"], tmp_path / "m")
    before = RewardModel.load(folder).score(PAIRS).rows
    _, tokenizer, _ = load_model(folder)
    tokenizer.add_special_tokens({"pad_token": "<|other pad|>"})
    tokenizer.save_pretrained(folder)
    edited(folder / "config.json", pad_token_id=None)
    model = RewardModel.load(folder, layout="padded")
    assert model.network.pad_id == 280
    assert (abs(model.score(PAIRS).rows - before) < 1e-5).all()


# Adapters

ADAPTERS: dict[str, tuple[Any, str]] = {
    "r": (10**9, "r is 1000000000, its weights have at most"),
    "rank_pattern": ({"q_proj": 10**9}, "r is 1000000000"),
    "lora_alpha": (float("nan"), "lora_alpha"),
    "peft_type": ("NONE_SUCH", "NONE_SUCH"),
    "target_modules": (7, "target_modules"),
    "layer_replication": ([[0, 10**9]], "SMORM_LIMIT_LAYERS"),
    "init_lora_weights": ("pissa_niter_1000000", "too many passes"),
    "base_model_name_or_path": (["x"], "base_model_name_or_path"),
}


@pytest.mark.parametrize("kind", ["adapters", "foreign-adapters"])
@pytest.mark.parametrize("key", list(ADAPTERS))
def test_adapters_that_cannot_be_are_refused(folders, tmp_path, key, kind):
    value, found = ADAPTERS[key]
    folder = shutil.copytree(folders[kind], tmp_path / "m")
    edited(folder / "adapter_config.json", **{key: value})
    assert found in refused(folder)


def test_another_rank_than_the_weights_have_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders["foreign-adapters"], tmp_path / "m")
    edited(folder / "adapter_config.json", r=3)
    assert "adapters could not be loaded" in refused(folder)


def test_adapters_on_themselves_are_refused(folders, tmp_path):
    folder = shutil.copytree(folders["adapters"], tmp_path / "a")
    edited(folder / "smorm.json", base=str(folder))
    assert "lead back to" in refused(folder)
    other = shutil.copytree(folders["adapters"], tmp_path / "b")
    edited(folder / "smorm.json", base=str(other))
    edited(other / "smorm.json", base=str(folder))
    assert "lead back to" in refused(folder)
    assert "lead back to" in refused(other, lambda place: load_start(str(place)))


def test_pickled_adapters_of_ours_are_refused_too(folders, tmp_path):
    folder = shutil.copytree(folders["adapters"], tmp_path / "m")
    weights = folder / "adapter_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    assert "pickle" in refused(folder)


# The boundary


def test_whatever_a_library_raises_is_one_line_with_place_and_cause():
    with pytest.raises(ModelError) as caught, third_party("there", "cannot be read"):
        raise KeyError("swish")
    assert str(caught.value) == "there: cannot be read: KeyError: 'swish'"
    with pytest.raises(ModelError) as caught, third_party("there", "cannot be read"):
        raise AssertionError
    assert str(caught.value) == "there: cannot be read: AssertionError"


def test_a_panic_in_rust_is_one_too(folders, tmp_path):
    folder = shutil.copytree(folders["foreign"], tmp_path / "m")
    # No ordinary exception of Python's.
    edited(
        folder / "tokenizer.json", normalizer={"type": "Precompiled", "precompiled_charsmap": "A"}
    )
    assert "no usable tokenizer: " in refused(folder)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_a_program_goes_through(error):
    with pytest.raises(error), third_party("there", "cannot be read"):
        raise error


def test_our_own_errors_stay_what_they_are():
    with pytest.raises(ModelError, match=r"^ours$"), third_party("there", "cannot be read"):
        raise ModelError("ours")


def test_a_model_that_is_right_passes(folders):
    checked = check_model(folders["llama"])
    assert (checked.rows, checked.width, len(checked.weights)) == (280, 16, 21)
