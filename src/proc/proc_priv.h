/*
 * Parts of src/proc that its own files and its tests share.
 */
#ifndef STACKSAMPLE_PROC_PRIV_H
#define STACKSAMPLE_PROC_PRIV_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "stacksample/error.h"
#include "stacksample/proc.h"

/* Device and inode of an open regular file, as stat(2) says; false for
 * anything else. Also for O_PATH descriptors. */
bool ss_file_identity(int fd, struct ss_map *out);

/* What decides whether `pid` may be read: gathered, then judged without
 * another look, so that every refusal can be tested on any machine. */
struct ss_access_facts {
  pid_t pid, tgid, ppid;
  bool exists, hidden, self, ended, kernel_thread;
  uint32_t uid[4], gid[4]; /* real, effective, saved, file system */
  uint64_t caps;           /* permitted */
  bool protected_image;    /* not dumpable */
  pid_t tracer;            /* 0: none */
  char tracer_comm[64];
  int sys_errno; /* of trying to read it; 0: allowed */
  uint32_t own_uid, own_gid;
  uint64_t own_caps, own_permitted; /* effective, permitted */
  bool own_seccomp, own_refused;    /* even reading ourselves is refused */
  int yama;                         /* kernel.yama.ptrace_scope; -1: no Yama */
  bool descendant;                  /* of ours */
};
void ss_access_gather(struct ss_access_facts *facts, pid_t pid);
enum ss_err ss_access_judge(const struct ss_access_facts *facts, struct ss_diag *diag);

#endif
