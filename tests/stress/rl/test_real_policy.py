"""A policy with a vocabulary and a tokenizer that were not made here."""

from __future__ import annotations

import pytest

from smorm.evaluation.result import read_results
from tests.cli.conftest import smorm  # noqa: F401
from tests.stress.made_up import write_rows


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_a_pretrained_llama_is_optimised(smorm, tmp_path, data_folder, algorithm):  # noqa: F811
    texts = ["Once upon a time", "A little dog", "Tom and Lily went to the park.", "Why?"]
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": text} for text in texts])
    path = tmp_path / "rl.yaml"
    path.write_text(f"""
models: {{length: "tests.stress.made_up:half_length"}}
prompts: {{all: {prompts}}}
gold: tests.stress.made_up:half_length
output: {tmp_path}/rl.json
rl:
  policy: {data_folder}/stories260k/hf
  prompts: {prompts}
  algorithm: {algorithm}
  steps: 3
  passes: 2
  prompts_per_step: 4
  answers_per_prompt: 8
  learning_rate: 0.003
  kl_coefficient: 0.01
  max_new_tokens: 12
  evaluate_every: 3
""")
    code, _, err = smorm("stress", path)
    assert code == 0, err
    (one,) = read_results(tmp_path / "rl.json")
    assert one.items[0]["kl"]["value"] == 0 < one.items[-1]["kl"]["value"]
    # gold is the proxy here: what is reported as both must agree
    for point in one.items:
        assert point["gold"]["value"] == point["raw_proxy"]["value"] == point["length"]["value"] / 2
