import numpy as np
import orjson
import pytest

from smorm.errors import ConfigError, OutputError
from smorm.files import sha256
from smorm.world import (
    ATTRIBUTES,
    REGIMES,
    Annotation,
    Habits,
    gold,
    make_world,
    measure_quality,
    parse_prompt,
    write_dataset,
)
from smorm.world.words import HELD_OUT_TOPICS, TOPICS

SIZES = {"num_pairs": 600, "num_rated": 300, "num_dev_pairs": 100}
EVAL_SIZES = {"num_eval_pairs": 100, "num_eval_rated": 60}
# All but the training pairs as good as left out.
PAIRS = {**dict.fromkeys(SIZES | EVAL_SIZES, 1), "num_pairs": 600}
world = make_world()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("lab"), seed=0, **SIZES, **EVAL_SIZES)


def rows(path):
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def answers_of(row):
    return [row[key] for key in ("chosen", "rejected", "response") if key in row]


def test_files_have_the_names_and_numbers_of_records_that_were_asked(dataset):
    counts = {name: len(rows(path)) for name, path in dataset.items()}
    expected = {"train-pairs": 600, "train-rated": 300, "dev-pairs": 100}
    for regime in REGIMES:
        expected |= {f"eval-pairs-{regime}": 100, f"eval-rated-{regime}": 60}
    assert counts == expected
    assert all(path.name == f"{name}.jsonl" for name, path in dataset.items())


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(dataset, tmp_path):
    again = write_dataset(tmp_path / "again", seed=0, **SIZES, **EVAL_SIZES)
    other = write_dataset(tmp_path / "other", seed=1, **SIZES, **EVAL_SIZES)
    for name, path in dataset.items():
        assert path.read_bytes() == again[name].read_bytes()
        assert path.read_bytes() != other[name].read_bytes()


def test_a_files_first_records_do_not_depend_on_how_many_are_asked(dataset, tmp_path):
    fewer = dict.fromkeys(SIZES | EVAL_SIZES, 10)
    for name, path in write_dataset(tmp_path, seed=0, **fewer).items():
        assert rows(path) == rows(dataset[name])[:10]


def test_records_have_the_contracts_shapes(dataset):
    common = {"prompt", "id", "source", "meta"}
    for name, path in dataset.items():
        for row in rows(path):
            if "pairs" in name:
                assert set(row) == common | {"chosen", "rejected"}
                assert set(row["meta"]) == {"gold_chosen", "gold_rejected", "regime"}
            else:
                assert set(row) == common | {"response", "scores"}
                assert set(row["meta"]) == {"gold", "regime"}
                assert tuple(row["scores"]) == ATTRIBUTES
            assert all(answers_of(row))
    ids = [row["id"] for path in dataset.values() for row in rows(path)]
    assert len(set(ids)) == len(ids)


def test_held_out_topics_and_evaluation_prompts_are_never_in_the_training_files(dataset):
    held_out = {word for topic in HELD_OUT_TOPICS for word in (topic, *TOPICS[topic])}
    training = [row for name in dataset if "eval" not in name for row in rows(dataset[name])]
    for row in training:
        assert not held_out & set(" ".join([row["prompt"], *answers_of(row)]).split())
    asked = {row["prompt"] for row in training}
    assert not asked & {
        r["prompt"] for name in dataset if "eval" in name for r in rows(dataset[name])
    }


def test_every_file_asks_prompts_of_its_regime_and_split(dataset):
    for name, path in dataset.items():
        for row in rows(path):
            prompt = parse_prompt(row["prompt"])
            assert prompt.split == name.split("-")[0]
            assert prompt.regime == row["meta"]["regime"]
            assert name.startswith(("train", "dev")) or name.endswith(f"-{prompt.regime}")


def test_the_meta_data_carry_the_true_gold(dataset):
    for name, path in dataset.items():
        for row in rows(path):
            golds = [gold(world, parse_prompt(row["prompt"]), text) for text in answers_of(row)]
            if "pairs" in name:
                assert golds == [row["meta"]["gold_chosen"], row["meta"]["gold_rejected"]]
            else:
                assert golds == [row["meta"]["gold"]]


def test_evaluation_pairs_are_labelled_by_gold_without_ties(dataset):
    for regime in REGIMES:
        for row in rows(dataset[f"eval-pairs-{regime}"]):
            assert row["meta"]["gold_chosen"] > row["meta"]["gold_rejected"]


def test_training_pairs_are_labelled_with_noise_as_bradley_terry_says(dataset):
    meta = [row["meta"] for row in rows(dataset["train-pairs"])]
    gaps = np.array([m["gold_chosen"] - m["gold_rejected"] for m in meta])
    expected = np.mean(1 / (1 + np.exp(-np.abs(gaps) / 0.15)))
    agreement = np.mean(gaps > 0) + np.mean(gaps == 0) / 2
    assert agreement == pytest.approx(expected, abs=0.06)
    assert 0.7 < agreement < 0.88
    assert all(row["chosen"] != row["rejected"] for row in rows(dataset["train-pairs"]))


