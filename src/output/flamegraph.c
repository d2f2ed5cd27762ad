/*
 * flamegraph.html: one page with everything in it, which fetches nothing.
 *
 * Its policy allows exactly the one script and the one style sheet, by their
 * SHA-256; names of the target are in it only as JSON data whose '<' is
 * escaped. The format of the data is told by struct flame and read by
 * flamegraph.js.
 */
#include <stdlib.h>
#include <string.h>

#include "flame_priv.h"
#include "flamegraph_page.h" /* made from flamegraph.{html,css,js} */
#include "stacksample/meta.h"
#include "stacksample/sha256.h"

/* ---- JSON ------------------------------------------------------------------------- */

struct page {
  struct flame flame;
  struct ss_profile *profile;
  struct ss_outfile *out;
  struct ss_buf scratch;
  uint32_t *rank;   /* text id -> place among the sorted texts */
  uint32_t *sorted; /* the reverse */
  size_t n_texts;   /* those that nodes use */
};

static void put_escaped(struct page *g, const char *s, size_t len)
{
  ss_buf_clear(&g->scratch);
  ss_escape_json(&g->scratch, s, len);
  ss_outfile_write(g->out, ss_buf_str(&g->scratch), g->scratch.len);
}

static void put_string(struct page *g, const char *s)
{
  ss_outfile_write(g->out, "\"", 1);
  put_escaped(g, s, strlen(s));
  ss_outfile_write(g->out, "\"", 1);
}

static const char *comma(size_t i)
{
  return i > 0 ? "," : "";
}

static unsigned long long us_of(uint64_t ns)
{
  return (unsigned long long)((ns + 500) / 1000);
}

/* ---- texts ----------------------------------------------------------------------- */

struct sort_text {
  const char *s;
  uint32_t text;
};

static int by_string(const void *a, const void *b)
{
  const struct sort_text *x = a, *y = b;
  int order = strcmp(x->s, y->s);
  return order != 0 ? order : (x->text > y->text) - (x->text < y->text);
}

static bool sort_texts(struct page *g)
{
  const struct flame *f = &g->flame;
  size_t n = f->texts.strings.count;
  struct sort_text *items = calloc(n + 1, sizeof *items);
  g->rank = malloc((n + 1) * sizeof *g->rank);
  g->sorted = calloc(n + 1, sizeof *g->sorted);
  bool ok = items != NULL && g->rank != NULL && g->sorted != NULL;
  if (ok) {
    memset(g->rank, 0xff, (n + 1) * sizeof *g->rank);
    for (size_t i = 0; i < f->tree.count; i++) {
      uint32_t text = f->tree.nodes[i].text;
      if (g->rank[text] == SS_ID_NONE) {
        g->rank[text] = 0;
        items[g->n_texts++] =
            (struct sort_text){ss_texts_str(&f->texts, text, NULL), text};
      }
    }
    qsort(items, g->n_texts, sizeof *items, by_string);
    for (size_t i = 0; i < g->n_texts; i++) {
      g->sorted[i] = items[i].text;
      g->rank[items[i].text] = (uint32_t)i;
    }
  }
  free(items);
  return ok;
}

static bool printable(char c)
{
  return c >= ' ' && c < 0x7f;
}

static void write_texts(struct page *g)
{
  static const char digits[] =
      "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  const char *before = "";
  for (size_t i = 0; i < g->n_texts; i++) {
    size_t len, shared = 0;
    const char *s = ss_texts_str(&g->flame.texts, g->sorted[i], &len);
    while (shared < sizeof digits - 2 && shared < len && before[shared] == s[shared] &&
           printable(s[shared]))
      shared++;
    ss_outfile_printf(g->out, "%s\"%c", comma(i), digits[shared]);
    put_escaped(g, s + shared, len - shared);
    ss_outfile_write(g->out, "\"", 1);
    before = s;
  }
}

