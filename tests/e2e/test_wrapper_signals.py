"""Signals reach the command no more and no less often than without us.

After each scenario one more SIGUSR1, for us alone, is a marker: signals are
handled in order, so what should not have been forwarded would be there by then."""

import os
import re
import signal
import subprocess

import pytest

import harness
from harness import command, run, target

COUNTS = target("counts")


def started(process, out, words=None):
    """The counting command under us in a group of its own, and its pid."""
    p = process(words or command(out, COUNTS))
    (pid,) = p.line(b"ready ")
    return p, int(pid)


def pending(pid, signo):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        (mask,) = [line.split()[1] for line in f if line.startswith("ShdPnd:")]
    return int(mask, 16) >> (signo - 1) & 1


def finish(p):
    """Marks, ends the command, gives the last count of each signal."""
    p.kill(signal.SIGUSR1)
    p.until(b"USR1 ")
    p.send(b"quit\n")
    text = p.rest().decode()
    assert p.wait() == 7
    return {name: int(n) for name, n in re.findall(r"^([A-Z0-9]+) (\d+)", text, re.M)}


TABLE = [
    ("INT to us", [("INT", False)], {"INT": 1}),
    ("INT to the group", [("INT", True)], {"INT": 1}),
    ("TERM to us", [("TERM", False)], {"TERM": 1}),
    ("TERM to the group", [("TERM", True)], {"TERM": 1}),
    ("HUP to us", [("HUP", False)], {"HUP": 1}),
    ("QUIT to us", [("QUIT", False)], {"QUIT": 1}),
    ("QUIT to the group", [("QUIT", True)], {"QUIT": 1}),
    ("USR2 to us", [("USR2", False)], {"USR2": 1}),
    ("USR2 to the group", [("USR2", True)], {"USR2": 1}),
    ("CONT to us", [("CONT", False)], {"CONT": 1}),
    ("CONT to the group", [("CONT", True)], {"CONT": 1}),
    ("WINCH to us", [("WINCH", False)], {"WINCH": 1}),
    ("WINCH to the group", [("WINCH", True)], {"WINCH": 1}),
    ("twice, each alone", [("INT", False), ("INT", False)], {"INT": 2}),
    ("twice to the group", [("INT", True), ("INT", True)], {"INT": 2}),
    ("us, then the group", [("TERM", False), ("TERM", True)], {"TERM": 2}),
    ("the group, then us", [("HUP", True), ("HUP", False)], {"HUP": 2}),
]


@pytest.mark.parametrize("sent, expected", [c[1:] for c in TABLE], ids=[c[0] for c in TABLE])
def test_forwarded_as_often_as_due(out, process, sent, expected):
    p, _ = started(process, out)
    at = 0
    for name, group in sent:
        signo = getattr(signal, f"SIG{name}")
        p.kill(signo, group)
        at = p.until(name.encode() + b" ", at)
        # Two signals of a kind merge while one is pending, in any process.
        harness.eventually(lambda n=signo: not pending(p.pid, n), "we have taken it")
    counts = finish(p)
    assert counts == {"USR1": 1, **expected}


def test_as_timeout_does_it(out, process):
    """The child, its group, then CONT to both, without a pause: two may merge."""
    p, _ = started(process, out)
    for signo in (signal.SIGTERM, signal.SIGCONT):
        p.kill(signo)
        p.kill(signo, group=True)
    counts = finish(p)
    assert 1 <= counts["TERM"] <= 2 and 1 <= counts["CONT"] <= 2


def test_timeout_itself(out):
    done = run(["timeout", "3", *command(out, "sleep", "1000")])
    assert done.returncode == 124
    assert (harness.bundle(out) / "exit_code.txt").read_text() == "143\n"
    assert (harness.bundle(out) / "manifest.json").exists()


def test_timeout_in_the_foreground(out):
    done = run(["timeout", "--foreground", "3", *command(out, "sleep", "1000")])
    assert done.returncode == 124
    assert (harness.bundle(out) / "exit_code.txt").read_text() == "143\n"


def test_value_of_a_queued_signal(out, process):
    """sigqueue(3): real-time signals neither merge nor lose their value."""
    p, _ = started(process, out)
    for value in (41, 42, 43):
        subprocess.run(["/bin/kill", "-q", str(value), "-s", "RTMIN", str(p.pid)], check=True)
    p.until(b"RT 3 value 43\n")
    assert b"RT 1 value 41\nRT 2 value 42\n" in p.text
    finish(p)


def test_signal_to_the_command_itself_is_its_own(out, process):
    p, pid = started(process, out)
    os.kill(pid, signal.SIGINT)
    p.until(b"INT 1\n")
    assert finish(p) == {"INT": 1, "USR1": 1}


