"""Draw a sweep's plots as SVG: learning curves, learning rate, early stopping, importance, parallel coordinates.

Text is stored as text in the SVG and uses the reader's fonts. Each backbone has one colour and marker in all plots.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sweeper.ledger.record import TrialRecord
from sweeper.results.drawing.axes import (
    LABEL_SPACE,
    ValueRange,
    epoch_ticks,
    log_ticks,
    set_ticks,
    set_values,
    shown_range,
    tick_texts,
)
from sweeper.results.drawing.figures import (
    LINE,
    MUTED,
    PAPER,
    SIZE_INCHES,
    BackboneStyle,
    backbone_styles,
    figure_svg,
    new_figure,
    plot_settings,
)
from sweeper.results.drawing.names import short_names, text_points, xml_line
from sweeper.results.importance import importances
from sweeper.results.overview import (
    NothingToShow,
    Results,
    all_numbers,
    backbone,
    is_log_scaled,
    is_stopped_early,
    planned_epochs,
    varying_parameters,
)
from sweeper.results.table import cell_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME_CHARS = 18  # characters of a parameter's name that fit above its axis
LABEL_GAP = 0.08  # smallest distance of two labels, as a share of the axes' height
MAX_LABELS = 12  # labels with this gap that fit beside a plot
END_CHARS = 14  # characters of a number that fit beside an axis of the parallel coordinates
MAX_CATEGORIES = 15  # labels that fit beside an axis of the parallel coordinates
MAX_LABELLED_TRIALS = 28  # with more trials, the rows of the early-stopping plot have no text
LARGEST = 1e100  # matplotlib cannot compute with values near the largest number
FEW_TRIALS = 20  # with fewer trials a caption warns that the importance is uncertain


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


# drawing


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
    places = [min(1.0, max(0.0, (value - low) / (high - low))) for value, _ in labels[:MAX_LABELS]]
    moved = spread_heights(places, LABEL_GAP)
    surplus = max(0.0, max(moved, default=0.0) - 1.0)
    for height, (_, style) in zip(moved, labels, strict=False):
        axes.text(1.03, height - surplus, style.label, color=style.colour, transform=axes.transAxes, va="center")


def metric_curve(record: TrialRecord, metric: str) -> tuple[list[float], list[float]]:
    """Return the epochs and the finite values of a metric, in order."""
    points = [(float(e["epoch"]), float(e[metric])) for e in record.evaluations if e.get(metric) is not None]
    finite = [point for point in points if abs(point[1]) < LARGEST]
    return [epoch for epoch, _ in finite], [value for _, value in finite]


def learning_curves(found: Results) -> tuple[Figure, str]:
    best, styles = drawable_best_trials(found), backbone_styles(found)
    figure, axes = new_figure(f"{found.objective} per epoch")
    drawn = [
        record
        for record in {r.number: r for r in [*found.search, *best]}.values()
        if metric_curve(record, found.objective)[1]
    ]
    shown = shown_range([v for r in drawn for v in metric_curve(r, found.objective)[1]], found.direction)
    set_values(axes, shown)
    for record in drawn:
        if record not in best:
            draw_thin_curve(axes, record, found.objective, styles[backbone(record)])
            draw_beyond(axes, record, found.objective, styles[backbone(record)], shown)
    for record in best:
        draw_curve(axes, record, found.objective, styles[backbone(record)])
        draw_beyond(axes, record, found.objective, styles[backbone(record)], shown)
    finish_epochs(axes)
    label_ends(axes, best, found.objective, styles)
    note = "Thick: the best trial of each backbone. Thin: the others. A line that ends early, or a dot, was stopped."
    return figure, note + beyond_note(shown)


def beyond_note(shown: ValueRange) -> str:
    return " The axis shows the better values; triangles at its edge stand for trials beyond it." if shown.cut else ""


def draw_curve(axes: Axes, record: TrialRecord, metric: str, style: BackboneStyle, **changes: Any) -> None:
    options = {"color": style.colour, "marker": style.marker, "markeredgecolor": PAPER, **changes}
    axes.plot(*metric_curve(record, metric), gid=f"trial-{record.number}-{metric}", **options)


def draw_thin_curve(axes: Axes, record: TrialRecord, metric: str, style: BackboneStyle) -> None:
    """Draw a thin line, or a dot for a trial with one evaluation."""
    marker = style.marker if len(metric_curve(record, metric)[1]) == 1 else ""
    draw_curve(axes, record, metric, style, marker=marker, markersize=4, alpha=0.45, linewidth=1)


def draw_beyond(axes: Axes, record: TrialRecord, metric: str, style: BackboneStyle, shown: ValueRange) -> None:
    """Draw a triangle at the edge of the axis for a trial whose values all lie beyond it."""
    epochs, values = metric_curve(record, metric)
    if not any(map(shown.holds, values)):
        draw_triangle(axes, record, epochs[-1], values[-1], style, shown)


def draw_triangle(
    axes: Axes, record: TrialRecord, x: float, value: float, style: BackboneStyle, shown: ValueRange
) -> None:
    low, high = axes.get_ylim()
    height, marker = (low + 0.03 * (high - low), "v") if value < shown.low else (high - 0.03 * (high - low), "^")
    options: dict[str, Any] = {"markersize": 6, "alpha": 0.7, "gid": f"trial-{record.number}-beyond"}
    axes.plot([x], [height], marker, color=style.colour, **options)


def finish_epochs(axes: Axes) -> None:
    axes.set_xlabel("epoch")
    axes.margins(x=0.03)
    low, high = map(float, axes.dataLim.intervalx)
    if low == high:
        axes.set_xlim(low - 0.5, high + 0.5)
    set_ticks(axes, epoch_ticks(low, high))


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
    values = [value for name in names for record in drawn for value in metric_curve(record, name)[1]]
    set_values(axes, ValueRange(min(values), max(values)))
    for name, dashes in zip(names, ("-", "--", ":", "-."), strict=False):
        for record in drawn:
            style, single = styles[backbone(record)], len(metric_curve(record, name)[1]) == 1
            hollow = {"marker": style.marker if single else "", "linewidth": 1.2, "markerfacecolor": PAPER}
            changes = {} if dashes == "-" else {**hollow, "markeredgecolor": style.colour}
            draw_curve(axes, record, name, style, linestyle=dashes, **changes)
    finish_epochs(axes)
    first = next(iter(names))
    label_ends(axes, [record for record in drawn if metric_curve(record, first)[1]], first, styles)
    kinds = ", ".join(f"{name} {kind}" for name, kind in zip(names, ("solid", "dashed", "dotted"), strict=False))
    return figure, f"The best trial of each backbone: {kinds}."


def drawable_trials(found: Results) -> list[TrialRecord]:
    """Return the trials that ended with a value that matplotlib can draw, best first."""
    return [record for record in found.ranked if abs(record.value or 0.0) < LARGEST]


def drawable_best_trials(found: Results) -> list[TrialRecord]:
    """Return the best drawable trial of each backbone, best first."""
    known = [record for record in drawable_trials(found) if metric_curve(record, found.objective)[1]]
    best = list({backbone(record): record for record in reversed(known)}.values())[::-1]
    if not best:
        raise NothingToShow("There is nothing to draw: no trial has ended with a value yet.")
    return best


def learning_rate(found: Results) -> tuple[Figure, str]:
    points = [
        record for record in drawable_trials(found) if 1 / LARGEST < (record.params.get("learning_rate") or 0) < LARGEST
    ]
    if len({record.params["learning_rate"] for record in points}) < 2:
        raise NothingToShow("There is no plot of the learning rate: fewer than two values were tried.")
    figure, axes = new_figure(f"{found.objective} by learning rate")
    axes.set_xscale("log")
    styles = backbone_styles(found)
    shown = shown_range([record.value or 0.0 for record in points], found.direction)
    set_values(axes, shown)
    for record in reversed(points):
        draw_point(axes, record, styles[backbone(record)], shown)
    axes.set_xlabel("learning_rate, logarithmic")
    axes.margins(x=0.08)
    tops = {backbone(record): record for record in reversed(points)}
    labels = [(record.value or 0.0, styles[backbone(record)]) for record in reversed(list(tops.values()))]
    for record in tops.values():
        if shown.holds(record.value or 0.0):
            draw_leader_line(axes, record.params["learning_rate"], record.value or 0.0, styles[backbone(record)])
    set_ticks(axes, log_ticks(*axes.get_xlim()))
    label_right(axes, labels)
    return figure, "Filled: complete. Hollow: stopped early, with a score after fewer epochs." + beyond_note(shown)


def draw_point(axes: Axes, record: TrialRecord, style: BackboneStyle, shown: ValueRange) -> None:
    rate, value = record.params["learning_rate"], record.value or 0.0
    if not shown.holds(value):
        draw_triangle(axes, record, rate, value, style, shown)
        return
    face = style.colour if record.state == "COMPLETE" else PAPER
    options: dict[str, Any] = {"markersize": 7, "color": style.colour, "markerfacecolor": face, "markeredgewidth": 1.4}
    axes.plot([rate], [value], style.marker, gid=f"trial-{record.number}-rate", **options)


def draw_leader_line(axes: Axes, x: float, y: float, style: BackboneStyle) -> None:
    """Draw a dotted line from a point to its label in the right margin."""
    right = axes.get_xlim()[1]
    axes.plot([x, right], [y, y], color=style.colour, linewidth=0.9, linestyle=(0, (1, 3)), zorder=1)
    axes.set_xlim(right=right)


def early_stopping(found: Results) -> tuple[Figure, str]:
    if not any(map(is_stopped_early, found.search)):
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
    set_ticks(axes, epoch_ticks(0.0, axes.get_xlim()[1]))
    for index, record in enumerate(trials):
        if record.value is not None and not many:
            axes.text(1.03, index, cell_text(record.value), transform=axes.get_yaxis_transform(), va="center")


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
        labels = list(short_names(list(heights)).values())
        ticks = list(zip(heights.values(), labels, strict=True))[:: len(names) // (MAX_CATEGORIES + 1) + 1]
        return Scale(name, lambda value: heights[str(value)], ticks)
    return number_scale(name, ValueRange(min(values), max(values)), math.log if log else float)


def number_scale(name: str, shown: ValueRange, bend: Callable[[float], float], beyond: str = "") -> Scale:
    """Return the scale of a range. `beyond` stands before the label of the end at which worse values are drawn."""
    low, high = bend(shown.low), bend(shown.high)
    if low == high:
        return Scale(name, lambda _: 0.5, [(0.5, cell_text(shown.low))])
    ends = cell_text(float(shown.low)), cell_text(float(shown.high))
    plain = ends[0] != ends[1] and max(map(len, ends)) <= END_CHARS
    texts = list(ends) if plain else tick_texts([shown.low, shown.high])
    if beyond:
        worse = 0 if beyond == "≤" else 1
        texts[worse] = f"{beyond} {texts[worse]}"
    return Scale(
        name, lambda value: (bend(shown.clamp(value)) - low) / (high - low), list(zip((0.0, 1.0), texts, strict=True))
    )


def objective_scale(found: Results, values: Sequence[float]) -> Scale:
    shown = shown_range(values, found.direction)
    beyond = {"max": "≤", "min": "≥"}[found.direction] if shown.cut else ""
    return number_scale(found.objective, shown, float, beyond)


def parallel_coordinates(found: Results) -> tuple[Figure, str]:
    trials = drawable_trials(found)
    names = varying_parameters(found, trials)
    if not names:
        raise NothingToShow("There are no parallel coordinates: too few trials have a value, or no parameter differs.")
    scales = [parameter_scale(found, name, [r.params[name] for r in trials]) for name in names]
    scales.append(objective_scale(found, [record.value for record in trials if record.value is not None]))
    width = max(10.0, 1.75 * len(scales))
    left, right = side_points(scales[0]) / 72, side_points(scales[-1]) / 72
    edges = {"left": left / width, "right": 1 - right / width, "bottom": 0.08, "top": 0.84}
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


def side_points(axis: Scale) -> float:
    """Return the room in points that an outermost axis needs for half its name and for its labels."""
    name = 1.15 * text_points(xml_line(axis.name, NAME_CHARS)) / 2  # bold letters are wider
    return max(name, *(text_points(text) + 2 * LABEL_SPACE for _, text in axis.ticks))


def parameter_scale(found: Results, name: str, values: Sequence[Any]) -> Scale:
    return build_scale(name, values, all_numbers(values) and is_log_scaled(found, name, values))


def draw_path(axes: Axes, heights: Sequence[float], style: BackboneStyle, first: bool, state: str) -> None:
    dashes = "-" if state == "COMPLETE" else (0, (4, 2))
    width, alpha = (3.0, 1.0) if first else (1.3, 0.6)
    axes.plot(range(len(heights)), heights, color=style.colour, linewidth=width, alpha=alpha, linestyle=dashes)


def draw_scale(axes: Axes, index: int, axis: Scale) -> None:
    axes.plot([index, index], [0, 1], color=MUTED, linewidth=1)
    axes.text(index, 1.1, xml_line(axis.name, NAME_CHARS), ha="center", fontweight="bold")
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
