"""docs/distillation.md, followed to the letter on a small generated world."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from smorm import RewardModel
from smorm.config import load_config
from smorm.training.loop import train
from tests.stress.made_up import read_lines, write_rows
from tests.tiny import trained, world

ROOT = Path(__file__).parents[2]
TEACHERS = {"Single": "preference", "Multi": "regression", "SMORM": "joint"}


def blocks(language: str) -> list[str]:
    text = (ROOT / "docs" / "distillation.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """A folder with the data of `smorm demo`, fewer of them, in which the page's paths hold."""
    (tmp_path / "demo" / "data").mkdir(parents=True)
    for name, path in world().items():
        shutil.copyfile(path, tmp_path / "demo" / "data" / f"{name}.jsonl")
    for name in ("src", "recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_page_gives_a_student_that_scores_by_the_teachers_row(demo, smorm):
    for name, kind in TEACHERS.items():
        shutil.copytree(trained(kind), demo / "demo" / "models" / name)
    exec(blocks("python")[0], {})
    (commands,) = blocks("sh")
    for line in commands.splitlines():
        words = shlex.split(line)
        assert words.pop(0) == "smorm"
        if words[0] == "train":
            words += ["training.max_steps=3", "training.batch_size=8"]
        code, _, err = smorm(*words)
        assert code == 0, (line, err)
    ratings = read_lines(demo / "demo" / "teacher.jsonl")
    assert len(ratings) > 60
    assert all(list(row["scores"]) == ["teacher"] for row in ratings)
    student = RewardModel.load("runs/distilled/model")
    assert "teacher" in student.attributes
    for line in read_lines(demo / "demo" / "student.jsonl"):
        for response in line["responses"]:
            assert response["view"] == pytest.approx(response["attributes"]["teacher"], abs=1e-6)


def test_the_recipe_trains_the_teachers_row_and_writes_its_view_down(demo):
    prompts = [row["prompt"] for row in read_lines(demo / "demo" / "data" / "train-rated.jsonl")]
    rated = [
        {"prompt": prompt, "response": "a b", "scores": {"teacher": index % 3}}
        for index, prompt in enumerate(prompts[:20])
    ]
    write_rows(demo / "demo" / "teacher.jsonl", rated)
    changes = ["training.max_steps=1", "training.batch_size=2", "data.max_tokens=64"]
    folder = train(load_config(demo / "recipes" / "distilled.yaml", changes))
    assert RewardModel.load(folder).view(None).weights == {"teacher": 1.0}
    (setting,) = blocks("yaml")
    assert setting in (demo / "recipes" / "distilled.yaml").read_text().replace(
        "  # The view of every verb that is told no other: the row of the teacher.\n", ""
    )
