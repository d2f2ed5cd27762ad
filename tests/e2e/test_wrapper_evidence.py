"""Evidence only: a probe prints all that a wrapper could change; what it prints
bare and wrapped must be equal, in pipes and in a real terminal."""

import ctypes
import os
import resource
import signal
import struct
import subprocess

import pytest

import harness
from harness import command, run, target

LIBC = ctypes.CDLL(None, use_errno=True)
SYS_RT_SIGACTION, SYS_RT_SIGPROCMASK = 13, 14


def ignore_all_signals():
    ignored = struct.pack("QQQQ", 1, 0, 0, 0)  # the kernel's struct: SIG_IGN
    for signo in range(1, 65):
        LIBC.syscall(SYS_RT_SIGACTION, signo, ignored, None, ctypes.c_size_t(8))


def block_all_signals():
    LIBC.syscall(SYS_RT_SIGPROCMASK, 2, struct.pack("Q", 2**64 - 1), None, ctypes.c_size_t(8))


def limits():
    for which, soft in [(resource.RLIMIT_NOFILE, 64), (resource.RLIMIT_CORE, 0),
                        (resource.RLIMIT_STACK, 4 << 20), (resource.RLIMIT_CPU, 1000)]:
        resource.setrlimit(which, (soft, resource.getrlimit(which)[1]))


def scheduling():
    os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.nice(7)


def timers():
    signal.setitimer(signal.ITIMER_REAL, 900, 30)
    signal.setitimer(signal.ITIMER_PROF, 900, 40)


def oom_score():
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as f:
        f.write("321")


def prctls():
    LIBC.prctl(29, 12345, 0, 0, 0)  # PR_SET_TIMERSLACK
    LIBC.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS


SETUPS = {
    "plain": lambda: None,
    "all signals ignored": ignore_all_signals,
    "all signals blocked": block_all_signals,
    "umask": lambda: os.umask(0o137),
    "limits": limits,
    "scheduling": scheduling,
    "timers": timers,
    "oom score": oom_score,
    "prctl": prctls,
    "stdin closed": lambda: os.close(0),
    "stdout closed": lambda: os.close(1),
    "stderr closed": lambda: os.close(2),
    "all closed": lambda: [os.close(fd) for fd in range(3)],
    "one open file": lambda: os.dup2(1, 2),
    "stdout read-only": lambda: os.dup2(os.open("/dev/null", os.O_RDONLY), 1),
}


def facts(path):
    return path.read_text(errors="surrogateescape").splitlines()


def probed(words_of, tmp_path, **kw):
    """What the probe prints bare and wrapped, and both processes."""
    pages, done = [], []
    for name in ("bare", "wrapped"):
        words = [target("probe"), str(tmp_path / name), "a b", "", "--", "-q", "\u00e9"]
        done.append(run(words_of(words) if name == "wrapped" else words, **kw))
        pages.append(facts(tmp_path / name))
    return pages, done


@pytest.mark.parametrize("no_log", [False, True], ids=["log", "no log"])
@pytest.mark.parametrize("setup", SETUPS)
def test_probe_is_equal(out, tmp_path, setup, no_log):
    options = ["--no-log"] if no_log else []
    pages, done = probed(lambda words: command(out, *words, options=options), tmp_path,
                         preexec_fn=SETUPS[setup])
    assert pages[0] == pages[1]
    assert [d.returncode for d in done] == [0, 0]


def test_environment_and_folder(out, tmp_path):
    env = {"PATH": os.environ["PATH"], "EMPTY": "", "ODD": "a=b\x01", "PYTEST_ADDOPTS": "--x",
           "NANOBRAGG_DISABLE_COMPILE": "1", "CUDA_VISIBLE_DEVICES": "-1"}
    folder = tmp_path / "some where"
    folder.mkdir()
    pages, _ = probed(lambda words: command(out, *words), tmp_path, env=env, cwd=folder)
    assert pages[0] == pages[1]


