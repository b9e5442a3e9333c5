"""Render a sweep as one self-contained web page that needs no network and no script.

This module computes the content from the ledger's records; `report.html.jinja` has the layout.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sweeper.budget.limits import noted_ending
from sweeper.budget.spending import spending_of
from sweeper.errors import DataFailure
from sweeper.ledger.ledger import Ledger
from sweeper.ledger.lookup import Trial
from sweeper.ledger.ranking import best_first
from sweeper.ledger.record import TrialRecord
from sweeper.results import comparison, plots
from sweeper.results.drawing import figures
from sweeper.results.drawing.names import xml_line
from sweeper.results.overview import Results, backbone, is_stopped_early, planned_epochs, sweep_results
from sweeper.results.plots import Plot
from sweeper.results.table import cell_text, constant_columns
from sweeper.results.timing import wall_seconds
from sweeper.secrets import redacted
from sweeper.space.document import yaml_text
from sweeper.space.domains import alternatives
from sweeper.space.sections import duration

TEMPLATE = "report.html.jinja"
SVG = "http://www.w3.org/2000/svg"
CONFIDENCE = 0.95
PROPORTIONS = ("exact_match", "accuracy")  # objectives that are a proportion of the questions
SHRINKING_POINTS = 400  # wider plots scroll on a phone instead of shrinking
THEME = {figures.PAPER: "paper", figures.INK: "ink", figures.MUTED: "muted", figures.LINE: "line"}
THEME |= {colour: f"c{place}" for place, colour in enumerate(figures.COLOURS)}


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True)
class ReportRow:
    """Hold one trial's row: its cells as text, in the order of `comparison.trial_columns`, and its interval."""

    number: int
    state: str
    value: float | None
    cells: Sequence[str]
    interval: Interval | None


@dataclass(frozen=True)
class Savings:
    """Hold the savings of early stopping.

    trials   the number of stopped trials
    epochs   their epochs that were not trained
    seconds  the estimated time of these epochs
    share    these seconds as a share of the time without early stopping
    """

    trials: int
    epochs: float
    seconds: float
    share: float


@dataclass(frozen=True)
class Cost:
    """Hold the cost of one backbone: its trials, their training seconds, and its best value."""

    backbone: str
    trials: int
    seconds: float
    value: float | None


def report_html(ledger: Ledger, best_yaml: str = "", best_name: str = "best") -> str:
    """Return the whole page. `best_yaml` is a search space that repeats the best trial, with the name `best_name`.

    >>> Path("report.html").write_text(report_html(load_ledger(storage, "qa_backbones"), best_yaml), encoding="utf-8")

    A plot without data is replaced by a sentence that says why.
    """
    found = sweep_results(ledger)
    drawn = {name: Plot(inline_svg(plot.svg, name), plot.note) for name, plot in plots.draw_plots(found).items()}
    return render_page(
        ledger,
        found,
        best_yaml=redacted(best_yaml),
        best_name=best_name,
        plots=drawn,
        styles=figures.backbone_styles(found),
        savings=savings(found.search),
        costs=costs(found),
        wall=wall_seconds(found.records),
        space=redacted(yaml_text(ledger.attributes["search_space"], block=True)),
        searched=searched_values(found.parameters),
        whole=True,
    )


def trials_html(ledger: Ledger) -> str:
    """Return a page with only the table of trials."""
    return render_page(ledger, sweep_results(ledger), whole=False)


def render_page(ledger: Ledger, found: Results, **facts: Any) -> str:
    table = report_rows(ledger, found)
    rows = comparison.comparison_rows(found.records, found.direction)
    view = comparison.trial_table(rows, found.objective)
    facts |= {
        "name": ledger.name,
        "attributes": ledger.attributes,
        "found": found,
        "question": question_sentence(ledger.attributes),
        "counts": states_in_words(found.search),
        "header": view.columns,
        "texts": view.texts,
        "constant": {name: cell_text(value) for name, value in constant_columns(view).items()},
        "mixed": comparison.precision_caption(rows),
        "lines": table,
        "leader": best_row(found, table),
        "span": interval_range(table),
        **spending_facts(ledger.latest_attributes(), found.records),
        "failures": [record for record in found.records if record.state == "FAIL"],
    }
    page = template_environment().get_template(TEMPLATE).render(facts)
    return re.sub("[\ud800-\udfff]", "\ufffd", page)


