"""The generated world: text whose true quality is known, and a backbone that speaks it.

world = make_world()
prompt = sample_prompt(rng, "OODtopic")     a request, of a regime
answer = write_answer(world, prompt, rng)   by a simulated writer
gold(world, prompt, answer)                 true quality of any string, 0..1
write_dataset(folder, seed=0)               pairs and ratings as ordinary JSONL records
backbone_path()                             a tiny Llama with its tokenizer, 0.7 MB"""

from pathlib import Path

from smorm.world.gold import ATTRIBUTES, Quality, gold, measure_quality
from smorm.world.records import TOP_RATING, Annotation, write_dataset
from smorm.world.world import (
    REGIMES,
    Prompt,
    Regime,
    Split,
    World,
    make_world,
    parse_prompt,
    sample_prompt,
)
from smorm.world.writer import Habits, perfect_answer, write_answer

__all__ = [
    "ATTRIBUTES", "REGIMES", "TOP_RATING", "Annotation", "Habits", "Prompt", "Quality",
    "Regime", "Split", "World", "backbone_path", "gold", "make_world", "measure_quality",
    "parse_prompt", "perfect_answer", "sample_prompt", "write_answer", "write_dataset",
]  # fmt: skip


def backbone_path() -> Path:
    """The shipped backbone: a Hugging Face folder that any loader of `transformers` takes. `python
    -m tools.pretrain_lab` made it, as a language model of the world of seed 0."""
    return Path(__file__).parent / "backbone"
