/* Hidden kernel time: all of it becomes rows, and what was seen says where. */
#include "store_rows.h"

#include "../../src/engine/hidden.h"

#define MS 1000000ull
#define PERIOD (10 * MS)
#define PHASE 1u

/* In the fixture stack 9 is native, below 8 in Python, and so on to the root 0. */
enum { PYTHON = 8, NATIVE = 9 };

struct run {
  const struct tmpdir *tmp;
  struct ss_store *store;
  struct ss_hidden *hidden;
  uint32_t other; /* a native stack below PYTHON, beside NATIVE */
  uint64_t clock_ns;
  struct ss_profile *profile; /* from finish() on */
};

enum { COST = 2000 };

static void cost_is_known(struct ss_fault_cost *c, uint64_t own_faults)
{
  (void)own_faults;
  c->small_ns[0] = COST;
  c->n_small = 1;
}

static void start(struct run *r, void **state)
{
  struct ss_diag diag = {0};
  *r = (struct run){.tmp = *state};
  assert_int_equal(ss_store_create(&r->store, &r->tmp->dir, "profile.db", &diag),
                   SS_ERR_OK);
  fixture_rows(r->store);
  r->other = ss_store_stack(r->store, PYTHON, 7, 0);
  r->hidden = ss_hidden_new(r->store, PERIOD, cost_is_known);
  assert_non_null(r->hidden);
}

static struct ss_hidden_moment at(struct run *r, uint32_t stack, uint64_t later_ns)
{
  r->clock_ns += later_ns;
  return (struct ss_hidden_moment){.thread = 1,
                                   .phase = PHASE,
                                   .stack = stack,
                                   .end = SS_END_COMPLETE,
                                   .time_ns = ss_now_ns(),
                                   .clock_ns = r->clock_ns};
}

static void sample(struct run *r, uint32_t stack, uint64_t later_ns)
{
  struct ss_hidden_moment m = at(r, stack, later_ns);
  ss_hidden_sample(r->hidden, &m);
}

static void fault(struct run *r, uint32_t stack, uint64_t later_ns, uint64_t faults)
{
  struct ss_hidden_moment m = at(r, stack, later_ns);
  ss_hidden_fault(r->hidden, &m, faults);
}

/* In two words, as it may. */
static void ledger_says(struct run *r, uint64_t ns)
{
  ss_hidden_time(r->hidden, 1, PHASE, ns / 3);
  ss_hidden_time(r->hidden, 1, PHASE, ns - ns / 3);
  ss_hidden_settle(r->hidden);
}

static void finish(struct run *r)
{
  ss_hidden_free(r->hidden);
  assert_int_equal(ss_store_close(r->store, NULL), SS_ERR_OK);
  assert_int_equal(ss_profile_open(&r->profile, &r->tmp->dir, "profile.db", NULL),
                   SS_ERR_OK);
}

/* Kernel time of rows whose leaf is `name` right below `parent`. */
static uint64_t below(const struct run *r, uint32_t parent, const char *name)
{
  const struct ss_profile *p = r->profile;
  uint64_t sum = 0;
  for (size_t i = 0; i < p->n_totals; i++) {
    const struct ss_total *t = &p->totals[i];
    const struct ss_stack_row *stack = &p->stacks[t->stack];
    const char *text = ss_profile_str(p, p->frames[stack->frame].name);
    if (t->state == SS_STATE_KERNEL && stack->parent == parent &&
        strcmp(text, name) == 0) {
      assert_int_equal(t->thread, 1);
      assert_int_equal(t->phase, PHASE);
      sum += t->weight_ns;
    }
  }
  return sum;
}

static void without_a_moment_it_is_unknown(void **state)
{
  struct run r;
  start(&r, state);
  ledger_says(&r, 12345);
  finish(&r);
  assert_int_equal(below(&r, SS_ID_NONE, "[kernel: unknown]"), 12345);
  ss_profile_close(r.profile);
}

static void a_gap_lies_under_what_both_edges_share(void **state)
{
  struct run r;
  start(&r, state);
  sample(&r, NATIVE, 0);
  sample(&r, r.other, 5 * PERIOD);
  ledger_says(&r, 40 * MS);
  finish(&r);
  assert_int_equal(below(&r, PYTHON, "[kernel: unknown]"), 40 * MS);
  ss_profile_close(r.profile);
}

static void without_a_gap_nothing_is_claimed(void **state)
{
  struct run r;
  start(&r, state);
  sample(&r, NATIVE, 0);
  sample(&r, NATIVE, PERIOD);
  sample(&r, NATIVE, PERIOD + MS);
  ledger_says(&r, 3 * MS);
  finish(&r);
  assert_int_equal(below(&r, SS_ID_NONE, "[kernel: unknown]"), 3 * MS);
  ss_profile_close(r.profile);
}

