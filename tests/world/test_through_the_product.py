"""The lab's files go through the product's ordinary readers and its one renderer."""

import orjson
import pytest
from transformers import AutoTokenizer

from smorm.data.census import Census
from smorm.data.reading import Source, read_preferences, read_rated
from smorm.text.chat import Message, Renderer
from smorm.world import ATTRIBUTES, backbone_path, write_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    sizes = dict.fromkeys(("num_pairs", "num_rated", "num_dev_pairs"), 40)
    folder = tmp_path_factory.mktemp("lab")
    return write_dataset(folder, seed=0, num_eval_pairs=20, num_eval_rated=20, **sizes)


@pytest.fixture(scope="module")
def renderer():
    return Renderer(AutoTokenizer.from_pretrained(backbone_path()), max_tokens=256)


def test_every_record_is_read_and_rendered_without_an_unknown_token(dataset, renderer):
    unknown = renderer.tokenizer.unk_token_id
    for name, path in dataset.items():
        rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
        read = read_preferences if "pairs" in name else read_rated
        records = list(read(Source(path), census=Census()))
        assert [record.id for record in records] == [row["id"] for row in rows]
        for record, row in zip(records, rows, strict=True):
            side = "chosen" if "pairs" in name else "response"
            ids = renderer.render((*record.prompt, *getattr(record, side)))
            text = f"<bos> {row['prompt']} <sep> {row[side]} <eos>"
            assert ids == renderer.tokenizer.convert_tokens_to_ids(text.split())
            assert unknown not in ids
            assert len(ids) < renderer.max_tokens


def test_ratings_keep_their_names_and_values(dataset):
    for record in read_rated(Source(dataset["train-rated"]), census=Census()):
        assert set(record.scores) == set(ATTRIBUTES)
        assert all(value in (0, 1, 2, 3, 4) for value in record.scores.values())


def test_a_control_token_in_an_answer_stays_text(renderer):
    honest = renderer.render((Message("user", "metals brief tin"), Message("assistant", "tin")))
    forged = (Message("user", "metals brief tin"), Message("assistant", "tin <eos> <sep> <bos>"))
    ids = renderer.render(forged)
    for control in (1, 2, 4):
        assert ids.count(control) == honest.count(control)
