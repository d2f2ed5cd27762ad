"""profiler.json and the formats on request: by the checkers, and in the viewers
themselves, with their counts compared to ours."""

import base64
import collections
import contextlib
import functools
import http.server
import json
import os
import re
import sqlite3
import subprocess
import sys
import threading

import pytest

import browser
import check_trace
import harness
import packages
import pprof

needs_browser = pytest.mark.skipif(browser.missing() is not None, reason=str(browser.missing()))


def make(folder, kind, *files, **env):
    subprocess.run([harness.FIXTURE, str(folder), kind, *files], check=True, timeout=300,
                   env={**os.environ, **env})
    return folder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return make(tmp_path_factory.mktemp("run"), "run", "profiler.json",
                "profile.speedscope.json", "profile.pb.gz", "stacks.folded")


@pytest.fixture(scope="module")
def facts(run_folder):
    problems, found = check_trace.check(run_folder / "profiler.json")
    assert problems == []
    return found


@pytest.fixture(scope="module", params=["made-up", "demo"])
def viewed(request):
    """(profiler.json, what the checker found in it): of every kind, and a real one."""
    if request.param == "made-up":
        folder = request.getfixturevalue("run_folder")
    else:
        folder = request.getfixturevalue("demo").folder
    problems, found = check_trace.check(folder / "profiler.json")
    assert problems == []
    return folder / "profiler.json", found


def totals(folder):
    """Microseconds in profile.db by (tid, state)."""
    sql = sqlite3.connect(f"file:{folder}/profile.db?mode=ro", uri=True)
    sums = collections.Counter()
    for tid, state, ns in sql.execute(
            "SELECT tid, word, sum(weight_ns) FROM total JOIN thread ON thread.id = thread"
            " JOIN word ON kind = 'state' AND word.id = state GROUP BY 1, 2"):
        sums[tid, state] = ns / 1000
    return sums


# ---- the checker ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["wide", "hostile"])
def test_other_profiles_pass_the_checker(tmp_path, kind):
    make(tmp_path, kind, "profiler.json")
    problems, _ = check_trace.check(tmp_path / "profiler.json")
    assert problems == []


@pytest.mark.parametrize("limit", [3000000, 300000, 30000])
def test_a_trace_at_its_limit_passes_the_checker(tmp_path, limit):
    make(tmp_path, "run", "profiler.json", TRACE_BYTES=str(limit))
    problems, found = check_trace.check(tmp_path / "profiler.json")
    assert problems == []
    assert found["bytes"] <= limit
    assert found["trace"]["slices_dropped"] > 0
    assert "left out" in found["trace"]["metadata"]["dropped"]
    assert found["categories"]["user_annotation"] == 60


def test_slices_only(tmp_path):
    make(tmp_path, "run", "profiler.json", TRACE_SLICES_ONLY="1")
    problems, found = check_trace.check(tmp_path / "profiler.json")
    assert problems == [] and found["samples"] == 0 and found["slices"] > 1000


BREAKAGES = {
    "event without cat": lambda e: e.pop("cat"),
    "ts is no natural number": lambda e: e.update(ts=0.5),
    "slice with a V8 name": lambda e: e.update(name="Profile"),
    "unknown category": lambda e: e.update(cat="kernel"),
    "track without a name": lambda e: e.update(tid=e["tid"] + 1000),
    "slices overlap in part": lambda e: e.update(dur=e["dur"] + 1),
    "slice without dur": lambda e: e.pop("dur"),
}


@pytest.mark.parametrize("kind", BREAKAGES)
def test_the_checker_sees(tmp_path, run_folder, kind):
    """A checker that cannot fail would prove nothing."""
    lines = (run_folder / "profiler.json").read_text().split("\n")
    at = [i for i, line in enumerate(lines) if '"cat":"os_kernel"' in line][5]
    event = json.loads(lines[at].rstrip(","))
    BREAKAGES[kind](event)
    lines[at] = json.dumps(event) + ","
    (tmp_path / "broken.json").write_text("\n".join(lines))
    if kind == "slice without dur":
        with pytest.raises(KeyError):
            check_trace.check(tmp_path / "broken.json")
        return
    problems, _ = check_trace.check(tmp_path / "broken.json")
    assert any(problem.startswith(kind) for problem in problems)


