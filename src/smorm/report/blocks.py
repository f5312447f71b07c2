"""What a page is made of: sections of HTML and figures, in order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from smorm.files import write_bytes, write_text
from smorm.report.canvas import Drawing
from smorm.report.figures import standalone
from smorm.report.tables import escape

_LONGEST_NAME = 60
_REM = 16.0 / 96.0  # inches
_SMALLEST_SCALE = 0.72  # below it the text of a figure is too small to read


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure, the name of its files, and what stands below it."""

    name: str
    drawing: Drawing
    caption: str

    def html(self) -> str:
        """The figure for a page: it scrolls rather than shrinks until nobody can read it."""
        svg = self.drawing.svg()
        # Inside HTML an SVG needs no namespaces, and so the page holds no address at all.
        for name in (
            ' xmlns="http://www.w3.org/2000/svg"',
            ' xmlns:xlink="http://www.w3.org/1999/xlink"',
        ):
            svg = svg.replace(name, "")
        least = min(self.drawing.size[0] * _SMALLEST_SCALE / _REM, 60.0)
        return (
            f'<figure><div class="wide" tabindex="0" style="--least:{least:.0f}rem">{svg}</div>'
            f"<figcaption>{escape(self.caption)}</figcaption></figure>"
        )


@dataclass(frozen=True, slots=True)
class PageSection:
    """A part of the page with a heading; a block is HTML or a figure."""

    identity: str
    title: str
    remark: str = ""
    blocks: list[str | Figure] = field(default_factory=list)

    def html(self) -> str:
        """The section's HTML."""
        small = f" <small>{escape(self.remark)}</small>" if self.remark else ""
        parts = [block.html() if isinstance(block, Figure) else block for block in self.blocks]
        heading = f'<section><h2 id="{self.identity}">{escape(self.title)}{small}</h2>'
        return "\n".join([heading, *(part for part in parts if part), "</section>"])


def folded(summary: str, html: str) -> str:
    """What is opened by a click."""
    return f"<details><summary>{escape(summary)}</summary>{html}</details>"


def write_figures(folder: Path, figures: Sequence[Figure]) -> list[Path]:
    """Write every figure as SVG and PNG, on white, and return the paths.

    Raises:
        OutputError: a file could not be written.
    """
    written: list[Path] = []
    for name, figure in zip(_file_names(figures), figures, strict=True):
        write_text(folder / f"{name}.svg", standalone(figure.drawing))
        write_bytes(folder / f"{name}.png", figure.drawing.png())
        written += [folder / f"{name}.svg", folder / f"{name}.png"]
    return written


def _file_names(figures: Sequence[Figure]) -> list[str]:
    """Names that any file system takes, each once."""
    names: list[str] = []
    for figure in figures:
        plain = re.sub(r"[^A-Za-z0-9]+", "-", figure.name).strip("-").lower()[:_LONGEST_NAME]
        plain = plain or "figure"
        number = sum(name == plain or name.startswith(f"{plain}--") for name in names)
        names.append(f"{plain}--{number + 1}" if number else plain)
    return names
