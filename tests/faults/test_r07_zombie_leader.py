"""R07: the main thread has ended, the others run on."""

import harness
from faults import dump, native_names
from harness import eventually, state

SOURCE = r"""
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
static void *stays(void *arg)
{
  (void)arg;
  puts("READY");
  fflush(stdout);
  pause();
  return NULL;
}
int main(void)
{
  pthread_t thread;
  pthread_create(&thread, NULL, stays, NULL);
  pthread_exit(NULL);
}
"""


def test_others_are_looked_at(process, tmp_path):
    source, program = tmp_path / "leader.c", tmp_path / "leader"
    source.write_text(SOURCE)
    assert harness.run(["cc", "-o", str(program), str(source), "-pthread"]).returncode == 0
    target = process([str(program)])
    target.until(b"READY")
    eventually(lambda: state(target.pid) == "Z", "the leader has ended")

    def waits():
        other = dump(target.pid)["threads"][-1]
        return other if other["complete"] else None

    other = eventually(waits, "the other thread's stack")
    assert other["tid"] != target.pid
    assert "stays" in native_names(other) and other["syscall"]["name"] == "pause"
