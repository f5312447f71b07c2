"""Options that several verbs share, and the rewards that they name: which ones, several as one."""

from __future__ import annotations

import functools
import inspect
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Option

from smorm.errors import ConfigError

if TYPE_CHECKING:
    from smorm.rewards.protocol import Reward, ScoringOptions
    from smorm.rewards.section import RewardSection

OVERLONG = ("error", "drop", "truncate_prompt")
OnBad = Literal["stop", "skip"]
# What is done about a bad record, by `--skip-bad`.
ON_BAD: dict[bool, OnBad] = {False: "stop", True: "skip"}
COMBINATIONS = ("mean", "min", "uwo")
REWARD_HELP = (
    "Model folder or hub id, http address, module:function, file.py:function, field:NAME, a file "
    "of scores, truth, KIND:ARGUMENT, or a YAML file; see docs/rewards.md."
)
Text = str | None
Texts = list[str] | None  # of an option that may be repeated
File = Path | None
ResultOption = Annotated[File, Option("--output", "-o", help="Result, JSON.")]
OverlongOption = Annotated[
    Text, Option(help="error, drop or truncate_prompt; default: as in training.")
]
SkipBadOption = Annotated[bool, Option("--skip-bad", help="Drop bad records and count them.")]
BatchTokensOption = Annotated[int, Option(min=1, help="Tokens a forward pass.")]
DTYPES = ("float32", "bfloat16")
# How models are loaded: options of each verb that loads one (`loads_models`).
_LOADING: dict[str, Any] = {
    "device": Annotated[Text, Option(help="cpu, cuda, cuda:1 or auto; default: cpu.")],
    "dtype": Annotated[Text, Option(
        help="float32 or bfloat16, of models; their heads are always float32. Default: float32.",
    )],
    "max_tokens": Annotated[int | None, Option(
        "--max-tokens", help="Longest conversation of models; default: as in training.",
    )],
    "chat_template": Annotated[File, Option(
        "--chat-template", help="Jinja file: the chat template of models, in place of their own.",
    )],
}  # fmt: skip
ColumnsOption = Annotated[
    Texts,
    Option(help="Which column is which part: prompt=question,chosen=better; margin='a - b'."),
]
IgnoreOption = Annotated[Texts, Option(help="Fields that need not be read: model,meta.lang.")]
CombineOption = Annotated[
    Text, Option(help="Rewards as one: mean, min, or uwo (mean - kappa x variance).")
]
KappaOption = Annotated[
    float | None, Option(help="Price of a unit of variance; for uwo, default 0.5.")
]
StandardiseOption = Annotated[Text, Option(
    help="File of responses: over them each member gets mean 0 and standard deviation 1 first.",
)]  # fmt: skip
StepOption = Annotated[
    int | None, Option(min=1, help="Of a run's folder: the checkpoint of this step.")
]
TokenFileOption = Annotated[File, Option(help="Holds the token of a server.")]


def parse_columns(texts: Texts) -> dict[str, str | list[str]]:
    """`part=column` and `part=first+second`, several separated by commas; ConfigError otherwise."""
    columns: dict[str, str | list[str]] = {}
    for entry in listed(texts):
        target, equals, column = entry.partition("=")
        if not equals or not target.strip() or not column.strip():
            raise ConfigError(f"--columns {entry}: expected part=column, e.g. prompt=question")
        names = [name.strip() for name in column.split("+")]
        columns[target.strip()] = names[0] if len(names) == 1 else names
    return columns


def listed(texts: Texts) -> list[str]:
    """The entries of an option that may be repeated, each a list separated by commas."""
    return [entry.strip() for text in texts or [] for entry in text.split(",") if entry.strip()]


def view_of(text: Text) -> Any:
    """A view of the command line: F, L, M, published weights, or the content of a JSON file."""
    from smorm.rewards.model import read_view

    try:
        return read_view(text)
    except ConfigError as error:
        raise ConfigError(f"--{error}") from error


