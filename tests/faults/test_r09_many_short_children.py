"""R09: five thousand short-lived children: memory stays what it was."""

from faults import profile


def test_bounded(out):
    script = "i=0; while [ $i -lt 5000 ]; do (:); i=$((i+1)); done; echo all $i; exit 12"
    done, summary, _ = profile(out, "sh", "-c", script)
    assert (done.returncode, done.stdout) == (12, b"all 5000\n")
    assert summary["finished"] is True
    assert summary["quality"]["own_rss_mb"] < 200
