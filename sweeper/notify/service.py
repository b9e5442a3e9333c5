"""Send messages through apprise in a background thread. The address is a secret: no error or log shows it."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from sweeper.errors import ConfigError, EnvironmentFailure
from sweeper.notify.events import Message
from sweeper.process.signals import SIGNALS
from sweeper.secrets import NOTIFY_URL, private_value
from sweeper.storage.settings import notify_setting

FLUSH_SECONDS = 5.0  # time that the end of a run waits for messages that were not sent yet
HURRY_FLUSH_SECONDS = 1.0  # the same after an interrupt
THREAD = "notifications"
NOT_SENT = "a message about the sweep could not be sent to the address of `notify`; the sweep goes on"
SILENT = logging.CRITICAL + 1


def notify_address(folder: Path | None) -> tuple[str, str] | None:
    """Return the address for messages and where it stands: the variable, else `mlflow.ini` in `folder`; or None."""
    if value := private_value(NOTIFY_URL):
        return value, NOTIFY_URL
    return notify_setting(folder) if folder else None


def checked_address(folder: Path | None) -> str | None:
    """Return the address for messages, None if there is none. Raises ConfigError if apprise does not know its form,
    without showing it."""
    found = notify_address(folder)
    if found is None:
        return None
    address, place = found
    if opened(address) is None:
        forms = "json://HOST/PATH for a webhook, or another form of apprise"
        raise ConfigError(f"{place}: is no address for messages; write {forms} (https://appriseit.com)")
    return address


def opened(address: str) -> Any | None:
    """Return apprise's sender for an address, None if it does not know the form of the address.

    Raises EnvironmentFailure if apprise is not installed.
    """
    silence()
    try:
        import apprise
    except ImportError:
        raise EnvironmentFailure("notify: needs apprise, which is not installed; run `pip install apprise`") from None
    try:
        # In memory apprise keeps nothing of an address on the disk. Without a timeout of its own it sends in our
        # thread, whose log `silence` knows; its services give up a connection after seconds.
        sender = apprise.Apprise(asset=apprise.AppriseAsset(storage_mode="memory", service_timeout=0))
        return sender if sender.add(address) and len(sender) else None
    except Exception:  # plugins for a hundred services parse the address
        return None


def silence() -> None:
    """Keep apprise's log, and that of the connections in our thread, from any handler: both show the address."""
    log = logging.getLogger("apprise")
    log.setLevel(SILENT)
    log.propagate = False
    for name in ("urllib3.connectionpool", "urllib3.util.retry"):
        logging.getLogger(name).addFilter(_of_others)  # a filter that is there is not added again


def _of_others(record: logging.LogRecord) -> bool:
    return record.threadName != THREAD


def delivered(address: str, message: Message) -> bool:
    """Send a message in this thread and return True if all services have taken it. Raises nothing."""
    try:
        sender = opened(address)
        return bool(sender and sender.notify(title=message.title, body=message.body))
    except Exception:  # also its text may show the address
        return False


class Service:
    """Send messages in the order of `put` from a thread of its own; `say` receives one line if one is not sent.

    >>> service = Service("json://127.0.0.1:8000/hook", print)
    >>> service.put(Message("finished", "toy: finished", "8 trials"))
    >>> service.close()
    """

    def __init__(
        self, address: str, say: Callable[[str], object], send: Callable[[str, Message], bool] = delivered
    ) -> None:
        self._address = address
        self._say = say
        self._send = send
        self._queue: SimpleQueue[Message | None] = SimpleQueue()
        self._told = False
        self._thread = threading.Thread(target=self._work, name=THREAD, daemon=True)
        self._thread.start()

    def put(self, message: Message) -> None:
        """Queue a message. Returns at once."""
        self._queue.put(message)

    def close(self, timeout: float = FLUSH_SECONDS) -> None:
        """Wait until all messages are sent, at most `timeout` seconds."""
        self._queue.put(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._not_sent()

    def _work(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # the main thread handles them
        while (message := self._queue.get()) is not None:
            if not self._send(self._address, message):
                self._not_sent()

    def _not_sent(self) -> None:
        if not self._told:
            self._told = True
            self._say(NOT_SENT)
