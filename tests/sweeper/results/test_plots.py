from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.ledger.database import open_storage
from sweeper.results import plots
from sweeper.results.drawing import figures
from sweeper.results.drawing.names import short_names, text_points
from sweeper.results.importance import importances
from sweeper.results.overview import Results
from sweeper.results.overview import sweep_results as results_of
from sweeper.results.plots import Plot
from tests.support.written import SPACE, Told, written

Forms = Callable[[str], tuple[Results, dict[str, Plot]]]
NASTY = "</text><script>alert(1)</script> \"q\" 'a' $x^2$ & 山\n=cmd\x07"
TRIALS = [
    Told([0.1, 0.2, 0.3, 0.4], {"backbone": "a", "learning_rate": 1e-4}),
    Told([0.1, 0.15], {"backbone": "a", "learning_rate": 1e-5}, "PRUNED", "stopped early after epoch 2"),
    Told([0.3, 0.5, 0.6, 0.9], {"backbone": "b", "learning_rate": 3e-4}),
    Told([0.2], {"backbone": "b", "learning_rate": 1e-3}, "PRUNED", "stopped early after epoch 1"),
    Told([0.99], {"backbone": "c", "learning_rate": 2e-4}, "FAIL", "out of memory"),
    Told([0.98], {"backbone": "c", "learning_rate": 5e-4}, "RUNNING"),
]


def found(folder: Path, trials: list[Told], **changes: Any) -> plots.Results:
    return results_of(written(open_storage("sqlite:///:memory:"), folder, trials, **changes))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("plots")
    return found(folder, TRIALS)


@pytest.fixture(scope="module")
def drawn(results: Results) -> dict[str, Plot]:
    return plots.draw_plots(results)


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{{{SVG}}}text")]


SVG = "http://www.w3.org/2000/svg"


def heights(svg: str, gid: str) -> list[float]:
    """The y of each point of a line, upwards from its first."""
    match = re.search(rf'<g id="{gid}">\s*<path d="([^"]+)"', svg)
    assert match, f"no line {gid}"
    ys = [float(y) for _, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", match[1])]
    return [ys[0] - y for y in ys]


def test_every_plot_is_drawn_where_there_are_trials_to_draw(drawn: dict[str, Plot]) -> None:
    assert list(drawn) == [
        "learning_curves",
        "loss_curves",
        "learning_rate",
        "early_stopping",
        "importance",
        "parallel_coordinates",
    ]
    assert [name for name, plot in drawn.items() if not plot.svg] == []
    assert len({plot.svg for plot in drawn.values()}) == 6
    assert list(plots.plot_files(drawn)) == [f"{name}.svg" for name in drawn]


def test_without_trials_every_plot_says_in_a_sentence_why_it_is_not_there(tmp_path: Path) -> None:
    drawn = plots.draw_plots(found(tmp_path, []))
    assert plots.plot_files(drawn) == {}
    for plot in drawn.values():
        assert re.fullmatch(r"(There|No trial) .+\.", plot.note)


def test_what_was_not_planned_cannot_have_been_saved(results: Results) -> None:
    unplanned = tuple(replace(r, params={**r.params, "num_train_epochs": None}) for r in results.records)
    assert "no num_train_epochs" in plots.draw_plots(replace(results, records=unplanned))["early_stopping"].note


def test_curves_are_as_high_as_the_values(drawn: dict[str, Plot]) -> None:
    climb = heights(drawn["learning_curves"].svg, "trial-2-exact_match")
    assert [height / climb[-1] for height in climb] == pytest.approx([0, 1 / 3, 1 / 2, 1], abs=1e-4)
    fall = heights(drawn["loss_curves"].svg, "trial-2-eval_loss")
    assert fall[-1] < 0
    assert [height / fall[-1] for height in fall] == pytest.approx([0, 1 / 3, 1 / 2, 1], abs=1e-4)


def test_the_best_trial_of_each_backbone_leads_and_a_failed_or_running_one_never(
    results: Results, drawn: dict[str, Plot]
) -> None:
    assert [record.number for record in plots.drawable_best_trials(results)] == [2, 0]
    assert {"a", "b"} <= set(texts(drawn["learning_curves"].svg))
    assert "c" not in texts(drawn["learning_curves"].svg)


def test_a_backbone_keeps_its_colour_as_trials_are_added(results: Results) -> None:
    before = plots.backbone_styles(replace(results, records=results.records[:1]))
    after = plots.backbone_styles(results)
    assert after["a"] == before["a"]
    assert len({look.colour for look in after.values()}) == 3


def test_a_backbone_has_the_same_colour_in_every_plot(drawn: dict[str, Plot]) -> None:
    for name in ("learning_curves", "loss_curves", "learning_rate", "early_stopping", "parallel_coordinates"):
        assert figures.COLOURS[0] in drawn[name].svg, name
        assert figures.COLOURS[1] in drawn[name].svg, name


def test_names_from_outside_are_text_and_nothing_else(tmp_path: Path) -> None:
    nasty = [
        Told(told.values, {**told.params, "backbone": NASTY + told.params["backbone"], NASTY: index}, told.state)
        for index, told in enumerate(TRIALS)
    ]
    drawn = plots.draw_plots(found(tmp_path, nasty))
    assert all(plot.svg for plot in drawn.values())
    for plot in drawn.values():
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(plot.svg).iter()}
        assert "script" not in tags
        assert "mathdefault" not in plot.svg
    shown = " ".join(texts(drawn["parallel_coordinates"].svg))
    assert "</text><script>" in shown  # as letters
    assert "山" in " ".join(texts(drawn["learning_curves"].svg))


