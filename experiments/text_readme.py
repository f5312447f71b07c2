"""`results/text/README.md`: what was compared, the tables, and how to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.readme import each, over_seeds, span, table
from experiments.tasks import TASKS
from experiments.text_reading import reading, titles
from experiments.text_rewards import label_of
from smorm.evaluation.result import Result

Summary = Mapping[str, Any]

HEADER = """\
# Real text: every method from one pretrained backbone

Written by `python -m experiments.text`; do not edit. `results.json` has every result of every
seed, `summary.json` the numbers below.

**What is compared.** All models begin with the same small Llama ({parameters:.2f} million
parameters), pretrained here as a language model, and are trained by the same trainer on one CPU
core: Single (pairs), Multi (ratings), GRM (sft regulariser), ODIN, BSR, SMORM (pairs and ratings,
the official weight), and made of them SM (the mean of Single and Multi) and ensembles of {members}
Singles of different seeds (mean, min), their members standardised on training responses. F is the
preference row, L the mean of the attribute rows, M the mean of F and L as they are. Seeds:
{seeds}. A seed decides the head's beginning and the order of the data; with the same seed all
methods read the pairs in the same order. The backbone is the same in all seeds, so that the
intervals over seeds leave out what another pretraining would bring.

**How it is measured.** On `dev`, by which nothing was chosen. ID: the model was trained on the
training split of the same data set (other prompts; UKP: other debates). OOD: it was trained on the
other data set. Best-of-n is out of distribution for all. Two 95 % intervals: *over prompts*
resamples whole prompts and is about which prompts were sampled, for the mean of these very seeds;
*over seeds* is Student's t over the seeds' own numbers, wide with so few. Differences are paired:
same items, same seed. There are many rows and many differences here: at 95 % one in twenty
intervals leaves 0 out by chance, and nothing is corrected for that.

These models are tiny, and so are the numbers to be read: this says how the methods compare where
everything can be repeated in an hour, not how they do at the published scale.
"""


def readme(summary: Summary, results: Sequence[Result]) -> str:
    """The whole text."""
    facts = summary["backbone"]
    header = HEADER.format(
        parameters=facts["parameters"] / 1e6,
        members=summary["members"],
        seeds=", ".join(map(str, summary["seeds"])),
    )
    parts = [header, _said(summary, results), _backbone(facts)]
    for kind, write in (("pairs", _pairs), ("overall", _overall), ("rated", _rated)):
        parts.append(f"## {titles(kind)}\n")
        parts += [write(suite, found, summary, results)
                  for suite, found in _of_kind(summary, kind)]  # fmt: skip
    parts.append(_best_of_n(summary, results))
    parts += [_tuning(summary["tuning"]), _cost(summary, results)]
    return "\n".join(parts)


def _of_kind(summary: Summary, kind: str) -> list[tuple[str, Summary]]:
    return [(suite, found) for suite, found in summary["suites"].items()
            if suite.startswith(f"{kind}/")]  # fmt: skip


def _said(summary: Summary, results: Sequence[Result]) -> str:
    lines = [f"- {sentence}" for sentence in reading(summary, results)]
    return "## What it shows\n\n" + "\n".join(lines) + "\n"


def _backbone(facts: Summary) -> str:
    settings = facts["settings"]
    rows = [
        [name, f"{one['items']:,}", str(one["prompts"]), str(one["responses"])]
        for name, one in facts["overlap"].items()
    ]
    documents = sum(facts[f"documents{part}"] for part in ("", "_held_out", "_left_out"))
    overlap = table(["test file", "items", "prompts met", "responses met"], rows)
    return f"""\
## The backbone

{settings["layers"]} layers of {settings["hidden_size"]}, {settings["vocab_size"]:,} BPE tokens \
trained on the same text, a context of {settings["width"]} tokens; {facts["tokens"]:,} tokens of \
`pretrain_text`, each read once, in {facts["minutes"]:.0f} minutes. Held-out loss \
{facts["loss"]:.3f} nats a token ({facts["held_out_tokens"]:,} tokens of documents that were not \
trained on); of the token frequencies alone {facts["loss_of_frequencies"]:.3f}. So it knows words \
and phrases, and little else.

Documents were compared with every test file by the rule of `smorm check --against` (13 words in a \
row, or a whole short text): {facts["documents_left_out"]} of {documents:,} share some with a test \
item, and were left out. What was met before that:

