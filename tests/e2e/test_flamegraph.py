"""flamegraph.html in a real browser: every control, by mouse and by keyboard;
what it shows against profile.db; that it fetches nothing."""

import functools
import json
import re
import sqlite3
import subprocess

import pytest

import browser
import harness

RUNNING = ("user", "kernel", "spin")

pytestmark = pytest.mark.skipif(browser.missing() is not None, reason=str(browser.missing()))


def make(folder, kind):
    subprocess.run([harness.FIXTURE, str(folder), kind, "flamegraph.html"], check=True, timeout=300)
    return folder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return make(tmp_path_factory.mktemp("run"), "run")


@pytest.fixture(scope="module")
def chromium():
    with browser.Browser() as page:
        yield page


@pytest.fixture
def page(chromium, run_folder):
    """The page of the made-up run, freshly opened; it never complains."""
    chromium.scheme("light")
    chromium.open(run_folder / "flamegraph.html")
    chromium.run("localStorage.clear()")
    chromium.open(run_folder / "flamegraph.html")
    chromium.complaints()
    yield chromium
    assert chromium.complaints() == []


class Db:
    """Sums over profile.db in microseconds, by plain SQL and a walk of stacks."""

    def __init__(self, folder):
        self.sql = sqlite3.connect(f"file:{folder}/profile.db?mode=ro", uri=True)
        self.states = [w for (w,) in self.sql.execute(
            "SELECT word FROM word WHERE kind = 'state' ORDER BY id")]
        self.strings = dict(self.sql.execute("SELECT id, CAST(text AS TEXT) FROM string"))
        self.stacks = {i: (p, f) for i, p, f in self.sql.execute(
            "SELECT id, parent, frame FROM stack")}
        self.frames = {i: self.strings.get(n, "") for i, n in self.sql.execute(
            "SELECT id, name FROM frame")}
        self.phases = {i: (self.strings[t], self.strings.get(p, "")) for i, t, p in
                       self.sql.execute("SELECT id, test, phase FROM phase")}
        self.roles = {i: self.strings[r] for i, r in self.sql.execute("SELECT id, role FROM thread")}

    def names(self, stack):
        while stack in self.stacks:
            stack, frame = self.stacks[stack]
            yield self.frames[frame]

    def us(self, states=RUNNING, test=None, phase=None, role=None, through=None):
        ns = 0
        for thread, stack, at, state, weight in self.sql.execute(
                "SELECT thread, stack, phase, state, weight_ns FROM total"):
            where = self.phases.get(at, ("(no test)", ""))
            if (states is None or self.states[state] in states) and \
                    (test is None or where[0] == test) and (phase is None or where[1] == phase) and \
                    (role is None or self.roles[thread] == role) and \
                    (through is None or any(re.search(through, n) for n in self.names(stack))):
                ns += weight
        return ns / 1000


@pytest.fixture(scope="module")
def db(run_folder):
    return Db(run_folder)


# What a person reads on the page, as numbers.

def text(page, selector):
    return page.run("return document.querySelector(arguments[0]).innerText", selector)


def shown_us(page):
    number, unit = re.search(r"([\d.]+) (s|ms)", text(page, "#says b")).groups()
    return float(number) * {"s": 1e6, "ms": 1e3}[unit]


def found_percent(page):
    return float(text(page, "#found").split()[0])


def live(page):
    return page.run("return document.getElementById('live').textContent")


def fragment(page):
    return page.run("return decodeURIComponent(location.hash.replace(/\\+/g, ' '))")


def choose(page, select, value):
    page.run("const s = document.getElementById(arguments[0]); s.value = arguments[1];"
             "s.dispatchEvent(new Event('change'))", select, value)


def close(value, expected):
    return value == pytest.approx(expected, rel=0.006)  # three digits are shown


# ---- the page itself -----------------------------------------------------------


def test_fetches_nothing(chromium, run_folder):
    chromium.requests()
    chromium.open(run_folder / "flamegraph.html")
    for key in ("i", "t", "f", "d", "m"):
        chromium.keys(key)
    assert chromium.requests() == [f"file://{run_folder}/flamegraph.html"]
    assert chromium.complaints() == []


def test_policy_is_in_force(chromium, run_folder):
    chromium.open(run_folder / "flamegraph.html")
    broken = chromium.run_async("""
        const done = arguments[0], broken = [];
        document.addEventListener('securitypolicyviolation', e => {
          broken.push(e.effectiveDirective.split('-')[0]);
          if (broken.length === 4) done(broken.sort());
        });
        const add = (tag, props) => document.body.append(
          Object.assign(document.createElement(tag), props));
        add('script', {textContent: 'window.injected = 1'});
        add('style', {textContent: 'body { color: red }'});
        add('img', {src: 'file:///nowhere.png'});
        fetch('file:///etc/hostname').catch(() => 0);
    """)
    assert broken == ["connect", "img", "script", "style"]
    assert chromium.run("return window.injected") is None
    chromium.complaints()


