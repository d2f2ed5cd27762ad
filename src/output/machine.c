/*
 * Facts about the machine, from /proc and /sys, as meta. Nothing here names the
 * host or its user.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "facts_priv.h"
#include "stacksample/meta.h"
#include "stacksample/sys.h"

#define PROC_FILE_MAX (1u << 20)

static bool read_file(const char *path, struct ss_buf *out)
{
  if (ss_file_read_all(AT_FDCWD, path, PROC_FILE_MAX, out, NULL) != SS_ERR_OK)
    return false;
  while (out->len && (out->data[out->len - 1] == '\n' || out->data[out->len - 1] == ' '))
    out->data[--out->len] = '\0';
  return out->len > 0;
}

static void store_file(struct ss_store *store, const char *key, const char *path)
{
  struct ss_buf text = {0};

  if (read_file(path, &text))
    ss_store_meta(store, key, text.data);
  ss_buf_release(&text);
}

/* The value of a "name : value" line. */
static void store_line(struct ss_store *store, const char *key, const char *path,
                       const char *name, const char *stop)
{
  struct ss_buf text = {0};
  const char *line = read_file(path, &text) ? strstr(text.data, name) : NULL;

  if (line) {
    const char *value = line + strlen(name);
    value += strspn(value, " \t:");
    char *copy = strndup(value, strcspn(value, stop));
    if (copy)
      ss_store_meta(store, key, copy);
    free(copy);
  }
  ss_buf_release(&text);
}

static void store_kernel(struct ss_store *store)
{
  struct utsname u;
  struct ss_buf text = {0};

  if (uname(&u) != 0)
    return;
  ss_buf_addf(&text, "%s %s %s", u.sysname, u.release, u.version);
  ss_store_meta(store, SS_META_KERNEL, ss_buf_str(&text));
  ss_store_meta(store, SS_META_MACHINE, u.machine);
  ss_buf_release(&text);
}

static void store_cpus(struct ss_store *store)
{
  long online = sysconf(_SC_NPROCESSORS_ONLN);
  unsigned allowed = ss_cpus_allowed(0);

  if (online > 0)
    ss_store_meta_u64(store, SS_META_CPUS, (uint64_t)online);
  if (allowed > 0)
    ss_store_meta_u64(store, SS_META_CPUS_ALLOWED, allowed);
}

/* "always [madvise] never": the chosen word stands in brackets. */
static void store_thp(struct ss_store *store)
{
  struct ss_buf text = {0};

  if (read_file("/sys/kernel/mm/transparent_hugepage/enabled", &text)) {
    char *word = strchr(text.data, '[');
    char *end = word ? strchr(word, ']') : NULL;
    if (end) {
      *end = '\0';
      ss_store_meta(store, SS_META_THP, word + 1);
    }
  }
  ss_buf_release(&text);
}

static void store_cgroup(struct ss_store *store)
{
  static const struct {
    const char *key, *file;
  } files[] = {{SS_META_CGROUP_CPU_MAX, "cpu.max"},
               {SS_META_CGROUP_MEMORY_MAX, "memory.max"}};
  struct ss_buf text = {0}, path = {0};
  const char *line =
      read_file("/proc/self/cgroup", &text) ? strstr(text.data, "0::") : NULL;

  if (line) {
    char *group = strndup(line + 3, strcspn(line + 3, "\n"));
    for (size_t i = 0; group && i < sizeof files / sizeof files[0]; i++) {
      ss_buf_clear(&path);
      ss_buf_addf(&path, "/sys/fs/cgroup%s/%s", group, files[i].file);
      store_file(store, files[i].key, ss_buf_str(&path));
    }
    if (group)
      ss_store_meta(store, SS_META_CGROUP, group);
    free(group);
  }
  ss_buf_release(&text);
  ss_buf_release(&path);
}

static void add_rlimit(cJSON *to, const char *name, __rlimit_resource_t resource)
{
  struct rlimit r;

  if (getrlimit(resource, &r) != 0)
    return;
  if (r.rlim_cur == RLIM_INFINITY)
    ss_json_item(to, name, NULL);
  else
    ss_json_count(to, name, r.rlim_cur);
}

void ss_machine_facts(struct ss_store *store)
{
  cJSON *rlimits = cJSON_CreateObject();

  store_kernel(store);
  store_cpus(store);
  store_line(store, SS_META_CPU_MODEL, "/proc/cpuinfo", "model name", "\n");
  store_line(store, SS_META_MEMORY_KB, "/proc/meminfo", "MemTotal:", " \n");
  store_file(store, SS_META_PARANOID, "/proc/sys/kernel/perf_event_paranoid");
  store_file(store, SS_META_PTRACE_SCOPE, "/proc/sys/kernel/yama/ptrace_scope");
  store_thp(store);
  store_cgroup(store);
  add_rlimit(rlimits, "nofile", RLIMIT_NOFILE);
  add_rlimit(rlimits, "memlock", RLIMIT_MEMLOCK);
  add_rlimit(rlimits, "cpu", RLIMIT_CPU);
  add_rlimit(rlimits, "core", RLIMIT_CORE);
  ss_meta_json(store, SS_META_RLIMITS, rlimits);
}
