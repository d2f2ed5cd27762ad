"""What the command prints arrives as it would have, and is in the log."""

import os
import re
import signal
import subprocess
import sys

import pytest

import harness
from harness import command, run, target

BOTH = ("import os\n"
        "for i in range(2000):\n"
        "    os.write(1, b'out %d\\n' % i)\n"
        "    os.write(2, b'err %d\\n' % i)\n")
PYTHON = sys.executable


def test_one_open_file_keeps_the_order(out):
    done = run(command(out, PYTHON, "-c", BOTH), stderr=subprocess.STDOUT)
    expected = b"".join(b"out %d\nerr %d\n" % (i, i) for i in range(2000))
    assert done.stdout == expected
    assert harness.log(out) == expected


def test_two_files_stay_apart(out):
    done = run(command(out, PYTHON, "-c", BOTH))
    assert done.stdout == b"".join(b"out %d\n" % i for i in range(2000))
    assert done.stderr == b"".join(b"err %d\n" % i for i in range(2000))
    assert sorted(harness.log(out).splitlines()) == sorted((done.stdout + done.stderr).splitlines())


def test_into_a_file(out, tmp_path):
    with open(tmp_path / "log", "wb") as f:
        f.write(b"before\n")
        f.flush()
        done = run(command(out, PYTHON, "-c", BOTH), stdout=f, stderr=subprocess.STDOUT)
    assert done.returncode == 0
    expected = b"".join(b"out %d\nerr %d\n" % (i, i) for i in range(2000))
    assert (tmp_path / "log").read_bytes() == b"before\n" + expected


def test_bytes_are_not_text(out):
    code = "import os; os.write(1, bytes(range(256)) * 4096)"
    done = run(command(out, PYTHON, "-c", code))
    assert done.stdout == bytes(range(256)) * 4096 == harness.log(out)


def test_no_log_keeps_none(out):
    done = run(command(out, "sh", "-c", "echo hi; echo ho >&2", options=["--no-log"]))
    assert (done.stdout, done.stderr) == (b"hi\n", b"ho\n")
    assert not (harness.bundle(out) / "command.log").exists()


def test_no_log_passes_the_file_itself(out, tmp_path):
    with open(tmp_path / "log", "wb") as f:
        run(command(out, "truncate", "-s", "4321", "/proc/self/fd/1", options=["--no-log"]),
            stdout=f)
    assert (tmp_path / "log").stat().st_size == 4321


@pytest.mark.parametrize("words, status", [(["yes"], 128 + signal.SIGPIPE),
                                           (["sh", "-c", "trap '' PIPE; yes 2>/dev/null"], 1)],
                         ids=["by signal", "by EPIPE"])
def test_closed_pipe(out, words, status):
    script = '"$@" | head -n 1; echo ${PIPESTATUS[0]}'
    for prefix in ([], command(out)):
        done = run(["bash", "-c", script, "bash", *prefix, *words])
        assert done.stdout.split() == [b"y", str(status).encode()]
        assert done.stderr == b""
    assert not [p for p in harness.bundle(out).iterdir() if p.name.endswith(".tmp")]


def test_reader_that_leaves_reaches_a_quiet_command(out, process):
    """The next write after the reader has gone is the one that fails."""
    script = "echo ready; read x; echo more; echo status $? >&2"
    p = process(command(out, "bash", "-c", "trap '' PIPE; " + script), stderr=subprocess.PIPE)
    p.until(b"ready\n")
    p.popen.stdout.close()
    errors = harness.Reader(p.popen.stderr.fileno())
    witness = other_child(p.pid)
    harness.eventually(lambda: not holds_a_pipe(witness, 1), "the channel is closed")
    p.send(b"\n")
    errors.until(b"status 1\n")
    assert p.wait() == 0


