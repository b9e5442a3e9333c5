"""A webhook on loopback that keeps what it receives."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any
from uuid import uuid4


@dataclass
class Webhook:
    """A running server: its port, a random token that is part of its address, and the messages so far.

    status  with which it answers
    hold    it answers only when this is set
    look    called with each message before the answer
    """

    port: int
    token: str = field(default_factory=lambda: f"Zq9{uuid4().hex}")
    messages: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    status: int = 200
    hold: Event = field(default_factory=Event)
    look: Callable[[dict[str, Any]], object] = lambda message: None

    @property
    def address(self) -> str:
        return f"json://127.0.0.1:{self.port}/{self.token}"

    @property
    def titles(self) -> list[str]:
        return [message["title"] for message in self.messages]


@contextmanager
def webhook() -> Iterator[Webhook]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            hook.look(message)
            hook.messages.append(message)
            hook.paths.append(self.path)
            hook.hold.wait(60)
            self.send_response(hook.status)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hook = Webhook(server.server_address[1])
    hook.hold.set()
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hook
    finally:
        hook.hold.set()
        server.shutdown()
        server.server_close()
