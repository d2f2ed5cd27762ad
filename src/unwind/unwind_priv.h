/*
 * What the files of src/unwind share: unwind information of a module, the
 * state of a walk, and the methods that find a frame's caller.
 */
#ifndef STACKSAMPLE_UNWIND_PRIV_H
#define STACKSAMPLE_UNWIND_PRIV_H

#include <assert.h>
#include <string.h>

#include "stacksample/cursor.h"
#include "stacksample/unwind.h"

/* ---- eh_frame.c: call frame information as bytes ------------------------- */

struct ss_cfi_section { /* .eh_frame or .debug_frame */
  const unsigned char *bytes;
  size_t len;
  uint64_t vaddr;
  bool debug_frame;
};

struct ss_cie {
  uint64_t offset;
  uint64_t code_align;
  int64_t data_align;
  unsigned ra_reg;
  uint8_t fde_encoding; /* DW_EH_PE_* */
  uint8_t address_size;
  bool augmented; /* 'z': FDEs have augmentation data */
  bool signal;    /* 'S': a frame that a signal interrupts */
  size_t insns, insns_len;
};

struct ss_fde {
  struct ss_cie cie;
  uint64_t start, end; /* vaddr */
  size_t offset;       /* of the entry in the section */
  size_t insns, insns_len;
};

enum ss_entry { SS_ENTRY_FDE, SS_ENTRY_OTHER, SS_ENTRY_END };
/* The entry at *offset, which moves to the next one. END at a terminator, at
 * the section's end, or where the length makes no sense. FDEs that are
 * malformed are OTHER. `cie` caches the last CIE; zero-initialise it. */
enum ss_entry ss_cfi_next(const struct ss_cfi_section *s, size_t *offset,
                          struct ss_cie *cie, struct ss_fde *fde);
/* The FDE at an offset; `cie` as above. */
bool ss_fde_parse(const struct ss_cfi_section *s, size_t offset, struct ss_cie *cie,
                  struct ss_fde *fde);
/* A code address, absolute or relative to itself; else the cursor fails. */
uint64_t ss_cfi_read_address(const struct ss_cfi_section *s, struct ss_cursor *c,
                             unsigned encoding);

/* ---- cfa_rows.c: what the instructions of an FDE say ---------------------- */

enum ss_cfa_kind {
  SS_CFA_SAME, /* also: never set */
  SS_CFA_UNDEFINED,
  SS_CFA_OFFSET, /* in the slot at CFA + off */
  SS_CFA_REG,    /* the CFA: reg + off */
  SS_CFA_EXPR,   /* by the expression (the CFA's value, a register's slot) */
  SS_CFA_OTHER   /* in a way that is not followed */
};
struct ss_cfa_value {
  uint8_t kind;
  int8_t reg; /* enum ss_reg */
  uint16_t expr_len;
  uint32_t expr; /* offset in the section */
  int64_t off;
};
struct ss_cfa_state {
  struct ss_cfa_value cfa, ra;
  struct ss_cfa_value saved[SS_SAVED_COUNT]; /* preserved registers */
};
/* SS_SAVED_* of a preserved register, -1 of another; and back. */
int ss_saved_index(int reg);
static const uint8_t ss_saved_reg[SS_SAVED_COUNT] = {SS_REG_BX,  SS_REG_BP,  SS_REG_R12,
                                                     SS_REG_R13, SS_REG_R14, SS_REG_R15};
/* A set of SS_SAVED_* bits as the same set of ss_reg bits, and back. */
static_assert(SS_REG_R15 == SS_REG_R12 + 3 && SS_SAVED_R15 == SS_SAVED_R12 + 3,
              "in a row");
static inline uint32_t ss_saved_to_regs(uint32_t saved)
{
  return (saved >> SS_SAVED_BX & 1u) << SS_REG_BX |
         (saved >> SS_SAVED_BP & 1u) << SS_REG_BP |
         (saved >> SS_SAVED_R12 & 15u) << SS_REG_R12;
}
static inline uint32_t ss_regs_to_saved(uint32_t regs)
{
  return (regs >> SS_REG_BX & 1u) << SS_SAVED_BX |
         (regs >> SS_REG_BP & 1u) << SS_SAVED_BP |
         (regs >> SS_REG_R12 & 15u) << SS_SAVED_R12;
}
typedef void ss_row_fn(void *arg, uint64_t pc, const struct ss_cfa_state *state);
/* The state after the CIE's program. */
bool ss_cfa_initial(const struct ss_cfi_section *section, const struct ss_fde *fde,
                    struct ss_cfa_state *initial);
