/* flamegraph.html: nothing of the target escapes its data, no time is lost. */
#include "unit.h"

#include "../../src/output/flame_priv.h"
#include "written.h"

static void fill_run(struct fx *fx)
{
  fx_run(fx, 10);
}

static void fill_wide(struct fx *fx)
{
  fx_run_wide(fx, FLAME_NODES_MAX * 2);
}

static uint64_t cells_sum(const struct flame *f)
{
  uint64_t sum = 0;
  for (size_t i = 0; i < f->n_cells; i++)
    sum += f->cells[i].ns;
  return sum;
}

static uint64_t totals_sum(const struct ss_profile *p)
{
  uint64_t sum = 0;
  for (size_t i = 0; i < p->n_totals; i++)
    sum += p->totals[i].weight_ns;
  return sum;
}

static void keeps_all_time(void **state)
{
  (void)state;
  struct written w;
  struct flame f = {0};
  written_open(&w, fill_run);
  assert_int_equal(flame_build(&f, w.profile, NULL), SS_ERR_OK);
  assert_int_equal(cells_sum(&f), totals_sum(w.profile));
  assert_int_equal(f.joined_nodes, 0);
  for (size_t i = 0; i < f.tree.count; i++) { /* preorder: parents first */
    uint32_t parent = f.tree.nodes[f.order[i]].parent;
    assert_true(parent == SS_ID_NONE || f.position[parent] < i);
  }
  flame_release(&f);
  written_close(&w);
}

static void joins_the_smallest_nodes(void **state)
{
  (void)state;
  struct written w;
  struct flame f = {0};
  written_open(&w, fill_wide);
  assert_int_equal(flame_build(&f, w.profile, NULL), SS_ERR_OK);
  assert_true(f.joined_nodes > 0 && f.joined_ns > 0);
  assert_true(f.tree.count <= 2 * FLAME_NODES_MAX);
  assert_int_equal(cells_sum(&f), totals_sum(w.profile));
  flame_release(&f);
  written_close(&w);
}

static void is_one_inert_page(void **state)
{
  (void)state;
  struct written w;
  written_open(&w, fx_run_hostile);
  char *text = written_text(&w, ss_write_flamegraph, NULL, NULL);
  assert_int_equal(count_of(text, "<script"), 2);
  assert_int_equal(count_of(text, "</script>"), 2);
  assert_int_equal(count_of(text, "script-src 'sha256-"), 1);
  assert_int_equal(count_of(text, "style-src 'sha256-"), 1);
  assert_int_equal(count_of(text, "default-src 'none'"), 1);
  assert_int_equal(count_of(text, "unsafe"), 0);
  assert_int_equal(count_of(text, "http:") + count_of(text, "https:"), 0);
  assert_int_equal(count_of(text, "innerHTML"), 0);
  assert_null(strchr(text, 0x7f));
  assert_non_null(strstr(text, "\\u003c/script"));
  static const char *const marks[] = {"@CSP@", "@TITLE@", "@CSS@", "@DATA@", "@JS@"};
  for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
    assert_null(strstr(text, marks[i]));
  free(text);
  written_close(&w);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(keeps_all_time),
      cmocka_unit_test(joins_the_smallest_nodes),
      cmocka_unit_test(is_one_inert_page),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
