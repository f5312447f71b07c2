"""Several rewards as one: their mean, the lowest (`min`: worst-case optimisation, WCO), or the mean
less the variance (`uwo`: uncertainty-weighted optimisation, UWO), as Coste et al. 2023 (arXiv
2310.02743, section 3). docs/ensembles.md has the rest. Shapes: M members, N responses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np

from smorm.arrays import Floats
from smorm.data.census import Census
from smorm.data.reading import OnBad, Source, read_records
from smorm.data.records import Item, prompt_key
from smorm.errors import ConfigError, DataError
from smorm.model.store import resolve
from smorm.printing import get_logger
from smorm.rewards import protocol
from smorm.rewards.protocol import Results, Reward, RewardView, ScoringOptions
from smorm.rewards.section import REWARDS, RewardSection
from smorm.scoring.fit_views import FEWEST_PROMPTS, held_out, pooled_std
from smorm.scoring.scorer import Scored
from smorm.text.limits import Unscored

log = get_logger(__name__)

Combination = Literal["mean", "min", "uwo"]
# Price of a unit of variance (their lambda) that Coste et al. take for best-of-N.
KAPPA = 0.5


@dataclass(frozen=True, slots=True)
class Rule:
    """How members' rewards become one."""

    # `mean`, `min`, or `uwo`: mean - kappa * variance over the members.
    how: Combination = "mean"
    # The price of a unit of variance; 0 for `mean` and `min`.
    kappa: float = 0.0

    def __post_init__(self) -> None:
        if self.how not in (known := get_args(Combination)):
            raise ConfigError(f"combine {self.how!r}: expected one of {', '.join(known)}")
        if not 0 <= self.kappa < np.inf:
            raise ConfigError(f"kappa {self.kappa}: expected 0 or more")
        if self.kappa and self.how != "uwo":
            raise ConfigError(f"kappa {self.kappa:g}: is for uwo, not for {self.how}")

    @property
    def name(self) -> str:
        """What a table calls it."""
        if self.how == "uwo":
            return f"uwo {self.kappa:g}"
        return self.how

    def combine(self, values: Floats) -> Floats:
        """Members' rewards [M, N] -> one reward [N]; the order of members has no influence. Where
        a member has none (NaN), the ensemble has none."""
        # Sorted, so that sums are taken in one order whatever the order of the members.
        ordered = np.sort(np.asarray(values, dtype=np.float64), axis=0)
        # Not the first of them: NaN is sorted to the end, and must not be passed over.
        lowest = ordered.min(axis=0)
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

# From a member, its view and its name to its standard.
Standardise = Callable[[Reward, RewardView, str], Standard]


def standard_of(values: Floats, prompts: Sequence[Any], name: str, rule: Rule) -> Standard:
    """A member's standard from its rewards [N] of responses in general. For `mean` the standard
    deviation is pooled within prompts where ten prompts or more have several responses, since
    Bradley–Terry leaves an offset between prompts open; `min` and `uwo` depend on the members'
    levels, so there it is over all responses."""
    if (count := len(set(prompts))) < FEWEST_PROMPTS:
        raise DataError(
            f"{name}: it cannot be standardised: {count} prompts are too few. Give a file of "
            f"{FEWEST_PROMPTS} prompts or more, better some hundred."
        )
    # The statistics of fitted views, of one column: views and members are standardised alike.
    data = held_out(np.asarray(values)[:, None], (name,), prompts, paired=False)
    within = rule.how == "mean" and data.within
    ones = np.ones(len(data.rows))
    std = float(pooled_std(data.rows, data.prompts, ones, within=within)[0])
    # Equal rewards have a deviation of rounding, relative to their size.
    if std <= 1e-12 * float(np.abs(data.rows).max()):
        raise DataError(
            f"{name}: its reward does not vary over the reference set: it cannot be standardised. "
            "Use other data."
        )
    return Standard(float(data.rows.mean()), std)


