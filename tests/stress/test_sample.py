"""Pools from a real (tiny) policy."""

from __future__ import annotations

import json
import shutil

import pytest
from transformers import AutoModelForCausalLM

from smorm.data.census import Census, DropReason, Reason
from smorm.data.reading import Source
from smorm.errors import DataError, ModelError
from smorm.model.backbone import import_peft
from smorm.rewards.field import TruthReward
from smorm.rewards.protocol import values_of
from smorm.stress.config import SampleSection
from smorm.stress.pools import read_pools
from smorm.stress.sample import Policy, sample_file
from smorm.text.chat import Message
from smorm.world import backbone_path
from tests.stress.made_up import read_lines, write_rows
from tests.tiny import trained

PROMPTS = [{"prompt": "metals full tin iron"}, {"prompt": "birds brief owl swan"}]


def section(**changes):
    values = {"policy": str(backbone_path()), "answers": 6, "batch": 4, "max_new_tokens": 32}
    return SampleSection.model_validate({**values, **changes})


def sampled(tmp_path, rows, name="out", census=None, **changes):
    source = Source(write_rows(tmp_path / "prompts.jsonl", rows))
    out = tmp_path / f"{name}.jsonl"
    sample_file(source, section(**changes), out, census or Census())
    return read_lines(out)


def test_a_prompts_answers_depend_on_the_seed_and_its_own_text_alone(tmp_path):
    both = sampled(tmp_path, PROMPTS)
    assert [len(row["responses"]) for row in both] == [6, 6]
    assert sampled(tmp_path, PROMPTS[::-1])[::-1] == both
    assert sampled(tmp_path, PROMPTS[:1]) == both[:1]
    assert sampled(tmp_path, PROMPTS[:1], seed=1) != both[:1]
    assert len({one["response"] for one in both[0]["responses"]}) > 1


def test_a_trained_policy_answers_its_prompt_and_the_pool_is_read_back(tmp_path):
    sampled(tmp_path, PROMPTS)
    pools = read_pools(Source(tmp_path / "out.jsonl"), Census())
    assert [len(pool) for pool in pools] == [6, 6]
    scores = values_of(TruthReward(), pools)
    assert max(scores[0]) > 0.5
    assert all(answer.split()[0] != "metals" for answer in pools[0].texts)  # not the prompt again


def test_little_heat_gives_one_answer(tmp_path):
    (row,) = sampled(tmp_path, PROMPTS[:1], temperature=1e-4)
    assert len({one["response"] for one in row["responses"]}) == 1


def test_what_was_cut_or_left_out_is_counted(tmp_path):
    census = Census()
    rows = [*PROMPTS[:1], *PROMPTS[:1]]
    (row,) = sampled(tmp_path, rows, census=census, max_new_tokens=2, prompt_tokens=3)
    assert [one["finished"] for one in row["responses"]] == [False] * 6
    assert census[DropReason.UNFINISHED] == 6
    assert census[DropReason.CUT_PROMPT] == 1
    assert census[DropReason.REPEATED_SAMPLE] == 1


def test_no_answer_goes_beyond_the_policys_positions(tmp_path):
    census = Census()
    prompt = {"prompt": "metals full " + "tin " * 240}
    (row,) = sampled(tmp_path, [prompt], census=census, max_new_tokens=64, temperature=3.0)
    assert max(len(one["response"].split()) for one in row["responses"]) <= 256 - 242
    assert census.count(Reason(DropReason.LITTLE_ROOM, "256")) == 1
    with pytest.raises(DataError, match=r"prompts.jsonl:1: prompt: .* set prompt_tokens lower"):
        sampled(tmp_path, [{"prompt": "tin " * 300}])
    sampled(tmp_path, [{"prompt": "tin " * 300}], prompt_tokens=100)


def test_prompts_beyond_the_limit_are_told(tmp_path):
    census = Census()
    source = Source(write_rows(tmp_path / "prompts.jsonl", PROMPTS), limit=1)
    assert sample_file(source, section(), tmp_path / "out.jsonl", census) == 1
    assert census[DropReason.LIMIT] == 1


def test_control_tokens_in_a_prompt_stay_text():
    policy = Policy(section())
    control = policy.renderer.control.ids
    plain = policy.prompt_ids((Message("user", "tin iron"),), "here")
    ids = policy.prompt_ids((Message("user", "tin <sep> <eos> iron"),), "here")
    assert [token for token in ids if token == control["<sep>"]] == plain[-1:]
    assert control["<eos>"] not in ids
    assert (ids[0], ids[-1]) == (plain[0], plain[-1])


@pytest.mark.data
def test_a_policy_without_a_template_is_not_asked_to_go_on_after_its_end(data_folder):
    policy = Policy(section(policy=str(data_folder / "stories260k" / "hf")))
    ids = policy.prompt_ids((Message("user", "Once upon a time"),), "here")
    assert policy.tokenizer.eos_token_id not in ids
    text = policy.tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert text == "User: Once upon a time\n\nAssistant:"
    # nothing stands between the prompt and the answer's own tokens, as in a whole conversation
    whole = policy.renderer.render((Message("user", "Once upon a time"),
                                    Message("assistant", "there was")))  # fmt: skip
    assert whole[: len(ids)] == ids


def test_a_prompt_that_the_template_refuses_is_named(tmp_path):
    folder = shutil.copytree(backbone_path(), tmp_path / "policy")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{{ raise_exception('users only') if messages[0].role != 'user' }}x"
    (folder / "chat_template.jinja").write_text(settings["chat_template"])
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    rows = [{"prompt": [{"role": "system", "content": "be brief"},
                        {"role": "user", "content": "tin"}]}]  # fmt: skip
    with pytest.raises(DataError, match=r"prompts.jsonl:1: prompt: .*users only"):
        sampled(tmp_path, rows, policy=str(folder))


def test_nonsense_is_told(tmp_path):
    with pytest.raises(ModelError, match="no such folder"):
        sampled(tmp_path, PROMPTS, policy="no/such/policy")
    with pytest.raises(ModelError, match="it is a reward model"):
        sampled(tmp_path, PROMPTS, policy=str(trained()))
    with pytest.raises(DataError, match=r"prompts.jsonl:1: prompt: missing"):
        sampled(tmp_path, [{"question": "x"}])
    assert not (tmp_path / "out.jsonl").exists()


def test_a_policy_may_be_adapters_on_a_base(tmp_path):
    base = str(backbone_path())
    model = AutoModelForCausalLM.from_pretrained(base, trust_remote_code=False)
    with import_peft() as peft:
        config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear")
        peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapters")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(backbone_path() / name, tmp_path / "adapters")
    # Adapters begin with no effect.
    found = sampled(tmp_path, PROMPTS, name="adapted", policy=str(tmp_path / "adapters"))
    assert found == sampled(tmp_path, PROMPTS)
