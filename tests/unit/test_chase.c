/*
 * Chases through our own memory: what is read, what is left out because it is known,
 * and that lists which make no sense end.
 */
#include "unit.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "stacksample/chase.h"
#include "stacksample/proc.h"

enum { ELEMENTS = 40, PAGE = 4096, TEXT = 64 };

/* Elements that name objects, which lead to a counted text and to a name. */
struct element {
  uint64_t next, object;
};
struct object {
  uint64_t first_word, text, name;
};
struct text {
  uint64_t count;
  char bytes[200];
};

struct world {
  uint64_t start;
  struct element elements[ELEMENTS];
  struct object objects[ELEMENTS];
  struct text texts[ELEMENTS];
  char names[ELEMENTS][16];
  struct ss_seen *seen;
  struct ss_chase chase;
  struct ss_region regions[SS_CHASE_REGIONS];
  unsigned char bytes[SS_CHASE_BYTES];
  struct ss_chased out;
};

static uint64_t at(const void *p)
{
  return (uint64_t)(uintptr_t)p;
}

static int setup(void **state)
{
  struct world *w = calloc(1, sizeof *w);
  assert_non_null(w);
  w->start = at(&w->elements[0]);
  for (size_t i = 0; i < ELEMENTS; i++) {
    w->elements[i] = (struct element){i + 1 < ELEMENTS ? at(&w->elements[i + 1]) : 0,
                                      at(&w->objects[i]) | 1};
    w->objects[i] = (struct object){i, at(&w->texts[i]), at(w->names[i])};
    w->texts[i].count = 100 + i;
    memset(w->texts[i].bytes, 'a' + (int)(i % 26), sizeof w->texts[i].bytes);
    snprintf(w->names[i], sizeof w->names[i], "name %zu", i);
  }
  w->chase = (struct ss_chase){
      .start = at(&w->start),
      .hop = SS_CHASE_NO_HOP,
      .element = sizeof(struct element),
      .next = offsetof(struct element, next),
      .object = offsetof(struct element, object),
      .tag = 3,
      .before = 64,
      .elements_max = 8,
      .head = sizeof(struct object),
      .print_at = offsetof(struct object, text),
      .pointers = {{offsetof(struct object, text), TEXT},
                   {offsetof(struct object, name), 16}},
      .count_at = 0,
      .data_at = offsetof(struct text, bytes),
  };
  w->seen = ss_seen_new();
  assert_non_null(w->seen);
  *state = w;
  return 0;
}

static int teardown(void **state)
{
  struct world *w = *state;
  ss_seen_free(w->seen);
  free(w);
  return 0;
}

/* So many were read for the sample: the start and the elements, then the objects. */
static void chase_from(struct world *w, size_t known_spans)
{
  const struct ss_span spans[] = {
      {at(&w->start), sizeof w->start, (const unsigned char *)&w->start},
      {at(w->elements), sizeof w->elements, (const unsigned char *)w->elements},
      {at(w->objects), sizeof w->objects, (const unsigned char *)w->objects}};
  struct ss_mem_spans known;
  ss_mem_spans_init(&known, spans, known_spans, NULL);
  w->out = (struct ss_chased){w->regions, w->bytes, 0, 0};
  ss_chase_run(&w->chase, getpid(), &known.mem, w->seen, UINT64_C(1) << 30, &w->out);
}

static void chase(struct world *w, bool elements_known)
{
  chase_from(w, elements_known ? 2 : 0);
}

/* What was read at `addr`; NULL: less than `len` of it. */
static const void *read_at(const struct world *w, const void *addr, size_t len)
{
  const unsigned char *bytes = w->out.bytes;
  for (uint32_t i = 0; i < w->out.count; bytes += w->regions[i++].len)
    if (w->regions[i].addr <= at(addr) &&
        at(addr) + len <= w->regions[i].addr + w->regions[i].len)
      return bytes + (at(addr) - w->regions[i].addr);
  return NULL;
}

static void mark(struct world *w, size_t i, uint64_t text, uint64_t until_ns)
{
  ss_seen_mark(w->seen, getpid(), at(&w->objects[i]), text, until_ns, false);
}

static void mark_all(struct world *w, uint64_t until_ns)
{
  for (size_t i = 0; i < ELEMENTS; i++)
    mark(w, i, at(&w->texts[i]), until_ns);
}

