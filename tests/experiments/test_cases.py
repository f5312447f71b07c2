"""The page of other people's files says of each what the readers say."""

from experiments.cases import main
from tests.data.sources import jsonl

PAIR = {"question": "Largest planet?", "chosen": "Jupiter.", "rejected": "Mars."}


def test_the_page_has_each_file_as_it_is_and_as_its_source_says(tmp_path):
    jsonl(tmp_path / "in" / "orca_pairs" / "d.jsonl", [PAIR, PAIR])
    jsonl(tmp_path / "in" / "plain" / "d.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "b"}])
    assert main(["--cases", str(tmp_path / "in"), "--output", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "README.md").read_text()
    assert str(tmp_path) not in page
    assert "orca_pairs/d.jsonl:1: question: not read, and the pair has no prompt" in page
    assert "| format: orca_dpo | nothing to fix | 2 preference records | 4 answers |" in page
    assert "| the file | nothing to fix | 1 preference records | 2 answers |" in page
