"""Tiny reward models as others save them: real folders of transformers' own classes."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification

from smorm.model.border import quiet
from smorm.text.tokenizers import train_bpe
from tests.model.architectures import ARCHITECTURES, COMMON

PAIRS = [
    ("What is 2 + 2?", "It is four."),
    ("What is 2 + 2?", "Five, as everybody knows who has ever counted on a hand."),
    ("Name a metal.", "Tin"),
]


@cache
def tokenizer() -> Any:
    return train_bpe(["a few words to learn from"], 300)


def classifier(
    folder: Path, architecture: str = "llama", labels: tuple[str, ...] = ("LABEL_0",), **more: Any
) -> Path:
    """A folder of `...ForSequenceClassification`, as `save_pretrained` writes it."""
    torch.manual_seed(0)
    fields = {**COMMON, **ARCHITECTURES.get(architecture, {}), "vocab_size": 300, **more}
    config = AutoConfig.for_model(architecture, **fields)
    config.num_labels = len(labels)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: row for row, label in enumerate(labels)}
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    with quiet():
        model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def change_weights(folder: Path, change: Any) -> Path:
    """Let `change` edit the tensors of a folder in place."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def change_json(path: Path, **values: Any) -> None:
    """Set keys of a JSON file; None removes one."""
    content = {**json.loads(path.read_text()), **values}
    content = {key: value for key, value in content.items() if value is not None}
    path.write_text(json.dumps(content))


def plain_logits(model: Any) -> np.ndarray[Any, Any]:
    """What plain transformers gives for `PAIRS`, one conversation at a time."""
    logits = []
    for prompt, answer in PAIRS:
        messages = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": answer},
        ]
        ids = tokenizer().apply_chat_template(messages, tokenize=True, return_dict=False)
        with torch.inference_mode():
            logits.append(model(torch.tensor([ids])).logits[0].double().numpy())
    return np.array(logits)


def load_plain(folder: Path, **options: Any) -> Any:
    with quiet():
        return AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, **options
        ).eval()
