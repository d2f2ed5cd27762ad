"""What Holistic Trace Analysis makes of a profiler.json, as JSON on the last line.
usage: hta_facts.py FILE (with the packages of HTA on PYTHONPATH). The file is named:
of a folder, HTA would take every .json and .gz for a trace."""

import json
import sys
import warnings

warnings.simplefilter("ignore")

from hta.common.trace import Trace  # noqa: E402
from hta.common.trace_call_graph import CallGraph  # noqa: E402
from hta.utils.validate_trace import validate_trace_format  # noqa: E402

FILE = sys.argv[1]
trace = Trace(trace_files={0: FILE}, trace_dir="")
trace.parse_traces(use_multiprocessing=False)
trace.decode_symbol_ids(use_shorten_name=False)
events = trace.get_trace(0)
CallGraph(trace)  # adds parent and depth to the events
ok, errors = validate_trace_format(FILE)
print(json.dumps({
    "slices": len(events),
    "categories": {name: int(n) for name, n in events.groupby("s_cat").size().items()},
    "names": sorted(set(events["s_name"])),
    "columns": sorted(events.columns),
    "depth": int(events["depth"].max()) + 1 if "depth" in events else None,
    "valid": ok,
    "errors": {k: str(v) for k, v in errors.items()},
}))
