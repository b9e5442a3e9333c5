from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import RDBStorage

from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import Ledger
from sweeper.results import plots, report
from sweeper.results.overview import sweep_results
from sweeper.results.report import Cost, Interval, Savings
from sweeper.results.timing import wall_seconds
from sweeper.space.search_space import SearchSpace
from tests.support.browser import CHROMIUM, FLAGS, needs_browser
from tests.support.commands import invoke
from tests.support.written import SPACE, Told, written

NASTY = "<script>alert(1)</script>\"><img src=x onerror='alert(2)'>\n=1+1 {{ 7 * 7 }} 山東大學"
YAML = f"name: best\nparameters: {{backbone: {json.dumps(NASTY, ensure_ascii=False)}}}\n"
TRIALS = [
    Told([0.1, 0.2, 0.3, 0.4], {"backbone": "a", "learning_rate": 1e-4}, questions=50),
    Told([0.1, 0.15], {"backbone": "a", "learning_rate": 1e-5}, "PRUNED", "stopped early after epoch 2"),
    Told([0.3, 0.5, 0.6, 0.9], {"backbone": NASTY, "learning_rate": 3e-4}, questions=50),
    Told([0.2], {"backbone": NASTY, "learning_rate": 1e-3}, "PRUNED", "stopped early after epoch 1"),
    Told([], {"backbone": "c"}, "FAIL", f"{NASTY} with password=hunter22"),
    Told([0.01], {"backbone": "c", "learning_rate": 5e-4}, "RUNNING"),
]