def other_child(pid):
    """The child that is not the command."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
        for child in f.read().split():
            with open(f"/proc/{child}/comm", encoding="ascii") as comm:
                if comm.read() == "ss-witness\n":
                    return int(child)
    raise AssertionError("no witness")


def holds_a_pipe(pid, fd):
    return os.readlink(f"/proc/{pid}/fd/{fd}").startswith("pipe:")


def test_grandchild_that_keeps_the_pipe(out):
    done = run(command(out, "sh", "-c", "echo before; sleep 1000 & echo $!"))
    before, sleeper = done.stdout.split()
    assert (done.returncode, before) == (0, b"before")
    assert harness.state(int(sleeper)) == "S"
    os.kill(int(sleeper), signal.SIGKILL)


def test_grandchild_that_goes_on_writing(out):
    """What is there at the end is drained, within bounds; then we leave."""
    script = "sh -c 'while :; do echo y; done' & echo $! >&2; exec sleep 0.3"
    done = run(command(out, "sh", "-c", script))
    assert done.returncode == 0
    writer = int(done.stderr.split()[0])
    harness.eventually(lambda: harness.ended(writer), "the writer gets its SIGPIPE")
    assert set(done.stdout.split()) == {b"y"}


def test_slow_reader_loses_nothing(out, process):
    """The reader takes nothing until the command has ended."""
    p = process(command(out, target("lines"), "12000"))
    harness.eventually(lambda: (harness.STACKSAMPLE and out.exists()
                                and list(out.glob("*/exit_code.txt"))), "the command has ended")
    text = p.rest()
    assert text.count(b"\n") == 12001 and text.endswith(b"line 11999\n")
    assert harness.log(out) == text
    assert p.wait() == 5


def test_non_blocking_output(out):
    """Others may have set O_NONBLOCK on the open file that we share."""
    a, b = os.pipe()
    os.set_blocking(b, False)
    with subprocess.Popen(command(out, target("lines"), "50000"), stdout=b) as p:
        os.close(b)
        text = harness.Reader(a).rest()
        assert p.wait(harness.DEADLINE) == 5
    os.close(a)
    assert text.count(b"\n") == 50001


def test_full_disk_of_the_reader_ends_the_command(out):
    """ENOSPC cannot be handed on; a write error of some kind is."""
    with open("/dev/full", "wb") as full:
        done = run(command(out, "sh", "-c", "while echo x; do :; done"), stdout=full)
    assert done.returncode == 128 + signal.SIGPIPE


def test_pipeline_of_the_runbook(out, tmp_path):
    script = ('/usr/bin/time -v -o "$T/time" timeout 1200 env CUDA_VISIBLE_DEVICES=-1 A="b c" '
              '"$@" sh -c \'echo "$A" $CUDA_VISIBLE_DEVICES; echo err >&2; exit 3\' 2>&1 '
              '| tee "$T/log"; echo ${PIPESTATUS[@]}')
    pages = []
    for prefix in ([], command(out)):
        done = run(["bash", "-c", script, "bash", *prefix], env={**os.environ, "T": str(tmp_path)})
        time = (tmp_path / "time").read_text().splitlines()
        pages.append((done.stdout, done.stderr, (tmp_path / "log").read_bytes(), time[-1]))
    assert pages[0] == pages[1]
    assert pages[1][0] == b"b c -1\nerr\n3 0\n"


# ---- in a terminal ------------------------------------------------------------------

PRINTED = [
    ("lines", "one\\ntwo\\n"),
    ("progress", "10%%\\r20%%\\r30%%\\rdone\\n"),
    ("crlf", "a\\r\\nb\\r\\r\\n"),
    ("cr at the end", "x\\r"),
    ("escapes", "\\033[1mbold\\033[0m\\ttab\\n\\n\\n"),
]


@pytest.mark.parametrize("stty", ["onlcr", "-onlcr", "-opost", "tab3"])
@pytest.mark.parametrize("text", [c[1] for c in PRINTED], ids=[c[0] for c in PRINTED])
def test_terminal_gets_the_same_bytes(out, terminal, text, stty):
    got = []
    for prefix in ([], command(out)):
        script = f'stty {stty}; exec "$@"'
        t = terminal(["sh", "-c", script, "sh", *prefix, "printf", text])
        assert t.wait() == 0
        got.append(t.text)
    assert got[0] == got[1] != b""
    if stty == "onlcr":
        assert harness.log(out) == run(["printf", text]).stdout


def test_much_through_a_terminal(out, terminal):
    t = terminal(command(out, target("lines"), "20000"))
    assert t.wait() == 5
    assert t.text == harness.log(out).replace(b"\n", b"\r\n")
    assert t.text.endswith(b"line 19999\r\n")


def test_size_follows_the_terminal(out, terminal):
    t = terminal(command(out, target("counts")), rows=30, cols=90)
    (pid,) = t.line(b"ready ")
    t.resize(44, 123)
    t.until(b"WINCH 1 ")
    at = 0
    n = 0

    def right():
        nonlocal at, n
        n += 1
        os.kill(int(pid), signal.SIGUSR1)
        at = t.until(b"USR1 %d size " % n, at)
        end = t.until(b"\n", at)
        return t.text[at:end].split() == [b"44", b"123"]

    harness.eventually(right, "the new size is there")
    t.send(b"quit\n")
    assert t.wait() == 7
    assert b"WINCH 2" not in t.text


def test_modes_that_the_command_sets_reach_the_terminal(out, terminal):
    """`stty -echo` on fd 1 is the user's terminal's business, as without us."""
    script = '"$@" sh -c "stty -echo <&1; echo set"; stty -a'
    for prefix in ([], command(out)):
        t = terminal(["sh", "-c", script, "sh", *prefix])
        assert t.wait() == 0
        assert b" -echo " in t.text


STATUS = re.compile(rb"(?:\x1bD\x1b\[A)?\x1b7\x1b\[B\r\[ss\][^\x1b\n]*\x1b\[K\x1b8"  # drawn below
                    rb"|\r\[ss\][^\x1b\n]*\x1b\[K"  # drawn at the cursor
                    rb"|\x1b7\x1b\[B\r\x1b\[K\x1b8|\r\x1b\[K")  # erased


def test_status_line_spares_the_commands_text(out, terminal):
    """It is drawn below unfinished lines, and gone before the next byte."""
    words = [w for w in command(out, target("counts")) if w != "-q"]
    t = terminal(["sh", "-c", 'printf "part "; exec "$@"', "sh", *words], env={"TERM": "xterm"})
    at = t.until(b"[ss] ")
    t.until(b"[ss] ", at)
    t.send(b"quit\n")
    assert t.wait() == 7
    assert STATUS.search(t.text)
    kept = STATUS.sub(b"", t.text)
    assert b"[ss]" not in kept
    assert harness.log(out).replace(b"\n", b"\r\n") in kept


def test_quiet_has_no_status_line(out, terminal):
    t = terminal(command(out, "sleep", "1.5"), env={"TERM": "xterm"})
    assert t.wait() == 0
    assert t.text == b""
