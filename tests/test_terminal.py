"""The way to the terminal: lines, tables and libraries' prints, and streams that take no more."""

from __future__ import annotations

import ast
import io
import logging
import os
import sys
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from smorm import terminal
from tests.payloads import EVERYTHING, HOSTILE, assert_harmless

PACKAGE = Path(__file__).parents[1] / "src" / "smorm"
# The program itself speaks before and after its verb too; a probe's output is read by its parent.
PRINTERS = {"terminal.py", "cli/main.py", "text/probed.py"}


def ways_out(tree: ast.AST) -> list[tuple[int, str]]:
    """Lines that print, log or warn past the one printer."""
    uses = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        name = called.rpartition(".")[2]
        if called == "print" or name in ("echo", "secho", "Console", "StreamHandler"):
            uses.append((node.lineno, called))
        if called.startswith(("sys.stdout.write", "sys.stderr.write", "warnings.warn")):
            uses.append((node.lineno, called))
        if called == "logging.getLogger" and any(map(_is_name, node.args)):
            uses.append((node.lineno, called))
    return uses


def _is_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "__name__"


@pytest.mark.slow
def test_the_package_prints_through_one_printer():
    uses = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).as_posix() in PRINTERS:
            continue
        for line, called in ways_out(ast.parse(path.read_text(encoding="utf-8"))):
            if called not in ("echo", "terminal.echo"):
                uses.append(f"{path.relative_to(PACKAGE)}:{line}: {called}")
    assert not uses, "\n".join(uses)


def test_the_rule_sees_every_way_out():
    tree = ast.parse(
        "print(1)\ntyper.echo(1)\nrich.console.Console()\nsys.stderr.write('')\n"
        "logging.getLogger(__name__)\nwarnings.warn('')\nlogging.getLogger('httpx')"
    )
    assert [line for line, _ in ways_out(tree)] == [1, 2, 3, 4, 5, 6]


def test_lines_and_tables_hold_no_control_character(capsys):
    terminal.echo(EVERYTHING)
    terminal.echo(EVERYTHING, err=True)
    console = terminal.open_console()
    table = Table(HOSTILE["title"], title=HOSTILE["link"])
    table.add_row(EVERYTHING)
    table.add_row(Text(HOSTILE["clipboard"]))
    console.print(table)
    console.print(Text(HOSTILE["cursor"]))
    console.print("[red]:smile: http://u:pw@h?api_key=k [/red]")
    out, err = capsys.readouterr()
    assert_harmless(out)
    assert_harmless(err)
    assert "[red]:smile: http://***@h?api_key=*** [/red]" in out


class TerminalBytes(io.BytesIO):
    """Bytes of a terminal."""

    def isatty(self) -> bool:
        return True


def stream_of(content: io.BytesIO, encoding: str = "utf-8") -> io.TextIOWrapper:
    return io.TextIOWrapper(content, encoding, write_through=True)


def test_a_terminal_has_our_styles_and_no_others(monkeypatch):
    content = TerminalBytes()
    monkeypatch.setattr(sys, "stdout", stream_of(content))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def work() -> int:
        terminal.open_console().print(Text(HOSTILE["clipboard"] + HOSTILE["colour"], style="bold"))
        sys.stdout.write(HOSTILE["title"] + HOSTILE["direction"])
        return 0

    assert terminal.run_clean(work) == 0
    shown = content.getvalue().decode()
    assert "\x1b[1m" in shown
    assert "\x1b]" not in shown
    assert "\x1b[31m" not in shown
    assert "\u202e" not in shown


def test_bars_of_libraries_move_on_a_terminal_and_are_lines_in_a_log(monkeypatch):
    def work() -> int:
        sys.stderr.write("\rloading 10%")
        sys.stderr.write("\rloading 20%")
        sys.stderr.write("\x1b[A")
        sys.stderr.write("bad\rgood\n")
        return 0

    for content, expected in (
        (TerminalBytes(), "\rloading 10%\rloading 20%\x1b[Abad\ufffdgood\n"),
        (io.BytesIO(), "\nloading 10%\nloading 20%bad\ufffdgood\n"),
    ):
        monkeypatch.setattr(sys, "stderr", stream_of(content))
        terminal.run_clean(work)
        assert content.getvalue().decode() == expected


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_utf_8_gets_escapes(monkeypatch, encoding):
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", stream_of(content, encoding))

    def work() -> int:
        terminal.echo("± 0.1 → 中 \udc80")
        terminal.open_console().print(Table("→", title="中"))
        return 0

    assert terminal.run_clean(work) == 0
    assert b"\\u2192 \\u4e2d \\ufffd\n" in content.getvalue()


def test_a_full_disk_is_one_line_and_an_exit_code(monkeypatch, capsys):
    results = []

    def work() -> int:
        terminal.echo("a line")
        terminal.open_console().print(Table("a table"))
        sys.stdout.write("of a library")
        results.append("written")
        return 0

    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert terminal.run_clean(work) == 1
    assert results == ["written"]
    err = capsys.readouterr().err
    assert err == "error: standard output could not be written: No space left on device\n"


def test_a_closed_pipe_is_an_exit_code(monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert terminal.run_clean(lambda: sys.stdout.write("a line") * 0) == 1
    assert capsys.readouterr().err == ""


def test_a_full_disk_for_errors_ends_no_work(monkeypatch, capsys):
    def work() -> int:
        terminal.echo("note", err=True)
        logging.getLogger("another").warning("note")
        terminal.echo("result")
        return 0

    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert terminal.run_clean(work) == 1
    assert capsys.readouterr().out == "result\n"


def test_the_exit_code_of_the_work_comes_first(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert terminal.run_clean(lambda: sys.stdout.write("a line") * 0 + 3) == 3


def test_closed_streams_are_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert terminal.run_clean(lambda: sys.stderr.write("a line") * 0) == 0


def test_the_streams_are_left_as_they_were(capsys):
    before = sys.stdout, sys.stderr
    with pytest.raises(KeyError):
        terminal.run_clean(lambda: {}["x"])
    assert (sys.stdout, sys.stderr) == before
    sys.stdout.write("goes on\n")
    assert capsys.readouterr().out == "goes on\n"


def test_a_log_record_is_a_message(capsys):
    terminal.Handler().handle(logging.makeLogRecord({"msg": "loading %s", "args": (EVERYTHING,)}))
    err = capsys.readouterr().err
    assert_harmless(err)
    assert "loading" in err
