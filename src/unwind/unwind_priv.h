/*
 * What the files of src/unwind share: unwind information of a module, the
 * state of a walk, and the methods that find a frame's caller.
 */
#ifndef STACKSAMPLE_UNWIND_PRIV_H
#define STACKSAMPLE_UNWIND_PRIV_H

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
/* The FDE at an offset. */
bool ss_fde_parse(const struct ss_cfi_section *s, size_t offset, struct ss_fde *fde);

/* ---- cfi.c: a module's unwind information, found by address -------------- */

struct ss_cfi_entry {
  uint64_t start;
  size_t offset;
};
struct ss_cfi { /* ss_module.unwind; sections are the image's */
  bool loaded;
  struct ss_cfi_section section; /* len 0: none */
  const unsigned char *hdr;      /* sorted pairs of .eh_frame_hdr; or NULL */
  uint64_t hdr_vaddr;
  size_t hdr_count;
  struct ss_cfi_entry *entries; /* owned, sorted; where there is no hdr */
  size_t entry_count, entry_cap;
};
/* The module's state, made at first use; NULL without an image or memory. */
struct ss_cfi *ss_cfi_of(struct ss_module *module);
/* The FDE that covers vaddr. */
bool ss_cfi_find(struct ss_module *module, uint64_t vaddr, struct ss_fde *fde);

/* ---- the walk ------------------------------------------------------------ */

struct ss_place {           /* where an address is */
  struct ss_module *module; /* NULL: none */
  uint64_t bias, vaddr;
  bool mapped, executable;
};

struct ss_walk {
  uint64_t r[SS_REG_COUNT];
  uint32_t known; /* bit i: r[i] is known */
  bool exact;     /* ip is an instruction to execute, not a return address */
  struct ss_place place;
  uint64_t function; /* FDE start, 0 */
  bool signal;       /* this is a signal frame */
};

/* libunwind.c */
struct ss_libunwind;
struct ss_libunwind *ss_libunwind_new(void);
void ss_libunwind_free(struct ss_libunwind *lu);
void ss_libunwind_forget(struct ss_libunwind *lu, pid_t pid);

struct ss_unwinder {
  const struct ss_unwind_space *space;
  const struct ss_mem *stack;
  struct ss_walk walk;
  size_t depth;
  bool dead; /* the last step ended the stack */
  struct ss_libunwind *libunwind;
};

/* One way to find a caller: moves `walk` to it and returns SS_END_NONE, or
 * leaves it and says why not. SS_END_NO_CFI lets the next method try. */
struct ss_unwind_method {
  enum ss_method label;
  enum ss_end (*step)(struct ss_unwinder *u, struct ss_walk *walk);
};
extern const struct ss_unwind_method ss_method_libunwind;

/* Where a run-time address is, with its module opened if it has one. */
struct ss_place ss_place_of(const struct ss_unwind_space *space, uint64_t addr);
/* BAD_READ, or TRUNCATED where the reason is a snapshot gone stale. */
enum ss_end ss_read_failed(const struct ss_unwinder *u);
bool ss_snapshot_is_stale(const struct ss_mem *mem);

#endif