def test_hostile_names_are_inert(chromium, tmp_path):
    chromium.open(make(tmp_path / "hostile", "hostile") / "flamegraph.html", "state=all&view=table")
    assert chromium.complaints() == []
    names = chromium.run("return [...document.querySelectorAll('#list td button')].map(b => b.textContent)")
    assert any("</script><script>alert(1)</script>" in name for name in names)
    assert any(name.startswith("__proto__ ") for name in names)
    assert chromium.run("return document.querySelectorAll('script').length") == 2


def test_opens_on_the_whole_run(page, db):
    assert "Width is thread time, not samples" in text(page, "#says")
    assert "the whole run (6 threads, 2 processes)" in text(page, "#says")
    assert close(shown_us(page), db.us())
    assert fragment(page) == ""
    assert "Widest test: tests/test_gradients.py::" in text(page, "#says")


# ---- filters ---------------------------------------------------------------------


def test_filters_by_test_and_phase(page, db):
    test = "tests/test_gradients.py::test_stability"
    choose(page, "test", test)
    assert close(shown_us(page), db.us(test=test))
    choose(page, "phase", "call")
    assert close(shown_us(page), db.us(test=test, phase="call"))
    choose(page, "phase", "setup")
    assert close(shown_us(page), db.us(test=test, phase="setup"))
    assert f"test={test}&phase=setup" in fragment(page).replace("%3A", ":").replace("%2F", "/")


def test_filters_by_role_and_thread(page, db):
    choose(page, "thread", "role:openmp")
    assert close(shown_us(page), db.us(role="openmp"))
    choose(page, "thread", "tid:4121")
    assert close(shown_us(page), db.us(role="main") / 2)


def test_filters_by_state(page, db):
    for state in ("kernel", "spin", "sleep", "wait"):
        choose(page, "state", state)
        assert close(shown_us(page), db.us(states=(state,)))
    choose(page, "state", "waiting")
    assert close(shown_us(page), db.us(states=("sleep", "wait")))
    choose(page, "state", "all")
    assert close(shown_us(page), db.us(states=None))


def test_waiting_is_offered_and_shown(page, db):
    assert "of waiting hidden" in text(page, "#says")
    page.click("#says button")
    assert fragment(page) == "#state=all"
    assert close(shown_us(page), db.us(states=None))


def test_python_only_and_native_only(page, db):
    page.keys("t")
    kinds = {"python": {"Python", "Python library"},
             "native": {"native", "torch operator", "kernel"}}
    for frames, allowed in kinds.items():
        choose(page, "frames", frames)
        rows = page.run("return [...document.querySelectorAll('#list tbody tr')].map(r => r.cells[1].textContent)")
        assert rows and set(rows) <= allowed
        assert close(shown_us(page), db.us())
    choose(page, "frames", "")


# ---- search ------------------------------------------------------------------------


def test_search_tells_its_share(page, db):
    page.keys("/")
    page.keys(*"simulate")
    share = 100 * db.us(through="^simulate$") / db.us()
    assert abs(found_percent(page) - share) < 0.06
    assert "in 1 function" in text(page, "#found")
    assert fragment(page) == "#q=simulate"
    page.keys("Enter")
    assert live(page).startswith("simulate (sim/physics.py:12)")
    assert "hottest lines: sim/physics.py:" in live(page)
    page.keys("Escape")
    assert text(page, "#found") == ""


def test_search_is_a_regular_expression(page, db):
    page.open(page.run("return location.href.split('#')[0]"), "q=aten::(mul|mm)$")
    share = 100 * db.us(through=r"_ops::(mul_Tensor|mm)::") / db.us()
    assert abs(found_percent(page) - share) < 0.06
    page.run("const q = document.getElementById('q'); q.value = '('; q.oninput()")
    assert text(page, "#found") == "not a regular expression"


# ---- moving around -------------------------------------------------------------------


def test_zoom_by_keyboard(page):
    page.keys("ArrowDown", "ArrowDown", "ArrowDown")
    name = live(page).split(". ")[0]
    page.keys("Enter")
    assert name.split(" (")[0] in text(page, "#crumbs")
    assert re.search(r"z=\d+", fragment(page))
    page.keys("Backspace")
    assert name.split(" (")[0] not in text(page, "#crumbs")
    page.keys("Enter", "0")
    assert text(page, "#crumbs") == "" and fragment(page) == ""


