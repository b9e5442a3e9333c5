"""Draw a sweep's plots as SVG: learning curves, learning rate, early stopping, importance, parallel coordinates.

Text is stored as text in the SVG and uses the reader's fonts. Each backbone has one colour and marker in all plots.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sweeper.ledger.record import TrialRecord
from sweeper.results.importance import importances
from sweeper.results.overview import (
    NothingToShow,
    Results,
    all_numbers,
    backbone,
    is_log_scaled,
    planned_epochs,
    varying_parameters,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER, INK, MUTED, LINE = "#ffffff", "#1f2430", "#5f6775", "#d9dce3"
# palette of Okabe and Ito, https://jfly.uni-koeln.de/color/, darker where the contrast to white is low
COLOURS = ("#0072b2", "#d55e00", "#00875f", "#b0518a", "#9a6f00", "#5b4fc4", "#5d6470", "#007a87")
MARKERS = "os^DvPX*"
LABEL_CHARS = 18  # characters that fit into the right margin
LABEL_GAP = 0.08  # smallest distance of two labels, as a share of the axes' height
MAX_LABELLED_TRIALS = 28  # with more trials, the rows of the early-stopping plot have no text
FEW_TRIALS = 20  # with fewer trials a caption warns that the importance is uncertain
SIZE_INCHES = (5.0, 3.1)  # readable on a phone without shrinking, at 72 points an inch
MARGINS = {"left": 0.1, "right": 0.67, "bottom": 0.17, "top": 0.87}


@dataclass(frozen=True)
class Plot:
    """Hold a plot as SVG and its caption. If `svg` is empty, `note` gives the reason."""

    svg: str
    note: str


def draw_plots(found: Results) -> dict[str, Plot]:
    """Draw every plot and return them by name.

    >>> draw_plots(sweep_results(ledger))["importance"].note
    'There is no importance to show: 2 trials have a value, and 4 are needed.'
    """
    return {name: draw_plot(draw, found) for name, draw in DRAWINGS.items()}


def plot_files(plots: Mapping[str, Plot]) -> dict[str, str]:
    """Return the SVG text of each plot that was drawn, by file name."""
    return {f"{name}.svg": plot.svg for name, plot in plots.items() if plot.svg}


def draw_plot(draw: Callable[[Results], tuple[Figure, str]], found: Results) -> Plot:
    try:
        with plot_settings():
            figure, note = draw(found)
            return Plot(figure_svg(figure), note)
    except NothingToShow as absent:
        return Plot("", str(absent))


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


# names


def xml_line(text: str, longest: int) -> str:
    """Return `text` as one line of characters that XML allows, cut to `longest` characters.

    >>> xml_line("a\\nbc", 3)
    'a …'
    """
    line = " ".join(re.sub("[^\\x20-\\x7e\\xa0-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]", " ", text).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Return a short label for each backbone name or path.

    The label is the last part of the path, or the whole path if two last parts are equal. A long label is cut at its
    start, because the names of similar backbones differ at the end.

    >>> short_names(["hfl/chinese-macbert-large", "a/bert", "b/bert"])
    {'hfl/chinese-macbert-large': '…macbert-large', 'a/bert': 'a/bert', 'b/bert': 'b/bert'}
    """
    lines = [xml_line(name, 1000) for name in names]
    last = [line.rstrip("/").rsplit("/", 1)[-1] for line in lines]
    chosen = [end if last.count(end) == 1 else line for line, end in zip(lines, last, strict=True)]
    return {name: shorten_name(text) for name, text in zip(names, chosen, strict=True)}


def shorten_name(text: str) -> str:
    """Return the last words of a name that fit into LABEL_CHARS."""
    if len(text) <= LABEL_CHARS:
        return text
    end = text[1 - LABEL_CHARS :]
    return "…" + (re.sub("^[^-_ ]{0,8}[-_ ]", "", end) or end)


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


# drawing


def new_figure(title: str, size: tuple[float, float] = SIZE_INCHES, **edges: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size)
    axes = figure.subplots()
    figure.subplots_adjust(**{**MARGINS, **edges})
    figure.text(0.0, 0.99, xml_line(title, 60), fontsize=11, fontweight="bold", va="top")
    axes.tick_params(length=0)
    return figure, axes


