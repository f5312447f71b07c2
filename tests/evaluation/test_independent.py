"""Numbers of three benchmarks made without smorm: plain transformers, one conversation at a time,
and each rule in a few lines after its published script."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from smorm import RewardModel
from smorm.evaluation.suites import parse_suite, run_suite
from tests.text.styles import build

# The sizes of a tiny decoder, and what each family adds to them.
SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 1024, "num_labels": 1,
    "id2label": {0: "reward"}, "label2id": {"reward": 0}, "problem_type": "regression",
}  # fmt: skip
FAMILIES = {
    "llama": ("llama3", {}),
    "qwen2": ("chatml", {}),
    "qwen3": ("chatml", {"head_dim": 8}),
    "gemma2": ("gemma", {"head_dim": 8, "sliding_window": 24, "query_pre_attn_scalar": 8}),
    "mistral": ("mistral", {"head_dim": 8, "sliding_window": 24}),
    "phi3": ("llama3", {"sliding_window": 24}),
}
PHI3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + "
    "message['content'] + '<|end|>\n' }}{% endfor %}{{ eos_token }}"
)
WORDS = [
    "the",
    "sun",
    "is",
    "a",
    "star",
    "and",
    "moon",
    "of",
    "light",
    "far",
    "from",
    "sea",
    "so",
    "we",
]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory) -> Path:
    """A model such as others have: no file of smorm's."""
    family = request.param
    style, extra = FAMILIES[family]
    tokenizer = build(style)
    if family == "qwen3":
        trl = importlib.util.find_spec("trl")
        if trl is None:
            pytest.skip("TRL, which ships Qwen3's template, is not installed")
        tokenizer.chat_template = (
            Path(trl.origin).parent / "chat_templates/qwen3.jinja"
        ).read_text()
    if family == "phi3":
        marks = ["<|user|>", "<|assistant|>", "<|end|>"]
        tokenizer.add_special_tokens({"additional_special_tokens": marks})
        tokenizer.chat_template = PHI3
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": "<|padding|>"})
    ids = {
        name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")
    }
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family, **SIZES, **extra, **ids, vocab_size=len(tokenizer), attn_implementation="eager"
    )
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    place = tmp_path_factory.mktemp(family)
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def rows_of(benchmark: str, *, thinks: bool) -> list[dict]:
    """A small file in a benchmark's shape, of random words; lengths differ."""
    random = np.random.default_rng(7)

    def text() -> str:
        return " ".join(random.choice(WORDS, size=random.integers(2, 20)))

    def answer(*, messages: bool = False):
        if not thinks:
            return text()
        if messages:
            return [{"role": "assistant", "reasoning_content": text(), "content": text()}]
        return f"<think>\n{text()}\n</think>\n\n{text()}"

    if benchmark == "rm-bench":
        return [
            {
                "id": f"{domain}/{number}", "domain": domain, "prompt": text(),
                "chosen": [answer() for _ in range(3)], "rejected": [answer() for _ in range(3)],
            }
            for domain in ("chat", "math", "code", "safety-refuse", "safety-response")
            for number in range(2)
        ]  # fmt: skip
    if benchmark == "best-of-k":
        return [
            {
                "id": str(number), "prompt": [{"role": "user", "content": text()}],
                "chosen": [answer(messages=True)],
                "rejected": [answer(messages=True) for _ in range(random.integers(1, 5))],
            }
            for number in range(8)
        ]  # fmt: skip
    sizes = [("Factuality", str(number), 1) for number in range(4)]
    sizes += [("Focus", str(number), 1) for number in range(3)]
    for number in range(4):
        sizes += [("Ties", f"ref:{number}", 1), ("Ties", f"tied:{number}", 3)]
    return [
        {
            "id": identity, "subset": subset, "prompt": text(), "num_correct": right,
            "chosen": [answer() for _ in range(right)], "rejected": [answer() for _ in range(3)],
        }
        for subset, identity, right in sizes
    ]  # fmt: skip


