"""The front matter of a model card: what the Hugging Face hub reads, written by its library."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from smorm.report.card_facts import Facts
from smorm.report.names import clean, style_of
from smorm.report.paired import leading
from smorm.report.rows import Row

TAGS = ("reward-model", "smorm", "rlhf", "preference-model")
_TASK = "text-classification"


def front_matter(
    facts: Facts, name: str, rows: Sequence[Row], license_id: str | None, language: str | None
) -> str:
    """The YAML block with its `---` lines.

    Args:
        facts: of the model.
        name: the model's name.
        rows: its own results; their leading numbers become the model index.
        license_id: as the hub names it, such as "apache-2.0".
        language: of the data, such as "en".
    """
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=_TASK,
            task_name="reward modelling",
            dataset_type=_slug(row.suite),
            dataset_name=clean(row.suite),
            metric_type=_slug(metric),
            metric_name=clean(f"{style_of(metric).label}, {row.view or 'all rows'}"),
            metric_value=round(row.metrics[metric].value, 6),
        )
        for row in rows
        for metric in leading(row.kind, row.metrics)
        if math.isfinite(row.metrics[metric].value)
    ]
    card = ModelCardData(
        language=language,
        license=license_id,
        library_name="transformers" if facts.head == "linear" else "smorm",
        pipeline_tag=_TASK,
        base_model=facts.base_model,
        datasets=facts.datasets or None,
        tags=list(TAGS),
        model_name=clean(name),
        eval_results=results or None,
    )
    if not results:
        card.model_name = None
    return f"---\n{card.to_yaml()}\n---\n"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower() or "results"
