"""The parts of a model card that say what a model is, how it is used and how it was made."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from smorm.report.card_facts import Facts
from smorm.report.markdown import code, fenced, plain, table
from smorm.report.names import show, style_of

_PREFERENCE = (
    "Bradley–Terry reward; differences between answers to one prompt have a meaning, its zero has "
    "none"
)
_LENGTH = "ODIN's length row: the part of the preference that goes along with length; no rating"
_HEADS = {
    "mlp": "an MLP as its head",
    "gated": "a gated head (a row for each attribute, mixed by a gate that reads the prompt)",
}
_SETTINGS = {
    "objective": ("kind", "weighting", "weight", "label_smoothing"),
    "training": ("seed", "epochs", "max_steps", "batch_size", "learning_rate", "precision"),
}


def what_it_is(facts: Facts) -> str:
    """Rows, views, and what goes in."""
    rows = len(facts.attributes) + 1
    head = _HEADS.get(facts.head, f"one linear head of {rows} row{'s' * (rows > 1)}")
    kind = facts.config.get("objective", {}).get("kind")
    made = f" with the objective {code(kind)}" if kind else ""
    parts = [
        f"A reward model: a {plain(facts.model_type or 'decoder')} language model and {head} that "
        f"reads the last token's hidden state, trained by smorm{made}. It scores conversations and "
        "writes no text.",
        "## What it scores",
        _rows(facts),
        _views(facts),
        "## What goes in",
        _input(facts),
    ]
    return "\n\n".join(parts)


def _rows(facts: Facts) -> str:
    if facts.folded:
        return f"One row, into which the view {code(facts.default_view)} is folded."
    means = facts.card.get("means", {})
    scales = {str(scale.get("name")): scale for scale in facts.card.get("scales", [])}
    trained = facts.card.get("preference_trained", True)
    lines = [["`preference`", _PREFERENCE if trained else "not trained: all zeros", "–", "–"]]
    for name in facts.attributes:
        scale = scales.get(name, {})
        stored = f"(value − {_figure(scale, 'offset')}) / {_figure(scale, 'scale')}"
        mean = _figure(means, name) if name in means else "–"
        meaning = "prediction of its rating, on the ratings' scale"
        told = [_LENGTH, "–"] if facts.by_length else [meaning, stored]
        lines.append([code(name), *told, mean])
    headings = ["row", "meaning", "what the head holds", "mean rating in training"]
    return table(headings, lines, 3)


def _figure(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return show(float(value), style_of("")) if isinstance(value, int | float) else "?"


def _views(facts: Facts) -> str:
    if facts.folded:
        return ""
    told = f"The view that is used unless another is asked for: {code(facts.default_view)}."
    if not facts.attributes or facts.by_length:
        return f"{told} `F` is the preference row."
    return (
        "A reward is a *view* of the rows: `F` the preference row, `L` the mean of the "
        f"attributes, `M` the mean of both. {told}"
    )


def _input(facts: Facts) -> str:
    limit = facts.card.get("max_tokens")
    template = "its own chat template" if facts.card.get("chat_template") else "the tokenizer's"
    policies = {
        "error": "longer ones are refused",
        "drop": "longer ones are left out and counted",
        "truncate_prompt": "the prompt of longer ones is cut from the left",
    }
    overlong = policies.get(str(facts.card.get("overlong")), "")
    length = f"up to {limit:,} tokens" if isinstance(limit, int) else "of any length"
    how = f"Conversations of {length}" + (f" ({overlong})" if overlong else "")
    return (
        f"{how}, rendered by {template} chat template. Control tokens inside texts are read as "
        "plain text by smorm; other programs may not do so."
    ).replace("its own chat template chat template", "a chat template that lies in the folder")


def how_to_use(facts: Facts, place: str) -> str:
    """Code that loads and scores, with smorm and, after an export, without it."""
    view = "F" if facts.folded else facts.default_view
    named = view if view in ("F", "L", "M") else "VIEW.json"
    ours = f"""\
