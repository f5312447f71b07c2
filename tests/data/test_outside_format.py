"""A data shape from outside the package, by decorator and by entry point: trained on and scored."""

from __future__ import annotations

import json
import re
import sys
from enum import StrEnum

import pytest
import yaml

from smorm import train
from smorm.config import parse_config
from smorm.data.census import Census
from smorm.data.formats import FORMATS, data_shape
from smorm.data.reading import Source, read_records
from smorm.data.records import Candidates, Preference
from smorm.errors import ConfigError
from smorm.evaluation.benchmarks import BENCHMARKS, Benchmark
from smorm.evaluation.benchmarks.best_of_k import BEST_OF_K
from smorm.evaluation.result import read_results
from smorm.text.chat import Message
from tests.cli.conftest import smorm  # noqa: F401  (a fixture)
from tests.conftest import ROOT
from tests.tiny import config_values, trained, world

MODULE = '''
from smorm.data import fields
from smorm.data.formats import Format, generic
from smorm.data.records import Candidates
from smorm.text.chat import Message


def pairs(row, context):
    """{ask, good, bad}."""
    columns = {"ask": "prompt", "good": "chosen", "bad": "rejected"}
    return generic.preference({new: row.get(old) for old, new in columns.items()}, context)


PAIRS = Format("preference", pairs, "{ask, good, bad}", signs=frozenset({"ask", "good"}))
'''


class Toy(StrEnum):
    """What the decorated shape leaves out."""

    JOKE = "a joke, left out"


def drop_joke(row):
    """Why a row is left out, if it is."""
    return Toy.JOKE if "why" in row else None


def toy_rows(path):
    """The training pairs of the generated world under other names."""
    rows = [json.loads(line) for line in world()["train-pairs"].read_text().splitlines()]
    named = [{"ask": r["prompt"], "good": r["chosen"], "bad": r["rejected"]} for r in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in named))
    return path


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package with an entry point, as pip would leave it."""
    information = tmp_path / "toyshapes-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: toyshapes\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[smorm.formats]\nbroken = toyshapes:NONE\ntoy = toyshapes:PAIRS\n"
    )
    (tmp_path / "toyshapes.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "toyshapes", raising=False)
    monkeypatch.setattr(FORMATS, "_installed", None)
    yield
    FORMATS.remove("toy")
    monkeypatch.setattr(FORMATS, "_installed", None)


@pytest.mark.usefixtures("installed")
def test_an_installed_shape_is_trained_on_and_scored(smorm, tmp_path):  # noqa: F811
    source = {"path": str(toy_rows(tmp_path / "toy.jsonl")), "format": "toy", "limit": 20}
    values = config_values(tmp_path / "run", data={"preference": source, "cache": None})
    values["training"] |= {"max_steps": 1}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    assert smorm("train", tmp_path / "c.yaml")[0] == 0
    scores = tmp_path / "scores.jsonl"
    words = ("--input", source["path"], "--format", "toy", "--output", scores)
    assert smorm("score", tmp_path / "run" / "model", *words)[0] == 0
    assert len(json.loads(scores.read_text().splitlines()[0])["responses"]) == 2


@pytest.mark.usefixtures("installed")
def test_an_installed_shape_is_named_where_a_row_has_its_fields(smorm, tmp_path):  # noqa: F811
    rows = toy_rows(tmp_path / "toy.jsonl")
    words = ("--input", rows, "--output", tmp_path / "scores.jsonl")
    code, _, err = smorm("score", trained(), *words)
    assert code == 3
    assert "it looks like format 'toy': name it as the source's format" in err


@pytest.fixture
def decorated():
    @data_shape("jokes", "preference", "{q, a, b}", drop_row=drop_joke)
    def parse(row, context):
        prompt = (Message("user", row["q"]),)
        sides = ((Message("assistant", row[name]),) for name in "ab")
        return [Preference(prompt, *sides, where=context.where)]

    yield parse
    FORMATS.remove("jokes")


@pytest.mark.usefixtures("decorated")
def test_a_decorated_shape_is_trained_on_from_python(tmp_path):
    rows = [{"q": f"question {i}", "a": "yes", "b": f"no {i}"} for i in range(8)]
    path = tmp_path / "jokes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": str(path), "format": "jokes"}
    values = config_values(tmp_path / "run", data={"preference": source, "rated": []})
    values["objective"] = {"kind": "preference"}
    values["training"] |= {"max_steps": 1, "batch_size": 4}
    assert (train(parse_config(values)) / "config.json").is_file()


@pytest.fixture
def choices(tmp_path):
    """A shape of candidates, and a benchmark of rows in it."""

    @data_shape("choices", "candidates", "{ask, options, right}")
    def parse(row, context):
        order = [row["right"], *(text for text in row["options"] if text != row["right"])]
        responses = tuple((Message("assistant", text),) for text in order)
        prompt = (Message("user", row["ask"]),)
        return [Candidates(prompt, responses, where=context.where, chosen=1)]

    rows = FORMATS["choices"]
    BENCHMARKS.register("choices", Benchmark("choices", "Choices", rows, BEST_OF_K.rule, ()))
    rights = ["one two three", "one", "one two"]
    written = [{"ask": f"{i}", "options": ["a b", *rights], "right": right}
               for i, right in enumerate(rights)]  # fmt: skip
    (tmp_path / "choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))
    yield tmp_path / "choices.jsonl"
    BENCHMARKS.remove("choices")
    FORMATS.remove("choices")


def test_a_decorated_shape_is_evaluated(smorm, tmp_path, choices):  # noqa: F811
    results = tmp_path / "results.json"
    words = ("--suite", f"choices={choices}", "--output", results)
    code, _, err = smorm("eval", "tests.stress.made_up:half_length", *words)
    assert (code, err) == (0, "")
    (result,) = read_results(results)
    scores = [item["scores"] for item in result.items]
    assert scores == [[1.5, 1.0, 0.5, 1.0], [0.5, 1.0, 1.5, 1.0], [1.0, 1.0, 1.5, 0.5]]
    # The longest of them is right once in three times.
    assert result.metrics["overall"].value == pytest.approx(1 / 3)
    assert result.metrics["overall"].n == 3


def test_its_own_reasons_are_counted_and_a_name_is_given_once(tmp_path, decorated):
    form = FORMATS["jokes"]
    with pytest.raises(ConfigError, match="'jokes' is registered already"):
        data_shape("jokes", "preference", form.shape)(decorated)
    path = tmp_path / "jokes.jsonl"
    rows = [{"q": "a", "a": "b", "b": "c"}, {"q": "a", "why": "to laugh"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    census = Census()
    assert len(list(read_records(Source(path, format="jokes"), None, census))) == 1
    assert [str(reason) for reason in census.totals()] == ["a joke, left out"]


def test_the_shape_of_the_documents_is_read(tmp_path):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), re.S)
    exec(block, {})
    try:
        source = Source(toy_rows(tmp_path / "toy.jsonl"), format="questions", limit=3)
        pairs = list(read_records(source, "preference", Census()))
        assert [pair.where for pair in pairs] == [f"{source.path}:{line}" for line in (1, 2, 3)]
    finally:
        FORMATS.remove("questions")
