"""Each interpreter that scripts/pythons finds: stacks that other profilers get wrong.

The programs say themselves what must stand on the stack. Interpreters in another root
are run there and profiled from outside it. README.md lists which case covers what.
"""

import functools
import json
import pathlib
import subprocess
import sys

import pytest

import harness
from profiledb import RUNNING, Profile

PYTHONS = subprocess.run([str(harness.ROOT / "scripts/pythons")], check=True, text=True,
                         stdout=subprocess.PIPE).stdout.split()
CASES = harness.ROOT / "tests/targets/py_cases.py"
ASYNC = harness.ROOT / "tests/targets/py_async.py"
NESTED = CASES.parent / "py_nested.py"
SHARES = CASES.parent / "py_shares.py"
VARIED = CASES.parent / "py_varied.py"
FLUTTER = harness.ROOT / "tests/targets/py_flutter.py"
sys.path.insert(0, str(CASES.parent))

import py_flutter  # noqa: E402
import py_shares  # noqa: E402

RATE = 400
NEVER = ("<interpreter trampoline>", "<shim>", "_Py_InitCleanup")


@functools.lru_cache
def version(python):
    words = command(python, ["-c", "import sys; print(*sys.version_info[:2])"], None)[0]
    out = subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout
    return tuple(map(int, out.split()))


def command(python, words, script):
    """How to run it, and the file for its standard input. `words` begin with the
    interpreter's options, the last has the script's; a script in another root comes by
    standard input."""
    *options, last = words
    if "!" not in python:
        return ([python, *options, str(script), *last.split()] if script
                else [python, *words]), None
    root, path = python.split("!")
    # By its own name, so that nothing of this machine's Python is looked for.
    inside = ["chroot", root, path]
    return ([*inside, *options, "-", *last.split()] if script
            else [*inside, *words]), script


