"""Each interpreter that scripts/pythons finds: stacks that other profilers get wrong.

The programs say themselves what must stand on the stack. Interpreters in another root
are run there and profiled from outside it. README.md lists which case covers what.
"""

import functools
import json
import pathlib
import re
import subprocess
import sys

import pytest

import harness
from profiledb import Profile

PYTHONS = subprocess.run([str(harness.ROOT / "scripts/pythons")], check=True, text=True,
                         stdout=subprocess.PIPE).stdout.split()
CASES = harness.ROOT / "tests/targets/py_cases.py"
FLUTTER = harness.ROOT / "tests/targets/py_flutter.py"
sys.path.insert(0, str(CASES.parent))

import py_flutter  # noqa: E402

RATE = 400
PYTHON_FRAME = re.compile(r"^(.*) \([^()]*:\d+\)$")
NEVER = ("<interpreter trampoline>", "<shim>", "_Py_InitCleanup")


@functools.lru_cache
def version(python):
    words = command(python, ["-c", "import sys; print(*sys.version_info[:2])"], None)[0]
    out = subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout
    return tuple(map(int, out.split()))


def command(python, words, script):
    """How to run it, and the file for its standard input. `words` begin with the
    interpreter's options; a script in another root comes by standard input."""
    if "!" not in python:
        return [python, *words[:-1], str(script), words[-1]] if script else [python, *words], None
    root, path = python.split("!")
    # By its own name, so that nothing of this machine's Python is looked for.
    inside = ["chroot", root, path]
    return [*inside, *words[:-1], "-", words[-1]] if script else [*inside, *words], script


