"""The laws of token-budget micro-batches."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.trees.budget import Costs, micro_batches, padded_batches
from smorm.trees.forest import grow
from tests.trees.sequences import arrays, grown, tokens

law = settings(deadline=None, max_examples=80)


@st.composite
def units_of(draw):
    """Pairs, singles and larger groups over a few prompts, some of them equal."""
    pool = draw(grown()) + draw(grown()) + [draw(arrays)]
    size = st.integers(1, 3)
    member = st.sampled_from(pool)
    return draw(
        st.lists(
            size.flatmap(lambda n: st.lists(member, min_size=n, max_size=n)),
            min_size=1,
            max_size=12,
        )
    )


budgets = st.integers(1, 60)
KINDS = {
    "forest": lambda units, budget: micro_batches(units, budget),
    "packed": lambda units, budget: micro_batches(units, budget, share=False),
    "padded": padded_batches,
}


def rows_of(kind, units):
    """Rows that the layout really computes."""
    sequences = [s for unit in units for s in unit]
    if kind == "padded":
        return len(sequences) * max(map(len, sequences))
    return grow(sequences, share=kind == "forest").num_tokens


def contents(units, batches):
    return sorted(sorted([t.tolist() for t in units[i]] for i in batch) for batch in batches)


@pytest.mark.parametrize("kind", KINDS)
@law
@given(units=units_of(), budget=budgets)
def test_every_unit_is_in_exactly_one_batch_within_the_budget(kind, units, budget):
    batches = KINDS[kind](units, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(units)))
    for batch in batches:
        assert len(batch) == 1 or rows_of(kind, [units[i] for i in batch]) <= budget
    assert KINDS[kind](units, budget) == batches


@pytest.mark.slow
@law
@given(units=units_of(), budget=budgets, seed=st.integers(0, 99))
def test_the_order_of_the_units_does_not_change_the_batches(units, budget, seed):
    shuffled = list(units)
    random.Random(seed).shuffle(shuffled)
    for kind in ("forest", "packed"):
        one, other = KINDS[kind](units, budget), KINDS[kind](shuffled, budget)
        assert contents(units, one) == contents(shuffled, other)


@law
@given(units=units_of(), choice=st.randoms(use_true_random=False))
def test_the_cost_of_any_units_is_exactly_the_rows_that_are_computed(units, choice):
    for kind in ("forest", "packed"):
        costs = Costs.of(units, share=kind == "forest")
        some = choice.sample(range(len(units)), choice.randint(1, len(units)))
        for members in (some, some[:1], list(range(len(units)))):
            assert costs.rows(members) == rows_of(kind, [units[costs.order[i]] for i in members])


@law
@given(seed=st.integers(0, 10**6), budget=st.integers(20, 400))
def test_a_budget_that_holds_every_family_loses_no_sharing(seed, budget):
    """As many rows in all the batches together as one forest of everything has."""
    units = conversations(seed, openings=5)
    families = {}
    for unit in units:
        families.setdefault(tuple(unit[0][:9].tolist()), []).append(unit)
    budget = max(budget, *(rows_of("forest", family) for family in families.values()))
    batches = micro_batches(units, budget)
    rows = [rows_of("forest", [units[i] for i in batch]) for batch in batches]
    assert sum(rows) == rows_of("forest", units)
    assert rows == sorted(rows, reverse=True)


def test_a_common_system_prompt_does_not_scatter_the_conversations_below_it():
    """All share the template, so all are one family: it is taken apart at its first fork only."""
    template = np.arange(500, 530, dtype=np.int32)
    plain = conversations(3, openings=6, turns=4)
    units = [[np.concatenate([template, side]) for side in unit] for unit in plain]
    budget = 30 + max(rows_of("forest", plain[i : i + 4]) for i in range(0, len(plain), 4))
    batches = micro_batches(units, budget)
    assert len(batches) > 1
    for start in range(0, len(units), 4):
        assert sum(bool({*range(start, start + 4)} & {*batch}) for batch in batches) == 1
    rows = sum(rows_of("forest", [units[i] for i in batch]) for batch in batches)
    assert rows == rows_of("forest", units) + 30 * (len(batches) - 1)


def test_turns_of_one_conversation_share_its_beginning_in_one_batch():
    """Pairs at turn 1, 2 and 3 of a dialogue, whatever lies between them in the step."""
    units = conversations(8, openings=4, turns=3)
    turns = {i: unit[0][:9].tolist() for i, unit in enumerate(units)}
    shuffled = random.Random(0).sample(range(len(units)), len(units))
    largest = max(rows_of("forest", units[i : i + 3]) for i in range(0, len(units), 3))
    for batch in micro_batches([units[i] for i in shuffled], largest):
        found = [turns[shuffled[i]] for i in batch]
        assert all(found.count(opening) == 3 for opening in found)
    one = units[:3]
    longest = max(one[2], key=len)
    ends = sum(len(side) for unit in one for side in unit)
    assert rows_of("forest", one) < ends - 3 * len(one[0][0])
    assert rows_of("forest", one) >= len(longest)


def conversations(seed, openings, turns=3):
    """Pairs at each turn of some dialogues: a turn's chosen side is the beginning of the next."""
    rng = np.random.default_rng(seed)
    draw = lambda low, high: rng.integers(0, 400, rng.integers(low, high)).astype(np.int32)  # noqa: E731
    units = []
    for _ in range(openings):
        prompt = draw(10, 20)
        for _ in range(turns):
            chosen = np.concatenate([prompt, draw(3, 12)])
            units.append([chosen, np.concatenate([prompt, draw(3, 12)])])
            prompt = np.concatenate([chosen, draw(2, 6)])
    return units


