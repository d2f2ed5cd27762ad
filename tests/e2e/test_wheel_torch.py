"""The newest torch wheel under Python 3.13: a process of some 90 libraries, with a
libtorch_cpu.so of 450 MB and a libgomp whose only local symbols are in its
.gnu_debugdata. Runs with WHEEL=1; scripts/wheel-venv makes its environment."""

import json
import os
import subprocess

import pytest

from harness import ROOT, STACKSAMPLE, bundle, perf_lock, run

if not os.environ.get("WHEEL"):
    pytest.skip("set WHEEL=1 to test on the newest torch wheel (5 GB)", allow_module_level=True)

WHEEL_DEADLINE = 1800
# Imports are done when the test begins: gradcheck's own too, by its first call.
TEST = """
import pytest, torch

def chain(x, y):
    return torch.tanh(x @ y).cumsum(0).pow(2)

@pytest.fixture
def pair():
    a, b = (torch.rand(n, n, dtype=torch.double, requires_grad=True) for n in (2, 2))
    torch.autograd.gradcheck(chain, (a, b))
    torch.manual_seed(0)
    return [torch.rand(12, 12, dtype=torch.double, requires_grad=True) for _ in range(2)]

def test_gradients(pair):
    for _ in range(20):
        assert torch.autograd.gradcheck(chain, pair)

def test_threads():
    torch.set_num_threads(2)
    x = torch.rand(200_000)
    for _ in range(3000):
        x = x.sin()
"""


@pytest.fixture(scope="module")
def python():
    made = subprocess.run(
        [str(ROOT / "scripts/wheel-venv")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=WHEEL_DEADLINE,
        check=False,
    )
    if made.returncode == 77:
        pytest.skip(made.stderr.decode().strip())
    assert made.returncode == 0, made
    return made.stdout.decode().strip()


@pytest.fixture(scope="module")
def profile(python, tmp_path_factory):
    """One run for all tests of this file."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "test_it.py").write_text(TEST)
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"]
    env = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
    with perf_lock():
        done = run(
            [STACKSAMPLE, "run", "-q", "-o", "out", "--format", "folded", "--", *command],
            cwd=folder,
            env=env,
            timeout=WHEEL_DEADLINE,
        )
    assert done.returncode == 0, done
    return bundle(folder / "out")


@pytest.fixture(autouse=True)
def _one_at_a_time():
    """`profile` takes the lock itself, once."""
    yield


@pytest.fixture(scope="module")
def summary(profile):
    found = json.loads((profile / "summary.json").read_text())
    if found["engine"]["name"] != "perf":
        pytest.skip(f"no perf: {found['engine']['reason']}")
    return found


def lines(profile, test):
    """(frames, microseconds) of the folded stacks of one test's call."""
    rows = (profile / "stacks-by-test.folded").read_text().splitlines()
    for row in rows:
        stack, count = row.rsplit(" ", 1)
        frames = stack.split(";")
        if frames[0].endswith(f"::{test} (call)"):
            yield frames, int(count)


def test_stacks_are_complete(summary):
    quality = summary["quality"]
    assert quality["samples"] >= 100
    assert quality["complete_pct"] >= 98


def test_merges_are_verified(profile, summary):
    """In the test's call: while torch is imported, code objects of modules are freed
    before they can be read."""
    query = """
        SELECT sum(merge = 1) * 100.0 / sum(merge != 0) FROM sample
        JOIN phase ON phase.id = sample.phase JOIN string AS test ON test.id = phase.test
        JOIN string AS part ON part.id = phase.phase
        WHERE test.text LIKE '%::test_gradients' AND part.text = 'call'"""
    done = run(["sqlite3", "-readonly", str(profile / "profile.db"), query])
    assert float(done.stdout) >= 95, summary["quality"]


def test_stacks_go_from_test_to_operator(profile, summary):
    wanted = ("test_gradients (test_it.py:", "gradcheck (torch/autograd/gradcheck.py:", "at::_ops::")
    total = whole = 0
    for frames, count in lines(profile, "test_gradients"):
        total += count
        at = 0
        for frame in frames:
            at += at < len(wanted) and frame.startswith(wanted[at])
        whole += count if at == len(wanted) else 0
    assert total > 0
    assert whole >= total * 0.1


def test_local_names_of_libgomp(profile, summary):
    """They exist only in the compressed symbol table of the wheel's library."""
    names = {frame for frames, _ in lines(profile, "test_threads") for frame in frames}
    assert "gomp_thread_start (libgomp.so.1)" in names


def test_memory_and_first_sample(summary):
    quality = summary["quality"]
    assert quality["own_rss_mb"] <= 200
    assert quality["first_sample_ms"] > 0
