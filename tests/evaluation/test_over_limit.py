"""An answer over the limit means the same for training, evaluation, diagnoses and scores."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from smorm.config import parse_config
from smorm.data.census import Census, DropReason, Reason
from smorm.data.reading import Source
from smorm.errors import DataError
from smorm.evaluation.suites import Suite, score_suite
from smorm.rewards.model import ModelReward
from smorm.rewards.protocol import ScoringOptions, values_of
from smorm.rewards.scores_file import score_file
from smorm.scoring.reward_model import RewardModel
from smorm.text.limits import UnscoredReason
from smorm.theory.features import Reading, featured
from smorm.training.setup import prepare
from tests.data.sources import jsonl
from tests.tiny import config_values, trained

LONG = "metals full " + "tin " * 500
PAIR = {"prompt": "metals full tin iron", "chosen": "tin hot .", "rejected": "iron ."}
# One answer is too long by itself, one prompt could be shortened, and three pairs fit.
ROWS = [{**PAIR, "chosen": LONG}, {**PAIR, "prompt": LONG}, *({**PAIR, "id": i} for i in range(3))]
COUNTED: Mapping[str, Mapping[Reason, int]] = {
    "drop": {Reason(DropReason.DROPPED, UnscoredReason.TOO_LONG): 2},
    "truncate_prompt": {
        Reason(DropReason.DROPPED, UnscoredReason.RESPONSE_TOO_LONG): 1,
        Reason(DropReason.SHORTENED): 1,
    },
}


def over_limit(census: Census) -> dict[Reason, int]:
    """What was counted of lengths."""
    kinds = (DropReason.DROPPED, DropReason.SHORTENED)
    return {reason: n for reason, n in census.totals().items() if reason.kind in kinds}


@pytest.mark.parametrize("policy", COUNTED)
def test_every_verb_leaves_out_and_counts_the_same_records(tmp_path, policy):
    path, model = jsonl(tmp_path / "in.jsonl", ROWS), RewardModel.load(trained())
    source, output = Source(path), tmp_path / "scores.jsonl"
    kept = 5 - COUNTED[policy][next(iter(COUNTED[policy]))]
    data = {"preference": str(path), "rated": [], "overlong": policy, "cache": None}
    values = config_values(tmp_path / "run", data=data, objective={"kind": "preference"})
    prepared = prepare(parse_config(values))
    assert len(prepared.train.pairs) == kept
    assert over_limit(prepared.census) == COUNTED[policy]
    scored = score_suite(model, Suite("pairs", source), overlong=policy)
    assert len(scored.records) == kept
    for reason, count in COUNTED[policy].items():
        assert any(note.startswith(f"{reason}: {count} ") for note in scored.notes)
    features = featured(model, source, "preference", Reading(policy))
    assert len(features.records) == kept
    assert over_limit(features.census) == COUNTED[policy]
    reward = ModelReward(model, options=ScoringOptions(overlong=policy))
    report = score_file(reward, source, output)
    assert over_limit(report.counted[reward.name]) == COUNTED[policy]
    lines = output.read_bytes().splitlines()
    # Of a pair with one such answer the other one has its score.
    assert (len(lines), sum(b'"error"' in line for line in lines)) == (5, 5 - kept)


def test_where_every_record_needs_a_value_none_is_left_out(tmp_path):
    source = Source(jsonl(tmp_path / "in.jsonl", ROWS))
    model = RewardModel.load(trained())
    items = [
        record.item
        for record in score_suite(model, Suite("pairs", source), overlong="truncate_prompt").records
    ]
    reward = ModelReward(model, options=ScoringOptions(overlong="drop"))
    with pytest.raises(DataError, match=r"in.jsonl:2: not scored: longer than the limit"):
        values_of(reward, items)
