"""Tell the services of a sweep's `notify` section what happens while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from sweeper.budget.limits import Ending
from sweeper.ledger.record import TrialRecord
from sweeper.notify.events import Message, Notices
from sweeper.notify.service import FLUSH_SECONDS, HURRY_FLUSH_SECONDS, Service
from sweeper.process.signals import Interrupt
from sweeper.secrets import redacted
from sweeper.space.search_space import SearchSpace


class Watcher:
    """Send the messages about a run; without an address, send none."""

    def __init__(self, notices: Notices, service: Service | None) -> None:
        self.notices = notices
        self.service = service
        self.over = False  # the end of the run is told

    def update(self, record: TrialRecord) -> None:
        self._put(self.notices.changed(record))

    def end(self, ending: Ending | None = None, cause: str | None = None) -> None:
        """Tell the end of the run; only the first call does."""
        if not self.over:
            self.over = True
            self._put(self.notices.ended(ending, cause))

    def give_up(self, cause: str | None) -> None:
        """Tell that the run has broken off, before another thread ends the process."""
        self.end(cause=cause or "its driver was ended")
        if self.service:
            self.service.close()

    def _put(self, messages: Iterable[Message]) -> None:
        for message in messages:
            if self.service:
                self.service.put(message)


@contextmanager
def watched(
    space: SearchSpace,
    name: str,
    earlier: Sequence[TrialRecord],
    address: str | None,
    interrupt: Interrupt,
    say: Callable[[str], object],
) -> Iterator[Watcher]:
    """Yield the Watcher of a run, and wait for its last messages at the end. An error in the block is told as the end.

    `say` receives one line if a message is not sent.
    """
    service = Service(address, say) if address and space.notify else None
    watcher = Watcher(Notices(space, name, earlier), service)
    try:
        with interrupt.before_end(lambda: watcher.give_up(interrupt.cause)):
            yield watcher
    except Exception as error:
        watcher.end(cause=redacted(" ".join(str(error).split()) or type(error).__name__))
        raise
    finally:
        if service:
            service.close(FLUSH_SECONDS if interrupt.asked is None else HURRY_FLUSH_SECONDS)
