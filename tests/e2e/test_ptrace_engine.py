"""The ptrace engine, chosen because a seccomp filter refuses perf_event_open as a
container's does: the same bundle, and a target that is none the worse for it.

These are the shapes that only this engine can get wrong; SS_DENY_PERF=EPERM runs the
whole suite on it (`make soak` does)."""

import json
import os
import pathlib
import random
import re
import select
import signal
import subprocess

import pytest

import check_trace
import harness
from deny_perf import denied
from harness import PYTHON, STACKSAMPLE, bundle, command, eventually, run, target
from profiledb import Profile, folded

BURN = """
import threading, time

def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(1000))

threads = [threading.Thread(target=burn, args=(0.5,)) for _ in range(2)]
for t in threads:
    t.start()
burn(0.5)
for t in threads:
    t.join()
"""
BURN_S = 1.5
KILLS = int(os.environ.get("SS_KILLS", "4"))
UNSEEN_S = 0.15  # what three threads used after they were last looked at

GRADIENT = """
import time
import torch

def simulate(a):
    return (torch.mm(a, a) * a).cumsum(0).sin().sum()

class TestX:
    def test_y(self):
        a = torch.ones(200, 200, dtype=torch.float64, requires_grad=True)
        end = time.process_time() + 1
        while time.process_time() < end:
            simulate(a).backward()
"""


@pytest.fixture(autouse=True)
def _one_at_a_time():
    """No rings here: nobody has to wait for the others' locked memory."""


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def refused(out, *words, options=()):
    """The words of `run` where perf is refused."""
    return denied(*command(out, *words, options=options))


def check_bundle(folder, engine="ptrace"):
    """Complete, and all of it made of the same samples."""
    manifest = json.loads((folder / "manifest.json").read_text())
    there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert {f["name"] for f in manifest["files"]} == there - {"manifest.json"}
    assert manifest["engine"]["name"] == summary(folder)["engine"]["name"] == engine
    weight = Profile(folder).weight_us()
    for name in ("stacks.folded", "stacks-by-test.folded"):
        lines = list(folded(folder / name))
        assert abs(sum(n for _, n in lines) - weight) <= len(lines) / 2, name
    problems, facts = check_trace.check(folder / "profiler.json")
    assert problems == []
    return weight / 1e6


# ---- which engine --------------------------------------------------------------------


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
def test_is_chosen_where_perf_is_refused(out, error):
    """And says why, on the terminal and in the bundle."""
    words = [w for w in command(out, PYTHON, "-c", "sum(range(10**7))") if w != "-q"]
    done = run(denied(*words, error=error))
    assert done.returncode == 0
    assert b"stacksample: ptrace engine, 100 Hz (perf is refused: " in done.stderr
    assert re.search(rb" % complete, threads stopped for \d+\.\d{3} s\n", done.stderr)
    found = summary(bundle(out))
    assert found["engine"]["name"] == "ptrace"
    assert found["engine"]["reason"].startswith("perf is refused: ")
    assert not found["blocked"] and found["finished"] is True


def test_time_and_stacks(out):
    done = run(command(out, PYTHON, "-c", BURN, options=["--engine", "ptrace"]))
    assert done.returncode == 0
    folder = bundle(out)
    sampled_s = check_bundle(folder)
    stacks = list(folded(folder / "stacks.folded"))
    burnt = sum(us for frames, us in stacks if "burn (<string>:4)" in frames) / 1e6
    assert burnt >= BURN_S - UNSEEN_S, stacks
    found = summary(folder)
    used, rusage = found["time"]["total"], found["time"]["rusage"]
    cpu_s = used["user_s"] + used["kernel_s"]
    assert cpu_s == pytest.approx(rusage["user_s"] + rusage["kernel_s"], rel=0.03, abs=UNSEEN_S)
    assert sampled_s == pytest.approx(cpu_s, rel=0.03, abs=UNSEEN_S)
    quality = found["quality"]
    assert quality["complete_pct"] >= 95 and quality["verified_pct"] >= 95
    assert 0 < quality["stop_total_s"]
    text = (folder / "summary.md").read_text()
    assert re.search(r" Its threads were stopped \d+ times to be looked at, for [\d.]+ s "
                     r"\([\d.]+ % of its CPU time\), [\d.]+ ms at the longest\.", text)
    states = {k: v for k, v in used.items() if k not in ("wall_s", "fault_s")}
    lives = sum(t["wall_s"] for t in found["threads"])
    assert sum(states.values()) == pytest.approx(lives, rel=0.01)


