/*
 * Dumps while the command runs: a thread that takes a look and writes it, and
 * the list of what was taken for the summary.
 */
#include <errno.h>
#include <pthread.h>

#include "stacksample/escape.h"
#include "stacksample/look.h"
#include "stacksample/meta.h"
#include "stacksample/sys.h"

#include "cli_priv.h"
#include "dumps.h"

#define LOOK_NS UINT64_C(2000000000) /* 2 s at most */

struct taken {
  char file[32];
  char why[96];
  double at_s;
};

struct ss_dumps {
  struct ss_looker *looker;
  struct ss_dir dir; /* dumps/ of the bundle, made with the first dump */
  const struct ss_bundle *bundle;
  struct ss_notes *notes;
  bool no_children;

  pthread_mutex_t lock; /* guards all below */
  pthread_cond_t done;
  bool busy, abandoned;
  char why[96], test[256];
  uint64_t phase_start_ns;
  double at_s;
  struct taken *taken;
  size_t count, cap;
  uint64_t stops, stop_total_ns, stop_max_ns;
};

struct ss_dumps *ss_dumps_new(const struct ss_bundle *bundle, struct ss_notes *notes,
                              pid_t root, bool no_children)
{
  struct ss_dumps *d = calloc(1, sizeof(*d));
  pthread_condattr_t clock;

  if (d == NULL)
    return NULL;
  d->looker = ss_looker_new(root);
  if (d->looker == NULL) {
    free(d);
    return NULL;
  }
  d->dir.fd = -1;
  d->bundle = bundle;
  d->notes = notes;
  d->no_children = no_children;
  pthread_mutex_init(&d->lock, NULL);
  pthread_condattr_init(&clock);
  pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
  pthread_cond_init(&d->done, &clock);
  pthread_condattr_destroy(&clock);
  return d;
}

static void really_free(struct ss_dumps *d)
{
  ss_looker_free(d->looker);
  ss_dir_close(&d->dir);
  pthread_mutex_destroy(&d->lock);
  pthread_cond_destroy(&d->done);
  free(d->taken);
  free(d);
}

/* A thread that is still under way frees what it uses, when it comes back. */
void ss_dumps_free(struct ss_dumps *d)
{
  bool busy;

  if (d == NULL)
    return;
  pthread_mutex_lock(&d->lock);
  busy = d->busy;
  d->abandoned = busy;
  pthread_mutex_unlock(&d->lock);
  if (!busy)
    really_free(d);
}

/* ---- the thread ------------------------------------------------------------------ */

static enum ss_err write_file(struct ss_dumps *d, const char *name,
                              const struct ss_buf *text, struct ss_diag *diag)
{
  struct ss_outfile *out = ss_outfile_open(&d->dir, name, diag);

  if (out == NULL)
    return diag->err;
  ss_outfile_write(out, ss_buf_str(text), text->len);
  return ss_outfile_commit(out, diag);
}

static enum ss_err write_look(struct ss_dumps *d, const struct ss_look *look,
                              size_t number, struct ss_diag *diag)
{
  char *cwd = getcwd(NULL, 0);
  struct ss_look_print print = {.full = true, .cwd = cwd, .looks = 1};
  struct ss_buf text = {0}, json = {0};
  enum ss_err err = SS_ERR_OK;
  char name[32];

  if (d->dir.fd < 0)
    err = ss_dir_create(&d->dir, ss_bundle_dir(d->bundle), "dumps", diag);
  ss_look_text(look, &print, &text);
  snprintf(name, sizeof(name), "%03zu.txt", number);
  if (err == SS_ERR_OK)
    err = write_file(d, name, &text, diag);
  snprintf(name, sizeof(name), "%03zu.json", number);
  if (err == SS_ERR_OK && ss_look_json(look, &print, &json, diag) == SS_ERR_OK)
    err = write_file(d, name, &json, diag);
  ss_buf_release(&text);
  ss_buf_release(&json);
  free(cwd);
  return err;
}

static void remember(struct ss_dumps *d, const struct ss_look *look)
{
  struct taken *t;

  d->stops += look->stops;
  d->stop_total_ns += look->stop_total_ns;
  if (look->stop_max_ns > d->stop_max_ns)
    d->stop_max_ns = look->stop_max_ns;
  if (!ss_grow(&d->taken, &d->cap, d->count + 1, sizeof(*d->taken)))
    return;
  t = &d->taken[d->count++];
  snprintf(t->file, sizeof(t->file), "dumps/%03zu.txt", d->count);
  snprintf(t->why, sizeof(t->why), "%s", d->why);
  t->at_s = d->at_s;
}

