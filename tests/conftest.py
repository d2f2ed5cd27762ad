"""Skips are visible: each reason is printed with its tests, and in CI a reason
that tests/skips.txt does not list fails the session."""

import collections
import fnmatch
import os
import pathlib

import pytest

LISTED = pathlib.Path(__file__).with_name("skips.txt")
_skipped = pytest.StashKey[dict]()


def listed_reasons():
    lines = (line.strip() for line in LISTED.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def is_listed(reason, patterns):
    return any(fnmatch.fnmatchcase(reason, p.replace("[", "[[]")) for p in patterns)


def pytest_configure(config):
    config.stash[_skipped] = collections.defaultdict(list)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        item.config.stash[_skipped][reason].append(item.nodeid)


def unlisted(config):
    patterns = listed_reasons()
    return [r for r in config.stash[_skipped] if not is_listed(r, patterns)]


def pytest_sessionfinish(session):
    if os.environ.get("CI") and unlisted(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    skipped = config.stash[_skipped]
    if not skipped:
        return
    bad = unlisted(config)
    terminalreporter.section("skips")
    for reason, tests in sorted(skipped.items()):
        mark = "NOT IN tests/skips.txt: " if reason in bad else ""
        terminalreporter.line(f"{mark}{reason}: {len(tests)} ({tests[0]}, ...)"
                              if len(tests) > 1 else f"{mark}{reason}: {tests[0]}")
