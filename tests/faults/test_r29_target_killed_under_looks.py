"""R29, R30: the target is killed while looks are taken: they end, with one line."""

import random
import select
import signal
import subprocess

from faults import PYTHON, STACKSAMPLE, STUCK


def test_killed_at_any_moment(process):
    chance = random.Random(29)
    for _ in range(8):
        busy = process([PYTHON, STUCK, "busy"])
        busy.until(b"READY")
        words = [STACKSAMPLE, "dump", "--quick", "--repeat", "100000", "--interval", "0"]
        looks = process([*words, str(busy.pid)], stderr=subprocess.PIPE)
        looks.until(b"looked once")
        select.select([], [], [], chance.random() * 0.02)
        busy.kill(signal.SIGKILL)
        busy.wait()
        looks.rest()
        assert looks.wait() == 2
        err = looks.popen.stderr.read().decode().splitlines()
        assert len(err) == 1 and err[0].startswith("stacksample: "), err
        assert "ended" in err[0] or "no process" in err[0], err
