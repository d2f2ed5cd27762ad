/*
 * The limit that @pytest.mark.timeout gives the test that runs: no command line and no
 * file names it, but pytest's item does, which is the first argument of runtestprotocol
 * (_pytest/runner.py) for as long as its test runs. Markers of the item come before those
 * of its class, module and folders; the first one counts, as in get_closest_marker.
 */
#include "stacksample/context.h"
#include "stacksample/python.h"

enum {
  NODES_MAX = 32, /* from the item to the session */
  MARKERS_MAX = 64
};

/* timeout(SECONDS, ...) or timeout(timeout=SECONDS). */
static bool seconds_of(struct ss_py *py, uint64_t marker, double *seconds)
{
  uint64_t arguments, value;

  return ((ss_py_attribute(py, marker, "args", &arguments) &&
           ss_py_element(py, arguments, 0, &value)) ||
          (ss_py_attribute(py, marker, "kwargs", &arguments) &&
           ss_py_item(py, arguments, "timeout", &value))) &&
         ss_py_number(py, value, seconds);
}

static bool marker_of(struct ss_py *py, uint64_t node, uint64_t *marker)
{
  uint64_t markers, name;

  if (!ss_py_attribute(py, node, "own_markers", &markers))
    return false;
  for (uint64_t i = 0; i < MARKERS_MAX && ss_py_element(py, markers, i, marker); i++)
    if (ss_py_attribute(py, *marker, "name", &name) && ss_py_is_str(py, name, "timeout"))
      return true;
  return false;
}

bool ss_pytest_marker_limit(struct ss_py *py, pid_t tid, double *seconds)
{
  uint64_t item, node, marker = 0, timer;

  if (!ss_py_argument(py, tid, "runtestprotocol", "/_pytest/runner.py", &item))
    return false;
  node = item;
  for (unsigned i = 0; i < NODES_MAX && !marker_of(py, node, &marker); i++)
    if (!ss_py_attribute(py, node, "parent", &node))
      return false;
  if (marker == 0 || !seconds_of(py, marker, seconds) || !(*seconds >= 0))
    return false;
  /* What pytest-timeout leaves with the item when it starts its clock. */
  return *seconds == 0 || ss_py_attribute(py, item, "cancel_timeout", &timer);
}
