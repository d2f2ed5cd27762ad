"""The shapes in which people run pytest, and the options of `run` on it: what the
bundle says each time. The project under test is small, pure Python, and busy for
a known CPU time, so that samples are sure."""

import json
import os
import re
import signal
import stat

import pytest

import check_trace
import harness
from deny_perf import denied
from harness import ENGINE, PYTHON, STACKSAMPLE, bundle, command, run
from profiledb import Profile, folded

PYTEST = [PYTHON, "-m", "pytest", "-p", "no:cacheprovider"]
BUSY_S = 0.4
PROJECT = {
    "test_busy.py": f"""
import time

def burn(seconds={BUSY_S}):
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(1000))

class TestWork:
    def test_burns(self):
        burn()

def test_burns_too():
    burn()
""",
    "test_failing.py": """
def middle(value):
    return value["missing"]

def test_breaks():
    assert middle({}) == 1
""",
    "test_children.py": """
import os, subprocess, sys

def test_starts_a_command():
    code = "import test_busy; test_busy.burn()"
    subprocess.run([sys.executable, "-c", code], check=True)

def test_starts_a_command_without_environment():
    code = "import test_busy; test_busy.burn()"
    subprocess.run([sys.executable, "-c", code], check=True, env={})

def test_forks():
    pid = os.fork()
    if pid == 0:
        import test_busy
        test_busy.burn()
        os._exit(0)
    os.waitpid(pid, 0)
""",
    "test_long.py": """
import test_busy

def test_until_killed():
    test_busy.burn(2)
    print("BURNT", flush=True)
    test_busy.burn(60)
""",
}
CALLS = {("test_busy.py::TestWork::test_burns", "call"),
         ("test_busy.py::test_burns_too", "call")}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    for name, text in PROJECT.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def environment(monkeypatch):
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")


pytestmark = pytest.mark.usefixtures("environment")


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def calls(folder):
    """Rows of tests.tsv that are tests' calls, with samples in them."""
    rows = [r.split("\t") for r in (folder / "tests.tsv").read_text().splitlines()[1:]]
    return {(r[0], r[1]): r for r in rows if r[1] == "call" and int(r[9]) > 0}


def by_test(folder):
    return {frames[0] for frames, _ in folded(folder / "stacks-by-test.folded")}


def frames_of(folder):
    return {frame for frames, _ in folded(folder / "stacks.folded") for frame in frames}


def kinds(folder):
    profile = Profile(folder)
    return {profile.words("kind")[k] for (k,) in profile.rows("SELECT DISTINCT kind FROM frame")}


def wrapped(out, project, words, options=(), status=0):
    """Runs a command in the project under us; the bundle's folder."""
    done = run(command(out, *words, options=options), cwd=project, timeout=300)
    assert done.returncode == status, done.stdout + done.stderr
    return bundle(out)


def sums_hold(folder):
    """Every output is made of the same samples."""
    profile = Profile(folder)
    weight = profile.weight_us()
    for name in ("stacks.folded", "stacks-by-test.folded"):
        lines = list(folded(folder / name))
        assert abs(sum(n for _, n in lines) - weight) <= len(lines) / 2, name
    problems, facts = check_trace.check(folder / "profiler.json")
    assert problems == []
    shown = sum(p.running_us() for p in facts["profiles"].values())
    samples = sum(profile.counts("state").values())
    # Whole microseconds; and a thread's last sample may be cut at its end. Stops come when
    # they can: of two that are close, the second one's period has no room between them.
    threads = len(profile.rows("SELECT id FROM thread"))
    close = 0 if ENGINE == "perf" else profile.number("period_ns") / 1e3 * threads
    assert abs(shown - weight) <= samples + 2000 + close
    assert summary(folder)["quality"]["samples"] == samples > 0


# ---- the pipeline of the runbook -------------------------------------------------------

PIPELINE = """
/usr/bin/time -v -o time timeout 1200 env CUDA_VISIBLE_DEVICES=-1 \
  PYTEST_ADDOPTS="--maxfail=1 --timeout=1200 --durations=0" "$@" | tee log
exit ${PIPESTATUS[0]}
"""


def without_numbers(text):
    """Its lines, sorted: durations, and so their order, are never the same."""
    return sorted(re.sub(r"=+", "=", re.sub(r"\d+(\.\d+)?", "N", text)).splitlines())


