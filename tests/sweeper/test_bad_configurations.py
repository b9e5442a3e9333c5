"""Every way a search-space file can be wrong, one entry each, through the command line: exit 2, every mistake
in a line of its own with file, line and key, nothing created and no traceback. And what only looks wrong.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import sweeper.cluster.capacity
import sweeper.monitor.plan  # noqa: F401  whoever may read nothing cannot import either
from sweeper.space.document import MAX_BYTES
from tests.support.commands import invoke

ROOT = Path(__file__).parents[2]
NAME = "bad.yaml"
WHOLE = """\
name: bad
job: qa
data: sample
objective: exact_match
parameters:
  backbone: scratch:1x32x2
  learning_rate: {min: 1e-5, max: 1e-3, log: true}
search: {sampler: random, trials: 3}
"""


class Case(NamedTuple):
    """`file` is the whole file, or makes it. `said` begins each line on stderr, in order, after the file's name;
    for a file that is accepted it stands in what `plan` prints."""

    entry: str
    file: str | bytes | Callable[[Path], Any]
    said: list[str]


def line(number: int, text: str | None) -> str:
    """The whole file with another line; None leaves it out."""
    lines = WHOLE.splitlines()
    lines[number - 1 : number] = [] if text is None else [text]
    return "".join(f"{line}\n" for line in lines)


def more(text: str) -> str:
    """The whole file with lines 9 and on."""
    return f"{WHOLE}{text}\n"


def rate(text: str) -> str:
    return line(7, f"  learning_rate: {text}")


def knob(text: str) -> str:
    """The whole file with another parameter, on line 8."""
    return line(7, f"  learning_rate: 1e-4\n  {text}")


def with_model(path: Path) -> None:
    """The whole file with a model in a folder that reads less than it is asked to."""
    folder = path.parent / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert", "max_position_embeddings": 512}')
    path.write_text(knob("max_length: 600").replace("scratch:1x32x2", "./model"))


def search(text: str) -> str:
    return line(8, f"search: {{{text}}}")


def name(text: str) -> str:
    return line(1, f"name: {text}")


def locked(path: Path) -> None:
    path.write_text(WHOLE, encoding="utf-8")
    path.chmod(0)


NO_NAME = "use 1 to 64 of A-Z a-z 0-9 . _ - and no leading dot"
TOP = "known here: budget, data, early_stopping, job, keep, name"
LEVELS = "nested more than 16 levels deep; a search space needs about five"
RATE = "parameters.learning_rate"

FILE = [
    Case("empty", "", [": is empty; write name, job, data, objective, parameters and search"]),
    Case("only comments", "# nothing\n# yet\n", [": is empty; write name"]),
    Case("directory", Path.mkdir, [": is a directory; name a YAML file"]),
    Case("missing", lambda path: None, ['"bad.yaml": no such file; unknown search space']),
    Case("unreadable", locked, [": cannot be read (Permission denied); check its path and permissions"]),
    Case("NUL byte", name("a\0b"), [":1: holds a NUL byte; save the file as plain UTF-8 text"]),
    Case("invalid UTF-8", more("# ").encode() + b"\xff\n", [":10: byte 184 is not UTF-8; save the file as UTF-8"]),
    Case("UTF-16 with BOM", WHOLE.encode("utf-16"), [": the file is UTF-16; save it as UTF-8"]),
    Case("tab indent", knob("seed: 1").replace("  seed", "\tseed"), [":8: a tab stands where YAML allows only spaces"]),
    Case("larger than 1 MB", more("#" * MAX_BYTES), [": is larger than 1 MB; a search space has a few dozen lines"]),
    Case("integer of 5,000 digits", knob(f"seed: {'9' * 5_000}"),
         [":8: parameters.seed: a whole number of 5000 digits is too large; use at most 18 digits"]),
    Case("2,000 levels", knob(f"seed: {'[' * 2_000}{']' * 2_000}"), [f":8: parameters.seed: {LEVELS}"]),
    Case("alias bomb", more("budget: &a [1]\nb: &b [*a, *a]\nc: [*b, *b]"),
         [":9: budget: the anchor &a is not read", ":10: b: the anchor &b is not read",
          ":10: b.0: `*a` is a YAML alias", ":10: b.1: `*a` is a YAML alias",
          ":11: c.0: `*b` is a YAML alias", ":11: c.1: `*b` is a YAML alias"]),
    Case("cyclic alias", more("budget: &a [*a]"),
         [":9: budget: the anchor &a is not read; write the value out",
          ":9: budget.0: `*a` is a YAML alias, which is not read"]),
    Case("anchor without an alias", knob("seed: &a 1"),
         [":8: parameters.seed: the anchor &a is not read; write the value out"]),
    Case("second document", more("---\nname: other"),
         [":9: a second document starts here; keep one document in the file"]),
    Case("list at the top", "- name: bad\n", [":1: the file holds a list, not a mapping; write `key: value` lines"]),
    Case("scalar at the top", "bad\n", [":1: the file holds text, not a mapping; write `key: value` lines"]),
    Case("tag that runs a program", name("!!python/object/apply:os.system [touch here]"),
         [':1: name: the tag "tag:yaml.org,2002:python/object/apply:os.system" is not']),
    Case("unknown tag", name("!mine bad"), [':1: name: the tag "!mine" is not read; write the plain value']),
    Case("merge key", knob("<<: {seed: 1}"), [":8: parameters: the merge key << is not read; write the keys out"]),
    Case("key that is no text", more("1: x"), [":9: the key 1 is a number, not text; put it in quotes"]),
]  # fmt: skip

KEYS = [
    Case("same key twice at the top", more("name: other"),
         [":9: name: stands twice, first on line 1; keep one of the two"]),
    Case("same key twice below", knob("learning_rate: 1e-3"),
         [":8: parameters.learning_rate: stands twice, first on line 7"]),
    Case("unknown, one is like it", more("serach: 1"),
         [":9: serach: unknown key 'serach'; did you mean 'search'? known here:"]),
    Case("unknown, none is like it", more("zebra: x"), [f":9: zebra: unknown key 'zebra'; {TOP}"]),
    Case("at another level", more("trials: 3"), [":9: trials: unknown key 'trials' here; it belongs under search"]),
    Case("wrong case", line(8, None) + "Search: {trials: 3}\n",
         [":1: search: is missing; add it", ":8: Search: unknown key 'Search'; did you mean 'search'?"]),
    Case("full-width letters", line(1, "ｎａｍｅ: bad"),
         [":1: name: is missing", ":1: ｎａｍｅ: unknown key 'ｎａｍｅ'; did you mean 'name'?"]),
    Case("space behind it", more('"keep ": {}'), [":9: 'keep ': unknown key 'keep '; did you mean 'keep'?"]),
    Case("required one missing", line(2, None), [":1: job: is missing; add it"]),
    Case("null for a required one", line(3, "data:"), [":3: data: found null; must be text"]),
    Case("no parameters", WHOLE.replace(WHOLE[WHOLE.index("  backbone") : WHOLE.index("search")], "  {}\n"),
         [":5: parameters: is empty; give at least one"]),
]  # fmt: skip

TYPES = [
    Case("list for a scalar", search("trials: [3]"), [":8: search.trials: found [3]; must be a whole number"]),
    Case("scalar for a list", search("trials: 3, enqueue: first"),
         [':8: search.enqueue: found "first"; must be a list']),
    Case("bool for a whole number", search("trials: true"), [":8: search.trials: found true; must be a whole number"]),
    Case("no as a backbone", line(6, "  backbone: no"),
         [":6: parameters.backbone: unknown backbone 'no'; write OWNER/NAME"]),
    Case("octal 010", search("trials: 010"),
         [':8: search.trials: found "010"; must be a whole number in plain decimal digits']),
    Case("1:30", more("budget: {time: 1:30}"), [':9: budget.time: found "1:30"; write a time above zero as 12h, 90m']),
    Case("float for a whole number", knob("num_train_epochs: 2.5"),
         [":8: parameters.num_train_epochs: found 2.5; must be a whole"]),
    Case("negative whole number", knob("seed: -1"),
         [":8: parameters.seed: found -1; must be greater than or equal to 0"]),
    Case("not a number", rate(".nan"), [f":7: {RATE}: found NaN; must be a finite number"]),
    Case("infinite", rate(".inf"), [f":7: {RATE}: found Infinity; must be a finite number"]),
]  # fmt: skip

RANGES = [
    Case("low is high", rate("{min: 1e-4, max: 1e-4}"),
         [f":7: {RATE}.max: min and max are both 0.0001; for a constant write"]),
    Case("low above high", rate("{min: 1e-3, max: 1e-5}"), [f":7: {RATE}.max: max 1e-5 is below min 0.001; swap them"]),
    Case("empty choice", rate("{values: []}"), [f":7: {RATE}.values: found []; must be a list of at least one value"]),
    Case("value twice in a choice", rate("{values: [1e-4, 0.0001]}"),
         [f":7: {RATE}.values.1: 0.0001 stands twice; keep one"]),
    Case("log from 0", knob("weight_decay: {min: 0, max: 0.1, log: true}"),
         [":8: parameters.weight_decay.min: found 0.0; a logarithmic range begins above zero"]),
    Case("log from below 0", rate("{min: -1, max: 1e-3, log: true}"),
         [f":7: {RATE}.min: found -1; must be greater than 0"]),
    Case("step 0", rate("{min: 1e-4, max: 1e-3, step: 0}"), [f":7: {RATE}.step: found 0; must be above zero"]),
    Case("step beyond the range", rate("{min: 0.1, max: 0.2, step: 0.5}"),
         [f":7: {RATE}.step: the step 0.5 leads beyond max"]),
    Case("warm-up above 1", knob("warmup_ratio: 1.5"), [":8: parameters.warmup_ratio: found 1.5; must be less than 1"]),
    Case("stride not below the window", knob("max_length: 128\n  doc_stride: 128"),
         [":9: parameters.doc_stride: 128 leaves no room in windows of max_length 128; use less than 60"]),
    Case("batch that its workers cannot share", more("resources: {workers: 3, gpus: 0}"),
         [":5: parameters.effective_batch_size: an effective batch of 8 cannot be divided among 3 workers: "
          "use a multiple of 3"]),
    Case("several GPUs for one worker", more("resources: {workers: 2, gpus: 2}"),
         [":9: resources.gpus: a worker of this job uses one GPU: write workers: 4 and gpus: 1"]),
    Case("shards for one worker", knob("fsdp: true"),
         [":8: parameters.fsdp: fsdp shards a model over several workers and there is one: set fsdp to false"]),
    Case("window beyond any model", knob("max_length: 9000"),
         [":8: parameters.max_length: found 9000; must be less than or equal to 8192"]),
    Case("window beyond its model", with_model,
         [":8: parameters.max_length: 600 is more than the 512 tokens that ./model reads"]),
    Case("batch 0", knob("effective_batch_size: 0\n  per_device_train_batch_size: 0"),
         [":8: parameters.effective_batch_size: found 0; must be greater than or equal to 1",
          ":9: parameters.per_device_train_batch_size: found 0; must be greater than or equal to 1"]),
    Case("trials 0", search("trials: 0"), [":8: search.trials: found 0; must be greater than or equal to 1"]),
    Case("trials -1", search("trials: -1"), [":8: search.trials: found -1; must be greater than or equal to 1"]),
    Case("trials 1e9", search("trials: 1e9"), [":8: search.trials: found 1000000000.0; must be a whole number"]),
    Case("trials 10^9", search("trials: 1000000000"),
         [":8: search.trials: found 1000000000; must be less than or equal to 100000"]),
    Case("epochs 0", knob("num_train_epochs: 0"), [":8: parameters.num_train_epochs: found 0; must be greater"]),
    Case("seed beyond 2^32", search("trials: 3, seed: 4294967296"),
         [":8: search.seed: found 4294967296; must be less than 4294967296"]),
]  # fmt: skip

MEANING = [
    Case("metric that the job does not report", line(4, "objective: accuracy"),
         [":4: objective: unknown metric 'accuracy'; known here: eval_loss, exact_match, f1, train_loss"]),
    Case("a slip in mode", search("trials: 3, mode: mxa"),
         [":8: search.mode: unknown key 'mode'; known here: enqueue, learn_from, sampler"]),
    Case("unknown backbone", line(6, "  backbone: bert-base-chines"),
         [":6: parameters.backbone: unknown backbone 'bert-base-chines'; did you mean 'bert-base-chinese'?"]),
    Case("backbone outside", line(6, "  backbone: {values: [../../etc/hosts, hub/../../x]}"),
         [":6: parameters.backbone: '../../etc/hosts': no such folder",
          ":6: parameters.backbone: unknown backbone 'hub/../../x'"]),
    Case("another job's space", knob("doc_stride: 64").replace("job: qa", "job: mc"),
         [":4: objective: unknown metric 'exact_match'; known here: accuracy, eval_loss, train_loss",
          ":8: parameters.doc_stride: unknown parameter 'doc_stride'; "]),
    Case("scheduler without a metric", line(4, None) + "early_stopping: {scheduler: asha}\n",
         [":1: objective: is missing; add it"]),
    Case("name with /", name("a/b"), [f':1: name: found "a/b"; {NO_NAME}']),
    Case("name ..", name(".."), [f':1: name: found ".."; {NO_NAME}']),
    Case("name with a control character", name('"a\\eb"'),
         [':1: name: "a\\u001bb" holds a control character; remove it']),
    Case("name of 300 characters", name("x" * 300), [f':1: name: found "{"x" * 58}…; {NO_NAME}']),
    Case("name that Windows reserves", name("com1.txt"),
         [':1: name: "com1.txt" is reserved by Windows; choose another name']),
]  # fmt: skip

REFUSED = [*FILE, *KEYS, *TYPES, *RANGES, *MEANING]

ACCEPTED = [
    Case("UTF-8 BOM", b"\xef\xbb\xbf" + WHOLE.encode(), ["bad: 3 trials of qa on sample"]),
    Case("CRLF", WHOLE.replace("\n", "\r\n"), ["bad: 3 trials of qa on sample"]),
    Case("1e-5 is a number", WHOLE, ["learning_rate: 1e-5 … 0.001 log"]),
    Case("a date as name is text", name("2024-01-01"), ["2024-01-01: 3 trials of qa"]),
]


@pytest.fixture(autouse=True)
def one_gpu(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Show one GPU, and a current folder that every user may read."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("SWEEPER_GPU_CHECK", "0")  # the GPU is pretended
    here.chmod(0o755)


def make(folder: Path, file: str | bytes | Callable[[Path], Any]) -> None:
    path = folder / NAME
    if callable(file):
        file(path)
    else:
        path.write_bytes(file.encode() if isinstance(file, str) else file)


def snapshot(folder: Path) -> list[tuple[str, int, int]]:
    return sorted((str(path), path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*"))


@contextmanager
def nobody() -> Iterator[None]:
    """Without root's right to read every file."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(user)


