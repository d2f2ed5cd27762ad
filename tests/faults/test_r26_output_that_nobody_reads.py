"""R26: our own output into a pipe whose reader has gone: quiet, no signal's noise."""

import subprocess

from faults import PYTHON, STACKSAMPLE, STUCK
from harness import run


def test_dump_into_head(process):
    stuck = process([PYTHON, STUCK, "deadlock"])
    stuck.until(b"READY")
    script = f'"{STACKSAMPLE}" dump --quick --json --repeat 50 --interval 0 {stuck.pid}'
    done = run(["bash", "-c", f"{script} | head -n 1; echo ${{PIPESTATUS[0]}}"])
    first, status = done.stdout.decode().splitlines()
    assert first == "{" and done.stderr.count(b"\n") <= 1
    assert status in ("0", "2", "141")


def test_into_a_closed_pipe(process):
    stuck = process([PYTHON, STUCK, "deadlock"])
    stuck.until(b"READY")
    words = [STACKSAMPLE, "dump", "--quick", str(stuck.pid)]
    ours = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    ours.stdout.close()
    err = ours.stderr.read()
    ours.stderr.close()
    assert ours.wait() in (2, -13) and err.count(b"\n") <= 1