static void edges_in_different_lines_share_the_gap(void **state)
{
  struct run r;
  start(&r, state);
  sample(&r, NATIVE, 0);
  sample(&r, 4, 3 * PERIOD); /* an outer Python frame */
  ledger_says(&r, 20 * MS);
  finish(&r);
  assert_int_equal(below(&r, PYTHON, "[kernel: unknown]"), 10 * MS);
  assert_int_equal(below(&r, 4, "[kernel: unknown]"), 10 * MS);
  ss_profile_close(r.profile);
}

static void faults_take_what_they_cost_and_no_more(void **state)
{
  struct run r;
  struct ss_hidden_counts counts;
  start(&r, state);
  sample(&r, 4, 0);
  fault(&r, NATIVE, MS, 10);
  sample(&r, 4, 5 * PERIOD);
  ledger_says(&r, 40 * MS);
  ss_hidden_counts(r.hidden, &counts);
  finish(&r);
  uint64_t faults = below(&r, NATIVE, "[kernel: page fault]");
  assert_int_equal(counts.faults, 10);
  assert_int_equal(counts.fault_cost_ns, COST);
  assert_int_equal(faults, 10 * COST);
  assert_int_equal(counts.fault_ns, faults);
  /* The rest of the gap goes to the fault's Python line, not to the edges. */
  assert_int_equal(below(&r, PYTHON, "[kernel: unknown]"), 40 * MS - faults);
  ss_profile_close(r.profile);
}

static void many_faults_take_all(void **state)
{
  struct run r;
  start(&r, state);
  fault(&r, NATIVE, 0, 10);
  fault(&r, NATIVE, 4 * PERIOD, 1000000);
  fault(&r, r.other, 4 * PERIOD, 1000000);
  ledger_says(&r, 10 * MS);
  finish(&r);
  uint64_t one = below(&r, NATIVE, "[kernel: page fault]");
  uint64_t two = below(&r, r.other, "[kernel: page fault]");
  assert_int_equal(one + two, 10 * MS);
  assert_in_range(two, 4 * MS, 6 * MS);
  ss_profile_close(r.profile);
}

static void old_moments_are_forgotten(void **state)
{
  struct run r;
  start(&r, state);
  fault(&r, NATIVE, 0, 1000);
  for (int i = 0; i < 100; i++)
    sample(&r, 4, PERIOD);
  sample(&r, 4, 2 * PERIOD);
  ledger_says(&r, 10 * MS);
  finish(&r);
  assert_int_equal(below(&r, NATIVE, "[kernel: page fault]"), 0);
  assert_int_equal(below(&r, 4, "[kernel: unknown]"), 10 * MS);
  ss_profile_close(r.profile);
}

/* On this machine; what it is may be anything, and not to be found out by chance. */
static void a_fault_costs_something(void **state)
{
  (void)state;
  struct ss_fault_cost c = {0};
  for (int i = 0; i < 100 && c.n_small == 0; i++)
    ss_fault_cost_update(&c, 1);
  assert_true(c.n_small == 0 || ss_fault_cost_small(&c) > 0);
  assert_true(ss_fault_cost_mean(&c) >= ss_fault_cost_small(&c));
}

static void huge_faults_raise_the_mean(void **state)
{
  (void)state;
  struct ss_fault_cost c = {.small_ns = {1000, 3000, 2000},
                            .n_small = 3,
                            .huge_ns = {300000},
                            .n_huge = 1,
                            .faults = 100,
                            .huge = 2};
  assert_int_equal(ss_fault_cost_small(&c), 2000);
  assert_int_equal(ss_fault_cost_mean(&c), 2000 + 6000);
}

static void vmstat(void **state)
{
  (void)state;
  uint64_t faults = 7, huge = 7;
  assert_true(ss_vmstat_parse("a 1\npgfault 123\nthp_fault_alloc 45\n", &faults, &huge));
  assert_int_equal(faults, 123);
  assert_int_equal(huge, 45);
  assert_true(ss_vmstat_parse("pgfault 5", &faults, &huge));
  assert_int_equal(huge, 0);
  assert_false(ss_vmstat_parse("", &faults, &huge));
  assert_false(ss_vmstat_parse("xpgfault 5\npgfault_x 4\npgfault", &faults, &huge));
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(vmstat),
      cmocka_unit_test(a_fault_costs_something),
      cmocka_unit_test(huge_faults_raise_the_mean),
      TMPDIR_TEST(without_a_moment_it_is_unknown),
      TMPDIR_TEST(a_gap_lies_under_what_both_edges_share),
      TMPDIR_TEST(without_a_gap_nothing_is_claimed),
      TMPDIR_TEST(edges_in_different_lines_share_the_gap),
      TMPDIR_TEST(faults_take_what_they_cost_and_no_more),
      TMPDIR_TEST(many_faults_take_all),
      TMPDIR_TEST(old_moments_are_forgotten),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
