"""Figures of Python frames, for `run`: what reading them costs, and the same rate on the
same program by CPython's own profiler, profiling.sampling of 3.15.
"""

import os
import pathlib
import re
import resource
import sqlite3
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
SECONDS = (4, 16)  # what is done once a run is in both
PEER_SECONDS = 10


def depth(folder):
    """Python frames of the deepest stack."""
    db = sqlite3.connect(f"file:{folder}/profile.db?mode=ro", uri=True)
    python = {i for i, in db.execute(
        "SELECT f.id FROM frame f JOIN word w ON w.kind = 'kind' AND w.id = f.kind "
        "WHERE w.word = 'python'")}
    deep = {None: 0}
    for i, parent, frame in db.execute("SELECT id, parent, frame FROM stack ORDER BY id"):
        deep[i] = deep[parent] + (frame in python)
    return max(deep.values())


def read_cost(bench, python):
    """CPU of ours for each further sample, with Python frames and without."""
    cost, deep, verified = {}, 0, None
    for options in ((), ("--no-python",)):
        own, samples = [], []
        for seconds in SECONDS:
            folder, _, _ = bench.run_bundle(
                [python, "-m", "pytest", "-q", "-p", "no:cacheprovider",
                 HERE / "deep_test.py"], "--rate", "1000", "--format", "none", *options,
                env=dict(os.environ, DEEP_SECONDS=str(seconds)))
            quality = bench.summary(folder)["quality"]
            own.append(quality["own_cpu_s"])
            samples.append(quality["samples"])
        cost[options] = 1e6 * (own[1] - own[0]) / (samples[1] - samples[0])
        if not options:
            deep, verified = depth(folder), quality["verified_pct"]
    bench.put("python_us_per_sample", round(cost[()] - cost["--no-python",], 1),
              note=f"1000 Hz, {deep} Python frames; all of a sample {cost[()]:.1f} us")
    bench.put("python_verified_pct", verified, note="of the same")


WITHOUT_FIFO = ("setpriv", "--bounding-set=-sys_nice", "--inh-caps=-sys_nice")


def torn(bench, python):
    """Merges of frames that were read at more than one moment, of a program whose
    functions take microseconds, with real-time priority and without."""
    for under, key in (((), "python_torn_pct"), (WITHOUT_FIFO, "python_torn_no_fifo_pct")):
        folder, _, _ = bench.run_bundle(
            [python, HERE.parent / "targets" / "py_flutter.py", "2000000"],
            "--rate", "1000", "--format", "none", under=under)
        quality = bench.summary(folder)["quality"]
        bench.put(key, quality["torn_pct"],
                  note=f"{quality['samples']} samples; SCHED_FIFO: "
                       f"{'yes' if quality['realtime_reader'] else 'no'}")
    bench.put("verified_no_fifo_pct", quality["verified_pct"], note="of the same")


def newest():
    """A 3.15 that `scripts/pythons` finds: (command before it, its path); None."""
    pythons = subprocess.run([HERE.parent.parent / "scripts" / "pythons"], check=True,
                             text=True, stdout=subprocess.PIPE).stdout.split()
    for python in pythons:
        root, _, path = python.rpartition("!")
        if not path.endswith("3.15"):
            continue
        if not root:
            return [path]
        # A mount namespace with a /proc in its root, which that profiler reads.
        return ["unshare", "--mount", "sh", "-c",
                'mount -t proc proc "$1/proc" && r=$1 && shift && exec chroot "$r" "$@"',
                "sh", root, path]
    return None


def profiled(command, target):
    """(CPU of the profiler, what it printed, work lost in per cent) over PEER_SECONDS."""
    def lines(n):
        return [[int(x) for x in target.stdout.readline().split()] for _ in range(n)]

    before = lines(4)
    was = resource.getrusage(resource.RUSAGE_CHILDREN)
    helper = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True)
    while_on = lines(PEER_SECONDS)[2:-1]
    text = helper.communicate()[0]
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines(2)

    def speed(rows):
        return (rows[-1][0] - rows[0][0]) / (rows[-1][1] - rows[0][1])

    cpu = now.ru_utime + now.ru_stime - was.ru_utime - was.ru_stime
    return cpu, text, 100 * (speed(before) / speed(while_on) - 1)


def against_sampling(bench):
    """CPU a second at 1000 Hz on one program, and what of its work was lost."""
    python = newest()
    if python is None:
        print("  no Python 3.15 (scripts/pythons --make sid)", file=sys.stderr)
        return
    with open(HERE / "tachyon_target.py", encoding="utf-8") as script:
        target = subprocess.Popen([*python, "-"], stdin=script, stdout=subprocess.PIPE,
                                  text=True)
    try:
        out = bench.tmp / "against"
        ours, _, our_loss = profiled(
            [bench.binary, "attach", "-q", "-r", "1000", "--format", "none", "-o", out,
             "--duration", str(PEER_SECONDS), str(target.pid)], target)
        quality = bench.summary(next(out.iterdir()))["quality"]
        theirs, text, their_loss = profiled(
            [*python, "-m", "profiling.sampling", "attach", "-r", "1000", "-d",
             str(PEER_SECONDS), "--collapsed", "-o", "/dev/null", str(target.pid)], target)
    finally:
        target.kill()
        target.wait()
    found = re.search(r"Captured ([\d,]+) samples", text)
    rate = int(found.group(1).replace(",", "")) / PEER_SECONDS if found else None
    wrong = re.search(r"Error rate: ([\d.]+)", text)
    bench.put("python_cpu_vs_sampling", round(ours / theirs, 2),
              peers={"profiling.sampling": 1},
              note=f"1000 Hz asked: ours {100 * ours / PEER_SECONDS:.1f} % of a CPU, "
                   f"{quality['samples'] / PEER_SECONDS:.0f} samples a second, "
                   f"{quality['verified_pct']} % verified, {our_loss:.1f} % of work lost; "
                   f"theirs {100 * theirs / PEER_SECONDS:.1f} %, {rate} a second, "
                   f"error rate {wrong.group(1) if wrong else '?'} %, {their_loss:.1f} %")
