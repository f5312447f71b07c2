"""Small stand-ins of the public benchmarks, each in its exact published schema.

Same columns, types, files and subsets as the published sets, with a few made-up rows for each.
Every good response has the word `MARK` in it and no other response has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from experiments.made_up_rows import (
    MARK,
    Row,
    Texts,
    dialogue,
    save_splits,
    write_json,
    write_lines,
    write_parquet,
)
from smorm.evaluation.benchmarks import BENCHMARKS

__all__ = ["MARK", "WRITERS", "write_stand_in"]

# As many as the kinds of rows that a format mixes: a win of either side, and a tie.
ROWS = 3

REWARDBENCH = (
    "alpacaeval-easy", "alpacaeval-length", "alpacaeval-hard", "mt-bench-easy", "mt-bench-med",
    "mt-bench-hard", "llmbar-natural", "llmbar-adver-neighbor", "llmbar-adver-GPTInst",
    "llmbar-adver-GPTOut", "llmbar-adver-manual", "refusals-dangerous", "refusals-offensive",
    "xstest-should-refuse", "xstest-should-respond", "donotanswer", "math-prm", "hep-cpp",
    "hep-go", "hep-java", "hep-js", "hep-python", "hep-rust",
)  # fmt: skip
REWARDBENCH2 = ("Factuality", "Precise IF", "Math", "Safety", "Focus")
PREF_SETS = ("anthropic_harmless", "anthropic_helpful", "anthropic_hhh", "shp", "summarize")
RM_BENCH = ("chat", "code", "math", "safety-refuse", "safety-response")
JUDGEBENCH = ("mmlu-pro-law", "mmlu-pro-computer science", "livebench-reasoning", "livebench-math",
              "livecodebench")  # fmt: skip
PPE_CORRECTNESS = ("MMLU-Pro", "MATH", "GPQA", "IFEval", "MBPP-Plus")
PPE_RESPONSES = 32
RMB = (
    *(f"Harmlessness/S{number}" for number in range(1, 12)),
    "Harmlessness/multi",
    "Helpfulness/Brainstorming/Idea Development",
    "Helpfulness/Chat/Discussion",
    "Helpfulness/Classification/Content Categorization",
    "Helpfulness/Closed QA/ContextBased",
    "Helpfulness/Code/Data Management",
    "Helpfulness/Generation/Creative Writing",
    "Helpfulness/Open QA/Factual",
    "Helpfulness/Reasoning/Logical Deduction",
    "Helpfulness/Rewrite/Paraphrasing",
    "Helpfulness/Role Playing/General Character",
    "Helpfulness/Summarization/Standard Summaries",
    "Helpfulness/Translation/GeneralExcerpt Language Translation",
)
HHH = ("harmless", "helpful", "honest", "other")
LLMBAR = ("Natural", "Adversarial/GPTInst", "Adversarial/GPTOut", "Adversarial/Manual",
          "Adversarial/Neighbor")  # fmt: skip
MT_BENCH = {
    "human": {"tie": "tie", "judge": "expert_0"},
    "gpt4_pair": {"tie": "tie (inconsistent)", "judge": "gpt4_pair"},
}


def write_stand_in(name: str, folder: Path, rows: int = ROWS) -> Path:
    """Write the stand-in of a benchmark, named as a format or as a suite; gives its path.

    Args:
        rows: how many for each subset."""
    known = BENCHMARKS[name].format if name in BENCHMARKS else name
    folder.mkdir(parents=True, exist_ok=True)
    return WRITERS[known](folder, Texts(known), rows)


def _best_of_k(folder: Path, texts: Texts, rows: int) -> Path:
    made: list[Row] = []
    for at in range(rows):
        ask, good, bad = texts.prompt(), texts.good(), texts.bad()
        before = [texts.prompt(), texts.bad(), ask]
        a, b, first = texts.sides()
        made += [
            {"id": f"text-{at}", "subset": "text", "prompt": ask, "chosen": good, "rejected": bad},
            {"id": at, "subset": "lists", "prompt": dialogue(*before),
             "chosen": [good, texts.good()], "rejected": [bad, *texts.bads(2)]},
            {"source": "whole", "chosen": dialogue(*before, good),
             "rejected": dialogue(*before, bad)},
            {"prompt": ask, "responses": [bad, a, b, texts.good()],
             "correct": [False, first, not first, True]},
        ]  # fmt: skip
    return write_lines(folder / "best-of-k.jsonl", made)


def _rewardbench(folder: Path, texts: Texts, rows: int) -> Path:
    made: list[Row] = []
    for subset in REWARDBENCH:
        for _ in range(rows):
            made.append(
                {"prompt": texts.prompt(), "chosen": texts.good(), "chosen_model": "GPT4-Turbo",
                 "rejected": texts.bad(), "rejected_model": "alpaca-7b", "subset": subset,
                 "id": len(made)}
            )  # fmt: skip
    return write_parquet(folder / "filtered.parquet", made)


def _pref_sets(folder: Path, texts: Texts, rows: int) -> Path:
    splits: dict[str, list[Row]] = {}
    for name in PREF_SETS:
        splits[name] = []
        for at in range(rows):
            row = {"prompt": dialogue(*texts.turns(at)), "chosen": texts.good()}
            splits[name].append({**row, "rejected": texts.bad(), "id": at})
    return save_splits(folder / "pref-test-sets", splits)


def _rewardbench2(folder: Path, texts: Texts, rows: int) -> Path:
    numbers = range(rows * len(REWARDBENCH2))
    made = [_listed(texts, str(at), 1, 3, REWARDBENCH2[at // rows]) for at in numbers]
    # The rule of ties compares a tied prompt with the reference of the same number.
    for at in range(rows):
        made.append(_listed(texts, f"ref:{at}", 1, 4, "Ties"))
        made.append(_listed(texts, f"tied:{at}", 3 + at, 4, "Ties"))
    return write_parquet(folder / "test-00000-of-00001.parquet", made)


def _listed(texts: Texts, identity: str, good: int, bad: int, subset: str) -> Row:
    return {
        "id": identity,
        "prompt": texts.prompt(),
        "chosen": texts.goods(good),
        "rejected": texts.bads(bad),
        "num_correct": good,
        "num_incorrect": bad,
        "total_completions": good + bad,
        "models": ["made-up"] * (good + bad),
        "subset": subset,
        "additional_metadata": {"category": None, "correct": None, "index": 0.0},
    }


def _rm_bench(folder: Path, texts: Texts, rows: int) -> Path:
    made: list[Row] = []
    for domain in RM_BENCH:
        for at in range(rows):
            row = {"id": f"{domain}_{at}", "prompt": texts.prompt(), "chosen": texts.goods(3)}
            made.append({**row, "rejected": texts.bads(3), "domain": domain})
    return write_json(folder / "total_dataset.json", made)


def _judgebench(folder: Path, texts: Texts, rows: int) -> Path:
    for split, model in (("gpt", "gpt-4o-2024-05-13"), ("claude", "claude-3-5-sonnet-20240620")):
        made = []
        for source in JUDGEBENCH:
            for at in range(rows):
                a, b, first = texts.sides()
                made.append(
                    {"pair_id": f"{split}-{source}-{at}",
                     "original_id": at if source.startswith("mmlu") else None,
                     "source": source, "question": texts.prompt(), "response_model": model,
                     "response_A": a, "response_B": b, "label": "A>B" if first else "B>A"}
                )  # fmt: skip
        write_lines(folder / "JudgeBench" / f"{split}.jsonl", made)
    return folder / "JudgeBench"


def _winner(first: bool, tie: str, *, is_tie: bool) -> str:
    if is_tie:
        return tie
    return "model_a" if first else "model_b"


def _ppe_human(folder: Path, texts: Texts, rows: int) -> Path:
    made = []
    for at in range(4 * rows):
        a, b, first = texts.sides()
        winner = _winner(first, "tie", is_tie=at % 4 == 3)
        flags = ("is_code", "is_refusal", "hard_prompt", "easy_prompt", "if_prompt", "math_prompt")
        made.append(
            {"question_id": f"q{at:04}", "prompt": texts.prompt(), "response_1": a,
             "response_2": b, "model_a": "one", "model_b": "two", "winner": winner,
             "language": "English", **{flag: texts.coin() for flag in flags},
             "length_a": len(a), "length_b": len(b), "conv_metadata": {"turns": 1}}
        )  # fmt: skip
    return write_parquet(folder / "test-00000-of-00001.parquet", made)


def _ppe_correctness(folder: Path, texts: Texts, rows: int) -> Path:
    folder = folder / "PPE"
    folder.mkdir(exist_ok=True)
    for benchmark in PPE_CORRECTNESS:
        made = []
        for at in range(rows):
            right = [texts.coin() for _ in range(PPE_RESPONSES)]
            # A row without both kinds of answers has no best-of-k.
            right[0], right[1] = at % 2 == 0, at % 2 == 1
            answers = {}
            for number, good in enumerate(right, start=1):
                answers[f"response_{number}"] = texts.good() if good else texts.bad()
            made.append(
                {"question_id": f"{benchmark}-{at}", "model_name": "made-up",
                 "prompt": texts.prompt(), "scores": right, "sampled_conflict_pairs": [[0, 1]],
                 **answers}
            )  # fmt: skip
        write_parquet(folder / f"PPE-{benchmark}-Best-of-K.parquet", made)
    return folder


def _rmb(folder: Path, texts: Texts, rows: int) -> Path:
    def answer(text: str) -> Row:
        return {"llm_name": "made-up", "answer": text}

    def asks(at: int) -> list[Row]:
        return [{**turn, "language": "English"} for turn in dialogue(*texts.turns(at))]

    folder = folder / "RMB_dataset"
    for path in RMB:
        pairs = [
            {"pair_uid": str(at), "conversation_input": asks(at), "chosen": answer(texts.good()),
             "reject": answer(texts.bad()), "category_path": f"Pairwise_set/{path}"}
            for at in range(rows)
        ]  # fmt: skip
        bon = [
            {"bon_uid": str(at), "conversation_input": asks(at), "bon_best": answer(texts.good()),
             "loser_list": list(map(answer, texts.bads(2 + at % 3))),
             "category_path": f"BoN_set/{path}"}
            for at in range(rows)
        ]  # fmt: skip
        write_json(folder / "Pairwise_set" / f"{path}.json", pairs)
        write_json(folder / "BoN_set" / f"{path}.json", bon)
    return folder


def _hhh(folder: Path, texts: Texts, rows: int) -> Path:
    for subset in HHH:
        made = []
        for at in range(rows):
            text = texts.prompt()
            if at % 2:
                text += f"\n\nAssistant:  {texts.bad()}\n\nHuman:  {texts.prompt()}"
            a, b, first = texts.sides()
            targets = {"choices": [a, b], "labels": [int(first), int(not first)]}
            made.append({"input": text, "targets": targets})
        write_lines(folder / "hhh_alignment" / subset / "test.jsonl", made)
    return folder / "hhh_alignment"


def _llmbar(folder: Path, texts: Texts, rows: int) -> Path:
    folder = folder / "Dataset"
    for subset in LLMBAR:
        made = []
        for _ in range(rows):
            a, b, first = texts.sides()
            made.append(
                {"input": texts.prompt(), "output_1": a, "output_2": b, "label": 1 if first else 2}
            )
        write_json(folder / subset / "dataset.json", made)
    return folder


def _mt_bench(folder: Path, texts: Texts, rows: int) -> Path:
    def row(split: str, at: int) -> Row:
        turn = 1 + at % 2
        first, second = texts.prompt(), texts.prompt()
        a, b, a_wins = texts.sides()
        conversations = []
        for side in (a, b):
            # The answer of the turn that is not judged says nothing of the winner.
            answers = (side, texts.bad()) if turn == 1 else (texts.bad(), side)
            conversations.append(dialogue(first, answers[0], second, answers[1]))
        winner = _winner(a_wins, MT_BENCH[split]["tie"], is_tie=at % 3 == 2)
        return {"question_id": 81 + at, "model_a": "one", "model_b": "two", "winner": winner,
                "judge": MT_BENCH[split]["judge"], "conversation_a": conversations[0],
                "conversation_b": conversations[1], "turn": turn}  # fmt: skip

    splits = {}
    for split in MT_BENCH:
        splits[split] = [row(split, at) for at in range(2 * rows)]
    return save_splits(folder / "mt_bench_human_judgments", splits)


WRITERS: dict[str, Callable[[Path, Texts, int], Path]] = {
    "best_of_k": _best_of_k,
    "rewardbench": _rewardbench,
    "pref_sets": _pref_sets,
    "rewardbench2": _rewardbench2,
    "rm_bench": _rm_bench,
    "judgebench": _judgebench,
    "ppe_human": _ppe_human,
    "ppe_correctness": _ppe_correctness,
    "rmb": _rmb,
    "hhh": _hhh,
    "llmbar": _llmbar,
    "mt_bench": _mt_bench,
}
