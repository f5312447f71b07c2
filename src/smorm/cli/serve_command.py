"""`smorm serve`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from typer import Argument, Option

from smorm.cli import options
from smorm.errors import ConfigError
from smorm.terminal import echo

if TYPE_CHECKING:
    from smorm.rewards.section import RewardSection


@options.loads_models
def run(
    rewards: list[str] = Argument(help=f"{options.REWARD_HELP} NAME=REWARD names one."),
    host: str = Option("127.0.0.1", help="Address to listen on; 0.0.0.0: every interface."),
    port: int = Option(8000, min=0, max=65_535, help="0: any that is free."),
    view: options.Text = Option(
        None, help="What compatible routes give, and others by default: F, L, M, JSON, a file."
    ),
    token_file: Path | None = Option(
        None, help="File of bearer tokens, one a line; needed beyond this machine."
    ),
    step: options.StepOption = None,
    max_batch_tokens: options.BatchTokensOption = 8192,
    max_waiting: int = Option(2_048, min=1, help="Items that may wait; more get 429."),
    max_wait: float = Option(
        60.0,
        min=0.1,
        max=86_400,
        help="Seconds of work that may wait, by the last batches' speed; then 429.",
    ),
    max_items: int = Option(256, min=1, help="Items of a request."),
    batch_seconds: float = Option(
        120.0, min=0.1, max=86_400, help="Without an answer for so long a worker is started again."
    ),
    drain_seconds: float = Option(
        1.0,
        min=0,
        max=86_400,
        help="After SIGTERM, while /readyz says 503 and requests are still taken.",
    ),
    insecure: bool = Option(
        False, "--insecure", help="Listen beyond this machine without a token."
    ),
    loading: options.Loading = options.LOADING,
) -> None:
    """Serve rewards over HTTP.

    /v1/score, /v1/compare, /v1/info; routes as OpenRLHF, vLLM, SGLang and LLaMA-Factory ask them;
    /metrics for Prometheus; /docs for the API; / to try it in a browser. docs/serving.md."""
    try:
        from smorm.serving.guard import read_tokens
        from smorm.serving.run import serve
        from smorm.serving.settings import Limits, ServeOptions
    except ImportError as error:
        raise ConfigError(f"serving needs {error.name}: pip install 'smorm[serve]'") from error
    from smorm.model.store import resolve

    for name, seconds in (
        ("--batch-seconds", batch_seconds),
        ("--drain-seconds", drain_seconds),
        ("--max-wait", max_wait),
    ):
        if not math.isfinite(seconds):
            raise ConfigError(f"{name} {seconds}: is no number of seconds")
    tokens = read_tokens(token_file) if token_file is not None else ()
    if not tokens and not insecure and host not in ("127.0.0.1", "localhost", "::1"):
        raise ConfigError(
            f"--host {host}: everybody who reaches it could use it: add --token-file FILE, or "
            "--insecure where something in front of it checks who asks"
        )
    chosen = loading.options
    devices = tuple(name.strip() for name in chosen["device"].split(","))
    if not all(devices):
        raise ConfigError(f"--device {chosen['device']!r}: a device between the commas is missing")
    sections = {}
    for name, section in _named(rewards, step).items():
        # Known at once, and not only when a worker has started.
        if section.model is not None:
            resolve(section.model)
        if view is not None:
            section = section.model_copy(update={"view": options.view_for(section, view)})
        sections[name] = section.model_dump(mode="json", exclude_unset=True)
    serving = ServeOptions(
        sections,
        devices,
        chosen["dtype"],
        chosen["max_tokens"],
        chosen["chat_template"],
        max_batch_tokens,
        tokens,
        drain_seconds,
        Limits(
            items=max_items,
            waiting_items=max_waiting,
            waiting_seconds=max_wait,
            batch_seconds=batch_seconds,
        ),
    )
    serve(serving, host, port, lambda address: echo(f"serving {', '.join(sections)} at {address}"))


def _named(rewards: list[str], step: int | None) -> dict[str, RewardSection]:
    """Sections by the name under which each is served."""
    plain, names = [], []
    for text in rewards:
        name, equals, reward = text.partition("=")
        # A path may hold the sign too.
        named = bool(equals) and name.replace("-", "").replace("_", "").isalnum()
        if named and not Path(text).exists():
            names.append(name)
            plain.append(reward)
        else:
            names.append("")
            plain.append(text)
    sections = options.sections_of(plain, None, step)
    by_name = {}
    for name, section in zip(names, sections, strict=True):
        served = name or section.title
        if served in by_name:
            raise ConfigError(f"two rewards would be served as {served}: write NAME=REWARD")
        by_name[served] = section
    return by_name
