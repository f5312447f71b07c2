"""ArmoRM's parts: ridge rows, what is subtracted of verbosity, and the gate's loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.errors import DataError
from smorm.model.heads import GatedHead, gate_network
from smorm.training.armo.attributes import ALPHAS, PairFeatures, held_out_prompts, ridge_rows
from smorm.training.armo.gate import debias, gate_loss, rank_correlation, train_gate
from smorm.training.folder import Cost
from smorm.training.setup import prepare
from tests.training.runs import LAB, config_of

RNG = np.random.default_rng(0)


def ridge_by_hand(states: np.ndarray, target: np.ndarray, alpha: float) -> np.ndarray:
    """Least squares on the data with sqrt(alpha) times the identity below it."""
    width = states.shape[1]
    rows = np.vstack([states, np.sqrt(alpha) * np.eye(width)])
    return np.linalg.lstsq(rows, np.concatenate([target, np.zeros(width)]), rcond=None)[0]


@pytest.fixture(scope="module")
def ratings():
    """States, targets with holes, and held-out rows; the second attribute is mostly noise."""
    states = RNG.normal(size=(80, 12))
    targets = states @ RNG.normal(size=(12, 3)) + RNG.normal(size=(80, 3)) * [0.1, 30.0, 1.0]
    targets[RNG.random(80) < 0.3, 2] = np.nan
    return states, targets, held_out_prompts(np.arange(80) // 2, 0.2, seed=3)


def test_a_ridge_row_is_that_of_least_squares_with_the_penalty_that_predicts_best(ratings):
    states, targets, held_out = ratings
    rows = ridge_rows(states, targets, held_out, list("abc"))
    for row, target in zip(rows, targets.T, strict=True):
        rated = ~np.isnan(target)
        errors = {}
        for alpha in ALPHAS:
            fit = ridge_by_hand(states[rated & ~held_out], target[rated & ~held_out], alpha)
            kept = rated & held_out
            errors[alpha] = np.mean((states[kept] @ fit - target[kept]) ** 2)
        assert row.errors == pytest.approx(errors, rel=1e-6)
        assert row.alpha == min(errors, key=errors.get)
        assert row.held_out == (rated & held_out).sum()
        want = ridge_by_hand(states[rated], target[rated], row.alpha)
        np.testing.assert_allclose(row.weights, want, atol=1e-7)
    assert rows[1].alpha > rows[0].alpha  # noise asks for the larger penalty


def test_a_missing_rating_has_no_part_in_a_row(ratings):
    states, targets, held_out = ratings
    missing = np.isnan(targets[:, 2])
    other = states.copy()
    other[missing] = 1e3
    one = ridge_rows(states, targets[:, 2:], held_out, ["c"])[0]
    same = ridge_rows(other, targets[:, 2:], held_out, ["c"])[0]
    np.testing.assert_array_equal(one.weights, same.weights)


def test_more_states_than_responses_are_no_trouble():
    states, target = RNG.normal(size=(10, 40)), RNG.normal(size=10)
    held_out = np.arange(10) < 2
    (row,) = ridge_rows(states, target[:, None], held_out, ["a"])
    np.testing.assert_allclose(row.weights, ridge_by_hand(states, target, row.alpha), atol=1e-6)


def test_prompts_are_held_out_whole_and_by_seed():
    prompts = RNG.integers(0, 50, 200)
    found = held_out_prompts(prompts, 0.2, seed=1)
    assert not set(prompts[found]) & set(prompts[~found])
    assert len(set(prompts[found])) == round(0.2 * len(set(prompts)))
    np.testing.assert_array_equal(found, held_out_prompts(prompts, 0.2, seed=1))
    assert (found != held_out_prompts(prompts, 0.2, seed=2)).any()


@pytest.mark.parametrize("rated", [slice(0, 16), slice(16, 80), slice(0, 0)])
def test_an_attribute_that_one_part_never_rates_is_named(rated):
    target = np.full(80, np.nan)
    target[rated] = 1.0
    with pytest.raises(DataError, match="attribute 'rare' is rated under too few prompts"):
        ridge_rows(RNG.normal(size=(80, 3)), target[:, None], np.arange(80) < 16, ["rare"])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-3, 3), st.floats(0.05, 20))
def test_what_is_left_goes_with_verbosity_no_more_than_allowed(seed, slope, spread):
    rng = np.random.default_rng(seed)
    verbosity = rng.normal(size=300) * spread
    reward = slope * verbosity + rng.normal(size=300)
    found = debias(reward, verbosity, 0.03)
    left = rank_correlation(reward - found.multiple * verbosity, verbosity)
    assert abs(left) <= 0.03
    assert left == pytest.approx(found.after)
    assert found.before == pytest.approx(rank_correlation(reward, verbosity))
    if found.multiple:  # no smaller one would do
        nearer = reward - 0.999 * found.multiple * verbosity
        assert abs(rank_correlation(nearer, verbosity)) > abs(found.after) - 1e-9
        assert found.multiple * found.before > 0
    mirrored = debias(-reward, verbosity, 0.03)
    assert mirrored.multiple == pytest.approx(-found.multiple, rel=1e-6, abs=1e-12)


def test_ranks_share_ties_and_a_constant_goes_with_nothing():
    assert rank_correlation(np.array([1.0, 2, 2, 3]), np.array([1.0, 2, 2, 3])) == 1.0
    x, y = np.array([1.0, 2, 2, 4]), np.array([3.0, 1, 4, 4])
    ranks = np.corrcoef([1, 2.5, 2.5, 4], [2, 1, 3.5, 3.5])[0, 1]
    assert rank_correlation(x, y) == pytest.approx(ranks)
    assert rank_correlation(np.ones(4), y) == 0.0
    assert debias(np.ones(4), y, 0.03).multiple == 0.0


WIDTH, ATTRIBUTES = 6, 3


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A prepared run whose gate learns quickly."""
    changes = {"objective": {"kind": "armo", "label_smoothing": 0.1},
               "training": {"max_steps": 150, "batch_size": 24, "learning_rate": 0.01,
                            "log_every": 50}}  # fmt: skip
    folder = tmp_path_factory.mktemp("gate") / "run"
    folder.mkdir()
    return prepare(config_of(folder, model=LAB, **changes))


