/*
 * libunwind's remote unwinding as a method: the general one, which knows every
 * DWARF expression.
 *
 * One address space per process, because libunwind caches rules by address in
 * it; it is flushed when the process's mappings change. libunwind sees memory
 * only through us: the frame's .eh_frame from its file, a search table
 * with the one entry that we have already found, and the stack reader. It is
 * asked only where an FDE of .eh_frame covers the address (.debug_frame it would read
 * without our accessors): version 1.6.2 otherwise falls back
 * to a frame-pointer guess that damages the following frame.
 */
#include <libunwind-x86_64.h>

#include "stacksample/limits.h"
#include "unwind_priv.h"

#define SPACES_MAX 8
#define CACHE_ROWS 4096
/* Accesses of one step; a DWARF expression may loop for ever. Real steps need
 * about 150 when nothing is cached. */
#define ACCESSES_MAX 20000
/* Where the one-entry search table appears to libunwind: no user address. */
#define TABLE_ADDRESS 0xffff800000000000u

/* Exported by libunwind-x86_64.so, declared only in its private dwarf.h. */
int _Ux86_64_dwarf_search_unwind_table(unw_addr_space_t as, unw_word_t ip,
                                       unw_dyn_info_t *di, unw_proc_info_t *pi, int need,
                                       void *arg);

struct lu_space {
  pid_t pid; /* 0: free */
  unw_addr_space_t as;
  uint64_t generation; /* of the maps that the cache is for */
  uint64_t used;
};

struct ss_libunwind {
  struct lu_space spaces[SPACES_MAX];
  uint64_t clock;
  unw_cursor_t cursor;
  /* During a step: */
  struct ss_unwinder *u;
  const struct ss_walk *walk;
  struct ss_place searched;  /* where a FDE was last looked for, */
  struct ss_cfi_place found; /* and what was found; len 0: nothing */
  unsigned char table[8];
  unsigned accesses;
  bool read_failed, reg_missing, search_failed;
};

static int find_proc_info(unw_addr_space_t as, unw_word_t ip, unw_proc_info_t *pi,
                          int need, void *arg)
{
  struct ss_libunwind *lu = arg;
  struct ss_place place = ss_place_of(lu->u->space, ip);
  struct ss_cfi_place fde;
  lu->search_failed = true;
  if (place.module == NULL || !ss_cfi_locate(place.module, place.vaddr, &fde))
    return -UNW_ENOINFO;
  int64_t start = (int64_t)(fde.start - fde.section);
  if (start != (int32_t)start || fde.offset > INT32_MAX)
    return -UNW_ENOINFO;
  int32_t entry[2] = {(int32_t)start, (int32_t)fde.offset};
  memcpy(lu->table, entry, sizeof entry);
  lu->searched = place;
  lu->found = fde;
  /* Where it ends libunwind reads in the FDE. */
  unw_dyn_info_t di = {.start_ip = fde.start + place.bias,
                       .end_ip = ip + 1,
                       .format = UNW_INFO_FORMAT_REMOTE_TABLE};
  di.u.rti.segbase = fde.section + place.bias;
  di.u.rti.table_data = TABLE_ADDRESS;
  di.u.rti.table_len = 1; /* in words: one entry */
  int ret = _Ux86_64_dwarf_search_unwind_table(as, ip, &di, pi, need, arg);
  lu->search_failed = ret < 0;
  return ret;
}

static void put_unwind_info(unw_addr_space_t as, unw_proc_info_t *pi, void *arg)
{
  (void)as;
  (void)pi;
  (void)arg;
}

static int get_dyn_info_list_addr(unw_addr_space_t as, unw_word_t *addr, void *arg)
{
  (void)as;
  (void)addr;
  (void)arg;
  return -UNW_ENOINFO;
}

/* An aligned word of .eh_frame; bytes behind the file's are 0. */
static bool read_section_word(const struct ss_libunwind *lu, uint64_t addr,
                              unw_word_t *value)
{
  uint64_t start = lu->found.section + lu->searched.bias, len = lu->found.len;
  if (len == 0 || addr + 8 <= start || addr >= start + len)
    return false;
  *value = 0;
  return ss_image_read(lu->searched.module->image, addr - lu->searched.bias, value,
                       sizeof *value) > 0;
}