def test_zoom_by_mouse_and_in_the_url(page):
    box = page.run("const r = document.getElementById('graph').getBoundingClientRect();"
                   "return [r.left + 30, r.top + 18 * 3 + 9]")
    page.pointer(*box)
    page.wait("!document.getElementById('card').hidden", "the card")
    name = text(page, "#card b")
    assert name == "clone3 (libc.so.6)"
    assert re.search(r"of all, \d+\.\d+ % of its parent; \d+ samples", text(page, "#card"))
    page.pointer(*box, press=True)
    assert name in text(page, "#crumbs")
    url = page.run("return location.href")
    page.open(url)
    assert name in text(page, "#crumbs")
    page.click("#reset")
    assert text(page, "#crumbs") == ""


def test_shares_of_boxes_are_those_of_the_database(page, db):
    for name in ("gradcheck", "start_thread", "python_part"):
        page.run("const q = document.getElementById('q'); q.value = arguments[0]; q.oninput()", f"^{name} ")
        share = 100 * db.us(through=f"^{name}$") / db.us()
        assert abs(found_percent(page) - share) < 0.06, name


def test_siblings_and_parents(page):
    page.keys("ArrowDown", "ArrowDown")
    first = live(page)
    page.keys("ArrowRight")
    assert live(page) != first
    page.keys("ArrowLeft")
    assert live(page) == first
    page.keys("ArrowUp")
    assert live(page).startswith("gw")


def test_inverted(page, db):
    page.keys("i")
    assert fragment(page) == "#view=inverted"
    assert page.run("return document.getElementById('inverted').getAttribute('aria-pressed')") == "true"
    page.keys("ArrowDown")
    assert live(page).startswith("at::native::vectorized_loop<1> (libtorch_cpu.so)")
    assert "of what it called" in live(page)
    page.keys("ArrowDown")
    assert live(page).startswith("libgomp.so.1+0x1d9a0")
    assert close(shown_us(page), db.us())
    page.keys("i")
    assert fragment(page) == ""


def test_fold_joins_pytest_and_the_interpreter(page, db):
    def under(name):
        page.keys("0", "/", *f"^{name}", "Enter", "Escape", "ArrowDown")
        return live(page)
    assert under("python_part").startswith("[interpreter]. native.")
    page.keys("i", "/", *"interpreter", "Enter", "Escape")
    share = float(re.search(r"s: ([\d.]+)", live(page)).group(1))
    assert live(page).startswith("[interpreter]. native.")
    assert abs(share - 100 * db.us(through="^long_add$") / db.us()) < 0.01
    page.keys("i", "m")
    assert fragment(page) == "#fold=0"
    assert under("python_part").startswith("PyNumber_Add (python3.11)")
    page.keys("0", "/", *"^_multicall", "Enter")
    assert live(page).startswith("_multicall (pluggy/_callers.py:9)")


def test_table_sorts(page, db):
    page.keys("t")
    def column(n):
        return page.run("return [...document.querySelectorAll('#list tbody tr')].map("
                        "r => r.cells[arguments[0]].textContent)", n)
    assert column(0)[0] == "at::native::vectorized_loop<1> (libtorch_cpu.so)"
    total = dict(zip(column(0), column(5)))
    share = 100 * db.us(through="^gradcheck$") / db.us()
    assert abs(float(total["gradcheck (torch/autograd/gradcheck.py:1289)"].split()[0]) - share) < 0.06
    page.click("#list th:nth-child(5) button")  # total, not its share
    shares = [float(s.split()[0]) for s in column(5)]
    assert shares == sorted(shares, reverse=True)
    page.click("#list th:first-child button")
    assert column(0) == sorted(column(0), key=lambda s: [ord(c) for c in s])
    assert page.run("return document.querySelector('#list th').getAttribute('aria-sort')") == "ascending"
    page.click("#list tbody td button")
    assert "q=^" in fragment(page).replace("%5E", "^")


def test_everything_by_keyboard(page):
    for key, focused in (("e", "test"), ("p", "phase"), ("h", "thread"), ("s", "state"), ("/", "q")):
        page.keys(key)
        assert page.run("return document.activeElement.id") == focused
        page.keys("Escape")
    page.keys("w")
    assert fragment(page).startswith("#test=")
    page.keys("f")
    assert "frames=python" in fragment(page)
    page.keys("x")
    assert fragment(page) == ""
    page.keys("?")
    assert page.run("return document.getElementById('help').open")
    assert "zoom into the selected box" in text(page, "#help")
    page.keys("Escape")
    page.wait("!document.getElementById('help').open", "the help closes")