def spread_heights(heights: Sequence[float], gap: float) -> list[float]:
    """Return the heights moved upward in one pass until neighbours are `gap` apart; their order stays.

    >>> spread_heights([0.5, 0.52, 0.9], 0.1)
    [0.5, 0.6, 0.9]
    """
    moved = list(heights)
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    for lower, upper in pairwise(order):
        moved[upper] = round(max(moved[upper], moved[lower] + gap), 9)
    return moved


def label_right(axes: Axes, labels: Sequence[tuple[float, BackboneStyle]]) -> None:
    """Write each backbone's name into the right margin at the height of its line, without overlaps."""
    low, high = axes.get_ylim()
    places = [(value - low) / (high - low) for value, _ in labels]
    moved = spread_heights(places, LABEL_GAP)
    surplus = max(0.0, max(moved, default=0.0) - 1.0)
    for height, (_, style) in zip(moved, labels, strict=True):
        axes.text(1.03, height - surplus, style.label, color=style.colour, transform=axes.transAxes, va="center")


def metric_curve(record: TrialRecord, metric: str) -> tuple[list[float], list[float]]:
    """Return the epochs and the finite values of a metric, in order."""
    points = [(float(e["epoch"]), float(e[metric])) for e in record.evaluations if e.get(metric) is not None]
    finite = [point for point in points if math.isfinite(point[1])]
    return [epoch for epoch, _ in finite], [value for _, value in finite]


def learning_curves(found: Results) -> tuple[Figure, str]:
    best, styles = drawable_best_trials(found), backbone_styles(found)
    figure, axes = new_figure(f"{found.objective} per epoch")
    for record in found.search:
        if record not in best:
            colour = styles[backbone(record)].colour
            axes.plot(*metric_curve(record, found.objective), color=colour, alpha=0.45, linewidth=1)
    for record in best:
        draw_curve(axes, record, found.objective, styles[backbone(record)])
    finish_epochs(axes)
    label_ends(axes, best, found.objective, styles)
    return figure, "Thick: the best trial of each backbone. Thin: the others. Lines that end early were stopped."


def draw_curve(axes: Axes, record: TrialRecord, metric: str, style: BackboneStyle, **changes: Any) -> None:
    options = {"color": style.colour, "marker": style.marker, "markeredgecolor": PAPER, **changes}
    axes.plot(*metric_curve(record, metric), gid=f"trial-{record.number}-{metric}", **options)


