/*
 * The merge over constructed CPythons of every layout (free-threaded ones too,
 * which cannot be run here), and over the same with memory that lies: cycles,
 * wild lengths, torn frames, reused code objects. Every walk ends, what does not
 * fit stays native.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "py_image.h"

static const struct {
  unsigned minor;
  bool free_threaded;
} all[] = {{11, false}, {12, false}, {13, false}, {14, false},
           {15, false}, {13, true},  {14, true},  {15, true}};
enum { ALL = sizeof all / sizeof *all, CAP = 16 };

static void each_layout(void (*test)(struct image *im))
{
  for (size_t i = 0; i < ALL; i++) {
    struct image *im = image_new(all[i].minor, all[i].free_threaded);
    assert_non_null(im);
    test(im);
    image_free(im);
  }
}

/* "0 leaf:11 mid:21 2 outer:31 4" */
static void assert_merged(const struct ss_merged *out, const struct ss_py_result *r,
                          const char *expected)
{
  struct ss_buf text = {0};
  for (size_t i = 0; i < r->count; i++) {
    ss_buf_adds(&text, i ? " " : "");
    if (out[i].kind == SS_MERGED_NATIVE)
      ss_buf_addf(&text, "%u", out[i].native);
    else
      ss_buf_addf(&text, "%s:%d", out[i].code->function, out[i].line);
  }
  assert_string_equal(ss_buf_str(&text), expected);
  ss_buf_release(&text);
}

static const char whole[] = "0 leaf:11 mid:21 2 outer:31 4";

static void merge_whole(struct image *im)
{
  struct ss_merged out[CAP];
  struct ss_py_result r;
  for (int i = 0; i < 4; i++) {
    image_merge(im, out, CAP, &r);
    assert_merged(out, &r, whole);
    assert_true(r.verified && r.has_python);
    assert_int_equal(r.doubt, SS_PY_DOUBT_NONE);
    assert_int_equal(r.python, 3);
    assert_int_equal(r.activations, 2);
  }
  assert_string_equal(out[1].code->file, "file.py");
  assert_int_equal(out[1].code->first_line, 10);
  assert_int_equal(ss_py_counts(im->py)->rejected, 0);
}
static void test_every_layout(void **state)
{
  (void)state;
  each_layout(merge_whole);
}

/* 3.8 to 3.10: one activation a frame, which one a register tells (here r12). */
static struct image *image_objects(unsigned minor)
{
  struct image *im = image_new(minor, false);
  assert_non_null(im);
  const uint64_t frames[] = {im->leaf, im->mid, im->outer};
  im->py->module = &im->module;
  im->py->eval_start = 0x500;
  im->py->eval_end = 0x600;
  for (int i = 0; i < 3; i++) {
    im->native[1 + i].function = 0x500;
    im->native[1 + i].saved[SS_SAVED_R12] = frames[i];
    im->native[1 + i].saved_known = 1u << SS_SAVED_R12;
  }
  return im;
}
static void test_frame_objects(void **state)
{
  (void)state;
  struct ss_merged out[CAP];
  struct ss_py_result r;
  for (unsigned minor = 8; minor <= 10; minor++) {
    struct image *im = image_objects(minor);
    image_merge(im, out, CAP, &r);
    assert_merged(out, &r, "0 leaf:11 mid:21 outer:31 4");
    assert_true(r.verified);
    im->native[1].saved[SS_SAVED_R12] = 0x1234; /* just entered */
    image_u64(im, im->tstate + im->py->layout.tstate_current, im->mid);
    image_merge(im, out, CAP, &r);
    assert_merged(out, &r, "0 1 mid:21 outer:31 4");
    assert_true(r.verified);
    im->native[2].saved[SS_SAVED_R12] = 0x1234; /* nothing is shifted */
    image_merge(im, out, CAP, &r);
    assert_merged(out, &r, "0 1 2 outer:31 4");
    assert_false(r.verified);
    image_u64(im, im->native[2].sp + 64, im->outer); /* not the next frame */
    image_merge(im, out, CAP, &r);
    assert_merged(out, &r, "0 1 2 outer:31 4");
    image_u64(im, im->native[2].sp + 64, im->mid); /* the register was spilled */
    image_merge(im, out, CAP, &r);
    assert_merged(out, &r, "0 1 mid:21 outer:31 4");
    assert_true(r.verified);
    image_free(im);
  }
}

