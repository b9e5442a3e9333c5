"""MLflow's pages as `sweeper ui` serves them, over HTTP and in a real browser."""

from __future__ import annotations

import html
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sweeper.ledger.record import TrialRecord
from sweeper.storage.settings import Stores, read_stores
from sweeper.tracking.mirror import Mirror
from sweeper.tracking.runs import SweepInfo
from tests.support.browser import CHROMIUM, FLAGS, needs_browser
from tests.support.hiding import ROOT, hide_libraries

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SWEEP = SweepInfo(name="qa_backbones", key="sweep1", objective="exact_match", columns=["backbone", "learning_rate"])
BACKBONES = ("bert-base-chinese", "hfl/chinese-lert-base", "hfl/chinese-macbert-large")
CLIMB = (0.0, 0.06, 0.25, 0.3)  # uneven, so that a drawn curve can be told from any other
SERVE = """
from pathlib import Path
from sweeper.storage.settings import read_stores
from sweeper.tracking.server import serve
serve(read_stores(Path({folder!r}), {{}}), {port}, lambda url: print(url, flush=True))
"""


def snapshot(number: int, sweep: SweepInfo = SWEEP) -> TrialRecord:
    """Exact match climbs to 0.7312, 0.7412 or 0.7512 in four evaluations."""
    values = [round(0.4312 + rise + number / 100, 4) for rise in CLIMB]
    return TrialRecord(
        number=number,
        key=f"{sweep.key}-{number}",
        state="COMPLETE",
        params={"backbone": BACKBONES[number], "learning_rate": 3e-5},
        evaluations=tuple({"epoch": float(step), "exact_match": value} for step, value in enumerate(values, 1)),
        value=values[-1],
        metrics={},
        checkpoint=None,
        reason=None,
        run_id=None,
        started=None,
        ended=None,
    )


def record(tracking: str, artifacts: str | None, sweep: SweepInfo = SWEEP) -> Mirror:
    with Mirror(tracking, artifacts, sweep.name, sweep) as mirror:
        for number in range(3):
            mirror.put(snapshot(number, sweep))
        mirror.finish("COMPLETE", {"comparison.md": "| trial |"}, {"best_exact_match": 0.7512})
    assert mirror.failure is None
    return mirror


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return replace(read_stores(tmp_path_factory.mktemp("ui"), {}), port=port)


@pytest.fixture(scope="module")
def mirror(stores: Stores) -> Mirror:
    return record(stores.tracking, stores.artifacts)


@pytest.fixture(scope="module")
def address(stores: Stores) -> Iterator[str]:
    """`sweeper ui` without its command line; ended as a service manager would end it."""
    code = SERVE.format(folder=str(stores.root.parent), port=stores.port)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == stores.address, (stores.root / "mlflow.log").read_text()
        yield stores.address
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((stores.host, stores.port))


