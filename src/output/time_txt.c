/*
 * time.txt: the text of GNU time 1.9's `-v`, label for label and unit for unit,
 * from the rusage of wait4. The fields that Linux never fills are 0 there too.
 */
#include <string.h>
#include <unistd.h>

#include "facts_priv.h"

struct joined {
  struct ss_buf *out;
  bool more;
};

static void join_word(void *arg, const char *word, size_t len)
{
  struct joined *j = arg;
  if (j->more)
    ss_buf_addc(j->out, ' ');
  ss_buf_add(j->out, word, len);
  j->more = true;
}

static void add_command(struct ss_buf *out, const struct ss_facts_config *config)
{
  struct joined joined = {out, false};

  ss_buf_adds(out, "\tCommand being timed: \"");
  if (config->env == SS_ENV_FULL)
    for (char *const *w = config->command; w && *w; w++)
      join_word(&joined, *w, strlen(*w));
  else
    ss_redact_argv(config->command, join_word, &joined);
  ss_buf_adds(out, "\"\n");
}

static void add_elapsed(struct ss_buf *out, uint64_t ms)
{
  unsigned long s = (unsigned long)(ms / 1000);

  ss_buf_adds(out, "\tElapsed (wall clock) time (h:mm:ss or m:ss): ");
  if (s >= 3600)
    ss_buf_addf(out, "%lu:%02lu:%02lu\n", s / 3600, s / 60 % 60, s % 60);
  else
    ss_buf_addf(out, "%lu:%02lu.%02lu\n", s / 60, s % 60,
                (unsigned long)(ms % 1000 / 10));
}

static void add_cpu(struct ss_buf *out, const struct rusage *ru, uint64_t elapsed_ms)
{
  uint64_t cpu_ms = (uint64_t)(ru->ru_utime.tv_sec + ru->ru_stime.tv_sec) * 1000 +
                    (uint64_t)ru->ru_utime.tv_usec / 1000 +
                    (uint64_t)ru->ru_stime.tv_usec / 1000;

  ss_buf_addf(out, "\tUser time (seconds): %ld.%02ld\n", (long)ru->ru_utime.tv_sec,
              (long)ru->ru_utime.tv_usec / 10000);
  ss_buf_addf(out, "\tSystem time (seconds): %ld.%02ld\n", (long)ru->ru_stime.tv_sec,
              (long)ru->ru_stime.tv_usec / 10000);
  ss_buf_addf(out, "\tPercent of CPU this job got: %lu%%\n",
              elapsed_ms ? (unsigned long)(cpu_ms * 100 / elapsed_ms) : 0ul);
}

void ss_time_text(struct ss_buf *out, const struct ss_facts_config *config,
                  const struct ss_exit *exit)
{
  const struct rusage *ru = &exit->ru;
  uint64_t ms =
      exit->end_ns > exit->start_ns ? (exit->end_ns - exit->start_ns) / 1000000 : 0;
  const struct {
    const char *label;
    long value;
  } rows[] = {
      {"Average shared text size (kbytes)", 0},
      {"Average unshared data size (kbytes)", 0},
      {"Average stack size (kbytes)", 0},
      {"Average total size (kbytes)", 0},
      {"Maximum resident set size (kbytes)", ru->ru_maxrss},
      {"Average resident set size (kbytes)", 0},
      {"Major (requiring I/O) page faults", ru->ru_majflt},
      {"Minor (reclaiming a frame) page faults", ru->ru_minflt},
      {"Voluntary context switches", ru->ru_nvcsw},
      {"Involuntary context switches", ru->ru_nivcsw},
      {"Swaps", ru->ru_nswap},
      {"File system inputs", ru->ru_inblock},
      {"File system outputs", ru->ru_oublock},
      {"Socket messages sent", ru->ru_msgsnd},
      {"Socket messages received", ru->ru_msgrcv},
      {"Signals delivered", ru->ru_nsignals},
      {"Page size (bytes)", sysconf(_SC_PAGESIZE)},
      {"Exit status", exit->signal ? 0 : exit->code},
  };

  if (exit->signal)
    ss_buf_addf(out, "Command terminated by signal %d\n", exit->signal);
  else if (exit->code != 0)
    ss_buf_addf(out, "Command exited with non-zero status %d\n", exit->code);
  add_command(out, config);
  add_cpu(out, ru, ms);
  add_elapsed(out, ms);
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
    ss_buf_addf(out, "\t%s: %ld\n", rows[i].label, rows[i].value);
}
