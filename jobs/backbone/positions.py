"""Tell how many tokens a backbone reads, from its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.backbone.architectures import architecture
from jobs.backbone.folders import read_config
from jobs.backbone.source import config_file


def position_limit(name: str) -> int | None:
    """Return the longest input in tokens according to config.json.

    >>> position_limit("bert-base-chinese")
    512

    Returns None without such a limit, or while config.json is not on this machine. Never uses the network.
    """
    config = local_config(name)
    try:
        return limit_of_config(config) if config else None
    except (ValueError, TypeError):  # reported when the backbone is loaded
        return None


def local_config(name: str) -> dict[str, Any] | None:
    """Return a backbone's config.json, or None while it is not on this machine. Never uses the network."""
    file = config_file(name)
    try:
        return read_config(file) if file else None
    except (OSError, ValueError):  # reported when the backbone is loaded
        return None


def limit_of_config(config: Mapping[str, Any]) -> int | None:
    """Return the position limit of a config, or None for an architecture without one."""
    return architecture(config).limit(config)
