"""A real browser without a window: Debian's packages `chromium` and `chromium-driver`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

# Chromium would ask its maker's servers for updates and lists at every start.
_ARGUMENTS = """
--headless=new --disable-gpu --no-first-run --hide-scrollbars --disable-background-networking
--disable-component-update --disable-sync --disable-quic --force-color-profile=srgb
--no-sandbox --disable-dev-shm-usage
"""


@contextmanager
def browser() -> Iterator[Chrome]:
    """A browser until the block ends; its logs hold every request and every message."""
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for argument in _ARGUMENTS.split():
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = Chrome(options, Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def resize(driver: Chrome, width: int, height: int) -> None:
    """The page's size in CSS pixels; as a phone's below 500."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def set_scheme(driver: Chrome, scheme: str) -> None:
    """What the system prefers: `light` or `dark`."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