def profile(out, python, words, script, env=None, rate=RATE, before=()):
    words, stdin = command(python, words, script)
    with open(stdin or "/dev/null", encoding="utf-8") as given:
        done = harness.run(
            [*before, harness.STACKSAMPLE, "run", "-q", "-r", str(rate), "-o", str(out),
             "--stamp", "b", "--format", "folded", "--", *words],
            stdin=given, env={**harness.environment(), **(env or {})}, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, out / "b"


class Stack:
    """A sample's path, innermost first: names, None for what is no Python frame."""

    def __init__(self, frames, verified, guessed, runs):
        self.frames, self.verified = frames, verified  # (name, is Python, line)
        self.guessed = guessed  # some caller was not found by unwind tables
        self.runs = runs  # on a CPU; else it was looked at while it waited
        self.names = [name if python else None for name, python, _ in frames]
        self.all_names = [name for name, _, _ in frames]

    def python(self):
        return [n for n in self.names if n]


def stacks(bundle, thread=None):
    """One of each sample, those of one thread (by its id) or of all."""
    profile_db = Profile(bundle)
    kinds, merges = profile_db.words("kind"), profile_db.words("merge")
    methods, states = profile_db.words("method"), profile_db.words("state")
    frames = {i: (text or "", kinds[kind] == "python") for i, text, kind in profile_db.rows(
        "SELECT f.id, n.text, f.kind FROM frame f LEFT JOIN string n ON n.id = f.name")}
    nodes = {i: (parent, frame, line) for i, parent, frame, line in
             profile_db.rows("SELECT id, parent, frame, line FROM stack")}
    known = {}
    for row in profile_db.rows(
            "SELECT s.stack, s.merge, s.method, s.state FROM sample s "
            "JOIN thread t ON t.id = s.thread "
            "WHERE s.stack NOT NULL AND (? IS NULL OR t.tid = ?)", thread, thread):
        if row not in known:
            at, merge, method, state = row
            path = []
            while at is not None:
                at, frame, line = nodes[at]
                path.append((*frames[frame], line))
            known[row] = Stack(path, merges[merge] == "verified",
                               methods[method] not in ("cfi", "none"),
                               states[state] in RUNNING)
        yield known[row]


def fits(names, expected):
    """`expected` ones follow each other from the first of `names` on."""
    at, native = 0, 0
    for name in expected:
        if name is None:
            native = 1
            continue
        apart = 0
        while at < len(names) and names[at] is None:
            at, apart = at + 1, apart + 1
        if at == len(names) or names[at] != name or (native and not apart):
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
    """What was verified is right, and so were 99 of 100 of all."""
    right, seen, freed, total = dict.fromkeys(expected, 0), dict.fromkeys(expected, 0), 0, 0
    for stack in stacks(bundle):
        total += 1
        freed += "<freed code>" in stack.names
        assert not any(n in NEVER for n in stack.all_names)
        for case, names in expected.items():
            if names[0] not in stack.names:
                continue
            seen[case] += 1
            ok = fits(stack.names[stack.names.index(names[0]):], names)
            assert ok or not stack.verified, (case, stack.all_names[:60])
            right[case] += ok
    for case, n in seen.items():
        assert n > 0, f"{case} was never seen"
        assert right[case] >= 0.99 * n, f"{case}: {right[case]} of {n}"
    # Of samples taken before it was known what to read with them.
    assert freed <= total / 20


@pytest.mark.parametrize("python", PYTHONS)
def test_cases(out, python):
    stdout, bundle = profile(out, python, ["0.25"], CASES)
    expected = json.loads(stdout)
    check_cases(bundle, expected)
    # The interpreter's own start counts, and another one on a thread is found a moment
    # after it was made.
    assert verified(bundle) >= 97
    lines = Profile(bundle).rows("""
        SELECT DISTINCT s.line FROM stack s JOIN frame f ON f.id = s.frame
        JOIN string n ON n.id = f.name WHERE n.text = 'many'""")
    assert (20002,) in lines, lines


def until_the_loop(stack, first):
    """Coroutines and tasks from function `first` outwards; native frames are left out."""
    names = [n for n, python in zip(stack.all_names, stack.names)
             if python or n.startswith("[task")]
    names = names[names.index(first):]
    return names[:names.index("Handle._run")] if "Handle._run" in names else names


@pytest.mark.parametrize("python", [p for p in PYTHONS if version(p) >= (3, 12)])
def test_asyncio_tasks(out, python):
    """The name of the running task, and those who wait for it up to the event loop."""
    stdout, bundle = profile(out, python, ["0.3"], ASYNC)
    expected = json.loads(stdout)
    seen, whole = dict.fromkeys(expected, 0), dict.fromkeys(expected, 0)
    for stack in stacks(bundle):
        for case, names in expected.items():
            if names[0] not in stack.names or not stack.verified:
                continue
            found = until_the_loop(stack, names[0])
            # Of the first samples it is not known yet what to read with them, and of
            # the last ones who waited may go on before it is read.
            assert all(n in e if isinstance(e, list) else n == e
                       for n, e in zip(found, names)), found
            assert len(found) <= len(names), found
            seen[case] += 1
            whole[case] += len(found) == len(names)
    for case, n in seen.items():
        assert n > 0 and whole[case] >= n * 0.9, (case, whole[case], n)


def check_nested(stack, top, frames):
    """Is it `top`, whose caller is `leaf`, and outside it what the interpreter said: the
    same functions on the same lines, with native frames where C lies between?"""
    python = [(name, line) for name, is_python, line in stack.frames if is_python]
    if [name for name, _ in python[:2]] != [top, "leaf"] or python[2:] != frames:
        return False
    return fits(stack.names, [top, "leaf", *["recurse"] * 4, "key", None, "generate",
                              named("Consumer.__init__", frames), "combine", None, "outer"])


def named(qualified, frames):
    names = [name for name, _ in frames]
    return qualified if qualified in names else qualified.split(".")[-1]


@pytest.mark.parametrize("python", PYTHONS)
def test_nested(out, python):
    """Asleep all is right, and while it runs 99 of 100, of all samples, verified or not."""
    stdout, bundle = profile(out, python, ["both 1.5"], NESTED, rate=1000)
    said = [line.split("\t") for line in stdout.decode().splitlines()[:-1]]
    frames = [(name, int(line)) for name, _, _, line in said[1:]]
    assert said[0][0] == "leaf" and len(frames) > 8
    for top, share in (("sleep_often", 1.0), ("spin_until", 0.99)):
        # A sample that was taken before it was known what to read with it may have the
        # Python frames of another moment: it does not sleep.
        found = [s for s in stacks(bundle) if top in s.names and
                 (top != "sleep_often" or s.all_names[0] == "[sleep]")]
        right = [s for s in found if check_nested(s, top, frames)]
        assert len(found) >= (40 if top == "sleep_often" else 1000), (top, len(found))
        assert len(right) >= share * len(found), (top, len(right), len(found))
        # What is verified is right.
        wrong = [s.all_names for s in found if s.verified and s not in right]
        assert not wrong, wrong[0]


def share_of(found, name):
    n = sum(name in s.names for s in found)
    return n / len(found)


def check_shares(bundle, said, samples):
    """Shares of its CPU time as the thread measured them itself, within five standard
    errors. Where it waits for the GIL it is looked at too, but that is no CPU time."""
    at_work = [s for s in stacks(bundle, said["tid"]) if "work" in s.names]
    found = [s for s in at_work if s.runs]
    assert len(found) >= samples
    for s in at_work:
        names = s.python()[::-1]
        names = names[names.index("work"):]
        ok = all(p in py_shares.CALLS for p in zip(names, names[1:]))
        assert ok or not s.verified, s.all_names
    for name in ("b", "c"):
        share = said[name] / said["all"]
        error = (share * (1 - share) / len(found)) ** 0.5
        assert abs(share_of(found, name) - share) <= 5 * error, (
            name, share_of(found, name), share, error)


@pytest.mark.parametrize("python", PYTHONS)
def test_shares(out, python):
    """Over enough samples that five standard errors are less than a point."""
    stdout, bundle = profile(out, python, ["14"], SHARES, rate=5000)
    check_shares(bundle, json.loads(stdout)[0], 62500)
    assert quality(bundle)["verified_pct"] >= 99


@pytest.mark.parametrize("python", PYTHONS)
def test_shares_of_threads(out, python):
    stdout, bundle = profile(out, python, ["1.5 4"], SHARES, rate=1000)
    for said in json.loads(stdout):
        check_shares(bundle, said, 1000)
    assert verified(bundle) >= 99


def check_flutter(bundle):
    total = 0
    for stack in stacks(bundle):
        names = stack.python()[::-1]
        if "work" not in names or not stack.verified:
            continue
        names = names[names.index("work"):]
        total += 1
        assert all(p in py_flutter.CALLS for p in zip(names, names[1:])), names
    assert total > 0


@pytest.mark.parametrize("python", PYTHONS)
def test_no_impossible_stack(out, python):
    _, bundle = profile(out, python, ["400000"], FLUTTER)
    check_flutter(bundle)
    assert verified(bundle) >= 99


@pytest.mark.parametrize("python", PYTHONS)
def test_without_priority(out, python):
    """The readers of samples may be kept waiting; what was read too late is known."""
    without = ["setpriv", "--bounding-set=-sys_nice", "--inh-caps=-sys_nice"]
    if harness.run([*without, "true"]).returncode != 0:
        pytest.skip("setpriv: not here, or not allowed")
    _, bundle = profile(out, python, ["400000"], FLUTTER, before=without)
    assert Profile(bundle).meta["realtime_reader"] == "no"
    check_flutter(bundle)
    assert verified(bundle) >= 97


@pytest.mark.parametrize("python", [p for p in PYTHONS if version(p) >= (3, 12)])
def test_perf_trampolines_are_not_frames(out, python):
    stdout, bundle = profile(out, python, ["-X", "perf", "0.25"], CASES)
    check_cases(bundle, json.loads(stdout))
    left = [any(n.startswith("py::") for n in s.all_names) for s in stacks(bundle)]
    # Only what is being entered or left has no frame of ours yet.
    assert sum(left) <= len(left) / 20


def check_calls(found, calls):
    """What was verified has no call but those that the interpreter saw."""
    total = 0
    for stack in found:
        names = stack.python()[::-1]
        if "work" not in names or "watch" in names:
            continue
        names = names[names.index("work"):]
        total += 1
        ok = all(p in calls for p in zip(names, names[1:]))
        assert ok or not stack.verified, stack.all_names
    assert total > 1000


@pytest.mark.parametrize("python", [p for p in PYTHONS if version(p) >= (3, 14)])
def test_jit(out, python):
    """Code of the JIT has no unwind information (3.14), or that of frame pointers."""
    stdout, bundle = profile(out, python, ["2.5"], VARIED, {"PYTHON_JIT": "1"}, 1000)
    found = list(stacks(bundle))
    check_calls(found, {tuple(pair) for pair in json.loads(stdout)})
    assert quality(bundle)["complete_pct"] >= 99
    assert verified(bundle) >= 99
    # The JIT was in use: what stands in its code is no frame of a file.
    compiled = sum(s.guessed for s in found)
    assert compiled >= 0.1 * len(found), (compiled, len(found))


def test_greenlet_is_cut_at_its_switch(out):
    """The parent's frames lie on the same C stack, but are not the greenlet's."""
    made = subprocess.run([str(harness.ROOT / "scripts/pythons"), "--greenlet"], text=True,
                          stdout=subprocess.PIPE, check=False)
    if made.returncode != 0:
        pytest.skip("greenlet: no venv with it (scripts/pythons --make greenlet)")
    _, bundle = profile(out, made.stdout.strip(), ["0"], CASES.parent / "py_greenlet.py")
    total = 0
    for stack in stacks(bundle):
        if "spin_greenlet" in stack.names and stack.verified:
            total += 1
            assert stack.python() in (["spin_greenlet", "child"], ["spin_greenlet", "again"])
    assert total > 10
    assert quality(bundle)["complete_pct"] >= 99


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
    total = 0
    for stack in stacks(bundle):
        if "spin_inside" in stack.names and stack.verified:
            total += 1
            assert stack.python() == ["spin_inside", "<module>"]
            outside = stack.all_names[stack.names.index("<module>"):]
            assert "call_into_python" in outside
    assert total > 10


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
