"""Sleeps in hold(item), whose argument has every kind of attribute that is read."""

import time


class Base:
    __slots__ = ("parent", "unset", "__dict__")


class Item(Base):
    pass


def hold(item):
    print("end", flush=True)
    time.sleep(1000)
    return item


item = Item()
item.parent = Item()
item.parent.name = "the parent"
item.text = "timeout"
item.small = 7
item.large = 10**15 + 3
item.negative = -3
item.zero = 0
item.share = 2.5
item.items = [1, item.parent]
item.pair = ("a", "b")
item.gone = 1
del item.gone
item.by_name = {"timeout": 12, "method": "thread"}
for i in range(100):  # more than the keys that instances share
    setattr(item.parent, "a%d" % i, i)
hold(item)