class Tags(HTMLParser):
    """Every element's name, the attributes of all, and the text between."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    folder = tmp_path_factory.mktemp("report")
    parameters = {**SPACE["parameters"], "backbone": {"values": ["a", NASTY, "c"]}}
    return written(open_storage("sqlite:///:memory:"), folder, TRIALS, parameters=parameters, data=f"data/{NASTY}")


@pytest.fixture(scope="module")
def page(ledger: Ledger) -> str:
    return report.report_html(ledger, YAML)


# facts


def test_an_interval_is_wilsons() -> None:
    """By hand: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n), z = 1.959964."""
    assert report.wilson_interval(0.5, 100) == Interval(
        pytest.approx(0.403832, abs=1e-6), pytest.approx(0.596168, abs=1e-6)
    )
    assert report.wilson_interval(0.0, 10) == Interval(0.0, pytest.approx(0.277533, abs=1e-6))


@pytest.mark.parametrize(("share", "questions"), [(0.5, 0), (0.3337, 100), (1.2, 10), (-0.1, 10)])
def test_what_is_no_share_of_the_questions_has_no_interval(share: float, questions: int) -> None:
    assert report.wilson_interval(share, questions) is None


def test_only_trials_whose_answers_are_there_have_an_interval(ledger: Ledger) -> None:
    lines = report.report_rows(ledger, sweep_results(ledger))
    assert [line.number for line in lines if line.interval] == [2, 0]
    assert lines[0].interval == Interval(pytest.approx(0.7864, abs=1e-4), pytest.approx(0.9565, abs=1e-4))


def test_a_score_that_is_no_proportion_has_no_interval(storage: RDBStorage, tmp_path: Path) -> None:
    ledger = written(storage, tmp_path, [Told([0.5], questions=10)], objective="f1")
    assert [line.interval for line in report.report_rows(ledger, sweep_results(ledger))] == [None]


def test_what_early_stopping_saved_is_counted_at_each_trials_own_pace(ledger: Ledger) -> None:
    """Two and three epochs of ten seconds left; 40 + 20 + 40 + 10 + 10 seconds trained."""
    records = sweep_results(ledger).records
    assert report.savings(records) == Savings(2, 5.0, 50.0, 50 / 170)
    assert report.savings(records[:1]) is None
    assert report.savings([replace(record, ended_by="time") for record in records]) is None


def test_cost_is_summed_by_backbone_and_the_dearest_comes_first(ledger: Ledger) -> None:
    costs = report.costs(sweep_results(ledger))
    assert costs == [Cost("a", 2, 60.0, 0.4), Cost(NASTY, 2, 50.0, 0.9), Cost("c", 2, 10.0, None)]


def test_wall_time_is_from_the_first_start_to_the_last_end(ledger: Ledger) -> None:
    records = ledger.records()
    ended = [record.ended for record in records if record.ended]
    assert records[0].started
    assert wall_seconds(records) == (max(ended) - records[0].started).total_seconds()
    assert wall_seconds([]) is None


def test_the_question_names_what_is_searched() -> None:
    one = {**SPACE, "parameters": {"seed": {"values": [1, 2]}}}
    for space, expected in (
        (SPACE, "Which backbone and learning_rate give qa the best exact_match on sample?"),
        (one, "Which seed gives qa the best exact_match on sample?"),
        ({**SPACE, "parameters": {}}, "Does this one setting give qa the best exact_match on sample?"),
    ):
        assert report.question_sentence({**space, "search_space": space}) == expected


@pytest.mark.parametrize(
    ("declared", "text"),
    [
        ({"values": ["a", 1]}, "a · 1"),
        ({"min": 1e-5, "max": 1e-3, "log": True}, "1e-05 to 0.001, logarithmic"),
        ({"min": 1, "max": 9, "step": 2}, "1 to 9, step 2"),
        (
            [{"when": {"backbone": "*-large"}, "value": 1}, {"min": 0, "max": 1}],
            "1 where backbone is *-large; 0 to 1",
        ),
        (
            [{"when": {"backbone": ["a", "b*"], "epochs": ">2"}, "value": 1}],
            "1 where backbone is a or b* and epochs is >2",
        ),
        (5, "5"),
    ],
)
def test_domains_are_said_in_words(declared: Any, text: str) -> None:
    assert report.describe_domain(declared) == text


# the page


def test_the_page_has_every_section_every_trial_and_every_plot(page: str) -> None:
    found = Tags(page)
    for words in (
        "Best trial",
        "Trials",
        "Learning curves",
        "Important parameters",
        "Savings of early stopping",
        "Cost",
    ):
        assert words in found.text
    assert found.names.count("figure") == found.names.count("svg") == 6
    assert found.names.count("tr") == 1 + len(TRIALS) + 1 + 3
    assert "95 % interval 0.786–0.957" in found.text
    assert "About 50s, 29 % of the time of training every trial to its end" in " ".join(found.text.split())


def test_names_from_outside_are_text_and_nothing_else(page: str) -> None:
    found = Tags(page)
    assert {"script", "img", "iframe", "object", "link"} & set(found.names) == {"link"}
    assert [name for name, _ in found.attributes if name.startswith("on")] == []
    assert "<script>alert(1)</script>\"><img src=x onerror='alert(2)'> =1+1 {{ 7 * 7 }} 山東大學" in found.text
    assert YAML in found.text  # to the letter: it is to be copied


def test_the_best_setting_has_one_key_a_line_and_the_name_that_the_page_tells(
    storage: RDBStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = written(storage, tmp_path, TRIALS[:2], search={"seed": 42})
    monkeypatch.setattr("sweeper.commands.results.ledger_of", lambda name: ledger)
    assert invoke("report", "written", "-o", str(tmp_path / "page.html")).exit_code == 0
    text = Tags((tmp_path / "page.html").read_text(encoding="utf-8")).text
    assert "Save this as written-0.yaml and repeat the trial with sweeper run written-0.yaml" in text
    assert "#   sweeper run written-0.yaml\n" in text
    assert "\n  backbone: a\n  learning_rate: 0.0001\n  num_train_epochs: 4\n" in text
    assert "\n  sampler: random\n  trials: 1\n" in text
    assert "\n  learning_rate:\n    min: 1.0e-05\n    max: 0.001\n    log: true\n" in text  # the search space


def test_the_page_rounds_a_value_alike_everywhere(storage: RDBStorage, tmp_path: Path) -> None:
    trials = [Told([0.95314321], {"learning_rate": 1e-4}), Told([0.08754321], {"learning_rate": 2e-4}, "PRUNED")]
    page = report.report_html(written(storage, tmp_path, trials))
    for value in ("0.9531", "0.0875"):
        assert set(re.findall(rf"{value[:5]}\d*", Tags(page).text)) <= {value, value.rstrip("0")}


def test_settings_that_all_trials_share_stand_below_the_table(storage: RDBStorage, tmp_path: Path) -> None:
    trials = [Told([0.5], {"backbone": "a", "seed": 42, "learning_rate": 1e-4})]
    found = Tags(report.report_html(written(storage, tmp_path, trials)))
    assert "All trials have backbone=a, learning_rate=0.0001, num_train_epochs=4, seed=42." in " ".join(
        found.text.split()
    )
    head = found.text.partition("COMPLETE")[0].split("Trials")[-1].split()
    assert head == ["trial", "state", "exact_match", "f1", "eval_loss", "train_loss", "epochs", "seconds", "0"]


def test_secrets_in_reasons_do_not_reach_the_page(page: str) -> None:
    assert "hunter22" not in page
    assert "trial 4 failed: " in page


def test_the_page_asks_for_nothing_from_elsewhere(page: str) -> None:
    links = [value for name, value in Tags(page).attributes if name in ("src", "href", "xlink:href")]
    assert links
    assert all(link is not None and link.startswith(("#", "data:")) for link in links)
    assert "default-src 'none'" in page
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))


def test_identifiers_stand_once_and_references_lead_to_one(page: str) -> None:
    attributes = Tags(page).attributes
    names = [value for name, value in attributes if name == "id"]
    assert len(names) == len(set(names)) > 50
    leads = [value for name, value in attributes if name == "xlink:href"] + re.findall(r"url\((#[^)]*)\)", page)
    assert {str(lead).removeprefix("#") for lead in leads} <= set(map(str, names))


def test_plots_take_the_pages_colours(page: str) -> None:
    pictures = page[page.index("<svg") :]
    assert re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", pictures) == []
    used = set(re.findall(r"var\(--(\w+)", page))
    assert used <= set(re.findall(r"--(\w+): #", page))


def test_a_sweep_without_trials_says_so_in_every_section(storage: RDBStorage, tmp_path: Path) -> None:
    found = Tags(report.report_html(written(storage, tmp_path, [])))
    assert "no trial has ended with a value yet" in found.text
    assert found.text.count("No trial has been started yet.") == 2
    assert found.names.count("svg") == 0
    assert [value for name, value in found.attributes if name == "class"].count("absent") == 9


def test_a_real_sweeps_ledger_makes_a_page(storage: RDBStorage, toy_space: Callable[..., SearchSpace]) -> None:
    """As `run` creates it: with a job of one's own, metrics that are no proportion, and settings of the sampler."""
    from sweeper.ledger.ledger import create_ledger

    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    for number in range(4):
        trial = ledger.ask(space)
        assert trial is not None
        metrics = {"height": 0.1 * number, "eval_loss": 1.0, "epoch": 1.0, "seconds": 1.0}
        ledger.report(trial.number, metrics, None)
        ledger.finish(trial.number, "COMPLETE")
    found = Tags(report.report_html(ledger, "name: best\n"))
    assert "Which backbone and learning_rate give tests.toy:JOB the best height on sample?" in found.text
    assert "higher is better" in found.text


