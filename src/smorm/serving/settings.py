"""What a server is told: its rewards, and the limits of requests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

DEADLINE = 60.0
"""Seconds that a request of our own routes may take where it names no other deadline."""
HELD_DEADLINE = 170.0
"""The same where a refusal would become a missing reward: OpenRLHF's client waits 180 s."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is refused, before it costs anything."""

    body_bytes: int = 8 << 20
    items: int = 256  # of a request
    characters: int = 400_000  # of one item, all its texts together
    waiting_items: int = 2_048  # of all requests, not yet in a batch
    waiting_tokens: int = 2_000_000
    waiting_seconds: float = DEADLINE  # of work that waits, at the speed of the last batches
    body_seconds: float = 20.0  # until a request's body has arrived
    batch_seconds: float = 120.0  # until the worker has stalled


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How rewards are served. `sections`: plain values of a reward's section by its served name."""

    sections: dict[str, dict[str, Any]]
    devices: tuple[str, ...] = ("cpu",)
    dtype: str = "float32"
    max_tokens: int | None = None
    chat_template: str | None = None
    max_batch_tokens: int = 8_192
    tokens: tuple[str, ...] = ()  # bearer tokens; without any every client is let in
    drain_seconds: float = 1.0  # in which /readyz says 503 and requests are still accepted
    limits: Limits = field(default_factory=Limits)
