/*
 * Where CPython 3.8 to 3.15 keep what a profiler reads: one table a minor, for
 * 64-bit Linux. Facts from the headers of each release (Include/cpython,
 * Include/internal), checked against debug information and running processes.
 *
 * To add a version: add its table here (3.13 on also its _Py_DebugOffsets slots
 * in offsets.c, which overrule this table). No code elsewhere changes.
 */
#include <string.h>

#include "python_priv.h"

#define AT(name, offset) SS_PY_PLACE(name, offset)
typedef const struct ss_py_place places[];

/* ---- what several minors share ------------------------------------------- */

/* PyObject and PyVarObject of a build with a GIL, and free-threaded. */
static places header = {AT(tstate_next, 8), AT(tstate_interp, 16), AT(code_type, 8),
                        AT(bytes_size, 16), AT(bytes_data, 32),    AT(type_name, 24),
                        AT(str_length, 16), AT(str_state, 32),     SS_PY_PLACES_END};
static places header_ft = {AT(tstate_next, 8),  AT(tstate_interp, 16), AT(code_type, 24),
                           AT(bytes_size, 32),  AT(bytes_data, 48),    AT(type_name, 40),
                           AT(str_length, 32),  AT(str_state, 48),     AT(str_ascii, 56),
                           AT(str_compact, 72), SS_PY_PLACES_END};

/* str with the member wstr (to 3.11), and without. */
static places str_wstr = {AT(str_ascii, 48), AT(str_compact, 72), SS_PY_PLACES_END};
static places str_plain = {AT(str_ascii, 40), AT(str_compact, 56), SS_PY_PLACES_END};

/* 3.8 to 3.10: frames are objects. */
static places frame_objects = {
    AT(runtime_interpreters, 32), AT(interp_next, 0),        AT(interp_threads, 8),
    AT(tstate_current, 24),       AT(tstate_thread_id, 176), AT(frame_previous, 24),
    AT(frame_code, 32),           AT(code_flags, 36),        AT(code_first_line, 40),
    AT(code_bytes, 48),           AT(code_filename, 104),    AT(code_name, 112),
    AT(code_table, 120),          AT(code_print, 120),       SS_PY_PLACES_END};

/* 3.11 on: the head of a code object. */
static places code_head = {AT(code_size, 16),      AT(code_flags, 48),
                           AT(code_filename, 112), AT(code_name, 120),
                           AT(code_qualname, 128), AT(code_table, 136),
                           SS_PY_PLACES_END};
static places code_head_ft = {
    AT(code_size, 32),      AT(code_flags, 64),  AT(code_first_line, 84),
    AT(code_filename, 128), AT(code_name, 136),  AT(code_qualname, 144),
    AT(code_print, 104),    AT(code_table, 152), SS_PY_PLACES_END};

/* 3.12 on: the head of a frame; co_version, with co_nfreevars before it. */
static places frame_head = {AT(frame_code, 0), AT(frame_previous, 8), AT(frame_instr, 56),
                            AT(code_print, 88), SS_PY_PLACES_END};

/* struct _gil_runtime_state: in _PyRuntime to 3.11, then the interpreter has a
 * pointer to it. */
static places gil = {AT(gil_holder, 8), AT(gil_locked, 16), SS_PY_PLACES_END};
static places gil_ft = {AT(gil_enabled, 0), AT(gil_holder, 16), AT(gil_locked, 24),
                        SS_PY_PLACES_END};

/* 3.13 and 3.14: thread states (3.15 has more before these). */
static places thread_313 = {AT(tstate_current, 72),    AT(tstate_thread_id, 152),
                            AT(tstate_native_id, 160), AT(tstate_chunk, 232),
                            AT(tstate_chunk_top, 240), SS_PY_PLACES_END};
static places thread_315 = {AT(tstate_current, 72),    AT(tstate_base_frame, 80),
                            AT(tstate_thread_id, 176), AT(tstate_native_id, 184),
                            AT(tstate_chunk, 256),     AT(tstate_chunk_top, 264),
                            SS_PY_PLACES_END};

/* Attributes: classes, dicts and their keys. */
static places dicts_38 = {
    AT(type_members, 240), AT(type_base, 256),   AT(type_dictoffset, 288),
    AT(dict_keys, 32),     AT(dict_values, 40),  AT(keys_size, 8),
    AT(keys_count, 32),    AT(keys_indices, 40), SS_PY_PLACES_END};
