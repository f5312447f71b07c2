"""`smorm relabel` as a user meets it."""

from __future__ import annotations

import pytest

from smorm import RewardModel
from tests.rewards.reward_servers import RewardServer
from tests.rewards.reward_servers import smorm as serving
from tests.stress.made_up import read_lines, write_rows
from tests.tiny import trained, world


def test_a_models_view_relabels_a_file_which_trains_like_any_other(smorm, tmp_path):
    out = tmp_path / "out.jsonl"
    code, said, _ = smorm(
        "relabel", world()["train-pairs"], "--gold", trained(), "--view", "L", "--output", out
    )
    assert code == 0
    rows = read_lines(out)
    swapped = sum(row["swapped"] for row in rows)
    assert 0 < swapped < len(rows)
    assert f"{len(rows)} pairs, {swapped} swapped" in said
    assert all(row["gold_chosen"] >= row["gold_rejected"] for row in rows)
    code, said, _ = smorm("relabel", out, "--gold", trained(), "--view", "L", "-o", out)
    assert code == 0
    assert ", 0 swapped" in said


def test_a_server_relabels_as_its_model_does(smorm, tmp_path):
    model = RewardModel.load(trained())
    with RewardServer(serving(model)) as server:
        for name, gold in (("folder", trained()), ("server", server.url)):
            words = ("relabel", world()["dev-pairs"], "--gold", gold, "--view", "F")
            assert smorm(*words, "--output", tmp_path / name)[0] == 0
    by_folder, by_server = (read_lines(tmp_path / name) for name in ("folder", "server"))
    assert [row["chosen"] for row in by_folder] == [row["chosen"] for row in by_server]
    for one, other in zip(by_folder, by_server, strict=True):
        assert one["gold_chosen"] == pytest.approx(other["gold_chosen"], abs=1e-5)


def test_noise_is_told(smorm, tmp_path):
    code, said, _ = smorm(
        "relabel", world()["train-pairs"], "--gold", "lab", "--output", tmp_path / "o.jsonl",
        "--temperature", "0.15", "--seed", "2",
    )  # fmt: skip
    assert code == 0
    assert "against the gold" in said


def test_what_is_too_long_is_dropped_alone_and_a_damaged_row_stops_it_still(smorm, tmp_path):
    ask = "metals full tin iron"
    rows = [{"prompt": ask, "chosen": "tin hot .", "rejected": "tin " * 400},
            {"prompt": ask, "chosen": "tin hot .", "rejected": "iron ."}]  # fmt: skip
    path, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    words = ("relabel", path, "--gold", trained(), "--overlong", "drop", "--output", out)
    code, said, err = smorm(*words)
    assert code == 0, err
    assert "1 pairs" in said
    assert "dropped: longer than the limit: 1" in err
    write_rows(path, [*rows, {"prompt": ask, "chosen": "tin"}])
    code, _, err = smorm(*words)
    assert code == 3
    assert "in.jsonl:3: rejected: missing" in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--gold", "nowhere/at/all"), 2, "nowhere/at/all"),
        (("--gold", "field:nothing"), 3, "nothing: missing"),
        (("--gold", "no_module:f"), 2, "cannot be imported"),
        (("--gold", "lab", "--view", "F"), 2, "has no views"),
        (("--gold", "lab", "--temperature", "0"), 2, "above 0"),
        (("--gold", "lab", "--ties", "swap"), 2, "drop, keep"),
        (("--gold", "http://user:pass@localhost"), 2, "token into a file"),
    ],
)
def test_nonsense_is_one_line_and_writes_nothing(smorm, tmp_path, words, code, said):
    out = tmp_path / "o.jsonl"
    left, _, err = smorm("relabel", world()["train-pairs"], *words, "--output", out)
    assert left == code
    assert said in err
    assert "Traceback" not in err
    assert not out.exists()
