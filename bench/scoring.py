"""Scoring: smorm against the padded Hugging Face loop that RewardBench uses.

    python -m bench.scoring --json FILE [--rounds 5] [--model reference|small|tiny]

Both arms load one folder (a plain `LlamaForSequenceClassification` with a seeded random
initialisation) and score the same conversations in the same run. Best-of-N and pairs start from
token ids in both arms; RM-Bench's script starts from conversations in both arms."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from bench.gemm_share import count_flops, peak
from bench.machine import describe
from bench.measure import Arm, RoundOutcome, Timing, interleave, pin, ratio
from bench.results import Figures, Measurement, arm_facts, entry
from bench.smorm_run import MODELS
from bench.workloads import BATCH, MAX_TOKENS, Workload, make_workloads, padded_positions
from smorm import RewardModel
from smorm.arrays import Floats, Tokens
from smorm.data.records import Messages
from smorm.model.backbone import build_backbone
from smorm.model.border import quiet
from smorm.model.card import ModelCard
from smorm.model.inference import score_units
from smorm.model.network import RewardNetwork
from smorm.model.store import save_model
from smorm.scoring.scorer import DEFAULT_BATCH_TOKENS

BF16_ROUNDS = 1
# RM-Bench's script calls the pipeline for rejected and chosen of each of three styles.
SCRIPT_CALLS = 6
Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Padded:
    """RewardBench's loop: pad a batch of 8 with the tokenizer, run the classifier, read logits.

    Attention is transformers' default (sdpa), weights are as loaded, gradients are off."""

    model: Any
    tokenizer: Any

    @classmethod
    def load(cls, folder: Path, dtype: Dtype = "float32") -> Padded:
        """Plain transformers on the folder."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        with quiet():
            model = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=getattr(torch, dtype), trust_remote_code=False
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            return cls(model.eval(), tokenizer)

    def score(self, sequences: Sequence[Tokens]) -> Floats:
        """Scores in the order of the sequences."""
        scores = []
        for start in range(0, len(sequences), BATCH):
            ids = [tokens.tolist() for tokens in sequences[start : start + BATCH]]
            inputs = self.tokenizer.pad({"input_ids": ids}, padding=True, return_tensors="pt")
            with torch.no_grad():
                scores.append(self.model(**inputs).logits[:, 0].double().numpy())
        return np.concatenate(scores)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """RM-Bench's script: transformers' `text-classification` pipeline on rendered texts."""

    pipe: Any

    @classmethod
    def load(cls, folder: Path) -> Pipeline:
        """The pipeline on plain transformers' model and tokenizer."""
        from transformers import pipeline

        padded = Padded.load(folder)
        return cls(
            pipeline(
                "text-classification",
                model=padded.model,
                tokenizer=padded.tokenizer,
                device="cpu",
                trust_remote_code=False,
            )
        )

    def score(self, conversations: Sequence[Messages]) -> Floats:
        """One call over conversations: the chat template, then the pipeline with its options."""
        template, texts = self.pipe.tokenizer.apply_chat_template, []
        for messages in conversations:
            turns = [{"role": m.role, "content": m.content} for m in messages]
            texts.append(template(turns, tokenize=False))
        outputs = self.pipe(
            texts,
            batch_size=BATCH,
            truncation=True,
            padding=True,
            max_length=2048,
            function_to_apply="none",
            return_token_type_ids=False,
        )
        return np.array([output["score"] for output in outputs])


def write_model(folder: Path, model: str, tokenizer: Any) -> None:
    """A random reward model: one label, a pad token that is not the EOS."""
    fields = {**MODELS[model], "max_position_embeddings": MAX_TOKENS}
    backbone = build_backbone("llama", fields, seed=0, tokenizer=tokenizer, max_tokens=MAX_TOKENS)
    # torch draws the head; the caller's random state is not touched
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = RewardNetwork(backbone, 1, pad_id=tokenizer.pad_token_id)
    save_model(folder, network, tokenizer, ModelCard(max_tokens=MAX_TOKENS))


