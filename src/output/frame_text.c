/*
 * The text of a frame, the same in every output, and the paths of stacks over
 * such texts. Python: "function (file.py:first line)"; native: "symbol
 * (library)", or "library+0xSTART" where no symbol covers it.
 *
 * A text never changes with the line that was running, so stacks that differ
 * only there merge. Texts are raw: each writer escapes for its own format.
 */
#include <stdlib.h>
#include <string.h>

#include "output_priv.h"
#include "stacksample/meta.h"
#include "stacksample/text.h"

/* ---- files --------------------------------------------------------------------- */

/* What follows "lib/python3.N/" at `s`, or NULL. */
static const char *after_stdlib(const char *s)
{
  if (!ss_starts_with(s, "lib/python3."))
    return NULL;
  s += strlen("lib/python3.");
  const char *digits = s;
  while (*s >= '0' && *s <= '9')
    s++;
  if (s > digits && *s == 't') /* free-threaded builds: python3.13t */
    s++;
  return s > digits && *s == '/' ? s + 1 : NULL;
}

static const char *after_library_folder(const char *s)
{
  static const char *const folders[] = {"site-packages/", "dist-packages/"};
  for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
    if (ss_starts_with(s, folders[i]))
      return s + strlen(folders[i]);
  return after_stdlib(s);
}

/* What follows the last library folder, or NULL where there is none. */
static const char *in_library(const char *file)
{
  const char *found = NULL;
  for (const char *s = file; s != NULL; s = strchr(s, '/')) {
    s += *s == '/';
    const char *rest = after_library_folder(s);
    if (rest != NULL && *rest != '\0')
      found = rest;
  }
  return found;
}

const char *ss_file_shown(const char *file, const char *cwd)
{
  const char *rest = in_library(file);
  if (rest != NULL)
    return rest;
  size_t len = cwd == NULL ? 0 : strlen(cwd);
  while (len > 0 && cwd[len - 1] == '/')
    len--;
  if (len > 0 && strncmp(file, cwd, len) == 0 && file[len] == '/' &&
      file[len + 1] != '\0')
    return file + len + 1;
  return file;
}

bool ss_file_is_library(const char *file)
{
  return in_library(file) != NULL || ss_starts_with(file, "<frozen ");
}

/* ---- one frame ------------------------------------------------------------------- */

const char *ss_library_name(const struct ss_profile *p, const struct ss_frame_row *f)
{
  if (f->module == SS_ID_NONE)
    return "";
  return ss_base_name(ss_profile_str(p, p->modules[f->module].path));
}

static void python_text(const struct ss_profile *p, const struct ss_frame_row *f,
                        struct ss_buf *out)
{
  const char *name = ss_profile_str(p, f->name);
  const char *file =
      ss_file_shown(ss_profile_str(p, f->file), ss_profile_meta(p, SS_META_CWD));
  ss_buf_addf(out, "%s (%s:%d)", *name ? name : "?", *file ? file : "?", f->first_line);
}

static void native_text(const struct ss_profile *p, const struct ss_frame_row *f,
                        struct ss_buf *out)
{
  const char *library = ss_library_name(p, f);
  const char *name = ss_profile_str(p, f->name);
  if (*name != '\0') {
    ss_symbol_shown(name, out);
    if (*library != '\0')
      ss_buf_addf(out, " (%s)", library);
  } else if (*library != '\0') {
    ss_buf_addf(out, "%s+0x%llx", library, (unsigned long long)f->offset);
  } else {
    ss_buf_adds(out, "[unknown]");
  }
}

void ss_frame_text(const struct ss_profile *p, uint32_t frame, struct ss_buf *out)
{
  if (frame >= p->n_frames) {
    ss_buf_adds(out, "[unknown]");
    return;
  }
  const struct ss_frame_row *f = &p->frames[frame];
  if (f->kind == SS_FRAME_PYTHON) {
    python_text(p, f, out);
  } else if (f->kind == SS_FRAME_SYNTHETIC) {
    const char *name = ss_profile_str(p, f->name);
    ss_buf_adds(out, *name ? name : "[unknown]");
  } else {
    native_text(p, f, out);
  }
}

/* ---- texts of all frames --------------------------------------------------------- */

