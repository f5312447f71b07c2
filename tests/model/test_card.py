"""What a model folder's card may say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smorm.data.scaling import AttributeScale
from smorm.errors import ModelError
from smorm.model.card import CARD, ModelCard, check_card, read_card

SCALES = (AttributeScale("clarity", 2.0, 0.5), AttributeScale("depth", -1.0, 3.0))
GOOD = ModelCard(("clarity", "depth"), SCALES, means={"clarity": 2.0})
# As the versions before this one wrote it, key by key.
COMMITTED = {
    "format": 1,
    "attributes": ["helpfulness", "verbosity"],
    "scales": [
        {"name": "helpfulness", "offset": 2.7, "scale": 1.2},
        {"name": "verbosity", "offset": 2, "scale": 1},
    ],
    "means": {"helpfulness": 2.7, "verbosity": 2},
    "default_view": {"name": "learned", "weights": {"preference": 1, "verbosity": -0.2},
                     "offset": 0.1, "fitted": {"data": "dev.jsonl"}},
    "preference_trained": True,
    "max_tokens": 2048,
    "overlong": "truncate_prompt",
    "chat_template": "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}",
    "renderer": "0123456789abcdef",
    "offset": 0.0,
    "foreign": False,
    "classifier": False,
    "view": None,
    "base": "/models/base",
    "head": "linear",
    "hashes": {"config": "ab", "data": "cd", "merged 1": "0.5 of a (config ab)"},
    "versions": {"smorm": "0.1", "torch": "2.11.0+cpu", "transformers": "5.17.0"},
}  # fmt: skip


def written(folder: Path, values: Any) -> Path:
    (folder / CARD).write_text(json.dumps(values), "utf-8")
    return folder


def test_a_card_comes_back(tmp_path):
    assert read_card(written(tmp_path, GOOD.as_dict())) == GOOD


def test_a_card_of_an_older_version_is_read(tmp_path):
    card = read_card(written(tmp_path, COMMITTED))
    assert card.as_dict() | {"scales": None} == COMMITTED | {
        "scales": None, "attributes": ("helpfulness", "verbosity"),
    }  # fmt: skip
    assert card.scales == (
        AttributeScale("helpfulness", 2.7, 1.2), AttributeScale("verbosity", 2, 1),
    )  # fmt: skip


def test_a_view_of_labels_that_an_older_version_exported_is_a_preference_row(tmp_path):
    values = {**ModelCard().as_dict(), "foreign": True, "classifier": True}
    assert read_card(written(tmp_path, values)) == ModelCard()


@pytest.mark.parametrize("keys", [[], ["attributes", "scales"], ["attributes", "scales", "means"]])
def test_keys_that_are_not_there_have_their_defaults(tmp_path, keys):
    values = {key: GOOD.as_dict()[key] for key in keys}
    assert read_card(written(tmp_path, values)).max_tokens == 2048


def scaled(**changes: Any) -> list[dict[str, Any]]:
    return [
        {"name": "clarity", "offset": 2.0, "scale": 0.5, **changes},
        GOOD.as_dict()["scales"][1],
    ]


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown overlong": ({"overlong": "cut"}, "overlong"),
    "scale of zero": ({"scales": scaled(scale=0)}, "clarity: scale is 0"),
    "negative scale": ({"scales": scaled(scale=-1.0)}, "clarity: scale is -1"),
    "scale that is no number": ({"scales": scaled(scale=float("nan"))}, "clarity: scale is nan"),
    "scale of text": ({"scales": scaled(scale="1")}, "scales.0.scale"),
    "huge scale": ({"scales": scaled(scale=1e308)}, "clarity: scale is 1e+308"),
    "huge offset": ({"scales": scaled(offset=-1e308)}, "clarity: offset is -1e+308"),
    "other key of a scale": ({"scales": scaled(width=1)}, "scales.0.width"),
    "scales in another order": ({"scales": GOOD.as_dict()["scales"][::-1]}, "in their order"),
    "a scale too few": ({"scales": GOOD.as_dict()["scales"][:1]}, "one for each"),
    "no scales": ({"scales": []}, "one for each"),
    "two of one name": (
        {"attributes": ["clarity", "clarity"], "scales": [scaled()[0], scaled()[0]]},
        "two of one name",
    ),
    "preference": (
        {"attributes": ["preference"], "scales": [scaled(name="preference")[0]]},
        "'preference' cannot be the name of an attribute",
    ),
    "a number for a name": ({"attributes": [1, 2]}, "attributes.0"),
    "text for names": ({"attributes": "clarity"}, "attributes"),
    "no name": ({"attributes": ["", "depth"]}, "attributes.0"),
    "control characters": ({"attributes": ["a\x1b]0;x\x07", "depth"]}, "holds control characters"),
    "turned around": ({"attributes": ["a\u202eb", "depth"]}, "holds control characters"),
    "long name": ({"attributes": ["a" * 500, "depth"]}, "SMORM_LIMIT_NAME_CHARACTERS"),
    "unknown head": ({"head": "quadratic"}, "head"),
    "no tokens": ({"max_tokens": 0}, "max_tokens"),
    "negative tokens": ({"max_tokens": -5}, "max_tokens"),
    "tokens of text": ({"max_tokens": "2048"}, "max_tokens"),
    "true tokens": ({"max_tokens": True}, "max_tokens"),
    "huge tokens": ({"max_tokens": 10**12}, "max_tokens"),
    "view of a row that is not there": ({"default_view": {"style": 1.0}}, "no row 'style'"),
    "unknown view": ({"default_view": "Q"}, "default_view: view: unknown view 'Q'"),
    "view of the wrong kind": ({"default_view": 3}, "default_view"),
    "offset that is no number": ({"offset": float("nan")}, "offset"),
    "infinite mean": ({"means": {"clarity": float("inf")}}, "means.clarity"),
    "unknown key": ({"claws": 3}, "claws: this version does not know it"),
    "a number of many digits": ({"offset": 10**400}, "offset"),
    "tokens of many digits": ({"max_tokens": 10**400}, "max_tokens"),
    "later format": ({"format": 2}, "this version reads 1"),
    "null attributes": ({"attributes": None}, "attributes"),
    "base of the wrong kind": ({"base": ["a"]}, "base"),
    "a mean of many digits": ({"means": {"clarity": 10**400}}, "means.clarity"),
    "a count of many digits": ({"max_tokens": 10**400}, "max_tokens"),
    "lists in lists": ({"hashes": {"a": nested(200)}}, "SMORM_LIMIT_DEPTH"),
}


@pytest.mark.parametrize("name", list(FAULTS))
def test_a_card_that_cannot_be_is_refused_in_one_line(tmp_path, name):
    changes, found = FAULTS[name]
    with pytest.raises(ModelError) as caught:
        read_card(written(tmp_path, {**GOOD.as_dict(), **changes}))
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / CARD}: ")
    assert found in line
    assert line.isprintable()


def test_a_limit_can_be_raised_by_its_setting(tmp_path, monkeypatch):
    values = {**GOOD.as_dict(), "max_tokens": 1 << 25}
    with pytest.raises(ModelError, match="max_tokens"):
        read_card(written(tmp_path, values))
    monkeypatch.setenv("SMORM_LIMIT_TOKENS", str(1 << 25))
    assert read_card(written(tmp_path, values)).max_tokens == 1 << 25


def test_what_cannot_be_read_again_is_not_written():
    with pytest.raises(ModelError, match="in their order"):
        check_card("card", replace(GOOD, scales=()))
