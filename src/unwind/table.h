/*
 * Compact unwind tables of a module; see table.c for their layout.
 */
#ifndef STACKSAMPLE_UNWIND_TABLE_H
#define STACKSAMPLE_UNWIND_TABLE_H

#include "unwind_priv.h"

#define SS_UNWIND_ROWS_MAX (64u << 20)
#define SS_UNWIND_TEXT_MAX (2ull << 30) /* code of one file; torch has 0.3 GB */

struct ss_table {
  uint64_t text_lo, text_hi; /* vaddr; lo is page-aligned */
  size_t pages;
  uint32_t *page_first; /* pages + 1: first row that starts in or after the page */
  uint16_t *pc_lo;      /* low bits of (vaddr - text_lo) */
  uint16_t *rule;       /* index into rules; top bit: an FDE starts here */
  size_t row_count;
  struct ss_rule *rules;
  size_t rule_count;
};

/* Builds a module's table; NULL without unwind information or memory. */
struct ss_table *ss_table_build(struct ss_module *module);
void ss_table_free(struct ss_table *table);
/* The rule that holds at vaddr, and the start of the FDE around it (0: none). */
bool ss_table_find(const struct ss_table *table, uint64_t vaddr, struct ss_rule *rule,
                   uint64_t *function);

#endif
