"""What the end-to-end tests share: running the binary with a deadline, a real
terminal around it, looking at processes. Nothing here sleeps to wait for an
event: `eventually` asks until a deadline that only a failure reaches."""

import contextlib
import errno
import fcntl
import os
import pathlib
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("BUILD", "build")
STACKSAMPLE = os.environ.get("STACKSAMPLE", str(BUILD / "stacksample"))
TARGETS = pathlib.Path(os.environ.get("SS_TARGETS", BUILD / "targets"))
FIXTURE = os.environ.get("SS_FIXTURE", str(BUILD / "write_fixture"))  # writes a made-up profile.db
PYTHON = os.environ.get("PYTHON", sys.executable)  # has torch and pytest
DENY_PERF = os.environ.get("SS_DENY_PERF", "")  # see tests/e2e/conftest.py
ENGINE = "ptrace" if DENY_PERF else "perf"
DEADLINE = 60.0
PERF_LOCK = "/tmp/stacksample-perf.lock"


def target(name):
    """Path of a program of tests/targets."""
    return str(TARGETS / name)


def command(out, *words, options=()):
    """The words of `stacksample run -o OUT -q OPTIONS -- WORDS`."""
    return [STACKSAMPLE, "run", "-o", str(out), "-q", *options, "--", *words]


def environment():
    """Ours without what the pytest that runs us has set: its current test would
    be that of every process below."""
    return {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}


def run(words, **kw):
    """subprocess.run with captured output, a deadline, and no inherited stdin."""
    kw.setdefault("env", environment())
    kw.setdefault("stdin", subprocess.DEVNULL)
    kw.setdefault("stdout", subprocess.PIPE)
    kw.setdefault("stderr", subprocess.PIPE)
    kw.setdefault("timeout", DEADLINE)
    return subprocess.run(words, check=False, **kw)


def eventually(condition, what):
    """Asks until `condition` gives something true, and returns that."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        select.select([], [], [], 0.005)
    raise AssertionError(f"never happened: {what}")


def bundle(out):
    """The only bundle in the folder of `-o`."""
    (found,) = [p for p in pathlib.Path(out).iterdir() if p.is_dir()]
    return found


def log(out):
    """What the bundle kept of the command's output."""
    return (bundle(out) / "command.log").read_bytes()


def state(pid):
    """The state letter of a process, or None when it is gone."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return text.rsplit(")", 1)[1].split()[0]


def ended(pid):
    return state(pid) in (None, "Z", "X")


@contextlib.contextmanager
def perf_lock():
    """Only one test on the machine has perf rings at a time."""
    if DENY_PERF:
        yield
        return
    fd = os.open(PERF_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


class Reader:
    """Text that arrives on a descriptor, waited for with a deadline."""

    def __init__(self, fd):
        self.fd = fd
        self.text = b""

    def more(self, end):
        """Reads what comes; False at the end of the stream."""
        ready, _, _ = select.select([self.fd], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            raise AssertionError(f"nothing more came after {self.text[-2000:]!r}")
        try:
            got = os.read(self.fd, 65536)
        except OSError as e:
            if e.errno != errno.EIO:  # a terminal without users
                raise
            got = b""
        self.text += got
        return got != b""

    def until(self, word, start=0):
        """Waits for `word` after offset `start`; the offset behind it."""
        end = time.monotonic() + DEADLINE
        while (at := self.text.find(word, start)) < 0:
            if not self.more(end):
                raise AssertionError(f"ended before {word!r}: {self.text[-2000:]!r}")
        return at + len(word)

    def line(self, word):
        """The rest of the first whole line that starts with `word`, as words."""
        at = self.until(word)
        end = self.until(b"\n", at)
        return self.text[at:end].split()

    def rest(self):
        end = time.monotonic() + DEADLINE
        while self.more(end):
            pass
        return self.text


class Process(Reader):
    """A process of a new group whose output is read as it comes."""

    def __init__(self, words, **kw):
        kw.setdefault("stdin", subprocess.PIPE)
        kw.setdefault("env", environment())
        kw.setdefault("process_group", True)
        group = kw.pop("process_group")
        if group:
            kw["preexec_fn"] = os.setpgrp
        self.popen = subprocess.Popen(words, stdout=subprocess.PIPE, **kw)
        self.pid = self.popen.pid
        super().__init__(self.popen.stdout.fileno())

    def kill(self, signo, group=False):
        os.kill(-self.pid if group else self.pid, signo)

    def send(self, text):
        os.write(self.popen.stdin.fileno(), text)

    def wait(self):
        return self.popen.wait(DEADLINE)

    def close(self):
        if self.popen.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-self.pid, signal.SIGKILL)
            self.popen.kill()
            self.popen.wait()
        for stream in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if stream is not None:
                stream.close()


class Terminal(Reader):
    """A session of its own on a real terminal, as its controlling one."""

    def __init__(self, words, rows=24, cols=80, env=None):
        self.pid, master = pty.fork()
        if self.pid == 0:
            os.environ.update(env or {})
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
            try:
                os.execvp(words[0], [str(w) for w in words])
            finally:
                os._exit(127)
        self.status = None
        super().__init__(master)

    def send(self, text):
        os.write(self.fd, text)

    def resize(self, rows, cols):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def wait(self):
        """The exit status, as a shell has it; reads on, so that nobody blocks."""

        def reaped():
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            while select.select([self.fd], [], [], 0)[0]:
                if not self.more(time.monotonic() + DEADLINE):
                    break
            if pid != 0:
                self.status = os.waitstatus_to_exitcode(status)
            return pid != 0

        if self.status is None:
            eventually(reaped, "the terminal's program ends")
        return self.status if self.status >= 0 else 128 - self.status

    def close(self):
        """Ends all that is left of the session: a failed test leaves jobs."""
        left = subprocess.run(["pgrep", "-s", str(self.pid)], capture_output=True, check=False)
        for pid in left.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        if self.status is None:
            os.waitpid(self.pid, 0)
        os.close(self.fd)
