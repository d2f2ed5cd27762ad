/*
 * The life of a session: bundle and profile.db first, then the engine, then the
 * outputs in their finishing order.
 *
 * Nothing here may change the fate of the command: after the start every
 * failure becomes a note, a line in the summary, and an entry in the manifest.
 */
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>

#include "stacksample/escape.h"
#include "stacksample/hash.h"
#include "stacksample/limits.h"
#include "stacksample/meta.h"
#include "stacksample/sys.h"

#include "cli_priv.h"

static const char profile_name[] = "profile.db";

const char *const ss_engine_names[] = {"auto", "perf", "ptrace", NULL};
const char *const ss_env_names[] = {"full", "redacted", "none", NULL};

void ss_session_defaults(struct ss_session_options *o)
{
  *o = (struct ss_session_options){.output = "stacksample-out",
                                   .rate_hz = SS_RATE_DEFAULT_HZ,
                                   .audit_every = SS_AUDIT_EVERY,
                                   .env = SS_ENV_REDACTED};
}

/* ---- outputs ------------------------------------------------------------------- */

bool ss_formats_check(const char *format, const char *command)
{
  struct ss_diag diag = {0};

  if (ss_writer_check_list(format, &diag) == SS_ERR_OK)
    return true;
  ss_say("--format: %s (stacksample %s --help)", diag.text, command);
  return false;
}

enum ss_err ss_outputs_write(struct ss_bundle *bundle, enum ss_outputs which,
                             const char *format, const struct ss_write_options *options,
                             const struct ss_hurry *hurry, unsigned *failed,
                             struct ss_diag *diag)
{
  struct ss_profile *profile = NULL;
  enum ss_err err = ss_profile_open(&profile, ss_bundle_dir(bundle), profile_name, diag);

  *failed = 0;
  if (err == SS_ERR_OK)
    err = ss_profile_filter(profile, &options->filter, diag);
  for (const struct ss_writer *w = ss_writers; w->format && err == SS_ERR_OK; w++) {
    bool always = w->always && which == SS_OUTPUTS_OF_RUN;
    if (!always && !ss_writer_named(w, format))
      continue;
    if (!w->always && hurry && hurry->asked(hurry->arg))
      ss_bundle_absent(bundle, w->file,
                       "interrupted again; `stacksample report` makes it");
    else if (ss_bundle_write(bundle, w, profile, options, diag) != SS_ERR_OK)
      (*failed)++;
  }
  ss_profile_close(profile);
  return err;
}

/* ---- start ---------------------------------------------------------------------- */

enum ss_err ss_session_open(struct ss_session *s, const struct ss_session_options *o,
                            struct ss_diag *diag)
{
  enum ss_err err;

  /* A limit on the size of files is an error of a write, not our end. The
   * command was forked before this. */
  signal(SIGXFSZ, SIG_IGN);
  *s = (struct ss_session){.options = o, .own_cpu_ns = ss_own_cpu_ns()};
  s->notes = ss_notes_new();
  if (s->notes == NULL)
    return ss_fail(diag, SS_ERR_NOMEM, "no memory to start");
  err = ss_bundle_create(&s->bundle, o->output, o->stamp, diag);
  if (err == SS_ERR_OK)
    err = ss_store_create(&s->store, ss_bundle_dir(s->bundle), profile_name, diag);
  if (err != SS_ERR_OK && s->bundle) {
    ss_bundle_discard(s->bundle);
    s->bundle = NULL;
  }
  if (err != SS_ERR_OK)
    ss_session_free(s);
  return err;
}

void ss_session_lacks(const struct ss_session *s, const char *what,
                      const struct ss_diag *diag)
{
  ss_say("%s is missing: %s", what, diag->text);
  ss_note(s->notes, "%s is missing: %s", what, diag->text);
}

static enum ss_err open_events(struct ss_session *s, pid_t pid, bool enable_on_exec,
                               struct ss_diag *diag)
{
  struct ss_perf_config config = {
      .rate_hz = (uint32_t)s->options->rate_hz,
      .snapshot = SS_STACK_SNAPSHOT_DEFAULT,
      .inherit = true,
      .threads_only = s->options->no_children,
      .switches = true,
      .enable_on_exec = enable_on_exec,
      .notes = s->notes,
  };

