/*
 * Which threads a process has, and which processes descend from one.
 *
 * Both change while they are read: a listing is repeated until two in a row
 * agree, at most LIST_PASSES times. What it yields may be gone a moment later.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stacksample/buf.h"
#include "stacksample/hash.h"
#include "stacksample/limits.h"
#include "stacksample/proc.h"

enum { LIST_PASSES = 10 };

struct pids {
  pid_t *items; /* owned */
  size_t count, cap;
};

static bool pids_add(struct pids *list, pid_t pid)
{
  if (!ss_grow(&list->items, &list->cap, list->count + 1, sizeof *list->items))
    return false;
  list->items[list->count++] = pid;
  return true;
}

static int compare_pids(const void *a, const void *b)
{
  pid_t x = *(const pid_t *)a, y = *(const pid_t *)b;
  return (x > y) - (x < y);
}

static pid_t parse_pid(const char *name)
{
  long value = 0;
  for (const char *p = name; *p; p++) {
    if (*p < '0' || *p > '9' || value > INT32_MAX / 10)
      return 0;
    value = value * 10 + (*p - '0');
  }
  return value <= INT32_MAX ? (pid_t)value : 0;
}

/* The numeric names of a folder in order. */
static enum ss_err list_folder(const char *path, size_t max, struct pids *list)
{
  DIR *dir = opendir(path);
  struct dirent *entry;
  enum ss_err err = SS_ERR_OK;
  list->count = 0;
  if (!dir)
    return ss_fail_errno(NULL, "%s", path);
  while (err == SS_ERR_OK && (entry = readdir(dir)) != NULL) {
    pid_t pid = parse_pid(entry->d_name);
    if (pid <= 0)
      continue;
    if (list->count == max)
      err = SS_ERR_LIMIT;
    else if (!pids_add(list, pid))
      err = SS_ERR_NOMEM;
  }
  closedir(dir);
  if (list->count > 0)
    qsort(list->items, list->count, sizeof *list->items, compare_pids);
  return err;
}

/* ---- children ---------------------------------------------------------------- */

/* (parent, pid) of every process that runs. */
struct kin {
  pid_t ppid, pid;
};

static int compare_kin(const void *a, const void *b)
{
  const struct kin *x = a, *y = b;
  int by_parent = (x->ppid > y->ppid) - (x->ppid < y->ppid);
  return by_parent ? by_parent : (x->pid > y->pid) - (x->pid < y->pid);
}

static size_t first_child(const struct kin *kin, size_t count, pid_t ppid)
{
  size_t lo = 0, hi = count;
  while (lo < hi) {
    size_t mid = lo + (hi - lo) / 2;
    if (kin[mid].ppid >= ppid)
      hi = mid;
    else
      lo = mid + 1;
  }
  return lo;
}

/* Breadth first from the root: `out` is its own queue. A pid that was reused
 * between two reads cannot make a cycle of it, as each pid is added once. */
static enum ss_err descend(const struct kin *kin, size_t count, struct pids *out)
{
  struct ss_idmap seen = {0};
  enum ss_err err = SS_ERR_OK;
  for (size_t i = 0; i < out->count && err == SS_ERR_OK; i++) {
    pid_t parent = out->items[i];
    if (!ss_idmap_put(&seen, (uint64_t)parent, 1))
      err = SS_ERR_NOMEM;
    for (size_t k = first_child(kin, count, parent);
         err == SS_ERR_OK && k < count && kin[k].ppid == parent; k++) {
      if (ss_idmap_get(&seen, (uint64_t)kin[k].pid))
        continue;
      if (!ss_idmap_put(&seen, (uint64_t)kin[k].pid, 1) || !pids_add(out, kin[k].pid))
        err = SS_ERR_NOMEM;
    }
  }
  ss_idmap_release(&seen);
  return err;
}

/* The running root and its descendants, from every process' parent. */
static enum ss_err list_tree(pid_t root, struct pids *out)
{
  struct pids all = {0};
  struct kin *kin = NULL;
  size_t count = 0;
  out->count = 0;
  enum ss_err err = list_folder("/proc", 1u << 22, &all); /* the kernel's pid limit */
  if (err == SS_ERR_OK && all.count > 0 && !(kin = calloc(all.count, sizeof *kin)))
    err = SS_ERR_NOMEM;
  for (size_t i = 0; err == SS_ERR_OK && i < all.count; i++) {
    struct ss_stat st;
    if (!ss_stat_read(&st, all.items[i], 0) || ss_stat_ended(&st))
      continue;
    kin[count++] = (struct kin){st.ppid, st.pid};
    if (st.pid == root && !pids_add(out, root))
      err = SS_ERR_NOMEM;
  }
  if (err == SS_ERR_OK && count > 0) {
    qsort(kin, count, sizeof *kin, compare_kin);
    err = descend(kin, count, out);
  }
  if (err == SS_ERR_OK && out->count > SS_PROCS_MAX)
    err = SS_ERR_LIMIT;
  free(kin);
  free(all.items);
  return err;
}

static enum ss_err list_threads(pid_t pid, struct pids *out)
{
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
  return list_folder(path, SS_THREADS_MAX, out);
}

/* ---- until stable ------------------------------------------------------------ */

static bool same_pids(const struct pids *a, const struct pids *b)
{
  return a->count == b->count &&
         (a->count == 0 || memcmp(a->items, b->items, a->count * sizeof *a->items) == 0);
}

static enum ss_err list_stable(enum ss_err (*list)(pid_t, struct pids *), pid_t pid,
                               pid_t **pids, size_t *count)
{
  struct pids now = {0}, before = {0};
  enum ss_err err = list(pid, &now);
  for (int pass = 1; err == SS_ERR_OK && pass < LIST_PASSES; pass++) {
    struct pids swap = before;
    before = now;
    now = swap;
    err = list(pid, &now);
    if (err == SS_ERR_OK && same_pids(&now, &before))
      break;
  }
  if (err == SS_ERR_OK && now.count == 0)
    err = SS_ERR_GONE;
  free(before.items);
  if (err != SS_ERR_OK) {
    free(now.items);
    now = (struct pids){0};
  }
  *pids = now.items;
  *count = now.count;
  return err;
}

enum ss_err ss_tasks_list(pid_t pid, pid_t **tids, size_t *count)
{
  return list_stable(list_threads, pid, tids, count);
}

enum ss_err ss_tree_list(pid_t root, pid_t **pids, size_t *count)
{
  return list_stable(list_tree, root, pids, count);
}

/* ---- newcomers ---------------------------------------------------------------- */

enum ss_err ss_newcomers_list(struct ss_newcomers *n, pid_t **pids, size_t *count)
{
  struct pids now = {0}, fresh = {0};
  enum ss_err err = list_folder("/proc", 1u << 22, &now);
  size_t b = 0;
  for (size_t i = 0; err == SS_ERR_OK && i < now.count; i++) {
    while (b < n->n_before && n->before[b] < now.items[i])
      b++;
    bool known = b < n->n_before && n->before[b] == now.items[i];
    if (!known && !pids_add(&fresh, now.items[i]))
      err = SS_ERR_NOMEM;
  }
  if (err == SS_ERR_OK) {
    free(n->before);
    n->before = now.items;
    n->n_before = now.count;
  } else {
    free(now.items);
    free(fresh.items);
    fresh = (struct pids){0};
  }
  *pids = fresh.items;
  *count = fresh.count;
  return err;
}

void ss_newcomers_release(struct ss_newcomers *n)
{
  free(n->before);
  *n = (struct ss_newcomers){0};
}
