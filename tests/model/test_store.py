"""A model folder comes back as it was, or is refused with its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from smorm.data.scaling import AttributeScale
from smorm.errors import CheckpointError, ModelError
from smorm.model.backbone import add_lora, load_backbone
from smorm.model.border import quiet
from smorm.model.card import ModelCard
from smorm.model.heads import HEAD, read_head
from smorm.model.network import RewardNetwork
from smorm.model.store import load_model, save_model, save_view
from smorm.model.views import fold, named_view
from smorm.text.tokenizers import train_bpe
from tests.model.architectures import ARCHITECTURES, COMMON, tiny
from tests.model.test_forest_equals_padded import sequences_of

NAMES = ("clarity", "depth")
CARD = ModelCard(
    attributes=NAMES,
    scales=(AttributeScale("clarity", 2.0, 0.5), AttributeScale("depth", -1.0, 3.0)),
    default_view="M",
    max_tokens=64,
    renderer="abc",
    hashes={"config": "c", "data": "d"},
)
TEXT = "a few <|user|> words  12345 isn't <|endoftext|> \u00e9 e\u0301\n\n it?"
SEQUENCES = sequences_of("tree of 6")


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(["a few words to learn from"], 300)


def network_of(backbone) -> RewardNetwork:
    torch.manual_seed(3)
    network = RewardNetwork(backbone, rows=3, pad_id=2).eval()  # not its config's, which is 0
    torch.nn.init.normal_(network.head.weight, std=0.3)
    return network


def scores(network: RewardNetwork, layout="padded") -> torch.Tensor:
    network.use_layout(layout)
    with torch.inference_mode():
        return network(network.arrange(SEQUENCES))


@pytest.fixture(scope="module")
def llama(tmp_path_factory, tokenizer):
    """A saved folder that tests copy before they harm it."""
    folder = tmp_path_factory.mktemp("store") / "llama"
    save_model(folder, network_of(tiny("llama")), tokenizer, CARD)
    return folder


def unsealed(folder: Path, target: Path) -> Path:
    """A copy without the manifest, as a folder that went through the hub."""
    target.mkdir()
    for path in folder.iterdir():
        if path.name != "manifest.json":
            (target / path.name).write_bytes(path.read_bytes())
    return target


@pytest.mark.parametrize("layout", ["padded", "forest"])
@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_a_loaded_model_gives_the_same_bits(tmp_path, tokenizer, name, layout):
    network = network_of(tiny(name))
    expected = scores(network, layout)
    save_model(tmp_path / "m", network, tokenizer, CARD)
    loaded, loaded_tokenizer, card = load_model(tmp_path / "m")
    assert card == CARD
    assert loaded_tokenizer.get_vocab() == tokenizer.get_vocab()
    assert loaded_tokenizer(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]
    assert loaded_tokenizer.chat_template == tokenizer.chat_template
    assert not loaded.training
    assert torch.equal(scores(loaded, layout), expected)


def classifier_scores(folder: Path) -> torch.Tensor:
    """What plain transformers makes of a folder, one sequence at a time."""
    with quiet():
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder, output_loading_info=True, dtype=torch.float32, attn_implementation="eager"
        )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    with torch.inference_mode():
        rows = [torch.from_numpy(s.astype("int64"))[None] for s in SEQUENCES]
        return torch.cat([model.eval()(row).logits for row in rows])


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_plain_transformers_finds_every_weight_and_gives_the_same_scores(tmp_path, tokenizer, name):
    network = network_of(tiny(name))
    expected = scores(network)
    save_model(tmp_path / "all", network, tokenizer, CARD)
    torch.testing.assert_close(classifier_scores(tmp_path / "all"), expected, atol=1e-5, rtol=0)
    config = AutoConfig.from_pretrained(tmp_path / "all")
    assert config.id2label == {0: "preference", 1: "clarity", 2: "depth"}
    assert (config.num_labels, config.problem_type) == (3, "regression")
    assert config.get_text_config().pad_token_id == 2
    row, _ = fold(named_view("M", NAMES), network.head.weight, CARD.scales)
    save_view(tmp_path / "one", network, tokenizer, ModelCard(), row)
    folded = expected @ torch.tensor([[0.5], [0.25 * 0.5], [0.25 * 3.0]])
    torch.testing.assert_close(classifier_scores(tmp_path / "one"), folded, atol=1e-5, rtol=0)
    assert torch.equal(network.head.weight, network_of(tiny(name)).head.weight), "left as it was"


def granite():
    """transformers has no classification class for it."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("granite", **COMMON)
    return AutoModel.from_config(config, attn_implementation="eager")


def test_an_architecture_without_a_classification_class_keeps_its_head_beside_it(
    tmp_path, tokenizer
):
    network = network_of(granite())
    expected = scores(network, "forest")
    save_model(tmp_path / "m", network, tokenizer, CARD)
    assert (tmp_path / "m" / HEAD).is_file()
    loaded, _, card = load_model(tmp_path / "m")
    assert card == CARD
    assert torch.equal(scores(loaded, "forest"), expected)


def test_its_view_cannot_be_a_plain_folder_and_nothing_is_left_behind(tmp_path, tokenizer):
    network = network_of(granite())
    with pytest.raises(ModelError, match="no sequence classification class for granite"):
        save_view(tmp_path / "v", network, tokenizer, ModelCard(), network.head.weight[:1].detach())
    assert list(tmp_path.iterdir()) == []