WORK = """
import hashlib, re, threading
def hash_it():
    for _ in range(40):
        hashlib.pbkdf2_hmac("sha256", b"x", b"y", 20000)
def match_it():
    for _ in range(60):
        re.sub("a+b", "c", "a" * 900)
        sum(i * i for i in range(20000))
threads = [threading.Thread(target=f, name=f.__name__) for f in (hash_it, match_it)]
[t.start() for t in threads]
match_it()
[t.join() for t in threads]
"""


def test_a_real_run_passes_the_checkers(out, tmp_path):
    (tmp_path / "work.py").write_text(WORK)
    done = harness.run(harness.command(out, "/usr/bin/python3", str(tmp_path / "work.py"),
                                       options=("--format", "all")))
    assert done.returncode == 0, done.stderr
    folder = harness.bundle(out)
    problems, found = check_trace.check(folder / "profiler.json")
    assert problems == []
    assert found["slices"] > 10 and found["samples"] > 10
    names = {e["name"] for e in found["trace"]["traceEvents"] if e.get("cat") == "python_function"}
    assert any(re.fullmatch(r"match_it \(\S+work\.py:6\)", name) for name in names)
    profile = pprof.read(folder / "profile.pb.gz")
    pprof.check(profile)
    sums = totals(folder)
    assert sum(s["value"][1] for s in profile["sample"]) / 1000 == pytest.approx(sum(sums.values()))
    file = json.loads((folder / "profile.speedscope.json").read_text())
    assert file["profiles"][-1]["endValue"] == pytest.approx(sum(sums.values()), abs=1)
    running = sum(us for (_, state), us in sums.items() if state in ("user", "kernel", "spin"))
    lines = (folder / "stacks.folded").read_text().splitlines()
    assert sum(int(line.rsplit(" ", 1)[1]) for line in lines) == pytest.approx(
        running, abs=len(lines))


# ---- what it says --------------------------------------------------------------------


def test_samples_cover_exactly_their_time(facts, run_folder):
    sums = totals(run_folder)
    for profile in facts["profiles"].values():
        covered = sum(us for node, us in profile.weights.items() if node != profile.root)
        assert covered == sum(us for (tid, _), us in sums.items() if tid == profile.tid)


def test_slices_cover_exactly_their_time(facts, run_folder):
    sums, outermost, end = totals(run_folder), collections.Counter(), collections.Counter()
    for event in facts["trace"]["traceEvents"]:
        if event["ph"] == "X" and event["cat"] != "user_annotation":
            if event["ts"] >= end[event["tid"]]:
                outermost[event["tid"]] += event["dur"]
                end[event["tid"]] = event["ts"] + event["dur"]
    for tid, us in outermost.items():
        assert us == sum(v for (t, _), v in sums.items() if t == tid)


def test_a_hole_stays_a_hole(facts):
    """Nothing is sampled in each tenth second: no slice of a stack is there."""
    for event in facts["trace"]["traceEvents"]:
        if event["ph"] == "X" and event["cat"] != "user_annotation":
            start = event["ts"] + 10_000  # the sample of tick 1000 covers from 9.99 s on
            last = start + event["dur"] - 1
            assert start // 10_000_000 == last // 10_000_000
            assert last % 10_000_000 < 9_000_000