def profile(out, python, words, script, env=None, rate=RATE):
    words, stdin = command(python, words, script)
    with open(stdin or "/dev/null", encoding="utf-8") as given:
        done = harness.run(
            [harness.STACKSAMPLE, "run", "-q", "-r", str(rate), "-o", str(out),
             "--stamp", "b", "--format", "folded", "--", *words],
            stdin=given, env={**harness.environment(), **(env or {})}, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, out / "b"


def stacks(bundle):
    """(frames innermost first, microseconds)."""
    for line in (bundle / "stacks.folded").read_text().splitlines():
        stack, us = line.rsplit(" ", 1)
        yield stack.split(";")[::-1], int(us)


def name_of(frame):
    """Of a Python frame, else None."""
    found = PYTHON_FRAME.match(frame)
    return found.group(1) if found else None


def fits(frames, expected):
    """`expected` names follow each other from the first of `frames` on."""
    at, native = 0, 0
    for name in expected:
        if name is None:
            native = 1
            continue
        apart = 0
        while at < len(frames) and name_of(frames[at]) is None:
            at, apart = at + 1, apart + 1
        if at == len(frames) or name_of(frames[at]) != name or (native and not apart):
            return False
        at, native = at + 1, 0
    return True


def quality(bundle):
    return json.loads((bundle / "summary.json").read_text())["quality"]


def verified(bundle):
    """Per cent of the merges that could be: the first samples of a process are taken
    before it is known what to read with them, how many says how busy the machine is."""
    q = quality(bundle)
    early = sum(u["share_pct"] for u in q["unverified"] if u["why"].startswith("sampled before"))
    return 100 * q["verified_pct"] / (100 - early)


def check_cases(bundle, expected):
    seen, wrong, freed, total = dict.fromkeys(expected, 0), {}, 0, 0
    for frames, us in stacks(bundle):
        assert not any(n in frame for n in NEVER for frame in frames), frames
        total += us
        freed += us if any(f.startswith("<freed code>") for f in frames) else 0
        for case, names in expected.items():
            at = next((i for i, f in enumerate(frames) if name_of(f) == names[0]), None)
            if at is None:
                continue
            seen[case] += us
            if not fits(frames[at:], names):
                wrong.setdefault(case, []).append((us, frames[at:at + 30]))
    assert freed <= max(total / 100, 3 * 1e6 / RATE)
    for case, us in seen.items():
        assert us > 0, f"{case} was never seen"
        bad = sum(n for n, _ in wrong.get(case, ()))
        # Larger of a hundredth and three samples: what is being entered or left, and
        # the first of an interpreter or of a stack deeper than any before.
        assert bad <= max(us / 100, 3 * 1e6 / RATE), (case, wrong[case][:2])


@pytest.mark.parametrize("python", PYTHONS)
def test_cases(out, python):
    stdout, bundle = profile(out, python, ["0.1"], CASES)
    expected = json.loads(stdout)
    check_cases(bundle, expected)
    assert verified(bundle) >= 97
    lines = Profile(bundle).rows("""
        SELECT DISTINCT s.line FROM stack s JOIN frame f ON f.id = s.frame
        JOIN string n ON n.id = f.name WHERE n.text = 'many'""")
    assert (20002,) in lines, lines


@pytest.mark.parametrize("python", PYTHONS)
def test_no_impossible_stack(out, python):
    _, bundle = profile(out, python, ["400000"], FLUTTER)
    share = quality(bundle)["verified_pct"]
    wrong = total = 0
    for frames, us in stacks(bundle):
        names = [n for n in map(name_of, frames) if n][::-1]
        if "work" in names:
            names = names[names.index("work"):]
            total += us
            wrong += us if any(p not in py_flutter.CALLS for p in zip(names, names[1:])) else 0
    assert total > 0
    assert verified(bundle) >= 97
    # What could not be verified may be wrong; what was verified may not
    # (the percentage has three decimals).
    assert wrong / total <= (100 - share) / 100 + 1e-5


@pytest.mark.parametrize("python", [p for p in PYTHONS if version(p) >= (3, 12)])
def test_perf_trampolines_are_not_frames(out, python):
    stdout, bundle = profile(out, python, ["-X", "perf", "0.05"], CASES)
    check_cases(bundle, json.loads(stdout))
    total = left = 0
    for frames, us in stacks(bundle):
        total += us
        left += us if any(f.startswith("py::") for f in frames) else 0
    # Only what is being entered or left has no frame of ours yet.
    assert left <= max(total / 100, 3 * 1e6 / RATE)


@pytest.mark.parametrize("python", [p for p in PYTHONS if version(p) >= (3, 14)])
def test_jit(out, python):
    _, bundle = profile(out, python, ["400000"], FLUTTER, {"PYTHON_JIT": "1"}, 1000)
    assert quality(bundle)["complete_pct"] >= 99
    assert verified(bundle) >= 97


def test_greenlet_is_cut_at_its_switch(out):
    """The parent's frames lie on the same C stack, but are not the greenlet's."""
    made = subprocess.run([str(harness.ROOT / "scripts/pythons"), "--greenlet"], text=True,
                          stdout=subprocess.PIPE, check=False)
    if made.returncode != 0:
        pytest.skip("greenlet: no venv with it (scripts/pythons --make greenlet)")
    _, bundle = profile(out, made.stdout.strip(), ["0"], CASES.parent / "py_greenlet.py")
    total = whole = 0
    for frames, us in stacks(bundle):
        names = [n for n in map(name_of, frames) if n]
        if "spin_greenlet" in names:
            total += us
            whole += us if names == ["spin_greenlet", "child"] else 0
            assert "parent" not in names
    assert total > 0
    assert whole >= total - max(total / 50, 3 * 1e6 / RATE)
    assert verified(bundle) >= 90


SHARED = [p for p in PYTHONS if list(pathlib.Path(p).parent.parent.glob("lib/libpython3.*.so"))]


@pytest.mark.parametrize("python", SHARED)
def test_embedded(out, python, tmp_path):
    """Python inside a program that is none itself."""
    script = tmp_path / "inside.py"
    script.write_text("import time\n"
                      "def spin_inside():\n"
                      "    end = time.thread_time() + 0.3\n"
                      "    while time.thread_time() < end:\n"
                      "        pass\n"
                      "spin_inside()\n")
    home = pathlib.Path(python).parent.parent
    library = next(home.glob("lib/libpython3.*.so"))
    _, bundle = profile(out, harness.target("embedded"), [str(library), "0"], script,
                        {"PYTHONHOME": str(home)})
    total = good = 0
    for frames, us in stacks(bundle):
        names = [n for n in map(name_of, frames) if n]
        if "spin_inside" in names:
            total += us
            at = next(i for i, f in enumerate(frames) if name_of(f) == "spin_inside")
            good += us if (names[-2:] == ["spin_inside", "<module>"] and
                           any(f.startswith("call_into_python") for f in frames[at:])) else 0
    assert total > 0
    assert good >= total - max(total / 100, 3 * 1e6 / RATE)


def test_other_pid_namespace(out):
    """Thread ids in the target are not ours."""
    words = ["unshare", "--pid", "--fork", "--mount-proc"]
    if harness.run([*words, "true"]).returncode != 0:
        pytest.skip("mounting is not allowed here")
    done = harness.run([harness.STACKSAMPLE, "run", "-q", "-r", str(RATE), "-o", str(out),
                        "--stamp", "b", "--format", "folded", "--", *words, PYTHONS[0],
                        str(CASES), "0.1"], timeout=120)
    assert done.returncode == 0, done.stderr
    check_cases(out / "b", json.loads(done.stdout))
