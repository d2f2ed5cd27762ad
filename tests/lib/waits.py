"""What the target py_waits.py can do, and how far a bundle's ledger is from what its
threads measured themselves."""

import pathlib

PROGRAM = pathlib.Path(__file__).resolve().parent.parent / "targets" / "py_waits.py"
# kind, state that it is, what the threads measured of it, reason at the stacks' leaves
WAITS = [("sleep", "sleep", "off_s", "[sleep]"),
         ("lock", "lock", "off_s", "[lock: Python lock]"),
         ("event", "lock", "off_s", "[lock: Python lock]"),
         ("queue", "lock", "off_s", "[lock: Python lock]"),
         ("pipe", "io", "off_s", "[io: pipe]"),
         ("network", "io", "off_s", "[io: network]"),
         ("child", "child", "off_s", "[child]"),
         ("disk", "io", "off_s", "[io: disk]")]
SHARED = [("gil", "gil", "off_s"), ("spinners", "runnable", "runnable_s")]
EDGES_S = 0.03  # of a thread that does not say for how long it measured


def states_of(profile, tid):
    """(seconds by state, life in seconds) of a thread by its number."""
    (found,) = profile.rows("SELECT id FROM thread WHERE tid = ?", tid)
    (life,) = [s for i, _, _, s in profile.threads() if i == found[0]]
    return profile.ledger_s(found[0]), life


def differences(profile, measured, state, key):
    """Of each thread (share in this state less the one that it measured, share of its life
    in which it did not measure: its first and last moments)."""
    for m in measured:
        states, life = states_of(profile, m["tid"])
        outside_s = max(EDGES_S, life - m.get("wall_s", life))
        yield (states.get(state, 0) - m[key]) / life, outside_s / life


def differences_with_queue(profile, measured, state):
    """The same of a wait and the run queue together: which of the two it was, nothing but
    the kernel's counter tells."""
    for m in measured:
        states, life = states_of(profile, m["tid"])
        outside_s = max(EDGES_S, life - m.get("wall_s", life))
        both = states.get(state, 0) + states.get("runnable", 0)
        yield (both - m["off_s"] - m["runnable_s"]) / life, outside_s / life
