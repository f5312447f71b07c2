"""A server from its start to its end: SIGTERM flips `/readyz` at once, what was accepted is
answered, and the process exits with 0."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from smorm.errors import ConfigError
from smorm.printing import get_logger
from smorm.serving.app import make_app
from smorm.serving.batcher import Batcher
from smorm.serving.metrics import Metrics
from smorm.serving.served import served_of
from smorm.serving.service import Service
from smorm.serving.settings import HELD_DEADLINE, ServeOptions
from smorm.serving.worker import Worker

log = get_logger(__name__)

BACKLOG = 2_048
_KEEP_ALIVE_SECONDS = 30


def serve(options: ServeOptions, host: str, port: int, started: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; `started` is called with the address once it is ready.
    ConfigError: the address is taken; SmormError: a reward does not load."""
    # Bound first: that the port is taken is known before gigabytes are loaded.
    listener = _bind(host, port)
    try:
        workers = [Worker(options, device) for device in options.devices]
        for worker in workers:
            worker.start()
        asyncio.run(_serve(options, workers, listener, started))
    finally:
        listener.close()


async def _serve(
    options: ServeOptions, workers: list[Worker], listener: socket.socket,
    started: Callable[[str], None],
) -> None:  # fmt: skip
    metrics = Metrics()
    batcher = Batcher(workers, options.max_batch_tokens, options.limits, metrics)
    service = Service(options, served_of(workers[0].facts), batcher, metrics)
    config = uvicorn.Config(
        make_app(service), log_level="warning", access_log=False, lifespan="off",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS, timeout_graceful_shutdown=int(HELD_DEADLINE),
        backlog=BACKLOG, server_header=False,
    )  # fmt: skip
    server = _DrainingServer(config, service)
    batcher.start()
    address = listener.getsockname()
    started(f"http://{address[0]}:{address[1]}")
    try:
        await server.serve(sockets=[listener])
    finally:
        await batcher.stop()
        service.close()


class _DrainingServer(uvicorn.Server):
    """Goes on accepting for a moment after the signal: a load balancer must first see that the
    server is no longer ready."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # The second signal waits for no request any more.
        if self._service.draining:
            self.should_exit = self.force_exit = True
            return
        self._service.draining = True
        log.info("draining: %d items wait", self._service.batcher.waiting)
        loop = asyncio.get_running_loop()
        loop.call_later(self._service.options.drain_seconds, self._exit)

    def _exit(self) -> None:
        self.should_exit = True


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"--host {host} --port {port}: {reason}") from error