@pytest.mark.skipif(not os.access("/usr/bin/time", os.X_OK), reason="no GNU time")
@pytest.mark.parametrize("file, status", [("test_busy.py", 0), ("test_failing.py", 1)])
def test_pipeline_is_the_same_with_us(out, project, tmp_path, file, status):
    target = [*PYTEST, "-vv", str(project / file)]
    logs, times = [], []
    for prefix in ([], [STACKSAMPLE, "run", "-o", str(out), "--"]):
        done = run(["bash", "-c", PIPELINE, "bash", *prefix, *target], cwd=tmp_path, timeout=300)
        assert done.returncode == status
        log = (tmp_path / "log").read_bytes()
        assert done.stdout == log
        logs.append(log)
        times.append((tmp_path / "time").read_text())
    assert without_numbers(logs[0].decode()) == without_numbers(logs[1].decode())
    labels = [[line.rsplit(": ", 1)[0] for line in text.splitlines()[-22:]] for text in times]
    assert labels[0] == labels[1]
    folder = bundle(out)
    assert (folder / "pytest.log").read_bytes() == logs[1]
    ended = summary(folder)["exit"]
    assert (ended["command_code"], ended["ended_by"], ended["timed_out"]) == (status, "self", False)
    limits = {(x["source"].split(",")[0], x.get("s")) for x in ended["limits"]}
    assert {("timeout(1)", 1200), ("pytest-timeout", 1200)} <= limits
    first = (folder / "summary.md").read_text().splitlines()[0]
    assert re.fullmatch(rf"# {'Failed' if status else 'Passed'} after .*, limit \S+ \(.*\)",
                        first.replace(" with exit 1", "")), first


# ---- ways to start it --------------------------------------------------------------------


@pytest.mark.parametrize("script", ['"$@"; exit $?', 'exec "$@"', 'env A=b "$@" & wait $!'],
                         ids=["child", "exec", "background"])
def test_pytest_below_a_shell(out, project, script):
    words = ["bash", "-c", script, "bash", *PYTEST, "-v", "test_busy.py"]
    folder = wrapped(out, project, words)
    found = calls(folder)
    assert set(found) == CALLS
    assert all(row[10] == "passed" and row[11].startswith(("burn (", "python", "sum"))
               for row in found.values()), found
    assert {f"{test} ({phase})" for test, phase in CALLS} <= by_test(folder)
    for row in found.values():
        assert float(row[5]) + float(row[6]) >= 0.8 * BUSY_S
    sums_hold(folder)


def test_xdist_workers(out, project):
    folder = wrapped(out, project, [*PYTEST, "-n", "2", "-v", "test_busy.py"])
    found = calls(folder)
    assert set(found) == CALLS
    assert {row[2] for row in found.values()} == {"gw0", "gw1"}
    assert {f"{test} ({phase})" for test, phase in CALLS} <= by_test(folder)
    roots = {frames[0] for frames, _ in folded(folder / "stacks.folded")}
    assert {"gw0", "gw1", "pytest"} <= roots
    sums_hold(folder)


def test_children_work_for_their_test(out, project):
    """What a test starts counts for it, with and without its environment."""
    folder = wrapped(out, project, [*PYTEST, "test_children.py"])
    rows = [r.split("\t") for r in (folder / "tests.tsv").read_text().splitlines()[1:]]
    names = [r[0] for r in rows if r[1] in ("", "call") and r[0] != "(between tests)"]
    tests = [f"test_children.py::test_{n}" for n in (
        "starts_a_command", "starts_a_command_without_environment", "forks")]
    assert names == ["(collection)", *tests, "(session finish)"]
    user_s = {r[0]: float(r[5]) + float(r[6]) for r in rows if r[1] == "call"}
    assert all(user_s[test] >= 0.95 * BUSY_S for test in tests), user_s
    sums_hold(folder)


def test_failing_test_shows_its_traceback(out, project):
    folder = wrapped(out, project, [*PYTEST, "test_failing.py"], status=1)
    text = (folder / "summary.md").read_text()
    assert text.startswith("# Failed after ")
    assert "KeyError: 'missing'" in text
    assert 'return value["missing"]' in text
    assert "FAILED test_failing.py::test_breaks" in text
    assert summary(folder)["exit"]["code"] == 1


def test_command_that_is_no_pytest(out, project):
    words = [PYTHON, "-c", "import test_busy; test_busy.burn(); print('done')"]
    folder = wrapped(out, project, words)
    assert (folder / "command.log").read_bytes() == b"done\n"
    assert not (folder / "pytest.log").exists()
    assert calls(folder) == {}
    assert "burn (test_busy.py:4)" in frames_of(folder)
    assert "pytest" not in (folder / "summary.md").read_text()
    sums_hold(folder)


