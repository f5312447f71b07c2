"""Servers in processes of their own: started, ended with their children, named when they fail."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import httpx2
import pytest

from engines.servers import error_in, free_port, run_server

SERVER = """
import os, subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(child.pid).encode())

HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_server_ends_with_its_block_and_so_do_its_children(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-c", SERVER, str(port)]
    with run_server(command, port, "/health", tmp_path / "log", {}) as server:
        child = int(httpx2.get(server.url).text)
        assert is_running(child)
    assert not is_running(server.process)
    # it is init's to reap, which may take a moment
    for _ in range(1000):
        if not is_running(child):
            break
        time.sleep(0.01)
    assert not is_running(child)


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/stat")
    return not status.is_file() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_server_that_does_not_start_is_an_error_that_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise ValueError('no such architecture')"]
    with (
        pytest.raises(RuntimeError, match="ended with 1: ValueError: no such architecture"),
        run_server(command, free_port(), "/health", tmp_path / "log", {}),
    ):
        pass


def test_of_a_log_the_first_error_counts_else_the_last_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("starting\n(EngineCore) ERROR ValueError: first\nRuntimeError: later\n")
    assert error_in(log) == "ValueError: first"
    log.write_text("starting\nKilled\n")
    assert error_in(log) == "Killed"
    log.write_text("")
    assert error_in(log) == "it wrote nothing"
