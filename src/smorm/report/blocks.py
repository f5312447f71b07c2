"""What a page is made of: sections of tables, figures and notes, which the templates render.

Figures become SVG or PNG. Their colours are those of Okabe and Ito (2008), which colour-blind
readers can distinguish. Text and axes take the reader's text colour (`currentColor`) and so suit
light and dark pages."""

from __future__ import annotations

import io
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, ClassVar

from smorm.files import write_bytes, write_text
from smorm.printing import printable

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
# matplotlib knows no `currentColor`: this colour, used nowhere else, stands for it until then.
INK = "#010203"
_FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
_MAX_LABEL, _MAX_TITLE = 26, 90  # characters
_DOTS_PER_INCH = 160
_ON_WHITE = 'style="background:#fff;color:#1b1f24"'
_MAX_FILE_NAME = 60
_INKED = (
    "text.color", "xtick.color", "ytick.color", "axes.edgecolor", "axes.labelcolor",
    "axes.titlecolor",
)  # fmt: skip
_SETTINGS: dict[str, Any] = {
    # Text stays text: sharp, selectable, in the reader's fonts.
    "svg.fonttype": "none",
    # A dollar sign in a model's name is a dollar sign.
    "text.parse_math": False,
    "font.size": 9.5, "hatch.linewidth": 0.6, "hatch.color": INK, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, **dict.fromkeys(_INKED, INK),
}  # fmt: skip


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
class Drawing:
    """A figure that is drawn on demand; `size` is in inches, and a screen reader says its title."""

    draw: Callable[[Any], None]
    size: tuple[float, float]
    title: str

    def svg(self, *, title: bool = True) -> str:
        """SVG text: text stays text, ink is the reader's; without its title for under a heading."""
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        stream = io.StringIO()
        with self._drawn(title) as figure:
            FigureCanvasSVG(figure)
            figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
        return _tidy(stream.getvalue(), printable(self.title))

    def inline_svg(self) -> str:
        """SVG for inside HTML, which needs no namespaces: the page then holds no address at all."""
        return re.sub(r' xmlns(:xlink)?="[^"]*"', "", self.svg(title=False))

    def standalone_svg(self) -> str:
        """SVG for a file of its own, on white with dark ink."""
        return self.svg().replace("<svg ", f"<svg {_ON_WHITE} ", 1)

    def png(self) -> bytes:
        """PNG on white, for slides and papers."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        stream = io.BytesIO()
        with self._drawn(title=True) as figure:
            FigureCanvasAgg(figure)
            options = {"dpi": _DOTS_PER_INCH, "facecolor": "white", "metadata": {"Software": None}}
            figure.savefig(stream, format="png", **options)
        return stream.getvalue()

    @contextmanager
    def _drawn(self, title: bool) -> Iterator[Any]:
        import matplotlib
        from matplotlib.figure import Figure

        # Without a fixed salt ids are random, and the same figure would give other bytes.
        settings = _SETTINGS | {"svg.hashsalt": printable(self.title)}
        with matplotlib.rc_context(settings), warnings.catch_warnings():
            # Fonts of this machine only measure the text; the reader's browser draws it.
            warnings.filterwarnings("ignore", message=".*[Gg]lyph.*missing from.*font")
            figure = Figure(figsize=self.size, layout="constrained")
            if title:
                figure.suptitle(short(self.title, _MAX_TITLE), fontsize=11.5, x=0.01, ha="left")
            self.draw(figure)
            yield figure


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


def short(text: str, longest: int = _MAX_LABEL) -> str:
    """A label that fits; the tables have the whole name."""
    text = " ".join(printable(text).split()) or "(no name)"
    return text if len(text) <= longest else f"{text[: longest - 9]}…{text[-8:]}"


def _tidy(svg: str, title: str) -> str:
    """Only the drawing: no prologue, no metadata, the reader's ink and fonts, a title to hear."""
    svg = svg[svg.index("<svg ") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    # matplotlib repeats labels as comments: they would double the page's text.
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    # Every figure names its groups alike, and ids have to be unique in a page.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    # A hundredth of a point cannot be seen, and digits are half of a figure's size.
    svg = re.sub(r"(\d\.\d\d)\d+", r"\1", svg)
    svg = re.sub(r"font-family: [^;\"<]*", f"font-family: {_FONT}", svg)
    svg = svg.replace(INK, "currentColor")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
