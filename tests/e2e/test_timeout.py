"""Deadlines, ours and others': what they end, what they leave behind, and the dumps
that were taken before. All runs wait most of their time, so they are started
together and asked for one by one."""

import json
import os
import re
import resource
import subprocess
import sys

import pytest

import harness
from harness import STACKSAMPLE, bundle, eventually, run

PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]

HANG = """
import threading

def test_before():
    pass

def test_hang():
    threading.Event().wait()
"""

# Which of them runs first is xdist's business; both run at once.
MARKED = """
import threading

import pytest

@pytest.mark.timeout(4)
def test_signal():
    threading.Event().wait()

class TestThread:
    pytestmark = [pytest.mark.timeout(timeout=5.25, func_only=True)]

    def test_of_its_class(self):
        threading.Event().wait()
"""

STUBBORN = """
import faulthandler, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
if sys.argv[1] == "dies of abort":
    faulthandler.enable()
else:
    signal.signal(signal.SIGABRT, lambda *args: print("caught", flush=True))
print("up", flush=True)
while True:
    time.sleep(1000)
"""

# name: (words before stacksample, options of run, command)
RUNS = {
    "ignores_int": ([], ["--timeout", "3", "--grace", "0.5"],
                    ["sh", "-c", 'trap "" INT; echo up; sleep 1000; sleep 1000']),
    "dies_of_abort": ([], ["--timeout", "3", "--grace", "2"],
                      [sys.executable, "stubborn.py", "dies of abort"]),
    "needs_kill": ([], ["--timeout", "3", "--grace", "1"],
                   [sys.executable, "stubborn.py", "needs kill"]),
    "shell": ([], ["--timeout", "9", "--grace", "2", "--stall", "1"],
              ["sh", "-c", " ".join(PYTEST) + " test_hang.py; echo after"]),
    "xdist": ([], ["--timeout", "10", "--grace", "1"], [*PYTEST, "-n", "2", "test_hang.py"]),
    "os_exit": ([], [], [*PYTEST, "--timeout", "4", "--timeout-method", "thread",
                         "test_hang.py"]),
    "outer": (["timeout", "9"], ["-r", "50"], [*PYTEST, "--timeout", "20", "test_hang.py"]),
    "orphan": ([], ["--timeout", "2", "--grace", "0.5"],
               ["sh", "-c", "(setsid sleep 1000 & setsid sh -c 'sleep 1000 & wait' &);"
                " exec sleep 1000"]),
}
MARKED_RUN = ([], ["-r", "50"],
              [*PYTEST, "-n", "2", "--timeout", "600", "test_marked.py"])


def core_files_allowed():
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)


