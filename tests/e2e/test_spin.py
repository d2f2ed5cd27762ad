"""Threads that wait without leaving their CPU are in state spin.

Debian's libgomp is stripped: there the code of its loops tells.
"""

import json
import math
import os
import pathlib
import shutil
import tempfile

import pytest

import harness
from harness import ENGINE
from profiledb import Profile, folded
from test_accounting import USERS, cpu

CPUS = len(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def anyones():
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="stacksample-test-") as name:
        folder = pathlib.Path(name)
        folder.chmod(0o777)
        shutil.copy(harness.STACKSAMPLE, folder / "stacksample")
        shutil.copy(harness.TARGETS / "omp_team", folder)
        yield folder


@pytest.fixture
def profiled(anyones):
    """A function: (what it printed, its bundle, its summary) of one target."""

    def run(user, *words):
        out = anyones / f"out-{len(list(anyones.iterdir()))}"
        line = [str(anyones / "stacksample"), "run", "-q", "-o", str(out), "--format",
                "folded", "--", str(anyones / words[0]), *map(str, words[1:])]
        ended = harness.run(user + line, cwd=anyones, timeout=600)
        if ended.returncode == 77:
            pytest.skip("no libgomp.so.1 here")
        assert ended.returncode == 0, ended.stderr
        folder = harness.bundle(out)
        return ended.stdout, folder, json.loads((folder / "summary.json").read_text())

    return run


def assert_all_is_accounted(summary):
    rusage = summary["time"]["rusage"]
    used = rusage["user_s"] + rusage["kernel_s"]
    assert cpu(summary["time"]["total"]) == pytest.approx(used, rel=0.03)


@pytest.mark.skipif(CPUS < 2, reason="a team on one CPU does not spin")
@pytest.mark.parametrize("user", USERS)
def test_waiting_at_a_barrier_is_spin(profiled, user):
    printed, folder, summary = profiled(user, "omp_team", 3, 2, 100000, 10)
    work, used = map(float, printed.split())
    total = summary["time"]["total"]
    waited = 1 - work / used
    assert waited > 0.2, "the team did not wait"
    samples = summary["quality"]["samples"] if ENGINE == "perf" else Profile(folder).worth()
    error = max(0.05, 5 * math.sqrt(waited * (1 - waited) / samples))
    assert abs((total["spin_s"] + total["kernel_s"]) / cpu(total) - waited) <= error
    assert abs(total["user_s"] / cpu(total) - (1 - waited)) <= error
    assert total["spin_s"] > total["kernel_s"]
    spinning = sum(n for frames, n in folded(folder / "stacks.folded")
                   if "libgomp.so" in frames[-1]) / 1e6
    assert spinning == pytest.approx(total["spin_s"], abs=error * cpu(total))
    assert "openmp_spin" in {c["name"] for c in summary["causes"]}
    assert_all_is_accounted(summary)


@pytest.mark.parametrize("user", USERS)
def test_a_team_larger_than_the_machine(profiled, user):
    """Switches that come too fast to be kept, up to the end of every thread."""
    _, _, summary = profiled(user, "omp_team", 2, 4 * CPUS, 300, 2)
    assert_all_is_accounted(summary)
