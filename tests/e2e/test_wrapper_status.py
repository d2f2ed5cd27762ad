"""The exit status of `run`: the command's own, or why there is none."""

import signal

import pytest

import harness
from harness import command, run

SHELL = [
    ("zero", "exit 0", 0),
    ("three", "exit 3", 3),
    ("highest", "exit 255", 255),
    ("pytest interrupted", "exit 2", 2),
    ("like our own timeout", "exit 124", 124),
    ("like not found", "exit 127", 127),
    ("term", "kill -TERM $$", 128 + signal.SIGTERM),
    ("kill", "kill -KILL $$", 128 + signal.SIGKILL),
    ("int", "kill -INT $$", 128 + signal.SIGINT),
    ("abort", "ulimit -c 0; kill -ABRT $$", 128 + signal.SIGABRT),
    ("segv", "ulimit -c 0; kill -SEGV $$", 128 + signal.SIGSEGV),
    ("real time", "kill -40 $$", 128 + 40),
]


@pytest.mark.parametrize("script, status", [c[1:] for c in SHELL], ids=[c[0] for c in SHELL])
def test_status_is_the_commands(out, script, status):
    done = run(command(out, "sh", "-c", script))
    assert done.returncode == status
    assert (harness.bundle(out) / "exit_code.txt").read_text() == f"{status}\n"


def test_not_found(out):
    done = run(command(out, "no-such-command-at-all"))
    assert done.returncode == 127
    assert b"no-such-command-at-all" in done.stderr


@pytest.mark.parametrize("mode", [0o644, None], ids=["no x bit", "a folder"])
def test_not_executable(out, tmp_path, mode):
    path = tmp_path / "thing"
    if mode is None:
        path.mkdir()
    else:
        path.write_text("#!/bin/sh\nexit 0\n")
        path.chmod(mode)
    assert run(command(out, str(path))).returncode == 126


def test_script_without_interpreter_line_runs(out, tmp_path):
    path = tmp_path / "plain"
    path.write_text("echo hi; exit 6\n")
    path.chmod(0o755)
    done = run(command(out, str(path)))
    assert (done.returncode, done.stdout) == (6, b"hi\n")


def test_dashes_forgotten(out):
    words = [harness.STACKSAMPLE, "run", "-q", "-o", str(out), "sh", "-c", "echo $1; exit 8",
             "sh", "--odd"]
    done = run(words)
    assert (done.returncode, done.stdout) == (8, b"--odd\n")


def test_dashes_of_the_command_are_its_own(out):
    done = run(command(out, "echo", "--", "-o", "x"))
    assert (done.returncode, done.stdout) == (0, b"-- -o x\n")


WRONG = [
    ("unknown option", ["--no-such-option", "--", "true"]),
    ("unknown letter", ["-Z", "--", "true"]),
    ("no command", []),
    ("no command after dashes", ["--"]),
    ("rate is no number", ["-r", "fast", "--", "true"]),
    ("rate too high", ["-r", "10001", "--", "true"]),
    ("rate zero", ["-r", "0", "--", "true"]),
    ("bad duration", ["--timeout", "soon", "--", "true"]),
    ("bad stamp", ["--stamp", "a/b", "--", "true"]),
    ("stamp climbs out", ["--stamp", "..", "--", "true"]),
    ("bad format", ["--format", "jpeg", "--", "true"]),
    ("bad engine", ["--engine", "steam", "--", "true"]),
    ("value missing", ["-o"]),
]


@pytest.mark.parametrize("words", [c[1] for c in WRONG], ids=[c[0] for c in WRONG])
def test_wrong_usage_creates_nothing(tmp_path, words):
    done = run([harness.STACKSAMPLE, "run", *words], cwd=tmp_path)
    assert done.returncode == 125
    assert done.stdout == b""
    assert done.stderr.startswith(b"stacksample: ") and done.stderr.count(b"\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_output_folder_is_a_file(out):
    out.write_text("mine")
    done = run(command(out, "sh", "-c", "echo ran"))
    assert (done.returncode, done.stdout) == (125, b"")
    assert out.read_text() == "mine"
    assert done.stderr.endswith(b"; choose another folder with --output\n")


def test_nothing_half_made_where_files_may_not_grow(out):
    done = run(["sh", "-c", 'ulimit -f 8; exec "$@"', "sh", *command(out, "echo", "ran")])
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr == b"stacksample: profile.db: File too large\n"
    assert list(out.iterdir()) == []


def test_output_folder_cannot_be_made(tmp_path):
    done = run(command("/proc/no-such-folder/x", "sh", "-c", "echo ran"), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (125, b"")


def test_stamp_that_exists(out):
    options = ["--stamp", "one"]
    assert run(command(out, "true", options=options)).returncode == 0
    before = sorted((out / "one").iterdir())
    done = run(command(out, "sh", "-c", "echo ran", options=options))
    assert (done.returncode, done.stdout) == (125, b"")
    assert sorted((out / "one").iterdir()) == before


@pytest.mark.parametrize("script, why", [("sleep 1000", "default"),
                                         ("trap '' INT; while :; do sleep 1; done", "hard")],
                         ids=["ends at INT", "needs KILL"])
def test_own_timeout_is_124(out, script, why):
    options = ["--timeout", "1", "--grace", "1"]
    done = run(command(out, "sh", "-c", script, options=options))
    assert done.returncode == 124, why
    assert (harness.bundle(out) / "exit_code.txt").read_text() == "124\n"
