"""CPU time is the kernel's own, to the per cent: as root, where kernel stacks are
sampled, and as a user to whom perf_event_paranoid hides them.

What is compared is what wait4(2) said of the command. A share of user or kernel
time may differ by five points or, where that is more, by five standard errors of
the run's own number of samples: the kernel, too, tells user from kernel time by
its timer tick.
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

PARANOID = int(pathlib.Path("/proc/sys/kernel/perf_event_paranoid").read_text())
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
CPU_S = 4
FAULTS = ["faults", "tensors"]
WORKS = FAULTS + ["python", "openmp"]
USERS = [
    pytest.param([], id="as we are"),
    pytest.param(NOBODY, id="nobody", marks=[
        pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
        pytest.mark.skipif(PARANOID > 2, reason="perf_event_paranoid is above 2"),
    ]),
]


@pytest.fixture(scope="module")
def anyones():
    """A folder that every user can write to, with the binary and the target."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="stacksample-test-") as name:
        folder = pathlib.Path(name)
        folder.chmod(0o777)
        shutil.copy(harness.STACKSAMPLE, folder / "stacksample")
        shutil.copy(harness.ROOT / "tests" / "targets" / "py_work.py", folder)
        yield folder


@pytest.fixture(scope="module")
def measured(anyones):
    """A function: the bundle and summary of one work as one user, run once."""
    done = {}

    def run(user, work):
        if (len(user), work) not in done:
            out = anyones / f"{len(user)}-{work}"
            words = [str(anyones / "stacksample"), "run", "-q", "-o", str(out), "--format",
                     "folded", "--", harness.PYTHON, str(anyones / "py_work.py"), work,
                     str(CPU_S)]
            ended = harness.run(user + words, cwd=anyones, timeout=600)
            assert ended.returncode == 0, ended.stderr
            folder = harness.bundle(out)
            summary = json.loads((folder / "summary.json").read_text())
            done[len(user), work] = folder, summary
        return done[len(user), work]

    return run


def is_visible(summary):
    """Kernel functions are in the stacks; else only what is known without them."""
    method = summary["engine"]["kernel_method"]
    assert method in ("samples", "faults", "stops")
    return method == "samples"


def by_stops(summary):
    return summary["engine"]["kernel_method"] == "stops"


def cpu(total):
    return total["user_s"] + total["kernel_s"] + total["spin_s"]


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("work", WORKS)
def test_cpu_time_is_rusages(measured, user, work):
    _, summary = measured(user, work)
    rusage = summary["time"]["rusage"]
    used = rusage["user_s"] + rusage["kernel_s"]
    assert used >= CPU_S
    assert cpu(summary["time"]["total"]) == pytest.approx(used, rel=0.03)


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("work", WORKS)
def test_kernel_share_is_rusages(measured, user, work):
    _, summary = measured(user, work)
    total, rusage = summary["time"]["total"], summary["time"]["rusage"]
    ours = total["kernel_s"] / cpu(total)
    theirs = rusage["kernel_s"] / (rusage["user_s"] + rusage["kernel_s"])
    samples = summary["quality"]["samples"]
    visible = is_visible(summary)
    if not by_stops(summary):  # a stop stands for some periods
        assert samples >= 0.9 * 100 * CPU_S * (1 if visible else 1 - theirs)
    error = 5 * math.sqrt(theirs * (1 - theirs) / samples)
    assert abs(ours - theirs) <= max(0.05, error)
    assert theirs > 0.3 if work in FAULTS else theirs < 0.3, "not the work that was meant"


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("work", WORKS)
def test_stacks_hold_that_time(measured, user, work):
    """Samples and hidden kernel time together: at most a period a thread is not
    yet sampled when the thread ends."""
    folder, summary = measured(user, work)
    held = sum(n for _, n in folded(folder / "stacks.folded")) / 1e6
    profile = Profile(folder)
    rest = profile.number("period_ns") / 1e9 * len(profile.threads())
    used = cpu(summary["time"]["total"])
    assert abs(held - used) <= 0.03 * used + rest


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("work", WORKS)
def test_states_are_each_threads_life(measured, user, work):
    folder, _ = measured(user, work)
    profile = Profile(folder)
    for thread, name, _, life in profile.threads():
        states = profile.ledger_s(thread)
        assert sum(states.values()) == pytest.approx(life, rel=0.01), (name, states)


