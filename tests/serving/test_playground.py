"""The playground in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("selenium", reason="the pages' tests need selenium: pip install -e '.[dev]'")

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from smorm.serving import pages, schema
from smorm.serving.settings import Limits, ServeOptions
from tests.serving.conftest import FAULTY
from tests.serving.servers import Running, listening, running
from tools.browser import browser, resize, set_scheme

pytestmark = pytest.mark.browser
TOKEN = "a-token-of-the-test"
HOSTILE = """<img src=x onerror="window.hit=1"><script>window.hit=1</script>"""


@pytest.fixture(scope="module")
def driver() -> Iterator[Chrome]:
    with browser() as one:
        yield one


class Page:
    """The playground, with the words of its readers."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, url: str, width: int = 1280, scheme: str = "light") -> Page:
        resize(self.driver, width, 860)
        set_scheme(self.driver, scheme)
        self.driver.get(url)
        self.driver.execute_script("sessionStorage.clear()")
        self.driver.get_log("performance")
        self.driver.get_log("browser")
        self.driver.get(url)
        self.wait(lambda: "Asking" not in self.text("about"))
        return self

    def find(self, name: str) -> WebElement:
        return self.driver.find_element(By.ID, name)

    def text(self, name: str) -> str:
        return self.find(name).text

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def wait(self, condition: Any) -> None:
        WebDriverWait(self.driver, 60, 0.05).until(lambda _: condition())

    def keys(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def with_key(self, held: str, key: str) -> None:
        ActionChains(self.driver).key_down(held).send_keys(key).key_up(held).perform()

    def write(self, name: str, text: str) -> None:
        element = self.find(name)
        element.clear()
        element.send_keys(text)

    def paste(self, name: str, text: str) -> None:
        self.driver.execute_script("arguments[0].value = arguments[1]", self.find(name), text)

    def choose_model(self, name: str) -> None:
        Select(self.find("model")).select_by_value(name)

    def compare(self) -> None:
        self.find("go").click()
        self.wait(lambda: self.text("go") == "Compare")

    def values(self, answer: int) -> dict[str, float]:
        """Numbers that the card of an answer shows, by their names' first word."""
        rows = self.all(f".answer:nth-child({answer}) .measures tr")
        cells = [row.text.split() for row in rows]
        return {cell[0]: float(cell[-1].replace("−", "-")) for cell in cells}


@pytest.fixture
def page(driver: Chrome, server: Running) -> Page:
    one = Page(driver).open(server.url)
    one.choose_model("joint")
    return one


def expected(server: Running, responses: list[str], prompt: Any) -> Any:
    body = {"model": "joint", "prompt": prompt, "responses": responses, "views": ["F", "L", "M"]}
    return server.post("/v1/compare", body)


def test_scores_winner_and_margin_are_the_servers(page: Page, server: Running) -> None:
    page.write("answer-1", "The Nile.")
    page.write("answer-2", "I cannot say, and I will not say, and so on.")
    page.compare()
    prompt = [{"role": "user", "content": "What is the capital of France?"}]
    responses = ["The Nile.", "I cannot say, and I will not say, and so on."]
    answer = expected(server, responses, prompt)
    row = {"prompt": prompt, "responses": responses}
    scored = server.post("/v1/score", {"model": "joint", "items": [row], "views": ["F", "L", "M"]})
    for index, response in enumerate(scored["items"][0]["responses"]):
        values = {**response["views"], **response["attributes"]}
        assert page.values(index + 1) == pytest.approx(values, abs=6e-4)
        note = page.all(f".answer:nth-child({index + 1}) .note")[0].text
        assert f"{response['tokens']} tokens" in note
        assert "nothing was cut" in note
    for view in "FLM":
        Select(page.find("view")).select_by_value(view)
        verdict = answer["views"][view]
        headline = f"Answer {verdict['best'] + 1} wins by {verdict['margin']:.3f}"
        assert page.text("headline") == headline
        assert f"{view} (" in page.text("detail")
        best = page.all(".answer.best")
        assert [card.find_element(By.TAG_NAME, "label").text for card in best] == [
            f"Answer {verdict['best'] + 1}"
        ]
    first = answer["probability"]
    shown = first if answer["views"]["M"]["best"] == 0 else 1 - first
    assert f"{100 * shown:.1f} %" in page.text("detail")


def test_bars_reach_as_far_as_the_values(page: Page, server: Running) -> None:
    page.compare()
    info = server.client.get("/v1/info").json()["models"]["joint"]
    for index in (1, 2):
        values = page.values(index)
        rows = page.all(f".answer:nth-child({index}) .measures[aria-label=Attributes] tr")
        for row in rows:
            name = row.find_element(By.TAG_NAME, "th").text
            track = row.find_element(By.CLASS_NAME, "track")
            fill = row.find_element(By.CLASS_NAME, "fill")
            low, high = (float(text.replace("−", "-")) for text in
                         re.findall(r"[−\d.]+", track.get_attribute("title"))[:2])  # fmt: skip
            scale = info["scales"][name]
            assert (low + high) / 2 == pytest.approx(scale["mean"], abs=1e-3)
            assert high - low >= 5 * scale["scale"] - 2e-3
            share = abs(values[name] - scale["mean"]) / (high - low)
            width = fill.rect["width"] / track.rect["width"]
            assert width == pytest.approx(share, abs=0.02)


@pytest.mark.slow
def test_best_of_n_turns_and_a_system_message(page: Page, server: Running) -> None:
    texts = ["one", "two two two", "", "three, and a half", "zinc"]
    for _ in range(3):
        page.find("add").click()
    for index, text in enumerate(texts):
        page.write(f"answer-{index + 1}", text)
    page.write("system", "Be brief.")
    page.find("add-turn").click()
    page.all("#turns .assistant")[0].send_keys("Paris.")
    page.all("#turns .user")[1].send_keys("And of Italy?")
    page.compare()
    prompt = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "Paris."},
        {"role": "user", "content": "And of Italy?"},
    ]
    verdict = expected(server, texts, prompt)["views"]["M"]
    best, second = (index + 1 for index in verdict["order"][:2])
    assert page.text("headline") == (
        f"Best of 5: answer {best}, {verdict['margin']:.3f} ahead of answer {second}"
    )
    order = " › ".join(str(index + 1) for index in verdict["order"])
    assert order in page.text("views")
    badges = [badge.text for badge in page.all(".answer .badge")]
    assert [badge.startswith("Best") for badge in badges].index(True) == best - 1
    page.all(".answer button")[0].click()
    assert len(page.all(".answer")) == 4
    assert page.find("stale").is_displayed()
    labels = [label.text for label in page.all(".answer label")]
    assert labels == ["Answer 1", "Answer 2", "Answer 3", "Answer 4"]


