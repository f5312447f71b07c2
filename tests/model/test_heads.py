"""Heads that are not one linear layer: what they compute, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from smorm.data.scaling import AttributeScale
from smorm.errors import CheckpointError, DataError, ModelError
from smorm.model.card import CARD, ModelCard
from smorm.model.export import export_all_rows, export_view
from smorm.model.heads import HEAD, GatedHead, MlpHead, gate_network
from smorm.model.inference import pooled_units, prompted_units, score_units
from smorm.model.network import RewardNetwork
from smorm.model.store import load_model, save_model
from smorm.model.views import named_view
from smorm.scoring.merge import load_linear
from smorm.text.tokenizers import train_bpe
from tests.model.architectures import tiny

HEADER = np.array([70, 71, 72], dtype=np.int32)
NAMES = ("a", "b", "c", "d")
CARD_OF_GATED = ModelCard(NAMES, tuple(map(AttributeScale, NAMES)), max_tokens=64, head="gated")
CARD_OF_MLP = ModelCard(max_tokens=64, head="mlp")


def head_of(width: int) -> GatedHead:
    torch.manual_seed(1)
    gate = gate_network(width, 4, width=24, layers=3, dropout=0.2)
    head = GatedHead(
        torch.randn(4, width), torch.randn(width), torch.tensor([0.5, -0.3, 0.0, 1.0]), gate,
        torch.from_numpy(HEADER), temperature=0.2,
    )  # fmt: skip
    head.scale.data.fill_(1.7)
    return head


def network_of(kind: str) -> RewardNetwork:
    torch.manual_seed(0)
    backbone = tiny("llama")
    network = RewardNetwork(backbone, rows=1, pad_id=2)
    width = backbone.config.hidden_size
    network.head = MlpHead(width, 16) if kind == "mlp" else head_of(width)
    return network.eval()


def units() -> list[list[np.ndarray]]:
    """Four prompts with 3, 1, 2 and 5 answers; each prompt holds an earlier turn of its own."""
    rng = np.random.default_rng(3)

    def draw(length: int) -> np.ndarray:
        return rng.integers(3, 69, length).astype(np.int32)

    found = []
    for answers in (3, 1, 2, 5):
        prompt = np.concatenate([draw(9), HEADER, draw(12), HEADER])
        found.append([np.concatenate([prompt, draw(4 + at)]) for at in range(answers)])
    return found


def test_an_mlp_is_two_layers_with_a_relu_between():
    head, hidden = MlpHead(8, 16), torch.randn(5, 8)
    first, _, second = head.layers
    want = torch.relu(hidden @ first.weight.T + first.bias) @ second.weight.T + second.bias
    torch.testing.assert_close(head(hidden), want)
    assert head(hidden.bfloat16()).dtype == torch.float32


def by_hand(head: GatedHead, hidden: np.ndarray, prompt: np.ndarray) -> np.ndarray:
    """Scores of one response, in numpy."""
    weights = {name: one.detach().double().numpy() for name, one in head.state_dict().items()}
    state = prompt
    for at in (0, 3, 6):
        state = np.maximum(weights[f"gate.{at}.weight"] @ state + weights[f"gate.{at}.bias"], 0)
    logits = (weights["gate.9.weight"] @ state + weights["gate.9.bias"]) / weights["temperature"]
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    rewards = weights["attributes"] @ hidden
    debiased = rewards - weights["multiples"] * (weights["verbosity"] @ hidden)
    return np.concatenate([weights["scale"] * (shares @ debiased), rewards])


@pytest.mark.parametrize("layout", ["forest", "packed", "padded"])
def test_a_gate_reads_the_end_of_the_prompt_in_every_layout(layout):
    network = network_of("gated")
    assert isinstance(network.head, GatedHead)
    network.use_layout(layout)
    found = score_units(network, units(), 64)
    spread = []
    for rows, unit in zip(found, units(), strict=True):
        for row, tokens in zip(rows, unit, strict=True):
            last = np.flatnonzero(tokens == HEADER[-1])[-1] + 1
            whole, prompt = pooled_units(network, [[tokens], [tokens[:last]]], 64)
            np.testing.assert_allclose(row, by_hand(network.head, whole[0], prompt[0]), atol=1e-4)
            spread.append(row[0])
    assert np.std(spread) > 0.1, "the scores must differ for the comparison to mean anything"
    assert len({len(np.unique(rows[:, 0])) for rows in found}) > 1


def test_a_score_does_not_depend_on_the_answers_beside_it_or_on_the_batch():
    network = network_of("gated")
    network.use_layout("forest")
    together = np.concatenate(score_units(network, units(), 4096))
    alone = [score_units(network, [[tokens]], 64)[0] for unit in units() for tokens in unit]
    np.testing.assert_allclose(np.concatenate(alone), together, atol=1e-4)
    training = network_of("gated").train()  # dropout in the gate: never while it scores
    np.testing.assert_allclose(
        np.concatenate(score_units(training, units(), 64)), together, atol=1e-4
    )
    assert training.head.training
    assert score_units(network, [], 64) == []


def test_a_prompt_that_several_answers_share_is_read_once():
    network = network_of("gated")
    found = prompted_units(network, units(), HEADER, 64)
    assert [len(one.prompts) for one in found] == [1, 1, 1, 1]
    assert [one.which for one in found] == [[0] * 3, [0], [0] * 2, [0] * 5]
    two = [units()[0][0], units()[1][0]]
    (both,) = prompted_units(network, [two], HEADER, 64)
    assert both.which == [0, 1]


def test_a_sequence_without_a_turn_of_an_assistant_is_refused():
    with pytest.raises(DataError, match="no turn of an assistant"):
        score_units(network_of("gated"), [[np.arange(5, dtype=np.int32)]], 64)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A saved folder of each kind."""
    place, tokenizer = tmp_path_factory.mktemp("heads"), train_bpe(["a few words"], 300)
    for kind, card in (("mlp", CARD_OF_MLP), ("gated", CARD_OF_GATED)):
        save_model(place / kind, network_of(kind), tokenizer, card)
    return place


