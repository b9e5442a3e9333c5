"""List the parameters of a job: type, bounds, default and help. Imports no training library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from jobs.job import REPLACED_BY, Job
from sweeper.space.domains import literal_text

BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def list_parameters(job: Job) -> list[dict[str, Any]]:
    """Return name, type, bounds, default and help of each parameter, in the order of the job's dataclass.

    Parameters that others have replaced are left out.

    >>> list_parameters(get_job("qa"))[1]["bounds"]
    '>= 0, < 4294967296'
    """
    hints = get_type_hints(job.params, include_extras=True)
    rows = []
    for field in [one for one in fields(job.params) if REPLACED_BY not in one.metadata]:
        schema = TypeAdapter(hints[field.name]).json_schema()
        variants = schema.get("anyOf", [schema])
        rows.append(
            {
                "name": field.name,
                "type": " or ".join(_type_name(variant) for variant in variants),
                "bounds": ", ".join(filter(None, map(_bounds_text, variants))),
                "default": field.default,
                "help": field.metadata.get("help", ""),
            }
        )
    return rows


def parameter_cells(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return the rows as text, with defaults in the notation of search-space files."""
    return [[literal_text(value) for value in row.values()] for row in rows]


def _type_name(schema: dict[str, Any]) -> str:
    return "choice" if "enum" in schema or "const" in schema else str(schema.get("type", "any"))


def _bounds_text(schema: dict[str, Any]) -> str:
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    bounds = [f"{sign} {literal_text(schema[key])}" for key, sign in BOUNDS.items() if key in schema]
    return ", ".join([*map(literal_text, values), *bounds])
