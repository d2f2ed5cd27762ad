/*
 * profile.speedscope.json: one "sampled" profile a thread, in time order, and
 * one over all threads by test. Equal neighbours are one sample.
 *
 * Weights are microseconds of thread time. A thread's profile leaves holes out,
 * as the format has no time for a sample; profiler.json keeps them.
 */
#include <stdlib.h>
#include <string.h>

#include "output_priv.h"
#include "stacksample/meta.h"

struct scope {
  struct ss_profile *profile;
  struct ss_outfile *out;
  struct ss_filter_set filter;
  struct ss_texts texts;
  struct ss_path path;
  struct ss_buf scratch, samples, weights;
  uint32_t *frames; /* text id -> frame index; SS_ID_NONE: not yet */
  size_t frames_count, frames_cap;
  struct ss_buf frame_list;
  size_t n_frames, n_profiles, n_samples;
  uint32_t last_stack;
  uint8_t last_state;
  uint64_t last_ns, sum_us, rest_ns;
  bool failed;
};

static void put_string(struct scope *s, const char *text)
{
  ss_buf_clear(&s->scratch);
  ss_escape_json(&s->scratch, text, strlen(text));
  ss_outfile_printf(s->out, "\"%s\"", ss_buf_str(&s->scratch));
}

/* ---- frames -------------------------------------------------------------------- */

static void list_frame(struct scope *s, uint32_t text)
{
  size_t len;
  const char *name = ss_texts_str(&s->texts, text, &len);
  ss_buf_adds(&s->frame_list, s->n_frames > 0 ? ",\n{\"name\":\"" : "{\"name\":\"");
  ss_escape_json(&s->frame_list, name, len);
  ss_buf_adds(&s->frame_list, "\"}");
}

static uint32_t frame_of(struct scope *s, uint32_t text)
{
  size_t had = s->frames_count;
  if (text == SS_ID_NONE ||
      ((size_t)text >= had &&
       !ss_grow(&s->frames, &s->frames_cap, (size_t)text + 1, sizeof *s->frames))) {
    s->failed = true;
    return 0;
  }
  if (text >= had) {
    s->frames_count = (size_t)text + 1;
    memset(&s->frames[had], 0xff, (s->frames_count - had) * sizeof *s->frames);
  }
  if (s->frames[text] == SS_ID_NONE) {
    list_frame(s, text);
    s->frames[text] = (uint32_t)s->n_frames++;
  }
  return s->frames[text];
}

/* ---- samples ---------------------------------------------------------------------- */

static void add_frame(struct scope *s, uint32_t text, bool first)
{
  ss_buf_addf(&s->samples, first ? "%u" : ",%u", frame_of(s, text));
}

/* `root`: a text id to stand above the stack, or SS_ID_NONE. */
static void add_sample(struct scope *s, uint32_t root, uint32_t stack, uint8_t state,
                       uint64_t ns)
{
  uint64_t us = (ns + s->rest_ns) / 1000;
  s->rest_ns = (ns + s->rest_ns) % 1000; /* so that the sum stays right */
  if (us == 0 || !ss_path_of(&s->path, &s->texts, stack)) {
    s->failed = s->failed || us != 0;
    return;
  }
  bool first = true;
  ss_buf_adds(&s->samples, s->n_samples > 0 ? ",[" : "[");
  if (root != SS_ID_NONE) {
    add_frame(s, root, first);
    first = false;
  }
  for (size_t i = 0; i < s->path.count; i++) {
    add_frame(s, s->path.texts[i], first);
    first = false;
  }
  if (ss_texts_wants_wait(&s->texts, (enum ss_state)state, stack))
    add_frame(s, ss_texts_wait(&s->texts, (enum ss_state)state), first);
  ss_buf_addc(&s->samples, ']');
  ss_buf_addf(&s->weights, s->n_samples > 0 ? ",%llu" : "%llu", (unsigned long long)us);
  s->sum_us += us;
  s->n_samples++;
}

static void write_profile(struct scope *s, const char *name)
{
  if (s->n_samples == 0)
    return;
  ss_outfile_printf(s->out, "%s{\"type\":\"sampled\",\"unit\":\"microseconds\",\"name\":",
                    s->n_profiles > 0 ? ",\n" : "");
  put_string(s, name);
  ss_outfile_printf(s->out, ",\"startValue\":0,\"endValue\":%llu,\"samples\":[",
                    (unsigned long long)s->sum_us);
  ss_outfile_write(s->out, ss_buf_str(&s->samples), s->samples.len);
  ss_outfile_printf(s->out, "],\n\"weights\":[");
  ss_outfile_write(s->out, ss_buf_str(&s->weights), s->weights.len);
  ss_outfile_printf(s->out, "]}");
  s->failed = s->failed || s->samples.failed || s->weights.failed;
  ss_buf_clear(&s->samples);
  ss_buf_clear(&s->weights);
  s->n_profiles++;
  s->n_samples = 0;
  s->sum_us = s->rest_ns = 0;
}

