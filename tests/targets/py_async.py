"""asyncio tasks that wait for each other while the last of them runs. Each of its ways
spins in a function of its own name for SECONDS of CPU; prints one JSON object: for each
the names that must stand on the stack next to each other, innermost first, of tasks as
they are shown. usage: py_async.py [SECONDS]
"""
import asyncio
import json
import sys
import time

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 0.3
AWAITED_BY = sys.version_info >= (3, 14)  # who waits behind a TaskGroup is known
EXPECTED = {}


def make_spin(name):
    space = {"clock": time.thread_time}
    exec("def spin_%s(seconds):\n"
         "    end = clock() + seconds\n"
         "    while clock() < end:\n"
         "        pass\n" % name, space)
    return space["spin_" + name]


# A task that a task awaits that a task awaits.
SPIN_CHAIN = make_spin("chain")


async def read():
    await asyncio.sleep(0)
    SPIN_CHAIN(SECONDS)


async def fetch():
    await asyncio.create_task(read(), name="reader")


async def serve():
    await fetch()


async def accept():
    await asyncio.create_task(serve(), name="server")


# Tasks of a group: each has the group's owner behind it.
SPIN_GROUP = make_spin("group")


async def member():
    for _ in range(20):
        SPIN_GROUP(SECONDS / 40)
        await asyncio.sleep(0)


async def group():
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(member(), name="one")
        tasks.create_task(member(), name="two")


# Through an asynchronous generator, and in a task without a name of its own.
SPIN_ITEMS = make_spin("items")


async def wait_for_items():
    await asyncio.create_task(spin_items_soon(), name="item \u00e9")


async def spin_items_soon():
    SPIN_ITEMS(SECONDS)


async def items():
    yield await wait_for_items()


async def consume():
    async for _ in items():
        pass


async def main():
    await accept()
    await group()
    await consume()

EXPECTED["chain"] = ["spin_chain", "read", "[task: reader]", "fetch", "serve",
                     "[task: server]", "accept", "main", "[task: Task-1]"]
EXPECTED["group"] = ["spin_group", "member", ["[task: one]", "[task: two]"]]
if AWAITED_BY:
    EXPECTED["group"] += ["TaskGroup._aexit", "TaskGroup.__aexit__", "group", "main", "[task: Task-1]"]
EXPECTED["items"] = ["spin_items", "spin_items_soon", "[task: item \u00e9]",
                     "wait_for_items", "items", "consume", "main", "[task: Task-1]"]
asyncio.run(main())
print(json.dumps(EXPECTED), flush=True)
