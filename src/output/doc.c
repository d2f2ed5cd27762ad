/*
 * A document that is Markdown or plain text from the same calls. Callers hand
 * over plain text; what came from a target is made inert here, once.
 */
#include <stdlib.h>
#include <string.h>

#include "stacksample/escape.h"
#include "summary_priv.h"

static void put_text(struct ss_doc *d, const char *s, size_t len)
{
  if (d->markdown)
    ss_escape_markdown(d->out, s, len);
  else
    ss_escape_terminal(d->out, s, len);
}

void ss_doc_title(struct ss_doc *d, const struct ss_buf *text)
{
  if (d->markdown)
    ss_buf_adds(d->out, "# ");
  put_text(d, ss_buf_str(text), text->len);
  ss_buf_adds(d->out, "\n");
}

static bool ends_with(const struct ss_buf *out, const char *end)
{
  size_t n = strlen(end);
  return out->len >= n && memcmp(out->data + out->len - n, end, n) == 0;
}

void ss_doc_heading(struct ss_doc *d, const char *text)
{
  if (!ends_with(d->out, "\n\n"))
    ss_buf_addc(d->out, '\n');
  ss_buf_addf(d->out, d->markdown ? "## %s\n\n" : "%s\n", text);
}

void ss_doc_para(struct ss_doc *d, const struct ss_buf *text)
{
  if (!text->len)
    return;
  if (d->markdown && d->out->len && !ends_with(d->out, "\n\n"))
    ss_buf_addc(d->out, '\n');
  put_text(d, text->data, text->len);
  ss_buf_addc(d->out, '\n');
}

void ss_doc_item(struct ss_doc *d, const struct ss_buf *text)
{
  ss_buf_adds(d->out, d->markdown ? "* " : "  ");
  put_text(d, ss_buf_str(text), text->len);
  ss_buf_addc(d->out, '\n');
}

void ss_doc_subitem(struct ss_doc *d, const struct ss_buf *text)
{
  ss_buf_adds(d->out, d->markdown ? "    * " : "    ");
  put_text(d, ss_buf_str(text), text->len);
  ss_buf_addc(d->out, '\n');
}

/* An indented block: nothing in it can end it. */
void ss_doc_code(struct ss_doc *d, const cJSON *lines)
{
  const cJSON *line;

  if (!ends_with(d->out, "\n\n"))
    ss_buf_addc(d->out, '\n');
  cJSON_ArrayForEach(line, lines)
  {
    const char *s = cJSON_GetStringValue(line);
    ss_buf_adds(d->out, "    ");
    if (s)
      ss_escape_terminal(d->out, s, strlen(s));
    ss_buf_addc(d->out, '\n');
  }
  ss_buf_addc(d->out, '\n');
}

/* ---- grids ------------------------------------------------------------------------ */

struct ss_buf *ss_grid_cell(struct ss_grid *g)
{
  static struct ss_buf spill; /* out of memory: what goes here is never shown */

  if (!ss_grow(&g->cells, &g->cap, g->count + 1, sizeof *g->cells)) {
    ss_buf_clear(&spill);
    return &spill;
  }
  g->cells[g->count] = (struct ss_buf){0};
  return &g->cells[g->count++];
}

static bool right(const struct ss_grid *g, size_t column)
{
  return g->headers[column][0] == '>';
}

static const char *header(const struct ss_grid *g, size_t column)
{
  return g->headers[column] + right(g, column);
}

static void markdown_grid(struct ss_doc *d, const struct ss_grid *g)
{
  for (size_t c = 0; c < g->columns; c++)
    ss_buf_addf(d->out, "| %s ", header(g, c));
  ss_buf_adds(d->out, "|\n");
  for (size_t c = 0; c < g->columns; c++)
    ss_buf_adds(d->out, right(g, c) ? "|---:" : "|---");
  ss_buf_adds(d->out, "|\n");
  for (size_t i = 0; i + g->columns <= g->count; i += g->columns) {
    for (size_t c = 0; c < g->columns; c++) {
      const struct ss_buf *cell = &g->cells[i + c];
      ss_buf_adds(d->out, "| ");
      if (right(g, c)) /* figures of our own making */
        ss_buf_add(d->out, ss_buf_str(cell), cell->len);
      else
        put_text(d, ss_buf_str(cell), cell->len);
      ss_buf_addc(d->out, ' ');
    }
    ss_buf_adds(d->out, "|\n");
  }
}

/* Characters, not bytes; close enough to columns for names. */
static size_t width(const char *s)
{
  size_t n = 0;
  for (; *s; s++)
    n += ((unsigned char)*s & 0xc0) != 0x80;
  return n;
}

static void padded(struct ss_buf *out, const char *s, size_t to, bool align_right,
                   bool last)
{
  size_t w = width(s), pad = to > w ? to - w : 0;

  if (align_right)
    ss_buf_addf(out, "%*s", (int)pad, "");
  ss_buf_adds(out, s);
  if (!align_right && !last)
    ss_buf_addf(out, "%*s", (int)pad, "");
  ss_buf_adds(out, last ? "\n" : "  ");
}

static void text_grid(struct ss_doc *d, struct ss_grid *g)
{
  size_t *widths = calloc(g->columns, sizeof *widths);

  if (!widths)
    return;
  for (size_t i = 0; i < g->count; i++) {
    struct ss_buf shown = {0};
    ss_escape_terminal(&shown, ss_buf_str(&g->cells[i]), g->cells[i].len);
    ss_buf_release(&g->cells[i]);
    g->cells[i] = shown;
  }
  for (size_t c = 0; c < g->columns; c++) {
    widths[c] = width(header(g, c));
    for (size_t i = c; i < g->count; i += g->columns)
      if (width(ss_buf_str(&g->cells[i])) > widths[c])
        widths[c] = width(ss_buf_str(&g->cells[i]));
  }
  for (size_t c = 0; c < g->columns; c++)
    padded(d->out, header(g, c), widths[c], right(g, c), c + 1 == g->columns);
  for (size_t i = 0; i < g->count; i++) {
    size_t c = i % g->columns;
    padded(d->out, ss_buf_str(&g->cells[i]), widths[c], right(g, c), c + 1 == g->columns);
  }
  free(widths);
}

void ss_doc_grid(struct ss_doc *d, struct ss_grid *g)
{
  if (d->markdown)
    markdown_grid(d, g);
  else
    text_grid(d, g);
  for (size_t i = 0; i < g->count; i++)
    ss_buf_release(&g->cells[i]);
  free(g->cells);
  g->cells = NULL;
  g->count = g->cap = 0;
}
