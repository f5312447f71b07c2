"""Real servers on loopback: in a thread of this process, with real workers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import uvicorn

from smorm.serving.app import make_app
from smorm.serving.batcher import Batcher
from smorm.serving.metrics import Metrics
from smorm.serving.run import Connection
from smorm.serving.served import served_of
from smorm.serving.service import Service
from smorm.serving.settings import ServeOptions
from smorm.serving.worker import Worker


@dataclass
class Running:
    """A server, and what it is made of."""

    url: str
    service: Service
    workers: list[Worker]
    client: httpx2.Client

    def post(self, path: str, body: Any, **more: Any) -> Any:
        """The answer's JSON; the status must be 200."""
        response = self.client.post(path, json=body, **more)
        assert response.status_code == 200, response.text
        return response.json()


def _listener() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    # As uvloop does it, and asyncio not for such a socket: an answer in two parts would wait 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


@contextlib.contextmanager
def running(options: ServeOptions) -> Iterator[Running]:
    """A server until the block ends."""
    workers = [Worker(options, device) for device in options.devices]
    for worker in workers:
        worker.start()
    listener = _listener()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    made: list[Service] = []
    servers: list[uvicorn.Server] = []
    up = threading.Event()

    async def main() -> None:
        metrics = Metrics()
        served = served_of(workers[0].facts)
        probes = {name: reward.probe() for name, reward in served.items()}
        batcher = Batcher(workers, options.max_batch_tokens, options.limits, metrics, probes)
        service = Service(options, served, batcher, metrics)
        config = uvicorn.Config(
            make_app(service),
            http=Connection,
            log_level="warning",
            access_log=False,
            lifespan="off",
            proxy_headers=False,
        )
        server = uvicorn.Server(config)
        made.append(service)
        servers.append(server)
        await batcher.start()
        up.set()
        await server.serve(sockets=[listener])
        await batcher.stop()
        service.close()

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    assert up.wait(60)
    token = options.tokens[0] if options.tokens else "none"
    headers = {"Authorization": f"Bearer {token}"}
    with httpx2.Client(base_url=url, headers=headers, timeout=200) as client:
        while not servers[0].started:
            threading.Event().wait(0.01)
        try:
            yield Running(url, made[0], workers, client)
        finally:
            servers[0].should_exit = True
            thread.join(30)


@contextlib.contextmanager
def listening(app: Any) -> Iterator[str]:
    """The address of an app of the test's own, until the block ends."""
    listener = _listener()
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
