/*
 * profile.pb.gz: gzip of pprof's profile.proto, with its own encoder.
 *
 * A sample is a stack under one test, phase, thread and state, which are its
 * labels. Values: samples and nanoseconds of thread time. Locations are frames
 * (with the line that ran), so equal stacks share them.
 */
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "output_priv.h"
#include "stacksample/meta.h"

/* Field numbers of profile.proto. */
enum {
  PROFILE_SAMPLE_TYPE = 1,
  PROFILE_SAMPLE = 2,
  PROFILE_MAPPING = 3,
  PROFILE_LOCATION = 4,
  PROFILE_FUNCTION = 5,
  PROFILE_STRING = 6,
  PROFILE_TIME_NANOS = 9,
  PROFILE_DURATION_NANOS = 10,
  PROFILE_PERIOD_TYPE = 11,
  PROFILE_PERIOD = 12,
  PROFILE_COMMENT = 13,
  PROFILE_DEFAULT_SAMPLE_TYPE = 14,
};

struct pprof {
  struct ss_profile *profile;
  struct ss_outfile *out;
  struct ss_texts texts;
  struct ss_interner strings; /* id = index in string_table; 0 is "" */
  struct ss_idmap locations;  /* frame and line -> location id */
  uint8_t *functions;         /* by frame: written */
  uint64_t n_locations;
  struct ss_buf message, inner; /* scratch */
  z_stream z;
  bool failed;
};

/* ---- protobuf ------------------------------------------------------------------- */

static void add_varint(struct ss_buf *b, uint64_t value)
{
  while (value >= 0x80) {
    ss_buf_addc(b, (char)(value | 0x80));
    value >>= 7;
  }
  ss_buf_addc(b, (char)value);
}

static void add_number(struct ss_buf *b, unsigned field, uint64_t value)
{
  if (value != 0) { /* 0 is what an absent field means */
    add_varint(b, (uint64_t)field << 3);
    add_varint(b, value);
  }
}

static void add_bytes(struct ss_buf *b, unsigned field, const void *bytes, size_t len)
{
  add_varint(b, (uint64_t)field << 3 | 2);
  add_varint(b, len);
  ss_buf_add(b, bytes, len);
}

static uint64_t string_of(struct pprof *g, const char *s)
{
  struct ss_buf clean = {0};
  ss_escape_terminal(&clean, s, strlen(s)); /* a protobuf string is UTF-8 */
  uint32_t id = ss_intern(&g->strings, ss_buf_str(&clean), clean.len);
  g->failed = g->failed || clean.failed || id == SS_ID_NONE;
  ss_buf_release(&clean);
  return id == SS_ID_NONE ? 0 : id;
}

/* ---- gzip ------------------------------------------------------------------------- */

static void deflate_bytes(struct pprof *g, const void *bytes, size_t len, int flush)
{
  unsigned char chunk[16384];
  g->z.next_in = (unsigned char *)(uintptr_t)bytes;
  g->z.avail_in = (unsigned)len;
  do {
    g->z.next_out = chunk;
    g->z.avail_out = sizeof chunk;
    int status = deflate(&g->z, flush);
    SS_INVARIANT(status != Z_STREAM_ERROR);
    ss_outfile_write(g->out, chunk, sizeof chunk - g->z.avail_out);
  } while (g->z.avail_out == 0);
}

/* One top-level field of the Profile message. */
static void put_message(struct pprof *g, unsigned field, const struct ss_buf *message)
{
  struct ss_buf head = {0};
  add_varint(&head, (uint64_t)field << 3 | 2);
  add_varint(&head, message->len);
  g->failed = g->failed || head.failed || message->failed;
  deflate_bytes(g, ss_buf_str(&head), head.len, Z_NO_FLUSH);
  deflate_bytes(g, ss_buf_str(message), message->len, Z_NO_FLUSH);
  ss_buf_release(&head);
}

static void put_number(struct pprof *g, unsigned field, uint64_t value)
{
  struct ss_buf b = {0};
  add_number(&b, field, value);
  deflate_bytes(g, ss_buf_str(&b), b.len, Z_NO_FLUSH);
  ss_buf_release(&b);
}

/* ---- functions and locations ----------------------------------------------------- */

static void put_value_type(struct pprof *g, unsigned field, const char *type,
                           const char *unit)
{
  ss_buf_clear(&g->message);
  add_number(&g->message, 1, string_of(g, type));
  add_number(&g->message, 2, string_of(g, unit));
  put_message(g, field, &g->message);
}

