"""What every figure shares: its colours, the reader's ink, and how it becomes SVG or PNG.

Colours are those of Okabe and Ito (2008), told apart by colour-blind readers; black is left to text
and axes, which take the reader's text colour (`currentColor`) and so suit light and dark pages.
matplotlib is imported when a figure is drawn, never pyplot and never a display.
"""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

from smorm.report.names import clean

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
INK = "#010203"  # stands for the reader's text colour until the SVG is written
_FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
_LONGEST = 26
_DOTS_PER_INCH = 160


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure that is drawn when it is asked for, in one form or another.

    Attributes:
        draw: puts everything on an empty matplotlib figure.
        size: width and height in inches.
        title: what is shown; also what a screen reader says.
    """

    draw: Callable[[Any], None]
    size: tuple[float, float]
    title: str

    def svg(self) -> str:
        """SVG text for a page: text stays text, ink is the reader's."""
        return _svg(self)

    def png(self) -> bytes:
        """PNG on white, for slides and papers."""
        with self.drawn() as figure:
            from matplotlib.backends.backend_agg import FigureCanvasAgg

            FigureCanvasAgg(figure)
            stream = io.BytesIO()
            figure.savefig(
                stream, format="png", dpi=_DOTS_PER_INCH, facecolor="white",
                metadata={"Software": None},
            )  # fmt: skip
        return stream.getvalue()

    @contextmanager
    def drawn(self) -> Iterator[Any]:
        """The figure, under the settings that it must be saved with."""
        import matplotlib
        from matplotlib.figure import Figure

        title = clean(self.title)
        with matplotlib.rc_context(_options(title)), warnings.catch_warnings():
            # Fonts of this machine only measure the text; the reader's browser draws it.
            warnings.filterwarnings("ignore", message=".*[Gg]lyph.*missing from.*font")
            figure = Figure(figsize=self.size, layout="constrained")
            figure.suptitle(short(title, 90), fontsize=11.5, x=0.01, ha="left")
            self.draw(figure)
            yield figure


@functools.lru_cache(maxsize=64)  # a page shows what its files hold: drawn once
def _svg(drawing: Drawing) -> str:
    with drawing.drawn() as figure:
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        FigureCanvasSVG(figure)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return _tidy(stream.getvalue(), clean(drawing.title))


def short(text: str, longest: int = _LONGEST) -> str:
    """A label that fits; the tables have the whole name."""
    text = " ".join(clean(text).split()) or "(no name)"
    if text.startswith("_"):  # which a legend would leave out
        text = f"\N{ZERO WIDTH SPACE}{text}"
    return text if len(text) <= longest else f"{text[: longest - 9]}…{text[-8:]}"


def _options(title: str) -> dict[str, Any]:
    return {
        "svg.fonttype": "none",  # text stays text: sharp, selectable, in the reader's fonts
        "svg.hashsalt": title,  # the same figure gives the same bytes
        "text.parse_math": False,  # a dollar sign in a model's name is a dollar sign
        "font.size": 9.5,
        "hatch.linewidth": 0.6,
        "hatch.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        **{f"{part}.color": INK for part in ("text", "xtick", "ytick")},
        **{f"axes.{part}color": INK for part in ("edge", "label", "title")},
    }


def _tidy(svg: str, title: str) -> str:
    """Only the drawing: no prologue, no metadata, the reader's ink and fonts, a title to hear."""
    svg = svg[svg.index("<svg ") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"(\d\.\d\d)\d+", r"\1", svg)  # a hundredth of a point is seen by nobody
    svg = svg.replace(INK, "currentColor")
    svg = re.sub(r"font-family: [^;\"<]*", f"font-family: {_FONT}", svg)
    name = escape(title)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1)
