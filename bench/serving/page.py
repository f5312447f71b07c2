"""`results/serving/README.md` of `serving.json`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from smorm import files

NAMES = {
    "smorm": "smorm serve",
    "plain": "FastAPI and transformers, one request at a time",
    "litserve": "LitServe, batches of 16",
    "vllm": "vLLM on the CPU",
}


def write_page(folder: Path) -> dict[str, Any]:
    """Write the page; returns what is in `serving.json`."""
    content: dict[str, Any] = files.read_json(folder / "serving.json")
    files.write_text(folder / "README.md", page(content))
    return content


def page(content: dict[str, Any]) -> str:
    """The page as Markdown; a part that was not measured is named at its end."""
    detail = content["detail"]
    makers: dict[str, Callable[[Any, dict[str, Any]], list[str]]] = {
        "steady": _steady,
        "routes": _routes,
        "beside": _beside,
        "shared": _shared,
        "prefixes": _prefixes,
        "overload": _overload,
    }
    lines = ["# The server under load", "", _machine(content), ""]
    missing = list(detail.get("not_measured", []))
    for part, make in makers.items():
        if part in detail:
            lines += [*make(detail[part], content), ""]
        else:
            missing.append(part)
    if missing:
        lines += [f"Not measured in this run: {', '.join(missing)}.", ""]
    return "\n".join(lines)


def _machine(content: dict[str, Any]) -> str:
    machine, sizes = content["machine"], content["detail"]["sizes"]
    tokens = content["detail"]["traffic"]["tokens"]
    loads = list(content["detail"]["load"].values())
    return (
        f"`python -m bench.serving`: {machine['cpu']}, {machine['cores']} cores, shared with other "
        f"work (load average {min(loads)} to {max(loads)} at the parts' ends). A random Llama "
        f"(`{sizes['model']}` of bench/smorm_run.py) in float32 and one thread; conversations of "
        f"{tokens['least']} to {tokens['most']} tokens, {tokens['mean']} on average. CPU time is "
        "that of all processes of a server."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _steady(facts: dict[str, Any], content: dict[str, Any]) -> list[str]:
    rows = [
        ("requests answered, errors", f"{facts['answered']}, {facts['errors']}"),
        ("requests a second", facts["requests_per_second"]),
        ("latency p50, p99", f"{facts['p50_ms']:.0f} ms, {facts['p99_ms']:.0f} ms"),
        ("CPU time of a request", f"{facts['cpu_ms']:.1f} ms"),
        ("memory, growth", f"{facts['rss_mib']:.0f} MiB, {_percent(facts['rss_growth'])}"),
        ("scores compared, largest difference",
         f"{facts['compared']}, {facts['largest_difference']:.1e}"),
        ("CPU time while idle", f"{_percent(facts['idle_share_of_a_core'])} of a core"),
    ]  # fmt: skip
    title = f"## Steady: {facts['connections']} connections, {facts['seconds']:.0f} s"
    return [title, "", *_table(("", ""), rows)]


def _routes(facts: dict[str, Any], content: dict[str, Any]) -> list[str]:
    text = (
        f"{facts['answered']} requests in turns over {', '.join(facts['paths'])}, all at once: "
        f"{facts['errors']} errors, {facts['compared']} scores compared with `smorm score`, "
        f"largest difference {facts['largest_difference']:.1e}."
    )
    return ["## Every route", "", text]


def _beside(detail: dict[str, Any], content: dict[str, Any]) -> list[str]:
    rows = []
    for name, facts in detail.items():
        row = [NAMES[name], f"{facts['cpu_ms']:.1f}", f"{facts['p50_ms']:.0f}",
               f"{facts['p99_ms']:.0f}", facts["errors"]]  # fmt: skip
        if name == "smorm":
            row += ["1", "1", "1"]
        else:
            row += [_range(content["ratios"][f"serve_cpu_vs_{name}"]),
                    _range(facts["ratios"]["p50"]), _range(facts["ratios"]["p99"])]  # fmt: skip
        rows.append(row)
    head = ("server", "CPU ms", "p50 ms", "p99 ms", "errors", "CPU", "p50", "p99")
    turns = detail["smorm"]["turns"]
    text = (
        f"{turns} turns of each, interleaved; medians of turns. The last three columns are "
        "ratios to smorm's neighbouring turn: median (lowest to highest)."
    )
    return ["## Beside other servers", "", *_table(head, rows), "", text]


def _range(entry: dict[str, float]) -> str:
    return f"{entry['median']:.2f} ({entry['low']:.2f} to {entry['high']:.2f})"


def _shared(facts: dict[str, Any], content: dict[str, Any]) -> list[str]:
    names = {
        "one_request": "one request with 16 responses",
        "sixteen_requests": "16 requests at once",
        "unshared": "the same, no two prompts alike",
    }
    rows = []
    for name, title in names.items():
        arm = facts[name]
        rows.append((title, f"{arm['cpu_ms_per_response']:.1f}", _percent(arm["saved_share"]),
                     arm["errors"]))  # fmt: skip
    gain = content["ratios"]["serve_shared_prompts"]
    text = (
        f"Sharing makes a response {_range(gain)} times cheaper in one request, "
        f"{facts['gain_of_sixteen_requests']:.2f} times in sixteen."
    )
    head = ("best of 16", "CPU ms a response", "tokens saved (`/metrics`)", "errors")
    return ["## Shared prompts", "", *_table(head, rows), "", text]


def _prefixes(entries: list[dict[str, Any]], content: dict[str, Any]) -> list[str]:
    rows = [
        (
            entry["system_tokens"], entry["arrival"], entry["batches"],
            _percent(entry["saved_by_batches"]), _percent(entry["most_a_cache_saves"]),
            _percent(entry["a_cache_of_the_system_prompt_saves"]),
        )
        for entry in entries
    ]  # fmt: skip
    head = ("system tokens", "answers arrive", "batches", "saved by batches",
            "any cache would save more, at most", "one of the system prompt")  # fmt: skip
    text = (
        "Rows of a step of reinforcement learning, 16 answers to each prompt, one request each. "
        "The last two columns are shares of the rows that the batches computed."
    )
    return ["## A cache of prefixes", "", *_table(head, rows), "", text]


def _overload(facts: dict[str, Any], content: dict[str, Any]) -> list[str]:
    columns = [_overload_column(of_model) for of_model in facts.values()]
    rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
    text = (
        "The first model is that of the other parts. Where a score costs little, refusing weighs "
        "most, and the process that sends the requests has a part of the same two cores."
    )
    return ["## Overload", "", *_table(("", *(f"`{name}`" for name in facts)), rows), "", text]


def _overload_column(facts: dict[str, Any]) -> dict[str, Any]:
    statuses = ", ".join(f"{count} × {code}" for code, count in sorted(facts["statuses"].items()))
    recovery = facts["recovery_seconds"]
    recovered = "never" if recovery is None else f"{recovery:.1f} s"
    refusal = f"{facts['refusal_p50_ms']} ms, {facts['refusal_p99_ms']} ms"
    return {
        "capacity": f"{facts['capacity_per_second']} requests a second",
        "offered": f"{facts['offered_per_second']} a second, {facts['connections']} connections",
        "goodput": f"{_percent(facts['goodput_share'])} of the capacity",
        "answers": statuses,
        "hung, broken": f"{facts['hung']}, {facts['broken']}",
        "429 without Retry-After": facts["refused_without_retry_after"],
        "time to a refusal, p50, p99": refusal,
        "time to an answer, p99": f"{facts['answered_p99_ms']:.0f} ms",
        "median latency within 1.5 of steady's after": recovered,
        "memory growth": _percent(facts["memory_growth"]),
    }
