"""An export as transformers reads it: token ids of conversations, and scores of token ids.

    PYTHON engines/drivers/read_export.py JOB.json ANSWER.json

A job is `{"export", "conversations": [messages], "ids": [token ids]}`; the answer is
`{"version", "own_ids": [token ids], "missing": [names], "scores": [number]}`, scores of `ids`."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def read(job: dict[str, Any]) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(job["export"], trust_remote_code=False)
    model, info = AutoModelForSequenceClassification.from_pretrained(
        job["export"], trust_remote_code=False, dtype=torch.float32, output_loading_info=True
    )
    own_ids = []
    for messages in job["conversations"]:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        own_ids.append(tokenizer(text, add_special_tokens=False)["input_ids"])
    model.eval()
    with torch.inference_mode():
        scores = [float(model(torch.tensor([ids])).logits[0, 0]) for ids in job["ids"]]
    return {
        "version": transformers.__version__,
        "own_ids": own_ids,
        "missing": sorted(info["missing_keys"]),
        "scores": scores,
    }


if __name__ == "__main__":
    answer = read(json.loads(Path(sys.argv[1]).read_text("utf-8")))
    Path(sys.argv[2]).write_text(json.dumps(answer), "utf-8")
