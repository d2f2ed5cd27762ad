/*
 * From _PyRuntime to thread states: which PyThreadState belongs to a thread, and
 * who holds the GIL. Interpreters and their threads are linked lists in the
 * target's memory: walked with a count limit and a check for cycles.
 *
 * A thread state may appear or vanish at any time (torch's autograd threads make
 * one for each visit to Python), so it is checked at every read.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "python_priv.h"
#include "stacksample/sys.h"

#define LIST_EVERY_NS UINT64_C(2000000) /* between two listings */
#define RETRY_FIRST_NS                                                                   \
  UINT64_C(20000000)                         /* a thread without Python, or with         \
                                              * evaluations of another: doubles */
#define RETRY_LONGEST_NS UINT64_C(640000000) /* up to this */
#define AGAIN_LONGEST_NS UINT64_C(40000000)  /* or this, where some frames are missing */

/* struct pthread's tid: glibc and musl on x86-64. Which one is found by looking
 * for the main thread's. */
static const uint32_t pthread_tids[] = {0x2d0, 0x30};

/* The innermost id of the line "NSpid:" of a status file; 0 if unknown. */
static pid_t innermost_id(pid_t pid, pid_t tid)
{
  char path[64], text[4096];
  snprintf(path, sizeof path, "/proc/%d/task/%d/status", (int)pid, (int)tid);
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0)
    return 0;
  const ssize_t got = ss_read_some(fd, text, sizeof text - 1);
  ss_close(&fd);
  if (got <= 0)
    return 0;
  text[got] = '\0';
  const char *line = strstr(text, "\nNSpid:");
  if (!line)
    return 0;
  line += strlen("\nNSpid:");
  long id = 0;
  for (char *end; *line != '\n' && *line != '\0'; line = end) {
    const long next = strtol(line, &end, 10);
    if (end == line)
      break;
    id = next;
  }
  return (pid_t)id;
}

void ss_py_threads_open(struct ss_py *py)
{
  const pid_t id = innermost_id(py->space->pid, py->space->pid);
  py->ns_pid = id > 0 ? id : py->space->pid;
  py->nested_pid_ns = py->ns_pid != py->space->pid;
}

/* ---- listing ------------------------------------------------------------- */

/* gettid() of a thread state's thread, in the target's namespace; 0 unknown. */
static pid_t native_tid(struct ss_py *py, const struct ss_mem *mem,
                        const unsigned char *tstate)
{
  const struct ss_py_layout *l = &py->layout;
  if (l->tstate_native_id != SS_PY_ABSENT)
    return (pid_t)ss_py_u32(tstate, l->tstate_native_id);
  const uint64_t pthread = ss_py_u64(tstate, l->tstate_thread_id);
  uint32_t tid = 0;
  if (py->pthread_tid != 0)
    return ss_mem_u32(mem, pthread + py->pthread_tid, &tid) ? (pid_t)tid : 0;
  for (size_t i = 0; i < sizeof pthread_tids / sizeof *pthread_tids; i++)
    if (ss_mem_u32(mem, pthread + pthread_tids[i], &tid) && (pid_t)tid == py->ns_pid) {
      py->pthread_tid = pthread_tids[i];
      return (pid_t)tid;
    }
  return 0;
}

static void add_found(struct ss_py *py, pid_t tid, uint64_t tstate)
{
  if (tid <= 0 ||
      !ss_grow(&py->found, &py->found_cap, py->found_count + 1, sizeof *py->found))
    return;
  const uint64_t *first = ss_idmap_get(&py->native, (uint64_t)tid);
  py->found[py->found_count] = (struct ss_py_found){tstate, first ? (uint32_t)*first : 0};
  ss_idmap_put(&py->native, (uint64_t)tid, ++py->found_count);
}

/* Brent's cycle check: `mark` is left behind at powers of two. */
struct list_guard {
  uint64_t mark;
  size_t steps, next_mark, max;
};
static bool list_goes_on(struct list_guard *g, uint64_t item)
{
  if (item == 0 || item == g->mark || g->steps >= g->max)
    return false;
  if (g->steps++ == g->next_mark) {
    g->mark = item;
    g->next_mark = g->next_mark * 2 + 1;
  }
  return true;
}

