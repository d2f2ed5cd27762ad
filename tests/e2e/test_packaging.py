"""What a packager makes: the installed tree, the wheel, the Debian package. Each
is installed for real, runs, and leaves nothing behind when it is removed."""

import json
import os
import pathlib
import re
import shutil
import sys

import pytest

from harness import ROOT, STACKSAMPLE, bundle, perf_lock, run

BUILD = pathlib.Path(STACKSAMPLE).parent
VERSION = re.search(r"^VERSION := (\S+)", (ROOT / "Makefile").read_text(), re.M)[1]
PAGES = sorted(p.name for p in (ROOT / "docs/man").glob("*.1"))
INSTALLED = [
    "bin/stacksample",
    "share/bash-completion/completions/stacksample",
    "share/zsh/site-functions/_stacksample",
    "share/fish/vendor_completions.d/stacksample.fish",
    *(f"share/man/man1/{page}" for page in PAGES),
]
BUILD_DEADLINE = 600
TEST = """
def test_sum():
    assert sum(i * i for i in range(3_000_000)) > 0
"""


@pytest.fixture(autouse=True)
def _one_at_a_time():
    """Building needs no rings; `profiles_a_test` takes the lock itself."""
    yield


def make(*words, **env):
    """make, without building again what is being tested."""
    old = [BUILD / "stacksample", BUILD / "libstacksample.a", BUILD / "src/main.o"]
    keep = [word for path in old for word in ("-o", str(path))]
    done = run(
        ["make", "-s", "-C", str(ROOT), *keep, f"BUILD={BUILD}", *words],
        env={**os.environ, **env},
        timeout=BUILD_DEADLINE,
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:] + done.stdout.decode()[-2000:]
    return done


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


def profiles_a_test(program, python, folder, **env):
    """`stacksample run -- PYTHON -m pytest` leaves a bundle that knows the test."""
    (folder / "test_it.py").write_text(TEST)
    outside = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
    words = [str(program), "run", "-q", "-o", "out", "--format", "folded", "--"]
    with perf_lock():
        done = run(
            [*words, str(python), "-m", "pytest", "-vv", "-p", "no:cacheprovider", "test_it.py"],
            cwd=folder,
            env={**outside, **env},
            timeout=BUILD_DEADLINE,
        )
    assert done.returncode == 0, done
    found = bundle(folder / "out")
    summary = json.loads((found / "summary.json").read_text())
    assert summary["version"] == VERSION
    (call,) = [t for t in summary["tests"] if t["phase"] == "call"]
    assert call["id"].endswith("test_it.py::test_sum")
    if summary["engine"]["name"] == "perf":
        assert "test_sum (test_it.py:2)" in (found / "stacks-by-test.folded").read_text()


# ---- make install -----------------------------------------------------------------


def test_install_and_uninstall(tmp_path):
    make("install", f"DESTDIR={tmp_path}/root", "PREFIX=/opt/tools")
    found = files(tmp_path / "root/opt/tools")
    docs = [f"share/doc/stacksample/{p.name}" for p in (ROOT / "docs").glob("*.md")]
    docs += ["share/doc/stacksample/README.md", "share/doc/stacksample/LICENSE"]
    assert found == sorted([*INSTALLED, *docs])
    assert files(tmp_path / "root") == [f"opt/tools/{name}" for name in found]
    program = tmp_path / "root/opt/tools/bin/stacksample"
    assert program.stat().st_mode & 0o777 == 0o755
    assert run([str(program), "--version"]).stdout.startswith(f"stacksample {VERSION} ".encode())

    make("uninstall", f"DESTDIR={tmp_path}/root", "PREFIX=/opt/tools")
    assert files(tmp_path) == []
    assert list(tmp_path.rglob("*stacksample*")) == []


def test_default_prefix(tmp_path):
    make("install", f"DESTDIR={tmp_path}")
    assert (tmp_path / "usr/local/bin/stacksample").exists()


# ---- the wheel ------------------------------------------------------------------------