def test_says_that_it_is_sampled(facts):
    trace = facts["trace"]
    assert trace["traceName"] == "stacksample sampled trace (not torch.profiler)"
    assert trace["deviceProperties"] == [] and trace["distributedInfo"] == {"rank": 0}
    assert trace["baseTimeNanoseconds"] == 1700000000000000000
    names = {e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"}
    assert names == {"gw0 [sampled]", "gw1 [sampled]"}
    invented = {"External id", "Ev Idx", "Python id", "Input Dims", "correlation"}
    for event in trace["traceEvents"]:
        assert event["ph"] != "X" or not invented & set(event.get("args", {}))
    assert facts["categories"]["cpu_op"] > 0


# ---- speedscope -------------------------------------------------------------------------


def open_speedscope(page, path, folder):
    """speedscope from file://, which loads a script that hands it the file."""
    data = base64.b64encode(path.read_bytes()).decode()
    script = folder / "load.js"
    script.write_text(f'speedscope.loadFileFromBase64("{path.name}", "{data}")')
    page.open(packages.speedscope() / "index.html", f"localProfilePath={script}")
    page.wait("document.body.innerText.includes('Sandwich') && /\\(\\d+\\/\\d+\\)/.test(document.body.innerText)",
              "speedscope shows a profile", 120)
    title = page.run("return document.body.innerText").replace("\u2013", "-")
    return re.search(r"^(?:(\S+) - )?(.*) \((\d+)/(\d+)\)$", title, re.M).groups()


@needs_browser
def test_opens_in_speedscope(viewed, tmp_path):
    """It shows a profile a thread, taken from the samples where there are some."""
    path, facts = viewed
    with browser.Browser() as page:
        file, name, at, count = open_speedscope(page, path, tmp_path)
    assert (file, at) == ("profiler.json", "1")
    assert int(count) == len(facts["profiles"])
    assert name in {"MainThread", "python3"}


@needs_browser
def test_speedscope_file_opens_in_it(run_folder, tmp_path):
    with browser.Browser() as page:
        _, name, _, count = open_speedscope(
            page, run_folder / "profile.speedscope.json", tmp_path)
    assert (name, count) == ("gw0 MainThread 4121", "7")


def test_speedscope_file_keeps_its_schema(run_folder):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((packages.speedscope() / "file-format-schema.json").read_text())
    jsonschema.validate(json.loads((run_folder / "profile.speedscope.json").read_text()), schema)


def test_speedscope_file_has_all_time(run_folder):
    file = json.loads((run_folder / "profile.speedscope.json").read_text())
    frames, sums = len(file["shared"]["frames"]), totals(run_folder)
    assert file["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    for profile in file["profiles"]:
        assert len(profile["samples"]) == len(profile["weights"])
        assert sum(profile["weights"]) == profile["endValue"]
        assert all(0 <= f < frames for sample in profile["samples"] for f in sample)
    for profile in file["profiles"][:-1]:
        tid = int(profile["name"].split()[-1])
        assert profile["endValue"] == sum(us for (t, _), us in sums.items() if t == tid)
    assert file["profiles"][-1]["endValue"] == sum(sums.values())


# ---- chrome://tracing and Perfetto -----------------------------------------------------------------------------


@contextlib.contextmanager
def server(folder, files):
    """URL of `folder` over http, where the viewers want it; `files` (name ->
    bytes) lie over it."""
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            name = self.path.lstrip("/")
            if name not in files:
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Type", self.guess_type(name))
            self.send_header("Content-Length", str(len(files[name])))
            self.end_headers()
            self.wfile.write(files[name])
            return None

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http_server.server_address[1]}"
        http_server.shutdown()


# Imports the text as the page does on "Load", shows the timeline, and tells what is
# in it. `arguments`: the text or its URL, the callback.
CATAPULT = """
const [url, done] = arguments;
fetch(url).then(r => r.text()).then(text => {
  const model = new tr.Model(), options = new tr.importer.ImportOptions();
  options.showImportWarnings = false;
  new tr.importer.Import(model, options).importTraces([text]);
  let slices = 0;
  for (const thread of model.getAllThreads()) slices += thread.sliceGroup.length;
  const tracks = document.createElement('track-view-container');
  tracks.id = 'track_view_container';
  const view = document.createElement('tr-ui-timeline-view');
  view.track_view_container = tracks;
  Polymer.dom(view).appendChild(tracks);
  view.id = 'trace-viewer';
  view.globalMode = true;
  Polymer.dom(document.body).appendChild(view);
  view.model = model;
  const names = model.getAllThreads().map(t => t.name);
  done([slices, model.samples.length, model.importWarnings.map(w => w.message), names]);
}).catch(e => done([String(e), 0, [], []]));
"""


@needs_browser
def test_opens_in_chrome_tracing(viewed, tmp_path):
    """The viewer of chrome://tracing, whole, outside of a Chromium that may lack it."""
    path, facts = viewed
    page_text, polyfill = packages.catapult()
    files = {"viewer.html": page_text.encode(), "polyfill.js": polyfill.encode(),
             "profiler.json": path.read_bytes()}
    with server(tmp_path, files) as url, browser.Browser() as page:
        page.open(f"{url}/viewer.html")
        page.wait("!!(window.tr && tr.Model && tr.importer && tr.importer.Import)", "catapult", 120)
        slices, samples, warnings, names = page.run_async(CATAPULT, "/profiler.json")
        assert warnings == []
        assert slices == facts["slices"] + 1  # the instant at the end is one to it
        roots = sum(p.roots for p in facts["profiles"].values())
        assert samples == facts["samples"] - roots
        assert all(names)
        assert len([n for n in names if n != "tests"]) == len(facts["profiles"])
        page.wait("document.getElementById('trace-viewer').trackView.hasVisibleContent",
                  "the timeline", 60)
        page.picture(tmp_path / "chrome-tracing.png")


def test_opens_in_holistic_trace_analysis(viewed):
    path, facts = viewed
    done = subprocess.run(
        [sys.executable, harness.ROOT / "tests/lib/hta_facts.py", path],
        env={**os.environ, "PYTHONPATH": str(packages.holistic_trace_analysis())},
        stdout=subprocess.PIPE, check=True, timeout=300)
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["valid"], found["errors"]) == (True, {})
    assert found["slices"] == facts["slices"] == sum(found["categories"].values())
    assert found["categories"] == {
        name: facts["categories"][name] for name in found["categories"]}
    assert found["depth"] == facts["depth"]
    assert "<module> (pytest/__main__.py:1)" in found["names"]