/* Calls `emit` for every row of an FDE in order of address; a row holds to the
 * next one or the FDE's end. false: a bad program (rows may have been emitted). */
bool ss_cfa_rows(const struct ss_cfi_section *section, const struct ss_fde *fde,
                 const struct ss_cfa_state *initial, ss_row_fn *emit, void *arg);

/* ---- compact rules -------------------------------------------------------- */

enum {
  SS_RULE_REG,   /* CFA = cfa_reg + cfa_off */
  SS_RULE_PLT,   /* CFA = sp + 8, or sp + 16 from byte `aux` of a 16-byte stub on */
  SS_RULE_DEREF, /* CFA = *(cfa_reg + cfa_off) + aux */
  SS_RULE_END,   /* the thread's start */
  SS_RULE_SLOW,  /* known to libunwind only */
  SS_RULE_NOCFI
};
enum {
  SS_BP_SAME,   /* or in its slot */
  SS_BP_AT_CFA, /* rbp's slot is CFA + bp_off, too far for `slots` */
  SS_BP_AT_BP,  /* rbp's slot is rbp + bp_off */
  SS_BP_LOST
};
enum {
  SS_RULE_SIGNAL = 1, /* a signal frame */
  SS_HIT_CODE = 4     /* in a struct ss_hit: executable */
};
struct ss_rule {
  uint8_t cfa_kind, cfa_reg, bp_kind, flags;
  int32_t cfa_off, bp_off, aux;
  uint8_t saves; /* bit SS_SAVED_*: in the slot at CFA + 8 * slots[] (not rbp) */
  uint8_t loses; /* bit SS_SAVED_*: not known in the caller */
  int8_t slots[SS_SAVED_COUNT];
};
static_assert(sizeof(struct ss_rule) == 24, "a rule is 24 bytes");

/* ---- cfi.c: a module's unwind information, found by address -------------- */

struct ss_cfi_entry {
  uint64_t start;
  size_t offset;
};
struct ss_cfi_index {            /* the FDEs of a section in order of address */
  struct ss_cfi_section section; /* its bytes are the image's; len 0: none */
  const unsigned char *hdr;      /* sorted pairs of .eh_frame_hdr; or NULL */
  uint64_t hdr_vaddr;
  struct ss_cfi_entry *entries; /* owned, sorted; where there is no hdr */
  size_t count, cap;
};
struct ss_cfi { /* ss_module.unwind */
  bool loaded;
  struct ss_cfi_index eh, debug; /* .eh_frame, and .debug_frame for what it lacks */
  struct ss_table *table;        /* owned; see table.h */
  bool table_tried;
};
/* The module's state, made at first use; NULL without an image or memory. */
struct ss_cfi *ss_cfi_of(struct ss_module *module);
/* The same with its sections loaded; offset of the i-th FDE by address. */
struct ss_cfi *ss_cfi_load(struct ss_module *module);
bool ss_cfi_offset_at(const struct ss_cfi_index *index, size_t i, size_t *offset);
/* Gives the sections' memory back; a later use loads them again. */
void ss_cfi_unload(struct ss_module *module);
/* Which FDE of .eh_frame covers vaddr, if any does: the one that starts next before it
 * may end before it, too. Loads nothing of files that have an .eh_frame_hdr. */
struct ss_cfi_place {
  uint64_t section, len; /* .eh_frame: vaddr, bytes */
  uint64_t offset;       /* of the FDE in it */
  uint64_t start;        /* vaddr of the code that it is for */
};
bool ss_cfi_locate(struct ss_module *module, uint64_t vaddr, struct ss_cfi_place *out);

/* ---- the walk ------------------------------------------------------------ */

struct ss_place {           /* where an address is */
  struct ss_module *module; /* NULL: none */
  uint64_t bias, vaddr;
  bool executable;
};

/* What is known of a code address, kept by a direct-mapped cache. */
struct ss_hit {
  uint64_t addr;
  uint32_t generation;      /* of the maps, cut */
  pid_t pid;                /* 0: empty */
  struct ss_module *module; /* NULL: none */
  uint64_t bias;            /* 0 without a module */
  uint32_t into;            /* bytes from the FDE's start to it; UINT32_MAX: no FDE */
  uint32_t caller;          /* where in the cache the caller was last time: a guess */
  struct ss_rule rule;
};
static_assert(sizeof(struct ss_hit) == 64, "a hit is a cache line");
/* A torch loop has about 2000 addresses; with 4096 places the whole walk is 6 %
 * slower by collisions. */
