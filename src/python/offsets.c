/*
 * _Py_DebugOffsets, the table that CPython 3.13 and later put at the start of
 * _PyRuntime (Include/internal/pycore_debug_offsets.h; in 3.13 in
 * pycore_runtime.h), and the check of a layout before anything is read by it.
 *
 * The table is the target's memory: a slot that would make us read outside the
 * buffer of its structure is refused, with its name.
 */
#include <string.h>

#include "python_priv.h"

enum { DEBUG_VERSION = 8, DEBUG_FREE_THREADED = 16 };
static const char debug_cookie[8] = {'x', 'd', 'e', 'b', 'u', 'g', 'p', 'y'};

bool ss_py_debug_head(const void *bytes, size_t len, struct ss_py_debug_head *head)
{
  const unsigned char *at = bytes;
  if (len < DEBUG_FREE_THREADED + 8 || memcmp(at, debug_cookie, sizeof debug_cookie) != 0)
    return false;
  head->version = ss_py_u64(at, DEBUG_VERSION);
  head->free_threaded = ss_py_u64(at, DEBUG_FREE_THREADED) != 0;
  return true;
}

/* Which slot (byte offset in the table) overrules which field of a layout. */
struct slot {
  uint16_t at;
  uint16_t field; /* offsetof(struct ss_py_layout, ...) */
};
#define SLOT(at, name)                                                                   \
  {                                                                                      \
    at, offsetof(struct ss_py_layout, name)                                              \
  }
#define SLOTS_COMMON                                                                     \
  SLOT(40, runtime_interpreters), SLOT(64, interp_next), SLOT(72, interp_threads)
#define SLOTS_END                                                                        \
  {                                                                                      \
    0, 0                                                                                 \
  }

static const struct slot slots_313[] = {SLOTS_COMMON,
                                        SLOT(112, interp_gil),
                                        SLOT(168, tstate_next),
                                        SLOT(176, tstate_interp),
                                        SLOT(184, tstate_current),
                                        SLOT(192, tstate_thread_id),
                                        SLOT(200, tstate_native_id),
                                        SLOT(208, tstate_chunk),
                                        SLOT(232, frame_previous),
                                        SLOT(240, frame_code),
                                        SLOT(248, frame_instr),
                                        SLOT(256, frame_locals),
                                        SLOT(264, frame_owner),
                                        SLOT(280, code_filename),
                                        SLOT(288, code_name),
                                        SLOT(296, code_qualname),
                                        SLOT(304, code_table),
                                        SLOT(312, code_first_line),
                                        SLOT(344, code_bytes),
                                        SLOT(360, code_type),
                                        SLOT(376, type_name),
                                        SLOT(456, dict_keys),
                                        SLOT(464, dict_values),
                                        SLOT(520, bytes_size),
                                        SLOT(520, code_size),
                                        SLOT(528, bytes_data),
                                        SLOT(544, str_state),
                                        SLOT(552, str_length),
                                        SLOT(560, str_ascii),
                                        SLOTS_END};
static const struct slot slots_314[] = {SLOTS_COMMON,
                                        SLOT(120, interp_gil),
                                        SLOT(192, tstate_next),
                                        SLOT(200, tstate_interp),
                                        SLOT(208, tstate_current),
                                        SLOT(216, tstate_thread_id),
                                        SLOT(224, tstate_native_id),
                                        SLOT(232, tstate_chunk),
                                        SLOT(256, frame_previous),
                                        SLOT(264, frame_code),
                                        SLOT(272, frame_instr),
                                        SLOT(280, frame_locals),
                                        SLOT(288, frame_owner),
                                        SLOT(296, frame_stack),
                                        SLOT(320, code_filename),
                                        SLOT(328, code_name),
                                        SLOT(336, code_qualname),
                                        SLOT(344, code_table),
                                        SLOT(352, code_first_line),
                                        SLOT(384, code_bytes),
                                        SLOT(408, code_type),
                                        SLOT(424, type_name),
                                        SLOT(536, dict_keys),
                                        SLOT(544, dict_values),
                                        SLOT(600, bytes_size),
                                        SLOT(600, code_size),
                                        SLOT(608, bytes_data),
                                        SLOT(624, str_state),
                                        SLOT(632, str_length),
                                        SLOT(640, str_ascii),
                                        SLOT(680, gen_frame),
                                        SLOT(688, gen_state),
                                        SLOTS_END};
