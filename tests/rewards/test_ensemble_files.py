"""A file scored by several models: a line for each line, of what they say together."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import orjson
import pytest

from smorm.data.reading import Source
from smorm.errors import ConfigError, DataError
from smorm.evaluation.suites import Suite, run_ensemble
from smorm.files import read_json
from smorm.rewards.ensemble import UNCHANGED, Ensemble, Member, Rule, standard_from
from smorm.rewards.protocol import ScoringOptions, open_reward
from smorm.rewards.scores_file import score_file
from smorm.rewards.section import RewardSection
from tests.processes import Setting, run
from tests.tiny import trained, world


def specs() -> dict[str, str]:
    """Name to folder of each member."""
    return {"Single": str(trained("preference")), "Multi": str(trained("regression"))}


def ensemble(
    members: dict[str, str], rule: Rule, standardise=None, overlong: str | None = None
) -> Ensemble:
    """One member in memory at a time, as the verbs open it."""
    options = ScoringOptions(overlong=overlong)
    opened = [
        Member(name, partial(open_reward, RewardSection(model=path, name=name), options))
        for name, path in members.items()
    ]
    return Ensemble(opened, rule, standardise, resident=False)


def lines_of(path: Path) -> list[dict]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def alone(path: str, source: Source, folder: Path) -> np.ndarray:
    """What a member gives by itself [lines, responses]."""
    score_file(open_reward(RewardSection(model=path)), source, folder / "alone")
    return np.array([[r["view"] for r in line["responses"]] for line in lines_of(folder / "alone")])


@pytest.mark.parametrize("rule", [Rule(), Rule("min"), Rule("uwo", 0.5)], ids=lambda r: r.name)
def test_each_line_holds_the_reward_and_what_it_was_made_of(tmp_path, rule):
    source = Source(world()["eval-pairs-ID"])
    report = score_file(ensemble(specs(), rule), source, tmp_path / "out")
    own = np.stack([alone(path, source, tmp_path) for path in specs().values()])
    found = lines_of(tmp_path / "out")
    for at, line in enumerate(found):
        assert set(line) == {"id", "responses"}
        for side, one in enumerate(line["responses"]):
            assert set(one) == {"view", "members", "tokens", "truncated"}
            expected = dict(zip(["Single", "Multi"], own[:, at, side], strict=True))
            assert one["members"] == pytest.approx(expected, abs=1e-9)
            values = np.array(list(one["members"].values()))[:, None]
            assert one["view"] == pytest.approx(rule.combine(values)[0], abs=1e-9)
    assert (report.lines, report.responses, report.errors) == (60, 120, 0)
    each = [[r["tokens"] for r in line["responses"]] for line in lines_of(tmp_path / "alone")]
    # The members share a tokenizer: both read the same tokens.
    assert [[r["tokens"] for r in line["responses"]] for line in found] == [
        [2 * count for count in counts] for counts in each
    ]
    assert report.tokens == 2 * sum(map(sum, each))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "out"]


def test_one_member_scores_as_it_does_alone(tmp_path):
    source = Source(world()["eval-pairs-ID"])
    score_file(ensemble({"Single": specs()["Single"]}, Rule("uwo", 0.5)), source, tmp_path / "out")
    found = [[r["view"] for r in line["responses"]] for line in lines_of(tmp_path / "out")]
    assert found == alone(specs()["Single"], source, tmp_path).tolist()


def test_members_on_one_scale_have_mean_0_and_spread_1_over_the_reference(tmp_path):
    source = Source(world()["eval-pairs-ID"])
    rule = Rule("min")
    together = ensemble(specs(), rule, standard_from(source, rule))
    score_file(together, source, tmp_path / "out")
    values = np.array([list(r["members"].values()) for line in lines_of(tmp_path / "out")
                       for r in line["responses"]])  # fmt: skip
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(values.std(axis=0), 1, atol=1e-9)
    own = alone(specs()["Multi"], source, tmp_path)
    assert together.facts["Multi"]["centre"] == pytest.approx(own.mean())
    assert together.facts["Multi"]["spread"] == pytest.approx(own.std())


def shorter(folder: Path, limit: int) -> dict[str, str]:
    """Multi as if it had been trained with a smaller limit."""
    target = folder / "Short"
    target.mkdir()
    for path in trained("regression").iterdir():
        if path.name != "manifest.json":
            (target / path.name).write_bytes(path.read_bytes())
    card = {**read_json(target / "smorm.json"), "max_tokens": limit}
    (target / "smorm.json").write_bytes(orjson.dumps(card))
    return {"Short": str(target)}


def test_a_line_that_one_member_cannot_score_names_it_and_has_no_score(tmp_path):
    rows = [{"prompt": "word " * n, "response": "r"} for n in (1, 60, 500)]
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)) + b"\n{broken\n")
    members = {"Single": specs()["Single"], **shorter(tmp_path, 40)}
    report = score_file(
        ensemble(members, Rule()), Source(path), tmp_path / "out", on_bad_record="skip"
    )
    one, two, three, four = lines_of(tmp_path / "out")
    assert set(one["members"]) == {"Single", "Short"}
    assert two["error"].startswith("Short: ")
    assert "limit" in three["error"]
    assert four["error"].startswith(f"{path}:4")
    assert (report.lines, report.responses, report.errors) == (4, 1, 3)
    with pytest.raises(DataError, match=r"in\.jsonl:2: .*limit is 40.*\(scored by Short\)"):
        score_file(
            ensemble(dict(reversed(members.items())), Rule()), Source(path), tmp_path / "other"
        )
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("change", ["longer", "other"])
def test_an_input_that_changes_between_two_members_is_told(tmp_path, change):
    rows = [{"prompt": "p", "response": "r", "id": str(at)} for at in range(3)]
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))

    def meanwhile(model, view, name):
        if name == "Multi":
            more = [*rows, rows[0]] if change == "longer" else rows[::-1]
            path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in more))
        return UNCHANGED

    with pytest.raises(DataError, match=r"in\.jsonl: changed while it was scored"):
        score_file(ensemble(specs(), Rule(), meanwhile), Source(path), tmp_path / "out")
    assert [one.name for one in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_full_disk_names_the_output_and_leaves_nothing_there(tmp_path):
    words = ["score", *specs().values(), "--combine", "mean", "--input",
             world()["eval-pairs-ID"], "--output", tmp_path / "out"]  # fmt: skip
    # A real limit on the size of files, which only a process of its own can have.
    code, err = run(*words, setting=Setting(largest_file=2000))
    assert code == 1
    assert f"error: {tmp_path / 'out'}: could not be written: File too large" in err
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_a_folder_is_told_before_anything_is_scored(tmp_path):
    missing = Source(tmp_path / "none.jsonl")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=r"folder: is a folder; name a file"):
        score_file(ensemble(specs(), Rule()), missing, tmp_path / "folder")


def test_one_folder_under_two_names_is_not_two_members(tmp_path):
    single = specs()["Single"]
    (tmp_path / "link").symlink_to(single)
    twice = [{"model": single, "name": "Single"}, {"model": str(tmp_path / "link"), "name": "Link"}]
    with pytest.raises(ConfigError, match="Single and Link are one folder"):
        Ensemble.find(RewardSection.model_validate({"ensemble": twice}))
    named = [{**one, "view": view} for one, view in zip(twice, ("F", "L"), strict=True)]
    Ensemble.find(RewardSection.model_validate({"ensemble": named}))


def test_a_suite_counts_the_records_that_all_members_could_score(tmp_path):
    rows = [{"prompt": f"{n} " + "word " * n, "chosen": "yes it is", "rejected": "no"}
            for n in (1, 2, 3, 60, 61)]  # fmt: skip
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    members = {"Single": specs()["Single"], **shorter(tmp_path, 40)}
    together, single, short = run_ensemble(
        ensemble(members, Rule(), overlong="drop"), [Suite("pairs", Source(path))]
    )
    assert [r.metrics["accuracy"].n for r in (together, single, short)] == [3, 5, 3]
    assert "3 records that all members could score." in together.notes
    assert [item["where"] for item in together.items] == [item["where"] for item in short.items]
    expected = [(np.array(a["scores"]) + b["scores"]) / 2
                for a, b in zip(single.items, short.items, strict=False)]  # fmt: skip
    np.testing.assert_allclose([i["scores"] for i in together.items], expected, atol=1e-9)


def test_a_suite_is_measured_on_standardised_members(tmp_path):
    source, rule = Source(world()["eval-pairs-ID"]), Rule("uwo", 0.5)
    together, *members = run_ensemble(
        ensemble(specs(), rule, standard_from(source, rule)), [Suite("pairs", source)]
    )
    own = np.array([[item["scores"] for item in one.items] for one in members])
    centres, spreads = own.mean(axis=(1, 2)), own.std(axis=(1, 2))
    expected = rule.combine((own - centres[:, None, None]) / spreads[:, None, None])
    np.testing.assert_allclose([i["scores"] for i in together.items], expected, atol=1e-9)
    assert [m["centre"] for m in together.fingerprint["members"]] == pytest.approx(centres)
    assert any("Multi: standardised by mean" in note for note in together.notes)


def test_attribute_ratings_cannot_be_asked_of_an_ensemble():
    with pytest.raises(ConfigError, match="an ensemble has one reward only"):
        run_ensemble(ensemble(specs(), Rule()), [Suite("rated", Source(world()["eval-rated-ID"]))])
