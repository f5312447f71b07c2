"""The inputs about chat templates, tried by every verb that applies one: a tiny model is trained on
them with the template, and then scores, measures and compares. What it has learnt is no matter."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smorm import RewardModel
from smorm.checks.findings import FINE, meaning
from smorm.checks.plan import Plan, sources_of_config, tokens_of_config
from smorm.checks.report import check
from smorm.config import parse_config
from smorm.data.census import Census
from smorm.data.reading import Source
from smorm.errors import SmormError
from smorm.evaluation.parity.check import against_folder, measure_model
from smorm.evaluation.parity.conversations import from_file
from smorm.evaluation.suites import Suite, run_suite
from smorm.model.export import export_view
from smorm.rewards.model import ModelReward
from smorm.rewards.scores_file import score_file
from smorm.training.loop import train

BACKBONE = {
    "architecture": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 1024,
}  # fmt: skip
# A finding that says something of the template, not of three records.
_OF_TEMPLATES = ("not_written", "not_rendered", "template", "counted", "bad_records")


@dataclass(frozen=True, slots=True)
class Applied:
    """Pairs to train on, a template, what the run says of it, and files to score afterwards."""

    pairs: str
    template: Callable[[Path], Path | None]
    model: dict[str, Any]
    scored: tuple[str, ...]


def _qwen3(folder: Path) -> Path | None:
    """TRL's; None where it is not installed."""
    trl = importlib.util.find_spec("trl")
    if trl is None or trl.origin is None:
        return None
    return Path(trl.origin).parent / "chat_templates/qwen3.jinja"


def _own(folder: Path) -> Path:
    return folder / "system_merge/t.jinja"


_THINKING = ("thinking/pairs.jsonl", "thinking/history.jsonl", "thinking/in.jsonl")
APPLIED = (
    Applied("thinking/pairs.jsonl", _qwen3, {}, _THINKING),
    Applied("thinking/history.jsonl", _qwen3, {}, _THINKING[1:2]),
    Applied("system_merge/d.jsonl", _own, {"system": "refuse"}, ()),
    Applied("system_merge/d.jsonl", _own, {"system": "merge"}, ("system_merge/d.jsonl",)),
)


def applied_page(folder: Path, short: Callable[[str], str]) -> Iterator[str]:
    """The lines of the page about the templates of a folder of inputs."""
    for applied in APPLIED:
        if not (folder / applied.pairs).is_file():
            continue
        said = ", ".join(f"{key}: {value}" for key, value in applied.model.items())
        yield from ("", f"## {applied.pairs}, with a template{f' and {said}' if said else ''}", "")
        template = applied.template(folder)
        if template is None:
            yield "TRL, which ships the template, is not installed."
            continue
        yield "| verb | file | what it says |"
        yield "|---|---|---|"
        with tempfile.TemporaryDirectory(prefix="smorm-cases-") as work:
            for verb, name, text in _said(applied, folder, template, Path(work)):
                cell = text.replace(f"{folder}/", "").replace(f"{work}/", "").replace("|", "\\|")
                yield f"| {verb} | {name} | {short(cell)} |"


def _said(
    applied: Applied, folder: Path, template: Path, work: Path
) -> Iterator[tuple[str, str, str]]:
    """Verb, file, and what the verb says of it."""
    model: dict[str, Any] = {
        "backbone": BACKBONE, "tokenizer": {"train": "bpe", "vocab_size": 300},
        "chat_template": str(template), **applied.model,
    }  # fmt: skip
    config = parse_config(
        {
            "model": model,
            "data": {"preference": str(folder / applied.pairs), "cache": None, "workers": 1},
            "objective": {"kind": "preference"},
            "training": {"max_steps": 1, "batch_size": 2, "threads": 1},
            "output": {"folder": str(work / "run")},
        }
    )
    plan = Plan(sources_of_config(config), tokens=tokens_of_config(config))
    yield "check", applied.pairs, _or_error(lambda: _findings(plan))
    trained: list[Path] = []
    yield "train", applied.pairs, _or_error(lambda: _trained(trained, train(config)))
    if not trained:
        return
    loaded = RewardModel.load(trained[0])
    for name in applied.scored:
        source = Source(folder / name)
        yield "score", name, _or_error(lambda: _scored(loaded, source, work))  # noqa: B023
        yield "eval", name, _or_error(lambda: _measured(loaded, source))  # noqa: B023
        yield "export, parity", name, _or_error(lambda: _parity(loaded, source, work))  # noqa: B023


def _or_error(work: Callable[[], str]) -> str:
    try:
        return work()
    except SmormError as error:
        return str(error)


def _findings(plan: Plan) -> str:
    told = [
        f"{finding.severity}: {meaning(finding)}"
        for finding in check(plan).findings
        if finding.severity is not FINE or finding.kind in _OF_TEMPLATES
    ]
    return "; ".join(told[:3]) or "nothing to fix"


def _trained(trained: list[Path], folder: Path) -> str:
    trained.append(folder)
    return "one step is done, and the model is proven"


def _scored(model: RewardModel, source: Source, work: Path) -> str:
    output = work / "scores.jsonl"
    output.unlink(missing_ok=True)
    report = score_file(ModelReward(model), source, output, on_bad_record="skip")
    (census,) = report.counted.values()
    return "; ".join([f"{report.responses} responses in {report.lines} lines", *_lines(census)])


def _measured(model: RewardModel, source: Source) -> str:
    (result,) = run_suite(model, Suite("pairs", source))
    return f"accuracy of {result.metrics['accuracy'].n} pairs"


def _parity(model: RewardModel, source: Source, work: Path) -> str:
    folder = Path(tempfile.mkdtemp(dir=work)) / "plain"
    exported = export_view(folder, model.network, model.tokenizer, model.card, model.view("F"))
    conversations = from_file(source.path, model.renderer, census := Census())
    ours = measure_model(model, conversations, census.lines(), quick=True)
    found = against_folder(ours, str(exported.folder), "F", quick=True)
    told = "; ".join(str(failure) for failure in found.failures) or "passes"
    return f"{len(conversations)} conversations, parity {told}"


def _lines(census: Census) -> list[str]:
    return [line.partition(" (such as")[0] for line in census.lines()]