def test_length_alone_says_something_about_preference_but_not_much(dataset):
    gaps = np.array(
        [
            len(r["chosen"].split()) - len(r["rejected"].split())
            for r in rows(dataset["train-pairs"])
        ]
    )
    assert 0.5 < np.mean(gaps > 0) + np.mean(gaps == 0) / 2 < 0.65


def test_training_ratings_are_noisy_whole_numbers_and_evaluation_ratings_are_true(dataset):
    errors = []
    for row in rows(dataset["train-rated"]):
        true = measure_quality(world, parse_prompt(row["prompt"]), row["response"]).attributes
        assert set(row["scores"].values()) <= {0.0, 1.0, 2.0, 3.0, 4.0}
        errors += [row["scores"][name] / 4 - true[name] for name in ATTRIBUTES]
    assert 0.08 < np.std(errors) < 0.2
    for regime in REGIMES:
        for row in rows(dataset[f"eval-rated-{regime}"]):
            true = measure_quality(world, parse_prompt(row["prompt"]), row["response"])
            assert row["scores"] == {name: 4 * value for name, value in true.attributes.items()}


def test_more_noise_makes_more_labels_wrong_and_no_other_answers(tmp_path):
    texts, wrong = [], []
    for temperature in (0.01, 0.15, 10.0):
        how = Annotation(temperature=temperature)
        files = write_dataset(tmp_path / str(temperature), seed=0, annotation=how, **PAIRS)
        found = rows(files["train-pairs"])
        texts.append([frozenset((row["chosen"], row["rejected"])) for row in found])
        gaps = np.array([r["meta"]["gold_chosen"] - r["meta"]["gold_rejected"] for r in found])
        wrong.append(np.mean(gaps < 0))
    assert texts[0] == texts[1] == texts[2]
    assert wrong[0] < 0.05 < wrong[1] < 0.3 < wrong[2] < 0.6


def test_ratings_without_noise_are_the_rounded_truth(tmp_path):
    how = Annotation(rating_noise=0.0)
    files = write_dataset(tmp_path, seed=0, annotation=how, **SIZES, **EVAL_SIZES)
    for row in rows(files["train-rated"]):
        true = measure_quality(world, parse_prompt(row["prompt"]), row["response"]).attributes
        assert row["scores"] == {name: float(round(4 * true[name])) for name in ATTRIBUTES}


def test_several_rated_answers_stand_under_one_prompt(tmp_path):
    how = Annotation(answers_per_prompt=2)
    files = write_dataset(tmp_path, seed=0, annotation=how, **SIZES, **EVAL_SIZES)
    found = rows(files["train-rated"])
    assert [row["prompt"] for row in found[::2]] == [row["prompt"] for row in found[1::2]]
    assert len({row["prompt"] for row in found}) > len(found) / 3


def test_habits_decide_how_wordiness_follows_ability(tmp_path):
    gaps = []
    for rho in (0.0, 1.0):
        how = Annotation(habits=Habits(wordiness_follows_ability=rho), temperature=0.01)
        found = rows(
            write_dataset(tmp_path / str(rho), seed=0, annotation=how, **PAIRS)["train-pairs"]
        )
        gaps.append(np.mean([len(r["chosen"].split()) - len(r["rejected"].split()) for r in found]))
    assert gaps[1] > gaps[0] + 1


@pytest.mark.parametrize(
    "bad", [{"temperature": 0.0}, {"rating_noise": -1.0}, {"answers_per_prompt": 0}]
)
def test_annotation_that_makes_no_sense_is_refused(bad):
    with pytest.raises(ConfigError, match="expected"):
        Annotation(**bad)


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match="could not be written"):
        write_dataset(tmp_path / "taken", seed=0, num_pairs=1, num_rated=1)


def test_the_data_of_a_seed_are_these_bytes(tmp_path):
    """Results and cached studies rest on them: another order of draws is another data set."""
    how = Annotation(answers_per_prompt=2)
    written = write_dataset(
        tmp_path, seed=3, num_pairs=200, num_rated=100, num_dev_pairs=50, num_eval_pairs=60,
        num_eval_rated=40, annotation=how,
    )  # fmt: skip
    sums = {name: sha256(path)[:12] for name, path in written.items()}
    assert sums == {
        "train-pairs": "d63ce3e11688",
        "train-rated": "fc13784eae12",
        "dev-pairs": "685810031b9c",
        "eval-pairs-ID": "25eca68e5b77",
        "eval-rated-ID": "e24e23c36468",
        "eval-pairs-OODtopic": "dd1201c3405f",
        "eval-rated-OODtopic": "c0a6b126c235",
        "eval-pairs-OODlong": "5342bf03d3ed",
        "eval-rated-OODlong": "c5c4fc8bbaf8",
        "eval-pairs-far": "d47dfbcb57cc",
        "eval-rated-far": "6c359d42015e",
    }
