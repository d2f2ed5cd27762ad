"""Native stacks reach the thread's start where that is hard: hand-written kernels
without unwind information, deep stacks, exceptions and signals in flight, code that
comes and goes.

At least 95 % of the samples, less five standard errors of that many, in all and in
the modules that are meant to be measured. A failure prints the share by leaf module.
"""

import collections
import math
import pathlib

import pytest

import harness
import packages
from profiledb import RUNNING, Profile

SECONDS = "1"
BOUND = 0.95
# Stops may take 1 % of the time: on a loaded machine, where each takes longer, that is
# not many of them. Five standard errors are the wider for it.
LEAST = 100 if harness.ENGINE == "perf" else 5
TARGETS = pathlib.Path(harness.ROOT) / "tests" / "targets"
CPU = set(pathlib.Path("/proc/cpuinfo").read_text().split())
JIT = "[anonymous code]"


def leaves(profile):
    """(samples, complete ones) of running threads by module of the innermost frame.
    What no stop came to see has no stack that could be complete."""
    states, ends = profile.words("state"), profile.words("ended")
    kinds = profile.words("kind")
    name = {f: (kinds[kind], pathlib.Path(path or text or "?").name) for f, kind, text, path
            in profile.rows("""SELECT f.id, f.kind, n.text, p.text FROM frame f
                LEFT JOIN string n ON n.id = f.name LEFT JOIN module m ON m.id = f.module
                LEFT JOIN string p ON p.id = m.path""")}
    counts = collections.defaultdict(lambda: [0, 0])
    for frame, state, end, n in profile.rows(
            """WITH RECURSIVE unseen(id) AS (
                 SELECT stack.id FROM stack JOIN frame f ON f.id = stack.frame
                 JOIN string n ON n.id = f.name WHERE n.text = '[no stack]'
                 UNION ALL
                 SELECT stack.id FROM stack JOIN unseen ON stack.parent = unseen.id)
               SELECT s.frame, sample.state, sample.ended, sum(samples) FROM sample
               JOIN stack s ON s.id = sample.stack
               WHERE s.id NOT IN (SELECT id FROM unseen) GROUP BY 1, 2, 3"""):
        if states[state] not in RUNNING:
            continue
        kind, leaf = name[frame]
        count = counts["[kernel]" if leaf.startswith("[kernel") or kind == "kernel" else leaf]
        count[0] += n
        count[1] += n if ends[end] == "complete" else 0
    return counts


def table(counts, profile):
    lines = [f"{m:32} {n:6} samples, {100 * c / n:6.2f} % complete"
             for m, (n, c) in sorted(counts.items(), key=lambda item: -item[1][0])]
    return "\n".join(lines + [str(dict(profile.ended()))])


def measure(out, words, env=None):
    command = harness.command(out, *words, options=("-r", "999", "--format", "none"))
    ended = harness.run(command, env=dict(harness.environment(), **(env or {})), timeout=300)
    assert ended.returncode == 0, ended.stderr
    profile = Profile(harness.bundle(out))
    return profile, leaves(profile)


def at_least(n, total):
    """Is it the bound, less five standard errors of so many?"""
    return n / total >= BOUND - 5 * math.sqrt(BOUND * (1 - BOUND) / total)


def check(profile, counts, meant):
    """`meant`: how the names of the modules (or Python functions) begin in which the
    work is done."""
    text = table(counts, profile)
    inside = [c for m, c in counts.items() if any(m.startswith(p) for p in meant)]
    for what, part in ("all", counts.values()), (meant, inside):
        n, complete = (sum(c) for c in zip((0, 0), *part))
        assert n >= LEAST, f"{what}: not the work that was meant\n{text}"
        assert at_least(complete, n), f"{what}\n{text}"


def kernels(work):
    return [harness.PYTHON, str(TARGETS / "py_kernels.py"), work, SECONDS]


def with_openblas(core="own", threads=1):
    """Environment of a process whose BLAS is OpenBLAS."""
    if core != "own" and "avx2" not in CPU:
        pytest.skip("this CPU has no AVX2")
    env = {"LD_LIBRARY_PATH": str(packages.openblas()), "OPENBLAS_NUM_THREADS": str(threads)}
    return env if core == "own" else env | {"OPENBLAS_CORETYPE": core}


@pytest.mark.parametrize("core", ["Haswell", "own"])
@pytest.mark.parametrize("work", ["dgemm", "sgemm"])
def test_openblas(out, work, core):
    """Its kernels have no unwind information, and more of their own data on the stack
    than is copied with a sample."""
    check(*measure(out, kernels(work), with_openblas(core)), ["libopenblas"])


def test_threads_of_openblas(out):
    """They wait for each other in sched_yield, on a busy machine most of the time."""
    check(*measure(out, kernels("dgemm"), with_openblas(threads=2)), ["libopenblas", "libc."])


def test_openblas_under_pytest(out):
    """The frames of pytest's generators are read with every sample, too."""
    test = harness.ROOT / "tests/demo/test_gradients.py::test_matmul_chain_is_stable"
    profile, counts = measure(out, [harness.PYTHON, "-m", "pytest", "-q", "-p",
                                    "no:cacheprovider", str(test)], with_openblas())
    check(profile, counts, ["libopenblas"])
    merge = profile.counts("merge")
    assert at_least(merge["verified"], merge["verified"] + merge.get("unverified", 0)), merge


def test_every_instruction_of_openblas():
    """The single-step oracle, which runs without that library in `make check-unit`."""
    oracle = pathlib.Path(harness.target("..")) / "unit/test_stepping"
    env = harness.environment() | with_openblas("Haswell")
    ended = harness.run([str(oracle)], env=env)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert b"SKIPPED" not in ended.stdout + ended.stderr


@pytest.mark.parametrize("isa, flag", [("AVX2", "avx2"), ("AVX512_CORE", "avx512dq")])
@pytest.mark.parametrize("work", ["convolution", "linear"])
def test_onednn(out, work, isa, flag):
    if flag not in CPU:
        pytest.skip("this CPU has no " + ("AVX2" if flag == "avx2" else "AVX-512"))
    # Its older name, too: what reads which depends on the version.
    env = {"ONEDNN_MAX_CPU_ISA": isa, "DNNL_MAX_CPU_ISA": isa}
    # Its matrix product by AVX2 has rsp point to the heap.
    check(*measure(out, kernels(work), env), [JIT, "libdnnl"])


def test_hashes(out):
    check(*measure(out, kernels("hash")), ["libcrypto", "_sha3", "_md5", "_sha256"])


def test_deflate(out):
    check(*measure(out, kernels("deflate")), ["libz."])


@pytest.mark.parametrize("kb", [4, 8, 16, 32, 256])
def test_deep_recursion(out, kb):
    """Deeper than what is copied with a sample."""
    check(*measure(out, [harness.target("stacks"), "recursion", SECONDS, str(kb)]),
          ["stacks"])


def test_signal_handlers(out):
    check(*measure(out, [harness.target("stacks"), "signals", SECONDS]), ["stacks"])


def test_libraries_that_come_and_go(out):
    check(*measure(out, [harness.target("stacks"), "libraries", SECONDS]), ["libz."])


def test_children_by_vfork_and_exec(out):
    check(*measure(out, [harness.target("stacks"), "children", SECONDS]), ["stacks"])


def test_exceptions_in_flight(out):
    check(*measure(out, [harness.target("throwing"), SECONDS]), ["libgcc_s", "libstdc++"])