  return ss_perf_open(&s->perf, &config, pid, diag);
}

static enum ss_err start_pipeline(struct ss_session *s, pid_t pid, bool attached,
                                  struct ss_diag *diag)
{
  struct ss_pipeline_config config = {
      .store = s->store,
      .notes = s->notes,
      .perf = s->perf,
      .root = pid,
      .attached = attached,
      .no_python = s->options->no_python,
      .no_native = s->options->no_native,
      .no_children = s->options->no_children,
      .cpu_only = s->options->cpu_only,
      .stop_any = s->options->stop_any,
      .audit_every = s->options->audit_every,
  };

  config.capture = s->capture;
  return ss_pipeline_start(&s->pipeline, &config, diag);
}

static void close_engine(struct ss_session *s)
{
  if (s->capture)
    ss_capture_free(s->capture);
  s->capture = NULL;
  if (s->perf)
    ss_perf_close(s->perf);
  s->perf = NULL;
}

static void store_engine(struct ss_session *s)
{
  const struct ss_perf_facts *f;
  const char *method;

  ss_store_meta_u64(s->store, SS_META_RATE_HZ, s->options->rate_hz);
  ss_store_meta(s->store, SS_META_ENGINE_REASON, s->reason);
  if (s->pipeline == NULL) {
    ss_store_meta(s->store, SS_META_ENGINE, "none");
    ss_store_meta(s->store, SS_META_BLOCKED, s->blocked.text);
    return;
  }
  f = ss_capture_facts(s->capture);
  method = !s->perf            ? "stops"
           : f->kernel_samples ? "samples"
           : f->faults         ? "faults"
                               : "accounted";
  ss_store_meta(s->store, SS_META_ENGINE, s->perf ? "perf" : "ptrace");
  ss_store_meta(s->store, SS_META_KERNEL_METHOD, method);
  ss_store_meta_u64(s->store, SS_META_PERIOD_NS, f->period_ns);
  ss_store_meta_u64(s->store, SS_META_SNAPSHOT_BYTES, f->snapshot);
  if (s->perf) {
    ss_store_meta_u64(s->store, SS_META_RING_BYTES, f->ring_bytes);
    ss_store_meta_u64(s->store, SS_META_EVENTS, f->events);
  }
}

static bool add_tasks(struct ss_session *s, struct ss_idmap *seen, pid_t pid)
{
  pid_t *tids = NULL;
  size_t count = 0;
  bool news = false;
  struct ss_diag diag = {0};

  if (ss_tasks_list(pid, &tids, &count) != SS_ERR_OK)
    return false;
  for (size_t i = 0; i < count; i++) {
    if (ss_idmap_get(seen, (uint64_t)tids[i]))
      continue;
    news = true;
    (void)ss_idmap_put(seen, (uint64_t)tids[i], 1);
    if (ss_perf_add(s->perf, tids[i], &diag) != SS_ERR_OK && diag.err != SS_ERR_GONE)
      ss_note(s->notes, "thread %d of process %d is not sampled: %s", (int)tids[i],
              (int)pid, diag.text);
  }
  free(tids);
  return news;
}

/* Threads and children appear while we open: list again until nothing is new.
 * What a listed task creates after its event exists inherits it. */
static void add_tree(struct ss_session *s, pid_t root)
{
  struct ss_idmap seen = {0};
  bool news = true;

  (void)ss_idmap_put(&seen, (uint64_t)root, 1);
  for (int pass = 0; pass < 10 && news; pass++) {
    pid_t *pids = NULL;
    size_t n_pids = 0;
    news = false;
    if (s->options->no_children || ss_tree_list(root, &pids, &n_pids) != SS_ERR_OK)
      n_pids = 0;
    for (size_t i = 0; i < (n_pids ? n_pids : 1); i++)
      news |= add_tasks(s, &seen, n_pids ? pids[i] : root);
    free(pids);
  }
  ss_idmap_release(&seen);
}

/* ---- which engine ---------------------------------------------------------------- */

static enum ss_err start_perf(struct ss_session *s, pid_t root, bool attached,
                              struct ss_diag *diag)
{
  enum ss_err err = open_events(s, root, !attached, diag);

