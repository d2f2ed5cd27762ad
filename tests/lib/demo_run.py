"""One run of the demo, as `make demo` does it, and what stands around it."""

import pathlib
import subprocess

import harness
import profiledb

LIMIT_S = 900  # it takes 20 s on two quiet cores


def stolen_ticks():
    """(ticks stolen by the hypervisor, all ticks) of this machine until now."""
    words = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()
    ticks = [int(w) for w in words[1:9]]
    return ticks[7], sum(ticks)


class Demo:
    def __init__(self, folder):
        env = dict(harness.environment(), DEMO_OUT=str(folder / "out"), PYTHON=harness.PYTHON)
        env.pop("PYTEST_ADDOPTS", None)
        before = stolen_ticks()
        self.done = subprocess.run(
            [str(harness.ROOT / "scripts" / "demo"), harness.STACKSAMPLE],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=env, cwd=harness.ROOT, timeout=LIMIT_S, check=False)
        after = stolen_ticks()
        self.steal = (after[0] - before[0]) / max(1, after[1] - before[1])
        self.stdout = self.done.stdout.decode()
        self.stderr = self.done.stderr.decode()
        assert self.done.returncode == 0, self.stdout + self.stderr
        self.folder = harness.bundle(folder / "out")
        self.profile = profiledb.Profile(self.folder)