static places dicts_311 = {
    AT(type_members, 240), AT(type_base, 256),  AT(type_basicsize, 32),
    AT(dict_keys, 32),     AT(dict_values, 40), AT(keys_log2_index_bytes, 9),
    AT(keys_kind, 10),     AT(keys_count, 24),  AT(keys_indices, 32),
    AT(frame_locals, 72),  SS_PY_PLACES_END};

static places heap_types = {AT(type_cached_keys, 880), SS_PY_PLACES_END};
static places dicts_ft = {
    AT(type_members, 256),        AT(type_base, 272), AT(type_basicsize, 48),
    AT(type_cached_keys, 896),    AT(dict_keys, 48),  AT(dict_values, 56),
    AT(keys_log2_index_bytes, 9), AT(keys_kind, 10),  AT(keys_count, 24),
    AT(keys_indices, 32),         SS_PY_PLACES_END};

/* Generators, coroutines and the tasks of asyncio. From 3.14 on _asyncio says itself
 * where its tasks have what. */
static places gen_312 = {AT(gen_frame, 72), AT(gen_state, 67), AT(frame_stack, 64),
                         AT(frame_locals, 72), SS_PY_PLACES_END};
static places gen_314 = {AT(gen_frame, 72), AT(gen_state, 67), AT(frame_stack, 64),
                         AT(frame_locals, 80), SS_PY_PLACES_END};
static places gen_313_ft = {AT(gen_frame, 88), AT(gen_state, 83), AT(frame_stack, 64),
                            AT(frame_locals, 72), SS_PY_PLACES_END};
static places gen_314_ft = {AT(gen_frame, 88), AT(gen_state, 83), AT(frame_stack, 64),
                            AT(frame_locals, 80), SS_PY_PLACES_END};
static places task_312 = {AT(task_callback, 24), AT(task_coro, 136), AT(task_name, 144),
                          SS_PY_PLACES_END};
static places task_313 = {AT(task_callback, 24), AT(task_coro, 120), AT(task_name, 128),
                          SS_PY_PLACES_END};
static places task_313_ft = {AT(task_callback, 40), AT(task_coro, 136),
                             AT(task_name, 144), SS_PY_PLACES_END};

/* ---- one table a minor ---------------------------------------------------- */

static places py38 = {AT(frame_locals, 360), AT(frame_lasti, 104), AT(runtime_gil, 1152),
                      SS_PY_PLACES_END};
static places py39 = {AT(frame_locals, 360), AT(frame_lasti, 104), AT(runtime_gil, 352),
                      SS_PY_PLACES_END};
static places py310 = {
    AT(frame_locals, 352), AT(frame_lasti, 96),         AT(runtime_gil, 352),
    AT(tstate_cframe, 48), AT(tstate_root_cframe, 264), AT(cframe_previous, 8),
    SS_PY_PLACES_END};
static places py311 = {AT(type_cached_keys, 872),   AT(runtime_interpreters, 40),
                       AT(runtime_gil, 360),        AT(interp_next, 0),
                       AT(interp_threads, 16),      AT(tstate_cframe, 56),
                       AT(tstate_root_cframe, 336), AT(tstate_thread_id, 152),
                       AT(tstate_native_id, 160),   AT(tstate_chunk, 296),
                       AT(tstate_chunk_top, 304),   AT(cframe_current, 8),
                       AT(cframe_previous, 16),     AT(frame_code, 32),
                       AT(frame_previous, 48),      AT(frame_instr, 56),
                       AT(frame_entry, 68),         AT(frame_owner, 69),
                       AT(code_first_line, 72),     AT(code_bytes, 184),
                       AT(code_print, 136),         SS_PY_PLACES_END};
static places py312 = {AT(runtime_interpreters, 40), AT(interp_next, 0),
                       AT(interp_threads, 72),       AT(interp_gil, 384),
                       AT(tstate_cframe, 56),        AT(tstate_root_cframe, 272),
                       AT(tstate_thread_id, 136),    AT(tstate_native_id, 144),
                       AT(tstate_chunk, 232),        AT(tstate_chunk_top, 240),
                       AT(cframe_current, 0),        AT(cframe_previous, 8),
                       AT(frame_owner, 70),          AT(code_first_line, 68),
                       AT(code_bytes, 192),          SS_PY_PLACES_END};
static places py313 = {AT(runtime_interpreters, 632), AT(interp_next, 7264),
                       AT(interp_threads, 7344),      AT(interp_gil, 16),
                       AT(frame_owner, 70),           AT(code_first_line, 68),
                       AT(code_bytes, 200),           SS_PY_PLACES_END};
