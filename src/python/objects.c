/*
 * CPython objects in another process: strings, and code objects kept in a cache.
 *
 * A code object is known by its address and by what it points to (type, size,
 * names, line table): the memory of a freed one soon holds another. The cached key
 * is compared with what was read at the sample, or where nothing was read because it
 * is trusted (the longer, the older it is), with live memory now and then. What a caller
 * gets to see (struct ss_py_code) is never freed while the process lives; equal ones are
 * one.
 */
#include <stdlib.h>
#include <string.h>

#include "python_priv.h"

enum {
  STR_SIZE_MAX = 1 << 30,  /* characters; a longer name is not a name */
  CODE_SIZE_MAX = 1 << 28, /* bytes of instructions */
  CODE_UNIT = 2,
  CACHE_MAX = 1 << 16, /* code objects of one process; then start over */
};
#define TRUST_REUSED 16
#define ONCE_PLAN_NS UINT64_C(1000000000) /* most modules have run by then */

/* ---- strings ------------------------------------------------------------- */

static void add_utf8(struct ss_buf *out, uint32_t ch)
{
  unsigned char b[4];
  size_t len = 0;
  if (ch == 0 || (ch >= 0xd800 && ch < 0xe000) || ch > 0x10ffff)
    ch = 0xfffd;
  if (ch < 0x80) {
    b[len++] = (unsigned char)ch;
  } else if (ch < 0x800) {
    b[len++] = (unsigned char)(0xc0 | ch >> 6);
    b[len++] = (unsigned char)(0x80 | (ch & 63));
  } else if (ch < 0x10000) {
    b[len++] = (unsigned char)(0xe0 | ch >> 12);
    b[len++] = (unsigned char)(0x80 | (ch >> 6 & 63));
    b[len++] = (unsigned char)(0x80 | (ch & 63));
  } else {
    b[len++] = (unsigned char)(0xf0 | ch >> 18);
    b[len++] = (unsigned char)(0x80 | (ch >> 12 & 63));
    b[len++] = (unsigned char)(0x80 | (ch >> 6 & 63));
    b[len++] = (unsigned char)(0x80 | (ch & 63));
  }
  ss_buf_add(out, b, len);
}

void ss_py_str_decode(const void *bytes, size_t count, unsigned kind, struct ss_buf *out)
{
  const unsigned char *at = bytes;
  for (size_t i = 0; i < count; i++, at += kind) {
    uint32_t ch = 0;
    memcpy(&ch, at, kind); /* little-endian, as every supported target */
    add_utf8(out, ch);
  }
}

bool ss_py_str(const struct ss_py_layout *layout, const struct ss_mem *mem, uint64_t addr,
               struct ss_buf *out)
{
  unsigned char head[SS_PY_MAX_str];
  unsigned char chars[SS_PY_STRING_MAX];
  if (addr == 0 || !ss_mem_get(mem, addr, head, layout->str_need))
    return false;
  const uint64_t length = ss_py_u64(head, layout->str_length);
  const uint32_t state = ss_py_u32(head, layout->str_state);
  const unsigned kind = state >> layout->kind_shift & 7;
  const bool compact = state >> layout->compact_bit & 1;
  const bool ascii = state >> layout->ascii_bit & 1;
  if (length > STR_SIZE_MAX || !compact || (kind != 1 && kind != 2 && kind != 4) ||
      (ascii && kind != 1))
    return false;
  uint64_t at = addr + (ascii ? layout->str_ascii : layout->str_compact);
  size_t left = length < SS_PY_STRING_MAX ? (size_t)length : SS_PY_STRING_MAX;
  while (left > 0) {
    const size_t most = sizeof chars / kind;
    const size_t count = left < most ? left : most;
    if (!ss_mem_get(mem, at, chars, count * kind))
      return false;
    ss_py_str_decode(chars, count, kind, out);
    at += count * kind;
    left -= count;
  }
  if (length > SS_PY_STRING_MAX)
    ss_buf_adds(out, "...");
  return !out->failed;
}

/* ---- code objects -------------------------------------------------------- */

/* PyCode_Type where its symbol is hidden, or was copied into the executable. */
static void learn_code_type(struct ss_py *py, const struct ss_mem *mem, uint64_t type)
{
  uint64_t name;
  char text[5];
  if (ss_mem_u64(mem, type + py->layout.type_name, &name) &&
      ss_mem_get(mem, name, text, sizeof text) && memcmp(text, "code", sizeof text) == 0)
    py->code_type = type;
}