def test_the_history_restores_texts_and_scores(page: Page) -> None:
    page.write("answer-1", "first text")
    page.compare()
    headline, values = page.text("headline"), page.values(1)
    page.write("system", "Another system.")
    page.write("answer-1", "second text")
    page.find("add").click()
    page.compare()
    assert page.text("headline") != headline
    entries = page.all("#history button")
    assert len(entries) == 2
    entries[1].click()
    assert page.text("headline") == headline
    assert page.values(1) == values
    assert page.find("answer-1").get_attribute("value") == "first text"
    assert page.find("system").get_attribute("value") == ""
    assert len(page.all(".answer")) == 2
    assert not page.find("stale").is_displayed()
    page.find("answer-1").send_keys(" more")
    assert page.find("stale").is_displayed()


def focused(page: Page) -> str:
    element = page.driver.switch_to.active_element
    return element.get_attribute("id") or element.text


def test_all_of_it_by_keyboard(page: Page) -> None:
    page.driver.execute_script("document.activeElement.blur()")
    stops = []
    while "go" not in stops:
        page.keys(Keys.TAB)
        stops.append(focused(page))
        assert len(stops) < 30, stops
    for name in ("theme", "model", "system", "add-turn", "shorten", "answer-1", "answer-2"):
        assert name in stops
    page.keys(Keys.ENTER)
    page.wait(lambda: page.find("verdict").is_displayed())
    page.with_key(Keys.ALT, "a")
    assert focused(page) == "answer-3"
    page.keys("typed, not clicked")
    page.with_key(Keys.CONTROL, Keys.ENTER)
    page.wait(lambda: "Best of 3" in page.text("headline"))
    page.with_key(Keys.ALT, "m")
    assert page.driver.switch_to.active_element == page.all("#turns .assistant")[0]
    page.all("#turns button")[0].send_keys(Keys.SPACE)
    assert page.all("#turns .assistant") == []
    page.all("#history button")[1].send_keys(Keys.ENTER)
    page.wait(lambda: "wins by" in page.text("headline"))


def test_every_field_and_button_has_a_name(page: Page) -> None:
    page.compare()
    names = page.driver.execute_script("""
        return [...document.querySelectorAll("input, textarea, select, button")].map((one) =>
            one.getAttribute("aria-label") || one.labels?.[0]?.textContent || one.textContent)""")
    assert all(name.strip() for name in names), names
    ids = page.driver.execute_script(
        "return [...document.querySelectorAll('[id]')].map((one) => one.id)"
    )
    assert len(ids) == len(set(ids))


