"""Ray Data LLM (Ray 2.60) scores a file by vLLM, on the flat export of one view and from token ids:

    smorm export runs/first --view M --output plain-model
    python examples/ray_vllm_scores.py --export plain-model --input answers.jsonl --output scores

For one row on GPUs where vLLM is wanted; `smorm score --ray` gives every row, and shares prompts.
The ids are those of training, so that no engine's template, BOS or tokenizer matters. Written from
Ray's source; no test runs it."""

import argparse
import sys
from pathlib import Path

import ray
from ray.data.llm import build_processor, vLLMEngineProcessorConfig

from smorm.data.items import as_items
from smorm.data.readers import read_rows
from smorm.model.card import read_card
from smorm.text.chat import Renderer
from smorm.text.tokenizers import load_tokenizer


def conversations(export, path):
    """Rows of the file as {"line", "response", "tokens"}, one for each response."""
    card = read_card(export)
    renderer = Renderer(load_tokenizer(str(export)), card.chat_template, card.max_tokens)
    for line, (_, row) in enumerate(read_rows(path)):
        for item in as_items(row, line):
            for number, response in enumerate(item.responses):
                tokens = renderer.render((*item.prompt, *response))
                if len(tokens) > card.max_tokens:
                    sys.exit(f"line {line + 1}: {len(tokens)} tokens, over {card.max_tokens}")
                yield {"line": line, "response": number, "tokens": tokens}


def main(arguments=None):
    """Score, and write a folder of Parquet files: line, response (from 0), score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--export", type=Path, required=True, help="folder that smorm export wrote")
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--engines", type=int, default=1, help="vLLM engines, each on a GPU")
    parser.add_argument("--cpu", action="store_true", help="vLLM's build for CPUs, in float32")
    options = parser.parse_args(arguments)
    card = read_card(options.export)
    engine = {"max_model_len": card.max_tokens}
    placement = {}
    if options.cpu:
        engine |= {"dtype": "float32", "enforce_eager": True}
        placement = {"placement_group_config": {"bundle_per_worker": {"CPU": 1}}}
    config = vLLMEngineProcessorConfig(
        model_source=str(options.export),
        task_type="classify",
        engine_kwargs=engine,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        concurrency=options.engines,
        batch_size=512,
        log_engine_metrics=False,
        **placement,
    )
    # What the view adds to the export's one row, whose head has no bias.
    offset = card.offset
    processor = build_processor(
        config,
        preprocess=lambda row: {
            "line": row["line"],
            "response": row["response"],
            "tokenized_prompt": row["tokens"],
            "pooling_params": {"use_activation": False},
        },
        postprocess=lambda row: {
            "line": row["line"],
            "response": row["response"],
            "score": float(row["embeddings"][0]) + offset,
        },
    )
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    rows = ray.data.from_items(list(conversations(options.export, options.input)))
    processor(rows).write_parquet(options.output)


if __name__ == "__main__":
    main()
