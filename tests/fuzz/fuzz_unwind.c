/* Registers and stack bytes of any kind, in this process's own mappings; the bytes are
 * JIT code, too. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "stacksample/limits.h"
#include "stacksample/unwind.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CODE = 65536 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  static unsigned char *code;
  static struct ss_mem_live live;
  static struct ss_maps maps;
  static struct ss_unwind_space space;
  static struct ss_unwinder *unwinder;
  static struct ss_frame frames[SS_FRAMES_MAX];
  struct ss_regs regs = {0};
  size_t count, head = size < sizeof regs ? size : sizeof regs;
  struct ss_snapshot snapshot;
  if (unwinder == NULL) {
    code = mmap(NULL, CODE, PROT_READ | PROT_WRITE | PROT_EXEC,
                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ss_mem_live_init(&live, getpid());
    ss_maps_init(&maps, ss_paths_new());
    ss_maps_load(&maps, getpid(), NULL);
    unwinder = ss_unwinder_new();
    space = (struct ss_unwind_space){
        .pid = getpid(), .maps = &maps, .modules = ss_modules_new(), .live = &live.mem};
  }
  memcpy(&regs, data, head);
  memcpy(code, data + head, size - head < CODE ? size - head : CODE);
  /* Most inputs start in real code: a function of ours plus an offset, or that code. */
  if ((regs.r[SS_REG_IP] & 1) != 0)
    regs.r[SS_REG_IP] = (uintptr_t)ss_unwind_stack + (regs.r[SS_REG_IP] >> 1 & 0xffff);
  else if ((regs.r[SS_REG_IP] & 2) != 0)
    regs.r[SS_REG_IP] = (uintptr_t)code + (regs.r[SS_REG_IP] >> 2 & 0xfff);
  maps.generation++; /* what is known of code is of other code */
  regs.r[SS_REG_SP] = 0x7ffd00000000u + (regs.r[SS_REG_SP] & 0xff8);
  ss_snapshot_init(&snapshot, regs.r[SS_REG_SP], data + head, size - head, NULL, 0);
  ss_unwind_stack(unwinder, &space, &snapshot.mem, &regs, frames, SS_FRAMES_MAX, &count);
  ss_snapshot_release(&snapshot);
  return 0;
}