def measure(workload: Workload, folder: Path, rounds: int, peaks: dict[str, float]) -> Measurement:
    """One workload in fp32, and in bf16 once where it starts from token ids."""
    script = workload.name == "score_rmbench_script"
    # The script's users start from texts: there template and tokenizer are part of what is timed.
    arms = _script_arms(workload, folder) if script else _arms(workload, folder, "float32")
    timings, flops = _time(arms, rounds)
    # The padded loop in fp32 is the reference: it shares no code with the forest.
    truth = timings["padded"].values[0]
    gaps = {name: _largest_gap(truth, timing) for name, timing in timings.items()}
    detail = {
        **workload.facts,
        "responses": len(truth),
        "score_spread": float(np.std(truth)),
        "arms": _all_arm_facts(timings, flops, peaks["float32"]),
        "largest_differences": gaps,
        "ratios": _against_smorm(timings),
    }
    if not script:
        detail["bf16_weights"] = _bf16(workload, folder, truth, peaks["bfloat16"])
    return Measurement(ratio(timings["padded"], timings["smorm"]), gaps["smorm"], detail)


def _arms(workload: Workload, folder: Path, dtype: Dtype) -> list[Arm]:
    """From token ids: padded as given, padded by length, smorm."""
    # Each arm loads the folder by its own code: a fault of loading is seen as a difference.
    model = RewardModel.load(folder, dtype=dtype)
    padded = Padded.load(folder, dtype)
    sequences = workload.sequences
    by_length = workload.order[np.argsort(_lengths(sequences, workload.order), kind="stable")]
    positions = forest_positions(model, workload)

    def padded_arm(name: str, order: Any) -> Arm:
        def run(round_: int) -> RoundOutcome:
            # Warm-up counts FLOPs a position (see `_time`): a batch as given is enough.
            now = workload.order[:BATCH] if round_ < 0 else order
            scores = np.empty(len(sequences))
            scores[now] = padded.score([sequences[index] for index in now])
            return RoundOutcome(scores, padded_positions(_lengths(sequences, now)), len(now))

        return Arm(name, run)

    def smorm(_: int) -> RoundOutcome:
        # what `RewardModel.score` does once texts are tokens
        rows = score_units(model.network, workload.units, DEFAULT_BATCH_TOKENS)
        return RoundOutcome(np.concatenate(rows)[:, 0], positions, len(sequences))

    return [
        padded_arm("padded", workload.order),
        padded_arm("padded_by_length", by_length),
        Arm("smorm", smorm),
    ]


def _script_arms(workload: Workload, folder: Path) -> list[Arm]:
    """From conversations: transformers' pipeline in three passes, and smorm."""
    model, pipeline = RewardModel.load(folder), Pipeline.load(folder)
    conversations = []
    for record in workload.records:
        conversations += [record.prompt + response for response in record.responses]
    sequences = workload.sequences
    smorm_positions = forest_positions(model, workload)

    def script(round_: int) -> RoundOutcome:
        calls = np.split(workload.order, SCRIPT_CALLS)
        if round_ < 0:
            calls = [workload.order[:BATCH]]
        scores, positions = np.empty(len(conversations)), 0
        for call in calls:
            scores[call] = pipeline.score([conversations[index] for index in call])
            positions += padded_positions(_lengths(sequences, call))
        return RoundOutcome(scores, positions, len(conversations))

    def smorm(_: int) -> RoundOutcome:
        scores = model.score(workload.records).preference
        return RoundOutcome(scores, smorm_positions, len(conversations))

    return [Arm("padded", script), Arm("smorm", smorm)]


def _lengths(sequences: Sequence[Tokens], order: Any) -> list[int]:
    return [len(sequences[index]) for index in order]


def forest_positions(model: RewardModel, workload: Workload) -> int:
    """Positions that smorm's batches compute."""
    network, positions = model.network, 0
    for batch in network.micro_batches(workload.units, DEFAULT_BATCH_TOKENS):
        sequences: list[Tokens] = []
        for index in batch:
            sequences += workload.units[index]
        positions += network.arrange(sequences).num_tokens
    return positions


