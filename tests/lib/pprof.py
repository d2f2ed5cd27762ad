"""A reader of profile.pb.gz, with its own table of profile.proto's fields."""

import gzip

# message -> field number -> (name, kind); "*" marks a repeated field.
SCHEMA = {
    "Profile": {
        1: ("sample_type*", "ValueType"), 2: ("sample*", "Sample"),
        3: ("mapping*", "Mapping"), 4: ("location*", "Location"),
        5: ("function*", "Function"), 6: ("string_table*", "string"),
        9: ("time_nanos", "int"), 10: ("duration_nanos", "int"),
        11: ("period_type", "ValueType"), 12: ("period", "int"),
        13: ("comment*", "int"), 14: ("default_sample_type", "int"),
    },
    "ValueType": {1: ("type", "int"), 2: ("unit", "int")},
    "Sample": {1: ("location_id*", "packed"), 2: ("value*", "packed"), 3: ("label*", "Label")},
    "Label": {1: ("key", "int"), 2: ("str", "int"), 3: ("num", "int"), 4: ("num_unit", "int")},
    "Mapping": {
        1: ("id", "int"), 2: ("memory_start", "int"), 3: ("memory_limit", "int"),
        4: ("file_offset", "int"), 5: ("filename", "int"), 6: ("build_id", "int"),
        7: ("has_functions", "int"),
    },
    "Location": {
        1: ("id", "int"), 2: ("mapping_id", "int"), 3: ("address", "int"), 4: ("line*", "Line"),
    },
    "Line": {1: ("function_id", "int"), 2: ("line", "int")},
    "Function": {
        1: ("id", "int"), 2: ("name", "int"), 3: ("system_name", "int"),
        4: ("filename", "int"), 5: ("start_line", "int"),
    },
}


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def packed(data):
    values, at = [], 0
    while at < len(data):
        value, at = varint(data, at)
        values.append(value)
    return values


def message(kind, data):
    """The message as a dict; raises on a field or a wire type that is unknown."""
    fields = SCHEMA[kind]
    found = {name.rstrip("*"): [] if name.endswith("*") else 0 for name, _ in fields.values()}
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        name, what = fields[tag >> 3]
        if tag & 7 == 0:
            value, at = varint(data, at)
            assert what == "int", (kind, name)
        else:
            assert tag & 7 == 2 and what != "int", (kind, name)
            length, at = varint(data, at)
            raw = data[at:at + length]
            assert len(raw) == length
            at += length
            if what == "string":
                value = raw.decode("utf-8")
            else:
                value = packed(raw) if what == "packed" else message(what, raw)
        if what == "packed":
            found[name[:-1]].extend(value)
        elif name.endswith("*"):
            found[name[:-1]].append(value)
        else:
            found[name] = value
    return found


def read(path):
    with gzip.open(path, "rb") as f:
        return message("Profile", f.read())


def check(profile):
    """Every id resolves, and string 0 is "". Raises AssertionError."""
    strings = profile["string_table"]
    assert strings[0] == ""
    functions = {f["id"]: f for f in profile["function"]}
    mappings = {m["id"] for m in profile["mapping"]} | {0}
    locations = {l["id"]: l for l in profile["location"]}
    assert 0 not in functions and 0 not in locations
    assert len(functions) == len(profile["function"])
    for location in locations.values():
        assert location["mapping_id"] in mappings
        assert location["line"] and all(l["function_id"] in functions for l in location["line"])
    for function in functions.values():
        assert max(function["name"], function["filename"]) < len(strings)
    for sample in profile["sample"]:
        assert len(sample["value"]) == len(profile["sample_type"])
        assert sample["location_id"] and all(i in locations for i in sample["location_id"])
        assert all(label["key"] < len(strings) for label in sample["label"])


def labels(profile, sample):
    strings = profile["string_table"]
    return {
        strings[label["key"]]: strings[label["str"]] if label["str"] else label["num"]
        for label in sample["label"]
    }
