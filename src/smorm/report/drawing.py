"""What every figure shares: its colours, the reader's ink, and how it becomes SVG or PNG.

Colours are those of Okabe and Ito (2008), which colour-blind readers can distinguish. Text and axes
take the reader's text colour (`currentColor`) and so suit light and dark pages.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

from smorm.report.style import clean

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
# matplotlib knows no `currentColor`: this colour, used nowhere else, stands for it until then.
INK = "#010203"
_FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
_MAX_LABEL, _MAX_TITLE = 26, 90  # characters
_DOTS_PER_INCH = 160
_ON_WHITE = 'style="background:#fff;color:#1b1f24"'


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
        return _tidy(stream.getvalue(), clean(self.title))

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
        """The figure, under the settings that it must be saved with."""
        import matplotlib
        from matplotlib.figure import Figure

        with matplotlib.rc_context(_options(clean(self.title))), warnings.catch_warnings():
            # Fonts of this machine only measure the text; the reader's browser draws it.
            warnings.filterwarnings("ignore", message=".*[Gg]lyph.*missing from.*font")
            figure = Figure(figsize=self.size, layout="constrained")
            if title:
                figure.suptitle(short(self.title, _MAX_TITLE), fontsize=11.5, x=0.01, ha="left")
            self.draw(figure)
            yield figure


def short(text: str, longest: int = _MAX_LABEL) -> str:
    """A label that fits; the tables have the whole name."""
    text = " ".join(clean(text).split()) or "(no name)"
    return text if len(text) <= longest else f"{text[: longest - 9]}…{text[-8:]}"


def _options(title: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        # Text stays text: sharp, selectable, in the reader's fonts.
        "svg.fonttype": "none",
        # Without a fixed salt ids are random, and the same figure would give other bytes.
        "svg.hashsalt": title,
        # A dollar sign in a model's name is a dollar sign.
        "text.parse_math": False,
        "font.size": 9.5,
        "hatch.linewidth": 0.6,
        "hatch.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
    }
    inked = ("text.color", "xtick.color", "ytick.color",
             "axes.edgecolor", "axes.labelcolor", "axes.titlecolor")  # fmt: skip
    return options | dict.fromkeys(inked, INK)


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
