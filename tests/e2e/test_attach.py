"""attach: a bundle of a process that runs already, and a target that never notices."""

import json
import os
import pathlib
import random
import select
import signal
import subprocess
import sys

import pytest

import harness
from harness import STACKSAMPLE, bundle, eventually, run, state, target
from profiledb import folded

KILLS = 100  # of dump, and of attach
STUCK = str(harness.ROOT / "tests" / "targets" / "py_stuck.py")

TORCH = """
import sys, threading
import torch

def member():
    threading.Event().wait()

def compute():
    x = torch.ones(64, 64)
    while True:
        torch.mm(x, x)

for i in range(100):
    threading.Thread(target=member, daemon=True).start()
print("READY", flush=True)
if sys.argv[1] == "busy":
    sys.stdin.readline()
    threading.Thread(target=compute, name="newcomer", daemon=True).start()
    compute()
threading.Event().wait()
"""


@pytest.fixture(autouse=True, scope="module")
def _one_at_a_time():
    with harness.perf_lock():
        yield


def attach(out, pid, *options):
    return [STACKSAMPLE, "attach", "-o", str(out), *options, str(pid)]


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def untouched(pid):
    """No thread of it is traced, and none is stopped."""
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        status = (task / "status").read_text()
        assert "TracerPid:\t0\n" in status, task
        assert state(pid) in ("R", "S", "D"), task
    return True


def check_bundle(folder):
    """Complete, and what cannot be there is said."""
    manifest = json.loads((folder / "manifest.json").read_text())
    listed = {f["name"] for f in manifest["files"]}
    there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert listed == there - {"manifest.json"}
    assert {"flamegraph.html", "profiler.json", "stacks.folded", "summary.md"} <= listed
    absent = {a["name"]: a["why"] for a in manifest["absent"]}
    assert {"exit_code.txt", "time.txt", "torch_env.txt"} <= set(absent)
    assert not set(absent) & listed
    assert summary(folder)["finished"] is True


def torch_process(process, tmp_path, mode):
    script = tmp_path / "target.py"
    script.write_text(TORCH)
    environment = {**os.environ, "STACKSAMPLE_TEST": str(tmp_path)}
    started = process([sys.executable, str(script), mode], cwd=tmp_path, env=environment)
    started.until(b"READY")
    return started


# ---- what a bundle has -----------------------------------------------------------


def test_busy_process_with_new_threads(process, tmp_path, out):
    """Until Ctrl-C; threads made after the attach are sampled, too."""
    busy = torch_process(process, tmp_path, "busy")
    watcher = process(attach(out, busy.pid), stderr=subprocess.STDOUT)
    watcher.until(b"writing ")
    busy.send(b"go on\n")

    def newcomer():
        names = [
            t.read_text() for t in pathlib.Path(f"/proc/{busy.pid}/task").glob("*/comm")
        ]
        return len(names) > 101

    eventually(newcomer, "a new thread")
    ticks = lambda: sum(  # noqa: E731
        int(t.read_text().split()[0])
        for t in pathlib.Path(f"/proc/{busy.pid}/task").glob("*/schedstat")
    )
    start = ticks()
    eventually(lambda: ticks() > start + 600_000_000, "0.6 s of CPU time")
    watcher.kill(signal.SIGINT)
    watcher.rest()
    assert watcher.wait() == 0
    assert untouched(busy.pid)
    check_bundle(bundle(out))
    threads = summary(bundle(out))["threads"]
    running = [t for t in threads if t["user_s"] + t["kernel_s"] > 0.05]
    assert {t["name"] for t in running} >= {"newcomer"}
    assert busy.pid in {t["tid"] for t in running}
    folded = (bundle(out) / "stacks.folded").read_text()
    assert "at::_ops::mm::call (" in folded and "compute (" in folded
    assert summary(bundle(out))["quality"]["complete_pct"] > 90


