/*
 * Chases: what must be read at a sample but is known only then. A read plan names
 * addresses beforehand; a chase follows a linked list from element to element
 * (CPython: frames) and reads the objects that they point to (their code), with
 * what those point to, so that they can be interpreted after they were freed.
 *
 * An object that was looked at before need not be read again each time: stage 2
 * vouches for it for a while (struct ss_seen). Nothing here knows what the bytes are.
 */
#ifndef STACKSAMPLE_CHASE_H
#define STACKSAMPLE_CHASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct ss_mem;
struct ss_region;

enum {
  SS_CHASE_POINTERS = 4,
  SS_CHASE_NO_HOP = 0xffff,
  SS_CHASE_WORDS = 8,     /* sizeof(struct ss_chase) / 8 */
  SS_CHASE_REGIONS = 160, /* read by one chase */
  SS_CHASE_BYTES = 40960, /* of them together */
};

/* To one more object by pointers, and to a text that it points to (asyncio: the task
 * that runs, and its name). Offsets and lengths in bytes. */
struct ss_chase_path {
  uint64_t start;   /* where the first pointer is; 0: no path */
  uint16_t hops[2]; /* the next one lies at that + hop; SS_CHASE_NO_HOP: no more. Behind
                     * the second lie two pointers, either of which may be the one */
  uint16_t len;     /* bytes read of the object */
  uint16_t text_at; /* the pointer in it to a text, whose beginning is read */
};

/* Offsets and lengths in bytes. */
struct ss_chase {
  uint64_t start;        /* where the pointer to the first element is; 0: no chase */
  uint16_t hop;          /* it lies behind one more pointer: at that + hop */
  uint16_t element;      /* bytes of an element */
  uint16_t before;       /* where one must be read: with so many in front of it, as far
                          * as they are in its page: the next ones lie there */
  uint16_t next, object; /* pointers in an element */
  uint16_t tag;          /* low bits of `object` that do not belong to the address */
  uint16_t head;         /* bytes of an object */
  struct {
    uint16_t at;  /* of a pointer in an object's head */
    uint16_t len; /* bytes to read there; 0: unused */
  } pointers[SS_CHASE_POINTERS];
  /* What the first pointer leads to has a count of bytes at `count_at` and then,
   * from `data_at` on, so many more: read as far as there is room. */
  uint16_t count_at, data_at;
  uint16_t elements_max; /* read one by one, each a system call */
  uint16_t print_at;     /* the word of a head that tells an object from others that
                          * lie at its address before and after it */
  struct ss_chase_path path;
};

/* Objects by process and address: looked at before (what they point to is known), and
 * until when they need not be read at all. Of an object the word at print_at is kept, in
 * short, so that another one at its address is noticed. Nobody ever waits. Forgets what
 * does not fit. */
struct ss_seen;
#define SS_SEEN_NS UINT64_C(100000000) /* the longest that code is vouched for */
struct ss_seen *ss_seen_new(void);
void ss_seen_free(struct ss_seen *seen);
/* `lasting`: what is found to be the same at a sample is vouched for again, for
 * SS_SEEN_NS: stage 2, which would say so, is some samples behind. */
void ss_seen_mark(struct ss_seen *seen, pid_t pid, uint64_t addr, uint64_t print,
                  uint64_t until_ns, bool lasting);
enum ss_seen_state { SS_SEEN_NEVER, SS_SEEN_BEFORE, SS_SEEN_LATELY };
enum ss_seen_state ss_seen_look(const struct ss_seen *seen, pid_t pid, uint64_t addr,
                                uint64_t now_ns);
/* Is it, with this print, the object that was looked at? */
bool ss_seen_confirm(struct ss_seen *seen, pid_t pid, uint64_t addr, uint64_t print,
                     uint64_t now_ns);

/* What a chase read: regions, whose bytes follow each other without gaps. */
struct ss_chased {
  struct ss_region *regions; /* room for SS_CHASE_REGIONS */
  unsigned char *bytes;      /* room for SS_CHASE_BYTES */
  uint32_t count;
  uint32_t len;
};
/* `known` has what was read for the sample already. Bounded in steps, system calls
 * and bytes. */
void ss_chase_run(const struct ss_chase *chase, pid_t pid, const struct ss_mem *known,
                  struct ss_seen *seen, uint64_t now_ns, struct ss_chased *out);

#endif
