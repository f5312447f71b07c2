"""The methods: models to train (arms) and rewards to compare (systems).

Definitions are those of docs/rivals.md and docs/ensembles.md; all start from one policy and see the
same pairs in the same order. Epochs are each arm's own, chosen on development pairs of other seeds
(results/lab/tuning).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from smorm.config import METHODS
from smorm.errors import ConfigError
from smorm.lab.config import ArmSection, LabConfig, SystemSection
from smorm.world import ATTRIBUTES


def _arm(data: str, kind: str, epochs: float, *, twin: int = 0, **objective: Any) -> ArmSection:
    values: dict[str, Any] = {"data": data, "twin": twin}
    values["objective"] = {"kind": kind, **objective}
    values["training"] = {"epochs": epochs}
    return ArmSection(**values)


ARMS: Final[dict[str, ArmSection]] = {
    "Single": _arm("pairs", "preference", 2),
    "Single-b": _arm("pairs", "preference", 2, twin=1),
    "Single-c": _arm("pairs", "preference", 2, twin=2),
    "Smoothing": _arm("pairs", "preference", 2, label_smoothing=0.1),
    "PosReg": _arm("pairs", "preference", 2, positive_regularisation=0.1),
    "Centering": _arm("pairs", "preference", 2, centering=0.01),
    "BSR": _arm("pairs", "preference", 2, bsr=0.032),
    "Frozen": ArmSection(
        objective={"kind": "preference"},
        training={"epochs": 16, "learning_rate": 3e-2},
        model={"freeze": True},
    ),
    "Frozen-MLP": ArmSection(
        objective={"kind": "preference"},
        training={"epochs": 4, "learning_rate": 1e-3},
        model={"freeze": True, "head": "mlp"},
    ),
    "GRM": _arm("pairs", "grm", 2),
    "GRM-dpo": _arm("pairs", "grm", 2, grm={"regulariser": "dpo"}),
    "GRM-noref": _arm("pairs", "grm", 2, grm={"regulariser": "dpo_noref"}),
    "ODIN": _arm("pairs", "odin", 4),
    "Union": _arm("union", "preference", 2),
    "Multi": _arm("ratings", "regression", 8),
    "SMORM": _arm("both", "joint", 2),
    "SMORM-b": _arm("both", "joint", 2, twin=1),
    "SMORM-c": _arm("both", "joint", 2, twin=2),
    "Rated-Single": _arm("rated_pairs", "preference", 8),
    "Rated-Multi": _arm("rated_ratings", "regression", 8),
    "Rated-SMORM": _arm("rated_both", "joint", 8),
    "ArmoRM": ArmSection(
        data="both",
        start="Single",
        objective={"kind": "armo", "armo": {"width": 64}},
        training={"epochs": 2},
    ),
    "WARM": ArmSection(merge=["Single", "Single-b", "Single-c"]),
}
"""Name to what is trained. BSR's weight is its source's: 0.001 times the batch size."""

_SEEDS: Final = ["Single:F", "Single-b:F", "Single-c:F"]

SYSTEMS: Final[dict[str, SystemSection]] = {
    "Single": SystemSection(members=["Single:F"]),
    "Smoothing": SystemSection(members=["Smoothing:F"]),
    "PosReg": SystemSection(members=["PosReg:F"]),
    "Centering": SystemSection(members=["Centering:F"]),
    "BSR": SystemSection(members=["BSR:F"]),
    "Frozen": SystemSection(members=["Frozen:F"]),
    "Frozen-MLP": SystemSection(members=["Frozen-MLP:F"]),
    "GRM": SystemSection(members=["GRM:F"]),
    "GRM-dpo": SystemSection(members=["GRM-dpo:F"]),
    "GRM-noref": SystemSection(members=["GRM-noref:F"]),
    "ODIN": SystemSection(members=["ODIN:F"]),
    "Union": SystemSection(members=["Union:F"]),
    "Multi": SystemSection(members=["Multi:L"]),
    "SM": SystemSection(members=["Single:F", "Multi:L"]),
    "Ens-mean": SystemSection(members=_SEEDS),
    "Ens-min": SystemSection(members=_SEEDS, combine="min"),
    "Ens-UWO": SystemSection(members=_SEEDS, combine="uwo", kappa=0.5),
    "WARM": SystemSection(members=["WARM:F"]),
    "ArmoRM": SystemSection(members=["ArmoRM:F"]),
    "SMORM-F": SystemSection(members=["SMORM:F"], model="SMORM", view="F"),
    "SMORM-L": SystemSection(members=["SMORM:L"], model="SMORM", view="L"),
    "SMORM-M": SystemSection(members=["SMORM:M"], model="SMORM", view="M"),
    "Rated-Single": SystemSection(members=["Rated-Single:F"]),
    "Rated-Multi": SystemSection(members=["Rated-Multi:L"]),
    "Rated-SM": SystemSection(members=["Rated-Single:F", "Rated-Multi:L"]),
    "Rated-SMORM-F": SystemSection(members=["Rated-SMORM:F"], model="Rated-SMORM", view="F"),
    "Rated-SMORM-M": SystemSection(members=["Rated-SMORM:M"], model="Rated-SMORM", view="M"),
}
"""Name to what is compared. SM is the paper's naive ensemble: the mean of two models' scores."""


_RATINGS: Final = ("ratings", "both", "rated_ratings", "rated_both")
_PAIRS: Final = ("pairs", "both", "union", "rated_pairs", "rated_both")


def arms_of(config: LabConfig) -> dict[str, ArmSection]:
    """All arms that a configuration knows: its own changes lie over the built-in ones."""
    found = dict(ARMS)
    for name, own in config.arms.items():
        found[name] = _over(found[name], own) if name in found else own
    return found


def _over(built_in: ArmSection, own: ArmSection) -> ArmSection:
    given = own.model_dump(exclude_unset=True)
    values = built_in.model_dump()
    for key, value in given.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    return ArmSection(**values)


def systems_of(config: LabConfig) -> dict[str, SystemSection]:
    """The systems that a configuration compares, in its order.

    Raises:
        ConfigError: an unknown system, arm or view, a view of rows that an arm will not have, or
            two systems of one name in results.
    """
    known = {**SYSTEMS, **config.systems}
    names = list(known) if config.methods == "all" else config.methods
    if not names:
        raise ConfigError("methods: name at least one")
    found = {}
    for name in names:
        if name not in known:
            raise ConfigError(f"methods: {name!r} is unknown{_near(name, list(known))}")
        found[name] = known[name]
    arms = arms_of(config)
    for name, system in found.items():
        _check(name, system, arms)
    labels = [label_of(name, system) for name, system in found.items()]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ConfigError(f"methods: two of them are called {' '.join(twice)} in results")
    return found


def _check(name: str, system: SystemSection, arms: Mapping[str, ArmSection]) -> None:
    where = f"systems.{name}"
    for arm, view in system.parts:
        if arm not in arms:
            raise ConfigError(f"{where}: no arm {arm!r}{_near(arm, list(arms))}")
        if view not in ("F", "L", "M", *ATTRIBUTES):
            expected = ", ".join(("F", "L", "M", *ATTRIBUTES))
            raise ConfigError(f"{where}: unknown view {view!r}; expected one of {expected}")
        for source in _all_needed(arm, arms):
            if source not in arms:
                raise ConfigError(f"arms: {source!r}, which {arm} needs, is no arm")
        if lacking := _lacking(arm, view, arms):
            raise ConfigError(f"{where}: {arm}:{view} needs {lacking}")
    if system.kappa and system.combine != "uwo":
        raise ConfigError(f"{where}: kappa is for uwo, not for {system.combine}")


def _lacking(name: str, view: str, arms: Mapping[str, ArmSection]) -> str:
    """What a view reads and an arm's method and data do not train; "" where they do."""
    arm = arms[name]
    if arm.merge:
        return _lacking(arm.merge[0], view, arms)
    if arm.start:  # rows may come with the model that it starts from
        return ""
    method = METHODS[arm.objective.get("kind", "joint")]
    if view != "F" and not (method.uses_ratings and arm.data in _RATINGS):
        return f"attribute rows, and {name} is trained on no ratings (data: {arm.data})"
    if view in ("F", "M") and not (method.uses_pairs and arm.data in _PAIRS):
        return f"a preference row, and {name} is trained on no pairs (data: {arm.data})"
    return ""


