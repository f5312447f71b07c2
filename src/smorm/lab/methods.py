"""The methods of a study: models to train (arms) and rewards to compare (systems).

docs/rivals.md and docs/ensembles.md define them. Each arm has its own number of epochs, chosen on
development pairs of other seeds (results/lab/tuning)."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

from smorm.config import METHODS
from smorm.errors import ConfigError
from smorm.lab.config import ArmSection, LabConfig, SystemSection
from smorm.world import ATTRIBUTES


def _arm(
    data: Any,
    kind: str,
    epochs: float,
    *,
    rate: float | None = None,
    twin: int = 0,
    start: str | None = None,
    model: Mapping[str, Any] | None = None,
    **objective: Any,
) -> ArmSection:
    training = {"epochs": epochs}
    if rate is not None:
        training["learning_rate"] = rate
    objective = {"kind": kind, **objective}
    return ArmSection(
        data=data,
        twin=twin,
        start=start,
        objective=objective,
        training=training,
        model=dict(model or {}),
    )


# Name to what is trained. BSR's weight is its source's: 0.001 times the batch size.
ARMS: Final[dict[str, ArmSection]] = {
    "Single": _arm("pairs", "preference", 2),
    "Single-b": _arm("pairs", "preference", 2, twin=1),
    "Single-c": _arm("pairs", "preference", 2, twin=2),
    "Smoothing": _arm("pairs", "preference", 2, label_smoothing=0.1),
    "PosReg": _arm("pairs", "preference", 2, positive_regularisation=0.1),
    "Centering": _arm("pairs", "preference", 2, centering=0.01),
    "BSR": _arm("pairs", "preference", 2, bsr=0.032),
    "Frozen": _arm("pairs", "preference", 16, rate=3e-2, model={"freeze": True}),
    "Frozen-MLP": _arm("pairs", "preference", 4, rate=1e-3, model={"freeze": True, "head": "mlp"}),
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
    "ArmoRM": _arm("both", "armo", 2, start="Single", armo={"width": 64}),
    "WARM": ArmSection(merge=["Single", "Single-b", "Single-c"]),
}

_PREFERENCE_ROWS: Final = (
    "Single", "Smoothing", "PosReg", "Centering", "BSR", "Frozen", "Frozen-MLP", "GRM", "GRM-dpo",
    "GRM-noref", "ODIN", "Union",
)  # fmt: skip
_SEEDS: Final = ["Single:F", "Single-b:F", "Single-c:F"]

# Name to what is compared. SM is the paper's naive ensemble: the mean of two models' scores.
SYSTEMS: Final[dict[str, SystemSection]] = {
    **{name: SystemSection(members=[f"{name}:F"]) for name in _PREFERENCE_ROWS},
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

MAX_TOKENS: Final = 256
# `ArmSection.data` to the names of its files of pairs and of ratings.
_FILES: Final[dict[str, tuple[list[str], list[str]]]] = {
    "pairs": (["train-pairs"], []),
    "ratings": ([], ["train-rated"]),
    "both": (["train-pairs"], ["train-rated"]),
    "union": (["train-pairs", "rated-pairs"], []),
    "rated_pairs": (["rated-pairs"], []),
    "rated_ratings": ([], ["rated-in-pairs"]),
    "rated_both": (["rated-pairs"], ["rated-in-pairs"]),
}


def arms_of(config: LabConfig) -> dict[str, ArmSection]:
    """All arms that a configuration knows: its changes lie over the built-in ones."""
    arms = dict(ARMS)
    for name in _registered(config):
        arms[name] = _arm("both", name, 2)
        if not METHODS[name].uses_ratings:
            arms[name] = _arm("pairs", name, 2)
        elif not METHODS[name].uses_pairs:
            arms[name] = _arm("ratings", name, 8)
    for name, section in config.arms.items():
        if name in arms:
            section = _changed(arms[name], section)
        arms[name] = section
    return arms


def _registered(config: LabConfig) -> list[str]:
    """The names in `methods` that are of no system but of a registered training method, such as
    another package's: each is an arm and a system of its usual view."""
    if config.methods == "all":
        return []
    systems = {*SYSTEMS, *config.systems}
    return [name for name in config.methods if name not in systems and name in METHODS]


def _changed(built_in: ArmSection, changes: ArmSection) -> ArmSection:
    values = built_in.model_dump()
    for key, value in changes.model_dump(exclude_unset=True).items():
        # A section is changed key by key: another learning rate keeps the arm's epochs.
        if isinstance(value, dict):
            value = {**values[key], **value}
        values[key] = value
    return ArmSection(**values)


def training_config(arm: ArmSection, config: LabConfig, seed: int) -> dict[str, Any]:
    """An arm's configuration of `smorm train`; its data by names, its backbone left open."""
    preference, rated = _FILES[arm.data]
    data: dict[str, Any] = {"preference": list(preference), "rated": list(rated)}
    data |= {"max_tokens": MAX_TOKENS, "workers": 1, "cache": None}
    # Only where it is set: an empty section would give every arm another recipe than before.
    if arm.mixing:
        data["mixing"] = dict(arm.mixing)
    training: dict[str, Any] = {"batch_size": 32, "learning_rate": 1e-3, "threads": 1}
    training |= {"log_every": 25, "device": config.device, **config.training, **arm.training}
    # Twins see the same data in another order; no two seeds of a study share a training.
    training["seed"] = 1000 * arm.twin + seed
    model, objective = dict(arm.model), dict(arm.objective)
    return {"model": model, "data": data, "objective": objective, "training": training}