enum ss_err ss_texts_init(struct ss_texts *t, const struct ss_profile *p,
                          struct ss_diag *diag)
{
  *t = (struct ss_texts){.profile = p};
  t->of_frame = malloc((p->n_frames + 1) * sizeof *t->of_frame);
  if (t->of_frame == NULL)
    return ss_fail(diag, SS_ERR_NOMEM, "no memory for the texts of frames");
  memset(t->of_frame, 0xff, (p->n_frames + 1) * sizeof *t->of_frame);
  return SS_ERR_OK;
}

void ss_texts_release(struct ss_texts *t)
{
  ss_interner_release(&t->strings);
  free(t->texts);
  free(t->of_frame);
  ss_overloads_free(t->overloads);
  ss_buf_release(&t->scratch);
  *t = (struct ss_texts){0};
}

const char *ss_texts_str(const struct ss_texts *t, uint32_t text, size_t *len)
{
  return ss_interned_str(&t->strings, text, len);
}

uint32_t ss_texts_add(struct ss_texts *t, const char *text, size_t len,
                      enum ss_text_kind kind)
{
  size_t before = t->strings.count;
  uint32_t id = ss_intern(&t->strings, text, len);
  if (id == SS_ID_NONE || id < before)
    return id;
  if (!ss_grow(&t->texts, &t->cap, t->strings.count, sizeof *t->texts))
    return SS_ID_NONE;
  t->texts[id] = (struct ss_text){.op = SS_ID_NONE, .kind = (uint8_t)kind};
  return id;
}

static bool is_reason(const struct ss_profile *p, const struct ss_frame_row *f)
{
  return f->kind == SS_FRAME_SYNTHETIC &&
         ss_state_of_reason(ss_profile_str(p, f->name)) != SS_STATE_COUNT;
}

bool ss_texts_wants_wait(const struct ss_texts *t, enum ss_state state, uint32_t stack)
{
  const struct ss_profile *p = t->profile;
  return !ss_state_running(state) &&
         !(stack < p->n_stacks && is_reason(p, &p->frames[p->stacks[stack].frame]));
}

uint32_t ss_texts_wait(struct ss_texts *t, enum ss_state state)
{
  char text[32];
  int n = snprintf(text, sizeof text, "[%s]", ss_state_word(state));
  return ss_texts_add(t, text, (size_t)n, SS_TEXT_WAIT);
}

/* Overload names are only in torch's own yaml file, beside the torch that ran;
 * without it an operator keeps its overload ("aten::add_Tensor"). */
static void load_overloads(struct ss_texts *t)
{
  static const char torch[] = "-packages/torch/";
  static const char yaml[] = "torchgen/packaged/ATen/native/native_functions.yaml";
  const struct ss_profile *p = t->profile;
  t->overloads_tried = true;
  for (size_t i = 0; i < p->n_frames && t->overloads == NULL; i++) {
    if (p->frames[i].kind != SS_FRAME_PYTHON)
      continue;
    const char *file = ss_profile_str(p, p->frames[i].file);
    const char *at = strstr(file, torch);
    if (at == NULL)
      continue;
    struct ss_buf path = {0};
    ss_buf_add(&path, file, (size_t)(at - file) + strlen("-packages/"));
    ss_buf_adds(&path, yaml);
    if (!path.failed)
      t->overloads = ss_overloads_load(path.data);
    ss_buf_release(&path);
    return;
  }
}

static void note_operator(struct ss_texts *t, uint32_t text, const char *name)
{
  char op[256];
  if (!ss_torch_operator(name, t->overloads, op, sizeof op))
    return;
  if (!t->overloads_tried) {
    load_overloads(t);
    (void)ss_torch_operator(name, t->overloads, op, sizeof op);
  }
  uint32_t id = ss_texts_add(t, op, strlen(op), SS_TEXT_OPERATOR);
  t->texts[text].op = id;
  t->texts[text].kind = SS_TEXT_OPERATOR;
}

static enum ss_text_kind kind_of(const struct ss_profile *p, const struct ss_frame_row *f)
{
  switch (f->kind) {
  case SS_FRAME_PYTHON:
    return ss_file_is_library(ss_profile_str(p, f->file)) ? SS_TEXT_PYLIB
                                                          : SS_TEXT_PYTHON;
  case SS_FRAME_NATIVE:
    return SS_TEXT_NATIVE;
  case SS_FRAME_KERNEL:
    return SS_TEXT_KERNEL;
  case SS_FRAME_SYNTHETIC:
    break;
  }
  if (is_reason(p, f))
    return SS_TEXT_WAIT;
  return ss_starts_with(ss_profile_str(p, f->name), "[kernel: ") ? SS_TEXT_KERNEL
                                                                 : SS_TEXT_MARK;
}

