"""Names and texts that attack whoever reads them: escapes, HTML, formulas, templates, secrets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import yaml

from chaos.stage import Stage, config_values
from chaos.trial import CANARY, Command, Ended, Fault, Trial, verb
from chaos.values import OSC

_SCRIPT = "<script>document.title='hacked'</script>"
_IMAGE = "<img src=x onerror=alert(1)>"
PAYLOADS = (
    OSC,
    "\x1b]52;c;ZWNobyBoaQ==\x07",
    "\x1b[2J\x1b[1;1H",
    "\x9b31mred",
    "a\rb",
    "a\x08\x08b",
    "\u202egnp.exe",
    "\u2066x\u2069",
    _SCRIPT,
    _IMAGE,
    '"><svg onload=alert(1)>',
    "javascript:alert(1)",
    "=cmd|'/C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(1)",
    "{{ 7 * 7 }}",
    "{% include '/etc/passwd' %}",
    "${IFS}",
    "`touch EXECUTED`",
    "$(touch EXECUTED)",
    "a\nb",
    "| a | b |",
    "[x](javascript:alert(1))",
    "__import__('os').system('touch EXECUTED')",
    "%(x)s",
    "{0.__class__}",
    "\ud800",
    "n" * 5_000,
)
SECRETS = (
    "http://user:hunter2@127.0.0.1:9/", "http://127.0.0.1:9/?api_key=hunter2",
    "https://127.0.0.1:9/v1?token=hunter2&x=1", "ftp://me:hunter2@127.0.0.1/",
    "http://127.0.0.1:9/?access_token=hunter2", "http://127.0.0.1:9/?API-KEY=hunter2#a",
    "http://hunter2@127.0.0.1:9/v1", "HTTP://User:hunter2@127.0.0.1:9", "s3://key:hunter2@bucket/a",
    "http://127.0.0.1:9/?x=1;secret=hunter2", "http://user:hunter2@[::1]:9/",
    "http://user:hunter2@127.0.0.1:99999/", "http://user:hunter2@/",
    "postgresql+psycopg://me:hunter2@127.0.0.1/db", "http://127.0.0.1:9/#token=hunter2",
)  # fmt: skip


def trials(stage: Stage, seed: int, count: int) -> Iterator[Trial]:
    """Each payload at each place, in turn."""
    makers: tuple[Callable[[Random, Stage, str], Trial], ...] = (
        _attribute, _record, _file_name, _config, _result, _label, _secret, _model_name, _option,
    )  # fmt: skip
    for index in range(count):
        random = Random(f"injections-{seed}-{index}")
        payload = random.choice(PAYLOADS)
        yield makers[index % len(makers)](random, stage, payload)


def _judge_page(folder: Path, ended: Ended) -> Iterator[tuple[Fault, str]]:
    for path in (*folder.glob("*.html"), *folder.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        page = _rendered(text) if path.suffix == ".md" else text
        for payload in (_SCRIPT, _IMAGE, "<svg onload", 'href="javascript:'):
            if payload in page:
                yield Fault.EXECUTION, f"{path.name} holds {payload}"
        if "\x1b" in text or "\u202e" in text:
            yield Fault.ESCAPES, path.name
    for path in folder.rglob("*.csv"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith(("=", "+", "@")) or ",=" in line or ",@" in line:
                yield Fault.EXECUTION, f"{path.name}: formula {line[:80]}"
    if "hunter2" in ended.output:
        yield Fault.EXECUTION, f"a secret was printed: {ended.output[-300:]}"
    for name in ("r.json", "o.jsonl", "out.json"):
        if (folder / name).exists() and b"hunter2" in (folder / name).read_bytes():
            yield Fault.EXECUTION, f"a secret was written into {name}"
    if (folder / CANARY).exists():
        yield Fault.EXECUTION, CANARY


def _rendered(text: str) -> str:
    """Markdown as a site shows it that lets HTML and all addresses through."""
    from markdown_it import MarkdownIt

    renderer = MarkdownIt("commonmark")
    renderer.validateLink = lambda url: True  # type: ignore[method-assign]
    if text.startswith("---\n"):
        # A card begins with facts in YAML, which no site renders.
        text = text.partition("\n---\n")[2]
    page: str = renderer.render(text)
    return page


def _trial(name: str, prepare: Callable[[Path], None], *commands: tuple[str, ...]) -> Trial:
    def first(folder: Path) -> None:
        prepare(folder)
        verb(*commands[0])(folder)

    later = [Command(verb(*arguments)) for arguments in commands[1:]]
    return Trial(f"injections/{name}", [Command(first), *later], _judge_page)


def _write_rows(path: Path, rows: list[Any]) -> None:
    lines = [json.dumps(row) + "\n" for row in rows]  # ASCII: lone surrogates are written too
    path.write_text("".join(lines), encoding="utf-8")


def _attribute(random: Random, stage: Stage, payload: str) -> Trial:
    """A rated attribute's name, through training and its report."""
    rows = stage.rows(stage.rated, 12)
    for row in rows:
        row["scores"] = {payload: 1 + len(row["response"]) % 4, "kindness": 2}
    values = config_values(stage.pairs, "rated.jsonl", "run")

    def prepare(folder: Path) -> None:
        _write_rows(folder / "rated.jsonl", rows)
        (folder / "c.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")

    if random.random() < 0.5:
        return _trial("attribute/check", prepare, ("check", "rated.jsonl", "-o", "out.json"))
    return _trial(
        "attribute/train", prepare, ("train", "c.yaml"), ("card", "run", "-o", "README.md"),
        ("eval", "run", "--suite", "rated=rated.jsonl", "-o", "r.json"),
        ("report", "r.json", "-o", "page.html", "--no-figures"),
    )  # fmt: skip