static places py314 = {AT(runtime_interpreters, 808), AT(interp_next, 7272),
                       AT(interp_threads, 7344),      AT(interp_gil, 16),
                       AT(frame_owner, 74),           AT(code_first_line, 68),
                       AT(code_bytes, 208),           SS_PY_PLACES_END};
static places py315 = {AT(runtime_interpreters, 936), AT(interp_next, 7264),
                       AT(interp_threads, 7336),      AT(interp_gil, 16),
                       AT(frame_owner, 74),           AT(code_first_line, 68),
                       AT(code_bytes, 208),           SS_PY_PLACES_END};
/* Free-threaded: same runtime and interpreter, to be overruled as well. */
static places py313_ft = {AT(runtime_interpreters, 632),
                          AT(interp_next, 7264),
                          AT(interp_threads, 7344),
                          AT(interp_gil, 16),
                          AT(frame_owner, 70),
                          AT(code_bytes, 216),
                          SS_PY_PLACES_END};
static places py314_ft = {AT(runtime_interpreters, 808),
                          AT(interp_next, 7272),
                          AT(interp_threads, 7344),
                          AT(interp_gil, 16),
                          AT(frame_owner, 78),
                          AT(code_bytes, 232),
                          AT(frame_tlbc, 72),
                          AT(code_tlbc, 224),
                          SS_PY_PLACES_END};
static places py315_ft = {AT(runtime_interpreters, 936),
                          AT(interp_next, 7264),
                          AT(interp_threads, 7336),
                          AT(interp_gil, 16),
                          AT(frame_owner, 78),
                          AT(code_bytes, 232),
                          AT(frame_tlbc, 72),
                          AT(code_tlbc, 224),
                          SS_PY_PLACES_END};

/* 3.13 on: bytes from the pointer to an object's dict to the object. */
#define ATTRS_INLINE(before)                                                             \
  .attrs = SS_PY_ATTRS_INLINE, .values_head = 8, .dict_before = (before)
#define STR_BITS .kind_shift = 2, .compact_bit = 5, .ascii_bit = 6
#define STR_BITS_FT .kind_shift = 8, .compact_bit = 11, .ascii_bit = 12
#define ENTRY_FRAMES .boundary = SS_PY_BOUNDARY_OWNER, .entry_owner = 3
/* CO_NO_MONITORING_EVENTS: of all code without a first line only the cleanup
 * frame of specialised class calls has it. */
#define SHIM .shim_flags = 0x2000000

/* gen.state of a coroutine that awaits: FRAME_SUSPENDED (3.12), from 3.13 on
 * FRAME_SUSPENDED_YIELD_FROM, in 3.15 also its _LOCKED. */
#define AWAIT_312 .stack_is_int = 1, .await_slot = 1, .await_min = -1, .await_max = -1
#define AWAIT_314 .await_slot = 1, .await_min = -1, .await_max = -1
#define AWAIT_315 .await_slot = 2, .await_min = 2, .await_max = 3