def spending_facts(attributes: Mapping[str, Any], records: Sequence[TrialRecord]) -> dict[str, Any]:
    """Return what a sweep has spent, and what ended it, for the page."""
    spent, price = spending_of(attributes, records), (attributes["search_space"].get("budget") or {}).get("price")
    cost = spent.cost(price) if spent.priced_hours else None
    return {"spent": spent, "cost": cost, "price": price, "ending": noted_ending(attributes)}


def template_environment() -> Environment:
    """Return a Jinja environment that escapes every value and raises an error for a missing one."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"duration": seconds_text, "number": number_text, "safe_text": safe_line}
    made.filters |= {"domain": describe_domain, "backbone": backbone, "css": css_variable}
    return made


# content


def question_sentence(attributes: Mapping[str, Any]) -> str:
    """Return the question that the sweep answers, as one sentence.

    >>> question_sentence(ledger.attributes)
    'Which backbone and learning_rate give qa the best exact_match on sample?'
    """
    names = list(searched_values(attributes["search_space"]["parameters"]))
    goal = f"{attributes['job']} the best {attributes['objective']} on {attributes['data']}"
    if not names:
        return f"Does this one setting give {goal}?"
    listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    return f"Which {listed} {'gives' if len(names) == 1 else 'give'} {goal}?"


def searched_values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a resolved search space that are not constants."""
    return {name: value for name, value in parameters.items() if isinstance(value, dict | list)}


def describe_domain(declared: Any) -> str:
    """Describe the domain of a parameter in words.

    >>> describe_domain({"min": 1e-5, "max": 1e-3, "log": True})
    '1e-05 to 0.001, logarithmic'
    """
    match declared:
        case list():
            return "; ".join(describe_domain(branch) for branch in declared)
        case {"when": when, **rest}:
            conditions = " and ".join(f"{name} is {' or '.join(alternatives(one))}" for name, one in when.items())
            return f"{describe_domain(rest)} where {conditions}"
        case {"values": values}:
            return " · ".join(map(str, values))
        case {"value": value}:
            return str(value)
        case {"min": low, "max": high, **how}:
            step = f", step {how['step']}" if how.get("step") else ""
            return f"{low} to {high}{', logarithmic' if how.get('log') else ''}{step}"
    return str(declared)


def states_in_words(records: Sequence[TrialRecord]) -> dict[str, int]:
    """Count the trials in each state, by the state in words."""
    words = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "running"}
    states = Counter[str](record.state for record in records)
    return {word: states[state] for state, word in words.items() if states[state]}


def report_rows(ledger: Ledger, found: Results) -> list[ReportRow]:
    """Return one row per trial, best first."""
    table = comparison.comparison_rows(found.records, found.direction)
    by_number = {record.number: record for record in found.records}
    rows = comparison.trial_table(table, found.objective).rows
    texts = [[cell_text(value) for value in row] for row in rows]
    return [
        ReportRow(
            row["trial"], row["state"], row["value"], text, trial_interval(Trial(ledger, by_number[row["trial"]]))
        )
        for row, text in zip(table, texts, strict=True)
    ]


def best_row(found: Results, table: Sequence[ReportRow]) -> tuple[TrialRecord, ReportRow] | None:
    """Return the best trial with state COMPLETE or PRUNED, and its row; None if there is none."""
    ranked = found.ranked
    return next(((ranked[0], line) for line in table if ranked and line.number == ranked[0].number), None)


def trial_interval(trial: Trial) -> Interval | None:
    """Return the confidence interval of a trial's objective.

    Returns None if the objective is not a proportion or the predictions are missing.
    """
    if trial.ledger.objective not in PROPORTIONS or trial.record.value is None:
        return None
    try:
        questions = len(trial.predictions())
    except DataFailure:
        return None
    return wilson_interval(trial.record.value, questions)


