"""R14: ten thousand idle threads: looked at, folded; an attach that has not enough
descriptors for all of them says so and goes on."""

import json
import resource

from faults import STACKSAMPLE, dump, summary
from harness import bundle, eventually, run, target


def start(process, count):
    idle = process([target("idle_threads"), str(count)])
    assert idle.line(b"READY") == [str(count).encode()]
    return idle


def test_dump(process):
    idle = start(process, 10000)

    def all_wait():
        look = dump(idle.pid, want=(0, 1))
        assert len(look["threads"]) + look["unvisited"] == 10001
        return look if all(t["complete"] for t in look["threads"]) else None

    assert eventually(all_wait, "all of them wait")["stops"] == 0


def test_attach_with_few_descriptors(process, out):
    idle = start(process, 1000)
    words = [STACKSAMPLE, "attach", "-o", str(out), "--duration", "0.1s", str(idle.pid)]
    few = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))  # noqa: E731
    done = run(words, preexec_fn=few)
    assert done.returncode in (0, 1, 2), done.stderr
    if done.returncode == 2:
        assert len(done.stderr.splitlines()) == 1
        return
    manifest = json.loads((bundle(out) / "manifest.json").read_text())
    if manifest["engine"]["name"] == "ptrace":  # needs none for each thread
        assert len(summary(out)["threads"]) == 1001
        return
    assert "not sampled" in json.dumps(manifest) or "not sampled" in done.stderr.decode()
