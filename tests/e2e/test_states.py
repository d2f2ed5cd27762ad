"""What threads wait for, in shares of their life: compared with what the target's
threads measured themselves, by their own clocks."""

import json
import os
import pathlib

import pytest

import harness
from harness import ENGINE
from profiledb import RUNNING, Profile, folded
from waits import EDGES_S, PROGRAM, WAITS, differences, differences_with_queue

SECONDS = 1.5
POINTS = 0.05  # how far a share may be from what was measured


class Run:
    """A command under us: its bundle, and what its threads measured."""

    def __init__(self, out, words, options=(), status=0, **kw):
        done = harness.run(harness.command(out, *words, options=["--format", "folded", *options]),
                           timeout=300, **kw)
        assert done.returncode == status, done.stderr
        self.folder = harness.bundle(out)
        self.profile = Profile(self.folder)
        self.measured = [json.loads(line) for line in done.stdout.splitlines()]

    def waits(self):
        return list(folded(self.folder / "stacks-wait.folded"))


def conserved(run):
    for thread, name, _, life in run.profile.threads():
        states = run.profile.ledger_s(thread)
        assert sum(states.values()) == pytest.approx(life, rel=0.01), (name, states)


def share_is(run, state, key):
    """Time on a run queue behind a wait is told from it by the kernel's counter alone:
    from its last reading on, at any time before the thread's end, it is estimated."""
    found = differences(run.profile, run.measured, state, key)
    for (off, outside), m in zip(found, run.measured):
        queued = m["runnable_s"] / m["wall_s"] if key == "off_s" and "wall_s" in m else 0
        assert abs(off) <= POINTS + outside + queued, (run.measured, state)


@pytest.mark.parametrize("kind, state, key, reason", WAITS, ids=[c[0] for c in WAITS])
def test_a_wait_has_its_state_and_reason(out, tmp_path, kind, state, key, reason):
    run = Run(out, [harness.PYTHON, str(PROGRAM), kind, str(SECONDS)], cwd=tmp_path)
    conserved(run)
    share_is(run, state, key)
    (measured,) = run.measured
    function = {"network": "network", "queue": "a_queue"}.get(kind, kind)
    named = sum(n for frames, n in run.waits()
                if frames[-1] == reason and any(f.startswith(function + " (") for f in frames))
    assert named / 1e6 >= 0.9 * measured["off_s"] - EDGES_S, run.waits()


def test_who_waits_for_the_gil_and_who_has_it(out):
    run = Run(out, [harness.PYTHON, str(PROGRAM), "gil", str(SECONDS)])
    assert len(run.measured) == 4
    conserved(run)
    share_is(run, "gil", "off_s")
    for off, outside in differences_with_queue(run.profile, run.measured, "gil"):
        assert abs(off) <= POINTS + outside, run.measured
    reasons = {frames[-1] for frames, _ in run.waits()}
    assert {f"[gil: held by spinner-{i}]" for i in range(4)} <= reasons


def test_more_spinners_than_cpus_are_runnable(out):
    run = Run(out, [harness.PYTHON, str(PROGRAM), "spinners", str(SECONDS)])
    assert len(run.measured) == 4 * len(os.sched_getaffinity(0))
    conserved(run)
    share_is(run, "runnable", "runnable_s")
    assert sum(m["runnable_s"] for m in run.measured) > sum(m["cpu_s"] for m in run.measured)


def test_cpu_only_leaves_the_stacks_of_waits_out(out):
    run = Run(out, [harness.PYTHON, str(PROGRAM), "sleep", "0.5"], options=["--cpu-only"])
    conserved(run)
    assert run.waits() == []
    assert run.profile.ledger_s()["wait"] >= 0.4
    assert set(run.profile.counts("state")) <= set(RUNNING)


def test_an_openmp_team_at_a_barrier_waits(out):
    env = {**harness.environment(), "OMP_WAIT_POLICY": "passive"}
    run = Run(out, [harness.target("omp_barrier"), str(SECONDS)], env=env)
    assert len(run.measured) == 2
    conserved(run)
    share_is(run, "wait", "off_s")
    assert {"[wait: OpenMP]"} <= {frames[-1] for frames, _ in run.waits()}


