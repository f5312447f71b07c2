"""Several models as one: the mean of their rewards, the lowest, or the mean less the variance.

A member is a model and a view of it; it renders with its own tokenizer and template. Members whose
units differ can be standardised on a reference set first. `min` is worst-case optimisation (WCO),
`uwo` uncertainty-weighted optimisation (UWO) of Coste et al. 2023 (arXiv 2310.02743, section 3);
the mean of a preference model's F and an attribute model's L is the naive ensemble "SM".

Shapes: M members, N responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from smorm.arrays import Floats
from smorm.data.census import Census, DropReason
from smorm.data.records import Item
from smorm.errors import ConfigError, DataError
from smorm.model.views import apply_view
from smorm.scoring.held_out import FEWEST_PROMPTS, held_out, pooled_std
from smorm.scoring.reward_model import RewardModel, as_items
from smorm.scoring.scorer import DEFAULT_BATCH_TOKENS, Scorer
from smorm.text.limits import Overlong, Unscored

Combination = Literal["mean", "min", "uwo"]
COMBINATIONS: tuple[Combination, ...] = ("mean", "min", "uwo")
KAPPA = 0.5
"""Price of a unit of variance (their lambda) that Coste et al. take for best-of-N."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How members' rewards become one.

    Attributes:
        how: `mean`, `min`, or `uwo`: mean - kappa * variance over the members.
        kappa: the price of a unit of variance; 0 for `mean` and `min`.

    Raises:
        ConfigError: an unknown combination, a kappa below 0, or one that nothing uses.
    """

    how: Combination = "mean"
    kappa: float = 0.0

    def __post_init__(self) -> None:
        if self.how not in COMBINATIONS:
            raise ConfigError(f"combine {self.how!r}: expected one of {', '.join(COMBINATIONS)}")
        if not 0 <= self.kappa < np.inf:
            raise ConfigError(f"kappa {self.kappa}: expected 0 or more")
        if self.kappa and self.how != "uwo":
            raise ConfigError(f"kappa {self.kappa:g}: is for uwo, not for {self.how}")

    @property
    def name(self) -> str:
        """What a table calls it."""
        return f"uwo {self.kappa:g}" if self.how == "uwo" else self.how

    def combine(self, values: Floats) -> Floats:
        """Members' rewards [M, N] -> one reward [N]; the order of members has no influence. Where
        a member has none (NaN), the ensemble has none."""
        ordered = np.sort(np.asarray(values, dtype=np.float64), axis=0)
        lowest = ordered.min(axis=0)  # not the first of them: NaN is sorted to the end
        if self.how == "min":
            return np.asarray(lowest)
        # Measured from the lowest, so that equal members give exactly their value.
        above = ordered - lowest
        mean = lowest + above.mean(axis=0)
        return np.asarray(mean if self.how == "mean" else mean - self.kappa * above.var(axis=0))


@dataclass(frozen=True, slots=True)
class Standard:
    """A member's centre and spread over a reference set, in units of its reward."""

    centre: float = 0.0
    spread: float = 1.0

    def apply(self, values: Floats) -> Floats:
        """Rewards of any shape on the common scale."""
        return (values - self.centre) / self.spread


OWN_SCALE = Standard()
SIMPLE_MEAN = Rule()


def standard_of(values: Floats, prompts: Sequence[Any], name: str, rule: Rule) -> Standard:
    """A member's standard from its rewards [N] of responses in general.

    For `mean` the spread is pooled within prompts where ten prompts or more have several
    responses: a mean compares responses to one prompt, and Bradley–Terry leaves an offset between
    prompts open. Which member is lowest, and how far members are apart, depends on their levels:
    there the spread is over all responses. Views are standardised by the same rule.

    Raises:
        DataError: fewer than 10 prompts, or a reward that does not vary.
    """
    if (count := len(set(prompts))) < FEWEST_PROMPTS:
        raise DataError(
            f"{name}: it cannot be standardised: {count} prompts are too few. Give a file of "
            f"{FEWEST_PROMPTS} prompts or more, better some hundred."
        )
    data = held_out(np.asarray(values)[:, None], (name,), prompts, paired=False)
    within = rule.how == "mean" and data.within
    ones = np.ones(len(data.rows))
    spread = float(pooled_std(data.rows, data.prompts, ones, within=within)[0])
    if spread <= 1e-12 * float(np.abs(data.rows).max()):
        raise DataError(
            f"{name}: its reward does not vary over the reference set: it cannot be standardised. "
            "Use other data."
        )
    return Standard(float(data.rows.mean()), spread)


