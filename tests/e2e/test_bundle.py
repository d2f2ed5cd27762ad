"""The bundle's folder: fresh, private, complete or told why not, and true."""

import hashlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess

import pytest

import harness
from harness import STACKSAMPLE, bundle, command, run

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def first_line(folder):
    return (folder / "summary.md").read_text().split("\n", 1)[0]


# ---- the folder -----------------------------------------------------------------


def test_private_and_ascii_whatever_the_umask(out):
    done = run(command(out, "true"), preexec_fn=lambda: os.umask(0))
    assert done.returncode == 0
    folder = bundle(out)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.iterdir():
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600, path
        assert re.fullmatch(r"[A-Za-z0-9._-]+", path.name)
        assert not path.name.startswith("."), "nothing temporary is left"


def test_manifest_is_true(out):
    assert run(command(out, "sh", "-c", "echo hello")).returncode == 0
    folder = bundle(out)
    listed = {f["name"]: f for f in manifest(folder)["files"]}
    assert set(listed) | {"manifest.json"} == {p.name for p in folder.iterdir()}
    for name, entry in listed.items():
        content = (folder / name).read_bytes()
        assert entry["size"] == len(content), name
        assert entry["sha256"] == hashlib.sha256(content).hexdigest(), name
    absent = {a["name"]: a["why"] for a in manifest(folder)["absent"]}
    assert not set(absent) & set(listed)
    assert all(absent.values())


def test_manifest_says_what_was_left_out(out):
    options = ["--no-log", "--env", "none"]
    assert run(command(out, "true", options=options)).returncode == 0
    absent = {a["name"]: a["why"] for a in manifest(bundle(out))["absent"]}
    assert absent["command.log"] == "--no-log"
    assert absent["env.txt"] == "--env none"


def test_runs_of_one_second_get_folders_of_their_own(out):
    running = [
        subprocess.Popen(command(out, "true", options=["--format", "none"])) for _ in range(4)
    ]
    assert [p.wait(harness.DEADLINE) for p in running] == [0] * 4
    names = sorted(p.name for p in out.iterdir())
    assert len(names) == 4
    assert all(re.fullmatch(r"\d{8}T\d{6}Z(-\d+)?", n) for n in names)
    assert all((out / n / "manifest.json").exists() for n in names)


# ---- refusals: 125, the command not run, nothing made -------------------------------


def refused(words, proof, **kw):
    done = run(words, **kw)
    assert done.returncode == 125
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(b"stacksample: ")
    assert not proof.exists(), "the command was run"
    return done.stderr.decode()


def test_stamp_that_exists(out, tmp_path):
    (out / "mine").mkdir(parents=True)
    (out / "mine" / "keep").write_text("kept")
    proof = tmp_path / "proof"
    said = refused(command(out, "touch", str(proof), options=["--stamp", "mine"]), proof)
    assert "exists" in said and "--stamp" in said
    assert [p.name for p in out.iterdir()] == ["mine"]
    assert [p.name for p in (out / "mine").iterdir()] == ["keep"]


@pytest.mark.parametrize("stamp", ["a/b", "..", ".", "", "a b", "ä", "a\n"])
def test_stamp_of_other_characters(out, tmp_path, stamp):
    proof = tmp_path / "proof"
    refused(command(out, "touch", str(proof), options=["--stamp", stamp]), proof)
    assert not out.exists()


def test_stamp_is_the_name(out):
    assert run(command(out, "true", options=["--stamp", "a.B_c-1"])).returncode == 0
    assert bundle(out).name == "a.B_c-1"


def test_output_below_a_file(tmp_path):
    (tmp_path / "file").write_text("kept")
    proof = tmp_path / "proof"
    refused(command(tmp_path / "file" / "out", "touch", str(proof)), proof)
    assert (tmp_path / "file").read_text() == "kept"


@ROOT_ONLY
def test_output_not_writable(tmp_path_factory):
    folder = tmp_path_factory.mktemp("locked")
    for parent in folder.parents:
        if str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    folder.chmod(0o755)
    binary = folder / "stacksample"
    shutil.copy(STACKSAMPLE, binary)
    (folder / "out").mkdir(mode=0o755)
    proof = folder / "proof"
    words = [*NOBODY, str(binary), *command(folder / "out", "touch", str(proof))[1:]]
    refused(words, proof, cwd="/")
    assert list((folder / "out").iterdir()) == []


# ---- links ----------------------------------------------------------------------------


def test_output_folder_may_be_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert run(command(tmp_path / "link", "true")).returncode == 0
    assert (bundle(tmp_path / "real") / "summary.md").exists()


def test_link_under_the_stamps_name(out, tmp_path):
    out.mkdir()
    victim = tmp_path / "victim"
    victim.mkdir()
    (out / "s").symlink_to(victim)
    proof = tmp_path / "proof"
    refused(command(out, "touch", str(proof), options=["--stamp", "s"]), proof)
    assert list(victim.iterdir()) == []


