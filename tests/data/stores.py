"""Sources with everything that can befall a record, and their tokens in every way."""

from __future__ import annotations

import json
import random
from pathlib import Path

from smorm.data.encode import Encoder
from smorm.data.reading import Source
from smorm.data.token_cache import TokenRequest, tokens_of, write_tokens
from smorm.data.token_store import TokenStore
from smorm.data.tokeniser import Tokeniser
from smorm.text.chat import Renderer
from smorm.text.tokenizers import load_tokenizer
from smorm.world import backbone_path
from tests.data.sources import jsonl

WORDS = ["metals", "brief", "tin", "soft", "hard", ".", "🙂", "<|im_end|>", "naïve"]


def encoder(max_tokens: int = 48) -> Encoder:
    """The lab's tokenizer; long prompts are shortened, longer responses dropped."""
    renderer = Renderer(load_tokenizer(str(backbone_path())), None, max_tokens)
    return Encoder(renderer, max_tokens, "truncate_prompt")


def some_text(rng: random.Random, most: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, most)))


def pairs(path: Path, count: int, seed: int = 0) -> Path:
    """Pairs: good ones, ties, sides of equal tokens, bad rows, long prompts and long answers."""
    rng = random.Random(seed)
    rows: list[object] = []
    for number in range(count):
        row: dict[str, object] = {
            "prompt": f"{some_text(rng, 70)} {number % 7}",
            "chosen": some_text(rng, 8) + " a",
            "rejected": some_text(rng, 8) + " b",
        }
        if number % 11 == 3:
            row["rejected"] = row["chosen"]
        if number % 13 == 4:
            row["chosen"] = 7
        if number % 17 == 5:
            row["chosen"] = "tin " * 60
        if number % 5 == 0:
            row["margin"] = number / 4
        rows.append(row)
    return jsonl(path, rows)


def ratings(path: Path, count: int, seed: int = 0) -> Path:
    """Ratings whose names appear late, are null, or stand on a response that is too long."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        scores = {"clarity": rng.random(), "wit": None if number % 3 else rng.random()}
        if number > count // 2:
            scores["late"] = float(number)
        response = "tin " * 60 if number % 19 == 6 else some_text(rng, 8)
        prompt = f"{some_text(rng, 9)} {number % 7}"
        rows.append({"prompt": prompt, "response": response, "scores": scores})
    return jsonl(path, rows)


def wanted(path: Path, kind: str = "preference", run: Path | None = None, **options: object):
    """A request for a source, bad records skipped into the run's folder."""
    folder = path.parent / "run" if run is None else run
    source = Source(path, **options)  # type: ignore[arg-type]
    return TokenRequest(source, kind, "skip", folder / "quarantine.jsonl")  # type: ignore[arg-type]


def stored(want: TokenRequest, cache: str | None, workers: int = 1) -> TokenStore:
    with Tokeniser(encoder(), workers) as tokeniser:
        return tokens_of(want, tokeniser, cache)


def written(folder: Path, want: TokenRequest, workers: int) -> dict[str, bytes]:
    """Every file of a store that is written to `folder`."""
    folder.mkdir()
    with Tokeniser(encoder(), workers) as tokeniser:
        source = want.source
        contents = source.contents()
        write_tokens(folder, want, contents, tokeniser)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def same(one: TokenStore, other: TokenStore) -> bool:
    """Whether two stores hold the same, places and census included."""
    facts = [
        (s.kind, s.names, s.attributes, s.census.as_dict(), s.records, s.content)
        for s in (one, other)
    ]
    arrays = all((one.arrays[name] == other.arrays[name]).all() for name in one.arrays)
    return facts[0] == facts[1] and arrays


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
