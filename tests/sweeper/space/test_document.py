"""YAML text to plain values: what is read, what is refused, and where."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jobs.suggestions import nearest, unknown_name
from sweeper.errors import ConfigError
from sweeper.space.document import parse_document, plain_scalar, read_document, yaml_text
from sweeper.space.mistakes import Mistakes


def parsed(text: str, *overrides: str) -> dict[str, Any]:
    return parse_document(text, Path("qa.yaml"), overrides).values


def refused(text: str, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parsed(text, *overrides)
    return caught.value.lines


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E-5", 1e-5),
        (".5", 0.5),
        ("1.", 1.0),
        ("-2.50e+3", -2500.0),
        ("+7", 7),
        ("0", 0),
        ("-0", 0),
        ("9223372036854775807", 2**63 - 1),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("True", "True"),
        ("NULL", "NULL"),
        ("no", "no"),
        ("on", "on"),
        ("010", "010"),
        ("00.5", "00.5"),
        ("0x10", "0x10"),
        ("0o7", "0o7"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("１２", "１２"),
        ("1e", "1e"),
        ("inf", "inf"),
        ("scratch:2x128x2", "scratch:2x128x2"),
    ],
)
def test_plain_scalars_are_read_as_yaml_1_2_reads_them(text: str, value: object) -> None:
    found = plain_scalar(text)
    assert found == value
    assert type(found) is type(value)


def test_infinite_and_undefined_numbers_are_numbers() -> None:
    assert plain_scalar(".inf") == math.inf
    assert plain_scalar("-.INF") == -math.inf
    assert math.isnan(plain_scalar(".nan"))  # type: ignore[arg-type]
    assert plain_scalar("-.nan") == "-.nan"


def test_quoted_scalars_are_text() -> None:
    assert parsed("a: '5'\nb: \"true\"\nc: |\n  1\n") == {"a": "5", "b": "true", "c": "1\n"}


def test_every_key_and_item_has_its_line() -> None:
    text = "a: 1\nb:\n  - x\n  - {c: 2,\n     d: 3}\n"
    lines = parse_document(text, Path("qa.yaml")).lines
    assert lines[("a",)] == "1"
    assert lines[("b",)] == "2"
    assert lines[("b", 0)] == "3"
    assert lines[("b", 1, "c")] == "4"
    assert lines[("b", 1, "d")] == "5"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"{}\n", "is empty"),
        ("a: 1\n".encode("utf-16-le"), "NUL byte"),
        ("a: 1\n".encode("utf-32"), "is UTF-"),
        ("a: 問題\n".encode("big5"), "is not UTF-8"),
        (b"a: 1\n\tb: 1\n", ":2: a tab stands where"),
        (b"a: 9223372036854775808", ":1: a: a whole number of 19 digits"),
        (b"a: " + b"{x: " * 2000 + b"}" * 2000, ":1: a.x: nested more than"),
        (b"? " * 500 + b"a", "nested more than"),
        (b"a: 1\nb: *x\n", ":2: b: `*x` is a YAML alias"),
        (b"b: [*-large]\n", 'write "*-large" in quotes'),
        (b"b: [*]\n", "text that begins with * needs quotes"),
        (b"a: !!str 1\n", ":1: a: the tag"),
        (b"!!map {a: 1}\n", ":1: the tag"),
        (b"true: x\n", ":1: the key true is true or false"),
        (b"?\n: x\n", ":1: the key null is nothing, not text"),
        (b"[a, b]: x\n", "is a list, not text"),
        (b"? {a: 1}\n: x\n", "is a mapping, not text"),
        (b'a: "\\x07"\n', ':1: a: "\\u0007" holds a control character'),
        (b'a: "\\ud800"\n', "holds a control character"),
        (b'a: "\\U00110000"\n', ":1: an escape or directive has an impossible number"),
        (b"%YAML 1." + b"9" * 5000 + b"\n---\na: 1\n", "an escape or directive has an impossible number"),
        (b"a: \x07\n", ":1: character U+0007 is not allowed"),
        (b"a: [1, 2\nb: 3\n", "not YAML"),
        (b"a: 'x\n", "not YAML"),
        (b"a: b: c\n", ":1: a second `:` on this line"),
        (b"a: @x\n", ":1: not YAML"),
    ],
)
def test_files_that_are_not_plain_yaml_are_refused(raw: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "qa.yaml"
    path.write_bytes(raw)
    with pytest.raises(ConfigError) as caught:
        read_document(path)
    assert any(line.startswith(str(path)) and expected in line for line in caught.value.lines)
    assert all("\n" not in line for line in caught.value.lines)
    assert list(tmp_path.iterdir()) == [path]


def test_document_marks_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "qa.yaml").write_text("---\na: 1\nb: 2\n...\n")
    document = read_document(tmp_path / "qa.yaml")
    assert document.values == {"a": 1, "b": 2}


def test_a_path_that_is_no_readable_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    os.mkfifo(tmp_path / "pipe")
    causes = {
        tmp_path / "missing.yaml": "no such file",
        file / "below.yaml": "cannot be read (Not a directory)",
        tmp_path / ("x" * 300): "cannot be read (File name too long)",
        Path("a\0b"): "cannot be read",
        tmp_path / "pipe": "is not a regular file",
    }
    for path, cause in causes.items():
        with pytest.raises(ConfigError) as caught:
            read_document(path)
        assert cause in str(caught.value)
        assert caught.value.exit_code == 2


def test_all_mistakes_are_told_in_the_order_of_the_file() -> None:
    lines = refused("a: 1\nb: &x 2\na: 3\nc: *x\n1: 4\n", "nonsense", "d=!x 1")
    assert [line.split(": ")[0] for line in lines[:4]] == ["qa.yaml:2", "qa.yaml:3", "qa.yaml:4", "qa.yaml:5"]
    assert lines[4].startswith("qa.yaml: override 'nonsense': is not dotted.key=value")
    assert lines[5].startswith("qa.yaml: override 'd=!x 1': d: the tag")


def test_of_very_many_mistakes_the_first_are_told() -> None:
    lines = refused("".join(f"{number}: x\n" for number in range(60)))
    assert len(lines) == 51
    assert lines[49].startswith("qa.yaml:50: the key 49 is a number")
    assert lines[50] == "qa.yaml: … and 10 more mistakes"


def test_an_override_sets_a_value_read_by_the_same_rules() -> None:
    values = parsed(
        "search: {trials: 24}\n",
        "search.trials=2",
        "parameters.learning_rate={min: 1e-5, max: 1e-3, log: true}",
        "parameters.backbone=no",
        "data=a=b",
        "name=",
    )
    assert values == {
        "search": {"trials": 2},
        "parameters": {"learning_rate": {"min": 1e-5, "max": 1e-3, "log": True}, "backbone": "no"},
        "data": "a=b",
        "name": None,
    }


def test_an_override_reaches_into_lists_and_replaces_nothing_else() -> None:
    assert parsed("a: [{b: 1, c: 2}, 3]\n", "a.0.b=5", "a.1=6") == {"a": [{"b": 5, "c": 2}, 6]}


def test_the_last_of_two_overrides_stands() -> None:
    assert parsed("a: 1\n", "a=2", "a=3") == {"a": 3}


def test_an_overridden_key_stands_at_its_override() -> None:
    document = parse_document("a:\n  b: 1\n  c: 2\n", Path("qa.yaml"), ["a={b: 3}", "d.e=4"])
    assert document.lines[("a",)] == "override 'a={b: 3}'"
    assert document.lines[("a", "b")] == "override 'a={b: 3}'"
    assert ("a", "c") not in document.lines
    assert document.lines[("d",)] == document.lines[("d", "e")] == "override 'd.e=4'"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a", "is not dotted.key=value"),
        ("=1", "is not dotted.key=value"),
        ("a..b=1", "is not dotted.key=value"),
        (".=1", "is not dotted.key=value"),
        ("a.b=1", "a: is a number without an entry 'b'"),
        ("l.5=1", "l: is a list without an entry '5'"),
        ("l.x=1", "l: is a list without an entry 'x'"),
        ("l." + "9" * 5000 + "=1", "is a list without an entry"),
        (".".join("abcdefghijklmnopqrstuvwxyz") + "=1", "has more than"),
        ("b=[1", "b: not YAML"),
        ("b=*x", "b: `*x` is a YAML alias"),
        ("b={c: 1, c: 2}", "b.c: stands twice"),
        ("b=1\n---\n2", "b: a second document"),
        ("b=\ud800", "b: character U+D800 is not allowed"),
    ],
)
def test_an_override_that_cannot_be_applied_is_refused(override: str, expected: str) -> None:
    (line,) = refused("a: 1\nl: [1]\n", override)
    assert line.startswith("qa.yaml: override ")
    assert expected in line
    assert "\n" not in line


def test_a_wrong_name_is_answered_with_the_nearest_and_all_right_ones() -> None:
    known = ["trials", "sampler"]
    assert (
        unknown_name("key", "trails", known)
        == "unknown key 'trails'; did you mean 'trials'? known here: sampler, trials"
    )
    assert unknown_name("key", "zebra", known) == "unknown key 'zebra'; known here: sampler, trials"


@pytest.mark.parametrize("name", ["TRIALS", "ｔｒｉａｌｓ", "trials ", "trial"])
def test_the_nearest_name_is_found_whatever_its_case_and_width(name: str) -> None:
    assert nearest(name, ["sampler", "trials"]) == "trials"


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cc", "Cs"]))
    | st.sampled_from(["1e-5", "no", "010", "~", "null", "*-large", "<<", "- x", "a: b", "#", "1:30", ".inf", "x\ny"])
)
keys = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=8)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(keys, trees, min_size=1, max_size=4))
def test_values_written_as_yaml_are_read_back_unchanged(values: dict[str, Any]) -> None:
    found = parsed(yaml_text(values))
    assert found == values
    assert repr(found) == repr(values)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_with_one_line_each(text: str) -> None:
    assert all(line and "\n" not in line for line in failure_of(text, f"a={text}", text))


def failure_of(text: str, *overrides: str) -> tuple[str, ...]:
    """The lines with which a text is refused; none if it can be read."""
    try:
        parsed(text, *overrides)
    except ConfigError as error:
        return error.lines or ("",)
    return ()


@given(st.dictionaries(st.sampled_from(["a", "b"]), trees, min_size=1))
def test_what_is_read_agrees_with_pyyaml_where_both_read_the_same_yaml(values: dict[str, Any]) -> None:
    assert yaml.safe_load(yaml_text(values)) == values


def test_a_name_of_any_length_is_told_in_a_short_line() -> None:
    note = Mistakes(Path("qa.yaml"), {})
    note(("parameters", "x" * 5_000), unknown_name("key", "9" * 5_000, ["name", "job"]))
    (line,) = note.lines()
    assert line.startswith("qa.yaml:1: parameters.'xxx")
    assert "unknown key '999" in line
    assert len(line) < 250