OUTPUTS = ["exit_code.txt", "time.txt", "summary.md", "summary.json", "tests.tsv",
           "stacks.folded", "profiler.json", "torch_env.txt", "manifest.json"]


def test_links_planted_while_it_runs(out, tmp_path):
    """They are replaced by our files; what they point to is never written."""
    victim = tmp_path / "victim"
    victim.write_text("kept")
    script = f"cd {out}/s && for f in {' '.join(OUTPUTS)}; do ln -s {victim} $f; done"
    assert run(command(out, "sh", "-c", script, options=["--stamp", "s"])).returncode == 0
    assert victim.read_text() == "kept"
    for name in OUTPUTS:
        assert stat.S_ISREG((out / "s" / name).lstat().st_mode), name


def test_fifo_and_folder_planted_while_it_runs(out):
    """They are not ours to remove; the rest is written and the status kept."""
    script = f"cd {out}/s && mkfifo summary.md && mkdir tests.tsv; exit 6"
    assert run(command(out, "sh", "-c", script, options=["--stamp", "s"])).returncode == 6
    absent = {a["name"] for a in manifest(out / "s")["absent"]}
    assert {"summary.md", "tests.tsv"} <= absent
    assert (out / "s" / "summary.json").exists()


def test_folder_swapped_while_it_runs(out, tmp_path):
    """What we hold is the folder, not its name."""
    victim = tmp_path / "victim"
    victim.mkdir()
    script = f"mv {out}/s {out}/moved && ln -s {victim} {out}/s"
    assert run(command(out, "sh", "-c", script, options=["--stamp", "s"])).returncode == 0
    assert list(victim.iterdir()) == []
    assert (out / "moved" / "manifest.json").exists()


# ---- a full disk -------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    done = run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)])
    if done.returncode != 0:
        pytest.skip("mounting is not allowed here")
    yield folder
    run(["umount", "-l", str(folder)])


@ROOT_ONLY
def test_full_disk_leaves_a_summary_and_the_status(small_disk):
    fill = f"dd if=/dev/zero of={small_disk}/fill bs=4096 2>/dev/null; echo full; exit 7"
    done = run(command(small_disk / "out", "sh", "-c", fill))
    assert (done.returncode, done.stdout) == (7, b"full\n")
    folder = bundle(small_disk / "out")
    assert (folder / "exit_code.txt").read_text() == "7\n"
    assert first_line(folder).startswith("# ")
    assert (folder / "summary.json").exists()
    assert not list(folder.glob(".tmp-*"))


# ---- facts --------------------------------------------------------------------------------


def labels(text):
    return [line.rsplit(": ", 1)[0] for line in text.splitlines()]


@pytest.mark.skipif(not os.access("/usr/bin/time", os.X_OK), reason="no GNU time")
@pytest.mark.parametrize("script", ["exit 0", "exit 3", "kill -9 $$"])
def test_time_txt_is_gnu_times(out, tmp_path, script):
    theirs = tmp_path / "theirs"
    run(["/usr/bin/time", "-v", "-o", str(theirs), "sh", "-c", script])
    run(command(out, "sh", "-c", script))
    ours = (bundle(out) / "time.txt").read_text()
    assert labels(ours) == labels(theirs.read_text())
    same = ("Command", "\tCommand", "\tPage size", "\tExit status")
    pick = lambda text: [line for line in text.splitlines() if line.startswith(same)]
    assert pick(ours) == pick(theirs.read_text())


@pytest.mark.parametrize("code", [0, 1, 5, 124])
def test_exit_code_txt(out, code):
    assert run(command(out, "sh", "-c", f"exit {code}")).returncode == code
    folder = bundle(out)
    assert (folder / "exit_code.txt").read_text() == f"{code}\n"
    ended = summary(folder)["exit"]
    assert (ended["code"], ended["command_code"], ended["signal"]) == (code, code, None)
    assert first_line(folder).startswith("# Passed after " if code == 0 else "# Failed after ")


def test_a_signal_in_the_summary(out):
    assert run(command(out, "sh", "-c", "kill -9 $$")).returncode == 137
    folder = bundle(out)
    assert (folder / "exit_code.txt").read_text() == "137\n"
    ended = summary(folder)["exit"]
    assert (ended["command_code"], ended["signal"], ended["ended_by"]) == (None, 9, "signal")
    assert first_line(folder).startswith("# Blocked: ended by signal 9 (SIGKILL)")


def test_command_not_found(out):
    assert run(command(out, "/no/such/command")).returncode == 127
    assert first_line(bundle(out)).startswith("# Blocked: ")


