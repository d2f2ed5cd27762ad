"""dump: what it says of stuck and busy processes, against their own account."""

import collections
import contextlib
import json
import os
import re
import shutil
import signal
import sys

import pytest

import harness
from harness import STACKSAMPLE, eventually, run, state

STUCK = str(harness.ROOT / "tests" / "targets" / "py_stuck.py")
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


@pytest.fixture(autouse=True)
def _one_at_a_time():
    """A dump opens no rings: nobody needs to be waited for."""


def clean_environment():
    """Without the test that pytest says is running here."""
    return {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}


class Stuck:
    """py_stuck.py in one of its modes, past its READY line."""

    def __init__(self, process, tmp_path, mode, words=(sys.executable, STUCK)):
        self.account = tmp_path / "account"
        with self.account.open("wb") as err:
            self.process = process(
                [*words, mode], stderr=err, env=clean_environment()
            )
        self.said = [int(w) if w.isdigit() else w.decode()
                     for w in self.process.line(b"READY")]
        self.pid = self.process.pid

    def gives(self, stacks, pid=None):
        """Whether the process's own account of all its threads comes to be this."""
        before = self.account.stat().st_size
        os.kill(pid or self.pid, signal.SIGUSR1)
        frame = re.compile(r'File "(.*)", line (\d+) in (.*)')
        own = None

        def the_same():
            nonlocal own
            text = self.account.read_bytes()[before:].decode()
            threads = re.split(r"^(?:Current thread|Thread) .*\n", text, flags=re.M)[1:]
            own = collections.Counter(tuple(frame.findall(t)) for t in threads)
            return own == stacks

        with contextlib.suppress(AssertionError):
            eventually(the_same, "the account")
        assert own == stacks
        return True


def dump(pid, *options, want=0):
    done = run([STACKSAMPLE, "dump", *options, str(pid)])
    assert done.returncode == want, done.stderr
    return done.stdout.decode()


def dump_json(pid, *options):
    return json.loads(dump(pid, "--json", "--quick", *options))


def python_stack(thread):
    return tuple(
        (f["file"], str(f["line"]), f["name"].split(".")[-1])
        for f in thread["frames"]
        if f["kind"] == "python"
    )


def python_stacks(look, pid):
    """Python stacks of a process, in the form of Stuck.stacks."""
    of = [t for t in look["threads"] if t["pid"] == pid]
    return collections.Counter(s for s in map(python_stack, of) if s)


def native(thread):
    return [f.get("name") or f["library"] for f in thread["frames"] if f["kind"] == "native"]


def until(pid, condition, what):
    """The first look in which the condition on its threads holds."""

    def looked():
        look = dump_json(pid)
        return look if condition(look["threads"]) else None

    return eventually(looked, what)


def all_wait(threads):
    return all(t["state"] in ("lock", "wait", "child") for t in threads)


# ---- what stuck processes are told to be ---------------------------------------------


def test_two_threads_that_want_each_others_locks(process, tmp_path):
    stuck = Stuck(process, tmp_path, "deadlock")
    look = until(stuck.pid, lambda ts: [t["state"] for t in ts] == ["lock"] * 2, "locks")
    assert stuck.gives(python_stacks(look, stuck.pid))
    main, loader = look["threads"]
    assert (main["tid"], main["name"], main["role"]) == (stuck.pid, "MainThread", "main")
    assert loader["name"] == "loader"
    for t in (main, loader):
        assert t["complete"] and t["verified"]
        assert t["syscall"]["name"] == "futex"
        assert t["syscall"]["object"] == t["wait"]["futex"] + ", WAIT"
        assert "PyThread_acquire_lock_timed" in native(t)
        assert native(t)[-1] in ("_start", "__GI___clone3", "clone3", "clone")
    assert main["wait"]["futex"] != loader["wait"]["futex"]

    text = dump(stuck.pid, "--quick")
    assert re.search(rf"^process {stuck.pid}  .*py_stuck.py deadlock  up .*  2 threads", text)
    assert re.search(rf"^thread {stuck.pid} MainThread  lock .* cpu .* s  futex\(0x", text, re.M)
    assert re.search(r"^  python  deadlock \(.*py_stuck.py:\d+\) +with lock_a:$", text, re.M)
    assert re.search(r"^thread \d+ loader  lock ", text, re.M)
    assert re.search(r"^  python  deadlock.<locals>.loader .* +with lock_b:$", text, re.M)
    assert text.rstrip().endswith("looked once, stopped no thread; complete 2 of 2 stacks")