/* A warm cache of evaluation functions, then the chain breaks at `leaf`. */
static void broken_leaf(struct image *im)
{
  struct ss_merged out[CAP];
  struct ss_py_result r;
  for (int i = 0; i < SS_PY_EVAL_SURE; i++)
    image_merge(im, out, CAP, &r);
  image_u64(im, im->leaf + im->py->layout.frame_code, 0x1234560);
  image_merge(im, out, CAP, &r);
  assert_merged(out, &r, "0 1 2 outer:31 4");
  assert_false(r.verified);
  assert_int_not_equal(r.doubt, SS_PY_DOUBT_NONE);
}
static void test_broken_chain_keeps_outer_frames(void **state)
{
  (void)state;
  each_layout(broken_leaf);
}

/* The leaf function itself is the evaluation function, just entered or about to
 * return: it has no frames, the rest is exact. */
static void prologue(struct image *im)
{
  struct ss_merged out[CAP];
  struct ss_py_result r;
  for (int i = 0; i < SS_PY_EVAL_SURE; i++)
    image_merge(im, out, CAP, &r);
  im->native[0].function = im->native[1].function;
  image_merge(im, out, CAP, &r);
  assert_merged(out, &r, whole);
  assert_true(r.verified);
}
static void test_prologue_of_the_leaf(void **state)
{
  (void)state;
  each_layout(prologue);
}

static void misplaced(struct image *im)
{
  struct ss_merged out[CAP];
  struct ss_py_result r;
  for (int i = 0; i < SS_PY_EVAL_SURE; i++)
    image_merge(im, out, CAP, &r);
  im->native[1].cfa -= 8;
  image_merge(im, out, CAP, &r);
  assert_false(r.verified);
}
static void test_anchor_at_another_place_is_noticed(void **state)
{
  (void)state;
  each_layout(misplaced);
}

static void short_native(struct image *im)
{
  struct ss_merged out[CAP];
  struct ss_py_result r;
  ss_py_merge(im->py, IMAGE_TID, &im->snapshot.mem, &im->mem, im->native, 2, out, CAP,
              &r);
  assert_merged(out, &r, "0 leaf:11 mid:21 outer:31");
  assert_false(r.verified);
  ss_py_merge(im->py, IMAGE_TID, NULL, &im->mem, NULL, 0, out, CAP, &r);
  assert_merged(out, &r, "leaf:11 mid:21 outer:31");
  assert_false(r.verified);
  ss_py_merge(im->py, IMAGE_TID, &im->snapshot.mem, &im->mem, im->native, IMAGE_NATIVE,
              out, 2, &r);
  assert_int_equal(r.count, 2);
}
static void test_short_stacks(void **state)
{
  (void)state;
  each_layout(short_native);
}

/* The copied stack ends below the outer activation, which is read live. */
static bool merge_behind_copy(struct image *im, struct image *then)
{
  struct ss_snapshot snapshot;
  struct ss_merged out[CAP];
  struct ss_py_result r;
  unsigned char room[IMAGE_STACK];
  ss_snapshot_init(&snapshot, IMAGE_STACK_ADDR, then->stack, 1024, &im->mem,
                   IMAGE_STACK_ADDR + IMAGE_STACK);
  assert_int_equal(ss_mem_read(&snapshot.mem, IMAGE_STACK_ADDR, room, sizeof room),
                   sizeof room);
  ss_py_merge(im->py, IMAGE_TID, &snapshot.mem, &then->mem, im->native, IMAGE_NATIVE, out,
              CAP, &r);
  assert_merged(out, &r, whole);
  ss_snapshot_release(&snapshot);
  assert_true(r.verified || r.doubt == SS_PY_DOUBT_MOVED);
  return r.verified;
}

static void returned(struct image *im)
{
  const struct ss_py_layout *l = &im->py->layout;
  struct image *then = malloc(sizeof *then);
  assert_non_null(then);
  merge_whole(im);
  *then = *im;
  then->mem.holds = image_holds;
  assert_true(merge_behind_copy(im, then));
  /* Nothing of what was there is overwritten. */
  image_field(im, im->tstate, l->tstate_current, 0, 8);
  image_field(im, im->tstate, l->tstate_cframe, im->tstate + l->tstate_root_cframe, 8);
  assert_false(merge_behind_copy(im, then));
  free(then);
}
static void test_returned_from_behind_the_copy(void **state)
{
  (void)state;
  each_layout(returned);
}