@dataclass(frozen=True, slots=True)
class Member:
    """A model of an ensemble, the view of it that counts (None is its own default) and its
    standard."""

    name: str
    model: RewardModel
    view: Any = None
    standard: Standard = OWN_SCALE

    def score_items(
        self,
        items: Sequence[Item],
        max_batch_tokens: int,
        overlong: Overlong | None,
        census: Census | None = None,
    ) -> list[Floats | Unscored]:
        """Rewards [N] of each item's responses on the common scale, or why there are none; prompts
        that were shortened are counted."""
        model, policy = self.model, overlong or self.model.card.overlong
        scorer = Scorer(model.network, model.renderer, policy, max_batch_tokens)  # type: ignore[arg-type]
        view, scales = model.view(self.view), model.card.scales
        found: list[Floats | Unscored] = []
        for item, one in zip(items, scorer.score(items), strict=True):
            if isinstance(one, Unscored):
                found.append(one)
                continue
            if one.truncated and census is not None:
                census.add(DropReason.SHORTENED_BY, item.where, detail=self.name)
            found.append(self.standard.apply(apply_view(view, one.rows, scales)))
        return found


@dataclass(frozen=True, slots=True)
class EnsembleScores:
    """Rewards of N responses by M members, on the common scale, in the order they were given."""

    members: Floats
    rule: Rule

    def view(self) -> Floats:
        """The ensemble's reward, [N]."""
        return self.rule.combine(self.members)

    def __len__(self) -> int:
        return int(self.members.shape[1])


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Members held in memory together, that score as one model does.

    >>> both = Ensemble((Member("Single", single, "F"), Member("Multi", multi)))  # doctest: +SKIP
    >>> both.score([("What is 2 + 2?", "4")]).view()                              # doctest: +SKIP

    Raises:
        ConfigError: no member, or two of one name.
    """

    members: tuple[Member, ...]
    rule: Rule = SIMPLE_MEAN

    def __post_init__(self) -> None:
        refuse_equal_names([member.name for member in self.members])

    @property
    def parameters(self) -> int:
        """Weights of all members; a score costs a forward pass of each."""
        return sum(parameters_of(member.model) for member in self.members)

    def score(
        self,
        records: Sequence[Any],
        *,
        max_batch_tokens: int = DEFAULT_BATCH_TOKENS,
        overlong: Overlong | None = None,
    ) -> EnsembleScores:
        """Score every response of every record, in order, by each member.

        Args:
            records, max_batch_tokens, overlong: as for `RewardModel.score`.

        Raises:
            DataError: a record that is not usable, or does not fit one of the members.
            ConfigError: a view that a member does not have.
        """
        items = [item for at, record in enumerate(records) for item in as_items(record, at)]
        rows = [np.zeros((len(self.members), 0))]
        found = self.score_items(items, max_batch_tokens=max_batch_tokens, overlong=overlong)
        for item, one in zip(items, found, strict=True):
            if isinstance(one, Unscored):
                raise DataError(f"{item.where}: {one}")
            rows.append(one)
        return EnsembleScores(np.concatenate(rows, axis=1), self.rule)

    def score_items(
        self,
        items: Sequence[Item],
        *,
        max_batch_tokens: int = DEFAULT_BATCH_TOKENS,
        overlong: Overlong | None = None,
        census: Census | None = None,
    ) -> list[Floats | Unscored]:
        """Members' rewards [M, N] of each item's responses, or which member has none, and why.

        Args:
            census: gets the prompts that a member's limit shortened.
        """
        rows: list[list[Floats]] = [[] for _ in items]
        reasons: dict[int, Unscored] = {}
        for member in self.members:
            found = member.score_items(items, max_batch_tokens, overlong, census)
            for at, one in enumerate(found):
                if isinstance(one, Unscored):
                    reasons.setdefault(at, Unscored(one.reason, f"{member.name}: {one}"))
                else:
                    rows[at].append(one)
        return [reasons[at] if at in reasons else np.stack(own) for at, own in enumerate(rows)]


def parameters_of(model: RewardModel) -> int:
    """How many weights a model has, head and adapters included."""
    return sum(weight.numel() for weight in model.network.parameters())


def refuse_equal_names(names: Sequence[str]) -> None:
    """An ensemble needs members that can be told apart.

    Raises:
        ConfigError: no member, or two of one name.
    """
    if not names:
        raise ConfigError("an ensemble needs members: name one model or more")
    twice = [name for at, name in enumerate(names) if name in names[:at]]
    if twice:
        raise ConfigError(
            f"ensemble: {twice[0]} is named twice. To combine rows of one model use a view "
            "(smorm view)."
        )