def test_native_loop_that_keeps_the_interpreter_lock(process, tmp_path):
    stuck = Stuck(process, tmp_path, "gil")
    look = until(stuck.pid, lambda ts: [t["state"] for t in ts] == ["user", "gil"],
                 "a loop and a starved thread")
    main, starved = look["threads"]
    assert main["stopped_ms"] >= 0
    assert python_stack(main)[0][2] == "gil"
    assert starved["wait"]["gil_holder"] == stuck.pid
    assert starved["name"] == "starved"
    assert stuck.gives(python_stacks(look, stuck.pid))
    assert f"starved  gil (held by {stuck.pid})" in dump(stuck.pid, "--quick")


def test_native_loop_outside_the_interpreter_lock(process, tmp_path):
    stuck = Stuck(process, tmp_path, "hashing")
    look = until(
        stuck.pid, lambda ts: "PKCS5_PBKDF2_HMAC" in native(ts[0]), "the hash's loop"
    )
    (main,) = look["threads"]
    assert main["state"] == "user" and main["complete"] and main["verified"]
    assert stuck.gives(python_stacks(look, stuck.pid))


def test_child_forked_after_openmp_started(process, tmp_path):
    stuck = Stuck(process, tmp_path, "openmp")
    (child,) = stuck.said

    def barrier(threads):
        mine = [t for t in threads if t["pid"] == child]
        return len(mine) == 1 and mine[0]["state"] == "wait" and all_wait(threads)

    look = until(stuck.pid, barrier, "the child waits for threads that are not there")
    assert [p["pid"] for p in look["processes"]] == [stuck.pid, child]
    (waits,) = [t for t in look["threads"] if t["pid"] == child]
    assert waits["frames"][0]["library"].startswith("libgomp")
    assert waits["complete"], waits["why"]
    assert "at::_ops::add_Tensor::call" in native(waits)
    assert stuck.gives(python_stacks(look, child), child)
    parent = look["threads"][0]
    assert parent["state"] == "child"
    assert parent["syscall"] == {"name": "wait4", "object": f"pid {child}"}
    only = dump_json(stuck.pid, "--no-children")
    assert {t["pid"] for t in only["threads"]} == {stuck.pid}


def test_stopped_process_is_read_and_stays_stopped(process, tmp_path):
    stuck = Stuck(process, tmp_path, "deadlock")
    before = until(stuck.pid, lambda ts: [t["state"] for t in ts] == ["lock"] * 2, "locks")
    own = python_stacks(before, stuck.pid)
    assert stuck.gives(own)
    os.kill(stuck.pid, signal.SIGSTOP)
    look = until(stuck.pid, lambda ts: ts[0]["state"] == "stopped", "it is stopped")
    assert [t["state"] for t in look["threads"]] == ["stopped"] * 2
    assert python_stacks(look, stuck.pid) == own
    assert look["stops"] == 0
    assert state(stuck.pid) == "T"
    os.kill(stuck.pid, signal.SIGCONT)
    eventually(lambda: state(stuck.pid) == "S", "it goes on when told to")


def test_running_process_that_was_stopped(process, tmp_path):
    stuck = Stuck(process, tmp_path, "busy")
    os.kill(stuck.pid, signal.SIGSTOP)
    eventually(lambda: state(stuck.pid) == "T", "it is stopped")
    look = dump_json(stuck.pid)
    (main,) = look["threads"]
    assert main["state"] == "stopped"
    assert state(stuck.pid) == "T"


def test_waiting_in_a_function_of_atexit(process, tmp_path):
    stuck = Stuck(process, tmp_path, "at_exit")
    look = until(stuck.pid, all_wait, "it waits")
    (main,) = look["threads"]
    assert "last_words" in [name for _, _, name in python_stack(main)]
    assert "Py_FinalizeEx" in native(main)
    assert stuck.gives(python_stacks(look, stuck.pid))


def test_200_equal_threads_are_one_entry(process, tmp_path):
    stuck = Stuck(process, tmp_path, "many")

    def all_at_one_place(threads):  # past the barrier, whose lock they take in turn
        members = [t for t in threads if t["name"].startswith("member-")]
        return (len(members) == 200 and all(t["state"] == "lock" for t in members)
                and len({python_stack(t) for t in members}) == 1)

    look = until(stuck.pid, all_at_one_place, "all members wait")
    assert look["stops"] == 0 and look["unvisited"] == 0
    assert all(t["complete"] for t in look["threads"])
    text = dump(stuck.pid, "--quick")
    assert len(re.findall(r"^thread \d+\.\.\d+ member-\* x 200  lock ", text, re.M)) == 1
    assert text.count("many.<locals>.member (") == 1
    assert len(text.splitlines()) < 100