def systems_of(config: LabConfig) -> dict[str, SystemSection]:
    """The systems that a configuration compares, in its order; ConfigError for an unknown system,
    arm or view, a view of rows that an arm will not have, or two systems of one name in results."""
    known = {**SYSTEMS, **config.systems}
    for name in _registered(config):
        view = "F" if METHODS[name].uses_pairs else "L"
        known[name] = SystemSection(members=[f"{name}:{view}"])
    names = config.methods
    if names == "all":
        names = list(known)
    if not names:
        raise ConfigError("methods: name at least one")
    arms = arms_of(config)
    systems: dict[str, SystemSection] = {}
    labels: set[tuple[str, str]] = set()
    for name in dict.fromkeys(names):
        if name not in known:
            raise ConfigError(f"methods: {name!r} is unknown{_nearest(name, list(known))}")
        system = systems[name] = known[name]
        _check(name, system, arms)
        label = label_of(name, system)
        if label in labels:
            raise ConfigError(f"methods: two of them are called {' '.join(label)} in results")
        labels.add(label)
    return systems


def _check(name: str, system: SystemSection, arms: Mapping[str, ArmSection]) -> None:
    where = f"systems.{name}"
    views = ("F", "L", "M", *ATTRIBUTES)
    for arm, view in system.arm_views:
        if arm not in arms:
            raise ConfigError(f"{where}: no arm {arm!r}{_nearest(arm, list(arms))}")
        if view not in views:
            raise ConfigError(f"{where}: unknown view {view!r}; expected one of {', '.join(views)}")
        arm_stages([arm], arms)  # refuses arms that are missing and arms in a circle
        if lacking := _lacking(arm, view, arms):
            raise ConfigError(f"{where}: {arm}:{view} needs {lacking}")
    # A setting without effect is refused: the reader of a result would believe in it.
    if system.kappa and system.combine != "uwo":
        raise ConfigError(f"{where}: kappa is for uwo, not for {system.combine}")


def _lacking(name: str, view: str, arms: Mapping[str, ArmSection]) -> str:
    """The rows that a view reads and an arm's method and data do not train; "" if they do."""
    arm = arms[name]
    # An average has the rows of its arms, and merging refuses arms whose rows differ.
    if arm.merge:
        return _lacking(arm.merge[0], view, arms)
    if arm.reward is not None:
        if view == "F":
            return ""
        return f"its own view in the section of {name}'s reward, whose number is F here"
    if arm.start:  # rows may come with the model that it starts from
        return ""
    method = METHODS[arm.objective.get("kind", "joint")]
    pairs, ratings = _FILES[arm.data]
    if view != "F" and not (method.uses_ratings and ratings):
        return f"attribute rows, and {name} is trained on no ratings (data: {arm.data})"
    if view in ("F", "M") and not (method.uses_pairs and pairs):
        return f"a preference row, and {name} is trained on no pairs (data: {arm.data})"
    return ""


def label_of(name: str, system: SystemSection) -> tuple[str, str]:
    """Model and view, as results name them."""
    view = system.view
    if view is None and len(system.members) == 1:
        view = system.arm_views[0][1]
    return system.model or name, view or system.combine


def needed_arms(config: LabConfig) -> list[list[str]]:
    """Arms that the systems need, in stages: those of one need only those of earlier ones."""
    names: list[str] = []
    for system in systems_of(config).values():
        names += system.arms
    return arm_stages(names, arms_of(config))


def arm_stages(names: Iterable[str], arms: Mapping[str, ArmSection]) -> list[list[str]]:
    """These arms and all that they are made of, in stages that can be made one after another."""
    needs: dict[str, list[str]] = {}
    pending = list(dict.fromkeys(names))
    while pending:
        name = pending.pop(0)
        if name not in needs:
            needs[name] = arms[name].needs
            for source in needs[name]:
                problem = f"arms: {source!r}, which {name} needs, is"
                if source not in arms:
                    raise ConfigError(f"{problem} no arm")
                if arms[source].reward is not None:
                    raise ConfigError(f"{problem} a reward, no model")
            pending = [*needs[name], *pending]  # what an arm is made of stands next to it
    # All that is ready at once is one stage: workers do not wait for each other within it.
    sorter = TopologicalSorter(needs)
    try:
        sorter.prepare()
    except CycleError as error:
        raise ConfigError(f"arms: {' needs '.join(reversed(error.args[1]))}") from error
    stages = []
    while sorter.is_active():
        stages.append(sorted(sorter.get_ready(), key=list(needs).index))
        sorter.done(*stages[-1])
    return stages


def _nearest(name: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    if nearest:
        return f"; did you mean {nearest[0]!r}?"
    return f"; there are {', '.join(known)}"
