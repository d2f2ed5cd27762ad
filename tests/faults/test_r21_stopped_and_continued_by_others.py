"""R21: somebody else stops and continues it all the time (cpulimit): every look ends,
and it goes on afterwards."""

import os
import signal
import threading

from faults import STACKSAMPLE, STUCK, PYTHON, dump, untraced
from harness import bundle, eventually, run, state


def storm(pid, over):
    while not over.is_set():
        os.kill(pid, signal.SIGSTOP)
        os.kill(pid, signal.SIGCONT)
        over.wait(0.001)


def test_dump_and_attach(process, out):
    busy = process([PYTHON, STUCK, "busy"])
    busy.until(b"READY")
    over = threading.Event()
    other = threading.Thread(target=storm, args=(busy.pid, over))
    other.start()
    try:
        for _ in range(10):
            assert dump(busy.pid, want=(0, 1))["threads"][0]["tid"] == busy.pid
        words = [STACKSAMPLE, "attach", "-q", "-o", str(out), "--duration", "0.2s"]
        assert run([*words, str(busy.pid)]).returncode == 0
    finally:
        over.set()
        other.join()
    os.kill(busy.pid, signal.SIGCONT)
    eventually(lambda: state(busy.pid) == "R", "it goes on")
    assert untraced(busy.pid)
    assert (bundle(out) / "manifest.json").exists()