static void test_reads_what_is_new(void **state)
{
  struct world *w = *state;
  chase(w, true);
  for (size_t i = 0; i < 10; i++) {
    const struct object *object = read_at(w, &w->objects[i], sizeof *object);
    assert_non_null(object);
    assert_int_equal(object->first_word, i);
    assert_string_equal(read_at(w, w->names[i], 16), w->names[i]);
    assert_non_null(read_at(w, &w->texts[i], TEXT)); /* and the rest, by its length */
    assert_non_null(read_at(w, w->texts[i].bytes + TEXT, 36 + i));
  }
  assert_true(w->out.count <= SS_CHASE_REGIONS);
}

static void test_leaves_out_what_is_known(void **state)
{
  struct world *w = *state;
  mark_all(w, UINT64_C(3) << 30);
  chase(w, true);
  assert_int_equal(w->out.count, 0);
  mark(w, 7, at(&w->texts[7]), 0); /* not lately: its head is enough */
  chase(w, true);
  assert_int_equal(w->out.count, 1);
  assert_non_null(read_at(w, &w->objects[7], sizeof(struct object)));
  mark(w, 7, at(&w->texts[8]), 0); /* another object lay there */
  chase(w, true);
  assert_non_null(read_at(w, w->names[7], 16));
}

/* Compared in what was read for the sample: read is only what another one points to. */
static void test_heads_that_were_read(void **state)
{
  struct world *w = *state;
  mark_all(w, UINT64_C(3) << 30);
  mark(w, 7, at(&w->texts[7]), 0);
  chase_from(w, 3);
  assert_int_equal(w->out.count, 0);
  mark(w, 7, at(&w->texts[8]), 0);
  chase_from(w, 3);
  assert_null(read_at(w, &w->objects[7], 8));
  assert_string_equal(read_at(w, w->names[7], 16), w->names[7]);
  assert_non_null(read_at(w, w->texts[7].bytes + TEXT, 36 + 7));
}

/* Read once, then vouched for again, but for one that may be freed soon, or is another
 * by now. */
static void test_what_lasts_is_vouched_for_again(void **state)
{
  struct world *w = *state;
  mark_all(w, UINT64_C(3) << 30);
  for (size_t i = 7; i < 10; i++)
    ss_seen_mark(w->seen, getpid(), at(&w->objects[i]),
                 i == 8 ? at(w->names[8]) : at(&w->texts[i]), 0, i < 9);
  chase(w, true);
  for (size_t i = 7; i < 10; i++)
    assert_non_null(read_at(w, &w->objects[i], sizeof(struct object)));
  chase(w, true);
  assert_null(read_at(w, &w->objects[7], 8));
  assert_non_null(read_at(w, &w->objects[8], 8));
  assert_non_null(read_at(w, &w->objects[9], 8));
}

static void test_processes_are_apart(void **state)
{
  struct world *w = *state;
  mark_all(w, UINT64_C(3) << 30);
  assert_int_equal(
      ss_seen_look(w->seen, getpid() + 1, at(&w->objects[0]), UINT64_C(1) << 30),
      SS_SEEN_NEVER);
  assert_int_equal(ss_seen_look(w->seen, getpid(), at(&w->objects[0]), UINT64_C(4) << 30),
                   SS_SEEN_BEFORE);
}

static void test_reads_elements_that_are_not_known(void **state)
{
  struct world *w = *state;
  mark_all(w, UINT64_C(3) << 30);
  chase(w, false);
  assert_true(w->out.count >= 2 && w->out.count <= 8);
  assert_non_null(read_at(w, &w->elements[0], sizeof(struct element)));
  w->chase.start = at(&w->chase.start) - 8; /* begins at nothing that is an element */
  chase(w, false);
  w->chase.start = 8;
  chase(w, false);
  assert_int_equal(w->out.count, 0);
}

static void test_what_cannot_be_read_is_left_out(void **state)
{
  struct world *w = *state;
  unsigned char *page =
      mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  assert_ptr_not_equal(page, MAP_FAILED);
  assert_int_equal(munmap(page + PAGE, PAGE), 0);
  memcpy(page + PAGE - 8, "12345678", 8);
  w->elements[0].object = 64;               /* nothing there */
  w->objects[1].name = at(page + PAGE - 8); /* half of it */
  w->objects[2].text = UINT64_MAX - 7;      /* wraps around */
  w->texts[3].count = UINT64_MAX;           /* a wild length */
  chase(w, true);
  assert_null(read_at(w, w->texts[3].bytes + TEXT, 1));
  assert_memory_equal(read_at(w, page + PAGE - 8, 8), "12345678", 8);
  assert_non_null(read_at(w, w->names[5], 16));
  munmap(page, PAGE);
}

