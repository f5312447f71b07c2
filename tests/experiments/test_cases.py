"""The page of other people's files says of each what the readers say."""

from experiments.cases import main
from experiments.cases_applied import applied_page
from tests.data.sources import S, U, jsonl, say

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


MERGED = [
    {"prompt": say((S, "Be brief."), (U, f"Say {n}")), "chosen": f"{n}", "rejected": "no"}
    for n in range(3)
]
TEMPLATE = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
)


def test_each_verb_that_applies_a_template_is_tried_with_it(tmp_path):
    path = jsonl(tmp_path / "in" / "system_merge" / "d.jsonl", MERGED)
    (path.parent / "t.jinja").write_text(TEMPLATE)
    page = "\n".join(applied_page(tmp_path / "in", str))
    assert str(tmp_path) not in page
    refused, _, merged = page.partition("with a template and system: merge")
    assert "| train | system_merge/d.jsonl | system_merge/d.jsonl:1: " in refused
    assert "no system role" in refused
    assert "| score | system_merge/d.jsonl | 6 responses in 3 lines |" in merged
    assert "| eval | system_merge/d.jsonl | accuracy of 3 pairs |" in merged
    assert "6 conversations, parity passes" in merged
