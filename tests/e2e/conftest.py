"""Fixtures of the end-to-end tests. STACKSAMPLE names the binary to test; with
SS_DENY_PERF=EPERM (or another errno) perf_event_open is refused to all of them, so
that the ptrace engine does the work."""

import errno
import os
import pathlib
import signal
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

import demo_run  # noqa: E402
import deny_perf  # noqa: E402
import harness  # noqa: E402


def pytest_configure(config):
    # Who starts us in the background may have them ignored, and so would the targets.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    if not os.access(harness.STACKSAMPLE, os.X_OK):
        pytest.exit(f"no binary at {harness.STACKSAMPLE}: run make first", returncode=99)
    if harness.DENY_PERF:  # for all that is started from here on
        deny_perf.install(("perf_event_open", getattr(errno, harness.DENY_PERF)))


@pytest.fixture(autouse=True)
def _one_at_a_time():
    """Rings take locked memory that all runs of a user share."""
    with harness.perf_lock():
        yield


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The demo, run once for all tests that look at its bundle. It holds the
    lock itself: fixtures of the session come before those of a test."""
    with harness.perf_lock():
        return demo_run.Demo(tmp_path_factory.mktemp("demo"))


@pytest.fixture
def out(tmp_path):
    """A folder for -o that does not exist yet."""
    return tmp_path / "out"


@pytest.fixture
def process():
    """Starts harness.Process objects; whatever is left of them is ended."""
    started = []

    def start(words, **kw):
        started.append(harness.Process(words, **kw))
        return started[-1]

    yield start
    for p in started:
        p.close()


@pytest.fixture
def terminal():
    """Starts harness.Terminal objects; whatever is left of them is ended."""
    started = []

    def start(words, **kw):
        started.append(harness.Terminal(words, **kw))
        return started[-1]

    yield start
    for t in started:
        t.close()
