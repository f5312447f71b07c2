"""Limits: their settings, what a refusal says, and the page that lists them."""

from functools import partial
from pathlib import Path

import pytest

from smorm.client.transport import read_token
from smorm.config import load_config
from smorm.errors import ConfigError, DataError
from smorm.files import read_json
from smorm.limits import LIMITS, limit, read_limited, refusal, refuse_unknown_settings, setting
from smorm.text.tokenizers import read_template

PAGE = Path(__file__).parents[1] / "docs" / "limits.md"


def test_every_limit_is_on_the_page_with_its_default_and_setting() -> None:
    expected = []
    for name, about in LIMITS.items():
        default = about.shown(about.default)
        expected.append(f"| `{setting(name)}` | {default} | {about.bounds} |")
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `SMORM_")]
    assert rows == expected


@pytest.mark.parametrize(
    ("text", "amount"),
    [("64MiB", 64 << 20), ("1_000", 1000), (" 2 gb ", 2 * 10**9), ("1,024k", 1 << 20), ("7", 7)],
)
def test_a_setting_raises_its_limit(
    monkeypatch: pytest.MonkeyPatch, text: str, amount: int
) -> None:
    monkeypatch.setenv("SMORM_LIMIT_LINE_BYTES", text)
    assert limit("line_bytes") == amount


@pytest.mark.parametrize("text", ["", "0", "-1", "many", "1e3", "1.5GB", "64 MiBs", "9" * 30, "_"])
def test_a_setting_that_holds_no_amount_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("SMORM_LIMIT_LINE_BYTES", text)
    with pytest.raises(ConfigError, match=r"SMORM_LIMIT_LINE_BYTES: .*above 0, such as 64MiB"):
        limit("line_bytes")
    with pytest.raises(ConfigError, match="SMORM_LIMIT_LINE_BYTES"):
        refuse_unknown_settings()


def test_a_count_has_no_unit_of_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMORM_LIMIT_DEPTH", "1k")
    with pytest.raises(ConfigError, match="an amount of levels"):
        limit("depth")


def test_a_setting_of_no_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMORM_LIMIT_LINEBYTES", "1GiB")
    with pytest.raises(ConfigError, match=r"LINEBYTES: no limit.*mean SMORM_LIMIT_LINE_BYTES\?"):
        refuse_unknown_settings()


def test_a_refusal_names_the_amount_the_limit_and_the_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = "over the limit of 32 MiB a line; SMORM_LIMIT_LINE_BYTES raises it"
    assert refusal("line_bytes") == said
    monkeypatch.setenv("SMORM_LIMIT_ATTRIBUTES", "1500")
    said = "2,000 attributes, over the limit of 1,500 attributes; SMORM_LIMIT_ATTRIBUTES raises it"
    assert refusal("attributes", 2000) == said


def test_an_endless_file_is_read_up_to_the_limit() -> None:
    with pytest.raises(DataError, match=r"^/dev/zero: over the limit of 256 KiB a config; SMORM"):
        read_limited("/dev/zero", "config_bytes")


def test_a_result_file_that_never_ends_is_refused() -> None:
    with pytest.raises(ConfigError, match="/dev/zero: over the limit of 64 MiB a JSON file"):
        read_json("/dev/zero", ConfigError)


def test_a_file_of_exactly_the_limit_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMORM_LIMIT_TEMPLATE_BYTES", "5")
    (tmp_path / "a").write_text("12345", "utf-8")
    assert read_limited(tmp_path / "a", "template_bytes") == b"12345"


def test_no_file_that_a_user_names_is_read_without_end(tmp_path: Path) -> None:
    endless = Path("/dev/zero")
    for read in (read_token, partial(read_template, named="--chat-template"), load_config):
        with pytest.raises(ConfigError, match="/dev/zero: over the limit of"):
            read(endless)