/* A word of a mapped file, outside the stack: a personality pointer, code. The
 * file's bytes serve, though the process may have written others: unwinding
 * does not depend on such data, and reading them costs no system call. */
static bool read_file_word(const struct ss_libunwind *lu, uint64_t addr,
                           unw_word_t *value)
{
  uint64_t sp = lu->walk->r[SS_REG_SP];
  if (addr + SS_FRAME_SIZE_MAX >= sp && addr < sp + SS_STACK_READ_MAX)
    return false;
  struct ss_place place = ss_place_of(lu->u->space, addr);
  return place.module != NULL && place.module->image != NULL &&
         ss_image_read(place.module->image, place.vaddr, value, sizeof *value) ==
             sizeof *value;
}

static int access_mem(unw_addr_space_t as, unw_word_t addr, unw_word_t *value, int write,
                      void *arg)
{
  struct ss_libunwind *lu = arg;
  (void)as;
  if (write || ++lu->accesses > ACCESSES_MAX)
    return -UNW_EINVAL;
  if (addr == TABLE_ADDRESS) {
    memcpy(value, lu->table, sizeof lu->table);
    return 0;
  }
  if (read_section_word(lu, addr, value))
    return 0;
  uint64_t word;
  if (read_file_word(lu, addr, value))
    return 0;
  if (!ss_mem_u64(lu->u->stack, addr, &word)) {
    lu->read_failed = true;
    return -UNW_EINVAL;
  }
  *value = word;
  return 0;
}

static int access_reg(unw_addr_space_t as, unw_regnum_t reg, unw_word_t *value, int write,
                      void *arg)
{
  struct ss_libunwind *lu = arg;
  (void)as;
  /* UNW_X86_64_* of the 16 registers and RIP are the DWARF numbers. */
  int r = reg < 0 ? -1 : ss_arch_from_dwarf((unsigned)reg);
  if (write || r < 0)
    return -UNW_EBADREG;
  if ((lu->walk->known >> r & 1u) == 0) {
    lu->reg_missing = true;
    return -UNW_EBADREG;
  }
  *value = lu->walk->r[r];
  /* A fresh cursor takes its ip for exact: name the call, not what follows. */
  if (r == SS_REG_IP && !lu->walk->exact)
    *value -= 1;
  return 0;
}

static int access_fpreg(unw_addr_space_t as, unw_regnum_t reg, unw_fpreg_t *value,
                        int write, void *arg)
{
  (void)as;
  (void)reg;
  (void)value;
  (void)write;
  (void)arg;
  return -UNW_EINVAL;
}

static int resume(unw_addr_space_t as, unw_cursor_t *cursor, void *arg)
{
  (void)as;
  (void)cursor;
  (void)arg;
  return -UNW_EINVAL;
}

static int get_proc_name(unw_addr_space_t as, unw_word_t addr, char *buf, size_t len,
                         unw_word_t *off, void *arg)
{
  (void)as;
  (void)addr;
  (void)buf;
  (void)len;
  (void)off;
  (void)arg;
  return -UNW_ENOINFO;
}

static unw_accessors_t accessors = {.find_proc_info = find_proc_info,
                                    .put_unwind_info = put_unwind_info,
                                    .get_dyn_info_list_addr = get_dyn_info_list_addr,
                                    .access_mem = access_mem,
                                    .access_reg = access_reg,
                                    .access_fpreg = access_fpreg,
                                    .resume = resume,
                                    .get_proc_name = get_proc_name};

struct ss_libunwind *ss_libunwind_new(void)
{
  return calloc(1, sizeof(struct ss_libunwind));
}

static void space_clear(struct lu_space *space)
{
  if (space->as != NULL)
    unw_destroy_addr_space(space->as);
  *space = (struct lu_space){0};
}

