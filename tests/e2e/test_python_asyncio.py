"""asyncio in a dump: the name of the running task, and who waits for it."""

import json
import subprocess

import pytest

import harness

ASYNC = harness.ROOT / "tests/targets/py_async.py"
PYTHONS = [p for p in subprocess.run(
    [str(harness.ROOT / "scripts/pythons")], check=True, text=True,
    stdout=subprocess.PIPE).stdout.split() if "!" not in p]
CHAIN = ["spin_chain", "read", "[task: reader]", "fetch", "serve", "[task: server]",
         "accept", "main", "[task: Task-1]"]


def newest():
    """The newest interpreter here, if it has await chains."""
    code = "import sys; print(sys.version_info >= (3, 12))"
    for python in reversed(PYTHONS):
        if b"True" in harness.run([python, "-c", code]).stdout:
            return python
    pytest.skip("no Python 3.12 or later (scripts/pythons)")


def test_dump_names_tasks(process):
    target = process([newest(), str(ASYNC), "1000"])

    def frames():
        done = harness.run([harness.STACKSAMPLE, "dump", "--json", str(target.pid)])
        if done.returncode != 0:
            return []
        found = json.loads(done.stdout)["threads"][0].get("frames", [])
        return [f for f in found if f["kind"] != "native"]

    harness.eventually(lambda: "spin_chain" in [f["name"] for f in frames()],
                       "the chain runs")
    found = frames()
    names = [f["name"] for f in found]
    names = names[names.index("spin_chain"):]
    assert names[:len(CHAIN) + 1] == [*CHAIN, "Handle._run"]
    assert [f["kind"] for f in found if f["name"].startswith("[")] == ["task"] * 3
    text = harness.run([harness.STACKSAMPLE, "dump", str(target.pid)]).stdout.decode()
    assert "\n  [task: reader]\n" in text
