/*
 * The running test of a process: the value of PYTEST_CURRENT_TEST in its live
 * environment, which pytest sets to "NODEID (setup|call|teardown)" for each
 * phase and removes after the last.
 *
 * A look may race with setenv in the target, so a value is taken only when its
 * slot still points to it and it has the expected form; otherwise the look is
 * repeated, and in the end the previous value stays. A later form of the value
 * is accepted once it reads the same twice.
 */
#include <stdlib.h>
#include <string.h>

#include "context_priv.h"
#include "stacksample/limits.h"
#include "stacksample/sys.h"

enum {
  NAME_LEN = sizeof SS_TEST_NAME - 1,
  TRIES = 3,
  TEXT_MAX = NAME_LEN + SS_TEST_ID_MAX,
  PLAN_TEXT_MAX = 512, /* read at every sample; the rest of a longer one later */
  CHEAP_READS = 64,    /* a whole look that costs more is an unusual array */
};
#define SCAN_PAUSE_NS 250000000u /* then at most four such looks a second */

/* ---- the value ---------------------------------------------------------------- */

void ss_test_parse(const char *value, size_t len, struct ss_test_id *out)
{
  static const char *const phases[] = {" (setup)", " (call)", " (teardown)"};
  *out = (struct ss_test_id){value, len, "", 0};
  for (size_t i = 0; i < sizeof phases / sizeof phases[0]; i++) {
    size_t tail = strlen(phases[i]);
    if (len < tail || memcmp(value + len - tail, phases[i], tail) != 0)
      continue;
    out->id_len = len - tail;
    out->phase = phases[i] + 2;
    out->phase_len = tail - 3;
  }
}

/* ---- what is known -------------------------------------------------------------- */

void ss_testenv_release(struct ss_testenv *env)
{
  free(env->value);
  env->value = NULL;
  env->value_len = 0;
}

void ss_testenv_reset(struct ss_testenv *env)
{
  uint64_t generation = env->generation + 1;
  ss_testenv_release(env);
  *env = (struct ss_testenv){.generation = generation};
}

static uint64_t slot_at(uint64_t array, uint32_t index)
{
  return array + (uint64_t)index * sizeof(uint64_t);
}

/* The text comes before its slot: a slot that still holds the pointer after
 * the text was copied vouches for it. */
bool ss_testenv_plan(const struct ss_testenv *env, struct ss_read_plan *plan)
{
  if (env->environ_var == 0)
    return false;
  ss_read_plan_add(plan, env->environ_var, sizeof(uint64_t));
  if (env->slot_addr != 0) {
    size_t text = NAME_LEN + env->value_len + 1;
    ss_read_plan_add(plan, env->string, text < PLAN_TEXT_MAX ? text : PLAN_TEXT_MAX);
    ss_read_plan_add(plan, env->slot_addr, sizeof(uint64_t));
  } else if (env->array != 0 && env->count > 0) {
    ss_read_plan_add(plan, slot_at(env->array, env->count - 1), 2 * sizeof(uint64_t));
  } else if (env->array != 0) {
    ss_read_plan_add(plan, env->array, sizeof(uint64_t));
  }
  return true;
}

static bool same_value(const struct ss_testenv *env, const char *value, size_t len)
{
  return env->value && env->value_len == len && memcmp(env->value, value, len) == 0;
}

static bool set_value(struct ss_testenv *env, const char *value, size_t len)
{
  if (same_value(env, value, len))
    return false;
  char *copy = malloc(len + 1);
  if (!copy)
    return false;
  memcpy(copy, value, len);
  copy[len] = '\0';
  free(env->value);
  env->value = copy;
  env->value_len = len;
  return true;
}

static void set_slot(struct ss_testenv *env, uint64_t array, uint64_t slot,
                     uint64_t string)
{
  env->array = array;
  env->slot_addr = slot;
  env->string = string;
  env->pytest = true;
  env->generation++;
}

/* The variable is not set; what an update must see unchanged to know it still
 * is not. */
static bool set_absent(struct ss_testenv *env, uint64_t array, uint32_t count,
                       uint64_t last)
{
  bool changed = env->value != NULL;
  ss_testenv_release(env);
  env->array = array;
  env->slot_addr = env->string = 0;
  env->count = count;
  env->last = last;
  env->generation++;
  return changed;
}

static void set_worker(struct ss_testenv *env, const struct ss_mem *mem, uint64_t string)
{
  char text[sizeof "PYTEST_XDIST_WORKER=" + sizeof env->worker];
  bool whole;
  size_t name = sizeof "PYTEST_XDIST_WORKER=" - 1;
  size_t len = ss_env_string(mem, string, text, sizeof text, &whole);
  if (!whole || len < name || len - name >= sizeof env->worker)
    return;
  for (size_t i = name; i < len; i++)
    if (text[i] <= ' ' || text[i] >= 0x7f)
      return;
  memcpy(env->worker, text + name, len - name);
  env->worker[len - name] = '\0';
}

/* ---- one look -------------------------------------------------------------------- */

/* Memory as of the sample where it was copied, and as it is now. */
struct look {
  struct ss_testenv *env;
  const struct ss_mem *mem;
  const struct ss_mem *live;
  uint64_t array;
};

/* Reads and verifies the value behind `slot`. false: not that variable, or
 * never twice the same. */