static void flush_last(struct scope *s)
{
  if (s->last_ns > 0)
    add_sample(s, SS_ID_NONE, s->last_stack, s->last_state, s->last_ns);
  s->last_ns = 0;
}

static bool each_sample(void *arg, const struct ss_sample_row *row)
{
  struct scope *s = arg;
  if (!ss_filter_match(&s->filter, row->thread, row->phase, row->state) ||
      row->time_ns < s->filter.from_ns || row->time_ns >= s->filter.to_ns)
    return true;
  bool running = ss_state_running((enum ss_state)row->state);
  bool same = row->stack == s->last_stack &&
              (running ? ss_state_running((enum ss_state)s->last_state)
                       : row->state == s->last_state);
  if (!same)
    flush_last(s);
  s->last_stack = row->stack;
  s->last_state = row->state;
  s->last_ns += row->weight_ns;
  return !s->failed;
}

static enum ss_err write_threads(struct scope *s, struct ss_diag *diag)
{
  const struct ss_profile *p = s->profile;
  enum ss_err err = SS_ERR_OK;
  for (size_t i = 0; err == SS_ERR_OK && i < p->n_threads; i++) {
    const struct ss_thread_row *t = &p->threads[i];
    struct ss_buf name = {0};
    err = ss_profile_samples(s->profile, (uint32_t)i, each_sample, s, diag);
    flush_last(s);
    if (t->process < p->n_processes && p->n_processes > 1)
      ss_buf_addf(&name, "%s ", ss_profile_str(p, p->processes[t->process].label));
    ss_buf_addf(&name, "%s %lld", ss_profile_str(p, t->name), (long long)t->tid);
    write_profile(s, ss_buf_str(&name));
    ss_buf_release(&name);
  }
  return err;
}

static void write_tests(struct scope *s)
{
  const struct ss_profile *p = s->profile;
  for (size_t i = 0; i < p->n_totals && !s->failed; i++) {
    const struct ss_total *t = &p->totals[i];
    if (t->weight_ns > 0)
      add_sample(s, ss_phase_text(&s->texts, t->phase), t->stack, t->state, t->weight_ns);
  }
  write_profile(s, "all threads, by test");
}

/* ---- the file -------------------------------------------------------------------- */

static enum ss_err write_scope(struct scope *s, struct ss_diag *diag)
{
  const char *command = ss_profile_meta(s->profile, SS_META_COMMAND_LINE);
  ss_outfile_printf(
      s->out, "{\"$schema\":\"https://www.speedscope.app/file-format-schema.json\",\n"
              "\"exporter\":\"stacksample@" SS_VERSION "\",\n\"name\":");
  put_string(s, command != NULL ? command : "stacksample");
  ss_outfile_printf(s->out, ",\n\"activeProfileIndex\":0,\n\"profiles\":[");
  enum ss_err err = write_threads(s, diag);
  if (err == SS_ERR_OK)
    write_tests(s);
  ss_outfile_printf(s->out, "],\n\"shared\":{\"frames\":[");
  ss_outfile_write(s->out, ss_buf_str(&s->frame_list), s->frame_list.len);
  ss_outfile_printf(s->out, "]}}\n");
  if (err == SS_ERR_OK && (s->failed || s->frame_list.failed))
    err = ss_fail(diag, SS_ERR_NOMEM, "no memory for the speedscope profile");
  return err;
}

enum ss_err ss_write_speedscope(struct ss_profile *p,
                                const struct ss_write_options *options,
                                struct ss_outfile *out, struct ss_diag *diag)
{
  struct scope s = {.profile = p, .out = out, .last_stack = SS_ID_NONE};
  const struct ss_filter *filter = options == NULL ? NULL : &options->filter;
  enum ss_err err = ss_filter_set_init(&s.filter, p, filter, diag);
  if (err == SS_ERR_OK)
    err = ss_texts_init(&s.texts, p, diag);
  if (err == SS_ERR_OK)
    err = write_scope(&s, diag);
  ss_filter_set_release(&s.filter);
  ss_texts_release(&s.texts);
  ss_path_release(&s.path);
  ss_buf_release(&s.scratch);
  ss_buf_release(&s.samples);
  ss_buf_release(&s.weights);
  ss_buf_release(&s.frame_list);
  free(s.frames);
  return err;
}