static void cycle(struct image *im)
{
  const struct ss_py_layout *l = &im->py->layout;
  struct ss_merged out[CAP];
  struct ss_py_result r;
  image_field(im, im->mid, l->frame_previous, im->leaf, 8);
  image_field(im, im->mid, l->frame_entry, 0, 1);
  image_field(im, im->leaf, l->frame_entry, 0, 1);
  image_merge(im, out, CAP, &r);
  assert_false(r.verified);
  image_field(im, im->tstate, l->tstate_next, im->tstate, 8);
  image_field(im, im->interp, l->interp_next, im->interp, 8);
  im->py->listed_ns = 0;
  ss_py_threads_release(im->py);
  image_merge(im, out, CAP, &r);
  assert_true(ss_py_counts(im->py)->rejected > 0);
}
static void test_cycles_end(void **state)
{
  (void)state;
  each_layout(cycle);
}

static void reused(struct image *im)
{
  struct ss_merged out[CAP];
  struct ss_py_result r;
  image_merge(im, out, CAP, &r);
  const struct ss_py_code *before = out[1].code;
  uint64_t code;
  ss_mem_u64(&im->mem, im->leaf + im->py->layout.frame_code, &code);
  code &= ~(uint64_t)im->py->layout.code_tag;
  const uint64_t name = image_str(im, "another");
  image_field(im, code, im->py->layout.code_name, name, 8);
  image_field(im, code, im->py->layout.code_qualname, name, 8);
  uint64_t pos_addr = code;
  struct ss_py_code_entry *entry =
      (struct ss_py_code_entry *)(uintptr_t)*ss_idmap_get(&im->py->code_index, pos_addr);
  entry->trust_ns = 0;
  image_merge(im, out, CAP, &r);
  assert_merged(out, &r, "0 another:11 mid:21 2 outer:31 4");
  assert_string_equal(before->function, "leaf"); /* still valid */
}
static void test_reused_code_object_is_noticed(void **state)
{
  (void)state;
  each_layout(reused);
}

/* All of it is where it was, names too, and yet another one: 3.12 on by its version. */
static void reborn(struct image *im)
{
  const struct ss_py_layout *l = &im->py->layout;
  struct ss_merged out[CAP];
  struct ss_py_result r;
  if (l->code_print == l->code_table)
    return;
  image_merge(im, out, CAP, &r);
  uint64_t code, name;
  ss_mem_u64(&im->mem, im->leaf + l->frame_code, &code);
  code &= ~(uint64_t)l->code_tag;
  ss_mem_u64(&im->mem, code + l->code_name, &name);
  image_put(im, name + l->str_ascii, "next", 4);
  struct ss_py_code_entry *entry =
      (struct ss_py_code_entry *)(uintptr_t)*ss_idmap_get(&im->py->code_index, code);
  entry->trust_ns = 0;
  image_merge(im, out, CAP, &r);
  assert_merged(out, &r, whole); /* the same one: its name is not read again */
  image_field(im, code, l->code_print, UINT64_C(7) << 32, 8);
  entry->trust_ns = 0;
  image_merge(im, out, CAP, &r);
  assert_merged(out, &r, "0 next:11 mid:21 2 outer:31 4");
}
static void test_code_object_with_all_pointers_of_another(void **state)
{
  (void)state;
  each_layout(reborn);
}

/* What runs once is not trusted for a moment. */
static void once(struct image *im)
{
  const struct ss_py_layout *l = &im->py->layout;
  struct ss_merged out[CAP];
  struct ss_py_result r;
  uint64_t code;
  const uint64_t module = image_str(im, "<module>"), name = image_str(im, "inside");
  ss_mem_u64(&im->mem, im->outer + l->frame_code, &code);
  code &= ~(uint64_t)l->code_tag;
  image_field(im, code, l->code_name, module, 8);
  image_field(im, code, l->code_qualname, module, 8);
  for (int i = 0; i < SS_PY_EVAL_SURE; i++)
    image_merge(im, out, CAP, &r);
  assert_merged(out, &r, "0 leaf:11 mid:21 2 <module>:31 4");
  image_field(im, code, l->code_name, name, 8);
  image_field(im, code, l->code_qualname, name, 8);
  image_merge(im, out, CAP, &r);
  assert_merged(out, &r, "0 leaf:11 mid:21 2 inside:31 4");
}
static void test_code_that_runs_once(void **state)
{
  (void)state;
  each_layout(once);
}