void ss_libunwind_free(struct ss_libunwind *lu)
{
  if (lu == NULL)
    return;
  for (size_t i = 0; i < SPACES_MAX; i++)
    space_clear(&lu->spaces[i]);
  free(lu);
}

void ss_libunwind_forget(struct ss_libunwind *lu, pid_t pid)
{
  for (size_t i = 0; i < SPACES_MAX; i++)
    if (lu->spaces[i].pid == pid)
      space_clear(&lu->spaces[i]);
}

/* The first call on a new address space is lost: its cache has no table yet,
 * and the first flush makes one of the default size. */
static void set_cache_size(unw_addr_space_t as)
{
  unw_set_caching_policy(as, UNW_CACHE_GLOBAL);
  unw_set_cache_size(as, CACHE_ROWS, 0);
  unw_set_cache_size(as, CACHE_ROWS, 0);
}

/* The address space of the walk's process; the least recently used goes. */
static struct lu_space *space_of(struct ss_libunwind *lu,
                                 const struct ss_unwind_space *of)
{
  struct lu_space *oldest = &lu->spaces[0];
  struct lu_space *space = NULL;
  for (size_t i = 0; i < SPACES_MAX && space == NULL; i++)
    if (lu->spaces[i].pid == of->pid && lu->spaces[i].as != NULL)
      space = &lu->spaces[i];
    else if (lu->spaces[i].used < oldest->used)
      oldest = &lu->spaces[i];
  if (space == NULL) {
    space = oldest;
    space_clear(space);
    space->as = unw_create_addr_space(&accessors, 0);
    if (space->as == NULL)
      return NULL;
    space->pid = of->pid;
    space->generation = of->maps->generation;
    set_cache_size(space->as);
  }
  if (space->generation != of->maps->generation) {
    unw_flush_cache(space->as, 0, 0);
    space->generation = of->maps->generation;
  }
  space->used = ++lu->clock;
  return space;
}

/* Was the register saved in a slot that is already popped? The copied stack
 * does not have it, and the register still holds what was in it. */
static bool popped(struct ss_libunwind *lu, const struct ss_walk *old, unsigned dwarf)
{
  unw_save_loc_t loc;
  if (unw_get_save_loc(&lu->cursor, (int)dwarf, &loc) < 0)
    return false;
  return loc.type == UNW_SLT_MEMORY && loc.u.addr < old->r[SS_REG_SP] &&
         old->r[SS_REG_SP] - loc.u.addr <= 256;
}

/* The caller's registers. A callee may change all but the preserved ones;
 * a signal frame restores every one. */
static void take_registers(struct ss_libunwind *lu, const struct ss_walk *old,
                           struct ss_walk *walk)
{
  uint32_t wanted = ss_arch_callee_saved();
  if ((old->hit->rule.flags & SS_RULE_SIGNAL) != 0)
    wanted = ((1u << SS_REG_COUNT) - 1) & ~(1u << SS_REG_IP | 1u << SS_REG_SP);
  walk->known = 1u << SS_REG_IP | 1u << SS_REG_SP;
  for (unsigned dwarf = 0; dwarf < 16; dwarf++) {
    int r = ss_arch_from_dwarf(dwarf);
    unw_word_t value;
    if ((wanted >> r & 1u) == 0)
      continue;
    if (popped(lu, old, dwarf)) {
      walk->r[r] = old->r[r];
      walk->known |= old->known & 1u << r;
    } else if (unw_get_reg(&lu->cursor, (int)dwarf, &value) >= 0) {
      walk->r[r] = value;
      walk->known |= 1u << r;
    }
  }
}

static enum ss_end why_failed(const struct ss_libunwind *lu)
{
  if (lu->search_failed || lu->reg_missing)
    return SS_END_NO_CFI;
  if (lu->read_failed)
    return ss_read_failed(lu->u);
  return SS_END_BAD_CFI;
}

/* libunwind returns 0 for an undefined return address and for one that is 0. */
static enum ss_end why_ended(struct ss_libunwind *lu)
{
  unw_save_loc_t loc;
  if (unw_get_save_loc(&lu->cursor, UNW_X86_64_RIP, &loc) >= 0 &&
      loc.type == UNW_SLT_NONE)
    return SS_END_COMPLETE;
  return SS_END_NO_MAP;
}

