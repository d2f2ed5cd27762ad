/*
 * Thread names: the attribute _name of the threading.Thread whose _bootstrap is a
 * thread's outermost Python frame. Attributes are looked up as the interpreter
 * would, in a dict or in the values beside an object, by reading only. From 3.14
 * on Python gives its names to the kernel, and this says nothing.
 */
#include <stdio.h>
#include <string.h>

#include "python_priv.h"
#include "stacksample/sys.h"

enum {
  KEYS_MAX = 1024,    /* attributes of one object looked through */
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

/* The attribute of an object as a str's address. */
static bool attribute(struct ss_py *py, const struct ss_mem *mem, uint64_t object,
                      const char *name, uint64_t *value)
{
  const struct ss_py_layout *l = &py->layout;
  struct attributes a;
  uint64_t count, index, entry[3];
  size_t size;
  if (!find_attributes(l, mem, object, &a) ||
      !ss_mem_u64(mem, a.keys + l->keys_count, &count) || count > KEYS_MAX ||
      !keys_shape(l, mem, a.keys, &index, &size))
    return false;
  const uint64_t *key = &entry[size == ENTRY_GENERAL ? 1 : 0];
  for (uint64_t i = 0; i < count; i++) {
    if (!ss_mem_get(mem, a.keys + l->keys_indices + index + i * size, entry, size))
      return false;
    ss_buf_clear(&py->scratch);
    if (!ss_py_str(l, mem, *key, &py->scratch) ||
        strcmp(ss_buf_str(&py->scratch), name) != 0)
      continue;
    *value = key[1];
    return a.values == 0 || ss_mem_u64(mem, a.values + 8 * i, value);
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
  const struct ss_mem *mem = py->space->live;
  struct ss_py_view view = {.mem = mem};
  unsigned char bytes[SS_PY_MAX_tstate];
  uint64_t tstate, object, name;
  if (py->layout.attrs == SS_PY_ATTRS_UNREAD || cap == 0)
    return false;
  py->now_ns = ss_now_ns();
  if (!ss_py_find_frames(py, &view, tid, false, &tstate, bytes))
    return false;
  for (size_t i = py->step_count; i-- > 0;) {
    if (!is_bootstrap(py->steps[i].code))
      continue;
    if (!ss_mem_u64(mem, py->steps[i].frame + py->layout.frame_locals, &object) ||
        !attribute(py, mem, object, "_name", &name))
      return false;
    ss_buf_clear(&py->scratch);
    if (!ss_py_str(&py->layout, mem, name, &py->scratch) || py->scratch.len == 0)
      return false;
    snprintf(buf, cap, "%s", ss_buf_str(&py->scratch));
    return true;
  }
  return false;
}
