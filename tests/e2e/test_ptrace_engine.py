"""The ptrace engine, chosen because a seccomp filter refuses perf_event_open as a
container's does: the same bundle, and a target that is none the worse for it."""

import json

import pytest


from deny_perf import denied
from harness import PYTHON, bundle, command, run
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


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
def test_is_chosen_where_perf_is_refused(out, error):
    """And says why, on the terminal and in the bundle."""
    words = [w for w in command(out, PYTHON, "-c", BURN) if w != "-q"]
    done = run(denied(*words, error=error))
    assert done.returncode == 0
    assert b"stacksample: ptrace engine, 100 Hz (perf is refused: " in done.stderr
    found = summary(bundle(out))
    assert found["engine"]["name"] == "ptrace"
    assert found["engine"]["reason"].startswith("perf is refused: ")
    assert not found["blocked"] and found["finished"] is True
    assert found["quality"]["samples"] > 0
    assert found["quality"]["stops"] >= found["quality"]["samples"] / 2


def test_asked_for(out):
    done = run(command(out, PYTHON, "-c", BURN, options=["--engine", "ptrace"]))
    assert done.returncode == 0
    folder = bundle(out)
    assert summary(folder)["engine"]["name"] == "ptrace"
    stacks = list(folded(folder / "stacks.folded"))
    burnt = sum(us for frames, us in stacks if "burn (<string>:4)" in frames)
    assert burnt >= 0.8 * 1.5e6, stacks
    profile = Profile(folder)
    assert profile.weight_us() == pytest.approx(sum(us for _, us in stacks), rel=0.01)
    quality = summary(folder)["quality"]
    assert quality["complete_pct"] >= 95 and quality["verified_pct"] >= 95
