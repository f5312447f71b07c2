"""The sides of the scoring benchmarks: what people run, and smorm's own path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.workloads import BATCH, Unit, padded_positions
from smorm import RewardModel
from smorm.arrays import Tokens
from smorm.data.records import Candidates, Messages
from smorm.model.backbone import quiet
from smorm.model.inference import score_units
from smorm.scoring.scorer import DEFAULT_BATCH_TOKENS

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Padded:
    """RewardBench's loop: pad a batch of 8 with the tokenizer, run the classifier, read logits.

    Attention is transformers' default (sdpa), weights are as loaded, gradients are off.
    """

    model: Any
    tokenizer: Any

    @classmethod
    def load(cls, folder: Path, dtype: str = "float32") -> Padded:
        """Plain transformers on the folder."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        with quiet():
            model = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=getattr(torch, dtype)
            )
            return cls(model.eval(), AutoTokenizer.from_pretrained(folder))

    def score(self, sequences: Sequence[Tokens]) -> Scores:
        """Scores in the order of the sequences."""
        found = []
        for start in range(0, len(sequences), BATCH):
            ids = [tokens.tolist() for tokens in sequences[start : start + BATCH]]
            inputs = self.tokenizer.pad({"input_ids": ids}, padding=True, return_tensors="pt")
            with torch.no_grad():
                found.append(self.model(**inputs).logits[:, 0].double().numpy())
        return np.concatenate(found)

    @staticmethod
    def positions(sequences: Sequence[Tokens]) -> int:
        """Positions that its batches compute."""
        return padded_positions([len(tokens) for tokens in sequences])


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
                "text-classification", model=padded.model, tokenizer=padded.tokenizer, device="cpu"
            )
        )

    def score(self, conversations: Sequence[Messages]) -> Scores:
        """One pass over conversations: the chat template, then the pipeline with its options."""
        texts = [
            self.pipe.tokenizer.apply_chat_template(
                [{"role": m.role, "content": m.content} for m in messages], tokenize=False
            )
            for messages in conversations
        ]
        found = self.pipe(
            texts,
            batch_size=BATCH,
            truncation=True,
            padding=True,
            max_length=2048,
            function_to_apply="none",
            return_token_type_ids=False,
        )
        return np.array([one["score"] for one in found])

    @staticmethod
    def positions(sequences: Sequence[Tokens]) -> int:
        """Positions that its batches compute: six passes of a sixth of the sequences each."""
        size = len(sequences) // 6
        lengths = [len(tokens) for tokens in sequences]
        return sum(padded_positions(lengths[i * size : (i + 1) * size]) for i in range(6))


@dataclass(frozen=True, slots=True)
class Whole:
    """smorm from conversations: the Python call that its users make."""

    model: RewardModel
    records: list[Candidates]

    def score(self) -> Scores:
        """Scores, record by record."""
        return self.model.score(self.records).preference


def forest_scores(model: RewardModel, units: Sequence[Unit]) -> Scores:
    """smorm from token ids: what `RewardModel.score` does once texts are tokens."""
    rows = score_units(model.network, units, DEFAULT_BATCH_TOKENS)
    return np.concatenate(rows)[:, 0]


def forest_tokens(model: RewardModel, units: Sequence[Unit]) -> int:
    """Positions that smorm's batches compute."""
    network = model.network
    return sum(
        network.arrange([tokens for index in batch for tokens in units[index]]).num_tokens
        for batch in network.micro_batches(units, DEFAULT_BATCH_TOKENS)
    )
