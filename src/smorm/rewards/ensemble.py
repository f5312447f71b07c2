"""Several rewards as one: their mean, the lowest, or the mean less the variance.

A member is any reward and a view of it; a model renders with its own tokenizer and template.
Members whose units differ can be standardised on a reference set first. `min` is worst-case
optimisation (WCO), `uwo` uncertainty-weighted optimisation (UWO) of Coste et al. 2023 (arXiv
2310.02743, section 3); the mean of a preference model's F and an attribute model's L is the naive
ensemble "SM".

Shapes: M members, N responses.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from smorm.arrays import Floats
from smorm.data.census import Census
from smorm.data.reading import OnBad, Source, read_records
from smorm.data.records import Item, prompt_key
from smorm.errors import ConfigError, DataError
from smorm.model.store import resolve
from smorm.rewards.protocol import (
    Advance,
    Cost,
    Results,
    Reward,
    RewardView,
    ScoringOptions,
    find_reward,
    open_reward,
    score_all,
)
from smorm.rewards.section import RewardSection
from smorm.scoring.held_out import FEWEST_PROMPTS, held_out, pooled_std
from smorm.scoring.scorer import Scored
from smorm.text.limits import Unscored

log = logging.getLogger(__name__)

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

    @classmethod
    def of(cls, how: Combination, kappa: float | None) -> Rule:
        """With the published kappa where `uwo` has none."""
        if kappa is None:
            kappa = KAPPA if how == "uwo" else 0.0
        return cls(how, kappa)

    @property
    def name(self) -> str:
        """What a table calls it."""
        return f"uwo {self.kappa:g}" if self.how == "uwo" else self.how

    @property
    def formula(self) -> str:
        """For the reader of a note."""
        formulas = {"mean": "mean", "min": "lowest", "uwo": f"mean less {self.kappa:g} x variance"}
        return formulas[self.how]

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
        if self.how == "mean":
            return np.asarray(mean)
        return np.asarray(mean - self.kappa * above.var(axis=0))


@dataclass(frozen=True, slots=True)
class Standard:
    """A member's mean and standard deviation over a reference set, in units of its reward."""

    mean: float = 0.0
    std: float = 1.0

    def apply(self, values: Floats) -> Floats:
        """Rewards of any shape on the common scale."""
        return (values - self.mean) / self.std


UNCHANGED = Standard()
SIMPLE_MEAN = Rule()

Standardise = Callable[[Reward, RewardView, str], Standard]
"""From a member, its view and its name to its standard."""


def standard_of(values: Floats, prompts: Sequence[Any], name: str, rule: Rule) -> Standard:
    """A member's standard from its rewards [N] of responses in general.

    For `mean` the standard deviation is pooled within prompts where ten prompts or more have
    several responses: a mean compares responses to one prompt, and Bradley–Terry leaves an offset
    between prompts open. Which member is lowest, and how far members are apart, depends on their
    levels: there it is over all responses. Views are standardised by the same rule.

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
    std = float(pooled_std(data.rows, data.prompts, ones, within=within)[0])
    if std <= 1e-12 * float(np.abs(data.rows).max()):
        raise DataError(
            f"{name}: its reward does not vary over the reference set: it cannot be standardised. "
            "Use other data."
        )
    return Standard(float(data.rows.mean()), std)


def standard_from(source: Source, rule: Rule, on_bad_record: OnBad = "stop") -> Standardise:
    """What gives a member's standard over the responses of `source` (`standard_of`).

    Raises (when it is called):
        DataError: records that are not usable, fewer than 10 prompts, or a constant reward.
    """

    def standard(reward: Reward, view: RewardView, name: str) -> Standard:
        census = Census()
        items = [record.item for record in read_records(source, None, census, on_bad_record)]
        skip = on_bad_record == "skip" or reward.drops_overlong
        values: list[Floats] = []
        prompts: list[str] = []
        for item, scored in zip(items, score_all(reward, items, census, skip=skip), strict=True):
            if scored is not None:
                values.append(view.read(scored.rows))
                prompts += [prompt_key(item.prompt)] * len(item.responses)
        for line in census.lines():
            log.info("reference, %s: %s", name, line)
        if not values:
            raise DataError(f"{source.path}: {name} scores no record of it")
        return standard_of(np.concatenate(values), prompts, name, rule)

    return standard


@dataclass(frozen=True, slots=True)
class Member:
    """A member before it is loaded: its name, how to open it, and the view that counts (None is
    its own)."""

    name: str
    open: Callable[[], Reward]
    view: Any = None


@dataclass(frozen=True, slots=True)
class OpenMember:
    """A member that is loaded, with its standard; `requested` is its view as it was named."""

    name: str
    reward: Reward
    requested: Any
    view: RewardView
    standard: Standard = UNCHANGED

    def values(self, scored: Scored) -> Floats:
        """Rewards [N] on the common scale."""
        return self.standard.apply(self.view.read(scored.rows))

    @property
    def facts(self) -> MemberFacts:
        """What is reported of it."""
        return MemberFacts(
            self.name, self.view.name, self.reward.cost, self.standard, self.reward.provenance
        )


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """What is reported of a member, when it may be out of memory again."""

    name: str
    view: str
    cost: Cost
    standard: Standard
    provenance: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a fingerprint."""
        values: dict[str, Any] = {
            "name": self.name,
            "view": self.view,
            "parameters": sum(self.cost.parameters),
            "centre": self.standard.mean,
            "spread": self.standard.std,
        }
        hashes = self.provenance.get("model")
        if isinstance(hashes, dict):  # of a model folder; it renders and computes by itself
            return {**values, "hashes": hashes}
        return {**values, **self.provenance}