def standard_from(source: Source, rule: Rule, on_bad_record: OnBad = "stop") -> Standardise:
    """What gives a member's standard over the responses of `source` (`standard_of`)."""

    def standard(reward: Reward, view: RewardView, name: str) -> Standard:
        census = Census()
        reference = replace(source, keep_fields=not reward.reads_text)
        records = read_records(reference, None, census, on_bad_record)
        items = [record.item for record in records]
        skip = on_bad_record == "skip"
        values: list[Floats] = []
        prompts: list[str] = []
        results = protocol.score_all(reward, items, census, skip=skip)
        for item, scored in zip(items, results, strict=True):
            if scored is not None:
                values.append(view.read(scored.rows))
                prompts += [prompt_key(item.prompt)] * len(item)
        for line in census.lines():
            log.info("reference, %s: %s", name, line)
        if not values:
            raise DataError(f"{source.path}: {name} scores no record of it")
        return standard_of(np.concatenate(values), prompts, name, rule)

    return standard


@dataclass(frozen=True, slots=True)
class Member:
    """A member: its name, how to open it, and the view that counts (None is its own)."""

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
    standard: Standard

    def values(self, scored: Scored) -> Floats:
        """Rewards [N] on the common scale."""
        return self.standard.apply(self.view.read(scored.rows))

    def standardised(self, result: Scored | Unscored) -> Scored | Unscored:
        """The same with its rewards on the common scale as the only column."""
        if isinstance(result, Unscored):
            return result
        return replace(result, rows=self.values(result)[:, None])


