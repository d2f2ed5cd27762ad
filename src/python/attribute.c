/*
 * Attributes of objects, looked up as the interpreter would: in a dict, in the values
 * beside an object, in the slots of its classes; by reading only.
 *
 * Thread names are the attribute _name of the threading.Thread whose _bootstrap is a
 * thread's outermost Python frame. (From 3.14 on the kernel has them too, cut off.)
 */
#include <stdio.h>
#include <string.h>

#include "python_priv.h"
#include "stacksample/sys.h"
#include "stacksample/text.h"

enum {
  KEYS_MAX = 1024,    /* attributes of one object looked through */
  CLASSES_MAX = 32,   /* a class and its bases, */
  SLOTS_MAX = 64,     /* and the slots of each */
  SLOT_NAME = 32,     /* bytes of a slot's name that are compared */
  KIND_GENERAL = 0,   /* dk_kind of keys that are not all strings */
  ENTRY_GENERAL = 24, /* hash, key, value */
  ENTRY_STRING = 16,  /* key, value */
};

/* Where attributes are: keys, and values (0: in the keys' own entries). */
struct attributes {
  uint64_t keys, values;
};

static bool dict_attributes(const struct ss_py_layout *l, const struct ss_mem *mem,
                            uint64_t dict, struct attributes *a)
{
  if (dict == 0 || !ss_mem_u64(mem, dict + l->dict_keys, &a->keys) ||
      !ss_mem_u64(mem, dict + l->dict_values, &a->values))
    return false;
  if (a->values != 0)
    a->values += l->values_head;
  return true;
}

/* Values beside the object; their keys are the type's. */
static bool shared_attributes(const struct ss_py_layout *l, const struct ss_mem *mem,
                              uint64_t type, uint64_t values, struct attributes *a)
{
  a->values = values;
  return values != 0 && ss_mem_u64(mem, type + l->type_cached_keys, &a->keys);
}

static bool find_attributes(const struct ss_py_layout *l, const struct ss_mem *mem,
                            uint64_t object, struct attributes *a)
{
  uint64_t type, word, dict;
  if (!ss_mem_u64(mem, object + l->code_type, &type))
    return false;
  switch (l->attrs) {
  case SS_PY_ATTRS_DICT:
    return ss_mem_u64(mem, type + l->type_dictoffset, &word) && word < SS_PY_MAX_type &&
           ss_mem_u64(mem, object + word, &dict) && dict_attributes(l, mem, dict, a);
  case SS_PY_ATTRS_SPLIT:
    if (!ss_mem_u64(mem, object - 32, &word) || !ss_mem_u64(mem, object - 24, &dict))
      return false;
    return word != 0 ? shared_attributes(l, mem, type, word, a)
                     : dict_attributes(l, mem, dict, a);
  case SS_PY_ATTRS_TAGGED:
    if (!ss_mem_u64(mem, object - 24, &word))
      return false;
    return word & 1 ? shared_attributes(l, mem, type, word + 1, a)
                    : dict_attributes(l, mem, word, a);
  case SS_PY_ATTRS_INLINE:
    if (!ss_mem_u64(mem, object - l->dict_before, &dict) ||
        !ss_mem_u64(mem, type + l->type_basicsize, &word))
      return false;
    return dict != 0 ? dict_attributes(l, mem, dict, a)
                     : shared_attributes(l, mem, type, object + word + l->values_head, a);
  default:
    return false;
  }
}

/* Bytes of the hash index in front of a dict's entries, and of one entry. */
static bool keys_shape(const struct ss_py_layout *l, const struct ss_mem *mem,
                       uint64_t keys, uint64_t *index, size_t *entry)
{
  unsigned char head[SS_PY_MAX_keys];
  if (!ss_mem_get(mem, keys, head, l->keys_need))
    return false;
  *entry = ENTRY_GENERAL;
  if (l->keys_size != SS_PY_ABSENT) { /* slots: one, two or four bytes each */
    const uint64_t slots = ss_py_u64(head, l->keys_size);
    *index = slots * (slots <= 0xff ? 1 : slots <= 0xffff ? 2 : 4);
    return slots <= UINT32_MAX;
  }
  if (head[l->keys_log2_index_bytes] > 32)
    return false;
  *index = UINT64_C(1) << head[l->keys_log2_index_bytes];
  if (head[l->keys_kind] != KIND_GENERAL)
    *entry = ENTRY_STRING;
  return true;
}

/* The value under `name` among `a`. */
static bool find_value(struct ss_py *py, const struct ss_mem *mem,
                       const struct attributes *a, const char *name, uint64_t *value)
{
  const struct ss_py_layout *l = &py->layout;
  uint64_t count, index, entry[3];
  size_t size;
  if (!ss_mem_u64(mem, a->keys + l->keys_count, &count) || count > KEYS_MAX ||
      !keys_shape(l, mem, a->keys, &index, &size))
    return false;
  const uint64_t *key = &entry[size == ENTRY_GENERAL ? 1 : 0];
  for (uint64_t i = 0; i < count; i++) {
    if (!ss_mem_get(mem, a->keys + l->keys_indices + index + i * size, entry, size))
      return false;
    ss_buf_clear(&py->scratch);
    if (!ss_py_str(l, mem, *key, &py->scratch) ||
        strcmp(ss_buf_str(&py->scratch), name) != 0)
      continue;
    *value = key[1];
    return (a->values == 0 || ss_mem_u64(mem, a->values + 8 * i, value)) && *value != 0;
  }
  return false;
}

