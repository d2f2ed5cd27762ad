"""R31: two of us on one process both work; one that a debugger traces is refused by
dump, with the tracer's name."""

import shutil
import signal
import subprocess

import pytest

from faults import PYTHON, STACKSAMPLE, STUCK, untraced
from harness import eventually, run


def test_two_attached(process, out):
    busy = process([PYTHON, STUCK, "busy"])
    busy.until(b"READY")
    words = [STACKSAMPLE, "attach", "-o", str(out), "--duration"]
    first = process([*words, "60s", str(busy.pid)], stderr=subprocess.STDOUT)
    first.until(b"writing ")
    second = run([*words, "0.2s", "-q", str(busy.pid)])
    assert second.returncode == 0, second.stderr
    first.kill(signal.SIGINT)
    first.rest()
    assert first.wait() == 0
    assert len([p for p in out.iterdir() if (p / "manifest.json").exists()]) == 2


def test_already_traced(process, out):
    if shutil.which("strace") is None:
        pytest.skip("no strace")
    busy = process([PYTHON, STUCK, "busy"])
    busy.until(b"READY")
    tracer = process(["strace", "-q", "-o", "/dev/null", "-p", str(busy.pid)])
    eventually(
        lambda: "TracerPid:\t0\n" not in open(f"/proc/{busy.pid}/status").read(), "traced"
    )
    done = run([STACKSAMPLE, "dump", str(busy.pid)])
    assert done.returncode == 2
    assert done.stderr.decode() == (
        f"stacksample: PID {busy.pid} is already being traced by PID {tracer.pid} "
        "(strace); end that one first\n"
    )
    tracer.kill(signal.SIGTERM)
    tracer.wait()
    assert run([STACKSAMPLE, "dump", "--quick", str(busy.pid)]).returncode == 0
    assert untraced(busy.pid)