  if (err == SS_ERR_OK && attached)
    add_tree(s, root);
  if (err == SS_ERR_OK)
    err = ss_capture_start(&s->capture, s->perf, s->notes, diag);
  if (err == SS_ERR_OK)
    err = start_pipeline(s, root, attached, diag);
  if (err != SS_ERR_OK) {
    close_engine(s);
    return err;
  }
  if (attached)
    ss_perf_enable(s->perf, true);
  snprintf(s->reason, sizeof(s->reason), "%s", ss_perf_facts(s->perf)->reason);
  return SS_ERR_OK;
}

static enum ss_err start_ptrace(struct ss_session *s, pid_t root, bool attached,
                                struct ss_diag *diag)
{
  struct ss_tracer_config config = {
      .rate_hz = (uint32_t)s->options->rate_hz,
      .snapshot = SS_STACK_SNAPSHOT_DEFAULT,
      .no_children = s->options->no_children,
      .held = !attached,
      .notes = s->notes,
  };
  enum ss_err err = ss_capture_start_tracer(&s->capture, root, &config, diag);

  if (err == SS_ERR_OK)
    err = start_pipeline(s, root, attached, diag);
  if (err != SS_ERR_OK)
    close_engine(s);
  return err;
}

/* Both refused: what was refused, and why. */
static void block(struct ss_session *s, const struct ss_diag *perf,
                  const struct ss_diag *ptrace)
{
  const char *first = perf->text, *second = ptrace->text;

  (void)ss_fail(&s->blocked, ptrace->err != SS_ERR_OK ? ptrace->err : perf->err, "%s%s%s",
                first, *first && *second ? "; " : "", second);
  snprintf(s->reason, sizeof(s->reason), "%s", s->blocked.text);
}

static void start_engine(struct ss_session *s, pid_t root, bool attached)
{
  enum ss_engine_choice choice = (enum ss_engine_choice)s->options->engine;
  struct ss_diag perf = {0}, ptrace = {0};
  bool started;

  /* Ours alone: the command was forked before and keeps its own. */
  (void)ss_raise_file_limit();
  started =
      choice != SS_ENGINE_PTRACE && start_perf(s, root, attached, &perf) == SS_ERR_OK;
  if (!started && choice != SS_ENGINE_PERF) {
    started = start_ptrace(s, root, attached, &ptrace) == SS_ERR_OK;
    snprintf(s->reason, sizeof(s->reason), "%s",
             choice == SS_ENGINE_PTRACE ? "asked for by --engine ptrace" : perf.text);
  }
  if (!started)
    block(s, &perf, &ptrace);
  store_engine(s);
}

void ss_session_start(struct ss_session *s, pid_t pid)
{
  start_engine(s, pid, false);
}

void ss_session_attach(struct ss_session *s, pid_t root)
{
  start_engine(s, root, true);
}

void ss_session_announce(const struct ss_session *s)
{
  const char *path = ss_bundle_path(s->bundle), *kernel = "";
  unsigned long long rate = s->options->rate_hz;

  if (s->options->quiet)
    return;
  if (s->pipeline == NULL) {
    ss_say("nothing is sampled: %s; the command runs all the same; writing %s",
           s->blocked.text, path);
    return;
  }
  if (s->perf)
    kernel = ss_perf_facts(s->perf)->kernel_samples
                 ? ", kernel time included"
                 : "; kernel frames hidden, kernel time still counted";
  ss_say("%s engine, %llu Hz%s%s%s%s; writing %s", s->perf ? "perf" : "ptrace", rate,
         kernel, s->reason[0] ? " (" : "", s->reason, s->reason[0] ? ")" : "", path);
}

void ss_session_clock(struct ss_session *s, uint64_t start_ns)
{
  uint64_t now_ns = ss_now_ns(), wall_ns = ss_wall_ns();

  s->start_ns = start_ns;
  ss_store_meta_u64(s->store, SS_META_START_NS, start_ns);
  ss_store_meta_u64(s->store, SS_META_WALL_START_NS, wall_ns - (now_ns - start_ns));
}

/* ---- end -------------------------------------------------------------------------- */