def test_the_table_alone_is_a_page_too(ledger: Ledger) -> None:
    found = Tags(report.trials_html(ledger))
    assert found.names.count("tr") == 1 + len(TRIALS)
    assert "svg" not in found.names
    assert "Learning curves" not in found.text


# in the browser

PROBE = """
<!doctype html><iframe id="page" style="width: {width}px; height: 900px; border: 0" srcdoc="{page}"></iframe>
<pre id="found"></pre>
<script>
document.getElementById("page").onload = (event) => {{
  const inner = event.target.contentDocument, root = inner.documentElement, view = inner.defaultView;
  const beyond = [...inner.querySelectorAll("main *")].filter((node) => !node.closest(".box"))
    .filter((node) => node.getBoundingClientRect().right > view.innerWidth + 1)
    .map((node) => node.outerHTML.slice(0, 90));
  const cut = [...inner.querySelectorAll("figure svg")].flatMap((svg) => {{
    const room = svg.closest(".box").getBoundingClientRect(), right = room.left + svg.closest(".box").scrollWidth;
    return [...svg.querySelectorAll("text")].filter((text) => {{
      const box = text.getBoundingClientRect();
      return box.left < room.left - 1 || box.right > right + 1;
    }}).map((text) => text.textContent);
  }});
  const touching = [...inner.querySelectorAll("figure svg g[id*='xtick'] text")].filter((text, index, all) => {{
    const last = all[index - 1];
    return last && last.ownerSVGElement === text.ownerSVGElement
      && last.getBoundingClientRect().right > text.getBoundingClientRect().left;
  }}).map((text) => text.textContent);
  const size = (node) => {{ const box = node.getBoundingClientRect(); return [box.width, box.height]; }};
  const shown = [...inner.querySelectorAll("figure svg")].map((svg) => ({{
    name: svg.getAttribute("class"), size: size(svg), lines: svg.querySelectorAll("path").length,
    letters: Math.min(...[...svg.querySelectorAll("text")].map((text) => size(text)[1])),
  }}));
  document.getElementById("found").textContent = JSON.stringify({{
    beyond, cut, touching,
    title: inner.title, wide: root.scrollWidth, rows: inner.querySelectorAll(".trials tbody tr").length, plots: shown,
    paper: view.getComputedStyle(inner.body).backgroundColor, ink: view.getComputedStyle(inner.body).color,
    label: view.getComputedStyle(inner.querySelector("figure svg text")).fill,
  }});
}};
</script>
"""
DARK = "--blink-settings=preferredColorScheme=0"


