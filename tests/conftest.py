"""What all tests share: where real data lies, and why a test is skipped."""

from __future__ import annotations

import os
import shutil
import signal
import stat
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("SMORM_DATA", ROOT.parent / "shared" / "data"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So shells start background jobs; processes that tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    # So does nohup.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

_fsync = os.fsync


def _fsync_but_files(descriptor: int) -> None:
    """`os.fsync`, which waits for the disk, of anything but files and folders: of these only a loss
    of power could show it, and all tests together would wait for minutes."""
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        _fsync(descriptor)


os.fsync = _fsync_but_files


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU, a browser or the data folder where there is none, and say so; begin
    with the files that have the most slow tests, so that no process is left alone with one at the
    end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
    for item in items:
        if item.get_closest_marker("data") and not DATA.is_dir():
            item.add_marker(pytest.mark.skip(reason=f"needs the data folder: {DATA} (SMORM_DATA)"))
        if item.get_closest_marker("gpu") and not _has_cuda():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device: there is none here"))
        if item.get_closest_marker("browser") and (absent := _absent_browser()):
            reason = f"needs Debian's packages chromium and chromium-driver: {absent} is not there"
            item.add_marker(pytest.mark.skip(reason=reason))


def _absent_browser() -> str | None:
    return next((name for name in ("chromium", "chromedriver") if not shutil.which(name)), None)


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture
def data_folder() -> Path:
    """The real data; use it with the mark `data`."""
    return DATA
