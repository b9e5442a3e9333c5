"""Refuse search-space files, and keep data from being read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweeper.errors import ConfigError
from sweeper.space import reading
from sweeper.space.reading import read_search_space
from tests.support.free_job import no_data


@pytest.fixture(scope="module")
def without_data() -> Iterator[None]:
    """Give every search space an empty data set."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "read_data", no_data)
        yield


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., tuple[str, ...]]:
    """The lines with which a file is refused."""

    def lines(text: str, *overrides: str) -> tuple[str, ...]:
        path = tmp_path / "demo.yaml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            read_search_space(path, overrides)
        assert caught.value.exit_code == 2
        assert list(tmp_path.iterdir()) == [path]
        return tuple(line.removeprefix(str(path)) for line in caught.value.lines)

    return lines
