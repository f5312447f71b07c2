"""Sampling and the chances of what was sampled, with the lab's real policy."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from smorm.errors import DataError
from smorm.stress.rl.actor import Answers, kl_from_start, sampled_log_probs
from smorm.world import backbone_path
from tests.stress.rl.made_up import actor_and_prompts


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return actor_and_prompts(tmp_path_factory.mktemp("actor"), max_new_tokens=24)


@pytest.fixture(scope="module")
def answers(policy):
    actor, prompts = policy
    torch.manual_seed(0)
    return actor.answer([one.ids for one in prompts], 4)


@pytest.fixture(scope="module")
def absolute(tmp_path_factory):
    """A policy that knows absolute positions: a random GPT-2 with the lab's tokenizer."""
    folder = tmp_path_factory.mktemp("absolute")
    tokenizer = AutoTokenizer.from_pretrained(backbone_path())
    torch.manual_seed(0)
    fields = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **fields, **ids)).save_pretrained(
        folder / "policy"
    )
    tokenizer.save_pretrained(folder / "policy")
    return actor_and_prompts(folder, policy=str(folder / "policy"))


def moved(actor):
    """Another policy: the start with its weights disturbed."""
    actor.restart()
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in actor.model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return actor.model


@pytest.mark.parametrize("kind", ["policy", "absolute"])
def test_padding_on_the_left_changes_no_chance(request, kind):
    actor, prompts = request.getfixturevalue(kind)
    torch.manual_seed(0)
    answers = actor.answer([one.ids for one in prompts], 4)
    assert len({len(one.ids) for one in prompts}) > 1  # otherwise there is nothing to test
    with torch.no_grad():
        together = sampled_log_probs(actor.distribution(actor.start, answers)[0], answers)
        for row in range(0, len(answers), 5):
            alone = next(iter(answers.batches(torch.tensor([row]), 1)))[1]
            assert alone.attention.all()
            log_probs = sampled_log_probs(actor.distribution(actor.start, alone)[0], alone)
            width = alone.mask.shape[1]
            torch.testing.assert_close(log_probs[0], together[row, :width], atol=1e-4, rtol=0)


def test_an_answer_is_its_prompt_and_then_what_was_sampled_up_to_its_end(policy, answers):
    actor, prompts = policy
    (end,) = actor.end_ids
    for row in range(len(answers)):
        tokens = answers.ids[row][answers.attention[row]].tolist()
        asked = prompts[row // 4].ids
        assert tokens[: len(asked)] == asked
        new = tokens[len(asked) :]
        assert answers.mask[row].sum() == len(new)
        assert (new[-1] == end) == answers.finished[row]
        assert end not in new[:-1]
        assert answers.texts[row] == actor.tokenizer.decode(new, skip_special_tokens=True).strip()
    assert any(answers.finished)
    assert len(set(answers.texts[:4])) > 1


def test_first_words_are_sampled_as_often_as_their_chances_say(tmp_path):
    actor, prompts = actor_and_prompts(tmp_path, temperature=0.7, max_new_tokens=1, batch=1000)
    torch.manual_seed(0)
    found = actor.answer([prompts[0].ids], 1000)
    with torch.no_grad():
        chances = actor.distribution(actor.start, found)[0][0, 0].exp()
    assert float(chances.sum()) == pytest.approx(1, abs=1e-5)
    seen = torch.bincount(found.ids[:, -1], minlength=len(chances)) / 1000
    error = (chances * (1 - chances) / 1000).sqrt()
    assert ((seen - chances).abs() <= 5 * error + 1e-9).all()


def test_parts_hold_every_row_once_as_it_was(answers):
    rows = torch.randperm(len(answers))[:13]
    met = []
    for at, part in answers.batches(rows, 4):
        met += at.tolist()
        for row, text, ids, seen in zip(at, part.texts, part.ids, part.attention, strict=True):
            assert text == answers.texts[row]
            assert ids[seen].tolist() == answers.ids[row][answers.attention[row]].tolist()
    assert sorted(met) == sorted(rows.tolist())


def test_batches_are_framed_alike(tmp_path):
    actor, prompts = actor_and_prompts(tmp_path, batch=8)
    torch.manual_seed(0)
    found = actor.answer([one.ids for one in prompts], 4)
    assert found.ids.shape[0] == 64
    for row in range(64):
        tokens = found.ids[row][found.attention[row]].tolist()
        asked = prompts[row // 4].ids
        assert tokens[: len(asked)] == asked


def test_no_more_answers_than_a_batch_are_sampled_at_a_time(tmp_path, monkeypatch):
    actor, prompts = actor_and_prompts(tmp_path, batch=3)
    sizes, generate = [], actor.model.generate

    def counted(ids, **options):
        sizes.append(len(ids) * options["num_return_sequences"])
        return generate(ids, **options)

    monkeypatch.setattr(actor.model, "generate", counted)
    found = actor.answer([one.ids for one in prompts[:3]], 4)
    assert sizes == [3, 1] * 3
    for row in range(12):
        tokens = found.ids[row][found.attention[row]].tolist()
        asked = prompts[row // 4].ids
        assert tokens[: len(asked)] == asked


def test_prompts_whose_answers_would_leave_the_policys_positions_are_left_out(absolute, tmp_path):
    actor, prompts = absolute
    lengths = sorted(len(one.ids) for one in prompts)
    policy = actor.section.policy
    most = 64 - lengths[-1]
    _, kept = actor_and_prompts(tmp_path, policy=policy, max_new_tokens=most)
    assert len(kept) == len(prompts)
    _, kept = actor_and_prompts(tmp_path, policy=policy, max_new_tokens=most + 1)
    assert max(len(one.ids) for one in kept) < lengths[-1]
    with pytest.raises(DataError, match="exceeds the policy's positions, left out: 16"):
        actor_and_prompts(tmp_path, policy=policy, max_new_tokens=64)


def test_the_kl_of_the_start_from_itself_is_exactly_0(policy, answers):
    actor, _ = policy
    actor.restart()
    with torch.no_grad():
        now, _ = actor.distribution(actor.model, answers)
        start, _ = actor.distribution(actor.start, answers)
    assert not kl_from_start(now, start, answers.mask).any()


@pytest.mark.slow
def test_the_kl_agrees_with_the_mean_log_ratio_and_varies_less(policy):
    actor, prompts = policy
    moved(actor)
    torch.manual_seed(2)
    found: Answers = actor.answer([one.ids for one in prompts], 64)
    with torch.no_grad():
        now, _ = actor.distribution(actor.model, found)
        start, _ = actor.distribution(actor.start, found)
    exact = kl_from_start(now, start, found.mask)
    ratios = (sampled_log_probs(now, found) - sampled_log_probs(start, found)).sum(dim=1)
    assert exact.min() >= 0
    assert float(exact.mean()) > 0.1
    error = float((exact - ratios).std() / len(found) ** 0.5)
    assert abs(float(exact.mean() - ratios.mean())) < 4 * error
    assert exact.std() < ratios.std()
    actor.restart()
