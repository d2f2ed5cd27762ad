"""What `make demo` promises: one profile of a real gradient test on torch, and
everything that its bundle says held against what the target measured itself.

One run serves all tests of this file (the session's `demo` fixture). Shares may
miss their bound by five standard errors of that run's number of samples; where
something else biases them, it stands beside the comparison by name.
"""

import hashlib
import json
import math
import os
import re

import pytest

import check_trace
import harness
from harness import ENGINE
from profiledb import folded

ROOT = os.geteuid() == 0
TESTS = [
    "tests/demo/test_gradients.py::TestOscillator::test_gradient_of_moments",
    "tests/demo/test_gradients.py::TestOscillator::test_gradient_after_warm_up",
    "tests/demo/test_gradients.py::test_matmul_chain_is_stable",
    "tests/demo/test_gradients.py::test_simulation_agrees_with_plain_python",
]
FILES = {
    "commands.txt", "env.txt", "torch_env.txt", "time.txt", "pytest.log", "exit_code.txt",
    "summary.md", "summary.json", "profiler.json", "stacks.folded", "stacks-by-test.folded",
    "stacks-wait.folded", "flamegraph.html", "tests.tsv", "profile.db", "manifest.json",
}


def at_least(hits, total, bound_pct):
    """Is a share not below its bound by more than five standard errors?"""
    share = hits / total
    error = math.sqrt(share * (1 - share) / total)
    return 100 * (share + 5 * error) >= bound_pct


@pytest.fixture(scope="module")
def lines(demo):
    return list(folded(demo.folder / "stacks.folded"))


