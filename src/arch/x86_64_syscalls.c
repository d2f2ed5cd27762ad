/*
 * Names of x86-64's system calls that threads block in, and what each waits
 * for (arch/x86/entry/syscalls/syscall_64.tbl). Which of them return EINTR to
 * a thread that a tracer stopped, without any handler: signal(7), "Interruption
 * of system calls and library functions by stop signals".
 */
#include <stddef.h>
#include <sys/syscall.h>

#include "stacksample/arch.h"

struct row {
  long nr;
  struct ss_syscall_info info;
};

static const struct row rows[] = {
    {SYS_read, {"read", SS_WAIT_FD, false}},
    {SYS_write, {"write", SS_WAIT_FD, false}},
    {SYS_open, {"open", SS_WAIT_OPEN, false}},
    {SYS_openat, {"openat", SS_WAIT_OPENAT, false}},
    {SYS_openat2, {"openat2", SS_WAIT_OPENAT, false}},
    {SYS_poll, {"poll", SS_WAIT_POLL, false}},
    {SYS_ppoll, {"ppoll", SS_WAIT_POLL, false}},
    {SYS_select, {"select", SS_WAIT_SELECT, false}},
    {SYS_pselect6, {"pselect6", SS_WAIT_SELECT, false}},
    {SYS_epoll_wait, {"epoll_wait", SS_WAIT_EPOLL, true}},
    {SYS_epoll_pwait, {"epoll_pwait", SS_WAIT_EPOLL, true}},
    {SYS_epoll_pwait2, {"epoll_pwait2", SS_WAIT_EPOLL, true}},
    {SYS_pread64, {"pread64", SS_WAIT_FD, false}},
    {SYS_pwrite64, {"pwrite64", SS_WAIT_FD, false}},
    {SYS_readv, {"readv", SS_WAIT_FD, false}},
    {SYS_writev, {"writev", SS_WAIT_FD, false}},
    {SYS_preadv, {"preadv", SS_WAIT_FD, false}},
    {SYS_fsync, {"fsync", SS_WAIT_FD, false}},
    {SYS_fdatasync, {"fdatasync", SS_WAIT_FD, false}},
    {SYS_flock, {"flock", SS_WAIT_FD, false}},
    {SYS_fcntl, {"fcntl", SS_WAIT_FD, false}},
    {SYS_ioctl, {"ioctl", SS_WAIT_FD, false}},
    {SYS_accept, {"accept", SS_WAIT_FD, true}},
    {SYS_accept4, {"accept4", SS_WAIT_FD, true}},
    {SYS_connect, {"connect", SS_WAIT_FD, true}},
    {SYS_recvfrom, {"recvfrom", SS_WAIT_FD, true}},
    {SYS_recvmsg, {"recvmsg", SS_WAIT_FD, true}},
    {SYS_recvmmsg, {"recvmmsg", SS_WAIT_FD, true}},
    {SYS_sendto, {"sendto", SS_WAIT_FD, true}},
    {SYS_sendmsg, {"sendmsg", SS_WAIT_FD, true}},
    {SYS_sendfile, {"sendfile", SS_WAIT_FD, false}},
    {SYS_splice, {"splice", SS_WAIT_FD, false}},
    {SYS_wait4, {"wait4", SS_WAIT_CHILD, false}},
    {SYS_waitid, {"waitid", SS_WAIT_CHILD, false}},
    {SYS_futex, {"futex", SS_WAIT_FUTEX, false}},
    {SYS_nanosleep, {"nanosleep", SS_WAIT_SLEEP, false}},
    {SYS_clock_nanosleep, {"clock_nanosleep", SS_WAIT_SLEEP, false}},
    {SYS_pause, {"pause", SS_WAIT_SIGNAL, false}},
    {SYS_rt_sigsuspend, {"rt_sigsuspend", SS_WAIT_SIGNAL, false}},
    {SYS_rt_sigtimedwait, {"rt_sigtimedwait", SS_WAIT_SIGNAL, true}},
    {SYS_semop, {"semop", SS_WAIT_IPC, true}},
    {SYS_semtimedop, {"semtimedop", SS_WAIT_IPC, true}},
    {SYS_msgrcv, {"msgrcv", SS_WAIT_IPC, true}},
    {SYS_msgsnd, {"msgsnd", SS_WAIT_IPC, true}},
    {SYS_mq_timedreceive, {"mq_timedreceive", SS_WAIT_IPC, true}},
    {SYS_mq_timedsend, {"mq_timedsend", SS_WAIT_IPC, true}},
    {SYS_io_getevents, {"io_getevents", SS_WAIT_OTHER, true}},
    {SYS_io_uring_enter, {"io_uring_enter", SS_WAIT_FD, true}},
    {SYS_restart_syscall, {"restart_syscall", SS_WAIT_OTHER, false}},
    {SYS_sched_yield, {"sched_yield", SS_WAIT_OTHER, false}},
    {SYS_munmap, {"munmap", SS_WAIT_OTHER, false}},
    {SYS_mmap, {"mmap", SS_WAIT_OTHER, false}},
    {SYS_madvise, {"madvise", SS_WAIT_OTHER, false}},
    {SYS_exit_group, {"exit_group", SS_WAIT_OTHER, false}},
    {SYS_exit, {"exit", SS_WAIT_OTHER, false}},
    {SYS_execve, {"execve", SS_WAIT_OTHER, false}},
    {SYS_clone, {"clone", SS_WAIT_OTHER, false}},
    {SYS_clone3, {"clone3", SS_WAIT_OTHER, false}},
    {SYS_vfork, {"vfork", SS_WAIT_CHILD, false}},
    {SYS_fork, {"fork", SS_WAIT_OTHER, false}},
};

struct ss_syscall_info ss_arch_syscall(long nr)
{
  for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
    if (rows[i].nr == nr)
      return rows[i].info;
  return (struct ss_syscall_info){NULL, SS_WAIT_OTHER, true};
}