def venv(folder):
    """An environment of this interpreter's, with its pytest."""
    words = [sys.executable, "-m", "venv", "--system-site-packages", str(folder)]
    if run([sys.executable, "-c", "import ensurepip"]).returncode != 0:
        pytest.skip("this interpreter has no ensurepip (python3-venv)")
    done = run(words, timeout=BUILD_DEADLINE)
    assert done.returncode == 0, done
    return folder / "bin"


def test_wheel(tmp_path):
    done = make("wheel")
    wheel = pathlib.Path(ROOT, done.stdout.decode().split()[-1])
    assert re.fullmatch(
        rf"stacksample-{re.escape(VERSION)}-py3-none-manylinux_2_\d+_x86_64\.whl", wheel.name
    )
    bin_ = venv(tmp_path / "env")
    pip = [str(bin_ / "python"), "-m", "pip", "--disable-pip-version-check", "-q"]
    done = run([*pip, "install", "--no-index", str(wheel)], timeout=BUILD_DEADLINE)
    assert done.returncode == 0, done
    for name in INSTALLED:
        assert (tmp_path / "env" / name).exists()

    path = f"{bin_}:{os.environ['PATH']}"
    assert shutil.which("stacksample", path=path) == str(bin_ / "stacksample")
    # All but glibc comes with it, whatever the machine has.
    needed = run(["ldd", str(bin_ / "stacksample")]).stdout.decode()
    for name, place in re.findall(r"(\S+) => (\S+)", needed):
        own = pathlib.Path(os.path.normpath(place)).is_relative_to(tmp_path / "env/lib/stacksample")
        assert own != bool(re.match(r"lib(c|m|pthread|dl|rt)\.so", name)), needed
    (tmp_path / "work").mkdir()
    profiles_a_test("stacksample", "python", tmp_path / "work", PATH=path)

    assert run([*pip, "uninstall", "-y", "stacksample"], timeout=BUILD_DEADLINE).returncode == 0
    assert list((tmp_path / "env").rglob("*stacksample*")) == []


# ---- the Debian package -----------------------------------------------------------------


def dpkg(folder, *words):
    """dpkg with a database and a root of its own."""
    for name in ("updates", "info", "triggers"):
        (folder / "db" / name).mkdir(parents=True, exist_ok=True)
    for name in ("status", "available"):
        (folder / "db" / name).touch()
    (folder / "root").mkdir(exist_ok=True)
    return run(
        ["dpkg", f"--admindir={folder}/db", f"--instdir={folder}/root", "--log=/dev/null"]
        + ["--force-depends", "--force-not-root", *words]
    )


def installed(package):
    done = run(["dpkg-query", "-W", "-f", "${db:Status-Status}", package])
    return done.stdout == b"installed"


def test_deb(tmp_path):
    for tool in ("dpkg-buildpackage", "dh"):
        if not shutil.which(tool):
            pytest.skip(f"no {tool}")
    if run(["dpkg-checkbuilddeps", str(ROOT / "debian/control")]).returncode != 0:
        pytest.skip("not all build dependencies are Debian's packages here")
    path = f"/usr/lib/ccache:{os.environ['PATH']}"
    make("deb", PATH=path, DEB_BUILD_OPTIONS=f"nocheck parallel={os.cpu_count()}", MAKEFLAGS="")
    (deb,) = (BUILD / "deb").glob("stacksample_*.deb")
    assert deb.name.startswith(f"stacksample_{VERSION}-")

    needs = run(["dpkg-deb", "-f", str(deb), "Depends"]).stdout.decode()
    assert all(installed(name) for name in re.findall(r"(?:^|, )([\w.+-]+)", needs)), needs
    done = dpkg(tmp_path, "-i", str(deb))
    assert done.returncode == 0, done
    found = {name.removesuffix(".gz") for name in files(tmp_path / "root/usr")}
    assert {*INSTALLED, "share/doc/stacksample/copyright"} <= found
    (tmp_path / "work").mkdir()
    profiles_a_test(tmp_path / "root/usr/bin/stacksample", sys.executable, tmp_path / "work")

    assert dpkg(tmp_path, "--purge", "stacksample").returncode == 0
    assert files(tmp_path / "root") == []
