"""`stacksample report`: what a filter lets through, and what is left alone."""

import json
import subprocess

import pytest

from harness import FIXTURE, STACKSAMPLE, run
from profiledb import folded


def report(folder, *options):
    return run([STACKSAMPLE, "report", *options, str(folder)])


def by_test(folder):
    """Microseconds by the root of stacks-by-test.folded."""
    sums = {}
    for stack, us in folded(folder / "stacks-by-test.folded"):
        sums[stack[0]] = sums.get(stack[0], 0) + us
    return sums


def content(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "manifest.json"}


@pytest.fixture
def killed(tmp_path):
    """What a killed run leaves: profile.db alone."""
    subprocess.run([FIXTURE, str(tmp_path), "run"], check=True, timeout=300)
    return tmp_path


@pytest.fixture
def whole(killed):
    assert report(killed).returncode == 0
    return killed


def test_only_the_named_files_and_only_what_was_asked_for(whole):
    before, times = content(whole), by_test(whole)
    wanted = {test: us for test, us in times.items() if "second_order" in test}
    assert 0 < len(wanted) < len(times)
    done = report(whole, "--format", "folded", "--test", "second_order")
    assert done.returncode == 0, done.stderr
    assert by_test(whole) == wanted
    after = content(whole)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"stacks.folded", "stacks-by-test.folded", "stacks-wait.folded"}
    assert sum(us for _, us in folded(whole / "stacks.folded")) == pytest.approx(sum(wanted.values()), rel=1e-3)
    assert report(whole, "--format", "folded").returncode == 0
    assert content(whole) == before


@pytest.mark.parametrize("options", [
    ("--thread", "openmp"), ("--from", "5s"), ("--to", "20s"), ("--state", "kernel"),
], ids=lambda options: options[0])
def test_each_filter_narrows(whole, options):
    all_us = sum(us for _, us in folded(whole / "stacks.folded"))
    done = report(whole, "--format", "folded", *options)
    assert done.returncode == 0, done.stderr
    assert 0 < sum(us for _, us in folded(whole / "stacks.folded")) < all_us


def test_tables_show_what_a_filter_lets_through(whole):
    every, some = report(whole).stdout.decode(), report(whole, "--test", "second_order").stdout.decode()
    assert "Why it took that long" in every and "Why it took" not in some
    assert '"second_order" in their id' in some
    rows = some.split("Where: tests\n")[1].split("\n\n")[0].splitlines()[1:]
    assert rows and all("second_order" in row for row in rows)
    window = report(whole, "--from", "3s", "--to", "2s")
    assert (window.returncode, window.stdout) == (64, b"")


def test_a_killed_run_is_completed_before_a_filter_counts(killed):
    done = report(killed, "--format", "speedscope", "--test", "second_order")
    assert done.returncode == 0, done.stderr
    assert len(by_test(killed)) > 1
    assert (killed / "profile.speedscope.json").exists()
    listed = {f["name"] for f in json.loads((killed / "manifest.json").read_text())["files"]}
    assert listed == set(content(killed))


def test_nothing_is_written_where_nothing_fits(whole):
    before = content(whole)
    done = report(whole, "--format", "all", "--test", "no_such_test")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"no_such_test" in done.stderr
    assert content(whole) == before


def test_a_profile_that_is_none(whole):
    (whole / "profile.db").write_bytes(b"not a profile")
    done = report(whole, "--format", "folded")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"stacksample: ")


def test_the_folder_around_bundles_is_told_from_one(tmp_path):
    done = report(tmp_path)
    said = f"stacksample: {tmp_path} is no bundle: it holds no profile.db\n"
    assert (done.returncode, done.stderr.decode()) == (2, said)
    for stamp in ("20260101T000000Z", "20260102T000000Z"):
        (tmp_path / stamp).mkdir()
        (tmp_path / stamp / "profile.db").touch()
    done = report(tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().endswith(f"name one of them: {tmp_path}/20260102T000000Z\n")
