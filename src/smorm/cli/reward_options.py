"""Rewards on the command line: which ones, and several as one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from smorm.errors import ConfigError

if TYPE_CHECKING:
    from smorm.rewards.protocol import Reward, ScoringOptions
    from smorm.rewards.section import RewardSection

REWARD_HELP = (
    "Model folder or hub id, http address, module:function, file.py:function, field:NAME, a file "
    "of scores, truth, KIND:ARGUMENT, or a YAML file; see docs/rewards.md."
)
COMBINATIONS = ("mean", "min", "uwo")

CombineOption = Annotated[
    str | None,
    typer.Option("--combine", help="Rewards as one: mean, min, or uwo (mean - kappa x variance)."),
]
KappaOption = Annotated[
    float | None, typer.Option("--kappa", help="Price of a unit of variance; for uwo, default 0.5.")
]
StandardiseOption = Annotated[
    str | None,
    typer.Option(
        "--standardise",
        help="File of responses: over them each member gets mean 0 and standard deviation 1 first.",
    ),
]
TokenFileOption = Annotated[
    Path | None, typer.Option("--token-file", help="Holds the token of a server.")
]


def sections_of(rewards: Sequence[str], token_file: Path | None) -> list[RewardSection]:
    """The section of each reward, with a name that tells it from the others."""
    from smorm.rewards.section import display_names, parse_reward

    sections = []
    for text in rewards:
        section = parse_reward(text)
        if token_file is not None and section.kind == "url":
            section = section.model_copy(update={"token_file": token_file})
        sections.append(section)
    names = display_names([section.place for section in sections])
    for index, section in enumerate(sections):
        sections[index] = section.model_copy(update={"name": section.name or names[index]})
    return sections


def combined(
    sections: Sequence[RewardSection],
    views: Sequence[str] | None,
    combine: str | None,
    kappa: float | None,
    standardise: str | None,
) -> RewardSection | None:
    """The rewards as one ensemble, each with its own view, all with one, or each with the one in
    its place; None without --combine.
    """
    from smorm.cli.options import choice
    from smorm.config import parse_section
    from smorm.rewards.section import RewardSection

    choice("--combine", combine, COMBINATIONS)
    if combine is None:
        for name, value in (("--kappa", kappa), ("--standardise", standardise)):
            if value is not None:
                raise ConfigError(f"{name} is for several rewards as one: add --combine")
        return None
    if kappa is not None and combine != "uwo":
        raise ConfigError(f"--kappa is for --combine uwo, not for {combine}")
    if kappa is not None and not 0 <= kappa < float("inf"):
        raise ConfigError(f"--kappa {kappa:g}: expected 0 or more")
    view_texts = list(views or [])
    if len(view_texts) not in {0, 1, len(sections)}:
        raise ConfigError(
            f"--view: {len(view_texts)} given for {len(sections)} rewards; give one for all, or "
            "one for each in the rewards' order"
        )
    members = [section.model_dump(exclude_unset=True) for section in sections]
    # One view is for all members.
    texts = itertools.cycle(view_texts or [None])
    for member, section, text in zip(members, sections, texts, strict=False):
        if text is not None:
            member["view"] = view_for(section, text)
    values = {"ensemble": members, "combine": combine, "kappa": kappa, "standardise": standardise}
    return parse_section(RewardSection, values, "--combine")


def view_for(section: RewardSection, text: str | None) -> Any:
    """A view of the command line as its reward reads it: a server by the name alone."""
    from smorm.cli.options import view_of

    return text if section.kind == "url" else view_of(text)


def open_section(
    section: RewardSection, options: ScoringOptions, on_bad_record: Literal["stop", "skip"]
) -> Reward:
    """A reward of the command line. Of an ensemble one member is in memory at a time: files and
    suites are scored by one member after the other."""
    from smorm.rewards.ensemble import Ensemble
    from smorm.rewards.protocol import open_reward

    if section.kind != "ensemble":
        return open_reward(section, options)
    return Ensemble.open(section, options, on_bad_record=on_bad_record, resident=False)