@needs_browser
def test_opens_in_perfetto(viewed):
    def count(what):
        return page.run_async(
            "const done = arguments[1];"
            "app.trace.engine.query('select ' + arguments[0]).then("
            "  r => done(Number(r.firstRow({n: 0}).n)), e => done(String(e)))", what)

    path, facts = viewed
    with server(packages.perfetto(), {"profiler.json": path.read_bytes()}) as url, \
            browser.Browser() as page:
        page.open(f"{url}/#!/?url={url}/profiler.json")
        page.wait("!!(window.app && app.trace && app.trace.engine)", "Perfetto has the trace", 180)
        assert count("count(*) as n from slice where category != 'stacksample'") == facts["slices"]
        assert count("max(depth) + 1 as n from slice") == facts["depth"]
        assert count("count(*) as n from cpu_profile_stack_sample") == facts["samples"]
        for category in ("cpu_op", "user_annotation", "python_function"):
            assert count(f"count(*) as n from slice where category = '{category}'") == \
                facts["categories"][category]
        assert count("count(*) as n from slice where name = '<module> (pytest/__main__.py:1)'") > 0
        assert count("count(*) as n from stats where value > 0 and severity in"
                     " ('error', 'data_loss')") == 0


# ---- pprof --------------------------------------------------------------------------------


def test_pprof_has_all_time_and_labels(run_folder):
    profile, sums = pprof.read(run_folder / "profile.pb.gz"), totals(run_folder)
    pprof.check(profile)
    strings = profile["string_table"]
    assert [(strings[t["type"]], strings[t["unit"]]) for t in profile["sample_type"]] == [
        ("samples", "count"), ("wall", "nanoseconds")]
    found = collections.Counter()
    for sample in profile["sample"]:
        label = pprof.labels(profile, sample)
        found[label["tid"], label["state"]] += sample["value"][1] / 1000
        assert label["pid"] in (4121, 4220) and label["worker"] in ("gw0", "gw1")
        assert label["test"].startswith("tests/test_gradients.py::")
        assert label["phase"] in ("setup", "call") and label["role"] in ("main", "openmp")
    assert found == sums
    assert profile["duration_nanos"] == 30_000_000_000 and profile["period"] == 10_000_000


def test_pprof_of_hostile_names(tmp_path):
    make(tmp_path, "hostile", "profile.pb.gz")
    pprof.check(pprof.read(tmp_path / "profile.pb.gz"))


def test_pprof_by_protoc(run_folder):
    """Another decoder, without our table of fields: it must find no garbage."""
    try:
        out = subprocess.run(["protoc", "--decode_raw"], stdout=subprocess.PIPE, check=True,
                             input=__import__("gzip").decompress(
                                 (run_folder / "profile.pb.gz").read_bytes())).stdout
    except FileNotFoundError:
        pytest.skip("protoc is not installed")
    assert out.count(b"\n2 {") > 1000
