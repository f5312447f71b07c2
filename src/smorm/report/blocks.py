"""What a page is made of: sections of tables, figures and notes, which the templates render."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from smorm.files import write_bytes, write_text
from smorm.report.drawing import Drawing

_MAX_FILE_NAME = 60


@dataclass(frozen=True, slots=True)
class Cell:
    """A value and what stands in small print below it; `shade` is a CSS background."""

    text: str
    small: tuple[str, ...] = ()
    best: bool = False
    failed: bool = False
    shade: str = ""


MISSING = Cell("–")


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row with its heading; `sources` are links to the fingerprints of results."""

    heading: str
    small: str
    cells: Sequence[Cell]
    sources: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """Its first column holds headings. A `wide` one scrolls in its box; others fit a phone."""

    template: ClassVar[str] = "table"
    headings: Sequence[str]
    rows: Sequence[TableRow]
    note: str = ""
    wide: bool = True
    title: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure, the name of its files, and its caption. A page shows `panels` (by default the
    drawing itself), which stack where it is narrow."""

    template: ClassVar[str] = "figure"
    name: str
    drawing: Drawing
    caption: str
    panels: tuple[Drawing, ...] = ()


@dataclass(frozen=True, slots=True)
class Notes:
    """A list of texts, each with the label of what it is about, or ""."""

    template: ClassVar[str] = "notes"
    items: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Fold:
    """Blocks that are opened by a click."""

    template: ClassVar[str] = "fold"
    summary: str
    blocks: Sequence[Block]


Block = Table | Figure | Notes | Fold


@dataclass(slots=True)
class Section:
    """A section of the page: narrow tables in sight, then figures and wide tables, folded."""

    anchor: str
    title: str
    remark: str = ""
    blocks: list[Block] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    folds: list[Fold] = field(default_factory=list)


def write_figures(folder: Path, figures: Iterable[Figure]) -> list[Path]:
    """Write every figure as SVG and PNG, on white, and return the paths."""
    paths: list[Path] = []
    times_used: Counter[str] = Counter()
    for figure in figures:
        # A name that any file system accepts, each once.
        name = re.sub(r"[^A-Za-z0-9]+", "-", figure.name).strip("-").lower()
        name = name[:_MAX_FILE_NAME] or "figure"
        times_used[name] += 1
        if times_used[name] > 1:
            name = f"{name}--{times_used[name]}"
        svg, png = folder / f"{name}.svg", folder / f"{name}.png"
        write_text(svg, figure.drawing.standalone_svg())
        write_bytes(png, figure.drawing.png())
        paths += [svg, png]
    return paths