def test_torch_under_pytest(out, tmp_path):
    """The line of the demo: test, operator, library, in one stack."""
    (tmp_path / "test_gradient.py").write_text(GRADIENT)
    words = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_gradient.py"]
    done = run(refused(out, *words), cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stdout
    folder = bundle(out)
    check_bundle(folder)
    assert (folder / "pytest.log").read_bytes() == done.stdout
    stacks = [frames for frames, _ in folded(folder / "stacks-by-test.folded")]
    ours = [s for s in stacks if s[0] == "test_gradient.py::TestX::test_y (call)"]
    assert any("TestX.test_y (test_gradient.py:9)" in s and "simulate (test_gradient.py:5)" in s
               and any(f.startswith("at::_ops::") for f in s) for s in ours), ours
    assert any(f.startswith("MmBackward0") or "autograd" in f for s in stacks for f in s)


def test_children(out):
    """Found without perf's records of them, named, and each with its own time."""
    script = f"{PYTHON} -c 'def kid(): sum(range(3 * 10**7))\nkid()' & wait; exit 5"
    done = run(refused(out, "bash", "-c", script))
    assert done.returncode == 5
    folder = bundle(out)
    check_bundle(folder)
    stacks = list(folded(folder / "stacks.folded"))
    assert any("kid (<string>:1)" in frames for frames, _ in stacks), stacks


# ---- the fate of the command ------------------------------------------------------------


@pytest.mark.parametrize("script, status", [("exit 3", 3), ("kill -TERM $$", 143),
                                            ("exec /nonexistent/x", 127)])
def test_statuses(out, script, status):
    busy = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; "
    done = run(refused(out, "sh", "-c", busy + script))
    assert done.returncode == status
    assert (bundle(out) / "exit_code.txt").read_text() == f"{status}\n"


def test_command_that_is_not_there(out):
    assert run(refused(out, "/nonexistent/command")).returncode == 127


def test_our_deadline(out):
    done = run(refused(out, PYTHON, "-c", "while True: pass",
                       options=["--timeout", "1", "--grace", "1"]))
    assert done.returncode == 124
    assert len(summary(bundle(out))["dumps"]) >= 1


def test_signals_of_a_busy_target_arrive(out, process):
    """A target that gets a signal every few milliseconds gets each once."""
    p = process(refused(out, target("unharmed"), options=["--no-log", "-r", "1000"]))
    p.until(b"READY")

    def progress(asked):
        p.send(b"status\n")
        at = p.until(b"status ", asked)
        end = p.until(b"\n", at)
        return int(p.text[at:end]), end

    start, asked = progress(0)
    end = start
    for _ in range(20):
        select.select([], [], [], 0.02)
        end, asked = progress(asked)
    assert end > start
    p.send(b"end\n")
    lines = p.rest().decode().splitlines()
    assert p.wait() == 0
    assert [x for x in lines if x.startswith("wait ") and not x.endswith(" ok")] == []
    (signals,) = [x.split() for x in lines if x.startswith("signals ")]
    sent, received, misordered = map(int, signals[1:4])
    assert (sent, misordered, signals[4:]) == (received, 0, ["wrong", "0"])
    quality = summary(bundle(out))["quality"]
    assert quality["stops"] > 0


def test_no_call_ends_with_eintr(out):
    """Threads that compute a little between short waits: a stop that meets the
    beginning of one makes it begin again."""
    done = run(refused(out, target("eintr_calls"), "2", "3", options=["-r", "1000"]))
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert [x for x in lines if x.startswith("eintr")] == []
    assert int(lines[1].split()[1]) > 100
    assert summary(bundle(out))["quality"]["stops"] > 0


# ---- our own death --------------------------------------------------------------------------


def untouched(pid):
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        assert "TracerPid:\t0\n" in (task / "status").read_text(), task
        state = (task / "stat").read_text().rsplit(")", 1)[1].split()[0]
        assert state in ("R", "S", "D"), task
    return True


@pytest.mark.parametrize("how", ["run", "attach"])
def test_kill_9_leaves_the_target_running(out, process, how):
    chance = random.Random(9)
    for i in range(KILLS):
        words = [target("eintr_calls"), "1", "3"]
        if how == "run":
            ours = process(denied(*command(f"{out}{i}", *words, options=["-r", "1000"])))
            ours.until(b"READY")
            pid = int(subprocess.check_output(["pgrep", "-P", str(ours.pid), "-x", "eintr_calls"]))
        else:
            theirs = process(words)
            theirs.until(b"READY")
            pid = theirs.pid
            ours = process([STACKSAMPLE, "attach", "--engine", "ptrace", "-r", "1000", "-o",
                            f"{out}{i}", str(pid)], stderr=subprocess.STDOUT)
            ours.until(b"writing ")
        select.select([], [], [], 0.05 + chance.random() * 0.2)
        ours.kill(signal.SIGKILL)
        ours.popen.wait()
        eventually(lambda pid=pid: untouched(pid), "nobody is traced")
        if how == "attach":
            # One thread is stopped at a time. Where it was in a call that a stop may end
            # with EINTR, nobody is left to have it begin again.
            ended = re.findall(r"^eintr \S+ (\d+)$", theirs.rest().decode(), re.M)
            assert sum(map(int, ended)) <= 1, theirs.text
            assert theirs.wait() == 0
        else:
            eventually(lambda pid=pid: harness.ended(pid), "the target goes on to its end")


# ---- attach, and other tracers ---------------------------------------------------------------


def test_attach(out, process):
    busy = process([PYTHON, "-c", "print('UP', flush=True)\ndef spin():\n  while True: pass\nspin()"])
    busy.until(b"UP")
    done = run(denied(STACKSAMPLE, "attach", "-o", str(out), "--duration", "1s", str(busy.pid)))
    assert done.returncode == 0, done.stderr
    assert b"ptrace engine" in done.stderr
    assert untouched(busy.pid)
    folder = bundle(out)
    check_bundle(folder)
    frames = {f for frames, _ in folded(folder / "stacks.folded") for f in frames}
    assert "spin (<string>:2)" in frames


def test_traced_by_somebody_else(out):
    """Said, and its time is accounted, visibly without a stack."""
    words = ["strace", "-f", "-o", "/dev/null", "-e", "trace=none", PYTHON, "-c",
             "sum(range(3 * 10**7))"]
    if run(["strace", "-V"]).returncode != 0:
        pytest.skip("strace is not installed")
    done = run(refused(out, *words))
    assert done.returncode == 0
    folder = bundle(out)
    assert "is traced by process" in (folder / "summary.md").read_text()
    total = summary(folder)["time"]["total"]
    rusage = summary(folder)["time"]["rusage"]
    assert total["user_s"] + total["kernel_s"] == pytest.approx(
        rusage["user_s"] + rusage["kernel_s"], rel=0.1, abs=0.05)
    unseen_s = sum(us for frames, us in folded(folder / "stacks.folded")
                   if "[no stack]" in frames) / 1e6
    used_s = sum(cpu_ns for (cpu_ns,) in Profile(folder).rows(
        """SELECT cpu_ns FROM thread JOIN string n ON n.id = name
           WHERE n.text LIKE 'python%'""")) / 1e9
    assert unseen_s == pytest.approx(used_s, rel=0.05, abs=0.03)
