/*
 * Waiting time of one row (a thread in a phase), divided among the looks.
 *
 * A wait that was looked at has its own length. Waits between two rounds of looks
 * are met in proportion to their length, so each look at a short one also stands
 * for the rest of the time between rounds: these weights divide the waits that no
 * look met. The kernel's figures may leave less time than the switch records
 * showed: the switches themselves, and the run queue after a wakeup, which every
 * wait has, so what is cut is cut by their number.
 *
 * Key invariant: emitted + returned = off_ns, to the nanosecond.
 */
#include <stdlib.h>

#include "ledger_priv.h"
#include "stacksample/buf.h"
#include "stacksample/sys.h"

bool ss_waits_add(struct ss_waits *w, const struct ss_wait_part *part)
{
  if (!ss_grow(&w->parts, &w->cap, w->count + 1, sizeof *w->parts))
    return false;
  w->parts[w->count++] = *part;
  return true;
}

void ss_waits_share(struct ss_waits *w, const struct ss_wait_part *part)
{
  struct ss_wait_part *last = w->count > 0 ? &w->parts[w->count - 1] : NULL;
  if (last && last->row == part->row && last->wait.stack == part->wait.stack &&
      last->wait.state == part->wait.state) {
    last->others += part->others;
    last->end_ns = part->end_ns;
  } else {
    (void)ss_waits_add(w, part);
  }
}

void ss_waits_release(struct ss_waits *w)
{
  free(w->parts);
  *w = (struct ss_waits){0};
}

struct span { /* of parts */
  struct ss_wait_part *parts;
  size_t count;
  uint64_t ns, others;
};

static struct span parts_of(const struct ss_waits *w, size_t row)
{
  struct span s = {.parts = w->parts};
  size_t end = 0;
  while (end < w->count && w->parts[end].row <= row) {
    if (w->parts[end].row < row) {
      s.parts = &w->parts[end + 1];
    } else {
      s.count++;
      s.ns += w->parts[end].ns;
      s.others += w->parts[end].others;
    }
    end++;
  }
  return s;
}

/* Takes `cut` out of what is there. */
static void shorten(struct span *s, struct ss_unlooked *u, uint64_t cut)
{
  uint64_t missed = ss_least_ns(cut, u->missed_ns);
  u->missed_ns -= missed;
  cut -= missed;
  uint64_t from_short = ss_in_proportion(cut, u->count, u->count + s->count);
  from_short = from_short > ss_less(cut, s->ns) ? from_short : ss_less(cut, s->ns);
  from_short = ss_least_ns(from_short, ss_least_ns(cut, u->short_ns));
  u->short_ns -= from_short;
  cut = ss_least_ns(cut - from_short, s->ns);
  struct ss_spread spread = {.total = cut, .sum = s->ns};
  for (size_t i = 0; i < s->count; i++)
    s->parts[i].ns -= ss_spread_next(&spread, s->parts[i].ns);
  s->ns -= cut;
}

uint64_t ss_waits_emit(struct ss_waits *w, const struct ss_waits_of *of, uint64_t off_ns,
                       const struct ss_unlooked *unlooked)
{
  struct span s = parts_of(w, of->row);
  struct ss_unlooked u = *unlooked;
  uint64_t shown = s.ns + u.short_ns + u.missed_ns;
  u.short_ns += ss_less(off_ns, shown); /* was unknown, and is known to be off */
  shorten(&s, &u, ss_less(shown, off_ns));
  struct ss_spread others = {.total = s.others > 0 ? u.short_ns : 0, .sum = s.others};
  uint64_t left = off_ns;
  for (size_t i = 0; i < s.count; i++) {
    struct ss_wait_part *part = &s.parts[i];
    uint64_t ns = part->ns + ss_spread_next(&others, part->others);
    if (ns > 0) {
      of->ledger->emit_wait(of->ledger->arg, of->thread, of->phase, &part->wait,
                            part->end_ns, ns);
    }
    left -= ns;
  }
  return left;
}
