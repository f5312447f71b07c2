"""Model folders that somebody changed, or made to do harm, through the verbs that load them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

from chaos.folders import make_folders, mutated_copy
from chaos.stage import Stage
from chaos.templates import (
    CONDITIONS,
    FILES,
    PATTERNS,
    PIPELINES,
    hostile_pipeline,
    hostile_templates,
    messages_for,
    write_hostile_file,
)
from chaos.trial import CANARY, Command, Ended, Fault, Trial, verb
from smorm.limits import setting


def trials(stage: Stage, seed: int, count: int) -> Iterator[Trial]:
    """A real folder with one of its files changed."""
    folders = make_folders(stage.folder / "models")
    names = list(folders)
    for index in range(count):
        random = Random(f"models-{seed}-{index}")
        name = names[index % len(names)]
        change = partial(_changed, folders[name], seed * 1_000_003 + index)
        yield _trial(f"models/{name}/{index}", random, stage, change)


def _changed(source: Path, seed: int, target: Path) -> None:
    mutated_copy(source, target, seed)


def hostile_trials(stage: Stage, seed: int, count: int) -> Iterator[Trial]:
    """Folders whose templates, tokenizers, patterns or code would take everything."""
    folders = make_folders(stage.folder / "hostile")
    plain, adapters = folders["llama"], folders["adapters"]
    changes: list[tuple[str, Callable[[Path], None]]] = []
    for name, template in hostile_templates(Random(f"hostile-{seed}"), max(1, count // 2)):
        changes.append((name, partial(_with_template, plain, template)))
    changes += [(name, partial(_with_pipeline, plain, name)) for name in PIPELINES]
    changes += [(kind, partial(_with_file, plain, kind)) for kind in FILES]
    changes += [(f"pattern {text}", partial(_with_pattern, adapters, text)) for text in PATTERNS]
    changes += [(f"code {name}", partial(_with_code, plain, name)) for name in _CODE]
    for index in range(count):
        name, change = changes[index % len(changes)]
        random = Random(f"hostile-{seed}-{index}")
        yield _trial(f"hostile/{name}", random, stage, change)


def _trial(name: str, random: Random, stage: Stage, change: Callable[[Path], None]) -> Trial:
    rows = stage.rows(stage.pairs, 4)
    if name.startswith("hostile") and random.random() < 0.7:
        # What sets a template off that talks honestly of everything else.
        rows = [{"messages": messages_for(condition)} for condition in CONDITIONS]
        rows.append({**rows[0], "tools": [{"type": "function", "function": {"name": "f"}}]})
    verbs = (
        ("score", "model", "--input", "rows.jsonl", "--output", "o.jsonl"),
        ("score", "model", "--input", "rows.jsonl", "--output", "o.jsonl"),
        ("eval", "model", "--suite", "pairs=rows.jsonl", "-o", "r.json"),
        ("export", "model", "--view", "F", "--output", "exported"),
        ("merge", "model", "model", "--output", "merged"),
        ("card", "model", "-o", "README.md"),
    )
    act = verb(*random.choice(verbs))

    def both(folder: Path) -> None:
        change(folder / "model")
        _say_yes()
        # Lowered: most hostile folders take all the time that they are given.
        for name in ("probe_seconds", "render_seconds"):
            os.environ[setting(name)] = "2"
        lines = [json.dumps(row) + "\n" for row in rows]
        (folder / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
        act(folder)

    return Trial(name, [Command(both)], _finite_scores)


def _say_yes() -> None:
    """Whatever asks whether it may run code is told so."""
    with tempfile.TemporaryFile() as answers:
        answers.write(b"y\n" * 1000)
        answers.seek(0)
        os.dup2(answers.fileno(), 0)


def _finite_scores(folder: Path, ended: Ended) -> Iterator[tuple[Fault, str]]:
    path = folder / "o.jsonl"
    if ended.code == 0 and path.exists():
        text = path.read_text(encoding="utf-8")
        if "NaN" in text or "Infinity" in text:
            yield Fault.WRONG, "a score that is not finite"


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target)


def _with_template(source: Path, template: str, target: Path) -> None:
    _copy(source, target)
    (target / "chat_template.jinja").write_text(template, encoding="utf-8")
    _forget_renderer(target)


def _with_pipeline(source: Path, name: str, target: Path) -> None:
    _copy(source, target)
    path = target / "tokenizer.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(hostile_pipeline(name, saved)), encoding="utf-8")
    _forget_renderer(target)


def _with_file(source: Path, kind: str, target: Path) -> None:
    _copy(source, target)
    write_hostile_file(target, kind)
    _forget_renderer(target)


def _with_pattern(source: Path, pattern: str, target: Path) -> None:
    _copy(source, target)
    _set(target / "adapter_config.json", "target_modules", pattern)


def _with_code(source: Path, name: str, target: Path) -> None:
    """A configuration that names code in the folder, which leaves a trace when it is run."""
    _copy(source, target)
    (target / "evil.py").write_text(f"open({CANARY!r}, 'w').close()\n", encoding="utf-8")
    file, key = _CODE[name]
    path = target / file
    values = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoTokenizer": "evil.T"}
    if not path.exists():
        path.write_text("{}", encoding="utf-8")
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model_type" if name == "unknown type" else "x_type"] = "evil"
    text = json.dumps({**content, "KEY": values}).replace('"KEY"', key)
    path.write_text(text, encoding="utf-8")


# What it is called: the file, and the key as it is written there.
_CODE = {
    "plain": ("config.json", '"auto_map"'),
    "escaped": ("config.json", '"auto\\u005fmap"'),
    "unknown type": ("config.json", '"auto\\u005fmap"'),
    "tokenizer": ("tokenizer_config.json", '"\\u0061uto_map"'),
    "processor": ("preprocessor_config.json", '"auto_map"'),
    "generation": ("generation_config.json", '"auto_map"'),
}


def _set(path: Path, key: str, value: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    content[key] = value
    path.write_text(json.dumps(content), encoding="utf-8")


def _forget_renderer(folder: Path) -> None:
    """So that the card does not refuse the folder for its other template before it is tried."""
    _set(folder / "smorm.json", "renderer", "")