/* Reads what identifies the object; false: it is not a code object. */
static bool read_key(struct ss_py *py, const struct ss_mem *mem, uint64_t addr,
                     struct ss_py_code_key *key)
{
  const struct ss_py_layout *l = &py->layout;
  unsigned char bytes[SS_PY_MAX_code];
  if (addr == 0 || addr % 8 != 0 || !ss_mem_get(mem, addr, bytes, l->code_need))
    return false;
  key->type = ss_py_u64(bytes, l->code_type);
  if (key->type != py->code_type)
    learn_code_type(py, mem, key->type);
  if (key->type == 0 || key->type != py->code_type)
    return false;
  key->size = l->code_size != SS_PY_ABSENT ? ss_py_u64(bytes, l->code_size) : 0;
  key->flags = ss_py_u32(bytes, l->code_flags);
  key->first_line = (int32_t)ss_py_u32(bytes, l->code_first_line);
  key->filename = ss_py_u64(bytes, l->code_filename);
  key->name = ss_py_u64(bytes, l->code_name);
  key->qualname =
      l->code_qualname != SS_PY_ABSENT ? ss_py_u64(bytes, l->code_qualname) : 0;
  key->table = ss_py_u64(bytes, l->code_table);
  key->print = ss_py_u64(bytes, l->code_print);
  return true;
}

/* Bytes of instructions and where they start. */
static bool find_instructions(const struct ss_py_layout *l, const struct ss_mem *mem,
                              uint64_t addr, struct ss_py_code_entry *entry)
{
  if (l->code_size != SS_PY_ABSENT) {
    entry->start = addr + l->code_bytes;
    entry->size = entry->key.size * CODE_UNIT;
    return entry->key.size <= CODE_SIZE_MAX / CODE_UNIT;
  }
  uint64_t object;
  if (!ss_mem_u64(mem, addr + l->code_bytes, &object) ||
      !ss_mem_u64(mem, object + l->bytes_size, &entry->size))
    return false;
  entry->start = object + l->bytes_data;
  return entry->size <= CODE_SIZE_MAX;
}

static uint32_t intern_str(struct ss_py *py, const struct ss_mem *mem, uint64_t addr)
{
  ss_buf_clear(&py->scratch);
  if (!ss_py_str(&py->layout, mem, addr, &py->scratch))
    return SS_ID_NONE;
  return ss_intern(&py->names, ss_buf_str(&py->scratch), py->scratch.len);
}

/* Equal names and lines give the same struct, so that a program which compiles
 * the same text for ever does not make us grow. */
static const struct ss_py_code *shown_code(struct ss_py *py, uint64_t addr, uint32_t name,
                                           uint32_t file, int first_line, bool shim)
{
  const uint32_t parts[4] = {name, file, (uint32_t)first_line, shim};
  const uint64_t hash = ss_hash_bytes(parts, sizeof parts);
  const char *function = ss_interned_str(&py->names, name, NULL);
  const char *path = ss_interned_str(&py->names, file, NULL);
  const uint64_t *pooled = ss_idmap_get(&py->code_pool, hash);
  if (pooled) {
    const struct ss_py_code *known = (const struct ss_py_code *)(uintptr_t)*pooled;
    if (known->function == function && known->file == path &&
        known->first_line == first_line && known->shim == shim)
      return known;
  }
  if (py->code_pool.count >= SS_PY_CODES_MAX)
    return NULL;
  struct ss_py_code *code = ss_arena_alloc(&py->arena, sizeof *code);
  if (!code)
    return NULL;
  *code = (struct ss_py_code){addr, function, path, first_line, shim};
  if (!pooled && !ss_idmap_put(&py->code_pool, hash, (uint64_t)(uintptr_t)code))
    return NULL;
  return code;
}

const struct ss_py_code *ss_py_shown_name(struct ss_py *py, const char *text, size_t len)
{
  const uint32_t name = ss_intern(&py->names, text, len);
  const uint32_t file = ss_intern(&py->names, "", 0);
  return name != SS_ID_NONE && file != SS_ID_NONE
             ? shown_code(py, 0, name, file, 0, false)
             : NULL;
}

static void read_lines(struct ss_py *py, const struct ss_mem *mem,
                       struct ss_py_code_entry *entry)
{
  const struct ss_py_layout *l = &py->layout;
  uint64_t size;
  ss_py_lines_release(&entry->lines);
  entry->last_line = 0;
  if (!ss_mem_u64(mem, entry->key.table + l->bytes_size, &size) ||
      size > SS_PY_TABLE_MAX) {
    py->counts.rejected++;
    return;
  }
  unsigned char *bytes = malloc(size ? size : 1);
  if (!bytes)
    return;
  if (!ss_mem_get(mem, entry->key.table + l->bytes_data, bytes, size) ||
      ss_py_lines_decode(&entry->lines, l->table, bytes, size, entry->key.first_line) !=
          SS_ERR_OK)
    py->counts.rejected++;
  free(bytes);
}