def prompts_with_responses(seed, count, prompt, response, responses, template=0):
    """Units over a prompt each; lengths are log-normal: (median, spread, largest)."""
    rng = np.random.default_rng(seed)
    draw = lambda n: rng.integers(0, 16_000, n).astype(np.int32)  # noqa: E731

    def text(median, spread, largest):
        return draw(int(np.clip(rng.lognormal(np.log(median), spread), 3, largest)))

    begin = draw(template)
    units = []
    for _ in range(count):
        stem = np.concatenate([begin, text(*prompt)])
        units.append([np.concatenate([stem, text(*response)]) for _ in range(responses)])
    return units


HH = {"prompt": (95, 0.75, 1500), "response": (30, 0.9, 500), "responses": 2}
RM_BENCH = {"prompt": (30, 0.6, 400), "response": (230, 0.5, 900), "responses": 6}


@pytest.mark.parametrize("template", [0, 25])
@pytest.mark.parametrize(
    ("lengths", "count", "budget"),
    [(HH, 400, 2048), (HH, 400, 4096), (HH, 600, 8192), (RM_BENCH, 300, 8192)],
    ids=["hh 2048", "hh 4096", "hh 8192", "rm-bench 8192"],
)
def test_batches_of_real_lengths_are_filled_to_95_percent(lengths, count, budget, template):
    """All but the last: of prompts and responses with the lengths of HH and of RM-Bench."""
    units = prompts_with_responses(1, count, template=template, **lengths)
    rows = [rows_of("forest", [units[i] for i in b]) for b in micro_batches(units, budget)]
    assert max(rows) <= budget
    assert len(rows) > 9
    assert np.mean(rows[:-1]) >= 0.95 * budget
    packed = micro_batches(units, budget, share=False)
    rows = [rows_of("packed", [units[i] for i in batch]) for batch in packed]
    assert np.mean(rows[:-1]) >= (0.95 if lengths is HH else 0.9) * budget


def test_a_few_batches_are_equally_full():
    """Ten equal units where six fit: five and five, for a lower peak."""
    units = [[np.full(100, i, dtype=np.int32)] for i in range(10)]
    assert sorted(map(len, micro_batches(units, 650))) == [5, 5]
    assert sorted(map(len, micro_batches(units, 1000))) == [10]


def test_a_few_batches_are_not_made_equal_at_the_cost_of_sharing():
    stem = np.arange(60, dtype=np.int32)
    family = [[np.append(stem, np.int32(100 + i))] for i in range(6)]
    others = [[np.full(10, i, dtype=np.int32)] for i in range(200, 202)]
    batches = micro_batches([*family, *others], 70)
    assert sorted(map(sorted, batches)) == [[0, 1, 2, 3, 4, 5], [6, 7]]


def test_pairs_over_the_same_few_responses_are_packed_within_the_budget():
    """All pairs of 12 answers hang together by their leaves: no fork tells them apart."""
    stem = np.arange(20, dtype=np.int32)
    answers = [np.concatenate([stem, np.full(15, 100 + i, np.int32)]) for i in range(12)]
    units = [[a, b] for i, a in enumerate(answers) for b in answers[:i]]
    assert len(micro_batches(units, 200)) == 1
    batches = micro_batches(units, 120)
    rows = [rows_of("forest", [units[i] for i in batch]) for batch in batches]
    assert sorted(i for batch in batches for i in batch) == list(range(len(units)))
    assert max(rows) <= 120
    assert sum(rows) < 0.5 * rows_of("packed", units)


def test_no_unit_makes_no_batch():
    assert micro_batches([], 10) == []


@pytest.mark.slow
def test_ten_thousand_pairs_are_split_in_well_under_a_second():
    """0.2 s on an idle machine; ten times that is what a loop over tokens would take."""
    units = prompts_with_responses(2, 10_000, **HH)
    started = time.process_time()
    batches = micro_batches(units, 4096)
    assert time.process_time() - started < 2.0
    assert sum(map(len, batches)) == len(units)


def test_a_short_sequence_is_not_taken_for_free_behind_one_that_begins_with_it():
    """Fewer than the least number of common tokens is not shared, not even a whole sequence."""
    units = [[tokens(*range(12))], [tokens(0, 1, 2)], [tokens(*range(12))]]
    costs = Costs.of(units, share=True)
    assert costs.rows([0, 1, 2]) == grow([unit[0] for unit in units]).num_tokens == 15
    assert [costs.rows([i]) for i in range(3)] == [len(units[i][0]) for i in costs.order]


def test_units_over_one_prompt_meet_and_share():
    prompts = [list(range(n, n + 20)) for n in (100, 300)]
    units = [[tokens(*prompts[i % 2], 1, i), tokens(*prompts[i % 2], 2, i)] for i in range(6)]
    batches = micro_batches(units, 40)
    assert sorted(sorted(i % 2 for i in batch) for batch in batches) == [[0, 0, 0], [1, 1, 1]]


def test_a_unit_larger_than_the_budget_gets_a_batch_of_its_own():
    units = [[tokens(*range(50))], [tokens(1, 2)], [tokens(3)]]
    for kind, split in KINDS.items():
        batches = split(units, 10)
        assert [0] in batches, kind
        assert len(batches) == 2