static void write_text_facts(struct page *g)
{
  bool first = true;
  ss_outfile_printf(g->out, "],\"kinds\":\"");
  for (size_t i = 0; i < g->n_texts; i++)
    ss_outfile_printf(g->out, "%d", g->flame.texts.texts[g->sorted[i]].kind);
  ss_outfile_printf(g->out, "\",\"ops\":{");
  for (size_t i = 0; i < g->n_texts; i++) {
    uint32_t op = g->flame.texts.texts[g->sorted[i]].op;
    if (op != SS_ID_NONE) {
      ss_outfile_printf(g->out, "%s\"%zu\":", first ? "" : ",", i);
      put_string(g, ss_texts_str(&g->flame.texts, op, NULL));
      first = false;
    }
  }
  ss_outfile_printf(g->out, "}");
}

/* ---- tree ------------------------------------------------------------------------ */

static bool write_nodes(struct page *g)
{
  const struct flame *f = &g->flame;
  uint32_t *depth = calloc(f->tree.count + 1, sizeof *depth);
  uint32_t before = SS_ID_NONE; /* depth of the node before; -1 in the first */
  if (depth == NULL)
    return false;
  ss_outfile_printf(g->out, ",\n\"nodes\":[");
  for (size_t i = 0; i < f->tree.count; i++) {
    const struct ss_tree_node *n = &f->tree.nodes[f->order[i]];
    uint32_t d = n->parent == SS_ID_NONE ? 0 : depth[n->parent] + 1;
    depth[f->order[i]] = d;
    ss_outfile_printf(g->out, "%s%u,%u", comma(i), g->rank[n->text], before + 1 - d);
    before = d;
  }
  ss_outfile_printf(g->out, "]");
  free(depth);
  return true;
}

static void write_cells(struct page *g)
{
  const struct flame *f = &g->flame;
  uint32_t before = 0;
  ss_outfile_printf(g->out, ",\n\"cells\":[");
  for (size_t i = 0; i < f->n_cells; i++) {
    const struct flame_cell *c = &f->cells[i];
    ss_outfile_printf(g->out, "%s%u,%u,%llu,%llu", comma(i), c->node - before, c->combo,
                      us_of(c->ns), (unsigned long long)c->samples);
    before = c->node;
  }
  ss_outfile_printf(g->out, "]");
}

/* The three lines of each node that took most. */
static void write_lines(struct page *g)
{
  const struct flame *f = &g->flame;
  uint32_t before = 0;
  ss_outfile_printf(g->out, ",\n\"lines\":[");
  for (size_t i = 0; i < f->n_lines;) {
    uint32_t node = f->lines[i].node;
    size_t end = i, kept;
    while (end < f->n_lines && f->lines[end].node == node)
      end++;
    kept = end - i < 3 ? end - i : 3;
    ss_outfile_printf(g->out, "%s%u,%zu", comma(i), node - before, kept);
    for (size_t k = i; k < i + kept; k++)
      ss_outfile_printf(g->out, ",%d,%llu", f->lines[k].line, us_of(f->lines[k].ns));
    before = node;
    i = end;
  }
  ss_outfile_printf(g->out, "]");
}

/* ---- filters --------------------------------------------------------------------- */

/* Numbers the strings that `of` picks from the groups; writes them as a list. */
static bool write_group_strings(struct page *g, bool tests, struct ss_idmap *index)
{
  const struct flame *f = &g->flame;
  ss_outfile_printf(g->out, ",\n\"%s\":[", tests ? "tests" : "phases");
  for (size_t i = 0; i < f->n_groups; i++) {
    uint32_t string = tests ? f->groups[i].test : f->groups[i].phase;
    if (ss_idmap_get(index, string) != NULL)
      continue;
    ss_outfile_printf(g->out, "%s", comma(index->count));
    put_string(g, tests && string == SS_ID_NONE ? "(no test)"
                                                : ss_profile_str(g->profile, string));
    if (!ss_idmap_put(index, string, index->count))
      return false;
  }
  ss_outfile_printf(g->out, "]");
  return true;
}