{overlap}
"""


def _value(row: Summary, form: str) -> list[str]:
    """Cells of a number: itself, its two intervals and its seeds."""
    return [_number(row["value"], form), span(row, form), over_seeds(row, form), each(row, form)]


def _number(value: float | None, form: str) -> str:
    """A number, or a dash for one that does not exist, such as a correlation with a constant."""
    return "–" if value is None else f"{value:{form}}"


def _gap(row: Summary) -> list[str]:
    """Cells of the difference to the baseline."""
    gap = row.get("difference")
    if gap is None:
        return ["", "", ""]
    return [_number(gap["value"], "+.3f"), span(gap, "+.3f"), over_seeds(gap, "+.3f")]


_INTERVALS = ["95 % over prompts", "over seeds"]


def _rows(found: Summary, name: str, form: str = ".3f") -> list[list[str]]:
    return [[label, *_value(row[name], form), *_gap(row[name])]
            for label, row in found.items() if name in row]  # fmt: skip


def _heading(what: str, value: str, base: str) -> list[str]:
    return [what, value, *_INTERVALS, "each seed", f"− {base}", *_INTERVALS]


def _pairs(suite: str, found: Summary, summary: Summary, results: Sequence[Result]) -> str:
    one = next(r for r in results if r.suite == suite)
    longer = one.metrics["length_only_accuracy"]
    rows = _rows(found, "accuracy")
    empty = [""] * 5
    rows.append(["the longer response", f"{longer.value:.3f}",
                 f"[{longer.low:.3f}, {longer.high:.3f}]", *empty])  # fmt: skip
    baseline = summary["baselines"].get(suite.partition("ID-")[2], {})
    if "dev" in baseline:
        rows.append(["TF-IDF + length, the data's README", f"{baseline['dev']:.3f}", "", *empty])
    said = " ".join(one.notes[:1])
    heading = _heading("pairs", "accuracy", "Single")
    return f"### {titles(suite)}\n\n{said}\n\n{table(heading, rows)}\n"


def _overall(suite: str, found: Summary, summary: Summary, results: Sequence[Result]) -> str:
    heading = _heading("reward", "Spearman", "Single")
    parts = [f"### {titles(suite)}\n", table(heading, _rows(found, "spearman", "+.3f"))]
    inner = ", ".join(
        f"{label} {_number(row['spearman_within_prompt']['value'], '+.2f')}"
        for label, row in found.items()
    )
    return "\n".join([*parts, f"\nWithin prompts: {inner}.\n"])


def _rated(suite: str, found: Summary, summary: Summary, results: Sequence[Result]) -> str:
    rows = []
    for name in next(iter(found.values())):
        multi, smorm = (found[label][name] for label in ("Multi", "SMORM-attributes"))
        cells = [f"{_number(one['value'], '+.3f')} {span(one, '+.3f')}" for one in (multi, smorm)]
        shown = "mean over attributes" if name == "spearman" else name.partition("/")[2]
        rows.append([shown, *cells, *_gap(smorm)])
    heading = ["attribute", "Multi", "SMORM", "SMORM − Multi", *_INTERVALS]
    return f"### {titles(suite)}\n\n{table(heading, rows)}\n"


def _best_of_n(summary: Summary, results: Sequence[Result]) -> str:
    told = summary["pools"]
    parts = [
        f"""\
## Best-of-n on AlpacaEval

Real answers of many models to {told["prompts_kept"]} of {told["prompts"]} prompts; gold is the \
probability that a strong judge prefers the answer to GPT-4's, mostly near 0 and higher for longer \
answers. Kept are the {told["answers_kept"]:,} of {told["answers"]:,} answers whose conversation \
fits the {told["tokens"]} tokens that the backbone was pretrained on (at most \
{told["longest_words"]} words; the same for all models), and the prompts with at least \
{told["smallest_pool"]} of them. So n goes to {told["smallest_pool"]}, not to the 57 or 58 answers \
that a whole pool has: with n = 57 most prompts would be lost. `gain` is gold at the largest n \
less gold of a random answer.
"""
    ]
    for suite, found in _of_kind(summary, "best-of-n"):
        sizes = [name for name in next(iter(found.values())) if name.startswith("gold@")]
        rows = []
        for label, row in found.items():
            golds = [f"{row[name]['value']:.3f}" for name in sizes]
            gain = row["gain"]
            rows.append([label, *golds, f"{gain['value']:+.3f}", span(gain, "+.3f"),
                         over_seeds(gain, "+.3f") if len(gain["seeds"]) > 1 else "",
                         *_gap(gain)])  # fmt: skip
        oracle = next(r for r in results if r.suite == suite).metrics["oracle"]
        heading = ["reward", *(name.replace("gold@", "n = ") for name in sizes), "gain",
                   *_INTERVALS, "gain − Single's", *_INTERVALS]  # fmt: skip
        best = f"\nThe gold itself would reach {oracle.value:.3f} at the largest n.\n"
        parts += [f"### {titles(suite)}\n", table(heading, rows), best]
    return "\n".join(parts)


def _tuning(tuned: Summary) -> str:
    rows = []
    for task, methods in tuned.items():
        for method, found in methods.items():
            tried = ", ".join(
                f"{one['epochs']:g}: {one['criterion']:.3f}"
                + (" **chosen**" if one["epochs"] == found["chosen"] else "")
                for one in found["tried"]
            )
            rows.append([TASKS[task].title, method, tried])
    return f"""\
## Epochs

Chosen for each method alike, by one run each of two values (seed 50, none of those above) on \
prompts (UKP: debates) split off the training split; `dev` had no part in it. Epochs are of the \
pairs; of the ratings for Multi, so that it reads as many ratings as SMORM does. Criterion: \
accuracy on the validation pairs, of F; of L for Multi; the mean of F's and L's for SMORM. The \
learning rate (3e-4, which most methods had chosen when they were trained from scratch) and all \
else are the same for all. Two values are a small search, and the chosen one is always at its \
edge. Both are small, so that the whole comparison takes well under an hour on two cores: longer \
training may change the picture.

{table(["data", "method", "epochs: validation accuracy"], rows)}
"""


def _cost(summary: Summary, results: Sequence[Result]) -> str:
    rows = []
    for one in (r for r in results if r.kind == "cost" and r.fingerprint["seed"] == 0):
        numbers = {name: metric.value for name, metric in one.metrics.items()}
        rows.append([
            TASKS[one.suite.partition("/")[2]].title,
            label_of(one.model, one.view),
            f"{numbers['passes_per_score']:.0f}",
            f"{numbers['parameters']:,.0f}",
            f"{numbers['training_tokens']:,.0f}",
            f"{numbers['minutes']:.1f}",
        ])  # fmt: skip
    heading = ["data", "reward", "passes a score", "parameters", "training tokens", "minutes"]
    parts = ", ".join(f"{name} {value:.1f}" for name, value in summary["minutes"].items())
    return f"""\
## Cost

Of seed 0; what is made of several models costs all of them. Tokens are those computed. Minutes are
of one core of a machine that others used too, for orientation only.

{table(heading, rows)}

Minutes of one process by part, all seeds: {parts}.
"""
