"""Threads of every kind: a busy one, sleeping ones, one waiting for the GIL's
holder now and then, one with a long name. Prints "tid<TAB>name" of each.
"""
import sys
import threading
import time


def busy():
    while True:
        pass


def asleep():
    time.sleep(1000)


class Named(threading.Thread):
    def __init__(self, note):
        self.note = note
        super().__init__(name="n\u00e4me of a thread, longer than the kernel's",
                         daemon=True)
        self.more = [note]

    def run(self):
        asleep()


threads = [threading.Thread(target=busy, name="busy one", daemon=True),
           threading.Thread(target=asleep, name="sleeper", daemon=True),
           Named("x")]
for thread in threads:
    thread.start()
sys.stdout.reconfigure(encoding="utf-8")
for thread in threads:
    print("%d\t%s" % (thread.native_id, thread.name))
print("end", flush=True)
asleep()
