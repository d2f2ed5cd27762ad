/*
 * The table of writers, in the order in which a run is finished: what decides
 * first, so that a run cut short leaves the most.
 */
#include <string.h>

#include "output_priv.h"

const struct ss_writer ss_writers[] = {
    {"summary", "summary.json", true, ss_write_summary_json},
    {"summary", "summary.md", true, ss_write_summary_md},
    {"summary", "tests.tsv", true, ss_write_tests_tsv},
    {"folded", "stacks.folded", false, ss_write_folded},
    {"folded", "stacks-by-test.folded", false, ss_write_folded_tests},
    {"folded", "stacks-wait.folded", false, ss_write_folded_wait},
    {"flamegraph", "flamegraph.html", false, ss_write_flamegraph},
    {"trace", "profiler.json", false, ss_write_trace},
    {"speedscope", "profile.speedscope.json", false, ss_write_speedscope},
    {"pprof", "profile.pb.gz", false, ss_write_pprof},
    {NULL, NULL, false, NULL},
};

static const char default_list[] = "folded,trace,flamegraph";

/* The next word of a comma list; false at its end. */
static bool next_word(const char **list, const char **word, size_t *len)
{
  if (**list == '\0')
    return false;
  *word = *list;
  *len = strcspn(*list, ",");
  *list += *len + ((*list)[*len] == ',');
  return true;
}

static bool is_word(const char *word, size_t len, const char *what)
{
  return strlen(what) == len && memcmp(word, what, len) == 0;
}

bool ss_writer_named(const struct ss_writer *w, const char *list)
{
  const char *word;
  size_t len;
  const char *rest = list != NULL ? list : default_list;
  bool named = false;
  while (!named && next_word(&rest, &word, &len))
    named = is_word(word, len, "all") || is_word(word, len, w->format);
  return named;
}

static bool known_word(const char *word, size_t len)
{
  bool known = is_word(word, len, "all") || is_word(word, len, "none");
  for (const struct ss_writer *w = ss_writers; !known && w->format != NULL; w++)
    known = is_word(word, len, w->format);
  return known;
}

enum ss_err ss_writer_check_list(const char *list, struct ss_diag *diag)
{
  const char *word;
  size_t len;
  const char *rest = list != NULL ? list : default_list;
  while (next_word(&rest, &word, &len)) {
    if (!known_word(word, len)) {
      return ss_fail(diag, SS_ERR_USAGE,
                     "no format is called %.*s; there are summary, folded, trace, "
                     "flamegraph, speedscope, pprof, all, none",
                     (int)(len < 64 ? len : 64), word);
    }
  }
  return SS_ERR_OK;
}
