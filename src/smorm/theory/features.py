"""From records to hidden states, rows on the attributes' own scale, and prompts.
Shapes: `N` responses, `D` hidden size, `K` attributes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from smorm.arrays import Floats, Ints, Tokens
from smorm.data.census import Census, DropReason
from smorm.data.reading import OnBad, Source, read_records
from smorm.data.records import Item, Kind, Preference, Record, prompt_key
from smorm.data.scaling import restore_scales
from smorm.errors import DataError
from smorm.evaluation.suites import hash_of
from smorm.files import fingerprint
from smorm.model.inference import pooled_units
from smorm.rewards.protocol import ScoringOptions, open_reward, values_of
from smorm.rewards.section import parse_reward
from smorm.scoring.reward_model import RewardModel
from smorm.scoring.scorer import DEFAULT_BATCH_TOKENS
from smorm.text.limits import Overlong, fit


@dataclass(frozen=True, slots=True)
class Reading:
    """How records are read and computed."""

    overlong: Overlong | None = None
    on_bad_record: OnBad = "stop"
    limit: int | None = None
    max_batch_tokens: int = DEFAULT_BATCH_TOKENS


@dataclass(frozen=True, slots=True)
class Featured:
    """Records with the hidden states that the head reads."""

    records: list[Any]
    units: list[list[Tokens]]  # tokens of each record's responses
    hidden: Floats  # hidden states of all responses, record after record [N, D]
    first: Ints  # where each record's responses begin in them
    census: Census  # what was left out or shortened

    @property
    def prompts(self) -> list[str]:
        """A label of each record's prompt."""
        return [fingerprint(prompt_key(record.prompt)) for record in self.records]

    @property
    def response_prompts(self) -> list[str]:
        """A label of each response's prompt [N]."""
        sizes = list(map(len, self.units))
        return np.repeat(np.array(self.prompts, dtype=object), sizes).tolist()

    @property
    def data(self) -> str:
        """Fingerprint of the records' texts."""
        return fingerprint([hash_of(record) for record in self.records])

    def distinct(self) -> Ints:
        """Responses [N'] that differ in their tokens: one in many pairs counts once."""
        first: dict[bytes, int] = {}
        # By tokens and not by text: two texts of the same tokens have one hidden state.
        for index, tokens in enumerate(chain.from_iterable(self.units)):
            first.setdefault(tokens.tobytes(), index)
        return np.array(list(first.values()), dtype=np.int64)

    def deltas(self) -> Floats:
        """Of pairs: chosen less rejected hidden states [P, D]."""
        return self.hidden[self.first] - self.hidden[self.first + 1]


def featured(model: RewardModel, source: Source, kind: Kind | None, reading: Reading) -> Featured:
    """Read a source and compute what the head reads; a `kind` of None takes what each row is."""
    census = Census()
    if reading.limit is not None:
        source = replace(source, limit=min(reading.limit, source.limit or reading.limit))
    records: list[Record] = []
    units: list[list[Tokens]] = []
    for record in read_records(source, kind, census, reading.on_bad_record):
        unit = _tokens(model, record.item, reading, census)
        if unit is not None:
            records.append(record)
            units.append(unit)
    if not records:
        raise DataError(f"{source.path}: no record fits the model's limit")
    # In one call: responses of different records are packed into full batches.
    hidden = pooled_units(model.network, units, reading.max_batch_tokens)
    first = np.cumsum([0, *map(len, units[:-1])])
    return Featured(records, units, np.concatenate(hidden), first, census)


def _tokens(
    model: RewardModel, item: Item, reading: Reading, census: Census
) -> list[Tokens] | None:
    # By default as in training, so that the same records are left out or shortened.
    policy: Any = reading.overlong or model.card.overlong
    try:
        fitted = fit(model.renderer, item.prompt, item.responses, model.renderer.max_tokens, policy)
    except DataError as error:
        if reading.on_bad_record == "stop":
            raise DataError(f"{item.where}: {error}") from error
        census.add(DropReason.UNFIT_RECORD, item.where)
        return None
    if fitted.tokens is None:
        census.add(DropReason.DROPPED, item.where, detail=str(fitted.dropped))
        return None
    if fitted.truncated:
        census.add(DropReason.SHORTENED, item.where)
    for change in fitted.changes:
        census.add(change, item.where)
    return [np.asarray(tokens, dtype=np.int32) for tokens in fitted.tokens]


def gold_of(text: str, pairs: Sequence[Preference], reading: Reading) -> Floats:
    """The true reward of the sides of each pair, chosen then rejected [P, 2].

    `text` is any reward as the command line spells it (`smorm.rewards.section.reward_of_text`): a
    model folder, a file of scores or golds, a server, ..."""
    options = ScoringOptions(max_batch_tokens=reading.max_batch_tokens, overlong=reading.overlong)
    reward = open_reward(parse_reward(text, "--gold"), options)
    return np.array(values_of(reward, [pair.item for pair in pairs]))


@dataclass(frozen=True, slots=True)
class Head:
    """The head in float64, attribute rows on the attributes' own scales."""

    preference: Floats  # row 0 [D]
    attributes: Floats  # rows 1 to K [K, D]
    names: Sequence[str]

    @property
    def mean(self) -> Floats:
        """The mean attribute row [D] (the paper's r_m, view L)."""
        return np.asarray(self.attributes.mean(axis=0))


def head_of(model: RewardModel) -> Head:
    """The model's rows as the measures use them."""
    # In float64: differences of nearly equal scores lose digits in fp32.
    weight = model.network.head.weight.detach().double().cpu().numpy()
    scales = np.array([scale.scale for scale in model.card.scales]).reshape(-1, 1)
    return Head(weight[0], weight[1:] * scales, model.attributes)


def own_rows(model: RewardModel, hidden: Floats) -> Floats:
    """Rows [N, 1 + K] of hidden states [N, D]: preference, then attributes on their own scale."""
    weight = model.network.head.weight.detach().double().cpu().numpy()
    # Preference has no scale of its own; attributes get back what training divided by.
    rows = hidden @ weight.T
    return np.hstack([rows[:, :1], restore_scales(model.card.scales, rows[:, 1:])])