static bool write_groups(struct page *g)
{
  const struct flame *f = &g->flame;
  struct ss_idmap tests = {0}, phases = {0};
  bool ok =
      write_group_strings(g, true, &tests) && write_group_strings(g, false, &phases);
  ss_outfile_printf(g->out, ",\n\"groups\":[");
  for (size_t i = 0; ok && i < f->n_groups; i++) {
    ss_outfile_printf(g->out, "%s[%u,%u]", comma(i),
                      (unsigned)*ss_idmap_get(&tests, f->groups[i].test),
                      (unsigned)*ss_idmap_get(&phases, f->groups[i].phase));
  }
  ss_outfile_printf(g->out, "]");
  ss_idmap_release(&tests);
  ss_idmap_release(&phases);
  return ok;
}

static void write_threads(struct page *g)
{
  const struct ss_profile *p = g->profile;
  ss_outfile_printf(g->out, ",\n\"threads\":[");
  for (size_t i = 0; i < p->n_threads; i++) {
    const struct ss_thread_row *t = &p->threads[i];
    ss_outfile_printf(g->out, "%s[", comma(i));
    put_string(g, ss_profile_str(p, t->name));
    ss_outfile_printf(g->out, ",");
    put_string(g, ss_profile_str(p, t->role));
    ss_outfile_printf(g->out, ",%lld,", (long long)t->tid);
    put_string(g, t->process < p->n_processes
                      ? ss_profile_str(p, p->processes[t->process].label)
                      : "");
    ss_outfile_printf(g->out, "]");
  }
  ss_outfile_printf(g->out, "],\"processes\":%zu", p->n_processes);
}

static void write_states(struct page *g)
{
  const struct flame *f = &g->flame;
  ss_outfile_printf(g->out, ",\n\"states\":[");
  for (int i = 0; i < SS_STATE_COUNT; i++) {
    ss_outfile_printf(g->out, "%s\"%s\"", comma((size_t)i),
                      ss_state_word((enum ss_state)i));
  }
  ss_outfile_printf(g->out, "],\"running\":[");
  for (int i = 0; i < SS_STATE_COUNT; i++) {
    ss_outfile_printf(g->out, "%s%d", comma((size_t)i),
                      ss_state_running((enum ss_state)i));
  }
  ss_outfile_printf(g->out, "],\n\"combos\":[");
  for (size_t i = 0; i < f->n_combos; i++) {
    ss_outfile_printf(g->out, "%s%u,%u,%u", comma(i), f->combos[i].group,
                      f->combos[i].thread, f->combos[i].state);
  }
  ss_outfile_printf(g->out, "]");
}

static bool write_data(struct page *g)
{
  const struct ss_profile *p = g->profile;
  const char *command = ss_profile_meta(p, SS_META_COMMAND_LINE);
  uint64_t start = ss_profile_meta_u64(p, SS_META_START_NS, 0);
  uint64_t end = ss_profile_meta_u64(p, SS_META_END_NS, start);
  if (!sort_texts(g))
    return false;
  ss_outfile_printf(g->out, "{\"command\":");
  put_string(g, command != NULL ? command : "");
  ss_outfile_printf(g->out, ",\"wall\":%llu,\"other\":{\"nodes\":%llu,\"us\":%llu}",
                    us_of(end > start ? end - start : 0),
                    (unsigned long long)g->flame.joined_nodes, us_of(g->flame.joined_ns));
  ss_outfile_printf(g->out, ",\n\"texts\":[");
  write_texts(g);
  write_text_facts(g);
  bool ok = write_nodes(g);
  write_cells(g);
  write_lines(g);
  ok = ok && write_groups(g);
  write_threads(g);
  write_states(g);
  ss_outfile_printf(g->out, "}");
  return ok;
}

/* ---- the page -------------------------------------------------------------------- */

static unsigned hex_value(char c)
{
  return (unsigned)(c <= '9' ? c - '0' : c - 'a' + 10);
}