def test_running_python_is_stopped_once_for_a_moment(process, tmp_path):
    stuck = Stuck(process, tmp_path, "busy")
    look = until(stuck.pid, lambda ts: len(ts[0]["frames"]) > 0, "a stack")
    (main,) = look["threads"]
    assert look["stops"] == 1 and main["state"] == "user"
    assert [n for _, _, n in python_stack(main)][-2:] == ["busy", "<module>"]
    assert main["complete"] and main["verified"]
    assert state(stuck.pid) == "R"
    text = dump(stuck.pid, "--quick")
    assert re.search(r"looked once, stopped 1 thread \(.* ms in all", text)
    unseen = dump_json(stuck.pid, "--never-stop")
    assert unseen["stops"] == 0 and unseen["threads"][0]["frames"] == []


def test_stack_pointer_that_points_to_a_buffer(process):
    """The thread's own stack is copied while it is stopped: its callers are others by
    the time that they are looked up."""
    paths = [
        ["elsewhere_kernel", "even_inner", "even_outer", "work"],
        ["elsewhere_kernel", "odd_inner", "odd_middle", "odd_outer", "work"],
    ]
    target = process([harness.target("elsewhere"), "4"])
    target.line(b"READY")
    inside = 0
    for _ in range(3):
        for thread in dump_json(target.pid)["threads"]:
            assert thread["complete"], thread
            names = native(thread)
            if names[0] == "elsewhere_kernel":
                inside += 1
                assert any(names[: len(path)] == path for path in paths), names
    assert inside >= 6


def test_what_calls_wait_for(process, tmp_path):
    stuck = Stuck(process, tmp_path, "pipes")
    pipe, epoll, fifo = stuck.said

    def all_blocked(threads):
        return sum(t["state"] == "io" for t in threads) == 5

    look = until(stuck.pid, all_blocked, "five threads wait for a pipe")
    calls = {t["name"]: t["syscall"] for t in look["threads"]}
    found = f"{pipe} {os.readlink(f'/proc/{stuck.pid}/fd/{pipe}')}"
    assert calls["read"] == {"name": "read", "object": found}
    assert calls["poll"] == {"name": "poll", "object": found}
    assert calls["select"]["object"] == found
    assert calls["epoll"]["object"] == f"{epoll} anon_inode:[eventpoll]: {found}"
    assert calls["open"] == {"name": "openat", "object": f'"{fifo}"'}


@ROOT_ONLY
def test_another_root_in_another_mount_namespace(process, tmp_path):
    """The script is at a path that exists only there; so is its text."""
    root = tmp_path / "root"
    root.mkdir()
    inside = "/mnt/only_there.py"
    script = (
        f"mount --rbind / {root} && mount -t tmpfs none {root}/mnt &&"
        f" cp {STUCK} {root}{inside} &&"
        f' exec chroot {root} {sys.executable} {inside} "$0"'
    )
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    stuck = Stuck(process, tmp_path, "deadlock", words)
    assert not os.path.exists(inside)
    look = until(stuck.pid, lambda ts: [t["state"] for t in ts] == ["lock"] * 2, "locks")
    assert stuck.gives(python_stacks(look, stuck.pid))
    assert all(t["complete"] and t["verified"] for t in look["threads"])
    assert "PyThread_acquire_lock_timed" in native(look["threads"][0])
    assert re.search(r"only_there.py:\d+\) +with lock_a:", dump(stuck.pid, "--quick"))


# ---- options and the form ------------------------------------------------------------


def test_json_has_the_contracts_keys(process, tmp_path):
    stuck = Stuck(process, tmp_path, "deadlock")
    look = until(stuck.pid, all_wait, "it waits")
    contract = {"schema", "at", "test", "verdict", "threads"}
    assert contract < set(look)
    assert set(look) - contract == {"looks", "processes", "stops", "unvisited", "took_ms"}
    assert look["schema"] == 1 and look["verdict"] is None and look["test"] is None
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", look["at"])
    keys = {"pid", "tid", "name", "role", "state", "for_s", "cpu_s", "syscall", "frames"}
    keys |= {"complete", "verified", "wait"}
    for thread in look["threads"]:
        assert set(thread) == keys
        assert set(thread["syscall"]) == {"name", "object"}
        assert isinstance(thread["for_s"], (int, float)) and thread["for_s"] >= 0
        for f in thread["frames"]:
            known = {"python": {"name", "file", "line", "first_line"}}
            known["native"] = {"library", "offset"}
            assert {"kind"} | known[f["kind"]] <= set(f) <= {"kind", "name"} | known[f["kind"]]


def test_three_looks_unless_quick(process, tmp_path):
    stuck = Stuck(process, tmp_path, "deadlock")
    text = dump(stuck.pid)
    assert re.search(r"^looked 3 times over \d+\.\d s, stopped", text, re.M)
    assert re.search(r"cpu \d+\.\d of \d+ now", text.splitlines()[0])


