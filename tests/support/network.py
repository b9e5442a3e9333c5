"""A machine without a network, for tests that say they need none."""

from __future__ import annotations

import socket
from typing import Any

import pytest


def refuse_connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """From here on every connection and name look-up of this process fails; gives the list of those tried.

    Libraries are not told that they are offline, so that they try what they would try with a network.
    """
    tried: list[Any] = []

    def connect(_: socket.socket, address: Any) -> None:
        tried.append(address)
        raise OSError(f"a connection to {address} was tried")

    def look_up(host: Any, *_: Any, **__: Any) -> None:
        tried.append(host)
        raise socket.gaierror(f"the address of {host} was asked for")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return tried