def label_of(name: str, system: SystemSection) -> tuple[str, str]:
    """Model and view, as results name them."""
    if system.view is not None:
        return system.model or name, system.view
    views = [view for _, view in system.parts]
    return system.model or name, views[0] if len(views) == 1 else system.combine


def needed_arms(config: LabConfig) -> list[list[str]]:
    """Arms that the systems need, in stages: those of one need only those of earlier ones.

    Raises:
        ConfigError: an unknown name, or arms that need each other.
    """
    arms = arms_of(config)
    asked = [arm for system in systems_of(config).values() for arm in system.arms]
    needed = dict.fromkeys(one for arm in asked for one in (arm, *_all_needed(arm, arms)))
    stages: list[list[str]] = []
    done: set[str] = set()
    while len(done) < len(needed):
        ready = [one for one in needed if one not in done and done.issuperset(arms[one].needs)]
        stages.append(ready)
        done.update(ready)
    return stages


def _all_needed(arm: str, arms: Mapping[str, ArmSection], above: tuple[str, ...] = ()) -> list[str]:
    """What an arm is made of, directly or not; unknown names too.

    Raises:
        ConfigError: arms that need each other.
    """
    if arm in above:
        raise ConfigError(f"arms: {' needs '.join((*above, arm))}")
    found = arms[arm].needs if arm in arms else []
    return [*found, *(deep for one in found for deep in _all_needed(one, arms, (*above, arm)))]


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"
