#!/usr/bin/env python3
"""Checks a profiler.json against the rules of the viewers that open it.

The rules are what chrome://tracing (catapult), the Perfetto UI, speedscope and
Holistic Trace Analysis need; each has its reader beside it below. As a program:
check_trace.py FILE, prints what is wrong and exits 1, or one line of counts.
"""

import collections
import json
import re
import sys

CATEGORIES = {
    "python_function", "cpu_op", "user_annotation", "native", "os_kernel", "wait",
}
MAX_DEPTH = 400  # Perfetto drops what is deeper than 512
V8_CATEGORY = "disabled-by-default-v8.cpu_profiler"


class Problems(list):
    """Messages, at most ten a kind."""

    def __init__(self):
        super().__init__()
        self.kinds = collections.Counter()

    def add(self, kind, detail=""):
        self.kinds[kind] += 1
        if self.kinds[kind] <= 10:
            self.append(f"{kind}: {detail}" if detail else kind)


def check_bytes(raw, problems):
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        problems.add("not UTF-8", str(error))
        text = raw.decode("utf-8", "replace")
    for m in re.finditer(r"[\x00-\x09\x0b-\x1f\x7f]", text):  # Perfetto refuses them
        problems.add("raw control character", f"{m.group()!r} at {m.start()}")
    for m in re.finditer(r"(?<!\\)(?:\\\\)*\\u00([2-6].|7[0-9a-eA-E])", text):
        problems.add("needless escape", m.group())  # Perfetto shows it as it is
    return text


def check_lines(text, problems):
    """One event a line, and the rank as HTA greps for it."""
    if not re.search(r'"rank": +0\b', text):
        problems.add('no "rank": 0 with the space')
    inside = False
    for number, line in enumerate(text.split("\n"), 1):
        if line == '"traceEvents": [':
            inside = True
        elif line.startswith("]"):
            inside = False
        elif inside:
            try:
                event = json.loads(line.rstrip(","))
            except ValueError as error:
                problems.add("a line is not one event", f"line {number}: {error}")
            else:
                if not isinstance(event, dict):
                    problems.add("a line is not one event", f"line {number}")


def check_top(trace, problems):
    for key in ("stackFrames", "samples", "systemTraceEvents"):
        if key in trace:  # speedscope and catapult read these, others do not
            problems.add("top-level key that readers disagree on", key)
    if trace.get("displayTimeUnit") not in ("ms", "ns"):
        problems.add("displayTimeUnit")
    if not isinstance(trace.get("baseTimeNanoseconds"), int):
        problems.add("baseTimeNanoseconds is no integer")
    for where in (trace, trace.get("metadata", {})):
        if where.get("sampled") is not True or where.get("profiler") != "stacksample":
            problems.add("does not say that it is sampled")


def check_event(index, event, problems):
    for key in ("ph", "cat", "name", "pid", "tid", "ts"):
        if key not in event:
            problems.add(f"event without {key}", f"event {index}")
            return False
    for key in ("pid", "tid", "ts", "dur"):
        value = event.get(key, 0)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            problems.add(f"{key} is no natural number", f"event {index}: {value!r}")
            return False
    for key in ("pid", "tid"):
        if event[key] >= 2**32:
            problems.add(f"{key} beyond 32 bits", f"event {index}")
    return True


def check_slice(index, event, args, problems):
    name = event["name"]
    if "dur" not in event:
        problems.add("slice without dur", f"event {index}")  # HTA
    if event["cat"] not in CATEGORIES:
        problems.add("unknown category", event["cat"])
    if name in ("CpuProfile", "Profile", "ProfileChunk"):  # speedscope: V8 mode
        problems.add("slice with a V8 name", name)
    now = json.dumps(event.get("args"), sort_keys=True)
    if args.setdefault(name, now) != now:  # speedscope: another frame
        problems.add("args vary for one name", name)


def check_names(events, tracks, problems):
    """Each track has a name, and no name is empty (an error to Perfetto)."""
    named = {(event["pid"], event["tid"]): event["args"]["name"]
             for event in events if event["ph"] == "M" and event["name"] == "thread_name"}
    for track in tracks:
        if track not in named:
            problems.add("track without a name", f"{track}")
    for track, name in named.items():
        if not name:
            problems.add("empty thread name", f"{track}")


def check_nesting(track, events, problems):
    """Slices of a thread nest exactly, parents first. The greatest depth."""
    open_ends, last, deepest = [], 0, 0
    for event in events:
        start, end = event["ts"], event["ts"] + event["dur"]
        if start < last:
            problems.add("slices out of order", f"{track} at {start}")
        last = start
        while open_ends and open_ends[-1] <= start:
            open_ends.pop()
        if open_ends and end > open_ends[-1]:
            problems.add("slices overlap in part", f"{track} at {start}: {event['name']}")
        open_ends.append(end)
        deepest = max(deepest, len(open_ends))
    if deepest > MAX_DEPTH:
        problems.add("too deep", f"{track}: {deepest}")
    return deepest


