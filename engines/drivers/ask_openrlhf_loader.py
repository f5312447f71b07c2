"""OpenRLHF's own reward model (`get_llm_for_sequence_regression`) and tokenizer on an exported
folder, padded on the left as its reward server (`openrlhf.cli.serve_rm`) does it.

It knows bf16 and fp16 alone, whose rounding would hide a small fault: it is given float32."""

import json
import sys
from pathlib import Path
from typing import Any

from stand_in import stand_in

BATCH = 8
# It needs CUDA; OpenRLHF imports it always and, without packing, never calls it.
FLASH_ATTENTION = {
    "flash_attn": (),
    "flash_attn.bert_padding": ("index_first_axis", "pad_input", "rearrange", "unpad_input"),
    "flash_attn.utils": (),
    "flash_attn.utils.distributed": ("all_gather",),
}


def ask_all(job: dict[str, Any]) -> dict[str, Any]:
    import torch
    import transformers  # noqa: F401 (before: it looks for flash-attn, too)

    for name, functions in FLASH_ATTENTION.items():
        stand_in(name, functions)
    from openrlhf.models import get_llm_for_sequence_regression
    from openrlhf.utils import get_tokenizer, utils

    utils.convert_to_torch_dtype = lambda _: torch.float32
    model = get_llm_for_sequence_regression(job["export"], "reward", attn_implementation="eager")
    model.eval()
    tokenizer = get_tokenizer(job["export"], model, "left")
    texts = []
    for conversation in job["conversations"]:
        user = {"role": "user", "content": conversation["prompt"]}
        messages = [user, {"role": "assistant", "content": conversation["response"]}]
        texts.append(tokenizer.apply_chat_template(messages, tokenize=False))
    scores: list[float] = []
    for start in range(0, len(texts), BATCH):
        batch = tokenizer(
            texts[start : start + BATCH], add_special_tokens=False, padding=True,
            return_tensors="pt",
        )  # fmt: skip
        with torch.no_grad():
            scores += model(batch["input_ids"], batch["attention_mask"]).tolist()
    return {"scores": scores, "errors": [None] * len(scores)}


if __name__ == "__main__":
    answer = ask_all(json.loads(Path(sys.argv[1]).read_text("utf-8")))
    Path(sys.argv[2]).write_text(json.dumps(answer), "utf-8")
