/*
 * The processes of a look: known ones are kept from look to look with what was
 * opened and read for them; what their heading says is read anew each time.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "stacksample/fsafe.h"
#include "stacksample/limits.h"
#include "stacksample/output.h"
#include "stacksample/sys.h"

#include "look_priv.h"

#define NOW_NS UINT64_C(5000000000) /* CPU use over more than this is not "now" */

void ss_known_free(struct known_process *k)
{
  ss_py_free(k->py);
  ss_perf_map_free(k->space.jit);
  ss_testenv_release(&k->env);
  ss_maps_release(&k->maps);
  ss_mem_live_release(&k->live);
  free(k);
}

/* Tells one image of a process from the next after an exec: addresses in it are
 * random (AT_RANDOM, AT_SYSINFO_EHDR, AT_ENTRY of getauxval(3)). */
static uint64_t image_of(pid_t pid)
{
  struct ss_buf auxv = {0};
  char path[64];
  uint64_t hash;

  snprintf(path, sizeof(path), "/proc/%d/auxv", (int)pid);
  (void)ss_file_read_all(AT_FDCWD, path, 4096, &auxv, NULL);
  hash = ss_hash_bytes(ss_buf_str(&auxv), auxv.len);
  ss_buf_release(&auxv);
  return hash;
}

static struct known_process *known_new(struct ss_looker *l, pid_t pid)
{
  struct known_process *k = calloc(1, sizeof(*k));

  if (k == NULL || !ss_identity_get(&k->id, pid)) {
    free(k);
    return NULL;
  }
  k->image = image_of(pid);
  ss_mem_live_init(&k->live, pid);
  ss_maps_init(&k->maps, l->paths);
  k->space = (struct ss_unwind_space){
      .pid = pid, .maps = &k->maps, .modules = l->modules, .live = &k->live.mem};
  k->next = l->processes;
  l->processes = k;
  return k;
}

/* The process as we know it; a number that came back is somebody new,
 * and so is one that has exec'd. Its mappings are read at each look. */
struct known_process *ss_know(struct ss_looker *l, pid_t pid, struct ss_diag *diag)
{
  struct known_process **link = &l->processes, *k;

  while (*link && (*link)->id.pid != pid)
    link = &(*link)->next;
  k = *link;
  if (k && (!ss_identity_alive(&k->id) || k->image != image_of(pid))) {
    *link = k->next;
    ss_unwinder_forget(l->unwinder, pid);
    ss_known_free(k);
    k = NULL;
  }
  if (k == NULL)
    k = known_new(l, pid);
  if (k == NULL) {
    ss_fail(diag, SS_ERR_GONE, "process %d has ended", (int)pid);
    return NULL;
  }
  if (ss_maps_load(&k->maps, pid, diag) != SS_ERR_OK) {
    if (diag->err == SS_ERR_GONE)
      ss_fail(diag, SS_ERR_GONE, "process %d has ended", (int)pid);
    return NULL;
  }
  (void)ss_perf_map_load(&k->space.jit, pid, &k->maps, NULL);
  return k;
}

static void describe_command(struct ss_look_process *p)
{
  struct ss_words words = {0};
  struct ss_buf quoted = {0};
  struct ss_stat st;

  if (ss_words_read(&words, p->pid, "cmdline", SS_CMDLINE_MAX))
    (void)ss_command_quote(&quoted, words.items, false);
  else if (ss_stat_read(&st, p->pid, 0))
    ss_buf_addf(&quoted, "[%s]", st.comm);
  p->command = strdup(ss_buf_str(&quoted));
  ss_words_release(&words);
  ss_buf_release(&quoted);
}

static void describe_use(struct known_process *k, struct ss_look_process *p)
{
  uint64_t now_ns = ss_now_ns();
  struct ss_stat st;

  p->busy = -1;
  p->cpus = ss_cpus_allowed(p->pid);
  if (!ss_stat_read(&st, p->pid, 0))
    return;
  p->ppid = st.ppid;
  p->up_ns = ss_stat_age_ns(&st);
  p->cpu_ns = ss_ticks_ns(st.utime_ticks + st.stime_ticks);
  if (k->at_ns && now_ns > k->at_ns && now_ns - k->at_ns < NOW_NS)
    p->busy = (double)(p->cpu_ns - k->cpu_ns) / (double)(now_ns - k->at_ns);
  k->cpu_ns = p->cpu_ns;
  k->at_ns = now_ns;
}

void ss_look_describe(struct known_process *k, struct ss_look_process *p,
                      const struct ss_look_options *options)
{
  struct ss_test_id test;

  describe_use(k, p);
  describe_command(p);
  (void)ss_testenv_update(&k->env, &k->space, &k->live.mem);
  snprintf(p->worker, sizeof(p->worker), "%s", k->env.worker);
  p->test_ns = SS_LOOK_UNKNOWN;
  if (k->env.value == NULL)
    return;
  ss_test_parse(k->env.value, k->env.value_len, &test);
  p->test = strndup(test.id, test.id_len);
  snprintf(p->phase, sizeof(p->phase), "%.*s", (int)test.phase_len, test.phase);
  if (p->test && options->test && strcmp(p->test, options->test) == 0)
    p->test_ns = ss_now_ns() - options->phase_start_ns;
}