WORDS = ["a b", "c'd", "e\nf", "*", "", "$HOME", "\\", 'q"q', "~", "ünï", "=x", "-n", "#c"]


def test_commands_txt_pasted_runs_the_same(out, tmp_path):
    """With what env and a shell's assignment set, and words of every kind."""
    show = 'printf "[%s]" "$SETTING" "$OTHER" "$PWD" "$@"'
    inner = ["timeout", "60", *command(out, "sh", "-c", show, "sh", *WORDS)]
    outer = ["env", "SETTING=two words", "OTHER=it's", *inner]
    first = run(outer, cwd=tmp_path)
    assert first.returncode == 0 and b"[two words][it's]" in first.stdout
    pasted = (bundle(out) / "commands.txt").read_text()
    shutil.rmtree(out)
    again = run(["bash"], input=pasted.encode(), stdin=None, cwd="/")
    assert (again.returncode, again.stdout) == (0, first.stdout), again.stderr
    assert "\ntimeout 60 " in pasted or " timeout 60 " in pasted
    assert "SETTING='two words'" in pasted or "'SETTING=two words'" in pasted


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_git_commit_is_read_and_git_never_run(out, tmp_path):
    repo = tmp_path / "repo"
    (repo / "below").mkdir(parents=True)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x", "-C", str(repo)]
    run([*git, "init", "-q", "-b", "topic/a"])
    run([*git, "commit", "-q", "--allow-empty", "-m", "x"])
    commit = run([*git, "rev-parse", "HEAD"]).stdout.decode().strip()
    run([*git, "pack-refs", "--all"])
    proof = tmp_path / "proof"
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\ntouch {proof}\n")
    fake.chmod(0o755)
    env = dict(os.environ, PATH=f"{fake.parent}:{os.environ['PATH']}")
    assert run(command(out, "true"), cwd=repo / "below", env=env).returncode == 0
    assert f"git commit: {commit} (topic/a)" in (bundle(out) / "commands.txt").read_text()
    assert not proof.exists()


def test_limits_that_are_known(out):
    env = dict(os.environ, PYTEST_ADDOPTS="--timeout=1200 --durations=0",
               CUDA_VISIBLE_DEVICES="-1")
    words = ["timeout", "-k", "5", "50m", *command(out, "python3", "-m", "pytest", "--version")]
    run(words, env=env)
    found = {(x["source"].split(",")[0], x["s"]) for x in summary(bundle(out))["exit"]["limits"]
             if "s" in x}
    assert {("timeout(1)", 3000), ("pytest-timeout", 1200)} <= found
    text = (bundle(out) / "summary.md").read_text()
    assert "CUDA_VISIBLE_DEVICES=-1" in text
    assert "--durations=0" in text
    assert "NANOBRAGG_DISABLE_COMPILE not set" in text


def test_timeout1_is_named(out):
    words = ["timeout", "0.7", *command(out, "sleep", "30")]
    assert run(words).returncode == 124
    folder = harness.eventually(lambda: out.exists() and bundle(out), "the bundle")
    harness.eventually((folder / "manifest.json").exists, "the manifest")
    assert summary(folder)["exit"]["ended_by"] == "timeout1"
    assert "timeout(1)" in first_line(folder)


def test_torch_env_after_a_signal_is_not_run(out):
    run(command(out, "python3", "-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"))
    text = (bundle(out) / "torch_env.txt").read_text()
    assert text == "not run: not after a terminating signal\n"


def test_torch_env_of_the_commands_interpreter(out):
    """It asks the interpreter that ran, and leaves nothing in its folder."""
    ready = "import sys, select; print('up', flush=True); select.select([], [], [], 5)"
    done = run(command(out, "/usr/bin/python3", "-c", ready), timeout=120)
    assert done.stdout == b"up\n"
    text = (bundle(out) / "torch_env.txt").read_text()
    assert "PyTorch version" in text or "collect_env failed" in text
    listed = {f["name"] for f in manifest(bundle(out))["files"]}
    assert "torch_env.txt" in listed


# ---- after kill -9 ---------------------------------------------------------------------------


def test_report_after_a_kill(out, process):
    p = process(command(out, "sh", "-c", "echo ready; exec sleep 5"))
    p.until(b"ready\n")
    folder = harness.eventually(lambda: out.exists() and bundle(out), "the bundle")
    harness.eventually((folder / "commands.txt").exists, "the first facts")
    harness.eventually(lambda: (folder / "profile.db").stat().st_size, "rows")
    os.kill(p.pid, signal.SIGKILL)
    p.wait()
    assert not (folder / "manifest.json").exists()
    done = run([STACKSAMPLE, "report", "--format", "folded", str(folder)])
    assert done.returncode in (0, 1), done.stderr
    assert first_line(folder).startswith("# Blocked: ")
    assert summary(folder)["finished"] is False