@torch.no_grad()
def plain_scores(folder: Path, rows: list[dict]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Scores of each row's good and other answers by plain transformers, without any batch."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def score(prompt, answer) -> float:
        if isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        if isinstance(answer, str):
            answer = [{"role": "assistant", "content": answer}]
        ids = tokenizer.apply_chat_template([*prompt, *answer], return_dict=False)
        return float(model(torch.tensor([ids])).logits[0, 0])

    return [
        tuple(
            np.array([score(row["prompt"], answer) for answer in row[side]])
            for side in ("chosen", "rejected")
        )
        for row in rows
    ]


def shared_wins(good: np.ndarray, other: np.ndarray) -> float:
    top = max(good.max(), other.max())
    return (good == top).sum() / ((good == top).sum() + (other == top).sum())


def rewardbench_2(rows, scores) -> dict[str, float]:
    """`process_single_model` of reward-bench's scripts/run_v2.py."""
    found = {}
    for name in ("Factuality", "Focus"):
        of_domain = zip(rows, scores, strict=True)
        found[name] = np.mean(
            [shared_wins(*pair) for row, pair in of_domain if row["subset"] == name]
        )
    stats = {}
    for row, (good, other) in zip(rows, scores, strict=True):
        if row["subset"] == "Ties":
            stats[row["id"]] = (good.max() - good.min(), good.min() - other.max())
    refs = np.array([gap for name, (_, gap) in stats.items() if name.startswith("ref")])
    spread, gaps = np.array([both for name, both in stats.items() if name.startswith("tied")]).T
    harder = np.minimum(refs, gaps)
    found["Ties"] = (
        0.30 * (gaps > 0).mean() + 0.30 * (refs > 0).mean() + 0.20 * (gaps > spread).mean()
        + 0.20 * (harder > spread).mean() + 0.01 * np.tanh(harder / spread - 1).mean()
    )  # fmt: skip
    return {**found, "overall": np.mean(list(found.values()))}


def rm_bench(rows, scores) -> dict[str, float]:
    """`compute_accuracy` of RM-Bench's README, over domains."""
    matrices: dict[str, list[np.ndarray]] = {}
    for row, (good, other) in zip(rows, scores, strict=True):
        domain = row["domain"].partition("-")[0]
        matrices.setdefault(domain, []).append(good[:, None] > other[None, :])
    of_domains = [np.mean(matrix, axis=0) for matrix in matrices.values()]
    upper = np.triu_indices(3, 1)
    found = {
        "hard": np.mean([matrix[upper].mean() for matrix in of_domains]),
        "normal": np.mean([np.diag(matrix).mean() for matrix in of_domains]),
        "easy": np.mean([matrix.T[upper].mean() for matrix in of_domains]),
        "overall": np.mean([matrix.mean() for matrix in of_domains]),
    }
    return found | {name: m.mean() for name, m in zip(matrices, of_domains, strict=True)}


def best_of_k(rows, scores) -> dict[str, float]:
    """The share of items won, and what the longest and the shortest answer would win, in words."""
    found = {"overall": np.mean([shared_wins(*pair) for pair in scores])}
    lengths = []
    for row in rows:
        sides = []
        for side in (row["chosen"], row["rejected"]):
            texts = [one if isinstance(one, str) else one[0]["content"] for one in side]
            sides.append(np.array([len(text.split()) for text in texts]))
        lengths.append(sides)
    found["length_only/overall"] = np.mean([shared_wins(*sides) for sides in lengths])
    found["shortest_only/overall"] = np.mean([shared_wins(-a, -b) for a, b in lengths])
    return found


RULES = {"rewardbench-2": rewardbench_2, "rm-bench": rm_bench, "best-of-k": best_of_k}


@pytest.mark.parametrize("benchmark", RULES)
def test_items_and_metrics_are_those_of_plain_transformers(folder, benchmark, tmp_path):
    rows = rows_of(benchmark, thinks="qwen3" in folder.name)
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    (result,) = run_suite(RewardModel.load(folder), parse_suite(f"{benchmark}={path}"))
    scores = plain_scores(folder, rows)
    assert [item["id"] for item in result.items] == [row["id"] for row in rows]
    spread = np.concatenate([np.concatenate(pair) for pair in scores]).std()
    for item, (good, other) in zip(result.items, scores, strict=True):
        np.testing.assert_allclose(item["scores"], [*good, *other], rtol=0, atol=1e-5)
    assert spread > 0.01  # else anything would be equal to anything
    for name, expected in RULES[benchmark](rows, scores).items():
        # Only the margin of Ties is no count; it moves with the scores.
        assert result.metrics[name].value == pytest.approx(expected, abs=1e-6), name