def test_the_same_ledger_gives_the_same_bytes(results: Results, drawn: dict[str, Plot]) -> None:
    assert plots.draw_plots(results) == drawn


def test_parameters_of_every_kind_have_a_scale(tmp_path: Path) -> None:
    parameters = {**SPACE["parameters"], "weight_decay": [{"when": {}, "min": 0.0, "max": 1.0, "log": True}]}
    trials = [
        Told([0.1 * n], {"bf16": n % 2 == 0, "weight_decay": 0.1 * n, "lr_scheduler_type": None if n else "linear"})
        for n in range(6)
    ]
    results = found(tmp_path, trials, parameters=parameters)
    shares, _, _ = importances(results)
    assert set(shares) == {"bf16", "weight_decay", "lr_scheduler_type"}
    shown = texts(plots.draw_plots(results)["parallel_coordinates"].svg)
    assert {"True", "False", "None", "linear", "0", "0.5"} <= set(shown)


def test_a_scale_is_logarithmic_where_the_search_space_is(results: Results) -> None:
    axis = plots.parameter_scale(results, "learning_rate", [1e-5, 1e-4, 1e-3])
    assert axis.place(1e-4) == pytest.approx(0.5)
    assert plots.parameter_scale(results, "warmup_ratio", [0.0, 0.1, 0.2]).place(0.05) == pytest.approx(0.25)


# every trial can be seen

CROWD = [
    Told([0.85, 0.93, 0.95, 0.9531], {"backbone": "a", "learning_rate": 2.1e-5}),
    Told([0.9, 0.9453], {"backbone": "a", "learning_rate": 2.2e-5}, "PRUNED"),
    *(Told([value], {"backbone": "ab"[n % 2], "learning_rate": 2.3e-5 + n * 1e-7}, "PRUNED")
      for n, value in enumerate([0.9271, 0.9193, 0.92, 0.875, 0.1875, 0.0521])),
    Told([0.02, 0.03], {"backbone": "b", "learning_rate": 2.5e-5}),
]  # fmt: skip
FORMS: dict[str, list[Told]] = {
    "a crowd": CROWD,
    "one trial": [Told([0.3], {"learning_rate": 1e-4})],
    "equal values": [Told([0.5, 0.5], {"learning_rate": 1e-4 * n}) for n in (1, 2, 3)],
    "negative": [Told([-120.0 - n, -90.0], {"learning_rate": 1e-4 * (1 + n)}) for n in range(3)],
    "huge": [Told([1e9 * n, 2e9 * n], {"learning_rate": 1e-4 * n}) for n in (1, 2, 3)],
    "tiny differences": [Told([0.8 + 1e-7 * n, 0.8 + 2e-7 * n], {"learning_rate": 2e-5 + 1e-9 * n}) for n in range(4)],
    "parts of epochs": [Told([0.1], {"learning_rate": 1e-4 * n, "num_train_epochs": 1}) for n in (1, 2)],
    "Chinese names": [
        Told([0.1 * n], {"backbone": f"模型/繁體中文閱讀理解大型第{n}版", "learning_rate": 1e-4 * n}) for n in (1, 2)
    ],
    "many": [Told([0.2 + 0.01 * n], {"learning_rate": 1e-5 * 1.1**n}) for n in range(20)],
}  # fmt: skip


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Forms:
    """Return the results and plots of a form, drawn once."""

    @cache
    def make(form: str) -> tuple[Results, dict[str, Plot]]:
        results = found(tmp_path_factory.mktemp("forms"), FORMS[form])
        return results, plots.draw_plots(results)

    return make


