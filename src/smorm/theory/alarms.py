"""The scores that alarms are measured from, out of hidden states that were computed for the rest.
Shapes: `N` answers to a prompt, `W` closing words."""

import numpy as np

from smorm.evaluation.alarm_measures import AlarmScores, with_closing_words
from smorm.rewards.model import ModelReward
from smorm.rewards.protocol import ScoringOptions
from smorm.scoring.reward_model import RewardModel
from smorm.scoring.scorer import Scored
from smorm.theory.features import Featured, Reading, head_of


def alarm_scores(model: RewardModel, featured: Featured, reading: Reading) -> AlarmScores:
    """The preference row's scores of a set: its different answers, by prompt, and closing words."""
    head, distinct = head_of(model), featured.distinct()
    lengths, items = [], []
    for record in featured.records:
        lengths += [float(len(text.split())) for text in record.item.texts]
        items += [record.item] * len(record.item)
    # Answers of several pairs with one prompt are one pool.
    pools: dict[str, list[int]] = {}
    prompts = featured.response_prompts
    for index in distinct.tolist():
        pools.setdefault(prompts[index], []).append(index)
    hidden = [featured.hidden[indices] for indices in pools.values()]
    probes = []
    for indices in pools.values():
        item = items[indices[0]]
        probes.append(item.having(with_closing_words(item)))
    options = ScoringOptions(max_batch_tokens=reading.max_batch_tokens, overlong=reading.overlong)
    reward = ModelReward(model, "F", options)
    read = reward.view().read
    results = reward.score(probes)
    closing = [read(result.rows) if isinstance(result, Scored) else None for result in results]
    attributes = [states @ head.mean for states in hidden] if head.names else None
    words = [np.array(lengths)[indices] for indices in pools.values()]
    scores = [states @ head.preference for states in hidden]
    return AlarmScores(list(pools), scores, words, attributes, closing)