from smorm import RewardModel

model = RewardModel.load({place!r})
scores = model.score([("What is 2 + 2?", "4."), ("What is 2 + 2?", "Five, I think.")])
rewards = scores.view({named!r})"""
    other = """\
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("exported")
model = AutoModelForSequenceClassification.from_pretrained("exported").eval()
messages = [
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "4."},
]
tokens = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
with torch.no_grad():
    reward = model(tokens["input_ids"], tokens["attention_mask"]).logits[0, 0].item()"""
    export = f"smorm export {shlex.quote(place)} --view {named} --output exported"
    parts = [
        "## Use",
        fenced(ours, "python")
        if named != "VIEW.json"
        else fenced(ours.rpartition("\n")[0], "python"),
        "Other programs (plain transformers, TRL, vLLM, SGLang) load an export, in which a view is "
        "one row:",
        fenced(export, "sh"),
        fenced(other, "python"),
        "The export's reward is without the view's constant, which cancels in every comparison. Do "
        "not apply a sigmoid or softmax to it.",
    ]
    if facts.folded:
        parts = parts[:2]
    if facts.head != "linear":
        alone = (
            "Its head is not linear, so that it cannot be exported, and other programs (plain "
            "transformers, TRL, vLLM, SGLang) cannot load it."
        )
        parts = [*parts[:2], alone]
    return "\n\n".join(parts)


def how_it_was_made(facts: Facts) -> str:
    """Data, settings and cost; what no file tells is said to be unknown."""
    if not facts.config:
        return "## Training\n\nNo run lies beside this model: its data and settings are not known."
    parts = ["## Training", _data(facts), _settings(facts), _cost(facts)]
    public = yaml.safe_dump(without_places(facts.config), sort_keys=False, allow_unicode=True)
    whole = fenced(public, "yaml")
    text = f"<details><summary>The whole configuration</summary>\n\n{whole}\n\n</details>"
    return "\n\n".join(part for part in [*parts, text] if part)


def without_places(value: Any) -> Any:
    """A configuration's value with the folders of this machine left out of its paths."""
    if isinstance(value, Mapping):
        return {key: without_places(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_places(one) for one in value]
    if isinstance(value, str) and value.startswith(("/", "~", "../")):
        return f"…/{value.rstrip('/').rpartition('/')[2]}"
    return value


def _data(facts: Facts) -> str:
    counts = [
        f"{facts.data[key]:,} {word}"
        for key, word in (("pairs", "preference pairs"), ("rated", "rated responses"))
        if isinstance(facts.data.get(key), int)
    ]
    lines = [f"- {kind}: {code(without_places(path))}" for path, kind in facts.sources]
    left = [
        f"- {plain(reason)}: {plain(told.get('count', '?'))}"
        for reason, told in facts.data.get("counted", {}).items()
        if isinstance(told, Mapping)
    ]
    told = [f"Trained on {' and '.join(counts)}." if counts else "", "\n".join(lines)]
    return "\n\n".join(
        [*filter(None, told), *(["Counted on the way:", "\n".join(left)] if left else [])]
    )


def _settings(facts: Facts) -> str:
    lines = [
        [f"`{section}.{key}`", plain(facts.config[section][key])]
        for section, keys in _SETTINGS.items()
        for key in keys
        if facts.config.get(section, {}).get(key) is not None
    ]
    return table(["setting", "value"], lines, 2) if lines else ""


def _cost(facts: Facts) -> str:
    cost = facts.cost
    if not cost:
        return ""
    parameters, tokens = cost.get("parameters", {}), cost.get("tokens", {})
    numbers = {
        "parameters": parameters.get("model"),
        "of these trained": parameters.get("trained"),
        "forward passes for a score": cost.get("passes_per_score"),
        "optimizer steps": cost.get("steps"),
        "training tokens (as computed)": tokens.get("trained"),
    }
    lines = [[name, f"{value:,}"] for name, value in numbers.items() if isinstance(value, int)]
    return table(["cost", ""], lines) if lines else ""
