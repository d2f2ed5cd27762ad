"""R28: we crash or are killed for memory: the command goes on and keeps its status;
what is left of the bundle says that it is incomplete."""

import os
import resource
import signal

from faults import PYTHON, STACKSAMPLE, STUCK, bundle, command, untraced
from harness import eventually, run, state


def test_killed_for_memory(out, process, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    script = f'echo $$; read line < {fifo}; echo $line > {tmp_path}/end'
    ours = process(command(out, "sh", "-c", script), stderr=-3)
    child = int(ours.line(b"")[0])
    ours.kill(signal.SIGKILL)
    assert ours.wait() == -signal.SIGKILL
    fifo.write_text("went on\n")
    eventually(lambda: not os.path.exists(f"/proc/{child}"), "the command ends")
    assert (tmp_path / "end").read_text() == "went on\n"
    folder = bundle(out)
    assert not (folder / "manifest.json").exists()
    made = run([STACKSAMPLE, "report", "--format", "folded", str(folder)])
    assert made.returncode in (0, 1), made.stderr


def test_crashed(out, process):
    busy = process([PYTHON, STUCK, "busy"])
    busy.until(b"READY")
    words = [STACKSAMPLE, "attach", "-o", str(out), str(busy.pid)]
    no_core = lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # noqa: E731
    ours = process(words, stderr=-2, preexec_fn=no_core, process_group=False)
    ours.until(b"writing ")
    ours.kill(signal.SIGSEGV)
    assert ours.wait() in (-signal.SIGSEGV, 1), "a sanitizer turns it into 1"
    assert state(busy.pid) == "R" and untraced(busy.pid)
    assert not (bundle(out) / "manifest.json").exists()