static bool fill_entry(struct ss_py *py, const struct ss_mem *mem, uint64_t addr,
                       struct ss_py_code_entry *entry)
{
  const struct ss_py_code_key *key = &entry->key;
  if (!find_instructions(&py->layout, mem, addr, entry))
    return false;
  const uint32_t name = intern_str(py, mem, key->qualname ? key->qualname : key->name);
  const uint32_t file = intern_str(py, mem, key->filename);
  if (name == SS_ID_NONE || file == SS_ID_NONE)
    return false;
  const uint32_t shim_flags = py->layout.shim_flags;
  const bool shim = shim_flags != 0 && key->first_line == 0 && (key->flags & shim_flags);
  const int first_line = key->first_line > 0 ? key->first_line : 0;
  entry->code = shown_code(py, addr, name, file, first_line, shim);
  if (!entry->code)
    return false;
  entry->once = strcmp(entry->code->function, "<module>") == 0;
  read_lines(py, mem, entry);
  return true;
}

static struct ss_py_code_entry *entry_at(struct ss_py *py, uint64_t addr)
{
  const uint64_t *slot = ss_idmap_get(&py->code_index, addr);
  return slot ? (struct ss_py_code_entry *)(uintptr_t)*slot : NULL;
}

void ss_py_vouch(struct ss_py *py, uint64_t addr, uint64_t print, uint64_t until_ns,
                 bool lasting)
{
  if (py->seen)
    ss_seen_mark(py->seen, py->space->pid, addr, print, until_ns, lasting);
}

static void note_once(struct ss_py *py, uint64_t addr)
{
  for (unsigned i = 0; i < py->once_count; i++)
    if (py->once[i] == addr)
      return;
  if (py->once_count < SS_PY_ONCE_MAX)
    py->once[py->once_count++] = addr;
}

/* Most code objects live as long as the program, but those of modules and of exec()
 * for a moment: trusted for as long again as they have been known, where others were
 * freed before for a part of that. What runs once is compared at each sample. */
static void trust(struct ss_py *py, uint64_t addr, struct ss_py_code_entry *entry)
{
  uint64_t time = py->now_ns - entry->since_ns;
  if (entry->reused)
    time /= TRUST_REUSED;
  if (time > SS_SEEN_NS)
    time = SS_SEEN_NS;
  entry->trust_ns = py->now_ns + (entry->once ? 0 : time);
  ss_py_vouch(py, addr, entry->key.print, entry->trust_ns,
              !entry->once && time == SS_SEEN_NS);
  if (entry->once && py->now_ns >= entry->since_ns + ONCE_PLAN_NS)
    note_once(py, addr);
}

struct ss_py_code_entry *ss_py_code_at(struct ss_py *py, const struct ss_mem *mem,
                                       uint64_t addr)
{
  struct ss_py_code_entry *entry = entry_at(py, addr);
  if (entry && entry->code && !ss_mem_holds(mem, addr, py->layout.code_need) &&
      (py->chased || py->now_ns < entry->trust_ns))
    return entry; /* stage 1 did not read it because it was trusted */
  struct ss_py_code_key key = {0};
  if (!read_key(py, mem, addr, &key))
    return NULL;
  if (!entry) {
    entry = calloc(1, sizeof *entry);
    if (!entry || !ss_idmap_put(&py->code_index, addr, (uint64_t)(uintptr_t)entry)) {
      free(entry);
      return NULL;
    }
  }
  if (!entry->code || memcmp(&key, &entry->key, sizeof key) != 0) {
    entry->reused = entry->code != NULL || entry->reused;
    entry->key = key;
    entry->code = NULL;
    entry->since_ns = py->now_ns;
    if (!fill_entry(py, mem, addr, entry))
      return NULL;
  }
  trust(py, addr, entry);
  return entry;
}

int ss_py_code_line(struct ss_py_code_entry *entry, uint32_t offset)
{
  if (entry->last_line != 0 && entry->last_offset == offset)
    return entry->last_line;
  const int line = ss_py_lines_find(&entry->lines, offset);
  entry->last_offset = offset;
  entry->last_line = line > 0 ? line : entry->code->first_line;
  return entry->last_line;
}

static void drop_entries(struct ss_py *py)
{
  size_t pos = 0;
  uint64_t addr, value;
  while (ss_idmap_next(&py->code_index, &pos, &addr, &value)) {
    struct ss_py_code_entry *entry = (struct ss_py_code_entry *)(uintptr_t)value;
    ss_py_lines_release(&entry->lines);
    free(entry);
  }
  ss_idmap_release(&py->code_index);
}

void ss_py_codes_trim(struct ss_py *py)
{
  if (py->code_index.count > CACHE_MAX)
    drop_entries(py);
}

void ss_py_codes_release(struct ss_py *py)
{
  drop_entries(py);
  ss_idmap_release(&py->code_pool);
  ss_interner_release(&py->names);
  ss_arena_release(&py->arena);
  ss_buf_release(&py->scratch);
}