def ids(cases: list[Case]) -> list[str]:
    return [case.entry for case in cases]


def assert_refused(case: Case, code: int, stdout: str, stderr: str) -> None:
    lines = stderr.splitlines()
    assert (code, stdout) == (2, "")
    assert len(lines) == len(case.said), stderr
    for found, expected in zip(lines, case.said, strict=True):
        assert found.removeprefix(NAME).startswith(expected)
        assert found.startswith(NAME) or not expected.startswith(":")


@pytest.mark.parametrize("case", REFUSED, ids=ids(REFUSED))
def test_a_bad_configuration_is_refused_with_every_mistake_and_nothing_is_created(here: Path, case: Case) -> None:
    make(here, case.file)
    before = snapshot(here)
    with nobody() if case.entry == "unreadable" else nullcontext():
        results = [invoke(command, NAME) for command in ("plan", "run")]
    for result in results:
        assert isinstance(result.exception, SystemExit)
        assert_refused(case, result.exit_code, result.stdout, result.stderr)
    assert snapshot(here) == before


@pytest.mark.parametrize("command", ["plan", "run"])
def test_more_gpus_than_there_are_is_refused_by_the_machine(
    here: Path, command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    make(here, more("resources: {workers: 2, gpus: 1}"))
    before = snapshot(here)
    result = invoke(command, NAME)
    assert (result.exit_code, result.stderr.splitlines()) == (
        4,
        [
            "resources.workers: a trial wants 2 of 1 CPU and 1 GPU and this machine has room for 1; "
            "ask for fewer, or for less each"
        ],
    )
    assert capfd.readouterr().err == ""  # `run` writes its progress past the runner
    assert snapshot(here) == before


@pytest.mark.parametrize("case", ACCEPTED, ids=ids(ACCEPTED))
def test_what_only_looks_wrong_is_accepted(here: Path, case: Case) -> None:
    make(here, case.file)
    before = snapshot(here)
    result = invoke("plan", NAME)
    assert result.exit_code == 0, result.stderr
    assert all(part in result.stdout for part in case.said)
    assert result.stderr == f"next: sweeper run {NAME}\n"
    assert snapshot(here) == before


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("step", [10, pytest.param(1, marks=pytest.mark.long)])
def test_a_bad_configuration_is_refused_at_once_by_a_real_command(
    here: Path, capsys: pytest.CaptureFixture[str], step: int
) -> None:
    """Try every case, or each tenth, and print the longest time."""
    command = [sys.executable, "-c", "from sweeper.cli import main; main()", "plan", NAME]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    seconds: dict[str, float] = {}
    for number, case in enumerate([case for case in REFUSED if case.entry != "unreadable"][::step]):
        folder = here / str(number)
        folder.mkdir()
        make(folder, case.file)
        began = time.perf_counter()
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        seconds[case.entry] = time.perf_counter() - began
        assert_refused(case, done.returncode, done.stdout, done.stderr)
    slowest = max(seconds, key=seconds.__getitem__)
    with capsys.disabled():
        print(f"\n{len(seconds)} refused; slowest {slowest!r}, {seconds[slowest]:.2f} s")
