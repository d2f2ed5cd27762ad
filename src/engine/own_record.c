/*
 * Records of our own making, for sources that are no perf ring: the struct as it is,
 * and behind it the bytes that its one pointer means (the copied stack, or a name).
 * They never leave this process, but a record that is too short is refused all the
 * same.
 *
 * Like stage 1 of the rings it drops what does not fit, counts it, and leaves a LOST
 * record in its place.
 */
#include <string.h>

#include "capture_priv.h"
#include "stacksample/limits.h"

static const enum ss_record_rank ranks[] = {
    [SS_REC_SAMPLE] = SS_RANK_REST, [SS_REC_MMAP] = SS_RANK_MMAP,
    [SS_REC_COMM] = SS_RANK_COMM,   [SS_REC_FORK] = SS_RANK_FORK,
    [SS_REC_EXIT] = SS_RANK_EXIT,   [SS_REC_SWITCH] = SS_RANK_REST,
    [SS_REC_LOST] = SS_RANK_REST,   [SS_REC_THROTTLE] = SS_RANK_REST,
    [SS_REC_USAGE] = SS_RANK_REST,  [SS_REC_REMAP] = SS_RANK_MMAP,
    [SS_REC_OTHER] = SS_RANK_REST,
};

static void put_chased(struct ss_entry *entry, const struct ss_chased *chased)
{
  struct ss_region *regions = ss_entry_chased(entry);
  memcpy(regions, chased->regions, chased->count * sizeof *regions);
  memcpy(regions + chased->count, chased->bytes, chased->len);
  entry->chased = (uint16_t)chased->count;
  entry->chased_len = chased->len;
}

static bool put(struct ss_cpu *cpu, const struct ss_own_record *own)
{
  const struct ss_chased *chased = &own->chased;
  size_t len = sizeof own->rec + own->tail_len;
  uint32_t regions = own->plan && own->raw_len > 0 ? own->plan->count : 0;
  size_t behind =
      chased->count > 0 ? chased->count * sizeof *chased->regions + chased->len + 16 : 0;
  struct ss_entry *entry =
      ss_capture_reserve(cpu, len, regions, own->raw_len + behind, own->rec.time_ns);
  if (!entry)
    return false;
  entry->own = true;
  entry->rank = (uint8_t)ranks[own->rec.type];
  if (regions > 0) {
    memcpy(entry->plan.regions, own->plan->regions,
           regions * sizeof own->plan->regions[0]);
    memcpy(ss_entry_raw(entry), own->raw, own->raw_len);
    entry->raw_len = (uint32_t)own->raw_len;
    entry->read_ns = own->read_ns;
  }
  if (behind > 0)
    put_chased(entry, chased);
  unsigned char *to = ss_entry_record(entry);
  memcpy(to, &own->rec, sizeof own->rec);
  if (own->tail_len > 0)
    memcpy(to + sizeof own->rec, own->tail, own->tail_len);
  ss_queue_commit(&cpu->queue, entry);
  return true;
}

static bool report_dropped(struct ss_cpu *cpu, uint64_t time_ns)
{
  struct ss_own_record lost = {
      .rec = {.type = SS_REC_LOST, .time_ns = time_ns, .u.lost.count = cpu->dropped}};
  if (cpu->dropped > 0 && put(cpu, &lost))
    cpu->dropped = 0;
  return cpu->dropped == 0;
}

bool ss_own_record_put(struct ss_cpu *cpu, const struct ss_own_record *own)
{
  bool sample = own->rec.type == SS_REC_SAMPLE;
  bool fits = !sample || ss_queue_used(&cpu->queue) <= SS_QUEUE_BYTES / 8 * 7;
  cpu->records++;
  cpu->samples += sample;
  if (fits && report_dropped(cpu, own->rec.time_ns) && put(cpu, own))
    return true;
  cpu->dropped++;
  cpu->queue_full++;
  cpu->lost++;
  return false;
}

bool ss_own_record_get(const void *bytes, size_t len, struct ss_record *out)
{
  const unsigned char *tail = (const unsigned char *)bytes + sizeof *out;
  if (len < sizeof *out)
    return false;
  memcpy(out, bytes, sizeof *out);
  size_t tail_len = len - sizeof *out;
  if (out->type == SS_REC_SAMPLE) {
    out->u.sample.kernel_ips = NULL;
    out->u.sample.n_kernel = 0;
    out->u.sample.stack = tail;
    out->u.sample.stack_len = tail_len;
  } else if (out->type == SS_REC_COMM) {
    out->u.comm.comm = (const char *)tail;
    return tail_len > 0 && tail[tail_len - 1] == '\0';
  }
  return true;
}