def wilson_interval(share: float, questions: int) -> Interval | None:
    """Return the 95 % Wilson score interval of a proportion (Wilson, Probable inference, JASA 22 (1927), 209-212).

    Returns None when `share` times `questions` is not an integer.

    >>> wilson_interval(0.5, 100)
    Interval(low=0.4038..., high=0.5961...)
    """
    from scipy.stats import binomtest

    right = round(share * questions)
    if questions == 0 or not 0 <= right <= questions or abs(right - share * questions) > 1e-3:
        return None
    found = binomtest(right, questions).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(found.low), float(found.high))


def interval_range(table: Sequence[ReportRow]) -> Interval | None:
    """Return the range of all intervals: the common scale of the interval bars."""
    known = [line.interval for line in table if line.interval]
    return Interval(min(i.low for i in known), max(i.high for i in known)) if known else None


def savings(records: Sequence[TrialRecord]) -> Savings | None:
    """Estimate the savings of early stopping: each trial's missing epochs times its mean seconds per epoch.

    Returns None when no trial was stopped early or the job has no parameter for the number of epochs. A trial that a
    limit of the budget ended is none of them.
    """
    stopped = [(record, left) for record in records if is_stopped_early(record) and (left := epochs_left(record))]
    if not stopped:
        return None
    seconds = sum(left * record.seconds / record.epochs for record, left in stopped)
    spent = sum(record.seconds for record in records)
    whole = seconds + spent
    return Savings(len(stopped), sum(left for _, left in stopped), seconds, seconds / whole if whole else 0.0)


def epochs_left(record: TrialRecord) -> float:
    whole = planned_epochs(record)
    return max(0.0, whole - record.epochs) if whole is not None and record.epochs else 0.0


def costs(found: Results) -> list[Cost]:
    """Return one row per backbone, the most expensive first."""
    return sorted(_costs(found), key=lambda cost: -cost.seconds)


def _costs(found: Results) -> Iterator[Cost]:
    for name in found.backbones:
        trials = [record for record in found.records if backbone(record) == name]
        ranked = best_first(trials, found.direction)
        yield Cost(name, len(trials), sum(r.seconds for r in trials), ranked[0].value if ranked else None)


# text


def number_text(value: float | None) -> str:
    return cell_text(value)


def seconds_text(seconds: float) -> str:
    """Format seconds as a duration.

    >>> seconds_text(186)
    '3m 6s'
    """
    return re.sub(r"(?<=[hm])(?=\d)", " ", duration(round(seconds))) or "0s"


def safe_line(value: object) -> str:
    """Return a value as one line without secrets and control characters; the template escapes it."""
    return redacted(xml_line(str(value), 400))


def css_variable(colour: str) -> str:
    """Return the CSS variable that replaces a plot's colour, so that it can differ in light and dark mode."""
    return f"var(--{THEME[colour]})"


def inline_svg(svg: str, name: str) -> Markup | str:
    """Return a plot as SVG for the page, with CSS variables as colours and ids that are unique in the page."""
    if not svg:
        return ""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(svg)
    for parent in root.iter():
        for child in [c for c in parent if c.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style")]:
            parent.remove(child)
    for element in root.iter():
        element.attrib.update({key: inline_attribute(key, value, name) for key, value in element.attrib.items()})
    root.attrib |= {"aria-hidden": "true", "class": name}
    width = float(root.attrib.pop("width").removesuffix("pt"))
    root.attrib.pop("height")
    if width > SHRINKING_POINTS:
        root.attrib["style"] = f"min-width: {width:g}px"
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def inline_attribute(key: str, value: str, name: str) -> str:
    """Return an SVG attribute with unique ids, and with the page's colours and font."""
    if key == "id":
        return f"{name}-{value}"
    if key == "style":
        value = re.sub("#[0-9a-f]{6}", lambda match: css_variable(match[0]), value)
        value = re.sub("font-family: [^;]*", "font-family: inherit", value)
    return value.replace("url(#", f"url(#{name}-") if "url(#" in value else re.sub("^#", f"#{name}-", value)
