"""Fuzzed result files, scores files, views and cards, through the verbs that read them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from chaos.stage import Stage
from chaos.trial import Command, Ended, Fault, Trial, verb
from chaos.values import OSC, change, damage, dumps

_VIEWS: tuple[Any, ...] = (
    "F",
    "L",
    "M",
    {"preference": 1.0, "honesty": 0.5},
    {"weights": {"F": 1}},
)


def trials(stage: Stage, seed: int, count: int) -> Iterator[Trial]:
    """One changed file a trial."""
    kinds: tuple[Callable[[Random, Stage], tuple[dict[str, bytes], tuple[str, ...]]], ...] = (
        _report, _pick, _view, _reward,
    )  # fmt: skip
    for index in range(count):
        random = Random(f"results-{seed}-{index}")
        make = kinds[index % len(kinds)]
        contents, arguments = make(random, stage)
        command = Command(_with_files(contents, verb(*arguments)))
        yield Trial(f"results/{index}/{arguments[0]}", [command])


def _with_files(contents: dict[str, bytes], act: Callable[[Path], None]) -> Callable[[Path], None]:
    def all_of_it(folder: Path) -> None:
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        act(folder)

    return all_of_it


def _changed(random: Random, content: bytes) -> bytes:
    """The file's value changed at some level, or its bytes damaged."""
    if random.random() < 0.3:
        return damage(random, content)
    value = json.loads(content)
    return dumps(change(random, value)).encode("utf-8", "surrogatepass")


def _report(random: Random, stage: Stage) -> tuple[dict[str, bytes], tuple[str, ...]]:
    contents = {"r.json": _changed(random, stage.result.read_bytes())}
    if random.random() < 0.5:
        return contents, ("report", "r.json", "-o", "page.html", "--no-figures")
    return contents, ("card", str(stage.model), "r.json", "-o", "README.md")


def _pick(random: Random, stage: Stage) -> tuple[dict[str, bytes], tuple[str, ...]]:
    lines = stage.scores.read_bytes().splitlines()[:6]
    index_of_line = random.randrange(len(lines))
    lines[index_of_line] = _changed(random, lines[index_of_line])
    contents = {"s.jsonl": b"\n".join(lines) + b"\n"}
    if random.random() < 0.5:
        what = random.choice(("--best", "--worst", "--pairs"))
        return contents, (
            "pick",
            "s.jsonl",
            "--input",
            str(stage.pairs),
            what,
            "-o",
            "picked.jsonl",
        )
    suite = f"pairs={stage.pairs}"
    return contents, ("eval", "s.jsonl", "--suite", suite, "-o", "out.json")


def _view(random: Random, stage: Stage) -> tuple[dict[str, bytes], tuple[str, ...]]:
    contents = {"v.json": _changed(random, json.dumps(random.choice(_VIEWS)).encode())}
    view = "v.json"
    if random.random() < 0.3:
        view = contents["v.json"].decode("utf-8", "replace").replace("\x00", "")
    if random.random() < 0.3:
        return contents, ("export", str(stage.model), "--view", view, "--output", "exported")
    rated = str(stage.rated)
    return contents, ("score", str(stage.model), "--input", rated, "--output", "o.jsonl",
                      "--view", view)  # fmt: skip


def _reward(random: Random, stage: Stage) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """A YAML file (JSON is YAML) that names a reward."""
    members = [{"model": str(stage.model), "view": view} for view in "FL"]
    section = {"ensemble": members, "combine": "mean"}
    contents = {"reward.yaml": _changed(random, json.dumps(section).encode())}
    suite = f"pairs={stage.pairs}"
    return contents, ("eval", "reward.yaml", "--suite", suite, "-o", "out.json")


def card_trials(stage: Stage, seed: int, count: int) -> Iterator[Trial]:
    """A model folder whose `smorm.json` is changed, or says what no model can be, scored."""
    for index in range(count):
        random = Random(f"cards-{seed}-{index}")
        content = (stage.model / "smorm.json").read_bytes()
        card, judge, name = _changed(random, content), None, ""
        if random.random() < 0.4:
            name, change = random.choice(list(NONSENSE.items()))
            values = json.loads(content)
            change(values)
            card, judge = json.dumps(values).encode(), _refused
        verbs = (
            ("score", "model", "--input", str(stage.rated), "--output", "o.jsonl"),
            ("eval", "model", "--suite", f"rated={stage.rated}", "-o", "r.json"),
            ("export", "model", "--view", "L", "--output", "exported"),
            ("merge", "model", "model", "--output", "merged"),
        )
        act = verb(*random.choice(verbs))
        command = Command(_with_model(stage.model, card, act))
        yield Trial(f"cards/{index}/{name}", [command], judge)


def _refused(folder: Path, ended: Ended) -> Iterator[tuple[Fault, str]]:
    if ended.code == 0:
        yield Fault.WRONG, "accepted"


def _scale(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda card: card["scales"][0].__setitem__(key, value)


def _key(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda card: card.__setitem__(key, value)


def _first_named(name: str) -> Callable[[dict[str, Any]], None]:
    def change(card: dict[str, Any]) -> None:
        card["attributes"][0] = card["scales"][0]["name"] = name

    return change


NONSENSE: dict[str, Callable[[dict[str, Any]], None]] = {
    "scale 0": _scale("scale", 0), "scale -1": _scale("scale", -1.0),
    "scale 1e308": _scale("scale", 1e308), "scale 1e-320": _scale("scale", 1e-320),
    "scale NaN": _scale("scale", float("nan")), "scale inf": _scale("scale", float("inf")),
    "offset 1e308": _scale("offset", 1e308), "offset NaN": _scale("offset", float("nan")),
    "offset of text": _scale("offset", "0"), "scale true": _scale("scale", True),
    "another name": _scale("name", "other"), "further key": _scale("unit", "stars"),
    "no scales": _key("scales", []), "null scales": _key("scales", None),
    "another order": lambda card: card["scales"].reverse(),
    "one scale twice": lambda card: card["scales"].append(card["scales"][0]),
    "one attribute twice": lambda card: _first_named(card["attributes"][1])(card),
    "an attribute called preference": _first_named("preference"),
    "an attribute without a name": _first_named(""),
    "an attribute that is an escape": _first_named(OSC),
    "a number for a name": _key("attributes", [1]), "attributes of text": _key("attributes", "ab"),
    "overlong": _key("overlong", "cut"), "no tokens": _key("max_tokens", 0),
    "a token and a half": _key("max_tokens", 1.5), "tokens without end": _key("max_tokens", 1e30),
    "a mean without end": _key("means", {"style": float("inf")}),
    "an offset without end": _key("offset", float("inf")), "another head": _key("head", "cubic"),
    "an mlp": _key("head", "mlp"), "format": _key("format", 2), "a key": _key("claws", 1),
    "a view of no row": _key("default_view", {"nowhere": 1.0}),
    "a weight without end": _key("default_view", {"preference": float("inf")}),
}  # fmt: skip
"""Changes of a card after which no model can be meant."""


def _with_model(model: Path, card: bytes, act: Callable[[Path], None]) -> Callable[[Path], None]:
    def all_of_it(folder: Path) -> None:
        shutil.copytree(model, folder / "model")
        (folder / "model" / "smorm.json").write_bytes(card)
        # Without its manifest: a folder whose sums are right was changed by its owner.
        (folder / "model" / "manifest.json").unlink(missing_ok=True)
        act(folder)

    return all_of_it
