/*
 * A look as JSON: the keys of `dump --json`, innermost frame
 * first; what is not known is absent.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "stacksample/escape.h"
#include "stacksample/text.h"

#include "look_priv.h"

#define DUMP_SCHEMA 1

/* Valid UTF-8 and no raw controls, whatever the target called it. */
static void add_string(cJSON *object, const char *key, const char *text)
{
  struct ss_buf escaped = {0};

  if (text == NULL)
    return;
  ss_buf_addc(&escaped, '"');
  ss_escape_json(&escaped, text, strlen(text));
  ss_buf_addc(&escaped, '"');
  cJSON_AddRawToObject(object, key, ss_buf_str(&escaped));
  ss_buf_release(&escaped);
}

static cJSON *frame_json(const struct ss_look_frame *f)
{
  cJSON *o = cJSON_CreateObject();
  char offset[32];

  add_string(o, "kind", f->python ? "python" : f->task ? "task" : "native");
  add_string(o, "name", f->name);
  if (f->task)
    return o;
  if (f->python) {
    add_string(o, "file", f->file);
    if (f->line > 0)
      cJSON_AddNumberToObject(o, "line", f->line);
    if (f->first_line > 0)
      cJSON_AddNumberToObject(o, "first_line", f->first_line);
    return o;
  }
  add_string(o, "library", f->module);
  snprintf(offset, sizeof(offset), "0x%" PRIx64, f->offset);
  add_string(o, "offset", offset);
  return o;
}

/* What verdicts need to know of the thing waited for. */
static void add_wait(cJSON *thread, const struct ss_look_thread *t)
{
  char address[32];
  cJSON *wait;

  if (t->futex == 0)
    return;
  wait = cJSON_AddObjectToObject(thread, "wait");
  snprintf(address, sizeof(address), "0x%" PRIx64, t->futex);
  add_string(wait, "futex", address);
  if (t->state == SS_STATE_GIL && t->gil_holder >= 0)
    cJSON_AddNumberToObject(wait, "gil_holder", t->gil_holder);
}

static cJSON *thread_json(const struct ss_look_thread *t)
{
  cJSON *o = cJSON_CreateObject(), *frames, *call;

  cJSON_AddNumberToObject(o, "pid", t->pid);
  cJSON_AddNumberToObject(o, "tid", t->tid);
  add_string(o, "name", t->name);
  add_string(o, "role", t->role);
  add_string(o, "state", ss_state_word(t->state));
  if (t->for_ns != SS_LOOK_UNKNOWN)
    cJSON_AddNumberToObject(o, "for_s", (double)t->for_ns / 1e9);
  cJSON_AddNumberToObject(o, "cpu_s", (double)t->cpu_ns / 1e9);
  if (t->syscall) {
    call = cJSON_AddObjectToObject(o, "syscall");
    add_string(call, "name", t->syscall);
    add_string(call, "object", t->object);
  }
  add_wait(o, t);
  if (t->uninterruptible)
    cJSON_AddBoolToObject(o, "uninterruptible", true);
  frames = cJSON_AddArrayToObject(o, "frames");
  for (size_t i = 0; i < t->n_frames; i++)
    cJSON_AddItemToArray(frames, frame_json(&t->frames[i]));
  cJSON_AddBoolToObject(o, "complete", t->complete);
  if (t->has_python)
    cJSON_AddBoolToObject(o, "verified", t->verified);
  add_string(o, "why", t->why);
  if (t->stopped_ns)
    cJSON_AddNumberToObject(o, "stopped_ms", (double)t->stopped_ns / 1e6);
  return o;
}

static void add_test_of(cJSON *object, const struct ss_look_process *p)
{
  cJSON *test;

  if (p->test == NULL)
    return;
  test = cJSON_AddObjectToObject(object, "test");
  add_string(test, "id", p->test);
  if (p->phase[0])
    add_string(test, "phase", p->phase);
  if (p->test_ns != SS_LOOK_UNKNOWN)
    cJSON_AddNumberToObject(test, "for_s", (double)p->test_ns / 1e9);
}

static cJSON *process_json(const struct ss_look_process *p)
{
  cJSON *o = cJSON_CreateObject();

  cJSON_AddNumberToObject(o, "pid", p->pid);
  cJSON_AddNumberToObject(o, "ppid", p->ppid);
  add_string(o, "command", p->command);
  if (p->python[0])
    add_string(o, "python", p->python);
  if (p->worker[0])
    add_string(o, "worker", p->worker);
  if (p->why[0]) {
    add_string(o, "why", p->why);
    return o;
  }
  cJSON_AddNumberToObject(o, "up_s", (double)p->up_ns / 1e9);
  cJSON_AddNumberToObject(o, "cpu_s", (double)p->cpu_ns / 1e9);
  if (p->busy >= 0)
    cJSON_AddNumberToObject(o, "busy_cpus", p->busy);
  if (p->cpus)
    cJSON_AddNumberToObject(o, "cpus", p->cpus);
  add_test_of(o, p);
  return o;
}

/* The test that the dump is for, else the first one: the controller of xdist has none. */
static void add_test(cJSON *root, const struct ss_look *look)
{
  const struct ss_look_process *of = NULL;

  for (size_t i = 0; i < look->n_processes; i++) {
    const struct ss_look_process *p = &look->processes[i];
    if (p->test && (of == NULL || of->test_ns == SS_LOOK_UNKNOWN))
      of = p;
  }
  if (of == NULL)
    cJSON_AddNullToObject(root, "test");
  else
    add_test_of(root, of);
}

enum ss_err ss_look_json(const struct ss_look *look, const struct ss_look_print *print,
                         struct ss_buf *out, struct ss_diag *diag)
{
  cJSON *root = cJSON_CreateObject(), *list;
  char *text, at[SS_UTC_MAX];

  cJSON_AddNumberToObject(root, "schema", DUMP_SCHEMA);
  add_string(root, "at", ss_utc(at, look->wall_ns));
  add_test(root, look);
  cJSON_AddNullToObject(root, "verdict");
  cJSON_AddNumberToObject(root, "looks", print->looks);
  list = cJSON_AddArrayToObject(root, "processes");
  for (size_t i = 0; i < look->n_processes; i++)
    cJSON_AddItemToArray(list, process_json(&look->processes[i]));
  list = cJSON_AddArrayToObject(root, "threads");
  for (size_t i = 0; i < look->n_threads; i++)
    cJSON_AddItemToArray(list, thread_json(&look->threads[i]));
  cJSON_AddNumberToObject(root, "stops", look->stops);
  cJSON_AddNumberToObject(root, "unvisited", (double)look->unvisited);
  cJSON_AddNumberToObject(root, "took_ms", (double)look->took_ns / 1e6);
  text = cJSON_Print(root);
  cJSON_Delete(root);
  if (text == NULL)
    return ss_fail(diag, SS_ERR_NOMEM, "no memory for a dump's JSON");
  ss_buf_adds(out, text);
  ss_buf_addc(out, '\n');
  free(text);
  return SS_ERR_OK;
}
