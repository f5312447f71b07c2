"""Several models as one reward: what `smorm score --combine` is to a file, for pools of answers.

Shapes: `M` members, `N` answers of a pool.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from smorm.data.census import Census
from smorm.data.reading import Source
from smorm.evaluation.ensembles import standard_from
from smorm.evaluation.metrics import Floats
from smorm.model.store import resolve
from smorm.scoring.ensemble import KAPPA, OWN_SCALE, Ensemble, Member, Rule, parameters_of
from smorm.scoring.ensemble_jobs import MemberFacts
from smorm.scoring.reward_model import RewardModel
from smorm.stress.config import MemberSection, RewardSection
from smorm.stress.pools import Pool
from smorm.stress.rewards import Reading
from smorm.text.limits import Unscored


@dataclass(frozen=True, slots=True)
class EnsembleReward:
    """Models whose rewards are combined; all of them are in memory together."""

    ensemble: Ensemble
    reading: Reading
    reads_text: bool = field(default=True, init=False)

    @property
    def shown(self) -> str:
        """What stands where a model has its view: the rule."""
        return self.ensemble.rule.name

    @property
    def marks(self) -> Mapping[str, Any]:
        """Members with their views, standards and hashes, and the rule."""
        rule = self.ensemble.rule
        members = [_facts(member).as_dict() for member in self.ensemble.members]
        return {"members": members, "rule": {"combine": rule.how, "kappa": rule.kappa}}

    @property
    def joint(self) -> bool:
        """Whether a long answer shortens the prompt of the others in its pool."""
        own = [self.reading.overlong or one.model.card.overlong for one in self.ensemble.members]
        return "truncate_prompt" in own

    def score(self, pools: Sequence[Pool], census: Census) -> list[Floats | Unscored]:
        """The combined rewards; a pool that one member cannot score has none, and names it."""
        found = self.ensemble.score_items(
            [pool.item for pool in pools],
            max_batch_tokens=self.reading.max_batch_tokens,
            overlong=self.reading.overlong,
            census=census,
        )
        return [
            one if isinstance(one, Unscored) else self.ensemble.rule.combine(one) for one in found
        ]


def open_ensemble(
    section: RewardSection, reading: Reading, view_of: Callable[[Any], Any]
) -> EnsembleReward:
    """Load the members of `section.ensemble`, standardised where the section asks for it.

    Raises:
        ConfigError: a view that a member does not have.
        ModelError: a folder that is not there or not a reward model.
        DataError: a reference file that is not usable.
    """
    kappa = section.kappa
    if kappa is None:
        kappa = KAPPA if section.combine == "uwo" else 0.0
    rule, members = Rule(section.combine, kappa), section.ensemble or []
    for one in members:  # before the first is loaded, which may take long
        resolve(one.model)
    return EnsembleReward(
        Ensemble(tuple(_member(one, section, rule, reading, view_of) for one in members), rule),
        reading,
    )


def _member(
    one: MemberSection,
    section: RewardSection,
    rule: Rule,
    reading: Reading,
    view_of: Callable[[Any], Any],
) -> Member:
    model = RewardModel.load(one.model, device=reading.device)
    view = model.view(view_of(one.view))
    standard = OWN_SCALE
    if section.standardise is not None:
        measure = standard_from(
            Source(section.standardise),
            rule,
            overlong=reading.overlong,
            max_batch_tokens=reading.max_batch_tokens,
        )
        standard = measure(model, view, one.title)
    return Member(one.title, model, view, standard)


def _facts(member: Member) -> MemberFacts:
    model = member.model
    view, hashes = model.view(member.view).name, dict(model.card.hashes)
    return MemberFacts(member.name, view, parameters_of(model), member.standard, hashes)