static void list_interp(struct ss_py *py, const struct ss_mem *mem, uint64_t interp)
{
  const struct ss_py_layout *l = &py->layout;
  unsigned char bytes[SS_PY_MAX_tstate];
  struct list_guard guard = {.max = SS_THREADS_MAX};
  uint64_t tstate;
  if (!ss_mem_u64(mem, interp + l->interp_threads, &tstate))
    return;
  while (list_goes_on(&guard, tstate)) {
    if (!ss_mem_get(mem, tstate, bytes, l->tstate_need) ||
        ss_py_u64(bytes, l->tstate_interp) != interp) {
      py->counts.rejected++;
      return;
    }
    add_found(py, native_tid(py, mem, bytes), tstate);
    tstate = ss_py_u64(bytes, l->tstate_next);
  }
  if (tstate != 0)
    py->counts.rejected++;
}

static void list_interps(struct ss_py *py)
{
  const struct ss_py_layout *l = &py->layout;
  const struct ss_mem *mem = py->space->live;
  struct list_guard guard = {.max = SS_PY_INTERPS_MAX};
  uint64_t interp;
  ss_idmap_release(&py->native);
  py->found_count = 0;
  if (!ss_mem_u64(mem, py->runtime + l->runtime_interpreters, &interp))
    return;
  while (list_goes_on(&guard, interp)) {
    list_interp(py, mem, interp);
    if (!ss_mem_u64(mem, interp + l->interp_next, &interp))
      return;
  }
  if (interp != 0)
    py->counts.rejected++;
}

static void list_all(struct ss_py *py)
{
  const uint32_t known = py->pthread_tid;
  py->listed_ns = py->now_ns;
  list_interps(py);
  if (py->pthread_tid != known) /* the main thread, listed last, gave it away */
    list_interps(py);
}

/* ---- threads ------------------------------------------------------------- */

void ss_py_threads_release(struct ss_py *py)
{
  for (size_t i = 0; i < py->thread_count; i++)
    free(py->threads[i]);
  free(py->threads);
  free(py->found);
  py->threads = NULL;
  py->found = NULL;
  py->thread_count = py->thread_cap = py->found_count = py->found_cap = 0;
  ss_idmap_release(&py->thread_index);
  ss_idmap_release(&py->native);
}

struct ss_py_thread *ss_py_thread_find(const struct ss_py *py, pid_t tid)
{
  const uint64_t *index = ss_idmap_get(&py->thread_index, (uint64_t)tid);
  return index ? py->threads[*index] : NULL;
}

static struct ss_py_thread *thread_add(struct ss_py *py, pid_t tid)
{
  if (py->thread_count >= SS_THREADS_MAX)
    ss_py_threads_release(py);
  if (!ss_grow(&py->threads, &py->thread_cap, py->thread_count + 1, sizeof *py->threads))
    return NULL;
  struct ss_py_thread *t = calloc(1, sizeof *t);
  if (!t || !ss_idmap_put(&py->thread_index, (uint64_t)tid, py->thread_count)) {
    free(t);
    return NULL;
  }
  t->tid = tid;
  t->ns_tid = py->nested_pid_ns ? innermost_id(py->space->pid, tid) : tid;
  t->generation = ++py->generation;
  py->threads[py->thread_count++] = t;
  return t;
}

static void wait_longer(const struct ss_py *py, struct ss_py_thread *t, uint64_t longest)
{
  t->wait_ns = t->wait_ns == 0 ? RETRY_FIRST_NS : t->wait_ns * 2;
  if (t->wait_ns > longest)
    t->wait_ns = longest;
  t->retry_ns = py->now_ns + t->wait_ns;
}

static void take_found(struct ss_py *py, struct ss_py_thread *t)
{
  const uint64_t *first = ss_idmap_get(&py->native, (uint64_t)t->ns_tid);
  t->count = 0;
  t->gil = 0;
  for (uint64_t at = first ? *first : 0; at != 0 && t->count < SS_PY_TSTATES_MAX;
       at = py->found[at - 1].next)
    t->tstate[t->count++] = py->found[at - 1].tstate;
  /* Found last comes first, and is of the oldest interpreter; the newest is the one
   * that was called from the others. */
  for (unsigned i = 0; i < t->count / 2; i++) {
    const uint64_t swap = t->tstate[i];
    t->tstate[i] = t->tstate[t->count - 1 - i];
    t->tstate[t->count - 1 - i] = swap;
  }
}

bool ss_py_thread_look_again(struct ss_py *py, struct ss_py_thread *t)
{
  uint64_t before[SS_PY_TSTATES_MAX];
  const unsigned count = t->count;
  if (py->now_ns < t->retry_ns || py->now_ns - py->listed_ns < LIST_EVERY_NS)
    return false;
  memcpy(before, t->tstate, sizeof before);
  list_all(py);
  take_found(py, t);
  if (t->count != count || memcmp(before, t->tstate, count * sizeof *before) != 0) {
    t->wait_ns = 0;
    return true;
  }
  wait_longer(py, t, AGAIN_LONGEST_NS);
  return false;
}

