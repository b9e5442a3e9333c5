"""Hold a job with plain parameters, and search-space files for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import yaml
from annotated_types import Ge, Le
from hypothesis import strategies as st

from jobs.dataset.data import Data
from jobs.job import Job, ParamError
from sweeper.errors import ConfigError, DataFailure
from sweeper.space.document import plain_scalar
from sweeper.space.domains import Choice, Domain, Range
from sweeper.space.reading import read_search_space
from sweeper.space.search_space import SearchSpace


@dataclass(frozen=True, kw_only=True)
class Params:
    backbone: str = "base"
    seed: Annotated[int, Ge(0)] = 42
    learning_rate: Annotated[float, Ge(0), Le(1)] = 1e-3
    warmup_steps: Annotated[int, Ge(0)] = 0
    num_train_epochs: Annotated[int, Ge(1)] = 3
    max_length: Annotated[int, Ge(1), Le(8192)] = 512
    doc_stride: Annotated[int, Ge(0)] = 64
    balanced: bool = False
    shape: Literal["linear", "cosine"] = "linear"
    dropout: Annotated[float, Ge(0), Le(1)] | None = None

    def __post_init__(self) -> None:
        if "/" in self.backbone:
            raise ParamError("backbone", f"there is no backbone {self.backbone!r}")
        if self.doc_stride >= self.max_length:
            raise ParamError("doc_stride", f"{self.doc_stride} is not below max_length {self.max_length}")
        if self.warmup_steps and self.learning_rate > 0.5:
            raise ParamError("warmup_steps", "no warm-up reaches such a learning_rate")


def idle(backbone: str) -> dict[str, str]:
    return {"warmup_steps": "nothing warms up there"} if backbone == "flat" else {}


JOB = Job("free", Params, {"score": "max", "loss": "min"}, lambda: None, idle=idle)


NOT_A_JOB = 5


HERE = "tests.support.free_job"


def document(**sections: Any) -> str:
    """A valid file, its sections replaced or, with None, left out."""
    whole = {
        "name": "demo",
        "job": f"{HERE}:JOB",
        "data": "sample",
        "objective": "score",
        "parameters": "{learning_rate: 1e-3}",
        "search": "{trials: 4}",
    }
    return "".join(f"{key}: {text}\n" for key, text in {**whole, **sections}.items() if text is not None)


def read_text(text: str, *overrides: str) -> SearchSpace:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "demo.yaml"
        path.write_text(text, encoding="utf-8")
        return read_search_space(path, overrides)


def space(**sections: Any) -> SearchSpace:
    return read_text(document(**sections))


def parameters(text: str, **sections: Any) -> SearchSpace:
    return space(parameters=text, **sections)


def no_data(location: str) -> Data:
    return Data(location, (), (), (), ())


P, S, R = "parameters", "search", "resources"


def first(_: str, domain: Domain) -> Any:
    return domain.values[0] if isinstance(domain, Choice) else domain.low if isinstance(domain, Range) else None


NAMES = ["backbone", "seed", "learning_rate", "num_train_epochs", "balanced", "shape"]


unit = st.floats(0, 1, allow_nan=False)


@st.composite
def domains(draw: st.DrawFn, name: str) -> str:
    """A parameter's domain as a file writes it."""
    values = {
        "backbone": st.sampled_from(["base", "x-large", "010", "1e-5", "no", "*", "a: b"]).map(repr),
        "seed": st.integers(0, 10**9).map(str),
        "learning_rate": unit.map(repr),
        "num_train_epochs": st.integers(1, 50).map(str),
        "balanced": st.sampled_from(["true", "false"]),
        "shape": st.sampled_from(["linear", "cosine"]),
    }[name]
    form = draw(st.sampled_from(["value", "values", "range"]))
    if form == "range" and name in ("seed", "learning_rate", "num_train_epochs"):
        return draw(ranges(values, name == "learning_rate"))
    if form == "value":
        return f"value: {draw(values)}"
    listed = draw(st.lists(values, min_size=1, max_size=3, unique_by=plain_scalar))
    return f"values: [{', '.join(listed)}]"


@st.composite
def ranges(draw: st.DrawFn, values: st.SearchStrategy[str], real: bool) -> str:
    ends = draw(st.lists(values, min_size=2, max_size=2, unique_by=float))
    low, high = sorted(ends, key=float)
    extra = draw(st.sampled_from(["", ", log: true", ", step: "]))
    if extra == ", log: true":
        return f"min: {low}, max: {high}" + (extra if float(low) > 0 else "")
    if extra == ", step: ":
        width = float(high) - float(low)
        share = draw(st.floats(0.001, 1))
        extra += repr(width * share) if real else str(max(1, int(width * share)))
    return f"min: {low}, max: {high}{extra}"


def first_value(domain: str) -> str:
    """The text of the first value of a domain as `domains` writes it."""
    (value, *_) = yaml.safe_load(f"{{{domain}}}").values()
    return str(value[0] if isinstance(value, list) else value)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, str]:
    """A valid file: section → text, parameters in any order, conditions on earlier names only that can hold."""
    names = draw(st.permutations(NAMES))[: draw(st.integers(1, 5))]
    lines: list[str] = []
    reached: dict[str, str] = {}  # a value that a trial can have, by name
    for index, name in enumerate(names):
        branch = draw(domains(name))
        if index and draw(st.booleans()):
            other = draw(st.sampled_from(names[:index]))
            glob = draw(st.sampled_from([reached[other], "*", f"{reached[other]}*"]))
            special, branch = branch, draw(domains(name))
            lines.append(f"  {name}: [{{when: {{{other}: {glob!r}}}, {special}}}, {{{branch}}}]")
            reached[name] = first_value(special)
        else:
            lines.append(f"  {name}: [{{{branch}}}]")
            reached[name] = first_value(branch)
    optional = {
        "early_stopping": st.sampled_from([None, "{}", "{grace_period: 2}"]),
        "repeats": st.sampled_from([None, "{seeds: [1]}", "{top: 2, seeds: [4, 0]}"]),
        "budget": st.sampled_from([None, "{time: 90m}", "{failed_trials: 2}", "{time: 3601s, failed_trials: 1}"]),
        "resources": st.sampled_from([None, "{gpus: 0.5}", '[{when: {backbone: "*"}, gpus: 2}, {cpus: 1.5}]', "[{}]"]),
        "search": st.sampled_from(
            ["{trials: 3}", "{sampler: random, trials: 9, seed: 1, enqueue: [{seed: 5}, {backbone: '010'}]}"]
        ),
        "keep": st.sampled_from([None, "{checkpoints: 1}"]),
    }
    drawn = {key: text for key, value in optional.items() if (text := draw(value))}
    return {"parameters": "\n" + "\n".join(lines), **drawn}


def failure_of(text: str) -> tuple[str, ...]:
    """The lines with which a file is refused; none if it is valid."""
    try:
        read_text(text)
    except (ConfigError, DataFailure) as failure:
        return failure.lines or ("",)
    return ()
