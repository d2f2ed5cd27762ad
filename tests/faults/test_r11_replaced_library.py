"""R11: a library that was replaced on disk while it is mapped is never read for the
symbols of the one that runs."""

import os

import pytest

import harness
from faults import PYTHON, dump, native_names
from harness import eventually

SPIN = """
volatile int go = 1;
void {name}(void) {{ while (go) ; }}
"""
LOAD = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
print("READY", flush=True)
library.spins_in_the_old()
"""


def build(folder, name):
    source = folder / f"{name}.c"
    source.write_text(SPIN.format(name=name))
    made = folder / f"{name}.so"
    words = ["cc", "-shared", "-fPIC", "-O1", "-o", str(made), str(source)]
    assert harness.run(words).returncode == 0
    return made


@pytest.mark.skipif(os.geteuid() != 0, reason="the deleted file is read as root only")
@pytest.mark.parametrize("how", ["replaced", "deleted"])
def test_symbols_of_what_runs(process, tmp_path, how):
    old, new = build(tmp_path, "spins_in_the_old"), build(tmp_path, "comes_from_the_new")
    target = process([PYTHON, "-c", LOAD, str(old)])
    target.until(b"READY")
    if how == "replaced":
        os.replace(new, old)
    else:
        os.unlink(old)

    def spins():
        names = native_names(dump(target.pid)["threads"][0])
        assert "comes_from_the_new" not in names
        return "spins_in_the_old" in names

    eventually(spins, "the old library's function")