def test_dark_mode(page):
    def background():
        return page.run("return getComputedStyle(document.body).backgroundColor")
    light = background()
    page.keys("d")
    dark = background()
    assert light != dark
    page.open(page.run("return location.href"))
    assert background() == dark  # remembered
    page.run("localStorage.clear()")
    page.scheme("dark")
    page.open(page.run("return location.href"))
    assert background() == dark  # as the system prefers


# ---- other sizes -----------------------------------------------------------------------


def test_on_a_phone(run_folder):
    with browser.Browser(width=390, height=800, phone=True) as page:
        page.open(run_folder / "flamegraph.html")
        assert page.run("return document.documentElement.scrollWidth") <= 390
        top = page.run("return document.getElementById('graph').getBoundingClientRect().top")
        assert top < 300  # most of the screen is the graph
        page.pointer(60, top + 24 * 3 + 12, press=True, kind="touch")
        page.wait("!document.getElementById('card').hidden", "the card")
        assert text(page, "#crumbs") == ""  # the first tap only tells
        page.pointer(60, top + 24 * 3 + 12, press=True, kind="touch")
        page.wait("document.getElementById('crumbs').innerText.includes('clone3')", "the zoom")
        assert page.complaints() == []


def test_a_hundred_thousand_nodes(chromium, tmp_path):
    folder = make(tmp_path / "wide", "wide")
    chromium.open(folder / "flamegraph.html")
    nodes = "JSON.parse(document.getElementById('data').textContent).nodes.length / 2"
    assert chromium.run(f"return {nodes}") > 100000
    sums = Db(folder)
    assert close(shown_us(chromium), sums.us())
    for key in ("i", "ArrowDown", "i", "f", "f", "f", "m", "m", "t", "t", "ArrowDown", "Enter", "0"):
        chromium.keys(key)
    chromium.run("const q = document.getElementById('q'); q.value = '^f5_1'; q.oninput()")
    assert abs(found_percent(chromium) - 100 * sums.us(through="^f5_1$") / sums.us()) < 0.06
    assert chromium.complaints() == []


# ---- the demo ----------------------------------------------------------------------------


def test_the_demo(chromium, demo):
    """Every control on a real run of real size."""
    page, path, sums = chromium, demo.folder / "flamegraph.html", Db(demo.folder)
    assert path.stat().st_size <= 2_000_000
    page.requests()
    page.open(path)
    opened = page.run("return document.getElementById('state').value")
    us = functools.partial(sums.us, {"cpu": RUNNING, "all": None}[opened])
    assert close(shown_us(page), us())
    for name in ("gradcheck", "start_thread", "evaluate"):
        page.run("const q = document.getElementById('q'); q.value = arguments[0]; q.oninput()",
                 f"^{name} ")
        share = 100 * us(through=f"^{name}$") / us()
        assert abs(found_percent(page) - share) < 0.06, name
    page.keys("x")
    for test, phase in {where for where in sums.phases.values() if where[1] == "call"}:
        choose(page, "test", test)
        choose(page, "phase", phase)
        assert close(shown_us(page), us(test=test, phase=phase)), test
    page.keys("x")
    for role in ("main", "openmp"):
        choose(page, "thread", f"role:{role}")
        assert close(shown_us(page), us(role=role))
    page.keys("x")
    choose(page, "state", "all")
    assert close(shown_us(page), sums.us(states=None))
    page.keys("x", "ArrowDown", "ArrowDown", "Enter")
    zoomed = page.run("return location.href")
    assert text(page, "#crumbs") != ""
    page.open(zoomed)
    assert text(page, "#crumbs") != ""
    for key in ("x", "i", "f", "f", "f", "m", "t", "d", "d", "?", "Escape"):
        page.keys(key)
    rows = page.run("return document.querySelectorAll('#list tbody tr').length")
    assert rows > 50 and close(shown_us(page), us())
    page.run("localStorage.clear()")
    assert set(page.requests()) == {f"file://{path}"}
    assert page.complaints() == []


def test_the_demos_causes_are_shown(chromium, demo):
    """What the summary says is shown by a view stands there."""
    page, path = chromium, demo.folder / "flamegraph.html"
    causes = json.loads((demo.folder / "summary.json").read_text())["causes"]
    views = [re.fullmatch("shown by flamegraph.html#(.*)", line)
             for cause in causes for line in cause["evidence"]]
    keys = [m[1] for m in views if m]
    assert keys
    for key in keys:
        page.open(path, key)
        assert shown_us(page) > 0
        if key.startswith("q="):
            assert found_percent(page) > 1, key
    assert page.complaints() == []