struct ss_py_thread *ss_py_thread_get(struct ss_py *py, pid_t tid, bool sure)
{
  struct ss_py_thread *t = ss_py_thread_find(py, tid);
  if (!t)
    t = thread_add(py, tid);
  if (!t || t->count > 0 || (!sure && py->now_ns < t->retry_ns))
    return t;
  if (py->now_ns - py->listed_ns >= LIST_EVERY_NS)
    list_all(py);
  take_found(py, t);
  if (t->count > 0) {
    t->wait_ns = 0;
    return t;
  }
  wait_longer(py, t, RETRY_LONGEST_NS);
  return t;
}

bool ss_py_tstate_read(struct ss_py *py, const struct ss_mem *mem, uint64_t tstate,
                       pid_t ns_tid, unsigned char bytes[SS_PY_MAX_tstate])
{
  return ss_mem_get(mem, tstate, bytes, py->layout.tstate_need) &&
         native_tid(py, mem, bytes) == ns_tid;
}

/* ---- the GIL ------------------------------------------------------------- */

/* sizeof(struct _gil_runtime_state), free-threaded, rounded up: two conditions and
 * two mutexes follow the fields. */
enum { GIL_SIZE = 224 };

uint64_t ss_py_gil_address(struct ss_py *py, const struct ss_mem *mem,
                           struct ss_py_thread *t)
{
  const struct ss_py_layout *l = &py->layout;
  unsigned char bytes[SS_PY_MAX_tstate];
  if (t->gil != 0 || t->count == 0)
    return t->gil;
  if (l->runtime_gil != SS_PY_ABSENT)
    t->gil = py->runtime + l->runtime_gil;
  else if (!ss_py_tstate_read(py, mem, t->tstate[0], t->ns_tid, bytes) ||
           !ss_mem_u64(mem, ss_py_u64(bytes, l->tstate_interp) + l->interp_gil, &t->gil))
    t->gil = 0;
  return t->gil;
}

bool ss_py_is_gil_word(struct ss_py *py, pid_t tid, const struct ss_mem *mem,
                       uint64_t addr)
{
  py->now_ns = ss_now_ns();
  struct ss_py_thread *t = ss_py_thread_get(py, tid, false);
  const uint64_t gil = t ? ss_py_gil_address(py, mem, t) : 0;
  return gil != 0 && addr >= gil && addr - gil < GIL_SIZE;
}

/* Thread state that holds it; 0 nobody. false: unknown. */
static bool gil_tstate(const struct ss_py *py, const struct ss_mem *mem, uint64_t gil,
                       uint64_t *holder)
{
  const struct ss_py_layout *l = &py->layout;
  unsigned char bytes[SS_PY_MAX_gil];
  if (!ss_mem_get(mem, gil, bytes, l->gil_need))
    return false;
  const bool enabled =
      l->gil_enabled == SS_PY_ABSENT || ss_py_u32(bytes, l->gil_enabled) != 0;
  /* last_holder is not cleared at a release. */
  const bool locked = ss_py_u32(bytes, l->gil_locked) == 1;
  *holder = enabled && locked ? ss_py_u64(bytes, l->gil_holder) : 0;
  return true;
}

static pid_t our_tid(const struct ss_py *py, pid_t ns_tid)
{
  if (!py->nested_pid_ns)
    return ns_tid;
  for (size_t i = 0; i < py->thread_count; i++)
    if (py->threads[i]->ns_tid == ns_tid)
      return py->threads[i]->tid;
  return -1;
}

pid_t ss_py_gil_holder(struct ss_py *py, pid_t tid, const struct ss_mem *mem)
{
  unsigned char bytes[SS_PY_MAX_tstate];
  uint64_t holder;
  py->now_ns = ss_now_ns();
  struct ss_py_thread *t = ss_py_thread_get(py, tid, false);
  const uint64_t gil = t ? ss_py_gil_address(py, mem, t) : 0;
  if (gil == 0 || !gil_tstate(py, mem, gil, &holder))
    return -1;
  if (holder == 0)
    return 0;
  for (unsigned i = 0; i < t->count; i++)
    if (holder == t->tstate[i])
      return tid;
  if (!ss_mem_get(mem, holder, bytes, py->layout.tstate_need))
    return -1;
  const pid_t ns_tid = native_tid(py, mem, bytes);
  return ns_tid > 0 ? our_tid(py, ns_tid) : -1;
}