def _largest_gap(truth: Floats, timing: Timing) -> float:
    return float(np.abs(np.subtract(timing.values, truth)).max())


def _time(arms: list[Arm], rounds: int) -> tuple[dict[str, Timing], dict[str, float]]:
    """Timings and each arm's linear FLOP a round.

    Counting them is the warm-up; in it the padded loops do one batch, and what they execute is the
    same for every position."""
    per_position: dict[str, float] = {}
    outcomes: list[RoundOutcome] = []
    for arm in arms:
        flops = count_flops(lambda arm=arm: outcomes.append(arm.run(-1)))  # type: ignore[misc]
        per_position[arm.name] = flops / outcomes[-1].tokens
    # The counter intercepts every operator: no timed round may run under it.
    timings = interleave(arms, rounds, warmup=0)
    return timings, {name: per_position[name] * timings[name].tokens[0] for name in timings}


def _all_arm_facts(
    timings: dict[str, Timing], flops: dict[str, float], top: float
) -> dict[str, dict[str, Any]]:
    facts = {}
    for name, timing in timings.items():
        facts[name] = arm_facts(timing, flops=flops[name], peak=top)
    return facts


def _against_smorm(timings: dict[str, Timing]) -> dict[str, dict[str, float]]:
    ratios = {}
    for name, timing in timings.items():
        if name == "smorm":
            continue
        measured = ratio(timing, timings["smorm"])
        ratios[f"{name}_to_smorm"] = {**entry(measured), "wall": measured.wall}
    return ratios


def _bf16(workload: Workload, folder: Path, truth: Floats, top: float) -> dict[str, Any]:
    """The same with bf16 weights: both arms' errors against the fp32 scores."""
    # Equality is not asked of bf16: both round, each in its own order. The errors are compared.
    arms = [arm for arm in _arms(workload, folder, "bfloat16") if arm.name != "padded_by_length"]
    timings, flops = _time(arms, BF16_ROUNDS)
    errors = {}
    for name, timing in timings.items():
        rms = float(np.sqrt(np.mean((timing.values[0] - truth) ** 2)))
        errors[name] = {"rms": rms, "largest": _largest_gap(truth, timing)}
    return {
        "ratio": _against_smorm(timings)["padded_to_smorm"],
        "error_against_fp32": errors,
        "arms": _all_arm_facts(timings, flops, top),
    }


def run(
    path: Path,
    *,
    rounds: int = 5,
    model: str = "reference",
    data: Path | None = None,
    limit: int | None = None,
    peak_repeats: int = 5,
) -> None:
    """Measure every workload and write the JSON file."""
    pin(1)
    machine = describe()
    tokenizer, workloads = make_workloads(model, data, limit)
    peaks = {}
    for name in ("float32", "bfloat16"):
        peaks[name] = peak(getattr(torch, name), repeats=peak_repeats)
    machine["peak"] = peaks
    figures = Figures(machine, {"model": model, "records_limit": limit})
    with tempfile.TemporaryDirectory(prefix="smorm-bench-") as scratch:
        folder = Path(scratch) / "model"
        write_model(folder, model, tokenizer)
        for workload in workloads:
            measured = measure(workload, folder, rounds, peaks)
            figures.add(workload.name, measured)
            times, detail = measured.ratio, measured.detail or {}
            print(
                f"{workload.name}: {times.median:.2f} times ({times.low:.2f} to {times.high:.2f}, "
                f"n = {times.n}); token ratio {detail['token_ratio']:.2f}; "
                f"largest difference {measured.equality:.1e}",
                flush=True,
            )
    figures.save(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.scoring", description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", choices=sorted(MODELS), default="reference")
    parser.add_argument("--limit", type=int, help="only so many records: a quick look")
    parser.add_argument("--data", type=Path, help="the data folder; ../shared/data where it is")
    parser.add_argument("--peak-repeats", type=int, default=5, help="timings of each product")
    options = parser.parse_args(arguments)
    run(
        options.json,
        rounds=options.rounds,
        model=options.model,
        data=options.data,
        limit=options.limit,
        peak_repeats=options.peak_repeats,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