uint32_t ss_texts_frame(struct ss_texts *t, uint32_t frame)
{
  const struct ss_profile *p = t->profile;
  uint32_t slot = frame < p->n_frames ? frame : (uint32_t)p->n_frames;
  if (t->of_frame[slot] != SS_ID_NONE)
    return t->of_frame[slot];
  ss_buf_clear(&t->scratch);
  ss_frame_text(p, frame, &t->scratch);
  if (t->scratch.failed)
    return SS_ID_NONE;
  enum ss_text_kind kind = SS_TEXT_MARK;
  if (slot < p->n_frames)
    kind = kind_of(p, &p->frames[slot]);
  size_t before = t->strings.count;
  uint32_t id = ss_texts_add(t, ss_buf_str(&t->scratch), t->scratch.len, kind);
  if (id == SS_ID_NONE)
    return id;
  t->of_frame[slot] = id;
  if (id == before && kind == SS_TEXT_NATIVE)
    note_operator(t, id, ss_profile_str(p, p->frames[slot].name));
  if (id == before && kind == SS_TEXT_KERNEL)
    t->texts[id].kernel_symbol = p->frames[slot].kind == SS_FRAME_KERNEL;
  return id;
}

/* ---- stacks ---------------------------------------------------------------------- */

void ss_path_release(struct ss_path *path)
{
  free(path->texts);
  free(path->stacks);
  *path = (struct ss_path){0};
}

bool ss_path_of(struct ss_path *path, struct ss_texts *t, uint32_t stack)
{
  const struct ss_profile *p = t->profile;
  size_t depth = 0;
  for (uint32_t s = stack; s < p->n_stacks; s = p->stacks[s].parent)
    depth++;
  path->count = 0;
  if (!ss_grow(&path->texts, &path->cap, depth, sizeof *path->texts) ||
      !ss_grow(&path->stacks, &path->stacks_cap, depth, sizeof *path->stacks))
    return false;
  size_t i = depth;
  for (uint32_t s = stack; s < p->n_stacks; s = p->stacks[s].parent) {
    uint32_t text = ss_texts_frame(t, p->stacks[s].frame);
    if (text == SS_ID_NONE)
      return false;
    i--;
    path->texts[i] = text;
    path->stacks[i] = s;
  }
  path->count = depth;
  return true;
}

static uint32_t string_text(struct ss_texts *t, uint32_t string, const char *otherwise,
                            int64_t number)
{
  const char *s = ss_profile_str(t->profile, string);
  ss_buf_clear(&t->scratch);
  if (*s != '\0')
    ss_buf_adds(&t->scratch, s);
  else
    ss_buf_addf(&t->scratch, "%s %lld", otherwise, (long long)number);
  return t->scratch.failed
             ? SS_ID_NONE
             : ss_texts_add(t, ss_buf_str(&t->scratch), t->scratch.len, SS_TEXT_ROOT);
}

struct ss_roots ss_roots_of(struct ss_texts *t, uint32_t thread)
{
  const struct ss_profile *p = t->profile;
  struct ss_roots roots = {SS_ID_NONE, SS_ID_NONE};
  if (thread >= p->n_threads) {
    roots.thread = ss_texts_add(t, "(no thread)", 11, SS_TEXT_ROOT);
    return roots;
  }
  const struct ss_thread_row *row = &p->threads[thread];
  roots.thread = string_text(t, row->name, "thread", row->tid);
  if (p->n_processes > 1 && row->process < p->n_processes) {
    const struct ss_process_row *process = &p->processes[row->process];
    roots.process = string_text(t, process->label, "process", process->pid);
  }
  return roots;
}

uint32_t ss_phase_text(struct ss_texts *t, uint32_t phase)
{
  const struct ss_profile *p = t->profile;
  ss_buf_clear(&t->scratch);
  if (phase >= p->n_phases) {
    ss_buf_adds(&t->scratch, "(no test)");
  } else {
    const char *word = ss_profile_str(p, p->phases[phase].phase);
    ss_buf_adds(&t->scratch, ss_profile_str(p, p->phases[phase].test));
    if (*word != '\0')
      ss_buf_addf(&t->scratch, " (%s)", word);
  }
  return t->scratch.failed
             ? SS_ID_NONE
             : ss_texts_add(t, ss_buf_str(&t->scratch), t->scratch.len, SS_TEXT_ROOT);
}
