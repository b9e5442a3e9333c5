"""Describe search-space files as JSON Schema, for editors."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any, get_type_hints

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from jobs import JOBS, get_job
from jobs.job import REPLACED_BY
from sweeper.space.domains import number_type
from sweeper.space.sections import File, Resources

# looser than IMPORT_PATH: in the regular expressions of JSON Schema, \w is ASCII only
IMPORT_PATH_PATTERN = r"^[^\s:]+:[^\s:]+$"


class _Untitled(GenerateJsonSchema):
    """Omit titles that only repeat a key."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def json_schema_text() -> str:
    """Return the text that `sweeper schema` prints and search_spaces/schema.json contains."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of search-space files, with the parameters of every job in JOBS."""
    schema = File.model_json_schema(schema_generator=_Untitled)
    properties, definitions = schema["properties"], schema["$defs"]
    condition = {"type": ["string", "number", "boolean"]}
    definitions["when"] = {
        "type": "object",
        "description": "holds when every named parameter has this value, matches this glob or meets this comparison, "
        'such as ">2"; or one of a list of these',
        "minProperties": 1,
        "additionalProperties": {"anyOf": [condition, {"type": "array", "minItems": 1, "items": condition}]},
    }
    properties["job"]["anyOf"] = [{"enum": list(JOBS)}, {"pattern": IMPORT_PATH_PATTERN}]
    definitions["Resources"] = Resources.model_json_schema(schema_generator=_Untitled)
    properties["resources"] |= _conditional(definitions["Resources"])
    conditions = [_of_job(name, definitions) for name in JOBS]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "allOf": conditions}


def _conditional(section: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that allows the section, null, or a list of sections with an optional `when`."""
    branch = {**section, "properties": {"when": {"$ref": "#/$defs/when"}, **section["properties"]}}
    return {"anyOf": [section, {"type": "array", "minItems": 1, "items": branch}, {"type": "null"}]}


def _of_job(name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema that applies if `job` is `name`: its parameters, enqueued settings and metrics."""
    job = get_job(name)
    hints = get_type_hints(job.params, include_extras=True)
    values = {field.name: TypeAdapter(hints[field.name]).json_schema() for field in fields(job.params)}
    definitions[f"{name}_values"] = _strict(values)
    definitions[f"{name}_parameters"] = _strict(
        {
            field.name: {
                "description": field.metadata.get("help", ""),
                "default": field.default,
                **({"deprecated": True} if REPLACED_BY in field.metadata else {}),
                "anyOf": _forms(f"#/$defs/{name}_values/properties/{field.name}", number_type(hints[field.name])),
            }
            for field in fields(job.params)
        }
    )
    then = {
        "parameters": {"$ref": f"#/$defs/{name}_parameters"},
        "objective": {"enum": list(job.metrics)},
        "search": {"properties": {"enqueue": {"items": {"$ref": f"#/$defs/{name}_values"}}}},
    }
    return {"if": {"properties": {"job": {"const": name}}, "required": ["job"]}, "then": {"properties": then}}


def _forms(value: str, number: type[int] | type[float] | None) -> list[dict[str, Any]]:
    """Return the allowed forms of a parameter. The schema of a single value is at `value`."""
    one = {"$ref": value}
    keys: dict[str, Any] = {"values": {"type": "array", "items": one, "minItems": 1, "uniqueItems": True}}
    required = [["values"]]
    if number:
        step = {"type": "integer" if number is int else "number", "exclusiveMinimum": 0}
        keys |= {"min": one, "max": one, "log": {"type": "boolean"}, "step": step}
        required.append(["min", "max"])
    branch = _strict({"when": {"$ref": "#/$defs/when"}, "value": one, **keys}, *required, ["value"])
    return [one, _strict(keys, *required), {"type": "array", "minItems": 1, "items": branch}]


def _strict(properties: dict[str, Any], *required: list[str]) -> dict[str, Any]:
    """Return a schema for a mapping that has only these keys and all keys of exactly one `required` group."""
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "oneOf": [{"required": keys} for keys in required]} if required else schema
