"""Python frames through the whole product: no stack that the program cannot have.

The program calls microsecond functions by turns, so that a stack put together from
two moments, or shifted by a frame, shows a caller that never calls its callee.
"""

import json
import pathlib
import subprocess
import sys

import harness

TARGETS = pathlib.Path(__file__).resolve().parents[1] / "targets"
FLUTTER = TARGETS / "py_flutter.py"
sys.path.insert(0, str(TARGETS))

import py_flutter  # noqa: E402
from profiledb import Profile  # noqa: E402


def python_frames(stack):
    """Names of the program's own frames, outermost first."""
    return [f.split(" (")[0] for f in stack.split(";") if "(py_flutter.py:" in f or
            "/py_flutter.py:" in f]


def impossible(frames):
    return any(pair not in py_flutter.CALLS for pair in zip(frames, frames[1:]))


def test_no_impossible_stack(out):
    subprocess.run(
        [harness.STACKSAMPLE, "run", "-q", "-r", "500", "-o", str(out), "--stamp", "b",
         "--", sys.executable, str(FLUTTER), "1500000"],
        check=True, stdout=subprocess.DEVNULL, timeout=100)
    bundle = out / "b"
    quality = json.loads((bundle / "summary.json").read_text())["quality"]
    wrong = total = 0
    for line in (bundle / "stacks.folded").read_text().splitlines():
        stack, us = line.rsplit(" ", 1)
        frames = python_frames(stack)
        total += int(us) if frames else 0
        wrong += int(us) if impossible(frames) else 0
    assert total > 0
    # How it was read, as the profile says it.
    realtime = {"yes": True, "no": False}[Profile(bundle).meta["realtime_reader"]]
    assert quality["realtime_reader"] is realtime
    assert quality["torn_pct"] <= 100 - quality["verified_pct"] + 1e-3
    assert (f"Python was read {'with' if realtime else 'without'} real-time priority"
            in (bundle / "summary.md").read_text())
    assert quality["verified_pct"] >= 95
    # What could not be verified may be wrong; what was verified may not
    # (the percentage has three decimals).
    assert wrong / total <= (100 - quality["verified_pct"]) / 100 + 1e-5