static void *take_thread(void *arg)
{
  struct ss_dumps *d = arg;
  struct ss_look_options options = {.no_children = d->no_children,
                                    .deadline_ns = ss_now_ns() + LOOK_NS};
  char test[sizeof(d->test)];
  struct ss_look *look = NULL;
  struct ss_diag diag = {0};
  bool abandoned;

  pthread_setname_np(pthread_self(), "ss-dump");
  pthread_mutex_lock(&d->lock);
  memcpy(test, d->test, sizeof(test));
  options.test = test;
  options.phase_start_ns = d->phase_start_ns;
  pthread_mutex_unlock(&d->lock);
  if (ss_look_take(d->looker, &options, &look, &diag) != SS_ERR_OK ||
      write_look(d, look, d->count + 1, &diag) != SS_ERR_OK)
    ss_note(d->notes, "a dump could not be taken: %s", diag.text);
  pthread_mutex_lock(&d->lock);
  if (look && diag.err == SS_ERR_OK)
    remember(d, look);
  d->busy = false;
  abandoned = d->abandoned;
  pthread_cond_signal(&d->done);
  pthread_mutex_unlock(&d->lock);
  ss_look_free(look);
  if (abandoned)
    really_free(d);
  return NULL;
}

static bool start_thread(struct ss_dumps *d)
{
  pthread_attr_t attr;
  pthread_t thread;
  bool ok;

  pthread_attr_init(&attr);
  pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
  ok = pthread_create(&thread, &attr, take_thread, d) == 0;
  pthread_attr_destroy(&attr);
  return ok;
}

/* With the lock held. Whether the dump under way, if any, was done in time. */
static bool wait_done(struct ss_dumps *d, uint64_t until_ns)
{
  struct timespec until = ss_timespec(until_ns);

  while (d->busy && pthread_cond_timedwait(&d->done, &d->lock, &until) != ETIMEDOUT)
    ;
  return !d->busy;
}

bool ss_dumps_take(struct ss_dumps *d, const char *why, uint64_t start_ns,
                   unsigned wait_ms)
{
  uint64_t now_ns = ss_now_ns(), until_ns = now_ns + (uint64_t)wait_ms * 1000000;
  bool done;

  pthread_mutex_lock(&d->lock);
  if (d->busy && !wait_done(d, until_ns)) {
    ss_note(d->notes, "a dump was skipped: the one before is not done yet");
  } else {
    snprintf(d->why, sizeof(d->why), "%s", why);
    d->at_s = (double)(now_ns - start_ns) / 1e9;
    d->busy = start_thread(d);
  }
  done = wait_done(d, until_ns);
  pthread_mutex_unlock(&d->lock);
  return done;
}

void ss_dumps_phase(struct ss_dumps *d, const char *test, uint64_t start_ns)
{
  pthread_mutex_lock(&d->lock);
  snprintf(d->test, sizeof(d->test), "%s", test);
  d->phase_start_ns = start_ns;
  pthread_mutex_unlock(&d->lock);
}

/* ---- what was taken -------------------------------------------------------------- */

void ss_dumps_store(struct ss_dumps *d, struct ss_store *store)
{
  struct ss_buf json = {0};

  pthread_mutex_lock(&d->lock);
  (void)wait_done(d, ss_now_ns() + LOOK_NS); /* one that the end came upon */
  ss_buf_addc(&json, '[');
  for (size_t i = 0; i < d->count; i++) {
    ss_buf_addf(&json, "%s{\"file\":\"%s\",\"at_s\":%.3f,\"why\":\"", i ? "," : "",
                d->taken[i].file, d->taken[i].at_s);
    ss_escape_json(&json, d->taken[i].why, strlen(d->taken[i].why));
    ss_buf_adds(&json, "\"}");
  }
  ss_buf_addc(&json, ']');
  ss_store_meta(store, SS_META_DUMPS, ss_buf_str(&json));
  ss_store_meta_u64(store, SS_META_STOPS, d->stops);
  ss_store_meta_u64(store, SS_META_STOP_TOTAL_NS, d->stop_total_ns);
  ss_store_meta_u64(store, SS_META_STOP_MAX_NS, d->stop_max_ns);
  pthread_mutex_unlock(&d->lock);
  ss_buf_release(&json);
}
