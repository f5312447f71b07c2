"""The README's picture of the playground, with real scores.

    make demo
    python -m tools.playground_screenshot demo/models/SMORM --output docs/playground.png

The prompt and its answers are of the generated world, which the demo's models know. `--width 390`
and `--scheme dark` make the other pictures that a change of the page is judged by.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tools.browser import browser, resize, set_scheme

PROMPT = "fabrics full wool cotton silk"
# All facts in order; all words but two facts; one fact alone.
ANSWERS = (
    "wool quiet because snow . cotton bright because sand . silk flat because seed .",
    "truly clearly wool quiet because pressure . rather really cotton yellow . silk yellow .",
    "wool quiet because snow .",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--scheme", choices=["light", "dark"], default="light")
    settings = parser.parse_args()
    command = [sys.executable, "-m", "smorm.cli.main", "serve", f"SMORM={settings.model}"]
    with subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = re.search(r"http://\S+", server.stdout.readline())
            if url is None:
                raise SystemExit("the server did not start")
            with browser() as driver:
                set_scheme(driver, settings.scheme)
                resize(driver, settings.width, 900)
                photograph(driver, url[0], settings.output)
        finally:
            server.terminate()


def photograph(driver: Chrome, url: str, output: Path) -> None:
    """Compare the example's answers, and write the whole page as a PNG."""
    driver.get(url)
    driver.find_element(By.ID, "add").click()
    fields = driver.find_elements(By.CSS_SELECTOR, "#turns .user, .answer textarea")
    for field, text in zip(fields, (PROMPT, *ANSWERS), strict=True):
        field.clear()
        field.send_keys(text)
    driver.find_element(By.ID, "go").click()
    verdict = driver.find_element(By.ID, "verdict")
    WebDriverWait(driver, 60).until(lambda _: verdict.is_displayed())
    driver.execute_script("document.activeElement.blur()")
    resize(driver, *driver.execute_script("return [innerWidth, document.body.scrollHeight]"))
    driver.save_screenshot(str(output))


if __name__ == "__main__":
    main()