/* A cursor at the registers of `from`, which must stay until the last step. */
static bool init_cursor(struct ss_unwinder *u, const struct ss_walk *from)
{
  struct ss_libunwind *lu = u->libunwind;
  struct lu_space *space = space_of(lu, u->space);
  lu->u = u;
  lu->walk = from;
  lu->accesses = 0;
  lu->read_failed = lu->reg_missing = lu->search_failed = false;
  lu->found.len = 0;
  return space != NULL && unw_init_remote(&lu->cursor, space->as, lu) >= 0;
}

static enum ss_end libunwind_step(struct ss_unwinder *u, struct ss_walk *walk)
{
  struct ss_libunwind *lu = u->libunwind;
  struct ss_walk old = *walk;
  if (walk->hit->into == UINT32_MAX)
    return SS_END_NO_CFI;
  if (!init_cursor(u, &old))
    return why_failed(lu);
  int ret = unw_step(&lu->cursor);
  if (ret < 0 || lu->search_failed)
    return why_failed(lu);
  if (ret == 0)
    return why_ended(lu);
  unw_word_t ip, sp;
  if (unw_get_reg(&lu->cursor, UNW_REG_IP, &ip) < 0 ||
      unw_get_reg(&lu->cursor, UNW_REG_SP, &sp) < 0)
    return why_failed(lu);
  walk->r[SS_REG_IP] = ip;
  walk->r[SS_REG_SP] = sp;
  take_registers(lu, &old, walk);
  return SS_END_NONE;
}

const struct ss_unwind_method ss_method_libunwind = {SS_METHOD_CFI, libunwind_step};

enum ss_end ss_unwind_audit(struct ss_unwinder *u, const struct ss_unwind_space *space,
                            const struct ss_mem *stack, const struct ss_regs *regs,
                            uint64_t *ips, size_t cap, size_t *count)
{
  struct ss_libunwind *lu = u->libunwind;
  struct ss_walk from;
  ss_unwind_begin(u, space, stack, regs);
  from = u->walk;
  *count = 0;
  if (cap == 0 || !init_cursor(u, &from))
    return SS_END_BAD_READ;
  ips[(*count)++] = regs->r[SS_REG_IP];
  while (*count < cap) {
    unw_word_t ip;
    lu->accesses = 0;
    int ret = unw_step(&lu->cursor);
    if (ret < 0 || lu->search_failed)
      return why_failed(lu);
    if (ret == 0)
      return why_ended(lu);
    if (unw_get_reg(&lu->cursor, UNW_REG_IP, &ip) < 0)
      return SS_END_BAD_READ;
    ips[(*count)++] = ip;
  }
  return SS_END_DEPTH;
}

bool ss_unwind_differs(const struct ss_frame *frames, size_t count, const uint64_t *ips,
                       size_t ip_count, enum ss_end audit_end)
{
  for (size_t i = 0; i < ip_count; i++)
    if (i >= count || frames[i].ip != ips[i])
      return true;
  return audit_end == SS_END_COMPLETE && count > ip_count;
}

static size_t loaded_bytes(struct ss_modules *modules)
{
  size_t sum = 0;
  for (uint32_t i = 0; i < ss_modules_count(modules); i++) {
    const struct ss_cfi *cfi = ss_modules_at(modules, i)->unwind;
    if (cfi != NULL && cfi->loaded)
      sum += cfi->eh.section.len + cfi->debug.section.len;
  }
  return sum;
}

void ss_unwind_trim(struct ss_modules *modules)
{
  if (loaded_bytes(modules) <= SS_CFI_KEPT_MAX)
    return;
  for (uint32_t i = 0; i < ss_modules_count(modules); i++) {
    struct ss_module *module = ss_modules_at(modules, i);
    struct ss_cfi *cfi = module->unwind;
    if (cfi != NULL && cfi->loaded)
      ss_cfi_unload(module);
  }
}
