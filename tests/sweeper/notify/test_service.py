"""Messages reach a webhook on loopback, and its address reaches nobody else. Real apprise, real HTTP."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweeper.ledger.record import TrialRecord
from sweeper.notify.events import Message
from sweeper.notify.service import NOT_SENT, Service, delivered, notify_address
from sweeper.notify.watcher import watched
from sweeper.process.signals import Interrupt
from sweeper.secrets import NOTIFY_URL, redacted, take_private
from sweeper.space.search_space import SearchSpace
from tests.support.commands import invoke
from tests.support.trials import record
from tests.support.webhook import Webhook, webhook

Make = Callable[..., SearchSpace]
MESSAGE = Message("finished", "toy: finished", "8 trials")
AWAY = "json://127.0.0.1:9/Zq9secret"  # nothing listens there

pytestmark = pytest.mark.filterwarnings("default")  # of the modules that apprise imports


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as found:
        yield found


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """No test knows the address of another."""
    yield
    take_private({})


def test_a_message_reaches_the_webhook_in_a_thread_and_is_not_waited_for(hook: Webhook) -> None:
    said: list[str] = []
    hook.hold.clear()
    service = Service(hook.address, said.append)
    for number in range(3):
        service.put(MESSAGE._replace(body=f"{number}"))  # returns although the webhook does not answer
    hook.hold.set()
    service.close(timeout=60)
    assert [message["message"] for message in hook.messages] == ["0", "1", "2"]
    assert (hook.titles[0], hook.paths[0], said) == ("toy: finished", f"/{hook.token}", [])


def test_a_failure_is_told_once_in_one_line_without_the_address(hook: Webhook) -> None:
    said: list[str] = []
    hook.status = 500
    service = Service(hook.address, said.append)
    for _ in range(3):
        service.put(MESSAGE)
    service.close(timeout=60)
    assert len(hook.messages) == 3  # the later ones are tried
    assert said == [NOT_SENT]


def test_a_webhook_that_hangs_is_given_up(hook: Webhook) -> None:
    said: list[str] = []
    hook.hold.clear()
    service = Service(hook.address, said.append)
    service.put(MESSAGE)
    service.close(timeout=0.05)
    assert said == [NOT_SENT]


def test_an_error_of_a_service_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    import apprise

    def broken(self: object, **_: object) -> bool:
        raise RuntimeError(AWAY)

    monkeypatch.setattr(apprise.Apprise, "notify", broken)
    assert not delivered(AWAY, MESSAGE)


def test_no_logger_shows_the_address(
    hook: Webhook, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    hook.status = 404
    with caplog.at_level(logging.DEBUG):
        for address in (hook.address, AWAY, f"slack://{hook.token}"):
            service = Service(address, print)
            service.put(MESSAGE)
            service.close(timeout=60)
        assert logging.getLogger("urllib3.connectionpool").isEnabledFor(logging.DEBUG)
    shown = "".join((caplog.text, *capfd.readouterr()))
    assert NOT_SENT in shown
    assert hook.token not in shown
    assert "Zq9secret" not in shown


def test_the_variable_goes_before_the_file_and_is_taken_from_the_environment(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert notify_address(None) is None
    (here / "mlflow.ini").write_text(f"[notify]\nurl = {AWAY}\n")
    assert notify_address(here) == (AWAY, "mlflow.ini:2: [notify] url")
    monkeypatch.setenv(NOTIFY_URL, f"{AWAY}2")
    take_private(os.environ)
    assert NOTIFY_URL not in os.environ
    assert notify_address(here) == (f"{AWAY}2", NOTIFY_URL)
    assert redacted(f"cannot reach {AWAY}2") == "cannot reach ***"
    monkeypatch.setenv(NOTIFY_URL, AWAY)  # a program that uses no command
    assert notify_address(None) == (AWAY, NOTIFY_URL)
    assert NOTIFY_URL not in os.environ


@pytest.mark.parametrize(
    "wrong", ["http://127.0.0.1/Zq9secret", "Zq9secret", "json://", "mailto://Zq9secret", "nobody://Zq9secret"]
)
def test_a_wrong_address_is_told_before_the_sweep_without_showing_it(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(NOTIFY_URL, wrong)
    done = invoke("run", "toy.yaml", "notify={}")
    shown = done.output + "".join(capfd.readouterr())
    assert done.exit_code == 2, shown
    assert f"{NOTIFY_URL}: is no address for messages; write json://HOST/PATH for a webhook" in shown
    assert "Zq9secret" not in shown
    assert not (toy_folder / "sweeps/toy").exists()


@pytest.mark.parametrize(
    "line",
    [
        "url = nobody://h/Zq9secret",
        "url nobody://h/Zq9secret",
        "  nobody",
        "token = nobody://h/Zq9secret",
        "url : nobody://h/Zq9secret",
    ],
)
def test_mistakes_in_the_settings_do_not_show_the_address(here: Path, line: str) -> None:
    (here / "mlflow.ini").write_text(f"[notify]\n{line}\n")
    done = invoke("doctor")  # a sweep, too, reads the settings first
    said = [one for one in done.output.splitlines() if "mlflow.ini:2" in one]
    assert (done.exit_code, len(said)) == (4 if line.startswith(("url =", "url :")) else 2, 1)
    assert "Zq9secret" not in done.output


SECTIONS = [
    "notify.url=json://h/Zq9secret",
    "notify=json://h/Zq9secret",
    "notify={url: Zq9secret}",
    "notify={events: [finished, 'json://h/Zq9secret']}",
    "notify={to: {all: [me@Zq9secret]}}",
    "notify={'json://h/Zq9secret': true}",
    "notify={new_best_every: 'json://h/Zq9secret'}",
]


@pytest.mark.parametrize("override", SECTIONS)
@pytest.mark.parametrize("in_file", [True, False])
def test_an_address_in_a_search_space_is_refused_and_not_shown(toy_folder: Path, override: str, in_file: bool) -> None:
    if in_file:
        key, _, value = override.removeprefix("notify").removeprefix(".").partition("=")
        section = f"{{{key}: '{value}'}}" if key else value
        (toy_folder / "toy.yaml").write_text((toy_folder / "toy.yaml").read_text() + f"notify: {section}\n")
    done = invoke("run", "toy.yaml", *(() if in_file else (override,)))
    assert done.exit_code == 2
    assert "notify: holds an address, which is a secret; set SWEEPER_NOTIFY_URL" in done.stderr
    assert "Zq9secret" not in done.output
    assert not (toy_folder / "sweeps").exists()


def test_doctor_tells_that_there_is_an_address_and_sends_a_test_message(
    here: Path, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sweeper.doctor import notify_findings

    (unset,) = notify_findings(None, send=True)
    assert (notify_findings(None, send=False), unset.good) == ([], False)
    monkeypatch.setenv(NOTIFY_URL, hook.address)
    (found,) = notify_findings(None, send=False)
    assert (found.detail, found.good, hook.messages) == ("address set by SWEEPER_NOTIFY_URL", True, [])
    (found,) = notify_findings(None, send=True)
    assert (found.good, hook.titles) == (True, ["sweeper doctor"])
    hook.status = 500
    (found,) = notify_findings(None, send=True)
    assert (found.good, hook.token in found.detail) == (False, False)
    monkeypatch.setenv(NOTIFY_URL, "Zq9secret")
    (found,) = notify_findings(None, send=False)
    assert (found.good, "Zq9secret" in found.detail) == (False, False)


def test_an_error_in_a_run_is_told_and_raised(hook: Webhook, toy_space: Make) -> None:
    def run(asked: int | None, error: BaseException | None, *records: TrialRecord) -> list[str]:
        interrupt = Interrupt()
        interrupt.asked = asked
        with watched(toy_space("notify={}"), "toy", (), hook.address, interrupt, print) as watcher:
            for one in records:
                watcher.update(one)
            if error:
                raise error
            watcher.end()
        return hook.titles

    with pytest.raises(ValueError, match="the ledger is gone"):
        run(None, ValueError("the ledger is gone"))
    assert (hook.titles, hook.messages[0]["message"]) == (["toy: has stopped"], "the ledger is gone")
    with pytest.raises(KeyboardInterrupt):
        run(2, KeyboardInterrupt())
    assert hook.titles == ["toy: has stopped"]  # who stops a sweep knows it
    assert run(None, None, record(0, 0.5))[1:] == ["toy: new best height 0.5000 (trial 0)", "toy: finished"]


def test_without_the_section_no_thread_is_started(toy_space: Make, hook: Webhook) -> None:
    before = threading.active_count()
    with watched(toy_space(), "toy", (), hook.address, Interrupt(), print) as watcher:
        watcher.update(record(0, 0.5))
        assert threading.active_count() == before
    assert hook.messages == []