def finish_epochs(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.margins(x=0.03, y=0.08)


def label_ends(axes: Axes, records: Sequence[TrialRecord], metric: str, styles: Mapping[str, BackboneStyle]) -> None:
    """Write the backbones' names into the right margin and connect them with the ends of their lines."""
    labels = []
    for record in records:
        epochs, values = metric_curve(record, metric)
        draw_leader_line(axes, epochs[-1], values[-1], styles[backbone(record)])
        labels.append((values[-1], styles[backbone(record)]))
    label_right(axes, labels)


def loss_curves(found: Results) -> tuple[Figure, str]:
    best, styles = drawable_best_trials(found), backbone_styles(found)
    names = dict.fromkeys(name for record in best for name in record.metrics if name.endswith("loss"))
    drawn = [record for record in best if any(metric_curve(record, name)[1] for name in names)]
    if not drawn:
        raise NothingToShow("There are no loss curves: the job reports no metric whose name ends in loss.")
    figure, axes = new_figure(" and ".join(names) + " per epoch")
    for name, dashes in zip(names, ("-", "--", ":", "-."), strict=False):
        marker = {} if dashes == "-" else {"marker": "", "linewidth": 1.2}
        for record in drawn:
            draw_curve(axes, record, name, styles[backbone(record)], linestyle=dashes, **marker)
    finish_epochs(axes)
    first = next(iter(names))
    label_ends(axes, [record for record in drawn if metric_curve(record, first)[1]], first, styles)
    kinds = ", ".join(f"{name} {kind}" for name, kind in zip(names, ("solid", "dashed", "dotted"), strict=False))
    return figure, f"The best trial of each backbone: {kinds}."


def drawable_best_trials(found: Results) -> list[TrialRecord]:
    best = [record for record in found.best_per_backbone if metric_curve(record, found.objective)[1]]
    if not best:
        raise NothingToShow("There is nothing to draw: no trial has ended with a value yet.")
    return best


def learning_rate(found: Results) -> tuple[Figure, str]:
    points = [record for record in found.ranked if (record.params.get("learning_rate") or 0) > 0]
    if len({record.params["learning_rate"] for record in points}) < 2:
        raise NothingToShow("There is no plot of the learning rate: fewer than two values were tried.")
    figure, axes = new_figure(f"{found.objective} by learning rate")
    axes.set_xscale("log")
    styles = backbone_styles(found)
    for record in reversed(points):
        draw_point(axes, record, styles[backbone(record)])
    axes.set_xlabel("learning_rate, logarithmic")
    axes.margins(x=0.08, y=0.1)
    set_plain_ticks(axes)
    tops = {backbone(record): record for record in reversed(points)}
    for name, record in tops.items():
        draw_leader_line(axes, record.params["learning_rate"], record.value or 0.0, styles[name])
    label_right(axes, [(record.value or 0.0, styles[name]) for name, record in tops.items()])
    return figure, "Filled: complete. Hollow: stopped early, with a score after fewer epochs."


def set_plain_ticks(axes: Axes) -> None:
    """Format the logarithmic axis as 1e-5, 2e-5, 5e-5, without mathematical notation."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    wide = high / low > 50
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-")))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="both", length=0)


def draw_point(axes: Axes, record: TrialRecord, style: BackboneStyle) -> None:
    face = style.colour if record.state == "COMPLETE" else PAPER
    options: dict[str, Any] = {"markersize": 7, "color": style.colour, "markerfacecolor": face, "markeredgewidth": 1.4}
    axes.plot([record.params["learning_rate"]], [record.value or 0.0], style.marker, **options)


def draw_leader_line(axes: Axes, x: float, y: float, style: BackboneStyle) -> None:
    """Draw a dotted line from a point to its label in the right margin."""
    right = axes.get_xlim()[1]
    axes.plot([x, right], [y, y], color=style.colour, linewidth=0.9, linestyle=(0, (1, 3)), zorder=1)
    axes.set_xlim(right=right)


def early_stopping(found: Results) -> tuple[Figure, str]:
    if not any(record.state == "PRUNED" for record in found.search):
        raise NothingToShow("No trial was stopped early.")
    trials = [r for r in found.search if r.state != "RUNNING" and planned_epochs(r) is not None and r.evaluations]
    if not trials:
        raise NothingToShow("There are no known savings: the job has no num_train_epochs.")
    height = min(6.0, 0.75 + 0.19 * len(trials))
    below, above = 0.45 / height, 1 - 0.32 / height
    figure, axes = new_figure("Trained and planned epochs", (SIZE_INCHES[0], height), left=0.1, bottom=below, top=above)
    styles = backbone_styles(found)
    shown = f", with its best {found.objective}" if len(trials) <= MAX_LABELLED_TRIALS else ""
    for index, record in enumerate(trials):
        axes.barh(index, planned_epochs(record) or 0.0, height=0.62, color=LINE, linewidth=0)
        axes.barh(index, record.epochs, height=0.62, color=styles[backbone(record)].colour, linewidth=0)
    label_bars(axes, trials)
    return figure, f"One row per trial, by number{shown}."


def label_bars(axes: Axes, trials: Sequence[TrialRecord]) -> None:
    many = len(trials) > MAX_LABELLED_TRIALS
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    axes.set_yticks([] if many else range(len(trials)), [] if many else [str(r.number) for r in trials])
    axes.set_ylim(len(trials) - 0.4, -0.6)
    axes.set_xlabel("epochs")
    axes.margins(x=0)
    for index, record in enumerate(trials):
        if record.value is not None and not many:
            axes.text(1.03, index, f"{record.value:.4g}", transform=axes.get_yaxis_transform(), va="center")


# importance


def importance(found: Results) -> tuple[Figure, str]:
    shares, epoch, count = importances(found)
    height = 0.6 + 0.32 * len(shares)
    edges = {"left": 0.36, "right": 0.9, "bottom": 0.04, "top": 1 - 0.45 / height}
    figure, axes = new_figure("Parameter importance", (SIZE_INCHES[0], height), **edges)
    axes.set_axis_off()
    for index, (name, share) in enumerate(shares.items()):
        axes.barh(index, share, height=0.55, color=MUTED, linewidth=0)
        axes.text(-0.02, index, xml_line(name, 20), va="center", ha="right")
        axes.text(share + 0.015, index, f"{share:.0%}", va="center")
    axes.set_ylim(len(shares) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    hint = " With few trials this is only a hint." if count < FEW_TRIALS else ""
    note = f"By PED-ANOVA from the {found.objective} after epoch {epoch:g}, which all {count} trials reached."
    return figure, note + hint


# parallel coordinates


@dataclass(frozen=True)
class Scale:
    """Hold one vertical axis: the function from values to heights between 0 and 1, and the labelled ticks."""

    name: str
    place: Callable[[Any], float]
    ticks: Sequence[tuple[float, str]]


def build_scale(name: str, values: Sequence[Any], log: bool = False) -> Scale:
    if not all_numbers(values):
        names = list(dict.fromkeys(str(value) for value in values))
        heights = {text: (index + 0.5) / len(names) for index, text in enumerate(sorted(names))}
        labels = short_names(list(heights))
        return Scale(name, lambda value: heights[str(value)], [(at, labels[text]) for text, at in heights.items()])
    bend = math.log if log else float
    low, high = bend(min(values)), bend(max(values))
    ticks = [(0.0, f"{min(values):.3g}"), (1.0, f"{max(values):.3g}")]
    return Scale(name, lambda value: (bend(value) - low) / ((high - low) or 1.0), ticks)


def parallel_coordinates(found: Results) -> tuple[Figure, str]:
    trials = found.ranked
    names = varying_parameters(found, trials)
    if not names:
        raise NothingToShow("There are no parallel coordinates: too few trials have a value, or no parameter differs.")
    scales = [parameter_scale(found, name, [r.params[name] for r in trials]) for name in names]
    scales.append(build_scale(found.objective, [record.value for record in trials]))
    width = max(10.0, 1.75 * len(scales))
    edges = {"left": 1.4 / width, "right": 1 - 0.6 / width, "bottom": 0.08, "top": 0.84}
    figure, axes = new_figure("", (width, 3.5), **edges)
    axes.set_axis_off()
    styles = backbone_styles(found)
    for rank, record in reversed(list(enumerate(trials))):
        values = [*(record.params[name] for name in names), record.value]
        heights = [axis.place(value) for axis, value in zip(scales, values, strict=True)]
        draw_path(axes, heights, styles[backbone(record)], rank == 0, record.state)
    for index, axis in enumerate(scales):
        draw_scale(axes, index, axis)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlim(-0.02, len(scales) - 0.98)
    return figure, "A line per trial; the thick one is the best. Dashed: stopped early. Colours show the backbones."


def parameter_scale(found: Results, name: str, values: Sequence[Any]) -> Scale:
    return build_scale(name, values, all_numbers(values) and is_log_scaled(found, name, values))


def draw_path(axes: Axes, heights: Sequence[float], style: BackboneStyle, first: bool, state: str) -> None:
    dashes = "-" if state == "COMPLETE" else (0, (4, 2))
    width, alpha = (3.0, 1.0) if first else (1.3, 0.6)
    axes.plot(range(len(heights)), heights, color=style.colour, linewidth=width, alpha=alpha, linestyle=dashes)


def draw_scale(axes: Axes, index: int, axis: Scale) -> None:
    axes.plot([index, index], [0, 1], color=MUTED, linewidth=1)
    axes.text(index, 1.1, xml_line(axis.name, LABEL_CHARS), ha="center", fontweight="bold")
    for height, text in axis.ticks:
        box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5, "alpha": 0.8}
        shift, side = (-0.02, "right") if index == 0 else (0.02, "left")
        axes.text(index + shift, height, text, va="center", ha=side, bbox=box)


DRAWINGS: dict[str, Callable[[Results], tuple[Figure, str]]] = {
    "learning_curves": learning_curves,
    "loss_curves": loss_curves,
    "learning_rate": learning_rate,
    "early_stopping": early_stopping,
    "importance": importance,
    "parallel_coordinates": parallel_coordinates,
}
