"""Make the figures of a sweep's plots: their settings, colours and margins, and their SVG."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeper.results.drawing.names import short_names, xml_line
from sweeper.results.overview import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER, INK, MUTED, LINE = "#ffffff", "#1f2430", "#5f6775", "#d9dce3"
# palette of Okabe and Ito, https://jfly.uni-koeln.de/color/, darker where the contrast to white is low
COLOURS = ("#0072b2", "#d55e00", "#00875f", "#b0518a", "#9a6f00", "#5b4fc4", "#5d6470", "#007a87")
MARKERS = "os^DvPX*"
TITLE_CHARS = 46  # characters that fit above a plot
SIZE_INCHES = (5.0, 3.1)  # readable on a phone without shrinking, at 72 points an inch
MARGINS = {"left": 0.1, "right": 0.67, "bottom": 0.17, "top": 0.87}


@dataclass(frozen=True)
class BackboneStyle:
    """Hold the label, colour and marker of a backbone."""

    label: str
    colour: str
    marker: str


def backbone_styles(found: Results) -> dict[str, BackboneStyle]:
    names = short_names(found.backbones)
    return {
        name: BackboneStyle(label, COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)])
        for index, (name, label) in enumerate(names.items())
    }


@contextmanager
def plot_settings() -> Iterator[None]:
    """Apply matplotlib settings: text is stored as text, `$` has no meaning, equal data gives equal bytes."""
    import matplotlib as mpl

    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "sweeper",
        "text.parse_math": False,
        "font.family": ["sans-serif"],
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": LINE,
        "grid.linewidth": 0.7,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": MUTED,
        "text.color": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "ytick.left": False,
        "figure.facecolor": PAPER,
        "axes.facecolor": PAPER,
        "lines.linewidth": 1.8,
        "lines.markersize": 5,
    }
    with mpl.rc_context(settings), warnings.catch_warnings():
        # a missing glyph only makes the measured width inexact; the browser draws the text with its own fonts
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def figure_svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def new_figure(title: str, size: tuple[float, float] = SIZE_INCHES, **edges: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size)
    axes = figure.subplots()
    figure.subplots_adjust(**{**MARGINS, **edges})
    figure.text(0.0, 0.99, xml_line(title, TITLE_CHARS), fontsize=11, fontweight="bold", va="top")
    axes.tick_params(length=0)
    return figure, axes