# What is refused


def test_a_folder_without_its_head_is_refused(llama, tmp_path):
    folder = unsealed(llama, tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"no score head \(score\.weight\)"):
        load_model(folder)


def test_a_language_model_is_not_taken_for_a_reward_model(tmp_path, tokenizer):
    tiny("llama").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="a head would be random"):
        load_model(tmp_path)


def test_a_flipped_byte_names_the_damaged_file(llama, tmp_path):
    folder = unsealed(llama, tmp_path / "m")
    (folder / "manifest.json").write_bytes((llama / "manifest.json").read_bytes())
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointError, match=r"m/model\.safetensors: .*damaged"):
        load_model(folder)


def test_weights_cut_short_are_refused_without_a_manifest_too(llama, tmp_path):
    folder = unsealed(llama, tmp_path / "m")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelError, match=r"model\.safetensors: damaged"):
        load_model(folder)


def test_a_shard_that_is_not_there_is_refused(llama, tmp_path):
    folder = unsealed(llama, tmp_path / "m")
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"score.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"model-00001-of-00002\.safetensors"):
        load_model(folder)


def test_a_missing_weight_of_the_decoder_is_refused(llama, tmp_path):
    folder = unsealed(llama, tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights .*up_proj.*they would be random"):
        load_model(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_the_models_own_is_refused(llama, tmp_path, name):
    folder = unsealed(llama, tmp_path / "m")
    values = json.loads((folder / name).read_text())
    values["auto_map"] = {"AutoModel": "modeling_evil.Evil", "AutoTokenizer": ["evil.Evil", None]}
    (folder / name).write_text(json.dumps(values))
    (folder / "modeling_evil.py").write_text("raise SystemExit('run')")
    with pytest.raises(ModelError, match=rf"{name}: auto_map asks to run code"):
        load_model(folder)


def test_a_head_and_a_card_that_disagree_are_refused(llama, tmp_path):
    folder = unsealed(llama, tmp_path / "m")
    card = json.loads((folder / "smorm.json").read_text())
    card["attributes"], card["scales"] = ["clarity"], card["scales"][:1]
    (folder / "smorm.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match=r"has 3 rows, smorm\.json names preference, clarity"):
        load_model(folder)


@pytest.mark.parametrize("content", ["[]", '{"claws": 3}', '{"scales": [{"nam": "x"}]}', "{", "7"])
def test_a_card_that_is_none_is_refused(llama, tmp_path, content):
    folder = unsealed(llama, tmp_path / "m")
    (folder / "smorm.json").write_text(content)
    with pytest.raises(ModelError, match=r"smorm\.json"):
        load_model(folder)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no such model folder"):
        load_model(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no weights in it"):
        load_model(tmp_path / "empty")


def test_the_folder_of_a_run_stands_for_its_model(llama, tmp_path):
    (tmp_path / "run").mkdir()
    unsealed(llama, tmp_path / "run" / "model")
    _, _, card = load_model(tmp_path / "run")
    assert card == CARD


def test_saving_again_replaces_the_folder_whole(tmp_path, tokenizer):
    save_model(tmp_path / "m", network_of(tiny("llama")), tokenizer, CARD)
    network = network_of(tiny("gpt_neox"))
    save_model(tmp_path / "m", network, tokenizer, CARD)
    loaded, _, _ = load_model(tmp_path / "m")
    assert torch.equal(scores(loaded), scores(network))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


# LoRA


def adapted(base: Path) -> RewardNetwork:
    backbone = add_lora(
        load_backbone(str(base)), rank=4, alpha=8, dropout=0.1, targets="all-linear"
    )
    torch.manual_seed(1)
    for name, parameter in backbone.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return network_of(backbone)


@pytest.fixture
def base(tmp_path, tokenizer):
    tiny("llama").save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("layout", ["padded", "forest"])
def test_adapters_and_head_come_back_with_the_same_bits(tmp_path, tokenizer, base, layout):
    network = adapted(base)
    expected = scores(network, layout)
    assert not torch.equal(expected, scores(network_of(load_backbone(str(base))), layout))
    card = ModelCard(NAMES, CARD.scales, base=str(base))
    save_model(tmp_path / "m", network, tokenizer, card)
    names = {path.name for path in (tmp_path / "m").iterdir()}
    assert {"adapter_model.safetensors", HEAD} <= names
    assert "model.safetensors" not in names
    loaded, _, found = load_model(tmp_path / "m")
    assert found == card
    assert torch.equal(scores(loaded, layout), expected)


def test_adapters_without_their_head_or_base_are_refused(tmp_path, tokenizer, base):
    save_model(
        tmp_path / "m", adapted(base), tokenizer, ModelCard(NAMES, CARD.scales, base=str(base))
    )
    headless = unsealed(tmp_path / "m", tmp_path / "headless")
    (headless / HEAD).unlink()
    with pytest.raises(ModelError, match="no score head"):
        load_model(headless)
    base.rename(tmp_path / "moved")
    with pytest.raises(ModelError, match="base"):
        load_model(tmp_path / "m")


def test_the_head_of_a_folder_is_read_alone(llama):
    assert read_head(llama).shape == (3, 32)


def test_the_saved_tokenizer_is_the_run_s(llama, tokenizer):
    found = AutoTokenizer.from_pretrained(llama)
    assert found(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]
