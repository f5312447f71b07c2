"""Made-up results of several methods, seeds and prompt sets; what is true of them is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from smorm.evaluation.metrics import Metric
from smorm.evaluation.result import Result
from smorm.report.page import write_page

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SETS = ("OODtopic", "ID", "OODlong")


def kl_of(size: int) -> float:
    return float(np.log(size) - (size - 1) / size)


def near(value: float, n: int = 40, half_width: float = 0.02) -> Metric:
    return Metric(value, n, value - half_width, value + half_width)


def stress_result(
    model: str,
    view: str,
    prompts: str,
    seed: int | None,
    gold: Sequence[float],
    *,
    noise: float = 0.0,
    n: int = 40,
) -> Result:
    """One run's result with this gold at `SIZES`; its proxy always rises."""
    rng = np.random.default_rng([seed or 0, *map(ord, model + view + prompts)])
    values = np.asarray(gold) + noise * rng.standard_normal(len(gold)).cumsum() / 3
    proxies = [0.9 * kl_of(size) ** 0.5 for size in SIZES]
    points = [
        {
            "n": size,
            "kl": kl_of(size),
            "gold": near(float(g), n).as_dict(),
            "proxy": near(p, n).as_dict(),
            "length": near(20.0 + p, n).as_dict(),
        }
        for size, g, p in zip(SIZES, values, proxies, strict=True)
    ]
    metrics = {f"gold@{size}": near(float(g), n) for size, g in zip(SIZES, values, strict=True)}
    metrics |= {f"proxy@{size}": near(p, n) for size, p in zip(SIZES, proxies, strict=True)}
    metrics |= {
        "gain": near(float(values[-1] - values[0]), n),
        "regret": near(float(0.95 - values[-1]), n),
        "area": near(float(values.mean() - values[0]), n),
        "peak": near(float(SIZES[int(values.argmax())]), n),
        "fall": near(float(values.max() - values[-1]), n),
    }
    hashes = {"data": model}
    fingerprint = {"model": hashes, "view": {"name": view}, "data": prompts, "config": "c0ffee"}
    seeds = {} if seed is None else {"seed": seed}
    return Result(
        "stress", f"best-of-n/{prompts}", model, view, metrics, points, {**fingerprint, **seeds}
    )


def rising(top: float, start: float = 0.5) -> list[float]:
    """Gold that rises to `top` at the largest n."""
    last = kl_of(SIZES[-1]) ** 0.5
    return [start + (top - start) * kl_of(size) ** 0.5 / last for size in SIZES]


def hacked(top: float, end: float, start: float = 0.5, peak: int = 16) -> list[float]:
    """Gold that rises to `top` at `peak` and falls to `end`."""
    middle = SIZES.index(peak)
    up = np.linspace(start, top, middle + 1)
    down = np.linspace(top, end, len(SIZES) - middle)
    return [*map(float, up), *map(float, down[1:])]


def runs(
    methods: Mapping[tuple[str, str], Mapping[str, Sequence[float]]],
    seeds: Sequence[int] = range(6),
    noise: float = 0.004,
) -> list[Result]:
    """Results of methods, by (model, view) and set of prompts."""
    return [
        stress_result(model, view, prompts, seed, gold, noise=noise)
        for seed in seeds
        for (model, view), of_sets in methods.items()
        for prompts, gold in of_sets.items()
    ]


def policy_result(
    model: str, view: str, prompts: str, seed: int, gold: Sequence[float], algorithm: str = "ppo"
) -> Result:
    """A policy's trace: gold at steps 0, 5, 10, ...; proxy, KL and length rise."""
    rng = np.random.default_rng([seed, *map(ord, model + view + prompts)])
    points = [
        {
            "step": 5 * index,
            "kl": near(0.3 * index * (1 + 0.1 * rng.random())).as_dict(),
            "gold": near(value + 0.004 * rng.standard_normal()).as_dict(),
            "proxy": near(0.4 * index).as_dict(),
            "raw_proxy": near(4.0 * index).as_dict(),
            "length": near(20.0 + index).as_dict(),
        }
        for index, value in enumerate(gold)
    ]
    values = [point["gold"]["value"] for point in points]
    metrics = {
        "gold@first": near(values[0]),
        "gold@last": near(values[-1]),
        "gold@peak": near(max(values)),
        "fall": near(max(values) - values[-1]),
        "kl@last": near(points[-1]["kl"]["value"]),
    }
    fingerprint = {"seed": seed, "model": {"data": model}}
    return Result("rl", f"{algorithm}/{prompts}", model, view, metrics, points, fingerprint)


def training_result(model: str, seed: int, losses: Sequence[float]) -> Result:
    points = [{"step": 10 * at, "loss": loss, "tokens": 100} for at, loss in enumerate(losses)]
    return Result(
        "training", "training", model, "", {"loss": Metric(losses[-1], 1)}, points, {"seed": seed}
    )


def cost_result(model: str, view: str, seed: int, passes: int = 1) -> Result:
    metrics = {
        "parameters": Metric(163_000.0 * passes, 1),
        "trained_parameters": Metric(163_000.0, 1),
        "passes_per_score": Metric(float(passes), 1),
        "training_passes": Metric(400.0, 1),
        "training_tokens": Metric(1_250_000.0, 1),
    }
    return Result("cost", "cost", model, view, metrics, [], {"seed": seed})


METHODS = [
    ("Single", "F"), ("Multi", "L"), ("SM", "mean"), ("GRM", "F"), ("ODIN", "F"), ("BSR", "F"),
    ("centering", "F"), ("margin", "F"), ("WCO", "min"), ("UWO", "uwo"), ("WARM", "F"),
    ("SMORM", "F"), ("SMORM", "L"), ("SMORM", "M"),
]  # fmt: skip


def everything(seeds: Sequence[int] = range(5)) -> list[Result]:
    """All methods of a comparison on three sets of prompts, with policies, losses and costs."""
    results: list[Result] = []
    table: dict[tuple[str, str], dict[str, list[float]]] = {}
    for index, method in enumerate(METHODS):
        table[method] = {
            "ID": rising(0.74 + 0.012 * index),
            "OODtopic": hacked(0.68 + 0.008 * index, 0.58 + 0.014 * index),
            "OODlong": hacked(0.66 + 0.008 * index, 0.62 + 0.011 * index, peak=64),
        }
    results += runs(table, seeds, 0.012)
    for seed in seeds:
        for index, (model, view) in enumerate(METHODS):
            if model in ("Single", "SMORM", "GRM"):
                steps = np.arange(12)
                fall = 0.004 * (4 - index / 4)
                gold = 0.5 + 0.05 * steps - fall * np.maximum(0, steps - 4) ** 1.5
                results += [
                    policy_result(model, view, s, seed, list(gold)) for s in ("ID", "OODtopic")
                ]
            results.append(cost_result(model, view, seed, 2 if model == "SM" else 1))
            if view != "M" and view != "L":
                losses = 0.7 * np.exp(-np.arange(60) / 20) + 0.3 + 0.01 * (seed - 2)
                results.append(training_result(model, seed, [float(x) for x in losses]))
    return results


def page_html(results: Sequence[Result], title: str, intro: str = "") -> str:
    """The text of the page of some results."""
    with TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        write_page([result.as_dict() for result in results], page, title, intro)
        return page.read_text()