def test_unhandled_signal_ends_the_command(out, process):
    p = process(command(out, target("lines"), "1000000", "1000"))
    p.line(b"ready ")
    p.kill(signal.SIGTERM)
    p.rest()
    assert p.wait() == 128 + signal.SIGTERM
    assert (harness.bundle(out) / "exit_code.txt").read_text() == "143\n"


def test_ignored_interrupt_stays_ignored(out, process):
    """A background job of a plain shell: SIGINT is ignored from the start."""
    script = 'trap "" INT; exec "$@"'
    p = process(["sh", "-c", script, "sh", *command(out, target("lines"), "300", "1000")])
    p.line(b"ready ")
    p.kill(signal.SIGINT, group=True)
    p.kill(signal.SIGINT)
    assert p.rest().endswith(b"line 299\n")
    assert p.wait() == 5


def test_group_of_a_killed_witness(out, process):
    """The worst that can happen to the witness costs neither us nor the status."""
    options = ["--no-log"]
    p, pid = started(process, out, command(out, COUNTS, options=options))
    (witness,) = [int(c) for c in children(p.pid) if int(c) != pid]
    os.kill(witness, signal.SIGKILL)
    p.kill(signal.SIGTERM)
    p.until(b"TERM 1\n")
    assert finish(p)["TERM"] == 1


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
        return f.read().split()


# ---- job control -----------------------------------------------------------------


def test_stop_to_us_alone_goes_to_the_command(out, process):
    p, pid = started(process, out)
    p.kill(signal.SIGTSTP)
    harness.eventually(lambda: harness.state(pid) == "T", "the command stops")
    harness.eventually(lambda: harness.state(p.pid) == "T", "we stop")
    p.kill(signal.SIGCONT)
    p.until(b"CONT 1\n")
    harness.eventually(lambda: harness.state(p.pid) in "SR", "we go on")
    assert finish(p) == {"CONT": 1, "USR1": 1}


@pytest.mark.parametrize("signo", [signal.SIGSTOP, signal.SIGTSTP])
def test_stop_of_the_group(out, process, signo):
    p, pid = started(process, out)
    p.kill(signo, group=True)
    harness.eventually(lambda: harness.state(pid) == "T", "the command stops")
    harness.eventually(lambda: harness.state(p.pid) == "T", "we stop")
    p.kill(signal.SIGCONT, group=True)
    p.until(b"CONT 1\n")
    assert finish(p) == {"CONT": 1, "USR1": 1}


def test_stopped_and_continued_by_somebody_else(out, process):
    """cpulimit, a debugger: only the command is meant, and we follow."""
    p, pid = started(process, out)
    for _ in range(3):
        os.kill(pid, signal.SIGSTOP)
        harness.eventually(lambda: harness.state(p.pid) == "T", "we stop too")
        os.kill(pid, signal.SIGCONT)
        harness.eventually(lambda: harness.state(p.pid) in "SR", "we go on too")
    assert finish(p)["USR1"] == 1


def test_killed_while_stopped(out, process):
    p, pid = started(process, out)
    os.kill(pid, signal.SIGSTOP)
    harness.eventually(lambda: harness.state(p.pid) == "T", "we stop too")
    os.kill(pid, signal.SIGKILL)
    assert p.wait() == 128 + signal.SIGKILL


def test_terminated_while_stopped(out, process):
    """timeout(1) on a stopped job: TERM, then CONT."""
    p = process(command(out, "sleep", "1000"))
    pid = harness.eventually(lambda: sleeping(p.pid), "sleep runs")
    p.kill(signal.SIGTSTP, group=True)
    harness.eventually(lambda: harness.state(p.pid) == harness.state(pid) == "T", "both stop")
    for signo in (signal.SIGTERM, signal.SIGCONT):
        p.kill(signo)
        p.kill(signo, group=True)
    assert p.wait() == 128 + signal.SIGTERM


def sleeping(parent):
    for pid in children(parent):
        try:
            with open(f"/proc/{pid}/comm", encoding="ascii") as f:
                if f.read() == "sleep\n":
                    return int(pid)
        except FileNotFoundError:
            continue
    return None


# ---- in a terminal ------------------------------------------------------------------


@pytest.fixture
def shell(terminal):
    """An interactive shell with job control, whose prompt is `$ `."""
    t = terminal(["bash", "--norc", "--noprofile", "-i"], env={"PS1": "$ ", "TERM": "dumb"})
    t.send(b"stty -echo; set +o history; echo up\n")
    t.until(b"\nup\r\n")
    return t