/* struct PyMemberDef {const char *name; int type; Py_ssize_t offset; ...} */
static bool slot_of_class(const struct ss_mem *mem, uint64_t member, const char *name,
                          uint64_t *offset)
{
  enum { MEMBER = 40, OFFSET = 2 };
  uint64_t words[MEMBER / 8];
  char text[SLOT_NAME];
  const size_t len = strlen(name) + 1;
  for (unsigned i = 0; i < SLOTS_MAX && len <= sizeof text; i++, member += MEMBER) {
    if (!ss_mem_get(mem, member, words, sizeof words) || words[0] == 0)
      return false;
    *offset = words[OFFSET];
    if (ss_mem_get(mem, words[0], text, len) && memcmp(text, name, len) == 0)
      return *offset % 8 == 0 && *offset < SS_PY_MAX_type;
  }
  return false;
}

/* What __slots__ of the object's class, or of one that it inherits, gave a place. */
static bool find_slot(const struct ss_py *py, const struct ss_mem *mem, uint64_t object,
                      const char *name, uint64_t *value)
{
  const struct ss_py_layout *l = &py->layout;
  uint64_t type, members, offset;
  if (!ss_mem_u64(mem, object + l->code_type, &type))
    return false;
  for (unsigned i = 0; i < CLASSES_MAX && type != 0; i++) {
    if (ss_mem_u64(mem, type + l->type_members, &members) && members != 0 &&
        slot_of_class(mem, members, name, &offset))
      return ss_mem_u64(mem, object + offset, value) && *value != 0;
    if (!ss_mem_u64(mem, type + l->type_base, &type))
      return false;
  }
  return false;
}

bool ss_py_attribute(struct ss_py *py, uint64_t object, const char *name, uint64_t *value)
{
  const struct ss_mem *mem = py->space->live;
  struct attributes a;
  return py->layout.attrs != SS_PY_ATTRS_UNREAD && object != 0 && object % 8 == 0 &&
         ((find_attributes(&py->layout, mem, object, &a) &&
           find_value(py, mem, &a, name, value)) ||
          find_slot(py, mem, object, name, value));
}

bool ss_py_item(struct ss_py *py, uint64_t object, const char *key, uint64_t *value)
{
  const struct ss_mem *mem = py->space->live;
  struct attributes a;
  return py->layout.attrs != SS_PY_ATTRS_UNREAD &&
         ss_py_kind_of(py, mem, object) == SS_PY_KIND_DICT &&
         dict_attributes(&py->layout, mem, object, &a) &&
         find_value(py, mem, &a, key, value);
}

/* ---- frames ---------------------------------------------------------------------- */

/* Walks the frames of a thread, from live memory. */
static bool walk_now(struct ss_py *py, pid_t tid)
{
  struct ss_py_view view = {.mem = py->space->live};
  unsigned char bytes[SS_PY_MAX_tstate];
  uint64_t tstate;
  py->now_ns = ss_now_ns();
  return ss_py_find_frames(py, &view, tid, false, &tstate, bytes);
}

static bool first_local(const struct ss_py *py, const struct ss_py_step *step,
                        uint64_t *object)
{
  if (!ss_mem_u64(py->space->live, step->frame + py->layout.frame_locals, object))
    return false;
  *object &= ~(uint64_t)py->layout.code_tag;
  return true;
}

bool ss_py_argument(struct ss_py *py, pid_t tid, const char *function, const char *file,
                    uint64_t *object)
{
  if (py->layout.attrs == SS_PY_ATTRS_UNREAD || !walk_now(py, tid))
    return false;
  for (size_t i = 0; i < py->step_count; i++) {
    const struct ss_py_code *code = py->steps[i].code;
    if (strcmp(code->function, function) == 0 && ss_ends_with(code->file, file))
      return first_local(py, &py->steps[i], object);
  }
  return false;
}

static bool is_bootstrap(const struct ss_py_code *code)
{
  const char *dot = strrchr(code->function, '.');
  return strcmp(dot ? dot + 1 : code->function, "_bootstrap") == 0 &&
         strstr(code->file, "threading") != NULL;
}

bool ss_py_thread_name(struct ss_py *py, pid_t tid, char *buf, size_t cap)
{
  uint64_t thread, name;
  if (py->layout.attrs == SS_PY_ATTRS_UNREAD || cap == 0 || !walk_now(py, tid))
    return false;
  for (size_t i = py->step_count; i-- > 0;) {
    if (!is_bootstrap(py->steps[i].code))
      continue;
    if (!first_local(py, &py->steps[i], &thread) ||
        !ss_py_attribute(py, thread, "_name", &name))
      return false;
    ss_buf_clear(&py->scratch);
    if (!ss_py_str(&py->layout, py->space->live, name, &py->scratch) ||
        py->scratch.len == 0)
      return false;
    snprintf(buf, cap, "%s", ss_buf_str(&py->scratch));
    return true;
  }
  return false;
}