@pytest.fixture(scope="module")
def summary(demo):
    return json.loads((demo.folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def trace(demo):
    return check_trace.check(demo.folder / "profiler.json")


@pytest.fixture(scope="module")
def table(demo):
    """tests.tsv as one dict a row."""
    rows = (demo.folder / "tests.tsv").read_text().splitlines()
    keys = rows[0].split("\t")
    return [dict(zip(keys, row.split("\t"), strict=True)) for row in rows[1:]]


# ---- the terminal -------------------------------------------------------------------


def test_lines_on_the_terminal(demo):
    said = demo.stderr.splitlines()
    assert len(said) <= 6 and all(line.startswith("stacksample: ") for line in said)
    start = (r"stacksample: perf engine, 100 Hz[,;] .*(included|counted).*; writing \S+Z"
             if ENGINE == "perf" else
             r"stacksample: ptrace engine, 100 Hz \(perf is refused: .*\); writing \S+Z")
    assert re.fullmatch(start, said[0]), said[0]
    end = (r"stacksample: pytest ended with 0 after (\d+:\d\d(\.\d)?|[\d.]+ s)"
           r"( \(limit .* by [\w().-]+\))?; [\d.]+( [kM])? samples, \d+ lost, [\d.]+ % complete")
    if ENGINE == "ptrace":
        end += r", threads stopped for [\d.]+ s"
    assert re.fullmatch(end, said[1]), said[1]
    assert said[-1] == (
        f"stacksample: {demo.folder} (summary.md, flamegraph.html, profiler.json)")


def test_the_log_is_what_was_printed(demo):
    assert (demo.folder / "pytest.log").read_text() == demo.stdout
    assert "4 passed" in demo.stdout


# ---- the bundle ---------------------------------------------------------------------


def test_files_of_the_bundle(demo):
    found = {p.name for p in demo.folder.iterdir()}
    assert found - {"dumps"} == FILES  # dumps: a phase of 5 minutes on a loaded machine


def test_manifest_is_complete_and_true(demo):
    manifest = json.loads((demo.folder / "manifest.json").read_text())
    sizes = {f["name"]: (f["size"], f["sha256"]) for f in manifest["files"]}
    for path in demo.folder.rglob("*"):
        name = str(path.relative_to(demo.folder))
        if path.is_file() and name != "manifest.json":
            content = path.read_bytes()
            assert sizes.pop(name) == (len(content), hashlib.sha256(content).hexdigest())
    assert sizes == {}
    assert manifest["absent"] == []
    quality = json.loads((demo.folder / "summary.json").read_text())["quality"]
    assert manifest["counts"]["lost"] == quality["lost"] == 0
    assert manifest["engine"]["name"] == ENGINE


def test_trace_keeps_the_viewers_rules(trace):
    problems, facts = trace
    assert problems == []
    phases = {e["name"] for e in facts["trace"]["traceEvents"]
              if e["ph"] == "X" and e["cat"] == "user_annotation"}
    assert {f"{test} (call)" for test in TESTS} <= phases


# ---- the stacks -----------------------------------------------------------------------


def place(frames, pattern, start):
    """Where the next frame that matches stands, or -1."""
    return next((i for i in range(start, len(frames)) if re.match(pattern, frames[i])), -1)


WAY_DOWN = [
    r"TestOscillator\.test_gradient_\w+ \(tests/demo/test_gradients\.py:\d+\)",
    r"gradcheck \(torch/autograd/gradcheck\.py:\d+\)",
    r"simulate \(tests/demo/test_gradients\.py:18\)",
    r"at::_ops::\w+::call \(libtorch_cpu\.so",
    r"at::TensorIteratorBase::\w*for_each|GOMP_parallel",
    r"Sleef_\w+|libtorch_cpu\.so[\d.]*\+0x",
]


def test_one_line_from_the_test_down_to_the_kernel_function(lines):
    def whole_way(frames):
        at = -1
        for pattern in WAY_DOWN:
            at = place(frames, pattern, at + 1)
            if at < 0:
                return False
        return True

    assert any(whole_way(frames) for frames, _ in lines)


def test_openmp_workers_are_threads_from_their_start_down(demo, lines):
    assert "openmp" in {role for _, _, role, _ in demo.profile.threads()}
    workers = [frames for frames, _ in lines if place(frames, r"clone3?\b|\w*_clone3?\b", 0) == 1]
    assert workers
    for frames in workers:
        assert frames[2].startswith("start_thread ("), frames
    parallel = [f for f in workers if f[3].startswith("libgomp.so")]
    assert any(place(f, r"libtorch_cpu\.so", 4) >= 0 for f in parallel)


def test_stacks_end_at_a_threads_start(demo, summary):
    ended = demo.profile.ended()
    total = sum(ended.values()) - ended.get("no_cfi", 0)
    assert at_least(ended["complete"], total, 98), ended
    shown = 100 * ended["complete"] / sum(ended.values())
    assert summary["quality"]["complete_pct"] == pytest.approx(shown, abs=0.01)
    text = (demo.folder / "summary.md").read_text()
    share = re.search(r"([\d.]+) % end in code without unwind information", text)
    assert share, text
    assert float(share[1]) == pytest.approx(
        100 * ended.get("no_cfi", 0) / sum(ended.values()), rel=0.01, abs=0.01)


def test_merges_are_verified(demo, summary):
    merge = demo.profile.counts("merge")
    merged = merge["verified"] + merge.get("unverified", 0)
    of_main, all_main = demo.profile.merged_of("main")
    assert of_main >= 0.9 * all_main > 0, "but for the time before it is a Python"
    assert at_least(merge["verified"], merged, 95), merge
    assert summary["quality"]["verified_pct"] == pytest.approx(
        100 * merge["verified"] / merged, abs=0.01)


# ---- time -------------------------------------------------------------------------------


def test_folded_counts_are_the_samples_time(demo, lines):
    weight = demo.profile.weight_us()
    assert abs(sum(n for _, n in lines) - weight) <= len(lines) / 2
    by_test = list(folded(demo.folder / "stacks-by-test.folded"))
    assert abs(sum(n for _, n in by_test) - weight) <= len(by_test) / 2


def test_trace_samples_are_the_samples_time(demo, trace):
    """To the microsecond that each is rounded to, and, where a sample stands for several
    periods, but for what has no place on the time line any more."""
    _, facts = trace
    shown = sum(p.running_us() for p in facts["profiles"].values())
    samples = sum(demo.profile.counts("state").values())
    weight = demo.profile.weight_us()
    placeless = 0 if ENGINE == "perf" else 0.001 * weight
    assert abs(shown - weight) <= samples + placeless


@pytest.mark.skipif(not ROOT or ENGINE != "perf", reason="needs root, and perf's count")
def test_samples_are_the_cpu_time_that_the_kernel_counted(demo):
    taken = demo.profile.running() + demo.profile.number("lost")
    expected = demo.profile.number("task_clock_ns") / demo.profile.number("period_ns")
    assert taken == pytest.approx(expected, rel=0.03 + demo.steal)


def test_states_of_each_thread_are_its_life(demo):
    """A thread whose end is told late has some milliseconds too many."""
    for thread, name, _, life in demo.profile.threads():
        states = demo.profile.ledger_s(thread)
        assert sum(states.values()) == pytest.approx(life, rel=0.01, abs=0.02), (name, states)


def test_cpu_time_is_rusages(demo, summary):
    total, rusage = summary["time"]["total"], summary["time"]["rusage"]
    ours = total["user_s"] + total["kernel_s"] + total["spin_s"]
    assert ours == pytest.approx(rusage["user_s"] + rusage["kernel_s"], rel=0.03)


# ---- tests ------------------------------------------------------------------------------


def test_table_of_tests(demo, summary, table):
    calls = [row for row in table if row["phase"] == "call"]
    assert [row["test"] for row in calls] == TESTS
    assert {row["outcome"] for row in calls} == {"passed"}
    assert all(int(row["samples"]) > 0 and row["top"] for row in calls)
    total = summary["time"]["total"]
    for column, state in (("user_s", "user_s"), ("kernel_s", "kernel_s")):
        assert sum(float(row[column]) for row in table) == pytest.approx(total[state], abs=1e-4)
    samples = sum(int(row["samples"]) for row in table)
    assert samples == sum(demo.profile.counts("state").values())


def test_roots_of_stacks_by_test(demo, table):
    named = {f"{r['test']} ({r['phase']})" if r["phase"] else r["test"] for r in table}
    roots = {frames[0] for frames, _ in folded(demo.folder / "stacks-by-test.folded")}
    assert {f"{test} (call)" for test in TESTS} <= roots
    assert roots <= named | {"(no test)"}


def test_walls_are_pytests(demo, summary):
    """A change of phase is seen by the first sample after it: up to a period of
    CPU time late at each end, which on a starved machine takes longer."""
    said = {}
    for s, phase, test in re.findall(r"^([\d.]+)s (setup|call|teardown) +(\S+)$",
                                     demo.stdout, re.M):
        said[test, phase] = float(s)
    period = demo.profile.number("period_ns") / 1e9
    main = next(i for i, _, role, _ in demo.profile.threads() if role == "main")
    states = demo.profile.ledger_s(main)
    stretch = 1 + states.get("runnable", 0) / (states["user"] + states["kernel"])
    seen = [t for t in summary["tests"] if (t["id"], t.get("phase")) in said]
    assert {t["id"] for t in seen if t["phase"] == "call"} == set(TESTS)
    for t in seen:
        bound = 0.1 + 0.02 * t["wall_s"] + 2 * period * stretch
        assert abs(t["wall_s"] - said[t["id"], t["phase"]]) <= bound, t