static void put_function(struct pprof *g, uint32_t frame)
{
  const struct ss_profile *p = g->profile;
  const struct ss_frame_row *f = &p->frames[frame];
  uint32_t text = ss_texts_frame(&g->texts, frame);
  if (text == SS_ID_NONE) {
    g->failed = true;
    return;
  }
  ss_buf_clear(&g->message);
  add_number(&g->message, 1, (uint64_t)frame + 1);
  add_number(&g->message, 2, string_of(g, ss_texts_str(&g->texts, text, NULL)));
  add_number(&g->message, 3, string_of(g, ss_profile_str(p, f->name)));
  if (f->kind == SS_FRAME_PYTHON) {
    const char *file = ss_profile_str(p, f->file);
    add_number(&g->message, 4,
               string_of(g, ss_file_shown(file, ss_profile_meta(p, SS_META_CWD))));
    add_number(&g->message, 5, f->first_line > 0 ? (uint64_t)f->first_line : 0);
  }
  put_message(g, PROFILE_FUNCTION, &g->message);
}

static void put_location(struct pprof *g, uint64_t id, uint32_t frame, int line)
{
  const struct ss_frame_row *f = &g->profile->frames[frame];
  ss_buf_clear(&g->inner);
  add_number(&g->inner, 1, (uint64_t)frame + 1);
  add_number(&g->inner, 2, line > 0 ? (uint64_t)line : 0);
  ss_buf_clear(&g->message);
  add_number(&g->message, 1, id);
  if (f->kind == SS_FRAME_NATIVE && f->module != SS_ID_NONE) {
    add_number(&g->message, 2, (uint64_t)f->module + 1);
    add_number(&g->message, 3, f->offset);
  }
  add_bytes(&g->message, 4, ss_buf_str(&g->inner), g->inner.len);
  put_message(g, PROFILE_LOCATION, &g->message);
}

static uint64_t location_of(struct pprof *g, const struct ss_stack_row *row)
{
  uint64_t key = (uint64_t)row->frame << 32 | (uint32_t)row->line;
  const uint64_t *known = ss_idmap_get(&g->locations, key);
  if (known != NULL)
    return *known;
  uint64_t id = ++g->n_locations;
  if (!ss_idmap_put(&g->locations, key, id)) {
    g->failed = true;
    return 0;
  }
  if (!g->functions[row->frame]) {
    g->functions[row->frame] = 1;
    put_function(g, row->frame);
  }
  put_location(g, id, row->frame, row->line);
  return id;
}

static void put_mapping(struct pprof *g, uint32_t module)
{
  const struct ss_module_row *m = &g->profile->modules[module];
  char hex[41] = "";
  for (uint32_t i = 0; i < m->build_id_len && i < 20; i++)
    snprintf(hex + 2 * i, 3, "%02x", m->build_id[i]);
  ss_buf_clear(&g->message);
  add_number(&g->message, 1, (uint64_t)module + 1);
  add_number(&g->message, 5, string_of(g, ss_profile_str(g->profile, m->path)));
  add_number(&g->message, 6, string_of(g, hex));
  add_number(&g->message, 7, 1); /* has_functions */
  put_message(g, PROFILE_MAPPING, &g->message);
}

/* ---- samples --------------------------------------------------------------------- */

static void add_label(struct pprof *g, struct ss_buf *sample, const char *key,
                      const char *value)
{
  if (*value == '\0')
    return;
  ss_buf_clear(&g->inner);
  add_number(&g->inner, 1, string_of(g, key));
  add_number(&g->inner, 2, string_of(g, value));
  add_bytes(sample, 3, ss_buf_str(&g->inner), g->inner.len);
}

static void add_number_label(struct pprof *g, struct ss_buf *sample, const char *key,
                             int64_t value)
{
  ss_buf_clear(&g->inner);
  add_number(&g->inner, 1, string_of(g, key));
  add_number(&g->inner, 3, (uint64_t)value);
  add_bytes(sample, 3, ss_buf_str(&g->inner), g->inner.len);
}

static void add_labels(struct pprof *g, struct ss_buf *sample, const struct ss_total *t)
{
  const struct ss_profile *p = g->profile;
  if (t->phase < p->n_phases) {
    add_label(g, sample, "test", ss_profile_str(p, p->phases[t->phase].test));
    add_label(g, sample, "phase", ss_profile_str(p, p->phases[t->phase].phase));
  }
  if (t->thread < p->n_threads) {
    const struct ss_thread_row *thread = &p->threads[t->thread];
    add_label(g, sample, "thread", ss_profile_str(p, thread->name));
    add_label(g, sample, "role", ss_profile_str(p, thread->role));
    add_number_label(g, sample, "tid", thread->tid);
    if (thread->process < p->n_processes) {
      const struct ss_process_row *process = &p->processes[thread->process];
      add_number_label(g, sample, "pid", process->pid);
      add_label(g, sample, "worker", ss_profile_str(p, process->worker));
    }
  }
  add_label(g, sample, "state", ss_state_word((enum ss_state)t->state));
}