def _record(random: Random, stage: Stage, payload: str) -> Trial:
    """A record's id, source, key or text."""
    rows = stage.rows(stage.pairs, 8)
    for row in rows:
        row[random.choice(("id", "source", "prompt", payload))] = payload
    verbs = (
        ("check", "data.jsonl"),
        ("score", str(stage.model), "--input", "data.jsonl", "--output", "o.jsonl", "--skip-bad"),
        ("eval", str(stage.model), "--suite", "pairs=data.jsonl", "-o", "r.json"),
    )
    report = ("report", "r.json", "-o", "page.html", "--no-figures")
    chosen = random.choice(verbs)
    commands = (chosen, report) if chosen[0] == "eval" else (chosen,)
    return _trial("record", lambda at: _write_rows(at / "data.jsonl", rows), *commands)


def _file_name(random: Random, stage: Stage, payload: str) -> Trial:
    """A file's name; slashes are no part of one."""
    name = payload.replace("/", "_").encode("utf-8", "replace").decode()[:100] + ".jsonl"
    rows: list[Any] = stage.rows(stage.pairs, 4)
    if random.random() < 0.5:
        rows[1] = {"prompt": 3}
    verbs = (
        ("check", f"./{name}"),
        ("score", str(stage.model), "--input", f"./{name}", "--output", "o.jsonl"),
        ("eval", str(stage.model), "--suite", f"pairs/{payload[:20]}=./{name}", "-o", "r.json"),
    )
    return _trial("file-name", lambda at: _write_rows(at / name, rows), random.choice(verbs))


def _config(random: Random, stage: Stage, payload: str) -> Trial:
    """A key or a value of a configuration."""
    values = config_values(stage.pairs, stage.rated, "run")
    section = random.choice(list(values))
    key = random.choice((*values[section], payload))
    values[section][key] = payload

    def prepare(folder: Path) -> None:
        text = yaml.safe_dump(values).encode("utf-8", "surrogatepass")
        (folder / "c.yaml").write_bytes(text)

    # Arguments of a program hold no NUL and no surrogates.
    override = f"{section}.{key}={payload}".encode("utf-8", "replace").decode()
    return _trial("config", prepare, ("check", "--config", "c.yaml", override))


def _result(random: Random, stage: Stage, payload: str) -> Trial:
    """A name in a result file, on the page and the card."""
    result = json.loads(stage.result.read_text(encoding="utf-8"))
    entries = result["results"] if isinstance(result, dict) and "results" in result else result
    for entry in entries if isinstance(entries, list) else [entries]:
        for key in ("suite", "model", "view", "kind"):
            if random.random() < 0.6 and isinstance(entry, dict) and key in entry:
                entry[key] = payload
        metrics = entry.get("metrics") if isinstance(entry, dict) else None
        if isinstance(metrics, dict) and metrics and random.random() < 0.5:
            metrics[payload] = next(iter(metrics.values()))

    def prepare(folder: Path) -> None:
        (folder / "r.json").write_text(json.dumps(result), encoding="utf-8")

    title = payload.encode("utf-8", "replace").decode()[:200]
    return _trial(
        "result", prepare,
        ("report", "r.json", "-o", "page.html", "--title", title),
        ("card", str(stage.model), "r.json", "-o", "README.md", "--name", title),
    )  # fmt: skip


