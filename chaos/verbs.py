"""The verbs that write something, each as a short command on the stage's files."""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from chaos.stage import Stage, config_values

OUT = "{out}"
"""Stands for the output in a command."""


@dataclass(frozen=True, slots=True)
class Writing:
    """A command that writes one file, or one folder."""

    name: str
    arguments: tuple[str, ...]
    folder: bool = False
    # Whether two runs write the same bytes: no times, no random numbers.
    same_bytes: bool = True

    def to(self, output: str) -> tuple[str, ...]:
        """The arguments with this output."""
        return tuple(argument.replace(OUT, output) for argument in self.arguments)


def writing_verbs(stage: Stage) -> list[Writing]:
    """Every verb that writes, but for those that take minutes; configurations are written into the
    stage's folder."""
    model, pairs, rated = str(stage.model), str(stage.pairs), str(stage.rated)
    suite = f"pairs={pairs}"
    config = stage.folder / "train.yaml"
    values = config_values(pairs, rated, "unset")
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    result = str(stage.result)
    return [
        Writing("check", ("check", pairs, "-o", OUT)),
        Writing("score", ("score", model, "--input", pairs, "--output", OUT)),
        Writing("eval", ("eval", model, "--suite", suite, "-o", OUT)),
        Writing("pick", ("pick", str(stage.scores), "--input", pairs, "--pairs", "-o", OUT)),
        Writing("view", ("view", model, "--data", pairs, "--kind", "learned", "-o", OUT)),
        Writing("parity", ("parity", model, str(stage.exported), "--view", "M", "-o", OUT)),
        Writing("relabel", ("relabel", pairs, "--gold", model, "-o", OUT)),
        Writing("report", ("report", result, "-o", OUT, "--no-figures")),
        Writing("card", ("card", model, result, "-o", OUT)),
        Writing("export", ("export", model, "--view", "F", "--output", OUT), folder=True),
        Writing("merge", ("merge", model, model, "--output", OUT), folder=True),
        Writing(
            "train", ("train", str(config), f"output.folder={OUT}"), folder=True, same_bytes=False
        ),
    ]