def of_kernel(frames):
    return any(f.startswith("[kernel: ") for f in frames)


@pytest.mark.parametrize("user", USERS)
def test_kernel_time_has_frames_of_its_own(measured, user):
    """What for, always; and the kernel's functions where they may be seen."""
    folder, summary = measured(user, "faults")
    lines = list(folded(folder / "stacks.folded"))
    whole = sum(n for _, n in lines)
    seen = sum(n for frames, n in lines if any(f.endswith("_[k]") for f in frames))
    known = sum(n for frames, n in lines if of_kernel(frames))
    share = summary["time"]["total"]["kernel_s"] / cpu(summary["time"]["total"])
    permitted = not user and os.geteuid() == 0 or PARANOID < 2
    assert is_visible(summary) == (ENGINE == "perf" and permitted)
    assert known / whole == pytest.approx(share, abs=0.05)
    assert seen == (known if is_visible(summary) else 0)


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("work", FAULTS)
def test_kernel_time_lies_under_the_line_that_allocates(measured, user, work):
    """All but what the start of the interpreter and the imports took, and what no stop
    came to see. Where they are hidden, not all page faults are known as such: of huge
    pages there is only the whole machine's number. Temporaries of huge pages cost their
    munmap as well."""
    folder, summary = measured(user, work)
    kernel = [(frames, n) for frames, n in folded(folder / "stacks.folded")
              if of_kernel(frames) and "[no stack]" not in frames]
    starts = {"temporaries (py_work.py", "tensors (py_work.py"}

    def is_start(frames):
        names = {f.rsplit(":", 1)[0] for f in frames}
        return bool(names & starts) or ("main (py_work.py" not in names
                                        and any(f.startswith("_start ") for f in frames))

    rest = [(frames, n) for frames, n in kernel if not is_start(frames)]
    right = sum(n for frames, n in rest if any(".once (py_work.py" in f for f in frames))
    whole = sum(n for _, n in rest)
    samples = whole * 1000 / Profile(folder).number("period_ns")
    if by_stops(summary):  # each stands for what was spent since the one before
        samples = min(samples, Profile(folder).counts("state")["kernel"])
    assert right >= (0.9 - 5 * math.sqrt(0.9 * 0.1 / samples)) * whole
    faults = sum(n for frames, n in rest if "[kernel: page fault]" in frames)
    assert faults > 0.3 * sum(n for _, n in rest)


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("work", FAULTS)
def test_page_faults_are_counted(measured, user, work):
    """However their samples were thinned out: but for those of the kernel's own mode,
    and what no sample stands for any more when a thread ends."""
    folder, summary = measured(user, work)
    if summary["engine"]["kernel_method"] != "faults":
        return  # kernel stacks show them
    counted = Profile(folder).number("faults")
    assert counted == pytest.approx(summary["time"]["rusage"]["minor_faults"], rel=0.15)


@pytest.mark.parametrize("user", USERS)
def test_page_faults_are_the_cause(measured, user):
    folder, summary = measured(user, "tensors")
    cause = {c["name"]: c for c in summary["causes"]}["page_fault_churn"]
    assert cause["base"] == "cpu" and cause["share_pct"] >= 10 and cause["error_pct"] > 0
    assert any(".once (py_work.py" in line for line in cause["evidence"])
    assert any(line.startswith("GLIBC_TUNABLES=") for line in cause["try"])
    assert "Page-fault churn: " in (folder / "summary.md").read_text()


@pytest.mark.parametrize("user", USERS)
def test_time_of_page_faults_is_part_of_the_kernels(measured, user):
    _, summary = measured(user, "tensors")
    total = summary["time"]["total"]
    assert 0.2 * total["kernel_s"] < total["fault_s"] <= total["kernel_s"]


@pytest.mark.parametrize("user", USERS)
def test_two_openmp_threads_share_the_work(measured, user):
    folder, _ = measured(user, "openmp")
    profile = Profile(folder)
    busy = sorted(profile.ledger_s(i)["user"] + profile.ledger_s(i)["spin"]
                  for i, _, role, _ in profile.threads() if role in ("main", "openmp"))
    assert len(busy) == 2 and busy[0] > 0.2 * busy[1]