def _label(random: Random, stage: Stage, payload: str) -> Trial:
    """A name in the model's own files."""

    def prepare(folder: Path) -> None:
        shutil.copytree(stage.model, folder / "model")
        (folder / "model" / "manifest.json").unlink()
        name, key = random.choice((("smorm.json", "attributes"), ("config.json", "id2label")))
        path = folder / "model" / name
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content[key], list):
            content[key][0] = payload
        else:
            content[key]["1"] = payload
        path.write_text(json.dumps(content), encoding="utf-8")

    suite = f"pairs={stage.pairs}"
    return _trial("label", prepare, ("eval", "model", "--suite", suite, "-o", "r.json"),
                  ("card", "model", "-o", "README.md"))  # fmt: skip


def _model_name(random: Random, stage: Stage, payload: str) -> Trial:
    """A model that is not there, under the payload's name."""
    name = payload.encode("utf-8", "replace").decode()[:300]
    verbs = (
        ("score", f"./{name}", "--input", str(stage.pairs), "--output", "o.jsonl"),
        ("eval", f"field:{name}", "--suite", f"pairs={stage.pairs}", "-o", "r.json"),
        ("export", f"./{name}", "--view", name, "--output", "e"),
        ("eval", str(stage.model), "--suite", f"{name}={stage.pairs}", "-o", "r.json"),
        ("train", f"./{name}.yaml"),
    )
    return _trial("model-name", lambda at: None, random.choice(verbs))


def _option(random: Random, stage: Stage, payload: str) -> Trial:
    """What an option says: a name that is looked up, or one that is shown."""
    name = payload.encode("utf-8", "replace").decode()[:300]
    model, pairs, rated = str(stage.model), str(stage.pairs), str(stage.rated)
    score = ("score", model, "--input", pairs, "--output", "o.jsonl")
    measure = ("eval", model, "--suite", f"pairs={pairs}", "-o", "r.json")
    verbs = (
        (*score, "--columns", f"prompt={name}"), (*score, "--columns", f"{name}=prompt"),
        (*score, "--keep", name), (*score, "--view", name), (*score, "--format", name),
        (*score, "--combine", name), (*score, "--ignore", name), (*score, "--device", name),
        (*score, "--dtype", name), (*score, "--max-tokens", name), (*score, "--overlong", name),
        (*score, "--chat-template", name), (*score, "--token-file", name),
        (*measure, "--split", name), (*measure, "--view", name), (*measure, f"--{name}"),
        ("eval", model, "--suite", name, "-o", "r.json"),
        ("check", rated, "--attributes", name), ("check", rated, "--range", f"{name}=1..5"),
        ("check", rated, "--range", f"style={name}"), ("check", rated, "--against", name),
        ("check", rated, "--dev", name), ("check", rated, "--split", name),
        ("pick", str(stage.scores), "--input", pairs, "--pairs", "-o", name),
        ("view", model, "--data", pairs, "--kind", name, "-o", "v.json"),
        ("view", model, "--data", pairs, "--rows", name, "-o", "v.json"),
        ("export", model, "--view", name, "--output", "e"), ("lab", "--methods", name),
        ("relabel", pairs, "--gold", name, "-o", "o.jsonl"), (name,),
        ("parity", model, name), ("merge", model, name, "--output", "m"), ("stress", name),
        ("card", model, "-o", "README.md", "--license", name, "--language", name, "--repo", name),
    )  # fmt: skip
    return _trial("option", lambda at: None, random.choice(verbs))


def _secret(random: Random, stage: Stage, payload: str) -> Trial:
    """An address with a secret in it, as reward, data and configuration."""
    secret = random.choice(SECRETS)
    values = config_values(stage.pairs, stage.rated, "run")
    values["data"]["preference"] = secret

    def prepare(folder: Path) -> None:
        (folder / "c.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        section = {"url": secret, "protocol": "smorm", "timeout": 0.5}
        (folder / "s.yaml").write_text(yaml.safe_dump(section), encoding="utf-8")

    suite = f"pairs={stage.pairs}"
    verbs = (
        ("eval", secret, "--suite", suite, "-o", "r.json"),
        ("eval", "s.yaml", "--suite", suite, "-o", "r.json"),
        ("eval", str(stage.model), "--suite", f"pairs={secret}", "-o", "r.json"),
        ("check", secret),
        ("check", "--config", "c.yaml"),
        ("train", "c.yaml"),
        ("parity", str(stage.model), secret, "--timeout", "0.5"),
    )
    return _trial("secret", prepare, random.choice(verbs))
