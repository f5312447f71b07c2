"""What people are shown: no control characters, no secrets, nothing endless."""

from __future__ import annotations

import csv
import io
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smorm import printing
from smorm.errors import ConfigError, first_line
from tests.payloads import EVERYTHING, HOSTILE, assert_harmless


@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_message_drives_no_terminal_and_fills_no_screen(name):
    shown = printing.message(f"before {HOSTILE[name]} after")
    assert_harmless(shown, longest=500)
    assert shown.startswith("before ")
    assert shown.endswith(" after")


@given(st.text(alphabet=st.characters(codec=None), max_size=200))
def test_cleaning_is_done_once_and_for_all(text):
    shown = printing.message(text)
    assert_harmless(shown)
    assert printing.message(shown) == shown
    shown.encode("utf-8")


def test_writing_of_all_scripts_stays_as_it_is():
    text = "naïve Ωμέγα سلام می\u200cروم हिन्दी 中文 👩\u200d🔬 \t tab\nline"
    assert printing.message(text) == text


def test_lines_end_as_on_any_system():
    assert printing.clean("one\r\ntwo\rthree") == "one\ntwo\ufffdthree"


SECRETS = {
    "password": ("ftp://user:pa55@host/x", "ftp://***@host/x", "pa55"),
    "user": ("https://ghost@host", "https://***@host", "ghost"),
    "two": ("http://a:b@h http://c:d@i", "http://***@h http://***@i", "b@"),
    "key": ("http://h/v1?api_key=abc1&view=F", "http://h/v1?api_key=***&view=F", "abc1"),
    "signature": ("http://h?a=1&X-Amz-Signature=ff00", "http://h?a=1&X-Amz-Signature=***", "ff00"),
    "token": ("/v1?access_token=q%2Fw", "/v1?access_token=***", "q%2Fw"),
    "json": ('{"api_key": "abc1"}', '{"api_key": "***"}', "abc1"),
    "header": ("Authorization: Bearer abc.def1", "Authorization: Bearer ***", "abc"),
    "basic": ("authorization: basic dXNlcjpwdw==", "authorization: basic ***", "dXN"),
    "bearer": ("sent 'Bearer abcdefg1'", "sent 'Bearer ***'", "abcdefg1"),
    "hub": ("hf_AbCdEfGh12345678 is wrong", "hf_*** is wrong", "AbCd"),
    "openai": ("sk-proj-abcDEF0123456789", "sk-***", "abcDEF"),
    "github": ("ghp_0123456789abcdefABCDEF", "ghp_***", "0123"),
    "web token": ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", "eyJ***", "c2ln"),
}


@pytest.mark.parametrize("name", list(SECRETS))
def test_a_secret_is_known_by_where_it_stands(name):
    text, expected, secret = SECRETS[name]
    assert printing.redact(text) == expected
    assert secret not in str(ConfigError(f"{text}: not usable"))


@pytest.mark.parametrize(
    "text",
    [
        "the file with the server's bearer token.",
        "data.max_tokens=256 training.seed=1",
        "runs/sk-learn/model hf_transfer http://localhost:8000/v1/score user@example.org",
        "pad token: 5, password: put a token into a file",
    ],
)
def test_what_is_no_secret_stays(text):
    assert printing.redact(text) == text


def test_a_secret_that_the_process_uses_is_hidden_wherever_it_stands():
    printing.keep_secret("tr0ub4dor/&3 horse")
    printing.keep_secret("wort7")
    shown = printing.message("no tr0ub4dor/&3 horse, tr0ub4dor%2F%263%20horse; wort7, antwort7s")
    assert shown == "no ***, ***; ***, antwort7s"
    printing.keep_secret("")
    printing.keep_secret("1")
    assert printing.redact("1 of 1") == "1 of 1"


def test_half_a_secret_is_not_shown_where_a_value_is_shortened():
    printing.keep_secret("correct-horse-battery-staple")
    for before in range(100, 240):
        shown = printing.shorten("x" * before + " correct-horse-battery-staple " + "y" * 300)
        assert "horse" not in shown


@pytest.mark.parametrize("length", [0, 199, 200, 201, 5_000, 300_000])
def test_a_shortened_value_has_its_ends_and_no_more_than_the_limit(length):
    value = "".join(chr(97 + index % 26) for index in range(length))
    shown = printing.shorten(value)
    assert len(shown) <= 200
    assert (shown == value) == (length <= 200)
    assert shown[:20] == value[:20]
    assert shown[-20:] == value[-20:]


def test_an_error_of_any_value_is_bounded():
    for value in ("x" * 1_000_000, "word " * 100_000, "line\n" * 100_000, EVERYTHING * 100):
        assert len(str(ConfigError(f"key: {value}: not usable"))) <= printing.ERROR
        assert str(ConfigError(f"key: {value}: not usable")).endswith("not usable")
        assert_harmless(str(ConfigError(value)), longest=printing.ERROR)
        assert len(first_line(ValueError(value))) <= 300


def test_an_address_is_shown_without_its_secrets():
    address = printing.address_of("https://me:pw@host:81/a?api_key=k#part")
    assert address == "https://host:81/a"
    assert printing.address_of("http://localhost:8000") == "http://localhost:8000"
    assert "pw" not in printing.address_of("http://me:pw@[::1")


@pytest.mark.parametrize("mark", "?&;#")
def test_a_token_in_an_address_is_hidden_wherever_it_stands(mark):
    assert "hunter2" not in printing.printable(f"http:/host:9/{mark}token=hunter2: no such file")


def test_files_have_addresses_without_secrets_and_everything_else_as_it_is():
    values = {"url": "http://h?key=k", "list": ["s3://me:pw@h", "runs/hf_0123456789abcdef"], "n": 1}
    assert printing.without_secrets(values) == {
        "url": "http://h?key=***",
        "list": ["s3://***@h", "runs/hf_0123456789abcdef"],
        "n": 1,
    }


def test_a_library_users_log_is_clean_too(caplog):
    logger = printing.get_logger("smorm.test_printing")
    assert printing.get_logger("smorm.test_printing") is logger
    with caplog.at_level(logging.INFO):
        logger.info("attribute %s of %s", HOSTILE["clipboard"], "http://u:pw@h")
        logger.info("100 % of it")
    first, second = caplog.messages
    assert_harmless(first)
    assert "pw" not in first
    assert second == "100 % of it"


@given(st.text(alphabet="'=+-@\t\r\n,\"ab1. ", max_size=8))
def test_a_cell_of_a_csv_file_is_read_as_it_was_written(text):
    stream = io.StringIO()
    csv.writer(stream).writerow([printing.csv_cell(text), "end"])
    ((cell, _),) = csv.reader(io.StringIO(stream.getvalue(), newline=""))
    assert printing.text_of_cell(cell) == text


@pytest.mark.parametrize("text", ["=1+1", "+1+cmd|x", "-a", "@SUM(A1)", "\t=1", "\r=1", "'=1"])
def test_a_cell_never_begins_as_a_formula(text):
    assert printing.csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-0.25", "+3", "1e-5", "-inf", "nan", "name", "a=b", "'quoted'"])
def test_numbers_and_plain_names_stay_in_a_cell(text):
    assert printing.csv_cell(text) == text
