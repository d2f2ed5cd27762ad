"""How far the ledger is from what a program's threads measured themselves, for `run`: one
figure for each thing that a thread can wait for."""

import json
import os
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "lib"))

import waits  # noqa: E402
from profiledb import Profile  # noqa: E402

SECONDS = "3"


def case(bench, name, command, state, key, env=None):
    folder, _, _ = bench.run_bundle(command, "--format", "none", env=env)
    measured = [json.loads(line) for line in
                (folder / "command.log").read_text().splitlines()]
    worst = max(max(0, abs(off) - outside) for off, outside in
                waits.differences(Profile(folder), measured, state, key))
    bench.put(f"{name}_error_points", round(100 * worst, 2), note=f"state {state}")


def all_cases(bench, python):
    for kind, state, key, *_ in [*waits.WAITS, *waits.SHARED]:
        case(bench, kind, [python, waits.PROGRAM, kind, SECONDS], state, key)
    case(bench, "omp_barrier", [bench.build / "targets" / "omp_barrier", SECONDS], "wait",
         "off_s", dict(os.environ, OMP_WAIT_POLICY="passive"))