def test_what_is_pasted_stays_text(page: Page) -> None:
    for name in ("system", "answer-1", "answer-2"):
        page.write(name, HOSTILE)
    page.all("#turns .user")[0].send_keys(HOSTILE)
    page.compare()
    assert page.find("verdict").is_displayed()
    assert HOSTILE[:20] in page.text("history")
    assert page.driver.execute_script("return window.hit") is None
    assert page.all("main img, main script") == []


def requests_of(page: Page) -> list[str]:
    """Addresses that the browser asked for since the page was opened."""
    addresses = []
    for entry in page.driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            addresses.append(message["params"]["request"]["url"])
    return addresses


def test_nothing_is_asked_of_another_host(page: Page, server: Running) -> None:
    page.compare()
    addresses = requests_of(page)
    assert f"{server.url}/v1/compare" in addresses
    strangers = [one for one in addresses if not one.startswith((server.url + "/", "data:"))]
    assert strangers == []
    assert page.driver.get_log("browser") == []


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_policy_lets_nothing_in(page: Page, server: Running, path: str) -> None:
    policy = server.client.get(path).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    page.open(server.url + path)
    page.driver.execute_script("""
        const script = document.createElement("script");
        script.textContent = "window.hit = 1";
        document.body.append(script);""")
    outside = page.driver.execute_async_script("""
        const done = arguments[0];
        fetch("http://127.0.0.1:9/").then(() => done("sent"), (error) => done(error.name));""")
    assert outside == "TypeError"
    assert page.driver.execute_script("return window.hit") is None
    said = " ".join(entry["message"] for entry in page.driver.get_log("browser"))
    assert "script-src" in said
    assert "connect-src" in said


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/", "/docs"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(
    driver: Chrome, server: Running, path: str, scheme: str
) -> None:
    page = Page(driver).open(server.url + path, 390, scheme)
    if path == "/":
        page.choose_model("joint")
        page.write("answer-1", "w" * 300)
        page.find("add").click()
        page.compare()
    assert driver.execute_script("return document.documentElement.scrollWidth") == 390
    low, high = sorted((luminance(page, "color"), luminance(page, "background-color")))
    assert (high + 0.05) / (low + 0.05) > 7
    assert (luminance(page, "background-color") < 0.1) == (scheme == "dark")
    soft = luminance(page, "color", ".soft")
    card = luminance(page, "background-color", ".bar-top")
    assert (max(soft, card) + 0.05) / (min(soft, card) + 0.05) > 4.5


