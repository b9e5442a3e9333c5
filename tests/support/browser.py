"""Find a Chromium for the tests that open pages."""

from __future__ import annotations

import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1700,1000",
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found; on Debian `apt install chromium`")