static void test_cycles_and_bad_offsets_end(void **state)
{
  struct world *w = *state;
  w->elements[5].next = at(&w->elements[5]);
  chase(w, true);
  assert_non_null(read_at(w, &w->objects[5], sizeof(struct object)));
  assert_null(read_at(w, &w->objects[6], sizeof(struct object)));
  w->chase.next = sizeof(struct element) - 4;
  chase(w, true);
  assert_int_equal(w->out.count, 0);
  w->chase.next = 0;
  w->chase.pointers[0].at = 4096;
  chase(w, true);
  assert_int_equal(w->out.count, 0);
}

/* Every word of the world in turn something else. */
static void test_changed_words(void **state)
{
  static const uint64_t wild[] = {0, 8, UINT64_MAX - 7, UINT64_C(1) << 47};
  struct world *w = *state;
  uint64_t *words = &w->start;
  const size_t count = offsetof(struct world, texts) / sizeof *words;
  for (size_t i = 0; i < count; i += 3) {
    const uint64_t was = words[i];
    for (size_t k = 0; k < sizeof wild / sizeof *wild; k++) {
      words[i] = wild[k];
      chase(w, i % 2 == 0);
      assert_true(w->out.count <= SS_CHASE_REGIONS && w->out.len <= SS_CHASE_BYTES);
    }
    words[i] = was;
  }
}

/* A pointer, an object behind hops, and the text that it points to. */
struct passage {
  uint64_t start, first[3], last[4], object[8], text[16];
};
static void set_passage(struct passage *p)
{
  *p = (struct passage){.start = at(p->first) | 1};
  p->first[1] = at(p->last);
  p->last[2] = 0x10; /* nothing lies there */
  p->last[3] = at(p->object);
  p->object[6] = at(p->text);
  memcpy(p->text, "the name", 9);
}

static void test_path(void **state)
{
  struct world *w = *state;
  struct passage *p = calloc(1, sizeof *p);
  assert_non_null(p);
  set_passage(p);
  mark_all(w, UINT64_C(1) << 40);
  w->chase.path = (struct ss_chase_path){at(&p->start), {8, 16}, sizeof p->object, 6 * 8};
  chase(w, true);
  assert_memory_equal(read_at(w, p->last, sizeof p->last), p->last, sizeof p->last);
  assert_memory_equal(read_at(w, p->object, sizeof p->object), p->object,
                      sizeof p->object);
  assert_string_equal(read_at(w, p->text, 9), "the name");
  p->start = at(p->object); /* without hops */
  w->chase.path.hops[0] = w->chase.path.hops[1] = SS_CHASE_NO_HOP;
  chase(w, true);
  assert_string_equal(read_at(w, p->text, 9), "the name");
  assert_null(read_at(w, p->last, 8));
  free(p);
}

static void test_paths_that_lead_nowhere(void **state)
{
  struct world *w = *state;
  struct passage *p = calloc(1, sizeof *p);
  assert_non_null(p);
  mark_all(w, UINT64_C(1) << 40);
  const struct ss_chase_path path = {at(&p->start), {8, 16}, sizeof p->object, 6 * 8};
  uint64_t *words[] = {&p->start, &p->first[1], &p->last[3], &p->object[6]};
  static const uint64_t wild[] = {0, 0x10, UINT64_MAX, UINT64_MAX - 7, 12345678901};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    for (size_t k = 0; k < sizeof wild / sizeof *wild; k++) {
      set_passage(p);
      *words[i] = wild[k];
      w->chase.path = path;
      chase(w, true);
      assert_null(read_at(w, p->text, 9));
    }
  set_passage(p);
  w->chase.path.text_at = sizeof p->object - 7;
  chase(w, true);
  assert_null(read_at(w, p->object, 8));
  w->chase.path = path;
  w->chase.path.hops[1] = 4000;
  chase(w, true);
  assert_null(read_at(w, p->object, 8));
  free(p);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_reads_what_is_new, setup, teardown),
      cmocka_unit_test_setup_teardown(test_leaves_out_what_is_known, setup, teardown),
      cmocka_unit_test_setup_teardown(test_heads_that_were_read, setup, teardown),
      cmocka_unit_test_setup_teardown(test_what_lasts_is_vouched_for_again, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(test_processes_are_apart, setup, teardown),
      cmocka_unit_test_setup_teardown(test_reads_elements_that_are_not_known, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(test_what_cannot_be_read_is_left_out, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(test_cycles_and_bad_offsets_end, setup, teardown),
      cmocka_unit_test_setup_teardown(test_changed_words, setup, teardown),
      cmocka_unit_test_setup_teardown(test_path, setup, teardown),
      cmocka_unit_test_setup_teardown(test_paths_that_lead_nowhere, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