def environment():
    """Without the test that pytest says is running here."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}


class Run:
    def __init__(self, folder, before, options, command):
        self.folder = folder
        self.out = folder / "out"
        self.work = folder / "work"
        self.work.mkdir(parents=True)
        (self.work / "test_hang.py").write_text(HANG)
        (self.work / "test_marked.py").write_text(MARKED)
        (self.work / "stubborn.py").write_text(STUBBORN)
        words = [*before, STACKSAMPLE, "run", "-o", str(self.out), *options, "--", *command]
        self.popen = subprocess.Popen(
            words, cwd=self.work, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, preexec_fn=core_files_allowed, env=environment(),
        )
        self.text = self.status = None

    def end(self):
        """Waits for it; the bundle's summary."""
        if self.status is None:
            self.text = self.popen.communicate(timeout=2 * harness.DEADLINE)[0].decode()
            self.status = self.popen.returncode
        return self

    @property
    def bundle(self):
        return bundle(self.out)

    @property
    def summary(self):
        return json.loads((self.bundle / "summary.json").read_text())

    @property
    def log(self):
        for name in ("pytest.log", "command.log"):
            if (self.bundle / name).exists():
                return (self.bundle / name).read_text()
        raise AssertionError("no log")

    def dumps(self):
        """The JSON of each dump, in their order."""
        files = [self.bundle / d["file"] for d in self.summary["dumps"]]
        assert all(f.with_suffix(".txt").exists() for f in files)
        return [json.loads(f.with_suffix(".json").read_text()) for f in files]

    def left(self):
        """Processes that still work in its folder."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{pid}/cwd") == str(self.work):
                    found.append(int(pid))
            except OSError:
                pass
        return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    started = {}

    def start(name, what):
        started[name] = Run(tmp_path_factory.mktemp(name), *what)

    with harness.perf_lock():
        try:
            for name, what in RUNS.items():
                start(name, what)
            started["needs_kill"].end()
            start("marked", MARKED_RUN)  # three interpreters, when the others are up
            for r in started.values():
                r.end()
        finally:
            for r in started.values():
                r.popen.kill()
                r.popen.wait()
    return started


@pytest.fixture(autouse=True)
def _one_at_a_time():
    """The fixture of all runs has the lock."""


OURS = [name for name, (_, options, _) in RUNS.items() if "--timeout" in options]


@pytest.mark.parametrize("name", OURS)
def test_ended_by_our_deadline(runs, name):
    r = runs[name]
    assert r.status == 124
    assert r.left() == []
    assert [p for p in r.work.iterdir() if p.name.startswith("core")] == []
    assert (r.bundle / "exit_code.txt").read_text() == "124\n"
    end = r.summary["exit"]
    limit = float(RUNS[name][1][1])
    assert (end["code"], end["timed_out"], end["ended_by"]) == (124, True, "stacksample")
    assert end["limit_s"] == limit
    ours = [x for x in end["limits"] if x["source"] == "stacksample --timeout"]
    assert [(x["s"], x["kind"]) for x in ours] == [(limit, "run")]
    text = (r.bundle / "summary.md").read_text()
    assert re.match(r"# (Hung|Blocked): ended by stacksample's own --timeout after ", text)
    for dump in r.summary["dumps"][-3:]:
        assert f"\n* {dump['file']} at " in text


@pytest.mark.parametrize("name", OURS)
def test_bundle_is_complete(runs, name):
    r = runs[name]
    manifest = json.loads((r.bundle / "manifest.json").read_text())
    listed = {f["name"] for f in manifest["files"]}
    found = {
        str(p.relative_to(r.bundle)) for p in r.bundle.rglob("*") if p.is_file()
    }
    assert listed == found - {"manifest.json"}
    assert {"flamegraph.html", "profiler.json", "stacks.folded", "time.txt"} <= listed
    assert "signal" in (r.bundle / "torch_env.txt").read_text()


@pytest.mark.parametrize("name", OURS)
def test_dumps_before_the_end(runs, name):
    r = runs[name]
    dumps = r.summary["dumps"]
    assert dumps[-1]["why"] == "our --timeout"
    assert [d["at_s"] for d in dumps] == sorted(d["at_s"] for d in dumps)
    assert dumps[-1]["at_s"] < r.summary["time"]["total"]["wall_s"]
    assert all(look["threads"] for look in r.dumps())


def test_abort_reaches_faulthandler(runs):
    r = runs["dies_of_abort"]
    assert "Fatal Python error: Aborted" in r.log
    assert 'stubborn.py", line 10 in <module>' in r.log
    assert r.summary["exit"]["signal"] == 6


def test_kill_is_the_last_step(runs):
    assert runs["needs_kill"].summary["exit"]["signal"] == 9
    assert runs["ignores_int"].summary["exit"]["signal"] == 9


def test_interrupt_is_one_ctrl_c(runs):
    """pytest says so itself, once, and ends as it likes."""
    r = runs["shell"]
    assert r.log.count("! KeyboardInterrupt !") == 1
    assert "1 passed" in r.log
    assert "after" not in r.log.splitlines(), "the shell was interrupted, too"


def test_dump_names_the_test_and_where_it_is(runs):
    for name in ("shell", "xdist", "os_exit", "outer"):
        last = runs[name].dumps()[-1]
        assert last["test"]["id"].endswith("test_hang.py::test_hang"), name
        lines = [
            f for t in last["threads"] for f in t["frames"] if f.get("name") == "test_hang"
        ]
        assert len(lines) == 1 and lines[0]["line"] == 8, name


@pytest.mark.parametrize("name", ["os_exit", "outer"])
def test_a_hang_is_called_one(runs, name):
    line = (runs[name].bundle / "summary.md").read_text().splitlines()[0]
    who = {"os_exit": "pytest-timeout", "outer": r"timeout\(1\)"}[name]
    assert re.match(rf"# Hung: ended by {who} after [\d.]+ s in \S*test_hang \(call\), limit", line)


def test_a_hang_names_what_it_waited_for(runs):
    """Not what the little CPU time of its start went to."""
    r = runs["os_exit"]
    cause = {c["name"]: c for c in r.summary["causes"]}["thread_wait"]
    assert cause["base"] == "wall"
    assert re.search(r"test_hang \(\S*test_hang\.py:\d+\), line 8$", cause["text"])
    assert "Waiting for other threads: " in (r.bundle / "summary.md").read_text()
    assert any("test_hang (call)" in line for line in cause["evidence"])


@pytest.mark.parametrize("name", ["shell", "xdist", "outer"])
def test_dumps_at_shares_of_the_limit(runs, name):
    assert any("% of the run's limit" in d["why"] for d in runs[name].summary["dumps"])


def test_stalled_phase_is_dumped(runs):
    assert any(
        d["why"].startswith("the phase has lasted") for d in runs["shell"].summary["dumps"]
    )


def test_pytest_timeout_that_ends_by_os_exit(runs):
    r = runs["os_exit"]
    assert r.status == 1 and "+ Timeout +" in r.log
    end = r.summary["exit"]
    assert (end["timed_out"], end["ended_by"]) == (False, "pytest_timeout")
    assert (4, "test") in [(x["s"], x["kind"]) for x in end["limits"]]
    assert any("of the test's limit" in d["why"] for d in r.summary["dumps"])
    assert (r.bundle / "manifest.json").exists()


def test_markers_are_limits(runs):
    """Seen in the live run alone: of both workers, and dumps keep to the nearest end."""
    r = runs["marked"]
    end = r.summary["exit"]
    assert (r.status, end["ended_by"]) == (1, "pytest_timeout")
    limits = {(x["source"], x["s"]) for x in end["limits"] if x["kind"] == "test"}
    marker = "pytest-timeout, marker"
    assert limits == {("pytest-timeout, --timeout", 600), (marker, 4), (marker, 5.25)}
    assert end["limit_s"] in (4, 5.25)
    dumped = {
        look["test"]["id"].split("::", 1)[1]
        for d, look in zip(r.summary["dumps"], r.dumps(), strict=True)
        if d["why"].endswith("% of the test's limit")
    }
    assert dumped == {"test_signal", "TestThread::test_of_its_class"}


def test_outer_timeout(runs):
    r = runs["outer"]
    assert r.status == 124, "timeout's own"
    assert r.left() == []
    end = r.summary["exit"]
    assert (end["timed_out"], end["ended_by"]) == (False, "timeout1")
    assert end["signal"] == 15
    limits = [(x["source"].split(",")[0], x["s"]) for x in end["limits"]]
    assert ("timeout(1)", 9) in limits and ("pytest-timeout", 20) in limits
    (warning,) = [x for x in r.text.splitlines() if "will end the run before" in x]
    assert warning.startswith("stacksample: timeout(1), pid ")
    assert "pytest-timeout" in warning


# ---- without a deadline, and options ---------------------------------------------


def test_a_deadline_that_is_not_reached_changes_nothing(out):
    with harness.perf_lock():
        done = run([STACKSAMPLE, "run", "-q", "-o", str(out), "--timeout", "1h", "--", "false"])
    assert done.returncode == 1
    summary = json.loads((bundle(out) / "summary.json").read_text())
    assert summary["exit"]["timed_out"] is False and summary["exit"]["ended_by"] == "self"
    assert summary["dumps"] == []


def test_dump_at_a_time(out, process):
    with harness.perf_lock():
        running = process(
            [STACKSAMPLE, "run", "-q", "-o", str(out), "--dump-at", "0.1s", "--",
             "sh", "-c", "echo up; read line; echo $line"]
        )
        running.until(b"up")
        eventually(lambda: list(out.glob("*/dumps/001.txt")), "a dump")
        running.send(b"go on\n")
        running.until(b"go on")
        assert running.wait() == 0
    summary = json.loads((bundle(out) / "summary.json").read_text())
    assert [d["why"] for d in summary["dumps"]] == ["after 0.1 s, as asked"]


@pytest.mark.parametrize("bad", ["0%", "100%", "abc", "50%,,75%", "-1s", "50%,", "5x"])
def test_bad_dump_points(out, bad):
    done = run([STACKSAMPLE, "run", "-o", str(out), "--dump-at", bad, "--", "true"])
    assert done.returncode == 125 and not out.exists()
    assert done.stderr.decode().startswith("stacksample: --dump-at has no use for ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("option", ["--timeout", "--grace", "--stall"])
@pytest.mark.parametrize("bad", ["", "x", "-1", "1y", "1h30"])
def test_bad_durations(out, option, bad):
    done = run([STACKSAMPLE, "run", "-o", str(out), option, bad, "--", "true"])
    assert done.returncode == 125 and not out.exists()
    assert len(done.stderr.splitlines()) == 1 and option.encode() in done.stderr