class Ensemble(Reward):
    """Several rewards as one. Its columns are the members' rewards on the common scale [N, M].

    >>> members = [Member(path, partial(open_model, path)) for path in paths]  # doctest: +SKIP
    >>> Ensemble(members, Rule("uwo", 0.5)).score(items)                       # doctest: +SKIP

    Args:
        standardise: gives a member's standard once it is loaded; by default none is taken.
        resident: whether all members are kept in memory; else one is loaded at a time, anew
            whenever they are gone through.

    Raises:
        ConfigError: no member, or two of one name.
    """

    kind = "ensemble"

    def __init__(
        self,
        members: Sequence[Member],
        rule: Rule = SIMPLE_MEAN,
        standardise: Standardise | None = None,
        *,
        resident: bool = True,
    ) -> None:
        refuse_equal_names([member.name for member in members])
        self.members, self.rule, self.resident = tuple(members), rule, resident
        self.standardise = standardise
        self.name = ensemble_name([member.name for member in members])
        self._open: dict[str, OpenMember] = {}
        self._facts: dict[str, MemberFacts] = {}
        if resident:
            self._open = {member.name: member for member in self.opened()}
            self.shares_prompt = any(m.reward.shares_prompt for m in self._open.values())
            self.drops_overlong = any(m.reward.drops_overlong for m in self._open.values())
            self.reads_text = all(m.reward.reads_text for m in self._open.values())
            self.cacheable = all(m.reward.cacheable for m in self._open.values())

    @classmethod
    def open(cls, section: RewardSection, options: ScoringOptions, views: Sequence[Any]) -> Self:
        """With all members in memory."""
        return cls.of_section(section, options)

    @classmethod
    def of_section(
        cls,
        section: RewardSection,
        options: ScoringOptions,
        *,
        on_bad_record: OnBad = "stop",
        resident: bool = True,
    ) -> Self:
        """The ensemble of a section; whether its members are there is seen before any is loaded.

        Args:
            on_bad_record: of the file of references.
        """
        cls.find(section)
        rule = Rule.of(section.combine, section.kappa)
        standardise = None
        if section.standardise is not None:
            standardise = standard_from(Source(section.standardise), rule, on_bad_record)
        members = [
            Member(member.title, partial(open_reward, member, options))
            for member in section.ensemble or ()
        ]
        return cls(members, rule, standardise, resident=resident)

    @classmethod
    def find(cls, section: RewardSection) -> None:
        """Look for every member, so that none is missed when the first has scored for hours.

        Raises:
            ConfigError, ModelError: a member that is not there, or one folder twice.
        """
        names: dict[tuple[Path, str], str] = {}
        for member in section.ensemble or ():
            find_reward(member)
            if member.model is None:
                continue
            key = (resolve(member.model).resolve(), repr(member.view))
            name = names.setdefault(key, member.title)
            if name != member.title:
                raise ConfigError(
                    f"ensemble: {name} and {member.title} are one folder, which would count twice. "
                    "To combine rows of one model use a view (smorm view)."
                )

    def opened(self) -> Iterator[OpenMember]:
        """The members in turn. One that is not resident is out of memory when the next is loaded,
        if the caller keeps no reference to it."""
        for member in self.members:
            if member.name in self._open:
                yield self._open[member.name]
                continue
            loaded = self._load(member)
            self._facts[member.name] = loaded.facts
            yield loaded
            # The generator's own reference would keep this member alive beside the next one.
            del loaded

    def _load(self, member: Member) -> OpenMember:
        reward = member.open()
        view = reward.view(member.view)
        standard = UNCHANGED
        if self.standardise is not None:
            standard = self.standardise(reward, view, member.name)
        return OpenMember(member.name, reward, member.view, view, standard)

    @property
    def facts(self) -> list[MemberFacts]:
        """What is reported of each member; one that never was loaded is loaded for it."""
        if len(self._facts) < len(self.members):
            for _ in self.opened():
                pass
        return [self._facts[member.name] for member in self.members]

    @property
    def provenance(self) -> dict[str, Any]:
        """Members with their views, standards and hashes, and the rule."""
        members = [facts.as_dict() for facts in self.facts]
        return {
            "members": members,
            "rule": {"combine": self.rule.how, "kappa": self.rule.kappa},
        }

    @property
    def cost(self) -> Cost:
        """A pass of each member."""
        parameters: tuple[int, ...] = ()
        for facts in self.facts:
            parameters += facts.cost.parameters
        return Cost(parameters)

    def score(self, items: Sequence[Item], *, advance: Advance | None = None) -> Results:
        """By each member in turn; an item that one member cannot score has none, and names it."""
        columns: list[Results] = []
        for member in self.opened():
            columns.append([_standardised(member, one) for one in member.reward.score(items)])
            del member
        if advance is not None:
            advance(len(items))
        return [self.combined(results) for results in zip(*columns, strict=True)]

    def combined(self, results: Sequence[Scored | Unscored]) -> Scored | Unscored:
        """What the members [M] gave for one item, each as one column."""
        for facts, result in zip(self.members, results, strict=True):
            if isinstance(result, Unscored):
                return Unscored(result.reason, f"{facts.name}: {result}")
        scored = [result for result in results if isinstance(result, Scored)]
        tokens = [sum_known(counts) for counts in zip(*(one.tokens for one in scored), strict=True)]
        rows = np.concatenate([one.rows for one in scored], axis=1)
        return Scored(rows, tokens, any(one.truncated for one in scored))

    def view(self, value: Any = None) -> RewardView:
        """The members combined by the rule; there is no other view."""
        if value is not None:
            raise ConfigError(f"view {value}: an ensemble has no views: give each member its own")
        return RewardView(self.rule.name, self._combine)

    def _combine(self, rows: Floats) -> Floats:
        return self.rule.combine(rows.T)

    def fields(self, rows: Floats) -> list[dict[str, Any]]:
        """What was combined."""
        names = [member.name for member in self.members]
        return [{"members": dict(zip(names, row, strict=True))} for row in rows.tolist()]

    def notes(self) -> list[str]:
        """What the ensemble is made of, and what a score costs, for the reader of a result."""
        members = ", ".join(f"{facts.name} ({facts.view})" for facts in self.facts)
        notes = [f"{self.name}: {self.rule.formula} of {members}. {self.cost}."]
        for facts in self.facts:
            if facts.standard != UNCHANGED:
                mean, std = facts.standard.mean, facts.standard.std
                notes.append(
                    f"{facts.name}: standardised by mean {mean:.4g}, standard deviation {std:.4g}."
                )
        return notes


def _standardised(member: OpenMember, result: Scored | Unscored) -> Scored | Unscored:
    if isinstance(result, Unscored):
        return result
    return Scored(member.values(result)[:, None], result.tokens, result.truncated)


def sum_known(counts: Sequence[int | None]) -> int | None:
    """The sum of token counts; None where one of them is not known."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def ensemble_name(names: Sequence[str]) -> str:
    """What results call an ensemble."""
    return f"ensemble ({', '.join(names)})" if len(names) < 4 else f"ensemble of {len(names)}"


def refuse_equal_names(names: Sequence[str]) -> None:
    """An ensemble needs members that can be told apart.

    Raises:
        ConfigError: no member, or two of one name.
    """
    if not names:
        raise ConfigError("an ensemble needs members: name one reward or more")
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ConfigError(
                f"ensemble: {name} is named twice. To combine rows of one model use a view "
                "(smorm view)."
            )
