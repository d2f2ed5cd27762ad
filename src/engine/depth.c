/*
 * The part of a thread's stack that is read with each sample, because the sample's
 * own copy ends before it and it may change before stage 2 asks for it.
 *
 * It ends above the outermost frame, which does not move, and begins where the first
 * frame that reaches behind the copy keeps what its caller needs: a kernel of
 * OpenBLAS has 30 KB of its own data below that. Where a stack broke off behind its
 * copy, the walk has told by its reads what it needed; so even a thread whose every
 * sample breaks off becomes complete. Of a stack that is deeper than what a plan may
 * have, the outer part is left: it changes the least. Of a sample on another stack (a
 * signal's, or where code points sp to other memory) the copy has nothing of this one.
 */
#include "pipeline_priv.h"
#include "stacksample/limits.h"

enum {
  SAVED = 256, /* below a frame's end: where it keeps registers and return address */
  ABOVE = 64   /* of the outermost frame */
};

/* The innermost frame from which on all stand on one stack. */
static size_t first_of_stack(const struct ss_frame *frames, size_t count)
{
  size_t i = count - 1;
  while (i > 0 && frames[i - 1].sp <= frames[i].sp &&
         frames[i].sp - frames[i - 1].sp <= SS_FRAME_SIZE_MAX)
    i--;
  return i;
}

static void note_complete(struct ss_depth *d, const struct ss_snapshot *s,
                          const struct ss_frame *frames, size_t count)
{
  const size_t first = first_of_stack(frames, count);
  uint64_t end = frames[count - 1].sp + ABOVE, from = end, copied = s->sp + s->len;
  if (frames[first].sp != s->sp)
    copied = frames[first].sp;
  if (end <= copied || end - copied > SS_STACK_READ_MAX)
    return;
  for (size_t i = count - 1; i-- > first && frames[i].cfa > copied;)
    from = frames[i].sp > copied ? frames[i].sp : frames[i].cfa - SAVED;
  if (end != d->end || from < d->from)
    d->from = from;
  d->end = end;
  d->end_known = true;
}

/* Until a stack was complete, and on another stack than the last time, its end is not
 * known: as much as a plan may have, up to the end of the mapping. */
static void note_missed(struct ss_depth *d, uint64_t copied, uint64_t missed,
                        uint64_t stack_end)
{
  uint64_t from = missed - copied > SAVED ? missed - SAVED : copied;
  if (missed >= stack_end)
    return;
  if (missed >= d->end)
    *d = (struct ss_depth){.from = from};
  if (from < d->from)
    d->from = from;
  if (!d->end_known)
    d->end =
        stack_end - d->from > SS_PLAN_DEEP_MAX ? d->from + SS_PLAN_DEEP_MAX : stack_end;
}

void ss_depth_note(struct ss_depth *d, const struct ss_snapshot *s,
                   const struct ss_frame *frames, size_t count, enum ss_end end)
{
  uint64_t copied = s->sp + s->len;
  if (end == SS_END_COMPLETE && count > 0)
    note_complete(d, s, frames, count);
  else if (s->missed >= copied && s->missed != 0)
    note_missed(d, copied, s->missed, s->stack_end);
}
