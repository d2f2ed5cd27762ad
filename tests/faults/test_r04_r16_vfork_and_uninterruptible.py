"""R04, R16: the parent of a vfork child is in the kernel, not to be stopped: it is
told as uninterruptible, nobody waits for it, and both go on afterwards."""

from faults import dump
from harness import eventually, state, target


def test_vfork_parent_and_child(process):
    parent = process([target("vfork_waits")])
    parent.until(b"READY")
    eventually(lambda: state(parent.pid) == "D", "the parent waits for its child")

    def both():
        look = dump(parent.pid)
        return look if len(look["threads"]) == 2 else None

    look = eventually(both, "both are there")
    waits, child = look["threads"]
    assert waits["pid"] == parent.pid and waits["uninterruptible"] is True
    assert child["state"] == "io"
    assert look["stops"] == 0
    parent.send(b"x")
    assert parent.wait() == 6