class Ensemble(Reward):
    """Several rewards as one. Its columns are the members' rewards on the common scale [N, M].

    Args:
        standardise: gives a member's standard once it is loaded; by default none is taken.
        resident: whether all members are kept in memory; else one is loaded at a time, anew
            whenever they are gone through."""

    kind = "ensemble"

    def __init__(
        self,
        members: Sequence[Member],
        rule: Rule = SIMPLE_MEAN,
        standardise: Standardise | None = None,
        *,
        resident: bool = True,
    ) -> None:
        self.members, self.rule, self.standardise = tuple(members), rule, standardise
        self.names = [member.name for member in members]
        if not members:
            raise ConfigError("an ensemble needs members: name one reward or more")
        if len(set(self.names)) < len(members):
            raise ConfigError(f"ensemble: {', '.join(self.names)}: one is named twice")
        self.name = f"ensemble ({', '.join(self.names)})"
        if len(members) > 3:
            self.name = f"ensemble of {len(members)}"
        # By name, what is reported of each member that was loaded: it may be out of memory again.
        self.facts: dict[str, dict[str, Any]] = {}
        self._resident: list[OpenMember] = []
        if resident:
            self._resident = list(self.opened())
        for member in self._resident:
            # One member that is limited so limits the ensemble.
            self.shares_prompt |= member.reward.shares_prompt
            self.reads_text &= member.reward.reads_text
            self.cacheable &= member.reward.cacheable

    @classmethod
    def open(
        cls,
        section: RewardSection,
        options: ScoringOptions,
        *,
        on_bad_record: OnBad = "stop",
        resident: bool = True,
    ) -> Self:
        """The ensemble of a section; whether its members are there is seen before any is loaded.
        `on_bad_record` is of the file of references."""
        cls.find(section)
        kappa = section.kappa
        if kappa is None:
            kappa = KAPPA if section.combine == "uwo" else 0.0
        rule = Rule(section.combine, kappa)
        standardise = None
        if section.standardise is not None:
            standardise = standard_from(Source(section.standardise), rule, on_bad_record)
        members = [
            Member(member.title, partial(protocol.open_reward, member, options))
            for member in section.ensemble or ()
        ]
        return cls(members, rule, standardise, resident=resident)

    @classmethod
    def find(cls, section: RewardSection) -> None:
        """Look for every member, so that none is missed when the first has scored for hours."""
        names: dict[tuple[Path, str], str] = {}
        for member in section.ensemble or ():
            REWARDS[member.kind].find(member)
            if member.model is None:
                continue
            # By the real folder: a link under another name is the same model.
            key = (resolve(member.model).resolve(), repr(member.view))
            name = names.setdefault(key, member.title)
            if name != member.title:
                raise ConfigError(
                    f"ensemble: {name} and {member.title} are one folder, which would count twice. "
                    "To combine rows of one model use a view (smorm view)."
                )

    def opened(self) -> Iterator[OpenMember]:
        """The members in turn; one that is not resident is out of memory when the next is loaded,
        if the caller keeps no reference to it."""
        if self._resident:
            yield from self._resident
            return
        for member in self.members:
            # Under no name: a reference here would keep this member alive beside the next one.
            yield self._load(member)

    def _load(self, member: Member) -> OpenMember:
        reward = member.open()
        view = reward.view(member.view)
        standard = UNCHANGED
        if self.standardise is not None:
            standard = self.standardise(reward, view, member.name)
        provenance = reward.provenance
        # Of a model the hashes say which weights; how it renders is a function of them.
        if reward.kind == "model":
            provenance = {"hashes": provenance["model"]}
        self.facts[member.name] = {
            "name": member.name,
            "view": view.name,
            "parameters": sum(reward.parameters),
            "centre": standard.mean,
            "spread": standard.std,
            **provenance,
        }
        return OpenMember(member.name, reward, member.view, view, standard)

    @property
    def provenance(self) -> dict[str, Any]:
        """The members that were loaded, with their views, standards and hashes, and the rule."""
        rule = {"combine": self.rule.how, "kappa": self.rule.kappa}
        # After a pass over the members only: an ensemble is not loaded to say what it is.
        return {"members": list(self.facts.values()), "rule": rule}

    @property
    def parameters(self) -> tuple[int, ...]:  # type: ignore[override]
        """A pass of each model among the members that were loaded."""
        return tuple(filter(None, (facts["parameters"] for facts in self.facts.values())))

    def score(self, items: Sequence[Item]) -> Results:
        """By each member in turn; an item that one member cannot score has none, and names it."""
        by_member: list[Results] = []
        for member in self.opened():
            by_member.append(list(map(member.standardised, member.reward.score(items))))
            del member  # not kept while the next one is loaded
        return list(map(self.combined, zip(*by_member, strict=True)))

    def combined(self, results: Sequence[Scored | Unscored]) -> Scored | Unscored:
        """What the members [M] gave for one item, each as one column."""
        columns: list[Floats] = []
        counts: list[list[int | None]] = []
        truncated = False
        for name, result in zip(self.names, results, strict=True):
            if isinstance(result, Unscored):
                return Unscored(result.reason, f"{name}: {result}")
            columns.append(result.rows)
            counts.append(result.tokens)
            truncated |= result.truncated
        tokens: list[int | None] = []
        for of_members in zip(*counts, strict=True):
            total: int | None = sum(filter(None, of_members))
            # Where one member does not count them, how many all read is not known.
            if None in of_members:
                total = None
            tokens.append(total)
        return Scored(np.concatenate(columns, axis=1), tokens, truncated)

    def view(self, value: Any = None) -> RewardView:
        """The members combined by the rule; there is no other view."""
        if value is not None:
            raise ConfigError(f"view {value}: an ensemble has no views: give each member its own")
        return RewardView(self.rule.name, lambda rows: self.rule.combine(rows.T))

    def fields(self, rows: Floats) -> list[dict[str, Any]]:
        """What was combined."""
        # The place of the view, which stands before them in a line.
        members = [dict(zip(self.names, row, strict=True)) for row in rows.tolist()]
        return [{"view": None, "members": values} for values in members]

    def cost(self) -> str:
        """What a score costs, for the reader."""
        parameters = self.parameters
        passes = "1 forward pass" if len(parameters) == 1 else f"{len(parameters)} forward passes"
        each = " + ".join(f"{count:,}" for count in parameters)
        return f"cost: {passes} a response, {sum(parameters):,} parameters ({each})"

    def notes(self) -> list[str]:
        """What the ensemble is made of, and what a score costs, for the reader of a result."""
        kappa = f"{self.rule.kappa:g}"
        rules = {"mean": "mean", "min": "lowest", "uwo": f"mean less {kappa} x variance"}
        members = ", ".join(f"{name} ({facts['view']})" for name, facts in self.facts.items())
        notes = [f"{self.name}: {rules[self.rule.how]} of {members}. {self.cost()}."]
        if self.standardise is None:
            return notes
        for name, facts in self.facts.items():
            scale = f"mean {facts['centre']:.4g}, standard deviation {facts['spread']:.4g}"
            notes.append(f"{name}: standardised by {scale}.")
        return notes