def chromium(folder: Path, text: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """The page in Chromium; what its console says is on standard error."""
    file = folder / "page.html"
    file.write_text(text, encoding="utf-8")
    shutil.rmtree(folder / "profile", ignore_errors=True)
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", *flags]
    return subprocess.run([*command, file.as_uri()], capture_output=True, text=True, timeout=120, check=True)


def brightness(colour: str) -> float:
    return sum(int(part) for part in re.findall(r"\d+", colour)[:3]) / 765


@pytest.mark.slow
@pytest.mark.timeout(300)
@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_can_be_read(page: str, tmp_path: Path, width: int, scheme: str) -> None:
    """Nothing runs over the edge, every plot is there with letters of a readable size, and the console is silent."""
    probe = PROBE.format(width=width, page=html.escape(page))
    done = chromium(tmp_path, probe, "--dump-dom", *([DARK] if scheme == "dark" else []))
    assert "CONSOLE" not in done.stderr
    match = re.search(r'<pre id="found">(.+?)</pre>', done.stdout)
    assert match
    found = json.loads(html.unescape(match[1]))
    assert (found["title"], found["rows"]) == ("written · sweeper", len(TRIALS))
    assert found["wide"] <= width
    assert (found["beyond"], found["cut"], found["touching"]) == ([], [], [])
    assert sorted(plot["name"] for plot in found["plots"]) == sorted(plots.DRAWINGS)
    for plot in found["plots"]:
        assert min(plot["size"]) > 80, plot
        assert plot["lines"] >= 3, plot  # the ground and two marks at least
        assert plot["letters"] >= 10, plot
    bright = [brightness(found[key]) for key in ("paper", "label", "ink")]
    assert bright == sorted(bright, reverse=scheme == "light")
    assert abs(bright[0] - bright[2]) > 0.7


@pytest.mark.slow
@pytest.mark.timeout(300)
@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_long_values_and_narrow_ranges_stay_within_the_page(storage: RDBStorage, tmp_path: Path, width: int) -> None:
    trials = [Told([0.8 + 1e-7 * n, 0.8 + 2e-7 * n], {"learning_rate": 2e-5 + 1e-9 * n}) for n in range(4)]
    page = report.report_html(written(storage, tmp_path, trials), f"name: x\ndata: {'x' * 300}/{'山' * 200}\n")
    done = chromium(tmp_path, PROBE.format(width=width, page=html.escape(page)), "--dump-dom")
    match = re.search(r'<pre id="found">(.+?)</pre>', done.stdout)
    assert match
    found = json.loads(html.unescape(match[1]))
    assert found["wide"] <= width
    assert (found["beyond"], found["cut"], found["touching"]) == ([], [], [])


@pytest.mark.slow
@pytest.mark.timeout(300)
@needs_browser
def test_the_console_would_tell_of_what_the_page_forbids(page: str, tmp_path: Path) -> None:
    broken = page.replace("</main>", "<script>alert(1)</script><img src='https://example.org/x.png'></main>")
    done = chromium(tmp_path, broken, "--dump-dom")
    assert len(re.findall("CONSOLE.*Content Security Policy", done.stderr)) == 2