# ---- options -------------------------------------------------------------------------------


def test_no_children(out, project):
    """Only the first process is sampled; what it waits for is its own business."""
    words = ["bash", "-c", 'i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; "$@"; exit $?',
             "bash", *PYTEST, "-q", "test_busy.py"]
    folder = wrapped(out, project, words, options=["--no-children"])
    profile = Profile(folder)
    assert profile.rows("SELECT count(*) FROM process") == [(1,)]
    assert kinds(folder).isdisjoint({"python"})
    assert calls(folder) == {}
    assert 0 < summary(folder)["time"]["total"]["user_s"] < BUSY_S + 1


@pytest.mark.parametrize("option, gone, left", [("--no-python", "python", "native"),
                                                ("--no-native", "native", "python")])
def test_half_of_the_stack(out, project, option, gone, left):
    folder = wrapped(out, project, [*PYTEST, "-q", "test_busy.py"], options=[option])
    assert gone not in kinds(folder) and left in kinds(folder)
    frames = frames_of(folder)
    assert ("burn (test_busy.py:4)" in frames) == (left == "python")
    assert any(f.startswith("_PyEval_EvalFrameDefault (") for f in frames) == (left == "native")
    assert set(calls(folder)) == CALLS, "tests are known without either"
    sums_hold(folder)


def test_audit_checks_what_it_was_asked_to(out, project):
    """A second way to unwind: libunwind has another opinion on few stacks."""
    folder = wrapped(out, project, [*PYTEST, "test_busy.py"], options=("--audit", "2"))
    quality = summary(folder)["quality"]
    audit = quality["audit"]
    assert quality["samples"] / 4 < audit["checked"] <= (quality["samples"] + 1) / 2
    assert audit["differ"] <= audit["checked"] / 10
    said = f"Unwound a second way, by libunwind: {audit['checked']} stacks"
    assert said in (folder / "summary.md").read_text()


def test_rate_1000(out, project):
    folder = wrapped(out, project, [*PYTEST, "-q", "test_busy.py"], options=["--rate", "1000"])
    profile = Profile(folder)
    assert profile.number("period_ns") == 1_000_000
    quality, total = summary(folder)["quality"], summary(folder)["time"]["total"]
    used = total["user_s"] + total["kernel_s"] + total["spin_s"]
    hidden = total["kernel_s"] if summary(folder)["engine"]["kernel_method"] == "accounted" else 0
    taken = Profile(folder).running() + quality["lost"]
    if summary(folder)["engine"]["name"] == "ptrace":  # a sample stands for some periods
        taken = profile.weight_us() / 1000
    assert taken == pytest.approx(1000 * (used - hidden), rel=0.1)
    sums_hold(folder)


def test_without_any_engine_the_command_runs(out, project):
    words = command(out, *PYTEST, "-q", "test_failing.py")
    done = run(denied(*words, ptrace=True), cwd=project)
    assert done.returncode == 1 and b"1 failed" in done.stdout
    folder = bundle(out)
    assert (folder / "pytest.log").read_bytes() == done.stdout
    assert (folder / "summary.md").read_text().startswith("# Blocked: ")
    assert summary(folder)["blocked"]


# ---- kill -9 of us ---------------------------------------------------------------------------


def test_report_after_kill_9(out, project, process):
    """At most 2 s are lost; of the rest `report` makes all that a run's end would."""
    words = command(out, *PYTEST, "-s", "-v", "test_long.py")
    p = process(words, cwd=project)
    p.until(b"BURNT\n")
    folder = bundle(out)
    os.kill(p.pid, signal.SIGKILL)
    p.wait()
    done = run([STACKSAMPLE, "report", "--format", "folded,trace,flamegraph", str(folder)])
    assert done.returncode in (0, 1), done.stderr
    found = {path.name for path in folder.iterdir()}
    assert {"summary.md", "summary.json", "stacks.folded", "stacks-by-test.folded", "tests.tsv",
            "profiler.json", "flamegraph.html", "manifest.json"} <= found
    assert {"profile.db-wal", "profile.db-shm"}.isdisjoint(found)
    assert (folder / "summary.md").read_text().startswith("# Blocked: ")
    assert summary(folder)["finished"] is False
    listed = {f["name"] for f in json.loads((folder / "manifest.json").read_text())["files"]}
    assert listed == found - {"manifest.json"}
    assert all(stat.S_IMODE(path.lstat().st_mode) == 0o600 for path in folder.iterdir())
    assert "test_long.py::test_until_killed (call)" in by_test(folder)
    sums_hold(folder)