def test_repeat(process, tmp_path):
    stuck = Stuck(process, tmp_path, "deadlock")
    text = dump(stuck.pid, "--quick", "--repeat", "3", "--interval", "0.01s")
    assert text.count("looked once") == 3
    assert re.findall(r"^dump (\d) of 3, \d{4}-.*Z$", text, re.M) == ["1", "2", "3"]
    decoder, text = json.JSONDecoder(), dump(
        stuck.pid, "--json", "--quick", "--repeat", "2", "--interval", "0.01s"
    )
    first, end = decoder.raw_decode(text)
    second, _ = decoder.raw_decode(text[end:].lstrip())
    assert first["processes"][0]["pid"] == second["processes"][0]["pid"] == stuck.pid


def test_halves_left_out(process, tmp_path):
    stuck = Stuck(process, tmp_path, "deadlock")
    for option, left in (("--no-python", "native"), ("--no-native", "python")):
        look = dump_json(stuck.pid, option)
        assert {f["kind"] for t in look["threads"] for f in t["frames"]} == {left}


def test_pytest_is_named_and_folded(process, tmp_path):
    (tmp_path / "test_hang.py").write_text(
        "import threading\n\ndef test_hang():\n    threading.Event().wait()\n"
    )
    words = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider"]
    pytest_run = process([*words, "test_hang.py"], cwd=tmp_path, env=clean_environment())
    look = until(
        pytest_run.pid,
        lambda ts: "test_hang" in [n for _, _, n in python_stack(ts[0])]
        and ts[0]["state"] == "lock",
        "the test waits",
    )
    named = {"id": "test_hang.py::test_hang", "phase": "call"}
    assert look["test"] == named
    text = dump(pytest_run.pid, "--quick")
    assert "test test_hang.py::test_hang (call)\n" in text
    assert re.search(r"^  \.\.\. \d+ frames of pytest \(--full\)$", text, re.M)
    full = dump(pytest_run.pid, "--quick", "--full")
    assert "frames of pytest" not in full and "pytest_runtest_protocol" in full


# ---- refusals ------------------------------------------------------------------------


def refusal(pid, *words):
    """The one line of a dump that was refused."""
    done = run([*words, STACKSAMPLE, "dump", "--quick", str(pid)])
    assert done.returncode == 2 and done.stdout == b""
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1 and lines[0].startswith("stacksample: "), lines
    return lines[0]


def test_refuses_what_is_gone(process):
    gone = process(["true"])
    gone.wait()
    assert f"no process has PID {gone.pid}" in refusal(gone.pid)


def test_refuses_a_zombie(process):
    ended = process(["true"])
    eventually(lambda: state(ended.pid) == "Z", "it has ended")
    assert f"PID {ended.pid} has ended" in refusal(ended.pid)


def test_refuses_a_kernel_thread():
    if run(["cat", "/proc/2/comm"]).stdout != b"kthreadd\n":
        pytest.skip("no kernel thread to be seen here")
    assert "PID 2 is a kernel thread" in refusal(2)


def test_refuses_a_thread_and_names_its_process(process, tmp_path):
    stuck = Stuck(process, tmp_path, "deadlock")
    (other,) = {int(t) for t in os.listdir(f"/proc/{stuck.pid}/task")} - {stuck.pid}
    assert f"use PID {stuck.pid}" in refusal(other)


def test_refuses_itself():
    done = run(["sh", "-c", f'exec "{STACKSAMPLE}" dump $$'])
    assert done.returncode == 2
    assert re.fullmatch(rb"stacksample: PID \d+ is stacksample itself; .*\n", done.stderr)


@ROOT_ONLY
def test_refuses_what_another_user_may_not_see(process, tmp_path):
    copied = shutil.copy(STACKSAMPLE, "/tmp/stacksample-for-nobody")
    try:
        stuck = Stuck(process, tmp_path, "sleep")
        done = run([*NOBODY, copied, "dump", "--quick", str(stuck.pid)])
        assert done.returncode == 2
        assert done.stderr.decode() == (
            f"stacksample: PID {stuck.pid} belongs to user root; "
            "run as that user or with CAP_SYS_PTRACE\n"
        )
        hidden = Stuck(
            process, tmp_path, "undumpable", [*NOBODY, "/usr/bin/python3", STUCK]
        )
        done = run([*NOBODY, copied, "dump", "--quick", str(hidden.pid)])
        assert done.returncode == 2
        assert b"is protected" in done.stderr and b"run with sudo" in done.stderr
        assert dump_json(hidden.pid)["threads"][0]["pid"] == hidden.pid
    finally:
        os.unlink(copied)


@pytest.mark.parametrize("words", [[], ["x"], ["1", "2"], ["--nope", "1"], ["--repeat", "0", "1"]])
def test_wrong_usage(words):
    done = run([STACKSAMPLE, "dump", *words])
    assert done.returncode == 64 and done.stdout == b""
    assert len(done.stderr.splitlines()) == 1
