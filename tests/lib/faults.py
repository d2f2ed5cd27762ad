"""What the tests of tests/faults share."""

import json
import os
import pathlib
import sys

import harness
from harness import STACKSAMPLE, bundle, command, perf_lock, run  # noqa: F401

PYTHON = sys.executable
STUCK = str(harness.ROOT / "tests" / "targets" / "py_stuck.py")


def environment():
    """Without the test that pytest says is running here."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}


def profile(out, *words, options=()):
    """Runs a command under us; its result, the bundle's summary and folded stacks."""
    options = ("-r", "1000", *options)
    done = run(command(out, *words, options=options), env=environment())
    return done, summary(out), folded(out)


def summary(out):
    return json.loads((bundle(out) / "summary.json").read_text())


def folded(out):
    """(stack as a list from the root, microseconds) of every line."""
    lines = (bundle(out) / "stacks.folded").read_text().splitlines()
    pairs = (x.rsplit(" ", 1) for x in lines)
    return [(stack.split(";"), int(count)) for stack, count in pairs]


def has(stack, name):
    return any(f.startswith(name + " (") for f in stack)


def dump(pid, *options, want=(0,)):
    """One look as JSON; None where the status is not 0 (it must be in `want`)."""
    done = run([STACKSAMPLE, "dump", "--quick", "--json", *options, str(pid)])
    assert done.returncode in want, (done.returncode, done.stderr)
    return json.loads(done.stdout) if done.returncode in (0, 1) else None


def python_names(thread):
    return [f["name"].split(".")[-1] for f in thread["frames"] if f["kind"] == "python"]


def native_names(thread):
    return [f.get("name") for f in thread["frames"] if f["kind"] == "native"]


def untraced(pid):
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            status = (task / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread that has ended meanwhile
        assert "TracerPid:\t0\n" in status
    return True