@pytest.fixture
def quota():
    """A cgroup with a tenth of a CPU: (its folder, function: seconds throttled)."""
    base = pathlib.Path("/sys/fs/cgroup")
    old = (base / "cpu" / "cpu.shares").exists()
    group = (base / "cpu" if old else base) / f"stacksample-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("no cgroup can be made here")
    try:
        if old:
            (group / "cpu.cfs_quota_us").write_text("10000")
        else:
            (group / "cpu.max").write_text("10000 100000")
    except OSError:
        group.rmdir()
        pytest.skip("no cgroup with a quota can be made here")

    def throttled():
        stat = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
        return int(stat["throttled_time"]) / 1e9 if old else int(stat["throttled_usec"]) / 1e6

    yield group, throttled
    harness.eventually(lambda: (group / "cgroup.procs").read_text() == "", "it is empty")
    group.rmdir()


SPIN = """
import json, os, pathlib, sys, time
sys.path.insert(0, sys.argv[1])
import py_waits
group = pathlib.Path(sys.argv[2])
with py_waits.Measured() as m:
    (group / "cgroup.procs").write_text(str(os.getpid()))
    end = time.monotonic() + 3
    while time.monotonic() < end: pass
    (group.parent / "cgroup.procs").write_text(str(os.getpid()))
print(json.dumps(m.all))
"""


def test_what_a_quota_holds_back_is_told_apart(out, quota):
    group, throttled = quota
    run = Run(out, [harness.PYTHON, "-c", SPIN, str(PROGRAM.parent), str(group)])
    conserved(run)
    share_is(run, "runnable", "runnable_s")
    held = sum(n for frames, n in run.waits() if frames[-1] == "[runnable: throttled]") / 1e6
    # The last second and the first are of another reading of the counter.
    assert throttled() / 3 <= held <= throttled() + 1, (held, throttled())


def test_too_many_switches_are_dropped_and_times_stay_right(out):
    """The kernel's own figures hold without switch records, and it is said."""
    run = Run(out, [harness.target("ping_pong"), "2"])
    (measured,) = run.measured
    conserved(run)
    total = run.profile.ledger_s()
    used = sum(total.get(state, 0) for state in RUNNING)
    assert used == pytest.approx(measured["cpu_s"], rel=0.03)
    # Twice the limit: every half second is above it. Stops have no switch records.
    if ENGINE == "perf" and measured["per_s"] > 40000:
        assert run.profile.number("switches_dropped") > 0.2 * measured["switches"]
        assert "times a second on a CPU" in (run.folder / "summary.md").read_text()
    waits = {frames[-1] for frames, _ in run.waits()}
    assert "[io: pipe]" in waits


def test_two_hundred_sleepers_keep_their_one_look(out, tmp_path):
    """They cost nothing: no stop, and one row each for all of their wait."""
    script = tmp_path / "sleepers.py"
    script.write_text("""
import threading, time
end = threading.Event()
threads = [threading.Thread(target=end.wait, name=f"sleeper-{i}") for i in range(200)]
for t in threads: t.start()
time.sleep(2)
end.set()
for t in threads: t.join()
print('{"tid": 0}')
""")
    run = Run(out, [harness.PYTHON, str(script)])
    conserved(run)
    rows = run.profile.rows("""
        SELECT count(*) FROM sample s JOIN thread t ON t.id = s.thread
        JOIN word w ON w.kind = 'state' AND w.id = s.state
        WHERE w.word = 'lock' GROUP BY t.id
        HAVING sum(s.weight_ns) > 0.9 * (t.end_ns - t.start_ns)""")
    assert len(rows) >= 200, rows
    assert max(n for (n,) in rows) <= 5, "the end of a second may divide a row"
    # The perf engine stops nobody; the other one those who run, each for a sample.
    ran = sum(n for state, n in run.profile.counts("state").items() if state in RUNNING)
    assert run.profile.number("stops") <= (0 if ENGINE == "perf" else ran)
