"""A server from its start to its end: SIGTERM flips `/readyz` at once, what was accepted is
answered, and the process exits with 0."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn
import uvloop
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from smorm.errors import ConfigError, Interrupted
from smorm.printing import get_logger
from smorm.serving.app import make_app
from smorm.serving.batcher import Batcher
from smorm.serving.guard import Answer, Guard
from smorm.serving.metrics import Metrics
from smorm.serving.served import served_of
from smorm.serving.service import Service
from smorm.serving.settings import HELD_DEADLINE, ServeOptions
from smorm.serving.worker import Worker

log = get_logger(__name__)

BACKLOG = 2_048
KEEP_ALIVE_SECONDS = 30
_ANSWER_SECONDS = 5.0
# Of Python's lock: under a crowd the thread that answers never rests, and at Python's own 5 ms a
# thread that tokenises would wait so long again and again.
_SWITCH_SECONDS = 0.0005
# Objects made between two collections. Python's own 700 are fewer than one batch makes.
_GARBAGE = 20_000


def serve(options: ServeOptions, host: str, port: int, started: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; `started` is called with the address once it is ready.
    ConfigError: the address is taken; SmormError: a reward does not load, or has no scores;
    Interrupted: a second signal ended it before every request was scored."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    # Bound first: that the port is taken is known before gigabytes are loaded.
    listener = _bind(host, port)
    workers = [Worker(options, device) for device in options.devices]
    try:
        for worker in workers:
            worker.start()
        # In an overload most of the process's time goes to refusals: httptools and uvloop answer
        # several times as many in it as h11 and asyncio.
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            unanswered = runner.run(_serve(options, workers, listener, started))
        if unanswered:
            raise Interrupted(f"stopped before {unanswered} requests were scored")
    finally:
        for worker in workers:
            worker.close()
        listener.close()


async def _serve(
    options: ServeOptions, workers: list[Worker], listener: socket.socket,
    started: Callable[[str], None],
) -> int:  # fmt: skip
    """How many requests were refused at its end."""
    metrics = Metrics()
    served = served_of(workers[0].facts)
    probes = {name: reward.probe() for name, reward in served.items()}
    batcher = Batcher(workers, options.max_batch_tokens, options.limits, metrics, probes)
    service = Service(options, served, batcher, metrics)
    config = uvicorn.Config(
        make_app(service), http=Connection, ws="none", log_level="warning", access_log=False,
        lifespan="off", proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS, timeout_graceful_shutdown=int(HELD_DEADLINE),
        backlog=BACKLOG, server_header=False,
    )  # fmt: skip
    server = _DrainingServer(config, service)
    try:
        await batcher.start()
        # From before the address is told until the last worker has ended.
        with server.capture_signals():
            # What lives as long as the server is not looked through again and again for garbage.
            gc.collect()
            gc.freeze()
            gc.set_threshold(_GARBAGE)
            started(_url(listener))
            await server.serve(sockets=[listener])
            await batcher.stop()
            return await server.refuse_the_rest()
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

    async def refuse_the_rest(self) -> int:
        """Let requests that were not scored get their refusal; how many those are. Only after a
        second signal, or when the longest deadline was over, there are any."""
        tasks = set(self.server_state.tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=_ANSWER_SECONDS)
        return len(tasks)


class Connection(HttpToolsProtocol):
    """A connection that ends where no request has come for a while (to uvicorn every byte of one is
    news, so that a client could hold a connection for ever), that answers a request before it
    refuses what came behind it, and that refuses what has no room before a task is made for it."""

    _idle_after: RequestResponseCycle | bool | None = False  # False: a request was under way
    _refusal: str | None = None  # of what came behind the request under way
    _reading_head = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.loop.call_later(KEEP_ALIVE_SECONDS, self._end_if_idle)

    def _end_if_idle(self) -> None:
        if self.transport.is_closing():
            return
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._idle_after is self.cycle:
            self.transport.close()
            return
        self._idle_after = self.cycle if idle else False
        self.loop.call_later(KEEP_ALIVE_SECONDS, self._end_if_idle)

    def on_headers_complete(self) -> None:
        self._reading_head = True
        super().on_headers_complete()
        self._reading_head = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        # A request that had to wait for the one before it goes the usual way: its answer here would
        # start the next one from within.
        if self._reading_head and isinstance(app, Guard) and not cycle.waiting_for_100_continue:
            answer = app.refuse_early(cycle.scope)
            if answer is not None:
                self._answer_now(cycle, answer)
                return
        super()._start_asgi_task(cycle, app)

    def _answer_now(self, cycle: RequestResponseCycle, answer: Answer) -> None:
        """Write an answer; what comes of the request's body is thrown away by the parser."""
        status, headers, body = answer
        if not cycle.keep_alive:
            headers = [*headers, (b"connection", b"close")]
        lines = [
            name + b": " + value + b"\r\n" for name, value in [*cycle.default_headers, *headers]
        ]
        self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", body]))
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()

    def send_400_response(self, msg: str) -> None:
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and not cycle.more_body:
            self._refusal = msg
            return
        super().send_400_response(msg)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._refusal is not None and self.cycle.response_complete:
            super().send_400_response(self._refusal)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # Bytes that are no text would end `create_server` with its socket open.
        host.encode()
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"--host {host} --port {port}: {reason}") from error
