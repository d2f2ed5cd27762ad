"""Lives of commands: very short, many, replaced, privileged, orphaned of us."""

import os
import random
import shutil
import signal
import subprocess

import pytest

import harness
from harness import command, run, target

KILLS = 50


def test_two_millisecond_commands(out):
    for _ in range(20):
        assert run(command(out, "true")).returncode == 0
    folders = [p for p in out.iterdir() if p.is_dir()]
    assert len(folders) == 20
    assert all((f / "manifest.json").exists() for f in folders)


def test_five_hundred_short_children(out):
    script = "i=0; while [ $i -lt 500 ]; do /bin/true; i=$((i+1)); done; echo all $i; exit 12"
    done = run(command(out, "sh", "-c", script))
    assert (done.returncode, done.stdout) == (12, b"all 500\n")


def test_exec_of_exec(out):
    done = run(command(out, "sh", "-c", "exec sh -c 'exec printf \"%s\\n\" hi'"))
    assert (done.returncode, done.stdout) == (0, b"hi\n")


def test_leader_ends_first(out):
    done = run(command(out, target("leader_exits")))
    assert (done.returncode, done.stdout) == (9, b"the leader is gone\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a setuid program")
def test_setuid_exec(out, tmp_path_factory):
    """The command becomes somebody we may not look at; it must not matter."""
    folder = tmp_path_factory.mktemp("setuid")
    for parent in (folder, *folder.parents):
        if str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    plain, raised, binary = folder / "ids", folder / "raised", folder / "stacksample"
    shutil.copy(target("ids"), plain)
    shutil.copy(target("ids"), raised)
    shutil.copy(harness.STACKSAMPLE, binary)
    raised.chmod(0o4755)
    kept = folder / "out"
    kept.mkdir(mode=0o777)
    kept.chmod(0o777)
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    wrapped = [str(binary), *command(kept, str(plain), str(raised))[1:]]
    done = run([*user, *wrapped], cwd="/")
    assert (done.returncode, done.stdout) == (4, b"euid 0\n")
    assert (harness.bundle(kept) / "exit_code.txt").read_text() == "4\n"


def expected_lines(text):
    """What `lines 200 1000` prints behind its first line."""
    ready, rest = text.split(b"\n", 1)
    assert ready.startswith(b"ready ")
    return rest == b"".join(b"line %d\n" % i for i in range(200))


@pytest.mark.parametrize("kill", range(KILLS))
def test_kill_9_of_us_through_a_pipe(out, process, kill):
    """The command ends as it would have, and its reader gets every byte."""
    moment = random.Random(kill).randrange(200)
    p = process(command(out, target("lines"), "200", "1000"))
    (pid,) = p.line(b"ready ")
    p.until(b"line %d\n" % moment)
    os.kill(p.pid, signal.SIGKILL)
    assert expected_lines(p.rest())
    assert p.wait() == -signal.SIGKILL
    harness.eventually(lambda: harness.ended(int(pid)), "the command ends")
    assert expected_lines(harness.log(out))


@pytest.mark.parametrize("options", [[], ["--no-log"]], ids=["log", "no log"])
@pytest.mark.parametrize("kill", range(5))
def test_kill_9_of_us_into_a_file(out, tmp_path, kill, options):
    path = tmp_path / "text"
    with open(path, "wb") as f:
        p = subprocess.Popen(command(out, target("lines"), "200", "1000", options=options),
                             stdout=f, stdin=subprocess.DEVNULL)
    moment = random.Random(1000 + kill).randrange(200)
    harness.eventually(lambda: b"line %d\n" % moment in path.read_bytes(), "it prints")
    p.kill()
    p.wait()
    harness.eventually(lambda: path.read_bytes().endswith(b"line 199\n"), "it prints to the end")
    assert expected_lines(path.read_bytes())


def test_kill_9_of_us_in_a_terminal(out, terminal):
    script = '"$@" & wait $!; read x'
    t = terminal(["bash", "-c", script, "bash", *command(out, target("lines"), "200", "1000")])
    (pid,) = t.line(b"ready ")
    with open(f"/proc/{int(pid)}/stat", encoding="ascii") as f:
        us = int(f.read().rsplit(")", 1)[1].split()[1])
    t.until(b"line 20\r\n")
    os.kill(us, signal.SIGKILL)
    t.until(b"line 199\r\n")
    lines = [x for x in t.text.split(b"\r\n") if x.startswith(b"line ")]
    assert lines == [b"line %d" % i for i in range(200)]


def test_nobody_is_left_behind(out, process):
    """The witness ends with us, and without us when the channels do."""
    p = process(command(out, target("lines"), "5"))
    p.rest()
    assert p.wait() == 5
    harness.eventually(lambda: group(p.pid) == [], "the group is empty")
    p = process(command(out / "two", target("lines"), "100000", "1000"))
    p.line(b"ready ")
    p.kill(signal.SIGKILL, group=True)
    p.wait()
    harness.eventually(lambda: group(p.pid) == [], "the group is empty")


def group(pgrp):
    done = subprocess.run(["pgrep", "-g", str(pgrp)], capture_output=True, check=False)
    return [p for p in done.stdout.split() if not harness.ended(int(p))]
