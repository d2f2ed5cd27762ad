/*
 * Values of CPython in another process: what kind of object it is, numbers, the
 * elements of lists and tuples. By reading only; sizes found there are limits, not
 * lengths that are trusted.
 */
#include <string.h>

#include "python_priv.h"

enum {
  DIGIT_BITS = 30, /* of an int */
  DIGITS_MAX = 2,
  SIGN = 3, /* of lv_tag (3.12 on); before, ob_size is negative with its int */
  NEGATIVE = 2,
  TYPE_NAME = 32,
};

static const struct {
  const char *name;
  enum ss_py_kind kind;
} kinds[] = {
    {"coroutine", SS_PY_KIND_FRAME},
    {"generator", SS_PY_KIND_FRAME},
    {"async_generator", SS_PY_KIND_FRAME},
    {"async_generator_asend", SS_PY_KIND_LEADS},
    {"async_generator_athrow", SS_PY_KIND_LEADS},
    {"anext_awaitable", SS_PY_KIND_LEADS},
    {"coroutine_wrapper", SS_PY_KIND_LEADS},
    {"_asyncio.TaskStepMethWrapper", SS_PY_KIND_STEP},
    {"TaskStepMethWrapper", SS_PY_KIND_STEP},
    {"builtin_function_or_method", SS_PY_KIND_METHOD},
    {"_asyncio.FutureIter", SS_PY_KIND_OTHER},
    {"FutureIter", SS_PY_KIND_OTHER},
    {"str", SS_PY_KIND_STR},
    {"int", SS_PY_KIND_INT},
    {"float", SS_PY_KIND_FLOAT},
    {"list", SS_PY_KIND_LIST},
    {"tuple", SS_PY_KIND_TUPLE},
    {"dict", SS_PY_KIND_DICT},
};

uint64_t ss_py_members(const struct ss_py *py)
{
  return py->layout.code_type + 8;
}

static enum ss_py_kind kind_of_type(struct ss_py *py, const struct ss_mem *mem,
                                    uint64_t type)
{
  char text[TYPE_NAME] = "";
  uint64_t name;
  for (unsigned i = 0; i < py->kind_count; i++)
    if (py->kinds[i].type == type)
      return (enum ss_py_kind)py->kinds[i].kind;
  if (!ss_mem_u64(mem, type + py->layout.type_name, &name))
    return SS_PY_KIND_OTHER;
  const size_t got = ss_mem_read(mem, name, text, sizeof text);
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    const size_t len = strlen(kinds[i].name) + 1;
    if (len > got || memcmp(text, kinds[i].name, len) != 0)
      continue;
    if (py->kind_count < SS_PY_KINDS_MAX)
      py->kinds[py->kind_count++] =
          (struct ss_py_type){.type = type, .kind = (uint8_t)kinds[i].kind};
    return kinds[i].kind;
  }
  return SS_PY_KIND_OTHER;
}

enum ss_py_kind ss_py_kind_of(struct ss_py *py, const struct ss_mem *mem, uint64_t object)
{
  uint64_t type;
  return object != 0 && object % 8 == 0 &&
                 ss_mem_u64(mem, object + py->layout.code_type, &type)
             ? kind_of_type(py, mem, type)
             : SS_PY_KIND_OTHER;
}

bool ss_py_int(const struct ss_py *py, const struct ss_mem *mem, uint64_t object,
               uint64_t *value)
{
  uint64_t size;
  const uint64_t at = object + ss_py_members(py);
  *value = 0;
  if (!ss_mem_u64(mem, at, &size) || size >> py->layout.int_shift > DIGITS_MAX ||
      (py->layout.int_shift > 0 && (size & SIGN) == NEGATIVE))
    return false;
  for (unsigned i = 0; i < size >> py->layout.int_shift; i++) {
    uint32_t digit;
    if (!ss_mem_u32(mem, at + 8 + 4 * (uint64_t)i, &digit))
      return false;
    *value |= (uint64_t)digit << (DIGIT_BITS * i);
  }
  return true;
}

bool ss_py_number(struct ss_py *py, uint64_t object, double *value)
{
  const struct ss_mem *mem = py->space->live;
  uint64_t bits;
  switch (ss_py_kind_of(py, mem, object)) {
  case SS_PY_KIND_INT:
    if (!ss_py_int(py, mem, object, &bits))
      return false;
    *value = (double)bits;
    return true;
  case SS_PY_KIND_FLOAT:
    if (!ss_mem_u64(mem, object + ss_py_members(py), &bits))
      return false;
    memcpy(value, &bits, sizeof *value);
    return true;
  default:
    return false;
  }
}

/* ob_size and then the elements of a tuple, or a pointer to those of a list. */
bool ss_py_element(struct ss_py *py, uint64_t object, uint64_t index, uint64_t *element)
{
  const struct ss_mem *mem = py->space->live;
  const enum ss_py_kind kind = ss_py_kind_of(py, mem, object);
  uint64_t count, first = object + ss_py_members(py) + 8;
  if ((kind != SS_PY_KIND_LIST && kind != SS_PY_KIND_TUPLE) ||
      !ss_mem_u64(mem, object + ss_py_members(py), &count) || index >= count)
    return false;
  if (kind == SS_PY_KIND_TUPLE)
    first += py->layout.tuple_hash;
  else if (!ss_mem_u64(mem, first, &first))
    return false;
  return ss_mem_u64(mem, first + 8 * index, element);
}

bool ss_py_is_str(struct ss_py *py, uint64_t object, const char *text)
{
  const struct ss_mem *mem = py->space->live;
  ss_buf_clear(&py->scratch);
  return ss_py_kind_of(py, mem, object) == SS_PY_KIND_STR &&
         ss_py_str(&py->layout, mem, object, &py->scratch) &&
         strcmp(ss_buf_str(&py->scratch), text) == 0;
}