#define SS_HITS 16384

struct ss_walk {
  uint64_t r[SS_REG_COUNT];
  uint32_t known;     /* bit i: r[i] is known */
  bool exact;         /* ip is an instruction to execute, not a return address */
  struct ss_hit *hit; /* of the frame it stands on; NULL before it is looked up */
  uint64_t own_sp;    /* by a method: the frame that was left has moved sp elsewhere, and
                         that is what it was on the thread's stack; else 0 */
};

/* libunwind.c */
struct ss_libunwind;
struct ss_libunwind *ss_libunwind_new(void);
void ss_libunwind_free(struct ss_libunwind *lu);
void ss_libunwind_forget(struct ss_libunwind *lu, pid_t pid);

struct ss_unwinder {
  const struct ss_unwind_space *space;
  const struct ss_mem *stack;
  uint64_t copy_sp; /* the bytes of a snapshot, read without a call */
  size_t copy_len;
  const unsigned char *copy;
  struct ss_walk walk;
  size_t depth;
  bool dead; /* the last step ended the stack */
  struct ss_libunwind *libunwind;
  struct ss_hit *hits;             /* SS_HITS */
  struct ss_jit_start *jit_starts; /* SS_JIT_STARTS, by ip */
  uint32_t carried;                /* registers that may be known in a caller */
  struct ss_frame *fresh;          /* memo.c: frames of the stack under work, and */
  struct ss_rule *fresh_rules;     /* beside each how its caller was found */
};

/* An address of JIT code and the function's start found for it. */
struct ss_jit_start {
  uint64_t ip, start, generation;
  pid_t pid;
};
#define SS_JIT_STARTS 256

/* A word of the stack. */
static inline bool ss_stack_u64(const struct ss_unwinder *u, uint64_t addr,
                                uint64_t *value)
{
  uint64_t off = addr - u->copy_sp;
  if (u->copy != NULL && u->copy_len >= 8 && off <= u->copy_len - 8) {
    memcpy(value, u->copy + off, 8);
    return true;
  }
  return ss_mem_u64(u->stack, addr, value);
}

/* One way to find a caller: moves `walk` to it and returns SS_END_NONE, or
 * leaves it and says why not. SS_END_NO_CFI lets the next method try. */
struct ss_unwind_method {
  enum ss_method label;
  enum ss_end (*step)(struct ss_unwinder *u, struct ss_walk *walk);
};
extern const struct ss_unwind_method ss_method_libunwind;
/* prologue.c, jit.c, repair.c: code without unwind information. */
extern const struct ss_unwind_method ss_method_prologue, ss_method_jit, ss_method_scan,
    ss_method_frame_pointer;
/* One step by compact rules alone; of the frame that was left: cfa and method. */
enum ss_end ss_step_by_tables(struct ss_unwinder *u, struct ss_frame *frame);

/* Where a run-time address is, with its module opened if it has one. */
struct ss_place ss_place_of(const struct ss_unwind_space *space, uint64_t addr);
/* The steps that no compact rule makes; the walk stands on `frame`, located. */
enum ss_end ss_step_by_methods(struct ss_unwinder *u, struct ss_frame *frame);
enum ss_end ss_step_with_registers(struct ss_unwinder *u, struct ss_frame *frame);
/* Looks `addr` up into its place in the cache. */
void ss_hit_fill(struct ss_hit *hit, const struct ss_unwind_space *space, uint64_t addr);
/* What is known of a code address; valid until the next look-up. */
const struct ss_hit *ss_hit_of(struct ss_unwinder *u, uint64_t addr);
/* BAD_READ, or TRUNCATED where the reason is a snapshot gone stale. */
enum ss_end ss_read_failed(const struct ss_unwinder *u);
bool ss_snapshot_is_stale(const struct ss_mem *mem);
/* Is the return address of the frame [sp, cfa) taken from memory that was read after the
 * copy, and without a check? */
bool ss_snapshot_is_late(const struct ss_mem *mem, uint64_t sp, uint64_t cfa);
/* The same in a walk, which knows whether its thread may have run meanwhile. */
bool ss_frame_is_late(const struct ss_unwinder *u, uint64_t sp, uint64_t cfa);
/* The snapshot behind a reader, or NULL where it is another one. */
const struct ss_snapshot *ss_snapshot_of(const struct ss_mem *mem);

#endif
