import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from smorm.files import sha256, verify_folder
from smorm.world import backbone_path, make_world, perfect_answer, sample_prompt, write_answer
from smorm.world.words import REASONS, SPECIAL_TOKENS, TOPICS, VALUES, WORDS

world = make_world()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(backbone_path())


@pytest.fixture(scope="module")
def language_model():
    return AutoModelForCausalLM.from_pretrained(backbone_path(), dtype=torch.float32).eval()


def conversation(prompt, answer):
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def test_the_shipped_folder_is_whole_and_under_a_megabyte():
    verify_folder(backbone_path())
    assert sum(path.stat().st_size for path in backbone_path().rglob("*")) < 1_000_000
    assert all(path.is_file() for path in backbone_path().iterdir()), "package data is flat"


def test_the_shipped_weights_are_these_bytes():
    """Every study and recipe of the world starts from them."""
    weights = backbone_path() / "model.safetensors"
    assert sha256(weights)[:12] == "119c42043f2d"


def test_the_backbone_loads_without_a_missing_or_unexpected_weight():
    for kind in (AutoModel, AutoModelForCausalLM):
        model, info = kind.from_pretrained(backbone_path(), output_loading_info=True)
        assert not any(info.values())
        assert model.config.vocab_size == len(WORDS) + len(SPECIAL_TOKENS)
        assert next(model.parameters()).dtype == torch.float32


def test_the_models_control_ids_are_the_tokenizers_and_differ(tokenizer, language_model):
    config = language_model.config
    ids = [config.pad_token_id, config.bos_token_id, config.eos_token_id]
    assert ids == [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert len(set(ids)) == 3
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3, 4]
    assert set(tokenizer.all_special_tokens) == set(SPECIAL_TOKENS)


def test_every_word_is_one_known_token_and_reads_back(tokenizer):
    ids = tokenizer(" ".join(WORDS))["input_ids"]
    assert len(ids) == len(WORDS) == len(set(ids))
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == " ".join(WORDS)


def test_the_template_gives_one_bos_one_separator_and_ends_in_eos(tokenizer):
    rng = np.random.default_rng(0)
    for _ in range(50):
        prompt = sample_prompt(rng, "far")
        answer = write_answer(world, prompt, rng)
        messages = conversation(prompt.text, answer)
        ids = tokenizer.apply_chat_template(messages)["input_ids"]
        words = f"<bos> {prompt.text} <sep> {answer} <eos>".split()
        assert ids == tokenizer.convert_tokens_to_ids(words)
        assert tokenizer.decode(ids, skip_special_tokens=True) == f"{prompt.text} {answer}"
        asked = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True)
        assert asked["input_ids"] == ids[: len(asked["input_ids"])]
        assert asked["input_ids"][-1] == tokenizer.convert_tokens_to_ids("<sep>")


def test_a_word_of_no_world_is_unknown_and_not_lost(tokenizer):
    assert tokenizer("iron zebra .")["input_ids"][1] == tokenizer.unk_token_id


@torch.no_grad()
def log_likelihood(model, tokenizer, prompt, answer):
    ids = torch.tensor([tokenizer.apply_chat_template(conversation(prompt, answer))["input_ids"]])
    scores = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    return float(scores.gather(1, ids[0, 1:, None]).sum())


def test_the_backbone_knows_most_facts_of_the_world_of_held_out_topics_too(
    language_model, tokenizer
):
    value_ids = tokenizer.convert_tokens_to_ids(list(VALUES))
    known = {}
    for topic, entities in TOPICS.items():
        hits = 0
        for entity, other in zip(entities, reversed(entities), strict=True):
            text = f"<bos> {topic} brief {entity} {other} <sep> {entity}"
            ids = torch.tensor([tokenizer.convert_tokens_to_ids(text.split())])
            with torch.no_grad():
                logits = language_model(input_ids=ids).logits[0, -1, value_ids]
            hits += VALUES[int(logits.argmax())] == world.facts[entity].value
        known[topic] = hits
    assert sum(known.values()) >= 0.9 * 72, known


def test_the_backbone_finds_true_answers_likelier_than_false_ones(language_model, tokenizer):
    rng = np.random.default_rng(0)
    wins = 0
    for _ in range(20):
        prompt = sample_prompt(rng, "OODtopic")
        right = perfect_answer(world, prompt)
        values = {world.facts[e].value: VALUES[i] for i, e in enumerate(prompt.entities)}
        wrong = " ".join(values.get(word, word) for word in right.split())
        if wrong != right:
            better = log_likelihood(language_model, tokenizer, prompt.text, right)
            wins += better > log_likelihood(language_model, tokenizer, prompt.text, wrong)
    assert wins >= 16
    assert len(REASONS) == len(VALUES)