def test_blocked_process_for_a_duration(process, tmp_path, out):
    blocked = torch_process(process, tmp_path, "blocked")
    done = run(attach(out, blocked.pid, "--duration", "1s", "-q"))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert untouched(blocked.pid)
    check_bundle(bundle(out))
    told = summary(bundle(out))
    assert 1 <= told["time"]["total"]["wall_s"]
    assert len(told["threads"]) >= 101
    assert told["exit"]["command_code"] is None
    assert "target.py blocked" in (bundle(out) / "summary.md").read_text()
    assert f"STACKSAMPLE_TEST={tmp_path}\n" in (bundle(out) / "env.txt").read_text()
    assert f"attach -o {out} --duration 1s -q {blocked.pid}\n" in (
        bundle(out) / "commands.txt"
    ).read_text()


def test_end_of_the_target_ends_it(process, tmp_path, out):
    sleeper = process(["sh", "-c", "echo up; read line"])
    sleeper.until(b"up")
    watcher = process(attach(out, sleeper.pid), stderr=subprocess.STDOUT)
    watcher.until(b"writing ")
    sleeper.send(b"end\n")
    watcher.rest()
    assert watcher.wait() == 0
    check_bundle(bundle(out))


@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_end_it_with_a_bundle(process, out, signo):
    sleeper = process(["sleep", "1000"])
    watcher = process(attach(out, sleeper.pid), stderr=subprocess.STDOUT)
    watcher.until(b"writing ")
    watcher.kill(signo)
    watcher.rest()
    assert watcher.wait() == 0
    assert untouched(sleeper.pid)
    check_bundle(bundle(out))


# ---- the target never notices ------------------------------------------------------


class Unharmed:
    """tests/targets/unharmed.c, which counts what would disturb it."""

    def __init__(self, process):
        self.process = process([target("unharmed")])
        (waiters,) = self.process.line(b"READY")
        self.waiters = int(waiters)
        self.pid = self.process.pid
        self.asked = self.process.until(b"\n")

        def all_wait():
            tasks = pathlib.Path(f"/proc/{self.pid}/task")
            states = [(t / "stat").read_text().rsplit(")", 1)[1].split()[0] for t in tasks.iterdir()]
            return states.count("S") >= self.waiters + 1

        eventually(all_wait, "all waiters wait")

    def progress(self):
        self.process.send(b"status\n")
        at = self.process.until(b"status ", self.asked)
        self.asked = self.process.until(b"\n", at)
        return int(self.process.text[at : self.asked])

    def goes_on(self):
        before = self.progress()
        return eventually(lambda: self.progress() > before, "the computation goes on")

    def end(self):
        """What it says at its end: (calls that were disturbed, signals)."""
        self.process.send(b"end\n")
        lines = self.process.rest().decode().splitlines()
        assert self.process.wait() == 0
        waits = [x.split(" ", 1)[1].rsplit(": ", 1) for x in lines if x.startswith("wait ")]
        assert len(waits) == self.waiters
        (signals,) = [x.split() for x in lines if x.startswith("signals ")]
        return [w for w in waits if w[1] != "ok"], signals


def test_twenty_rounds_disturb_nothing(process, tmp_path):
    unharmed = Unharmed(process)
    stops = 0
    for i in range(20):
        done = run([STACKSAMPLE, "dump", "--quick", "--json", str(unharmed.pid)])
        assert done.returncode == 0, done.stderr
        look = json.loads(done.stdout)
        stops += look["stops"]
        assert all(
            t["state"] in ("user", "unknown", "sleep") for t in look["threads"] if "stopped_ms" in t
        ), "a blocked thread was stopped"
        done = run(attach(tmp_path / f"out{i}", unharmed.pid, "--duration", "0.02s", "--format", "none"))
        assert done.returncode == 0, done.stderr
    assert stops > 0, "the computing thread was looked at, too"
    assert untouched(unharmed.pid) and unharmed.goes_on()
    disturbed, signals = unharmed.end()
    assert disturbed == []
    sent, received, misordered = map(int, signals[1:4])
    assert (sent, misordered) == (received, 0)
    assert signals[4:] == ["wrong", "0"]


def looked_at(unharmed, out, *options):
    """A second of looks: the summary, and the stacks of waits by their reason."""
    done = run(attach(out, unharmed.pid, "--duration", "1s", "--format", "folded", *options))
    assert done.returncode == 0, done.stderr
    folder = bundle(out)
    stacks = [(frames[-1], frames) for frames, _ in folded(folder / "stacks-wait.folded")]
    return json.loads((folder / "summary.json").read_text())["quality"], stacks