def typed(shell, words):
    shell.send(" ".join(words).encode() + b"\n")
    (pid,) = shell.line(b"ready ")
    return int(pid)


def parent(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
        return int(f.read().rsplit(")", 1)[1].split()[1])


def test_ctrl_c(out, shell):
    pid = typed(shell, command(out, COUNTS))
    shell.send(b"\x03")
    shell.until(b"INT 1\r\n")
    os.kill(parent(pid), signal.SIGUSR1)
    shell.until(b"USR1 1 ")
    shell.send(b"\x03")
    shell.until(b"INT 2\r\n")
    os.kill(parent(pid), signal.SIGUSR1)
    shell.until(b"USR1 2 ")
    shell.send(b"quit\necho status $?\n")
    shell.until(b"status 7\r\n")
    assert b"INT 3" not in shell.text


def test_ctrl_backslash_and_ctrl_c_end_an_unprepared_command(out, shell):
    for key, status in ((b"\x03", 130), (b"\x1c", 131)):
        shell.send(b"ulimit -c 0\n")
        typed(shell, command(out / str(status), target("lines"), "1000000", "1000"))
        shell.send(key)
        shell.send(b"\necho status $?\n")
        shell.until(b"status %d\r\n" % status)
        assert (harness.bundle(out / str(status)) / "exit_code.txt").read_text() == f"{status}\n"
        shell.text = b""


def test_more_ctrl_c_do_not_cost_the_bundle(out, shell):
    """The first ends the command, the others only hurry our finishing."""
    typed(shell, command(out, target("lines"), "1000000", "1000"))
    shell.send(b"\x03\x03")
    harness.eventually(lambda: list(out.glob("*/exit_code.txt")), "the command has ended")
    shell.send(b"\x03\necho status $?\n")
    shell.until(b"status 130\r\n")
    assert (harness.bundle(out) / "manifest.json").exists()


def test_ctrl_z_and_fg(out, shell):
    pid = typed(shell, command(out, COUNTS))
    us = parent(pid)
    for round_ in (1, 2):
        shell.send(b"\x1a")
        shell.until(b"Stopped")
        assert (harness.state(pid), harness.state(us)) == ("T", "T")
        shell.text = b""
        shell.send(b"fg\n")
        shell.until(b"CONT %d\r\n" % round_)
        harness.eventually(lambda: harness.state(us) in "SR", "we go on")
    os.kill(us, signal.SIGUSR1)
    shell.until(b"USR1 1 ")
    shell.send(b"quit\necho status $?\n")
    shell.until(b"status 7\r\n")
    assert b"CONT 3" not in shell.text


def test_ctrl_z_and_bg(out, shell):
    pid = typed(shell, command(out, COUNTS))
    shell.send(b"\x1a")
    shell.until(b"Stopped")
    shell.send(b"bg\n")
    shell.until(b"CONT 1\r\n")
    harness.eventually(lambda: harness.state(parent(pid)) in "SR", "we go on")
    os.kill(parent(pid), signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)


def test_command_stopped_by_its_number_alone(out, shell):
    """The shell sees its job stopped, as it would have; fg goes on."""
    pid = typed(shell, command(out, COUNTS))
    os.kill(pid, signal.SIGSTOP)
    shell.until(b"Stopped")
    shell.send(b"fg\n")
    shell.until(b"CONT 1\r\n")
    shell.send(b"quit\necho status $?\n")
    shell.until(b"status 7\r\n")


def test_reading_in_the_background_stops_the_job(out, shell):
    """SIGTTIN goes to the whole group; the job waits for fg."""
    shell.send(" ".join(command(out, "cat")).encode() + b" & echo pid $!\n")
    (us,) = shell.line(b"pid ")
    harness.eventually(lambda: harness.state(int(us)) == "T", "the job is stopped")
    shell.send(b"until jobs | grep -q Stopped; do :; done; fg\n")  # the shell knows, too
    harness.eventually(lambda: harness.state(int(us)) in "SR", "the job goes on")
    shell.send(b"to the cat\n\x04")
    shell.until(b"\nto the cat\r\n")
    shell.send(b"echo status $?\n")
    shell.until(b"status 0\r\n")


def test_hangup_of_the_terminal(out, terminal):
    """A session leader gets the kernel's SIGHUP alone."""
    t = terminal(command(out, COUNTS))
    (pid,) = t.line(b"ready ")
    os.close(t.fd)
    t.fd = os.open("/dev/null", os.O_RDONLY)
    kept = harness.eventually(lambda: b"HUP 1\n" in harness.log(out), "the command has its SIGHUP")
    assert kept
    os.kill(int(pid), signal.SIGKILL)
