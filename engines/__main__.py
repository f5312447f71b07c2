"""`python -m engines`: environments, servers, parity, clients; a page of results (docs/engines.md).

Exit code 1 where something that should agree does not."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from subprocess import CalledProcessError

from bench.machine import describe
from engines import clients
from engines.environments import Environment, build, vllm_binary
from engines.models import ARCHITECTURES, VIEW, make_data, make_model
from engines.page import rewrite
from engines.results import Results, Row, put
from engines.servers import smorm_server
from engines.trl_client import trl_rows
from engines.vllm import parity_with_vllm

VLLM, TRL = "vllm", "trl"
PARTS = (VLLM, "openrlhf", "verl", "llamafactory", TRL)
CLIENT_ARCHITECTURE = "llama"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m engines", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("results/engines"))
    parser.add_argument("--environments", type=Path, default=Path(".engines"))
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument(
        "--architectures", default=",".join(ARCHITECTURES), help="for parity with vLLM"
    )
    parser.add_argument(
        "--client-architecture", default=CLIENT_ARCHITECTURE, help="of the clients' model"
    )
    parser.add_argument(
        "--build", action="store_true", help="build the environments, print vLLM's command, and end"
    )
    options = parser.parse_args(arguments)
    parts = _known(parser, "--only", options.only, PARTS)
    architectures = _known(parser, "--architectures", options.architectures, ARCHITECTURES)
    client_architecture = options.client_architecture
    _known(parser, "--client-architecture", client_architecture, ARCHITECTURES)
    try:
        built = {name: build(options.environments, name) for name in parts if name != TRL}
    except CalledProcessError as error:
        print(f"an environment could not be built: {error}", file=sys.stderr)
        return 2
    if options.build:
        if VLLM in parts:
            print(f"vllm: {vllm_binary(options.environments)}")
        return 0
    run = Run(options.output, built)
    with tempfile.TemporaryDirectory(prefix="smorm-engines-") as folder:
        run.everything(Path(folder), parts, architectures, client_architecture)
    failures = run.results.failures()
    for row in failures:
        print(f"{row.name}, {row.target}, {row.architecture}: {row.outcome}: {row.problem}")
    return int(bool(failures))


def _known(
    parser: argparse.ArgumentParser, option: str, value: str, known: Iterable[str]
) -> list[str]:
    names: list[str] = value.split(",")
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"{option}: unknown {', '.join(unknown)}; known are {', '.join(known)}")
    return names


class Run:
    """A run of some parts, whose rows take the place of an earlier run's; saved after each."""

    def __init__(self, output: Path, built: dict[str, Environment]) -> None:
        self.output, self.built = output, built
        self.results = Results.load(output)
        self.results.machine = describe()
        self.results.versions["smorm"] = _own_versions(self.results.machine)
        for name, environment in built.items():
            self.results.versions[name] = environment.versions()

    def everything(
        self, folder: Path, parts: Sequence[str], architectures: Sequence[str], of_clients: str
    ) -> None:
        """Parity of vLLM on each architecture, and the clients on one of them."""
        data = make_data(folder / "world")
        named = [name for name in parts if name != VLLM]
        model = make_model(folder / of_clients, of_clients, data)
        conversations = clients.make_conversations(data["eval-pairs-ID"])
        expected = clients.expected_scores(model, conversations, folder)

        def ask_all(target: str, url: str) -> None:
            for client in clients.clients_of(target, named):
                row = clients.ask(
                    client, self.built[client.environment], target, url, model, conversations,
                    expected, folder,
                )  # fmt: skip
                self.add(self.results.clients, row)

        if set(named) & set(self.built):
            with smorm_server(model.folder, VIEW, folder / "smorm.log") as server:
                ask_all(clients.SMORM, server.url)
            ask_all(clients.EXPORT, "")
        if TRL in named:
            with smorm_server(model.folder, VIEW, folder / "smorm.log") as server:
                for row in trl_rows(model, server.url, data, folder):
                    self.add(self.results.clients, row)
        if VLLM not in parts:
            return
        binary = vllm_binary(self.built[VLLM].root)
        for name in architectures:
            served = model if name == of_clients else make_model(folder / name, name, data)
            # While the clients' model is served, they are asked, too.
            ask_clients = partial(ask_all, clients.VLLM) if served is model else None
            for row in parity_with_vllm(binary, served, folder, ask_clients):
                self.add(self.results.engines, row)

    def add(self, rows: list[Row], row: Row) -> None:
        """Keep a row, write the files and tell."""
        put(rows, row)
        self.results.save(self.output)
        rewrite(self.output)
        difference = "" if row.difference is None else f" {row.difference:.1e}"
        print(
            f"{row.name}, {row.target}, {row.architecture} {row.options}: {row.outcome}"
            f"{difference} {row.problem}",
            flush=True,
        )


def _own_versions(machine: dict[str, object]) -> dict[str, str]:
    versions = machine["versions"]
    assert isinstance(versions, dict)
    return {name: version for name, version in versions.items() if version}


if __name__ == "__main__":
    sys.exit(main())