def test_looks_at_waits_end_no_system_call(process, out):
    """Where sp and pc are not enough, one stop: but for calls that it would end."""
    unharmed = Unharmed(process)
    quality, stacks = looked_at(unharmed, out)
    assert quality["stops"] > 0
    cut = [(reason, frames) for reason, frames in stacks
           if any(f.startswith("[incomplete") for f in frames)]
    whole = {frames[-3] for _, frames in stacks if "wait_thread (unharmed)" in frames}
    assert "wait_futex (unharmed)" in whole
    spared = {reason for reason, _ in cut}
    assert {"[wait: epoll]", "[wait: semtimedop]"} <= spared
    assert "[wait: futex]" not in spared
    assert untouched(unharmed.pid) and unharmed.goes_on()
    disturbed, signals = unharmed.end()
    assert disturbed == []
    assert signals[4:] == ["wrong", "0"]


def test_stop_any_stops_every_wait(process, out):
    unharmed = Unharmed(process)
    _, stacks = looked_at(unharmed, out, "--stop-any", "-r", "20")
    assert not any(f.startswith("[incomplete") for _, frames in stacks for f in frames)
    disturbed, _ = unharmed.end()
    assert {call for call, _ in disturbed} <= {"epoll_wait", "recv", "semop", "semtimedop",
                                               "sigtimedwait"}


@pytest.mark.parametrize("command", ["dump", "attach"])
def test_killed_at_any_moment_it_leaves_the_target_running(process, tmp_path, command):
    unharmed = Unharmed(process)
    chance = random.Random(20)
    for i in range(KILLS):
        words = [STACKSAMPLE, "dump", "--repeat", "1000", "--interval", "0.001s", "--quick"]
        if command == "attach":
            words = attach(tmp_path / f"out{i}", unharmed.pid)[:-1]
        watcher = process([*words, str(unharmed.pid)], stderr=subprocess.DEVNULL)
        if command == "dump" and i % 2:
            watcher.until(b"looked once")
        select.select([], [], [], chance.random() * 0.05)
        watcher.kill(signal.SIGKILL)
        watcher.wait()
        assert untouched(unharmed.pid) and unharmed.goes_on()
    disturbed, signals = unharmed.end()
    assert disturbed == []
    assert signals[4:] == ["wrong", "0"]


def test_stopped_target_stays_stopped(process, out):
    sleeper = process(["sleep", "1000"])
    sleeper.kill(signal.SIGSTOP)
    eventually(lambda: state(sleeper.pid) == "T", "it is stopped")
    done = run(attach(out, sleeper.pid, "--duration", "0.1s", "-q"))
    assert done.returncode == 0, done.stderr
    assert state(sleeper.pid) == "T"
    check_bundle(bundle(out))


# ---- refusals and usage ------------------------------------------------------------


def test_refusals_create_nothing(process, out):
    gone = process(["true"])
    gone.wait()
    zombie = process(["true"])
    eventually(lambda: state(zombie.pid) == "Z", "it has ended")
    kernel = run(["cat", "/proc/2/comm"]).stdout == b"kthreadd\n"
    for pid in [gone.pid, zombie.pid, *([2] if kernel else [])]:
        done = run(attach(out, pid))
        assert done.returncode == 2 and done.stdout == b""
        lines = done.stderr.decode().splitlines()
        assert len(lines) == 1 and f"PID {pid}" in lines[0], lines
        assert not out.exists()


def test_refuses_itself(out):
    done = run(["sh", "-c", f'exec "{STACKSAMPLE}" attach -o "{out}" $$'])
    assert done.returncode == 2 and b"is stacksample itself" in done.stderr
    assert not out.exists()


@pytest.mark.parametrize("words", [[], ["x"], ["1", "2"], ["--nope", "1"], ["--duration", "x", "1"]])
def test_wrong_usage(words, out):
    done = run([STACKSAMPLE, "attach", "-o", str(out), *words])
    assert done.returncode == 64 and not out.exists()
    assert len(done.stderr.splitlines()) == 1
