"""The clients load where a trainer's environment lacks what this package else needs: verl 0.9 pins
transformers below 5.11, so that only `pip install --no-deps` puts both into one environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

ALLOWED = {"httpx2", "numpy", "orjson", "safetensors", "tenacity"}
# Refuses every other installed package, but what the allowed ones import themselves.
PROGRAM = """
import sys
from importlib.metadata import packages_distributions

ours, allowed = set(packages_distributions()), {allowed}
class Only:
    def find_spec(self, name, path=None, target=None):
        top, caller = name.partition(".")[0], sys._getframe(1)
        while caller.f_globals.get("__name__", "").startswith("importlib"):
            caller = caller.f_back
        by_us = str(caller.f_globals.get("__name__", "")).partition(".")[0] in ("smorm", "__main__")
        if by_us and top in ours and top not in allowed | {{"smorm"}}:
            raise ImportError(f"{{caller.f_globals['__name__']}} imports {{name}}")
sys.meta_path.insert(0, Only())
import {module}
{use}
heavy = {{"torch", "transformers", "datasets", "pyarrow", "scipy", "pandas", "pydantic"}}
print(sorted(heavy & set(sys.modules)))
"""
USES = {
    "smorm.client": "from smorm.data.items import conversations_of\n"
    "assert len(conversations_of({'prompt': 'a', 'responses': ['b', 'c']})) == 2",
    "smorm.verl": "assert smorm.verl.compute_score",
}


@pytest.mark.parametrize("module", list(USES))
def test_a_client_imports_no_more_than_it_says(module: str, tmp_path: Path) -> None:
    program = PROGRAM.format(module=module, use=USES[module], allowed=ALLOWED)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