def ask(address: str, path: str, body: dict[str, Any] | None = None, **headers: str) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(f"{address}/api/2.0/mlflow/{path}", data, headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def search(address: str, sweep: SweepInfo) -> list[dict[str, Any]]:
    experiments = ask(address, "experiments/search", {"max_results": 50})["experiments"]
    body = {
        "experiment_ids": [experiment["experiment_id"] for experiment in experiments],
        "filter": f"tags.`sweeper.sweep_key` = '{sweep.key}'",
    }
    return list(ask(address, "runs/search", body)["runs"])


def tags(run: dict[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in run["data"]["tags"]}


def test_the_server_shows_what_was_written_to_the_file(address: str, mirror: Mirror) -> None:
    runs = {run["info"]["run_name"]: run for run in search(address, SWEEP)}
    assert sorted(runs) == ["qa_backbones", "trial 0", "trial 1", "trial 2"]
    assert tags(runs["trial 1"])["mlflow.parentRunId"] == runs["qa_backbones"]["info"]["run_id"]
    path = f"metrics/get-history?run_id={mirror.run_ids['sweep1-1']}&metric_key=exact_match"
    values = [point["value"] for point in ask(address, path)["metrics"]]
    assert values == [0.4412, 0.5012, 0.6912, 0.7412]
    files = ask(address, f"artifacts/list?run_id={mirror.parent_run_id}")["files"]
    assert [file["path"] for file in files] == ["comparison.md"]


def test_the_server_takes_a_sweep_over_http_without_duplicates(address: str) -> None:
    sweep = replace(SWEEP, name="remote", key="remote")
    first = record(address, None, sweep)
    second = record(address, None, sweep)
    runs = search(address, sweep)
    assert sorted(run["info"]["run_name"] for run in runs) == ["remote", "trial 0", "trial 1", "trial 2"]
    assert first.run_ids == second.run_ids
    path = f"metrics/get-history?run_id={first.run_ids['remote-2']}&metric_key=exact_match"
    steps = [point["step"] for point in ask(address, path)["metrics"]]
    assert steps == [1, 2, 3, 4]
    files = ask(address, f"artifacts/list?run_id={first.parent_run_id}")["files"]
    assert [file["path"] for file in files] == ["comparison.md"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def forwarder(port: int, target: str, swallow: Callable[[str], bool]) -> Iterator[None]:
    """A server that passes every request on, but hangs up instead of answering where `swallow` says so."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            connection = http.client.HTTPConnection(target.removeprefix("http://"), timeout=60)
            connection.request(self.command, self.path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            if swallow(self.path):
                return
            self.send_response(answer.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PATCH = do_PUT = do_POST  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def test_a_lost_answer_leaves_one_run(address: str) -> None:
    lost: list[str] = []

    def swallow(path: str) -> bool:
        if path.endswith("runs/create") and len(lost) < 2:
            lost.append(path)
            return True
        return False

    sweep, port = replace(SWEEP, name="lost", key="lost"), free_port()
    with forwarder(port, address, swallow):
        record(f"http://127.0.0.1:{port}", None, sweep)
    assert len(lost) == 2
    names = sorted(run["info"]["run_name"] for run in search(address, sweep))
    assert names == ["lost", "trial 0", "trial 1", "trial 2"]
    body = {
        "experiment_ids": [search(address, sweep)[0]["info"]["experiment_id"]],
        "run_view_type": "DELETED_ONLY",
    }
    assert len(ask(address, "runs/search", body)["runs"]) == 2  # the doubles were really there


def first_failure(mirror: Mirror) -> str:
    while not (failure := mirror.failure):
        assert not mirror.flush(0.05)
    return failure


def test_an_outage_is_ridden_out(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    sweep, port = replace(SWEEP, name="outage", key="outage"), free_port()
    with Mirror(f"http://127.0.0.1:{port}", None, sweep.name, sweep) as mirror:
        mirror.put(snapshot(0, sweep))
        assert "refused" in first_failure(mirror)
        with forwarder(port, address, lambda _: False):
            assert mirror.flush(60)
            assert mirror.failure is None
            mirror.finish("COMPLETE")
            assert mirror.flush(60)
    assert sorted(run["info"]["run_name"] for run in search(address, sweep)) == ["outage", "trial 0"]


def test_only_this_machines_names_are_answered(address: str) -> None:
    assert ask(address, "experiments/search", {"max_results": 1}, Host="localhost:8080")["experiments"]
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(address, "experiments/search", {"max_results": 1}, Host="evil.example")
    with caught.value as error:
        assert error.code == 403


def test_the_server_runs_no_jobs(address: str) -> None:
    body = json.dumps({"job_name": "invoke_scorer", "params": {}}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/ajax-api/3.0/jobs/", body, headers)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=60)
    with caught.value as error:
        assert b"job execution feature is not enabled" in error.read()


def refused(request: urllib.request.Request | str) -> int:
    """The status with which the server refuses."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=60)
    with caught.value as error:
        return error.code


@pytest.mark.parametrize(
    "path", ["../../../mlflow.db", "..%2f..%2f..%2fmlflow.db", "/etc/passwd", "a/../../x", "%2e%2e/x"]
)
def test_no_artifact_lies_outside_its_run(address: str, mirror: Mirror, path: str) -> None:
    run = f"run_id={mirror.run_ids['sweep1-0']}"
    assert 400 <= refused(f"{address}/get-artifact?{run}&path={path}") < 500
    assert 400 <= refused(f"{address}/api/2.0/mlflow-artifacts/artifacts/{path}") < 500


def test_a_scorer_imports_no_module_that_lies_among_the_artifacts(address: str, mirror: Mirror, stores: Stores) -> None:
    """CVE-2026-116692: a scorer's module was imported by the name that the request gives."""
    data = {"module": "mlflow.genai.scorers.ragas.evil", "class": "Evil", "metric_name": "evil"}
    scorer = {"name": "evil", "third_party_scorer_data": data}
    body = {"experiment_id": "1", "serialized_scorer": json.dumps(scorer), "trace_ids": ["tr-1"]}
    request = urllib.request.Request(
        f"{address}/ajax-api/3.0/mlflow/scorer/invoke", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=60)
    with caught.value as error:
        assert 400 <= error.code < 500
        assert b"is not in the allow-list" in error.read()


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's table of sockets")
@pytest.mark.usefixtures("address")
def test_the_server_listens_on_loopback_alone(stores: Stores) -> None:
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    ends = [line.split()[1].split(":") for table in tables for line in table if line.split()[3] == "0A"]
    assert [host for host, port in ends if int(port, 16) == stores.port] == ["0100007F"]


@pytest.mark.usefixtures("address")
def test_no_command_line_names_the_database(stores: Stores) -> None:
    lines = [file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if os.access(file, os.R_OK)]
    shown = [line for line in lines if str(stores.port).encode() in line]
    assert len(shown) >= 2
    assert [line for line in shown if b"mlflow.db" in line] == []


# in the browser


class Page:
    """What a page holds once its scripts have run; `text` is what a person reads."""

    def __init__(self, content: str) -> None:
        self.content = content
        body = re.sub(r"(?s)<(style|script)\b.*?</\1>", " ", content)
        self.text = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def browse(folder: Path, url: str, *flags: str) -> str:
    """Chromium with a fresh profile; `--virtual-time-budget` runs the page's timers without waiting."""
    profile = folder / "profile"
    shutil.rmtree(profile, ignore_errors=True)
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *flags, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def page(folder: Path, name: str, url: str, wanted: Callable[[Page], bool]) -> Page:
    """The page at `url`, looked at until it shows what is wanted, and its screenshot as NAME.png.

    Charts are drawn by timers that the budget of virtual time overtakes now and then: hence several looks.
    """
    for seconds in (30, 60, 90, 120, 240, 480):
        budget = f"--virtual-time-budget={1000 * seconds}"
        found = Page(browse(folder, url, budget, "--dump-dom"))
        if wanted(found):
            break
    browse(folder, url, budget, f"--screenshot={folder / name}.png")
    return found


@needs_browser
def test_the_runs_page_shows_the_sweep_with_its_trials_folded(address: str, mirror: Mirror, tmp_path: Path) -> None:
    url = f"{address}/{mirror.page}".partition("?")[0]
    found = page(tmp_path, "runs", url, lambda page: "4 matching runs" in page.text)
    assert "4 matching runs" in found.text
    assert mirror.parent_run_id is not None
    assert f"/runs/{mirror.parent_run_id}" in found.content
    assert mirror.run_ids["sweep1-0"] not in found.content  # folded below its parent
    assert (tmp_path / "runs.png").stat().st_size > 20_000


@needs_browser
def test_the_saved_view_ranks_the_trials_with_their_values(address: str, mirror: Mirror, tmp_path: Path) -> None:
    found = page(tmp_path, "ranking", f"{address}/{mirror.page}", lambda page: "0.7512" in page.text)
    assert "best_exact_match" in found.text
    assert "3 matching runs" in found.text
    order = [found.content.index(f"/runs/{mirror.run_ids[f'sweep1-{number}']}") for number in (2, 1, 0)]
    assert order == sorted(order)
    for shown in ("0.7312", "0.7412", "0.7512", *BACKBONES):
        assert shown in found.text
    assert (tmp_path / "ranking.png").stat().st_size > 20_000


@needs_browser
def test_a_trials_page_names_its_parent_and_its_values(address: str, mirror: Mirror, tmp_path: Path) -> None:
    runs = f"{address}/{mirror.page}".partition("?")[0]
    url = f"{runs}/{mirror.run_ids['sweep1-1']}"
    found = page(tmp_path, "trial", url, lambda page: "0.7412" in page.text and "Parent run" in page.text)
    assert re.search(r"trial 1\b", found.text)
    assert re.search(r"Parent run qa_backbones\b", found.text)
    assert re.search(r"best_exact_match 0.7412\b", found.text)
    assert re.search(r"backbone hfl/chinese-lert-base\b", found.text)
    assert re.search(r"Status Finished\b", found.text)
    assert (tmp_path / "trial.png").stat().st_size > 20_000


@needs_browser
def test_a_trials_metrics_page_draws_exact_match_per_evaluation(address: str, mirror: Mirror, tmp_path: Path) -> None:
    runs = f"{address}/{mirror.page}".partition("?")[0]
    url = f"{runs}/{mirror.run_ids['sweep1-1']}/model-metrics"
    found = page(tmp_path, "metrics", url, lambda page: "trial 1 (exact_match)" in page.text)
    charts = found.content.split("trial 1 (")  # a chart's legend stands below it
    assert [chart.partition(")")[0] for chart in charts[1:]] == ["best_exact_match", "exact_match"]
    points = re.findall(r'class="point" transform="translate\(([\d.]+),([\d.]+)\)"', charts[1])
    heights = [float(points[0][1]) - float(y) for _, y in points]
    assert [height / heights[-1] for height in heights] == pytest.approx([rise / 0.3 for rise in CLIMB], abs=0.01)
    assert (tmp_path / "metrics.png").stat().st_size > 20_000


def test_the_server_starts_among_files_named_like_libraries_and_behind_a_proxy(tmp_path: Path) -> None:
    hide_libraries(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}", "http_proxy": "http://127.0.0.1:9"}
    command = [sys.executable, "-P", "-m", "sweeper", "ui", "--port", str(port)]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            assert process.stderr.readline() == f"MLflow is at http://127.0.0.1:{port} until Ctrl-C\n"
        finally:
            process.terminate()
