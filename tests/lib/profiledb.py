"""Reads a bundle's profile.db as docs/format.md describes it, for tests that
compare what the outputs say with the rows they are made from."""

import collections
import sqlite3

RUNNING = ("user", "kernel", "spin")


class Profile:
    def __init__(self, folder):
        self.db = sqlite3.connect(f"file:{folder}/profile.db?mode=ro&immutable=1", uri=True)
        self.meta = dict(self.rows("SELECT key, value FROM meta"))

    def rows(self, sql, *args):
        return self.db.execute(sql, args).fetchall()

    def number(self, key):
        return int(self.meta[key])

    def words(self, kind):
        """Word by number of one kind of word."""
        return dict(self.rows("SELECT id, word FROM word WHERE kind = ?", kind))

    def counts(self, column, kind=None):
        """Samples by the word in `column`."""
        words = self.words(kind or column)
        sql = f"SELECT {column}, sum(samples) FROM sample GROUP BY 1"
        return {words[n]: samples for n, samples in self.rows(sql)}

    def merged_of(self, role):
        """(samples whose stacks are merged, all) of running threads with that role."""
        states, words = self.words("state"), self.words("merge")
        count = [0, 0]
        for state, merge, n in self.rows(
                """SELECT state, merge, sum(samples) FROM sample
                   JOIN thread t ON t.id = thread JOIN string r ON r.id = t.role
                   WHERE r.text = ? GROUP BY 1, 2""", role):
            if states[state] in RUNNING:
                count[0] += n if words[merge] != "none" else 0
                count[1] += n
        return tuple(count)

    def worth(self):
        """As many samples of one period would tell as much of running threads: a stop
        stands for all CPU time since the one before."""
        running = [state for state, word in self.words("state").items() if word in RUNNING]
        ((whole, squares),) = self.rows(
            f"""SELECT sum(weight_ns / 1e9), sum(weight_ns / 1e9 * weight_ns / 1e9)
                FROM sample WHERE state IN ({",".join(map(str, running))})""")
        return whole * whole / squares

    def running(self):
        """Samples of threads on a CPU."""
        return sum(n for state, n in self.counts("state").items() if state in RUNNING)

    def ended(self):
        """Stacks by why they end, without rows that are no stacks."""
        ends, methods = self.words("ended"), self.words("method")
        counts = collections.Counter()
        for end, method, n in self.rows("SELECT ended, method, sum(samples) FROM sample GROUP BY 1, 2"):
            if methods[method] != "none":
                counts[ends[end]] += n
        return counts

    def weight_us(self, states=RUNNING):
        """Thread time of all samples of these states."""
        words = self.words("state")
        sql = "SELECT state, sum(weight_ns) FROM sample GROUP BY 1"
        return sum(ns for n, ns in self.rows(sql) if words[n] in states) / 1000

    def ledger_s(self, thread=None):
        """Seconds by state, of one thread by id or of all."""
        words = self.words("state")
        where = "" if thread is None else f"WHERE thread = {thread:d}"
        sql = f"SELECT state, sum(ns) FROM time {where} GROUP BY 1"
        return {words[n]: ns / 1e9 for n, ns in self.rows(sql)}

    def threads(self):
        """(id, name, role, life in seconds) of each."""
        end = self.number("end_ns") - self.number("base_ns")
        sql = """SELECT t.id, n.text, r.text, coalesce(t.end_ns, ?) - t.start_ns FROM thread t
                 LEFT JOIN string n ON n.id = t.name LEFT JOIN string r ON r.id = t.role"""
        return [(i, name, role, ns / 1e9) for i, name, role, ns in self.rows(sql, end)]


def folded(path):
    """(frames, count) of each line."""
    for line in path.read_text().splitlines():
        stack, count = line.rsplit(" ", 1)
        yield stack.split(";"), int(count)