@pytest.mark.parametrize("kind", ["mlp", "gated"])
def test_a_saved_head_comes_back_bit_for_bit(folders, kind):
    network, _, card = load_model(folders / kind)
    want = network_of(kind)
    for one in (network, want):
        one.use_layout("padded")
    assert card.head == kind
    assert type(network.head) is type(want.head)
    for (name, one), (_, other) in zip(
        network.head.state_dict().items(), want.head.state_dict().items(), strict=True
    ):
        assert torch.equal(one, other), name
    for rows, others in zip(
        score_units(network, units(), 64), score_units(want, units(), 64), strict=True
    ):
        np.testing.assert_array_equal(rows, others)


@pytest.mark.parametrize("kind", ["mlp", "gated"])
def test_what_needs_one_linear_head_is_refused_with_the_reason(folders, kind, tmp_path):
    network, tokenizer, card = load_model(folders / kind)
    parts = (tmp_path / "x", network, tokenizer, card)
    for refused in (
        lambda: export_view(*parts, named_view("F", ())),
        lambda: export_all_rows(*parts),
        lambda: load_linear(str(folders / kind)),
    ):
        with pytest.raises(ModelError, match="not one linear layer"):
            refused()
    assert not (tmp_path / "x").exists()


def harmed(folders, tmp_path, change):
    """A copy of the gated folder without its manifest, whose head or card was changed."""
    folder = tmp_path / "harmed"
    shutil.copytree(folders / "gated", folder)
    (folder / "manifest.json").unlink()
    change(folder)
    return folder


def without(name):
    def change(folder):
        weights = load_file(folder / HEAD)
        del weights[name]
        save_file(weights, folder / HEAD)

    return change


def as_kind(kind):
    def change(folder):
        card = json.loads((folder / CARD).read_text())
        (folder / CARD).write_text(json.dumps({**card, "head": kind}))

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("gate.3.bias"), "no gated head, or damaged"),
        (without("attributes"), "no gated head, or damaged"),
        (as_kind("mlp"), "no mlp head, or damaged"),
        (as_kind("bilinear"), "head: input should be 'linear', 'mlp' or 'gated'"),
        (as_kind("linear"), "not one linear layer"),
        (lambda folder: (folder / HEAD).unlink(), "a head would be random"),
        (lambda folder: (folder / HEAD).write_bytes(b"nothing"), "damaged"),
    ],
)
def test_a_damaged_head_is_never_drawn_at_random(folders, tmp_path, change, said):
    with pytest.raises(ModelError, match=said):
        load_model(harmed(folders, tmp_path, change))


def test_a_changed_weight_is_found_by_the_manifest(folders, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(folders / "gated", folder)
    weights = load_file(folder / HEAD)
    save_file({**weights, "scale": weights["scale"] + 1}, folder / HEAD)
    with pytest.raises(CheckpointError):
        load_model(folder)


def test_an_older_reader_finds_no_head_in_the_folder(folders):
    """It looks for `score.weight`, and must not take one for the whole head."""
    for kind in ("mlp", "gated"):
        names = set(load_file(folders / kind / HEAD)) | set(
            load_file(folders / kind / "model.safetensors")
        )
        assert not any("score" in name for name in names)