/* The module `mid` has ended since the sample and its code object is gone. */
static void freed(struct image *im)
{
  struct ss_merged out[CAP];
  struct ss_py_result r;
  const struct ss_py_layout *l = &im->py->layout;
  if (l->boundary != SS_PY_BOUNDARY_OWNER)
    return;
  for (int i = 0; i < SS_PY_EVAL_SURE; i++)
    image_merge(im, out, CAP, &r);
  uint64_t code;
  ss_mem_u64(&im->mem, im->mid + l->frame_code, &code);
  code &= ~(uint64_t)l->code_tag;
  image_field(im, code, l->code_type, 0x1234560, 8);
  struct ss_py_code_entry *entry =
      (struct ss_py_code_entry *)(uintptr_t)*ss_idmap_get(&im->py->code_index, code);
  entry->trust_ns = 0;
  im->mem.holds = image_holds; /* its frame came with the sample */
  image_merge(im, out, CAP, &r);
  assert_merged(out, &r, "0 leaf:11 <freed code>:0 2 outer:31 4");
  assert_true(r.verified);
}
static void test_frame_of_a_freed_code_object(void **state)
{
  (void)state;
  each_layout(freed);
}

static void wild_strings(struct image *im)
{
  const struct ss_py_layout *l = &im->py->layout;
  static const uint64_t lengths[] = {UINT64_MAX, UINT64_C(1) << 62, UINT64_C(1) << 30,
                                     100000};
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    struct ss_buf text = {0};
    const uint64_t str = image_str(im, "name");
    image_field(im, str, l->str_length, lengths[i], 8);
    ss_py_str(l, &im->mem, str, &text); /* refused or cut, never read past */
    assert_true(text.len <= 4 * SS_PY_STRING_MAX + 3);
    ss_buf_release(&text);
  }
}
static void test_wild_string_lengths(void **state)
{
  (void)state;
  each_layout(wild_strings);
}

static void test_characters(void **state)
{
  (void)state;
  static const uint16_t two[] = {'a', 0xe9, 0x20ac, 0xd800, 0};
  static const uint32_t four[] = {0x1f40d, 0x110000};
  struct ss_buf text = {0};
  ss_py_str_decode(two, 5, 2, &text);
  assert_string_equal(ss_buf_str(&text), "a\xc3\xa9\xe2\x82\xac\xef\xbf\xbd\xef\xbf\xbd");
  ss_buf_clear(&text);
  ss_py_str_decode(four, 2, 4, &text);
  assert_string_equal(ss_buf_str(&text), "\xf0\x9f\x90\x8d\xef\xbf\xbd");
  ss_buf_release(&text);
}

static void shim(struct image *im)
{
  struct ss_merged out[CAP];
  struct ss_py_result r;
  const uint64_t code = image_code(im, "__init__", 0, im->py->layout.shim_flags);
  image_field(im, im->mid, im->py->layout.frame_code, code, 8);
  image_field(im, im->mid, im->py->layout.frame_instr, code + im->py->layout.code_bytes,
              8);
  image_merge(im, out, CAP, &r);
  if (im->py->layout.shim_flags != 0)
    assert_merged(out, &r, "0 leaf:11 2 outer:31 4");
  assert_true(r.verified);
}
static void test_cleanup_shim_is_not_shown(void **state)
{
  (void)state;
  each_layout(shim);
}

/* The plan covers what the merge read: thread state and the chunk. */
static void plan(struct image *im)
{
  struct ss_merged out[CAP];
  struct ss_py_result r;
  struct ss_read_plan p = {0};
  assert_false(ss_py_plan(im->py, IMAGE_TID, &p));
  image_merge(im, out, CAP, &r);
  const uint64_t generation = ss_py_plan_generation(im->py, IMAGE_TID);
  assert_true(ss_py_plan(im->py, IMAGE_TID, &p));
  assert_true(p.count >= 2);
  assert_int_equal(p.regions[0].addr, im->tstate);
  const struct ss_region *chunk = &p.regions[p.count - 1];
  while (chunk->addr != im->chunk && chunk > p.regions)
    chunk--;
  assert_int_equal(chunk->addr, im->chunk);
  assert_true(chunk->len >= 640);
  image_merge(im, out, CAP, &r);
  assert_int_equal(ss_py_plan_generation(im->py, IMAGE_TID), generation);
  const uint64_t top = im->chunk + chunk->len + 8;
  image_field(im, im->tstate, im->py->layout.tstate_chunk_top, top, 8);
  image_merge(im, out, CAP, &r);
  assert_true(ss_py_plan_generation(im->py, IMAGE_TID) != generation);
}
static void test_plan(void **state)
{
  (void)state;
  each_layout(plan);
}