void ss_session_stop(struct ss_session *s, uint64_t end_ns)
{
  ss_store_meta_u64(s->store, SS_META_END_NS, end_ns);
  if (s->pipeline == NULL)
    return;
  if (s->perf)
    ss_perf_enable(s->perf, false);
  ss_capture_stop(s->capture);
  ss_pipeline_stop(s->pipeline, end_ns);
}

struct note_list {
  struct ss_buf json;
};

static void add_note(void *arg, const char *text, size_t count)
{
  struct note_list *list = arg;

  ss_buf_addf(&list->json, "%s{\"text\":\"", list->json.len > 1 ? "," : "");
  ss_escape_json(&list->json, text, strlen(text));
  ss_buf_addf(&list->json, "\",\"count\":%zu}", count);
}

static void store_first_sample(struct ss_session *s)
{
  struct ss_pipeline_now now;
  char ms[32];

  ss_pipeline_now(s->pipeline, 0, &now);
  if (now.first_sample_ns == 0 || now.first_sample_ns < s->start_ns)
    return;
  snprintf(ms, sizeof(ms), "%.3f", (double)(now.first_sample_ns - s->start_ns) / 1e6);
  ss_store_meta(s->store, SS_META_FIRST_SAMPLE_MS, ms);
}

/* VmHWM and not ru_maxrss: that one is inherited from whoever started us, through
 * the exec (fs/exec.c, setmax_mm_hiwater_rss). */
static void store_own_rss(struct ss_session *s)
{
  struct ss_buf text = {0};

  if (ss_status_read(&text, getpid(), 0) && ss_status_value(text.data, "VmHWM"))
    ss_store_meta_u64(s->store, SS_META_OWN_RSS_KB,
                      ss_status_number(text.data, "VmHWM", 10));
  ss_buf_release(&text);
}

static void store_own_figures(struct ss_session *s)
{
  struct note_list list = {0};

  ss_buf_addc(&list.json, '[');
  ss_notes_each(s->notes, add_note, &list);
  ss_buf_addc(&list.json, ']');
  ss_store_meta(s->store, SS_META_NOTES, ss_buf_str(&list.json));
  ss_buf_release(&list.json);
  ss_store_meta_u64(s->store, SS_META_OWN_CPU_NS,
                    ss_own_cpu_ns() - s->own_cpu_ns + s->helper_cpu_ns);
  store_own_rss(s);
}

enum ss_err ss_session_write(struct ss_session *s, const struct ss_hurry *hurry,
                             struct ss_diag *diag)
{
  struct ss_write_options options = {.trace_slices_only = s->options->trace_slices_only};
  enum ss_err err, written;
  unsigned failed;

  if (s->pipeline) {
    store_first_sample(s);
    ss_pipeline_finish(s->pipeline);
  }
  store_own_figures(s);
  ss_bundle_release_reserve(s->bundle);
  err = ss_store_close(s->store, diag);
  s->store = NULL;
  written = ss_outputs_write(s->bundle, SS_OUTPUTS_OF_RUN, s->options->format, &options,
                             hurry, &failed, diag);
  if (err == SS_ERR_OK && (written != SS_ERR_OK || failed > 0))
    err = SS_ERR_IO;
  if (ss_session_manifest(s, diag) != SS_ERR_OK)
    err = SS_ERR_IO;
  return err;
}

enum ss_err ss_session_manifest(struct ss_session *s, struct ss_diag *diag)
{
  struct ss_profile *profile = NULL;
  enum ss_err err =
      ss_profile_open(&profile, ss_bundle_dir(s->bundle), profile_name, diag);

  if (err != SS_ERR_OK)
    return err;
  err = ss_bundle_manifest(s->bundle, profile, diag);
  ss_profile_close(profile);
  return err;
}

void ss_session_discard(struct ss_session *s)
{
  (void)ss_store_close(s->store, NULL);
  s->store = NULL;
  ss_bundle_discard(s->bundle);
  s->bundle = NULL;
}

void ss_session_free(struct ss_session *s)
{
  ss_pipeline_free(s->pipeline);
  close_engine(s);
  if (s->store)
    (void)ss_store_close(s->store, NULL);
  ss_bundle_free(s->bundle);
  ss_notes_free(s->notes);
  *s = (struct ss_session){0};
}