static const struct version {
  struct ss_py_layout rules;
  bool free_threaded;
  const struct ss_py_place *parts[12]; /* ends with NULL */
} versions[] = {
    {{.minor = 8,
      .attrs = SS_PY_ATTRS_DICT,
      .anchor = SS_PY_ANCHOR_NONE,
      .boundary = SS_PY_BOUNDARY_EACH,
      .table = SS_PY_LNOTAB,
      .lasti_unit = 1,
      STR_BITS},
     false,
     {header, str_wstr, frame_objects, gil, dicts_38, py38}},
    {{.minor = 9,
      .attrs = SS_PY_ATTRS_DICT,
      .anchor = SS_PY_ANCHOR_NONE,
      .boundary = SS_PY_BOUNDARY_EACH,
      .table = SS_PY_LNOTAB,
      .lasti_unit = 1,
      STR_BITS},
     false,
     {header, str_wstr, frame_objects, gil, dicts_38, py39}},
    {{.minor = 10,
      .attrs = SS_PY_ATTRS_DICT,
      .anchor = SS_PY_ANCHOR_CFRAME,
      .boundary = SS_PY_BOUNDARY_EACH,
      .table = SS_PY_LINETABLE,
      .lasti_unit = 2,
      STR_BITS},
     false,
     {header, str_wstr, frame_objects, gil, dicts_38, py310}},
    {{.minor = 11,
      .attrs = SS_PY_ATTRS_SPLIT,
      .anchor = SS_PY_ANCHOR_CFRAME,
      .boundary = SS_PY_BOUNDARY_FLAG,
      .table = SS_PY_LOCATIONS,
      STR_BITS},
     false,
     {header, str_wstr, code_head, gil, dicts_311, py311}},
    {{.minor = 12,
      .int_shift = 3,
      .attrs = SS_PY_ATTRS_TAGGED,
      .anchor = SS_PY_ANCHOR_CFRAME,
      ENTRY_FRAMES,
      .owner_max = 3,
      .table = SS_PY_LOCATIONS,
      AWAIT_312,
      STR_BITS},
     false,
     {header, str_plain, code_head, frame_head, gil, dicts_311, heap_types, gen_312,
      task_312, py312}},
    {{.minor = 13,
      .int_shift = 3,
      ATTRS_INLINE(24),
      .anchor = SS_PY_ANCHOR_ENTRY,
      ENTRY_FRAMES,
      .owner_max = 3,
      .table = SS_PY_LOCATIONS,
      AWAIT_312,
      STR_BITS,
      SHIM},
     false,
     {header, str_plain, code_head, frame_head, gil, thread_313, dicts_311, heap_types,
      gen_312, task_313, py313}},
    {{.minor = 14,
      ATTRS_INLINE(24),
      .tuple_hash = 8,
      .int_shift = 3,
      .anchor = SS_PY_ANCHOR_ENTRY,
      ENTRY_FRAMES,
      .owner_max = 4,
      .code_tag = 3,
      .table = SS_PY_LOCATIONS,
      AWAIT_314,
      STR_BITS,
      SHIM},
     false,
     {header, str_plain, code_head, frame_head, gil, thread_313, dicts_311, heap_types,
      gen_314, py314}},
    {{.minor = 15,
      ATTRS_INLINE(24),
      .tuple_hash = 8,
      .int_shift = 3,
      .anchor = SS_PY_ANCHOR_ENTRY,
      ENTRY_FRAMES,
      .owner_max = 3,
      .code_tag = 3,
      .table = SS_PY_LOCATIONS,
      AWAIT_315,
      STR_BITS,
      SHIM},
     false,
     {header, str_plain, code_head, frame_head, gil, thread_315, dicts_311, heap_types,
      gen_314, py315}},
    {{.minor = 13,
      .int_shift = 3,
      ATTRS_INLINE(8),
      .anchor = SS_PY_ANCHOR_ENTRY,
      ENTRY_FRAMES,
      .owner_max = 3,
      .table = SS_PY_LOCATIONS,
      AWAIT_312,
      STR_BITS,
      SHIM},
     true,
     {header_ft, frame_head, code_head_ft, gil_ft, thread_313, dicts_ft, gen_313_ft,
      task_313_ft, py313_ft}},
    {{.minor = 14,
      ATTRS_INLINE(8),
      .tuple_hash = 8,
      .int_shift = 3,
      .anchor = SS_PY_ANCHOR_ENTRY,
      ENTRY_FRAMES,
      .owner_max = 4,
      .code_tag = 3,
      .table = SS_PY_LOCATIONS,
      AWAIT_314,
      STR_BITS_FT,
      SHIM},
     true,
     {header_ft, frame_head, code_head_ft, gil_ft, thread_313, dicts_ft, gen_314_ft,
      py314_ft}},
    {{.minor = 15,
      ATTRS_INLINE(8),
      .tuple_hash = 8,
      .int_shift = 3,
      .anchor = SS_PY_ANCHOR_ENTRY,
      ENTRY_FRAMES,
      .owner_max = 3,
      .code_tag = 3,
      .table = SS_PY_LOCATIONS,
      AWAIT_315,
      STR_BITS_FT,
      SHIM},
     true,
     {header_ft, frame_head, code_head_ft, gil_ft, thread_315, dicts_ft, gen_314_ft,
      py315_ft}},
};

void ss_py_place_set(struct ss_py_layout *layout, uint16_t field, uint32_t offset)
{
  memcpy((unsigned char *)layout + field, &offset, sizeof offset);
}

bool ss_py_layout_static(struct ss_py_layout *layout, unsigned minor, bool free_threaded)
{
  for (size_t i = 0; i < sizeof versions / sizeof *versions; i++) {
    const struct version *v = &versions[i];
    if (v->rules.minor != minor || v->free_threaded != free_threaded)
      continue;
    *layout = v->rules;
#define SS_PY_FIELD_ABSENT(group, field, width) layout->group##_##field = SS_PY_ABSENT;
    SS_PY_FIELDS(SS_PY_FIELD_ABSENT)
#undef SS_PY_FIELD_ABSENT
    for (const struct ss_py_place *const *part = v->parts; *part; part++)
      for (const struct ss_py_place *place = *part; place->field != 0; place++)
        ss_py_place_set(layout, place->field, place->offset);
    return true;
  }
  return false;
}
