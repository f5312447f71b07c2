"""transformers' own classifier on a folder: conversations in one padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


class Classifier:
    """`AutoModelForSequenceClassification` as its documentation uses it."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        torch.set_num_threads(1)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=False
        )
        self.model: Any = model.eval()

    def score(self, conversations: Sequence[list[dict[str, Any]]]) -> list[float]:
        """The first label's logit of every conversation."""
        template = self.tokenizer.apply_chat_template
        ids = [template(messages, tokenize=True, return_dict=False) for messages in conversations]
        inputs = self.tokenizer.pad({"input_ids": ids}, padding=True, return_tensors="pt")
        with torch.inference_mode():
            logits: list[float] = self.model(**inputs).logits[:, 0].double().tolist()
        return logits