@dataclass(frozen=True, slots=True)
class Loading:
    """How models are loaded, as the command line says it; None where it says nothing."""

    device: Text = None
    dtype: Text = None
    max_tokens: int | None = None
    chat_template: File = None

    @property
    def options(self) -> dict[str, Any]:
        """As `RewardModel.load` and `ScoringOptions` take it; ConfigError for a template that
        cannot be read."""
        from smorm.text.tokenizers import read_template

        template = None
        if self.chat_template is not None:
            template = read_template(self.chat_template, "--chat-template")
        return {
            # "" is a mistake to be told, not a default.
            "device": "cpu" if self.device is None else self.device,
            "dtype": "float32" if self.dtype is None else self.dtype,
            "max_tokens": self.max_tokens, "chat_template": template,
        }  # fmt: skip

    @property
    def overrides(self) -> list[str]:
        """What is said, as `key=value` of a configuration."""
        values = {name: getattr(self, name) for name in _LOADING}
        # As JSON, which is YAML too: a path may hold what YAML would read as something else.
        return [
            f"{name}={json.dumps(value, default=str)}"
            for name, value in values.items()
            if value is not None
        ]


LOADING = Loading()


def loads_models(run: Callable[..., None]) -> Callable[..., None]:
    """Give a verb --device, --dtype, --max-tokens and --chat-template; its function takes all of
    them as one argument, `loading`."""

    @functools.wraps(run)
    def command(**values: Any) -> None:
        loading = Loading(**{name: values.pop(name) for name in _LOADING})
        choice("--dtype", loading.dtype, DTYPES)
        run(**values, loading=loading)

    # typer reads the options from the signature, with types in place of their names.
    declared = inspect.signature(run, eval_str=True).parameters
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [declared[name].replace(kind=kind) for name in declared if name != "loading"]
    parameters += [
        inspect.Parameter(name, kind, default=None, annotation=option)
        for name, option in _LOADING.items()
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def choice(name: str, value: Text, allowed: tuple[str, ...]) -> Any:
    """The value if it is allowed or None."""
    if value is not None and value not in allowed:
        raise ConfigError(f"{name} {value}: expected one of {', '.join(allowed)}")
    return value


def at_step(model: str, step: int | None) -> str:
    """The model as it was named, or of the checkpoint of a step of the run that it names."""
    if step is None:
        return model
    from smorm.training.checkpoint_model import model_at

    return str(model_at(Path(model), step))


def sections_of(
    rewards: Sequence[str], token_file: File, step: int | None = None
) -> list[RewardSection]:
    """The section of each reward, with a name that tells it from the others."""
    from smorm.rewards.section import display_names, parse_reward

    sections = []
    for text in rewards:
        section = parse_reward(text)
        if token_file is not None and section.kind == "url":
            section = section.model_copy(update={"token_file": token_file})
        if step is not None and section.model is None:
            raise ConfigError(f"--step {step}: for a run's folder, not for {text}")
        if section.model is not None:
            section = section.model_copy(update={"model": at_step(section.model, step)})
        sections.append(section)
    names = display_names([section.place for section in sections])
    for index, section in enumerate(sections):
        sections[index] = section.model_copy(update={"name": section.name or names[index]})
    return sections


def combined(
    sections: Sequence[RewardSection],
    views: Texts,
    combine: Text,
    kappa: float | None,
    standardise: Text,
) -> RewardSection | None:
    """The rewards as one ensemble, each with its own view, all with one, or each with the one in
    its place; None without --combine."""
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
    if kappa is not None and not 0 <= kappa < math.inf:
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


def view_for(section: RewardSection, text: Text) -> Any:
    """A view of the command line as its reward reads it: a server by the name alone."""
    return text if section.kind == "url" else view_of(text)


def open_section(section: RewardSection, options: ScoringOptions, on_bad_record: OnBad) -> Reward:
    """A reward of the command line. Of an ensemble one member is in memory at a time: files and
    suites are scored by one member after the other."""
    from smorm.rewards.ensemble import Ensemble
    from smorm.rewards.protocol import open_reward

    if section.kind != "ensemble":
        return open_reward(section, options)
    return Ensemble.open(section, options, on_bad_record=on_bad_record, resident=False)