static void put_sample(struct pprof *g, const struct ss_total *t)
{
  const struct ss_profile *p = g->profile;
  struct ss_buf sample = {0}, packed = {0};
  for (uint32_t s = t->stack; s < p->n_stacks; s = p->stacks[s].parent)
    add_varint(&packed, location_of(g, &p->stacks[s])); /* leaf first */
  add_bytes(&sample, 1, ss_buf_str(&packed), packed.len);
  ss_buf_clear(&packed);
  add_varint(&packed, t->samples);
  add_varint(&packed, t->weight_ns);
  add_bytes(&sample, 2, ss_buf_str(&packed), packed.len);
  add_labels(g, &sample, t);
  put_message(g, PROFILE_SAMPLE, &sample);
  g->failed = g->failed || packed.failed;
  ss_buf_release(&sample);
  ss_buf_release(&packed);
}

/* ---- the file -------------------------------------------------------------------- */

static void put_facts(struct pprof *g)
{
  const struct ss_profile *p = g->profile;
  uint64_t start = ss_profile_meta_u64(p, SS_META_START_NS, 0);
  uint64_t end = ss_profile_meta_u64(p, SS_META_END_NS, start);
  const char *command = ss_profile_meta(p, SS_META_COMMAND_LINE);
  put_value_type(g, PROFILE_PERIOD_TYPE, "cpu", "nanoseconds");
  put_number(g, PROFILE_PERIOD, ss_profile_meta_u64(p, SS_META_PERIOD_NS, 0));
  put_number(g, PROFILE_TIME_NANOS, ss_profile_meta_u64(p, SS_META_WALL_START_NS, 0));
  put_number(g, PROFILE_DURATION_NANOS, end > start ? end - start : 0);
  put_number(g, PROFILE_COMMENT, string_of(g, "stacksample " SS_VERSION));
  if (command != NULL)
    put_number(g, PROFILE_COMMENT, string_of(g, command));
  put_number(g, PROFILE_DEFAULT_SAMPLE_TYPE, string_of(g, "wall"));
}

static void put_strings(struct pprof *g)
{
  for (uint32_t id = 0; id < g->strings.count; id++) {
    size_t len;
    const char *s = ss_interned_str(&g->strings, id, &len);
    ss_buf_clear(&g->message);
    ss_buf_add(&g->message, s, len);
    put_message(g, PROFILE_STRING, &g->message);
  }
}

static void put_profile(struct pprof *g)
{
  const struct ss_profile *p = g->profile;
  (void)string_of(g, ""); /* string_table[0] */
  put_value_type(g, PROFILE_SAMPLE_TYPE, "samples", "count");
  put_value_type(g, PROFILE_SAMPLE_TYPE, "wall", "nanoseconds");
  for (size_t i = 0; i < p->n_modules; i++)
    put_mapping(g, (uint32_t)i);
  for (size_t i = 0; i < p->n_totals && !g->failed; i++)
    if (p->totals[i].weight_ns > 0)
      put_sample(g, &p->totals[i]);
  put_facts(g);
  put_strings(g);
  deflate_bytes(g, "", 0, Z_FINISH);
}

enum ss_err ss_write_pprof(struct ss_profile *p, const struct ss_write_options *options,
                           struct ss_outfile *out, struct ss_diag *diag)
{
  (void)options; /* the totals are filtered already */
  struct pprof g = {.profile = p, .out = out};
  enum ss_err err = ss_texts_init(&g.texts, p, diag);
  g.functions = calloc(p->n_frames + 1, 1);
  bool ready = err == SS_ERR_OK && g.functions != NULL &&
               deflateInit2(&g.z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK;
  if (ready) {
    put_profile(&g);
    deflateEnd(&g.z);
  }
  if (err == SS_ERR_OK && (!ready || g.failed))
    err = ss_fail(diag, SS_ERR_NOMEM, "no memory for the pprof profile");
  ss_texts_release(&g.texts);
  ss_interner_release(&g.strings);
  ss_idmap_release(&g.locations);
  ss_buf_release(&g.message);
  ss_buf_release(&g.inner);
  free(g.functions);
  return err;
}
