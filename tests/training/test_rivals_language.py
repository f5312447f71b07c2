"""GRM's language head and the responses' places: against transformers' own language model."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from smorm.errors import ModelError
from smorm.model.language import LanguageHead, load_language_model, response_tokens
from smorm.model.network import leaf_rows
from smorm.text.chat import Message, Renderer
from smorm.text.tokenizers import train_bpe
from smorm.training.loop import train
from smorm.training.methods import make_method
from smorm.training.methods.grm import Grm
from smorm.training.responses import assistant_header, response_start, response_starts
from smorm.training.setup import prepare
from smorm.world import backbone_path
from tests.training.runs import LAB, config_of, prepared, rows_of
from tests.training.test_rivals import KINDS, header_of, scores_of
from tests.training.test_step import WHOLE, gradients, with_budget


def test_a_grm_step_agrees_with_transformers_own_language_model() -> None:
    """Log-probabilities response by response, from the whole model, without sharing."""
    language = AutoModelForCausalLM.from_pretrained(backbone_path()).eval()
    ready = prepared(**KINDS["grm sft"])
    method = make_method(ready)
    values = gradients(ready, method)[0].values
    pairs = [ready.train.pairs[i] for i in ready.order.step(1)[0]]
    spoken = []
    for pair in pairs:
        ids = torch.from_numpy(pair.chosen.astype("int64"))[None]
        start = response_start(pair.chosen, pair.rejected, header_of(ready))[0]
        with torch.no_grad():
            logs = language(ids).logits[0].log_softmax(-1)
        spoken.append(sum(float(logs[i - 1, ids[0, i]]) for i in range(start, ids.shape[1])))
    assert values["log_likelihood"] == pytest.approx(np.mean(spoken), rel=1e-4)
    by_hand = 0.3 * np.mean([math.log1p(math.exp(-0.1 * value)) for value in spoken])
    assert values["loss/language"] == pytest.approx(by_hand, rel=1e-4)
    scores, _ = scores_of(ready)
    ranked = np.log1p(np.exp(scores[:, 1, 0] - scores[:, 0, 0])).mean()
    assert values["loss/preference"] == pytest.approx(0.7 * ranked, rel=1e-4)


def test_before_the_first_update_dpo_is_at_its_reference() -> None:
    ready = prepared(**KINDS["grm dpo"])
    method = make_method(ready)
    values = gradients(ready, method)[0].values
    assert values["loss/language"] == pytest.approx(0.3 * math.log(2), rel=1e-5)
    assert isinstance(method, Grm)
    assert method.reference is not None
    used = np.unique(np.concatenate([ready.order.step(step)[0] for step in range(5)]))
    assert np.isfinite(method.reference[used]).all()
    assert method.reference_tokens > 0
    method.reference[:, 0] += 5.0
    moved = gradients(ready, method)[0].values["loss/language"]
    assert moved == pytest.approx(0.3 * math.log1p(math.exp(0.5)), rel=1e-4)


def test_every_response_token_is_predicted_once_in_a_forest() -> None:
    ready = prepared(**KINDS["grm sft"])
    method = make_method(ready)
    micro = next(iter(with_budget(ready, WHOLE).batches(1)))
    assert isinstance(method, Grm)
    starts = method.starts[micro.pair_indices].repeat(2).tolist()
    lengths = [len(tokens) for tokens in micro.sequences]
    predicted = response_tokens(micro.batch, lengths, starts)
    assert len(predicted.index) == sum(n - s for n, s in zip(lengths, starts, strict=True))
    assert len(predicted.tokens) <= len(predicted.index)
    # Each sequence reads back its own response.
    for sequence, tokens in enumerate(micro.sequences):
        own = predicted.index[predicted.sequences == sequence]
        assert predicted.tokens[own].tolist() == tokens[starts[sequence] :].tolist()
    twins = [*micro.sequences, micro.sequences[0]]
    batch = ready.network.arrange(twins)
    more = response_tokens(batch, [*lengths, lengths[0]], [*starts, starts[0]])
    assert len(more.tokens) == len(predicted.tokens)
    assert len(more.index) == len(predicted.index) + lengths[0] - starts[0]


def test_many_logits_are_computed_in_parts_to_the_same_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = LanguageHead(torch.nn.Linear(8, 50, bias=False), softcap=3.0)
    hidden = torch.randn(40, 8, requires_grad=True)
    tokens = torch.randint(50, (40,))
    found = []
    for limit in (1 << 24, 350):
        monkeypatch.setattr("smorm.model.language.LOGITS", limit)
        hidden.grad = None
        values = head(hidden, tokens)
        values.sum().backward()
        found.append((values.detach(), hidden.grad.clone()))
    torch.testing.assert_close(found[0], found[1])
    logits = 3 * torch.tanh(head.linear(hidden) / 3)
    expected = logits.log_softmax(-1)[torch.arange(40), tokens]
    torch.testing.assert_close(found[0][0], expected.detach())


def test_all_states_are_those_that_are_pooled() -> None:
    ready = prepared(**KINDS["grm sft"])
    network = ready.network
    micro = next(iter(ready.batches(0)))
    with torch.no_grad():
        states = network.states(micro.batch)
        torch.testing.assert_close(states[leaf_rows(micro.batch)], network.pooled(micro.batch))
        plain = prepared(model=LAB, objective={"kind": "preference"})
        other = next(iter(plain.batches(0)))
        with pytest.raises(RuntimeError, match="whole_last_layer"):
            plain.network.states(other.batch)


# Where a response begins


def test_the_header_is_found_whatever_the_template(caplog: pytest.LogCaptureFixture) -> None:
    texts = [row["prompt"] + row["chosen"] for row in rows_of("train-pairs")]
    tokenizer = train_bpe(texts, 400)
    templates = {
        "own": tokenizer.chat_template,
        "turns": "{% for m in messages %}{{ m['role'] | upper }}>>{{ m['content'] }}~\n"
        "{% endfor %}",
        "inst": "{% for m in messages %}{% if m['role'] == 'user' %}[Q]{{ m['content'] }}[/Q]"
        "{% else %}{{ m['content'] }}[E]{% endif %}{% endfor %}",
    }
    for name, template in templates.items():
        renderer = Renderer(tokenizer, template)
        header = assistant_header(renderer)
        assert len(header), name
        prompt = (Message("user", "What is it?"), Message("assistant", "Say more."),
                  Message("user", "Well?"))  # fmt: skip
        sides = [
            np.array(renderer.render((*prompt, Message("assistant", text))), dtype=np.int32)
            for text in ("It is so.", "It is not so at all.")
        ]
        start, told = response_start(*sides, header)
        assert told, name
        assert tokenizer.decode(sides[0][start:]).lstrip().startswith("It is so."), name
        assert "It is" not in tokenizer.decode(sides[0][:start]), name


def test_without_a_header_the_response_begins_where_the_sides_part(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ready = prepared()
    renderer = Renderer(ready.tokenizer, ready.card.chat_template)
    pair = ready.train.pairs[0]
    with caplog.at_level(logging.INFO, logger="smorm"):
        starts = response_starts(ready.train.pairs, renderer)
    assert f"{len(starts)} of {len(starts)} pairs have the template's header" in caplog.text
    ids = np.arange(20, dtype=np.int32)
    other = np.concatenate([ids[:12], ids[:3]])
    assert response_start(ids, other, np.empty(0, np.int32)) == (12, False)
    assert response_start(ids, other, np.array([13, 14], np.int32)) == (12, False)
    assert response_start(ids, other, np.array([4, 5], np.int32)) == (6, True)
    assert starts[0] <= response_start(pair.chosen, pair.rejected, np.empty(0, np.int32))[0]


def test_a_reward_model_has_no_language_head_for_grm(tmp_path: Path) -> None:
    """One whose head is not its embedding, which every model has."""
    model = train(config_of(tmp_path / "run", training={"max_steps": 1}))
    with pytest.raises(ModelError, match=r"lm_head.*needs a language model, not a reward model"):
        load_language_model(str(model), 340)


def test_a_reward_model_whose_head_would_be_its_embedding_is_refused_too(tmp_path: Path) -> None:
    changes = {"model": LAB, "objective": {"kind": "preference"}, "training": {"max_steps": 1}}
    model = train(config_of(tmp_path / "run", **changes))
    config = config_of(tmp_path / "grm", model={"backbone": str(model)}, objective={"kind": "grm"})
    with pytest.raises(ModelError, match=r"run/model: .*needs a language model, not a reward"):
        prepare(config)