def luminance(page: Page, name: str, selector: str = "body") -> float:
    """Relative luminance of a colour, as WCAG 2 defines it."""
    value = page.all(selector)[0].value_of_css_property(name)
    channels = [int(text) / 255 for text in re.findall(r"\d+", value)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_theme_can_be_chosen(page: Page) -> None:
    page.find("theme").click()
    page.find("theme").click()
    assert page.text("theme") == "Theme: dark"
    assert luminance(page, "background-color") < 0.1
    page.driver.refresh()
    page.wait(lambda: page.text("theme") == "Theme: dark")
    assert luminance(page, "background-color") < 0.1


def test_a_bad_answer_is_told_in_its_place(page: Page) -> None:
    page.find("add").click()
    page.paste("answer-3", "far too long " * 200)
    page.compare()
    problems = [card.text for card in page.all(".answer .problem")]
    assert len(problems) == 1
    assert "limit of 256 tokens" in problems[0]
    assert page.values(1)
    assert page.values(2)
    assert "wins by" in page.text("headline")
    page.choose_model("faulty")
    page.write("answer-1", "raise")
    page.compare()
    (problem,) = page.all(".answer:first-child .problem")
    assert "Not scored" in problem.text


def test_a_long_conversation_is_shortened_or_refused_as_one_chooses(page: Page) -> None:
    page.driver.execute_script(
        "arguments[0].value = 'word '.repeat(300)", page.all("#turns .user")[0]
    )
    page.compare()
    assert "shortened to 256 tokens" in page.all(".answer .note")[0].text
    page.find("shorten").click()
    page.compare()
    assert len(page.all(".answer .problem")) == 2
    assert not page.find("verdict").is_displayed()


def test_another_reward_of_the_server_is_one_number(page: Page) -> None:
    page.choose_model("faulty")
    page.write("answer-1", "four")
    page.write("answer-2", "nine chrs")
    page.compare()
    assert page.text("headline") == "Answer 2 wins by 5.000"
    assert page.values(1) == {"faulty": 4.0}


@pytest.mark.slow
def test_the_token_is_asked_once_and_stands_in_no_address(driver: Chrome) -> None:
    sections = {"length": {"function": FAULTY}}
    limits = Limits(items=8)
    with running(ServeOptions(sections, tokens=(TOKEN,), limits=limits)) as server:
        page = Page(driver)
        resize(driver, 1280, 860)
        driver.get(server.url)
        page.wait(lambda: page.find("token-form").is_displayed())
        assert page.text("error") == "This server needs a token."
        assert focused(page) == "token"
        page.keys("wrong", Keys.ENTER)
        page.wait(lambda: page.text("error") == "The server does not know this token.")
        page.keys(TOKEN, Keys.ENTER)
        page.wait(lambda: "length" in page.text("about"))
        assert not page.find("token-form").is_displayed()
        page.compare()
        assert "wins by" in page.text("headline")
        driver.refresh()
        page.wait(lambda: "length" in page.text("about"))
        driver.get(server.url + "/docs")
        page.wait(lambda: page.all(".route"))
        assert not any(TOKEN in address for address in requests_of(page))
        page.find("forget").click()
        page.wait(lambda: page.find("token-form").is_displayed())


WORDS = {
    "404": "The server has no such model: no such model; there are chat, code.",
    "413": "This is too much for one request: over the limit of 8,388,608 bytes.",
    "422": "The server cannot read the request: Field required (field prompt).",
    "429": "The server is busy: 2048 items wait already. Try again in 3 s.",
    "503": "The server is stopping, and takes nothing new.",
    "504": "It took too long: the deadline came before there was room.",
    "502": "What answered is not this server: status 502.",
}


def refusing() -> FastAPI:
    """The pages before a server that answers with the status that the first answer names."""
    app = FastAPI()
    app.include_router(pages.routes())

    @app.get("/v1/info")
    async def info() -> Any:
        model = {"rows": [], "scales": {}, "views": ["x"], "default_view": "x", "max_tokens": None}
        return {"models": {"x": model}, "limits": {"items": 3}}

    @app.post("/v1/compare")
    async def compare(body: dict[str, Any]) -> Response:
        status = int(body["responses"][0])
        if status == 502:
            return Response("<h1>Bad gateway</h1>", status, media_type="text/html")
        content = schema.SCORING_ERRORS[status]["content"]["application/json"]["example"]
        error = {**content["error"], "field": "prompt" if status == 422 else None}
        headers = {"Retry-After": "3"} if status == 429 else None
        return JSONResponse({"error": error}, status, headers)

    return app


@pytest.mark.slow
def test_refusals_are_told_in_words(driver: Chrome) -> None:
    with listening(refusing()) as url:
        page = Page(driver).open(url)
        for status, words in WORDS.items():
            page.write("answer-1", status)
            page.compare()
            assert page.text("error") == words
            assert not page.find("verdict").is_displayed()
        assert page.find("add").is_enabled()
        page.find("add").click()
        assert not page.find("add").is_enabled()


def test_a_server_that_stopped_is_told_in_words(driver: Chrome) -> None:
    with running(ServeOptions({"length": {"function": FAULTY}})) as server:
        page = Page(driver).open(server.url)
        page.compare()
        headline = page.text("headline")
        assert "wins by" in headline
    page.compare()
    assert page.text("error") == "The server does not answer. Is it still running?"
    assert page.text("headline") == headline


@pytest.mark.slow
def test_the_api_page_shows_and_tries_every_route(page: Page, server: Running) -> None:
    page.open(server.url + "/docs")
    described = server.client.get("/openapi.json").json()
    paths = [row.text for row in page.all(".route h3 code")]
    assert sorted(paths) == sorted(described["paths"])
    shapes = {card.get_attribute("id") for card in page.all("section[id^=shape-]")}
    links = {
        link.get_attribute("href").partition("#")[2] for link in page.all("#reference a[href*='#']")
    }
    assert links <= shapes
    (card,) = [one for one in page.all(".route") if "/v1/compare" in one.text.split("\n")[0]]
    card.find_element(By.CSS_SELECTOR, ":scope > details:last-child > summary").click()
    area = card.find_element(By.TAG_NAME, "textarea")
    body = {"model": "joint", **json.loads(area.get_attribute("value"))}
    area.clear()
    area.send_keys(json.dumps(body))
    (button,) = [one for one in card.find_elements(By.TAG_NAME, "button") if one.text == "Send"]
    button.click()
    status = card.find_element(By.CSS_SELECTOR, "[role=status]")
    page.wait(lambda: status.text.startswith("200"))
    answer = json.loads(card.find_element(By.CSS_SELECTOR, ".stack > pre").text)
    assert answer["views"]["M"]["margin"] == pytest.approx(
        server.post("/v1/compare", body)["views"]["M"]["margin"], abs=1e-5
    )
    strangers = [one for one in requests_of(page) if not one.startswith((server.url, "data:"))]
    assert strangers == []