static bool read_value(const struct look *l, uint64_t slot, uint64_t *string, char *text,
                       size_t *len)
{
  const struct ss_mem *mem = l->mem;
  char before[TEXT_MAX];
  size_t before_len = 0;
  for (int i = 0; i < TRIES; i++) {
    uint64_t now = 0;
    bool whole;
    struct ss_test_id id;
    if (!ss_mem_u64(mem, slot, string) || *string == 0)
      return false;
    *len = ss_env_string(mem, *string, text, TEXT_MAX, &whole);
    if (*len < NAME_LEN || (!whole && *len < TEXT_MAX) ||
        memcmp(text, SS_TEST_NAME, NAME_LEN) != 0)
      return false;
    ss_test_parse(text + NAME_LEN, *len - NAME_LEN, &id);
    /* The copy of a sample is older than the slot is now. */
    bool held = mem != l->live || (ss_mem_u64(mem, slot, &now) && now == *string);
    if (held && whole && id.phase_len > 0)
      return true;
    if (held && i > 0 && *len == before_len && memcmp(text, before, *len) == 0)
      return true;
    memcpy(before, text, *len);
    before_len = *len;
    mem = l->live;
  }
  return false;
}

static bool take(const struct look *l, uint64_t slot, bool *changed)
{
  char text[TEXT_MAX];
  size_t len;
  uint64_t string;
  if (!read_value(l, slot, &string, text, &len))
    return false;
  *changed = set_value(l->env, text + NAME_LEN, len - NAME_LEN);
  if (*changed || slot != l->env->slot_addr || string != l->env->string)
    set_slot(l->env, l->array, slot, string);
  return true;
}

/* Looks through the array from `from` on; true when the value changed. */
static bool scan(const struct look *l, uint32_t from)
{
  struct ss_testenv *env = l->env;
  struct ss_env_scan found;
  bool changed = false;
  if (from == 0 && env->scan_after_ns != 0 && ss_now_ns() < env->scan_after_ns)
    return false;
  bool known = ss_env_scan(l->mem, l->array, from, &found);
  env->scan_after_ns = found.reads > CHEAP_READS ? ss_now_ns() + SCAN_PAUSE_NS : 0;
  if (found.version || found.worker_string != 0)
    env->pytest = true;
  if (found.worker_string != 0)
    set_worker(env, l->mem, found.worker_string);
  if (found.test_slot != 0 && take(l, found.test_slot, &changed))
    return changed;
  if (known && found.test_slot == 0)
    return set_absent(env, l->array, found.count,
                      found.count > from ? found.last : env->last);
  env->array = 0; /* being changed: the previous value stays, look anew */
  return false;
}

static bool text_unchanged(const struct look *l)
{
  const struct ss_testenv *env = l->env;
  char text[TEXT_MAX + 1];
  size_t len = NAME_LEN + env->value_len;
  /* A value that was cut at the limit has more text behind it, not the NUL. */
  size_t want = env->value_len < SS_TEST_ID_MAX ? len + 1 : len;
  return ss_mem_get(l->mem, env->string, text, want) &&
         memcmp(text, SS_TEST_NAME, NAME_LEN) == 0 &&
         memcmp(text + NAME_LEN, env->value, env->value_len) == 0 &&
         (want == len || text[len] == '\0');
}

static bool update_set(const struct look *l)
{
  struct ss_testenv *env = l->env;
  uint64_t string = 0;
  bool changed = false;
  if (env->array == 0)
    return scan(l, 0);
  /* An array that moved was copied with its order. */
  uint64_t slot = l->array + (env->slot_addr - env->array);
  bool moved = l->array != env->array;
  if (!ss_mem_u64(l->mem, slot, &string))
    return scan(l, 0);
  if (string == env->string && env->value && text_unchanged(l)) {
    if (moved)
      set_slot(env, l->array, slot, string);
    return false;
  }
  if (string != 0 && take(l, slot, &changed))
    return changed;
  return scan(l, 0);
}

static bool update_unset(const struct look *l)
{
  const struct ss_testenv *env = l->env;
  uint64_t tail[2] = {0, 0}; /* the last slot and the NULL behind it */
  if (l->array != env->array)
    return scan(l, 0);
  size_t want = env->count > 0 ? sizeof tail : sizeof tail[0];
  uint64_t *at = env->count > 0 ? tail : tail + 1;
  uint64_t from = env->count > 0 ? slot_at(env->array, env->count - 1) : env->array;
  if (!ss_mem_get(l->mem, from, at, want) || tail[0] != env->last)
    return scan(l, 0);
  if (tail[1] != 0 && env->count < SS_ENVIRON_MAX)
    return scan(l, env->count);
  return false;
}

bool ss_testenv_update(struct ss_testenv *env, const struct ss_unwind_space *space,
                       const struct ss_mem *mem)
{
  struct look l = {env, mem, space->live, 0};
  if (env->environ_var == 0) {
    if (env->looked && env->maps_generation == space->maps->generation)
      return false;
    env->looked = true;
    env->maps_generation = space->maps->generation;
    env->environ_var = ss_environ_locate(space);
    if (env->environ_var == 0)
      return false;
    env->generation++;
  }
  if (!ss_mem_u64(mem, env->environ_var, &l.array))
    return false;
  if (l.array == 0) /* not set up yet, or cleared */
    return env->value ? set_absent(env, 0, 0, 0) : false;
  return env->slot_addr != 0 ? update_set(&l) : update_unset(&l);
}
