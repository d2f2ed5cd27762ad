"""R12: a program without Python, one that embeds it, one that maps its own binary
again as data."""

import shutil
import subprocess

import pytest

import harness
from faults import PYTHON, dump, native_names, python_names
from harness import eventually, target

AGAIN = """
import mmap, sys, threading
with open("/proc/self/exe", "rb") as exe:
    again = mmap.mmap(exe.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)
print("READY", flush=True)
def waits():
    threading.Event().wait()
waits()
"""
EMBEDS = r"""
#include <Python.h>
int main(void)
{
  Py_Initialize();
  return PyRun_SimpleString("def waits():\n  import threading\n"
                            "  print('READY', flush=True)\n"
                            "  threading.Event().wait()\nwaits()\n");
}
"""


def test_no_python(process):
    plain = process([target("unharmed")])
    plain.until(b"READY")
    look = dump(plain.pid)
    assert "main" in native_names(look["threads"][0])
    assert all(python_names(t) == [] for t in look["threads"])
    assert "python" not in look["processes"][0]


def waits(pid):
    (main,) = dump(pid)["threads"]
    return main if "waits" in python_names(main) and main["complete"] else None


def test_own_binary_mapped_again(process):
    twice = process([PYTHON, "-c", AGAIN])
    twice.until(b"READY")
    assert eventually(lambda: waits(twice.pid), "its stack")["verified"]


def test_embedded(process, tmp_path):
    config = shutil.which("python3.11-config") or shutil.which("python3-config")
    if config is None:
        pytest.skip("no python3-config: install python3-dev")
    flags = subprocess.run(
        [config, "--includes", "--ldflags", "--embed"], capture_output=True, check=True
    ).stdout.decode().split()
    source, program = tmp_path / "embeds.c", tmp_path / "embeds"
    source.write_text(EMBEDS)
    assert harness.run(["cc", "-o", str(program), str(source), *flags]).returncode == 0
    embeds = process([str(program)])
    embeds.until(b"READY")
    main = eventually(lambda: waits(embeds.pid), "its stack")
    assert main["verified"] and "main" in native_names(main)