WAIT = re.compile(r"\[(gil|lock|io|child|sleep|wait|stopped)[:\]]")


class V8Profile:
    """One Profile event and its chunks."""

    def __init__(self, event):
        self.key = (event["pid"], event["id"])
        self.tid = event["tid"]
        self.now = event["args"]["data"]["startTime"]
        self.known, self.root, self.samples, self.roots, self.span = set(), None, 0, 0, 0
        self.weights = collections.Counter()
        self.parents, self.names, self.last = {}, {}, None

    def add_node(self, node, problems):
        ident, parent = node["id"], node.get("parent")
        if ident in self.known or ident < 1:
            problems.add("V8 node id not new", f"{self.key}: {ident}")
        if parent is None:
            if self.root is not None or node["callFrame"]["functionName"] != "(root)":
                problems.add("V8 profile needs one (root)", f"{self.key}")
            self.root = ident
        elif parent not in self.known:
            problems.add("V8 node before its parent", f"{self.key}: {ident}")
        self.known.add(ident)
        self.parents[ident] = parent
        self.names[ident] = node["callFrame"]["functionName"]

    def add_chunk(self, event, problems):
        data = event["args"]["data"]
        if event["tid"] != self.tid:
            problems.add("V8 chunk of another thread", f"{self.key}")
        if "startTime" in data:  # Perfetto takes it for a new profile
            problems.add("startTime in a V8 chunk", f"{self.key}")
        for node in data["cpuProfile"]["nodes"]:
            self.add_node(node, problems)
        samples, deltas = data["cpuProfile"]["samples"], data["timeDeltas"]
        if len(samples) != len(deltas):
            problems.add("V8 samples and deltas differ in number", f"{self.key}")
        for ident, delta in zip(samples, deltas):
            if not isinstance(delta, int) or delta < 0:
                problems.add("V8 delta is no natural number", f"{self.key}: {delta}")
            if ident not in self.known:
                problems.add("V8 sample of an unknown node", f"{self.key}: {ident}")
            if self.last is not None:
                self.weights[self.last] += delta
            self.last = ident
            self.roots += ident == self.root
            self.span += delta
        self.samples += len(samples)

    def running_us(self):
        """Time of what is no wait: a wait's leaf is its reason, as "[io: disk]"."""
        return sum(us for node, us in self.weights.items()
                   if node != self.root and not WAIT.match(self.names[node]))

    def finish(self, problems):
        if self.last != self.root:  # else speedscope loses the last sample
            problems.add("V8 profile does not end in (root)", f"{self.key}")


def check_v8(events, problems):
    profiles = {}
    for event in events:
        if event["cat"] != V8_CATEGORY:
            problems.add("P event of another category", event["cat"])
        key = (event["pid"], event.get("id"))
        if event["name"] == "Profile":
            if key in profiles:
                problems.add("two V8 profiles of one id", f"{key}")
            profiles[key] = V8Profile(event)
        elif key not in profiles:
            problems.add("V8 chunk before its profile", f"{key}")
        else:
            profiles[key].add_chunk(event, problems)
    for profile in profiles.values():
        profile.finish(problems)
    return profiles


def check(path):
    """(problems, facts) of a trace file; no problems: every reader takes it."""
    problems = Problems()
    with open(path, "rb") as f:
        raw = f.read()
    text = check_bytes(raw, problems)
    trace = json.loads(text)
    check_lines(text, problems)
    check_top(trace, problems)
    events = trace["traceEvents"]
    tracks, args, v8 = collections.OrderedDict(), {}, []
    if not all(key in events[0] for key in ("pid", "tid", "ph", "cat")):
        problems.add("first event lacks pid, tid, ph or cat")  # speedscope
    if not any("args" in event for event in events):
        problems.add("no event has args")  # HTA
    for index, event in enumerate(events):
        if not check_event(index, event, problems):
            continue
        if event["ph"] == "X":
            check_slice(index, event, args, problems)
            tracks.setdefault((event["pid"], event["tid"]), []).append(event)
        elif event["ph"] == "P":
            v8.append(event)
        elif event["ph"] not in "Mi":
            problems.add("phase that not all readers know", event["ph"])
    check_names(events, tracks, problems)
    depths = {track: check_nesting(track, found, problems) for track, found in tracks.items()}
    profiles = check_v8(v8, problems)
    facts = {
        "bytes": len(raw),
        "events": len(events),
        "slices": sum(len(found) for found in tracks.values()),
        "tracks": len(tracks),
        "depth": max(depths.values(), default=0),
        "categories": collections.Counter(
            event["cat"] for found in tracks.values() for event in found),
        "samples": sum(p.samples for p in profiles.values()),
        "profiles": profiles,
        "trace": trace,
    }
    return problems, facts


def main():
    problems, facts = check(sys.argv[1])
    for problem in problems:
        print(problem)
    print(
        f"{facts['bytes']} bytes, {facts['slices']} slices on {facts['tracks']} tracks,"
        f" depth {facts['depth']}, {facts['samples']} samples,"
        f" {dict(facts['categories'])}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
