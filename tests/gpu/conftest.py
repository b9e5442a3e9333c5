"""Provide what the tests on a GPU share. A test with a parameter `device` runs on the CPU too, in another tier."""

from __future__ import annotations

import pytest

from tests.support.gpus import require_gpus, write_long_questions


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Show warnings on a GPU, where libraries of other versions may give some, and do not fail for them."""
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(autouse=True)
def _gpu(request: pytest.FixtureRequest) -> None:
    """Skip what needs a GPU where there is none."""
    if request.node.get_closest_marker("gpu"):
        require_gpus()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_long_questions(tmp_path_factory.mktemp("gpu") / "data")
