"""What threads wait for, in shares of their life: compared with what the target's
threads measured themselves, by their own clocks."""

import json
import os
import pathlib

import pytest

import harness
from profiledb import RUNNING, Profile, folded

WAITS = harness.ROOT / "tests" / "targets" / "py_waits.py"
SECONDS = 1.5
POINTS = 0.05  # how far a share may be from what was measured
EDGES_S = 0.03  # a thread's first and last moments, which it cannot measure


class Run:
    """A command under us: its bundle, and what its threads measured."""

    def __init__(self, out, words, options=(), status=0, **kw):
        done = harness.run(harness.command(out, *words, options=["--format", "folded", *options]),
                           timeout=300, **kw)
        assert done.returncode == status, done.stderr
        self.folder = harness.bundle(out)
        self.profile = Profile(self.folder)
        self.measured = [json.loads(line) for line in done.stdout.splitlines()]

    def life(self, tid):
        """(seconds by state, life in seconds) of a thread by its number."""
        (found,) = self.profile.rows("SELECT id FROM thread WHERE tid = ?", tid)
        (life,) = [s for i, _, _, s in self.profile.threads() if i == found[0]]
        return self.profile.ledger_s(found[0]), life

    def waits(self):
        return list(folded(self.folder / "stacks-wait.folded"))


def conserved(run):
    for thread, name, _, life in run.profile.threads():
        states = run.profile.ledger_s(thread)
        assert sum(states.values()) == pytest.approx(life, rel=0.01), (name, states)


def share_is(run, state, key):
    for m in run.measured:
        states, life = run.life(m["tid"])
        ours, theirs = states.get(state, 0) / life, m[key] / life
        assert abs(ours - theirs) <= POINTS + EDGES_S / life, (m, states, life)


CASES = [("sleep", "sleep", "[sleep]"), ("lock", "lock", "[lock: Python lock]"),
         ("event", "lock", "[lock: Python lock]"), ("queue", "lock", "[lock: Python lock]"),
         ("pipe", "io", "[io: pipe]"), ("network", "io", "[io: network]"),
         ("child", "child", "[child]"), ("disk", "io", "[io: disk]")]


@pytest.mark.parametrize("kind, state, reason", CASES, ids=[c[0] for c in CASES])
def test_a_wait_has_its_state_and_reason(out, tmp_path, kind, state, reason):
    run = Run(out, [harness.PYTHON, str(WAITS), kind, str(SECONDS)], cwd=tmp_path)
    conserved(run)
    share_is(run, state, "off_s")
    (measured,) = run.measured
    function = {"network": "network", "queue": "a_queue"}.get(kind, kind)
    named = sum(n for frames, n in run.waits()
                if frames[-1] == reason and any(f.startswith(function + " (") for f in frames))
    assert named / 1e6 >= 0.9 * measured["off_s"] - EDGES_S, run.waits()


def test_who_waits_for_the_gil_and_who_has_it(out):
    run = Run(out, [harness.PYTHON, str(WAITS), "gil", str(SECONDS)])
    assert len(run.measured) == 4
    conserved(run)
    share_is(run, "gil", "off_s")
    reasons = {frames[-1] for frames, _ in run.waits()}
    assert {f"[gil: held by spinner-{i}]" for i in range(4)} <= reasons


def test_more_spinners_than_cpus_are_runnable(out):
    run = Run(out, [harness.PYTHON, str(WAITS), "spinners", str(SECONDS)])
    assert len(run.measured) == 4 * len(os.sched_getaffinity(0))
    conserved(run)
    share_is(run, "runnable", "runnable_s")
    assert sum(m["runnable_s"] for m in run.measured) > sum(m["cpu_s"] for m in run.measured)


def test_cpu_only_leaves_the_stacks_of_waits_out(out):
    run = Run(out, [harness.PYTHON, str(WAITS), "sleep", "0.5"], options=["--cpu-only"])
    conserved(run)
    assert run.waits() == []
    assert run.profile.ledger_s()["wait"] >= 0.4
    assert set(run.profile.counts("state")) <= set(RUNNING)
