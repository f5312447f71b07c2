"""The C heap keeps what is freed: measured in processes of their own, by their page faults."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, sys
import torch
from smorm.model.device import keep_freed_memory
torch.set_num_threads(1)
told = keep_freed_memory()
def step():
    for _ in range(4):
        parts = [torch.ones(10_000_000) for _ in range(3)]  # 40 MB each
        del parts
step(); step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment: str) -> tuple[bool, int]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", STEPS],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    told, count = done.stdout.split()
    return told == "True", int(count)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_a_step_that_repeats_faults_no_page_again() -> None:
    told, count = faults()
    assert told
    assert count < 500
    told, count = faults(SMORM_KEEP_MEMORY="0")
    assert not told
    assert count > 5_000  # 40 MB are some 10,000 pages


@pytest.mark.slow
def test_the_user_s_own_settings_stand() -> None:
    assert faults(MALLOC_TRIM_THRESHOLD_="131072")[0] is False