def ground(svg: str) -> tuple[list[float], list[float]]:
    """The x and the y of the corners of the ground on which a plot stands, in points from the top left."""
    match = re.search(r'<g id="patch_2">\s*<path d="([^"]+)"', svg)
    assert match
    corners = [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", match[1])]
    return [x for x, _ in corners], [y for _, y in corners]


@pytest.mark.parametrize("form", FORMS)
def test_every_trial_is_in_the_plots_of_its_value(form: str, forms: Forms) -> None:
    """A point of a line or a marker of each trial lies on the ground of the plot."""
    results, drawn = forms(form)
    for name in ("learning_curves", "learning_rate"):
        svg = drawn[name].svg
        for record in results.search if svg else []:
            groups = re.findall(rf'<g id="trial-{record.number}-.*?</g>', svg, re.DOTALL)
            lines = [y for group in groups for path in re.findall(r'^    <path d="([^"]+)" clip', group, re.MULTILINE)
                     for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", path) if "L" in path]  # fmt: skip
            markers = [y for group in groups for y in re.findall(r'<use [^>]* y="([\d.]+)"', group)]
            heights = [float(y) for y in (*lines, *markers)]
            assert any(min(ground(svg)[1]) <= y <= max(ground(svg)[1]) for y in heights), (name, record.number, heights)


@pytest.mark.parametrize("form", FORMS)
def test_labels_of_an_axis_neither_repeat_nor_leave_the_figure(form: str, forms: Forms) -> None:
    for name, plot in forms(form)[1].items():
        for axis in "xy" if plot.svg else "":
            groups = re.findall(rf'<g id="{axis}tick_\d+">(.*?)\n   </g>', plot.svg, re.DOTALL)
            labels = re.findall(r"<text[^>]*>(.*?)</text>", "".join(groups))
            assert len(labels) == len(set(labels)), (name, labels)
            if axis == "y":
                assert max(map(text_points, labels), default=0) < min(ground(plot.svg)[0]), (name, labels)


def test_the_caption_says_what_is_not_on_the_axis(
    forms: Forms,
) -> None:
    drawn = forms("a crowd")[1]
    for name in ("learning_curves", "learning_rate"):
        assert "triangles at its edge stand for trials beyond it" in drawn[name].note
    assert "≤ 0." in " ".join(texts(drawn["parallel_coordinates"].svg))
    assert "triangles" not in forms("negative")[1]["learning_curves"].note


@pytest.mark.parametrize("values", [[1e308, -1e308, 3.0], [5e-324, 1e-300], [1e15, 1e15 + 1], [-0.0, 0.0]])
def test_no_number_is_too_large_or_too_small_to_be_drawn(values: list[float], tmp_path: Path) -> None:
    rates = [1e-300, 1e-5, 1e300]
    trials = [Told([value], {"learning_rate": rate}) for value, rate in zip(values, rates, strict=False)]
    assert plots.draw_plots(found(tmp_path, trials))["learning_curves"].svg


def test_an_axis_rounds_as_the_table_does(forms: Forms) -> None:
    drawn = forms("a crowd")[1]
    assert {"0.9531", "2.1e-05"} <= set(texts(drawn["parallel_coordinates"].svg))
    assert "0.0521" in texts(drawn["early_stopping"].svg)


# names and places


@settings(max_examples=40)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=60), unique=True, max_size=6))
def test_labels_differ_and_fit_into_the_margin(names: list[str]) -> None:
    whole = {" ".join(name.split()) for name in names}
    labels = list(short_names(names).values())
    assert all(text_points(label) <= 125 for label in labels)
    assert len(set(labels)) == len(names) or len(whole) < len(names) or "" in labels


def test_names_that_end_alike_keep_their_starts() -> None:
    names = [f"hfl/{kind}-large-finetuned-on-my-data-v2" for kind in ("macbert", "lert", "lert-2")]
    assert len(set(short_names(names).values())) == 3


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["hfl/chinese-macbert-large", "hfl/chinese-lert-large"], ["…macbert-large", "chinese-lert-large"]),
        (["a/bert", "b/bert"], ["a/bert", "b/bert"]),
        (["/models/mine/"], ["mine"]),
        (["模型/中文"], ["中文"]),
        (["x" * 40], ["…" + "x" * 17]),
    ],
)
def test_labels_keep_what_tells_backbones_apart(names: list[str], labels: list[str]) -> None:
    assert list(short_names(names).values()) == labels


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_labels_do_not_cover_each_other(places: list[float]) -> None:
    moved = plots.spread_heights(places, 0.08)
    assert all(upper - lower >= 0.08 - 1e-6 for lower, upper in pairwise(sorted(moved)))
    assert all(new >= old - 1e-6 for old, new in zip(places, moved, strict=True))
    assert sorted(range(len(places)), key=moved.__getitem__) == sorted(range(len(places)), key=places.__getitem__)