static const struct slot slots_315[] = {SLOTS_COMMON,
                                        SLOT(120, interp_gil),
                                        SLOT(192, tstate_next),
                                        SLOT(200, tstate_interp),
                                        SLOT(208, tstate_current),
                                        SLOT(216, tstate_base_frame),
                                        SLOT(240, tstate_thread_id),
                                        SLOT(248, tstate_native_id),
                                        SLOT(256, tstate_chunk),
                                        SLOT(320, frame_previous),
                                        SLOT(328, frame_code),
                                        SLOT(336, frame_instr),
                                        SLOT(344, frame_locals),
                                        SLOT(352, frame_owner),
                                        SLOT(360, frame_stack),
                                        SLOT(384, code_filename),
                                        SLOT(392, code_name),
                                        SLOT(400, code_qualname),
                                        SLOT(408, code_table),
                                        SLOT(416, code_first_line),
                                        SLOT(448, code_bytes),
                                        SLOT(472, code_type),
                                        SLOT(488, type_name),
                                        SLOT(512, type_basicsize),
                                        SLOT(536, type_cached_keys),
                                        SLOT(632, dict_keys),
                                        SLOT(640, dict_values),
                                        SLOT(696, bytes_size),
                                        SLOT(696, code_size),
                                        SLOT(704, bytes_data),
                                        SLOT(720, str_state),
                                        SLOT(728, str_length),
                                        SLOT(736, str_ascii),
                                        SLOT(744, str_compact),
                                        SLOT(808, gen_frame),
                                        SLOT(816, gen_state),
                                        SLOTS_END};

static const struct debug_table {
  unsigned minor;
  size_t size;
  const struct slot *slots;
} debug_tables[] = {
    {13, 584, slots_313},
    {14, 760, slots_314},
    {15, 888, slots_315},
};

enum ss_err ss_py_layout_debug(struct ss_py_layout *layout, const void *bytes, size_t len,
                               struct ss_diag *diag)
{
  for (size_t i = 0; i < sizeof debug_tables / sizeof *debug_tables; i++) {
    const struct debug_table *t = &debug_tables[i];
    if (t->minor != layout->minor)
      continue;
    if (len < t->size)
      return ss_fail(diag, SS_ERR_FORMAT, "_Py_DebugOffsets: %zu of %zu bytes readable",
                     len, t->size);
    for (const struct slot *s = t->slots; s->at != 0; s++) {
      const uint64_t value = ss_py_u64(bytes, s->at);
      if (value >= SS_PY_MAX_runtime)
        return ss_fail(diag, SS_ERR_FORMAT, "_Py_DebugOffsets: slot %u is out of range",
                       s->at);
      ss_py_place_set(layout, s->field, (uint32_t)value);
    }
    /* Neighbours in every build: datastack_top follows datastack_chunk. */
    layout->tstate_chunk_top = layout->tstate_chunk + 8;
    return SS_ERR_OK;
  }
  return ss_fail(diag, SS_ERR_UNSUPPORTED, "no _Py_DebugOffsets layout for CPython 3.%u",
                 layout->minor);
}

enum ss_err ss_py_layout_finish(struct ss_py_layout *layout, struct ss_diag *diag)
{
  static const struct check {
    const char *name;
    size_t field, need; /* members of the layout */
    uint32_t width, max;
  } checks[] = {
#define SS_PY_FIELD_CHECK(group, field, width)                                           \
  {#group "." #field, offsetof(struct ss_py_layout, group##_##field),                    \
   offsetof(struct ss_py_layout, group##_need), width, SS_PY_MAX_##group},
      SS_PY_FIELDS(SS_PY_FIELD_CHECK)
#undef SS_PY_FIELD_CHECK
  };
  for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) {
    const struct check *c = &checks[i];
    uint32_t offset, need;
    memcpy(&offset, (const unsigned char *)layout + c->field, sizeof offset);
    memcpy(&need, (const unsigned char *)layout + c->need, sizeof need);
    if (offset == SS_PY_ABSENT)
      continue;
    if (c->width == 0 ? offset > SS_PY_MAX_interp
                      : offset > c->max - c->width || offset % c->width != 0)
      return ss_fail(diag, SS_ERR_FORMAT, "CPython 3.%u: %s at offset %u is out of range",
                     layout->minor, c->name, offset);
    if (c->width != 0 && offset + c->width > need) {
      need = offset + c->width;
      memcpy((unsigned char *)layout + c->need, &need, sizeof need);
    }
  }
  return SS_ERR_OK;
}