/* 'sha256-BASE64' of `bytes`, as a Content Security Policy wants it. */
static void add_hash(struct ss_buf *b, const unsigned char *bytes, size_t len)
{
  static const char base64[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  struct ss_sha256 sha;
  char hex[65];
  ss_sha256_init(&sha);
  ss_sha256_update(&sha, bytes, len);
  ss_sha256_hex(&sha, hex);
  ss_buf_adds(b, "'sha256-");
  for (size_t i = 0; i < 64; i += 6) { /* 24 bits; the last group has 16 */
    unsigned bits = 0;
    for (size_t k = i; k < i + 6; k++)
      bits = bits << 4 | (k < 64 ? hex_value(hex[k]) : 0);
    for (unsigned k = 0; k < 4; k++) {
      bool padding = i + 6 > 64 && k == 3;
      ss_buf_addc(b, padding ? '=' : base64[bits >> (18 - 6 * k) & 63]);
    }
  }
  ss_buf_addc(b, '\'');
}

static bool put_policy(struct page *g)
{
  struct ss_buf b = {0};
  ss_buf_adds(&b, "default-src 'none'; img-src data:; base-uri 'none'; "
                  "form-action 'none'; script-src ");
  add_hash(&b, flamegraph_js, sizeof flamegraph_js);
  ss_buf_adds(&b, "; style-src ");
  add_hash(&b, flamegraph_css, sizeof flamegraph_css);
  ss_outfile_write(g->out, ss_buf_str(&b), b.len);
  bool ok = !b.failed;
  ss_buf_release(&b);
  return ok;
}

static bool put_title(struct page *g)
{
  const char *command = ss_profile_meta(g->profile, SS_META_COMMAND_LINE);
  size_t len = command == NULL ? 0 : strnlen(command, 100);
  ss_buf_clear(&g->scratch);
  ss_escape_html(&g->scratch, command == NULL ? "" : command, len);
  ss_outfile_write(g->out, ss_buf_str(&g->scratch), g->scratch.len);
  return true;
}

static bool put_css(struct page *g)
{
  ss_outfile_write(g->out, flamegraph_css, sizeof flamegraph_css);
  return true;
}

static bool put_js(struct page *g)
{
  ss_outfile_write(g->out, flamegraph_js, sizeof flamegraph_js);
  return true;
}

static const struct {
  const char *mark;
  bool (*put)(struct page *g);
} parts[] = {
    {"@CSP@", put_policy},  {"@TITLE@", put_title}, {"@CSS@", put_css},
    {"@DATA@", write_data}, {"@JS@", put_js},
};

/* The template with each mark replaced; they come in the order of `parts`. */
static bool write_page(struct page *g)
{
  const char *html = (const char *)flamegraph_html;
  size_t left = sizeof flamegraph_html;
  bool ok = true;
  for (size_t i = 0; ok && i < sizeof parts / sizeof *parts; i++) {
    const char *mark = memmem(html, left, parts[i].mark, strlen(parts[i].mark));
    SS_INVARIANT(mark != NULL);
    ss_outfile_write(g->out, html, (size_t)(mark - html));
    left -= (size_t)(mark - html) + strlen(parts[i].mark);
    html = mark + strlen(parts[i].mark);
    ok = parts[i].put(g);
  }
  ss_outfile_write(g->out, html, left);
  return ok && !g->scratch.failed;
}

enum ss_err ss_write_flamegraph(struct ss_profile *p,
                                const struct ss_write_options *options,
                                struct ss_outfile *out, struct ss_diag *diag)
{
  (void)options; /* the totals are filtered already */
  struct page g = {.profile = p, .out = out};
  enum ss_err err = flame_build(&g.flame, p, diag);
  if (err == SS_ERR_OK && !write_page(&g))
    err = ss_fail(diag, SS_ERR_NOMEM, "no memory for the flamegraph");
  flame_release(&g.flame);
  ss_buf_release(&g.scratch);
  free(g.rank);
  free(g.sorted);
  return err;
}