def made_up_pairs(count: int) -> PairFeatures:
    """Two kinds of prompts: of one the first attribute decides, of the other the second, reversed
    where the first is high. No fixed mixture is right about both."""
    generator = torch.Generator().manual_seed(0)
    kind = torch.arange(count) % 2
    ratings = torch.randn(count, 2, ATTRIBUTES, generator=generator)
    gap = ratings[:, 0] - ratings[:, 1]
    decides = gap[torch.arange(count), kind]
    ratings = torch.where((decides > 0)[:, None, None], ratings, ratings.flip(1))
    prompts = torch.nn.functional.one_hot(kind, WIDTH).float() * 3
    which = torch.arange(count)[:, None].repeat(1, 2)
    return PairFeatures(ratings, torch.zeros(count, 2), prompts, which, torch.zeros(count))


def untrained(dropout: float = 0.2, width: int = 32) -> GatedHead:
    torch.manual_seed(0)
    gate = gate_network(WIDTH, ATTRIBUTES, width=width, layers=2, dropout=dropout)
    return GatedHead(torch.zeros(ATTRIBUTES, WIDTH), torch.zeros(WIDTH), torch.zeros(ATTRIBUTES),
                     gate, torch.tensor([1]), temperature=1.0)  # fmt: skip


def first_step(ready) -> torch.Tensor:
    return torch.from_numpy(ready.order.step(0)[0])


def test_a_gate_learns_which_attribute_counts_under_which_prompt(ready):
    pairs = made_up_pairs(len(ready.train.pairs))
    head, cost = untrained(), Cost()
    before = [one.clone() for one in (head.attributes, head.verbosity, head.multiples)]
    train_gate(ready, head, pairs, cost)
    head.eval()
    shares = head.gate_weights(pairs.prompts).detach()
    assert float(shares[0::2, 0].min()) > 0.8
    assert float(shares[1::2, 1].min()) > 0.8
    scores = head.mix(shares[:, None].expand_as(pairs.ratings).flatten(0, 1),
                        pairs.ratings.flatten(0, 1)).detach().unflatten(0, (-1, 2))  # fmt: skip
    assert float((scores[:, 0] > scores[:, 1]).float().mean()) > 0.9
    equal = pairs.ratings.mean(-1)
    assert float((equal[:, 0] > equal[:, 1]).float().mean()) < 0.9
    for one, other in zip(before, (head.attributes, head.verbosity, head.multiples), strict=True):
        assert torch.equal(one, other)  # what was fitted to the ratings stays
    assert (cost.steps, cost.passes) == (150, 150)
    assert head.scale.item() != 1.0


def test_the_gates_loss_is_the_few_lines_of_the_paper_and_its_gradient_is_right(ready):
    head = untrained(dropout=0.0, width=4).double()
    pairs = made_up_pairs(len(ready.train.pairs))
    debiased = pairs.ratings.double()
    pairs = replace(pairs, prompts=pairs.prompts.double(), ratings=debiased)
    chosen = first_step(ready)
    section = ready.config.objective
    loss, metrics = gate_loss(section, head, pairs, chosen)
    shares = torch.softmax(head.gate(pairs.prompts[chosen]), dim=1)
    gap = head.scale * (shares * (debiased[chosen, 0] - debiased[chosen, 1])).sum(1)
    want = -(0.9 * gap.sigmoid().log() + 0.1 * (-gap).sigmoid().log()).mean()
    assert loss.item() == pytest.approx(want.item())
    assert float(metrics["accuracy"]) == pytest.approx(float((gap > 0).double().mean()))
    loss.backward()
    weight = head.gate[0].weight
    for place in ((0, 0), (3, 1), (1, 0)):
        ends = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                weight[place] += step
                ends.append(gate_loss(section, head, pairs, chosen)[0].item())
                weight[place] -= step
        assert weight.grad[place].item() == pytest.approx(
            (ends[0] - ends[1]) / 2e-6, rel=1e-3, abs=1e-9
        )


def test_both_sides_of_a_pair_get_one_draw_of_the_dropout(ready):
    pairs = made_up_pairs(len(ready.train.pairs))
    equal = replace(pairs, ratings=pairs.ratings[:, :1].repeat(1, 2, 1))
    head, chosen = untrained(dropout=0.5).train(), first_step(ready)
    loss, metrics = gate_loss(ready.config.objective, head, equal, chosen)
    assert float(metrics["reward_gap"]) == 0.0
    assert loss.item() == pytest.approx(np.log(2))