static void gil(struct image *im)
{
  const struct ss_py_layout *l = &im->py->layout;
  struct ss_merged out[CAP];
  struct ss_py_result r;
  image_merge(im, out, CAP, &r);
  uint64_t holder_at, locked_at;
  uint64_t g = image_alloc(im, 64);
  if (l->runtime_gil != SS_PY_ABSENT)
    g = im->py->runtime + l->runtime_gil;
  else
    image_field(im, im->interp, l->interp_gil, g, 8);
  image_field(im, g, l->gil_enabled, 1, 4);
  holder_at = g + l->gil_holder;
  locked_at = g + l->gil_locked;
  image_u64(im, holder_at, im->tstate);
  assert_int_equal(ss_py_gil_holder(im->py, IMAGE_TID, &im->mem), 0);
  image_field(im, locked_at, 0, 1, 4);
  assert_int_equal(ss_py_gil_holder(im->py, IMAGE_TID, &im->mem), IMAGE_TID);
  assert_int_equal(ss_py_gil_holder(im->py, IMAGE_TID + 1, &im->mem), -1);
}
static void test_gil_holder(void **state)
{
  (void)state;
  each_layout(gil);
}

/* Single bytes of the whole image changed, one after the other. */
static void flips(struct image *im)
{
  struct ss_merged out[CAP];
  struct ss_py_result r;
  image_merge(im, out, CAP, &r);
  for (uint64_t at = 0; at < im->used; at += 13) {
    unsigned char *byte = &im->heap[at];
    const unsigned char was = *byte;
    *byte ^= (unsigned char)(0x81 + at);
    ss_py_threads_release(im->py);
    im->py->listed_ns = 0;
    image_merge(im, out, CAP, &r);
    assert_true(r.count <= CAP);
    *byte = was;
  }
}
static void test_changed_bytes(void **state)
{
  (void)state;
  each_layout(flips);
}

static void test_debug_offsets(void **state)
{
  (void)state;
  unsigned char table[SS_PY_DEBUG_MAX] = "xdebugpy";
  struct ss_py_debug_head head;
  struct ss_py_layout layout;
  struct ss_diag diag = {0};
  const uint64_t version = 0x030d00f0;
  memcpy(table + 8, &version, 8);
  assert_true(ss_py_debug_head(table, sizeof table, &head));
  assert_int_equal(head.version, version);
  assert_false(ss_py_debug_head(table, 20, &head));
  assert_true(ss_py_layout_static(&layout, 13, false));
  assert_int_equal(ss_py_layout_debug(&layout, table, 583, &diag), SS_ERR_FORMAT);
  const uint64_t wild = 1 << 21, odd = 121;
  memcpy(table + 232, &wild, 8);
  assert_int_equal(ss_py_layout_debug(&layout, table, sizeof table, &diag),
                   SS_ERR_FORMAT);
  memcpy(table + 232, &odd, 8);
  assert_int_equal(ss_py_layout_debug(&layout, table, sizeof table, &diag), SS_ERR_OK);
  assert_int_equal(ss_py_layout_finish(&layout, &diag), SS_ERR_FORMAT);
  assert_non_null(strstr(diag.text, "frame.previous"));
  assert_false(ss_py_layout_static(&layout, 16, false));
  assert_false(ss_py_layout_static(&layout, 7, false));
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_layout),
      cmocka_unit_test(test_frame_objects),
      cmocka_unit_test(test_broken_chain_keeps_outer_frames),
      cmocka_unit_test(test_prologue_of_the_leaf),
      cmocka_unit_test(test_anchor_at_another_place_is_noticed),
      cmocka_unit_test(test_short_stacks),
      cmocka_unit_test(test_returned_from_behind_the_copy),
      cmocka_unit_test(test_cycles_end),
      cmocka_unit_test(test_reused_code_object_is_noticed),
      cmocka_unit_test(test_code_object_with_all_pointers_of_another),
      cmocka_unit_test(test_code_that_runs_once),
      cmocka_unit_test(test_frame_of_a_freed_code_object),
      cmocka_unit_test(test_wild_string_lengths),
      cmocka_unit_test(test_characters),
      cmocka_unit_test(test_cleanup_shim_is_not_shown),
      cmocka_unit_test(test_plan),
      cmocka_unit_test(test_gil_holder),
      cmocka_unit_test(test_changed_bytes),
      cmocka_unit_test(test_debug_offsets),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