def test_other_descriptors(out, tmp_path):
    ends = os.pipe()
    try:
        pages, _ = probed(lambda words: command(out, *words), tmp_path, pass_fds=ends)
    finally:
        for fd in ends:
            os.close(fd)
    assert pages[0] == pages[1]


def test_descriptors_are_the_commands_to_close(out, process):
    """Who waits for the end of a descriptor sees it when the command closes it."""
    ends = os.pipe()
    script = "exec 9>&-; echo closed; read x"
    words = ["bash", "-c", f'exec 9>&{ends[1]} {ends[1]}>&-; exec "$@"', "bash",
             *command(out, "sh", "-c", script)]
    p = process(words, pass_fds=[ends[1]])
    os.close(ends[1])
    p.until(b"closed\n")
    other = harness.Reader(ends[0])
    assert other.rest() == b""
    os.close(ends[0])
    p.send(b"\n")
    assert p.wait() == 0


def test_stdin_reaches_its_end_with_the_command(out):
    """A writer into our stdin gets its SIGPIPE when the command is gone."""
    script = 'yes | "$@"; echo ${PIPESTATUS[0]}'
    done = run(["bash", "-c", script, "bash", *command(out, "head", "-n", "1")])
    assert done.stdout.split() == [b"y", b"141"]


@pytest.mark.parametrize("redirect", ["", ">/dev/null", "2>/dev/null", "2>&1 | cat", "</dev/null"])
@pytest.mark.parametrize("stty", ["sane", "-onlcr -echo", "raw -echo", "intr ^A tostop"])
def test_probe_is_equal_in_a_terminal(out, tmp_path, terminal, stty, redirect):
    script = (f'stty {stty}; P="$1"; T="$2"; shift 2; '
              f'{{ "$P" "$T/bare" x y {redirect}; }}; echo $?; '
              f'{{ "$@" "$P" "$T/wrapped" x y {redirect}; }}; echo $?; stty sane; echo done')
    t = terminal(["sh", "-c", script, "sh", target("probe"), str(tmp_path), *command(out)],
                 rows=33, cols=101)
    assert t.wait() == 0
    assert facts(tmp_path / "bare") == facts(tmp_path / "wrapped")
    assert t.text.split() == [b"0", b"0", b"done"]


def test_peak_memory_is_the_commands_own(out):
    """rusage must not show what we are: ours is tens of megabytes."""
    bare = run(["/usr/bin/time", "-f", "%M", "true"])
    assert run(command(out, "true")).returncode == 0
    kept = (harness.bundle(out) / "time.txt").read_text()
    (line,) = [x for x in kept.splitlines() if "Maximum resident set size" in x]
    assert int(line.split()[-1]) <= int(bare.stderr) + 3000


def test_tracer_and_children(out):
    """Read by the shell itself: the commands of a pipeline would be children, too."""
    script = ("while read -r key value; do "
              "[ $key != TracerPid: ] || echo $key $value; done </proc/$$/status; "
              "read -r children </proc/$$/task/$$/children; echo children $children")
    done = [run(words) for words in (["sh", "-c", script], command(out, "sh", "-c", script))]
    assert done[0].stdout == b"TracerPid: 0\nchildren\n"
    assert done[1].stdout == done[0].stdout


def test_a_command_that_ignores_sigchld_is_reaped(out):
    """SIG_IGN for SIGCHLD is inherited, and would lose us the status."""
    done = run(command(out, "sh", "-c", "exit 11"),
               preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
    assert done.returncode == 11


def test_pending_alarm_ends_the_command(out):
    """perl's idiom for a timeout: alarm, then exec."""
    code = "import os,signal,sys; signal.alarm(1); os.execvp(sys.argv[1], sys.argv[1:])"
    done = subprocess.run(["/usr/bin/python3", "-c", code, *command(out, "sleep", "1000")],
                          check=False, timeout=harness.DEADLINE, stdin=subprocess.DEVNULL)
    assert done.returncode == 128 + signal.SIGALRM
