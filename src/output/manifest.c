/*
 * manifest.json: written last, so its presence means that the bundle is
 * complete. Every regular file but itself, with size and SHA-256; what is
 * missing and why; where and by what it was made.
 *
 * Files are listed from the folder, not from memory, so that the checksums are
 * of what a reader will find. Links and temporaries are never listed.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bundle_priv.h"
#include "stacksample/arch.h"
#include "stacksample/limits.h"
#include "stacksample/meta.h"
#include "stacksample/sha256.h"
#include "stacksample/sys.h"
#include "stacksample/text.h"

#define MANIFEST "manifest.json"

/* Every file that a whole bundle of `run` has; the log's name varies. */
static const char *const expected[] = {"commands.txt",       "env.txt",
                                       "torch_env.txt",      "time.txt",
                                       "exit_code.txt",      "summary.md",
                                       "summary.json",       "profiler.json",
                                       "stacks.folded",      "stacks-by-test.folded",
                                       "stacks-wait.folded", "flamegraph.html",
                                       "tests.tsv",          "profile.db"};

struct names {
  char **items;
  size_t count, cap;
};

static void names_release(struct names *n)
{
  for (size_t i = 0; i < n->count; i++)
    free(n->items[i]);
  free(n->items);
}

static int by_name(const void *a, const void *b)
{
  return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Regular files directly in `dirfd`, sorted. */
static enum ss_err list_files(int dirfd, struct names *out, struct ss_diag *diag)
{
  int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
  struct dirent *entry;
  enum ss_err err = SS_ERR_OK;

  if (!dir) {
    ss_close(&fd);
    return ss_fail_errno(diag, "cannot list the bundle");
  }
  while (err == SS_ERR_OK && (entry = readdir(dir))) {
    struct stat st;
    if (ss_starts_with(entry->d_name, ".tmp-") || strcmp(entry->d_name, MANIFEST) == 0 ||
        fstatat(dirfd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 ||
        !S_ISREG(st.st_mode))
      continue;
    char *name = strdup(entry->d_name);
    if (name && ss_grow(&out->items, &out->cap, out->count + 1, sizeof *out->items)) {
      out->items[out->count++] = name;
    } else {
      free(name);
      err = ss_fail(diag, SS_ERR_NOMEM, "cannot list the bundle");
    }
  }
  closedir(dir);
  if (out->count)
    qsort(out->items, out->count, sizeof *out->items, by_name);
  return err;
}

static enum ss_err hash_bytes(int fd, const char *name, char hex[65],
                              struct ss_diag *diag)
{
  unsigned char chunk[32768];
  struct ss_sha256 sha;
  ssize_t n;

  ss_sha256_init(&sha);
  if (ss_arch_sha256())
    sha.take = ss_arch_sha256();
  while ((n = ss_read_some(fd, chunk, sizeof chunk)) > 0)
    ss_sha256_update(&sha, chunk, (size_t)n);
  if (n < 0)
    return ss_fail_errno(diag, "cannot read %s", name);
  ss_sha256_hex(&sha, hex);
  return SS_ERR_OK;
}

static const struct ss_hashed *hashed_before(const struct ss_bundle *b,
                                             const struct stat *st)
{
  for (size_t i = 0; i < b->n_hashed; i++) {
    const struct ss_hashed *h = &b->hashed[i];
    if (h->ino == st->st_ino && h->size == st->st_size &&
        h->modified.tv_sec == st->st_mtim.tv_sec &&
        h->modified.tv_nsec == st->st_mtim.tv_nsec)
      return h;
  }
  return NULL;
}

static enum ss_err hash_file(struct ss_bundle *b, const struct ss_dir *dir,
                             const char *name, struct ss_hashed *out,
                             struct ss_diag *diag)
{
  const struct ss_hashed *before;
  struct ss_diag local = {0};
  enum ss_err err = SS_ERR_OK;
  struct stat st;
  int fd = ss_file_open_read(dir, name, &local);

  if (fd < 0) {
    if (diag)
      *diag = local;
    return local.err;
  }
  if (fstat(fd, &st) != 0) {
    err = ss_fail_errno(diag, "cannot read %s", name);
  } else if ((before = hashed_before(b, &st)) != NULL) {
    *out = *before;
  } else {
    *out =
        (struct ss_hashed){.ino = st.st_ino, .size = st.st_size, .modified = st.st_mtim};
    err = hash_bytes(fd, name, out->hex, diag);
    if (err == SS_ERR_OK &&
        ss_grow(&b->hashed, &b->cap_hashed, b->n_hashed + 1, sizeof *b->hashed))
      b->hashed[b->n_hashed++] = *out;
  }
  ss_close(&fd);
  return err;
}

static enum ss_err add_files(struct ss_bundle *b, cJSON *files, const struct ss_dir *dir,
                             const char *prefix, struct ss_diag *diag)
{
  struct names names = {0};
  enum ss_err err = list_files(dir->fd, &names, diag);

  for (size_t i = 0; i < names.count && err == SS_ERR_OK; i++) {
    struct ss_hashed hashed = {0};
    struct ss_buf shown = {0};
    err = hash_file(b, dir, names.items[i], &hashed, diag);
    if (err == SS_ERR_OK) {
      cJSON *file = cJSON_CreateObject();
      ss_buf_addf(&shown, "%s%s", prefix, names.items[i]);
      ss_json_str(file, "name", ss_buf_str(&shown));
      ss_json_count(file, "size", (uint64_t)hashed.size);
      ss_json_str(file, "sha256", hashed.hex);
      ss_json_item(files, NULL, file);
    }
    ss_buf_release(&shown);
  }
  names_release(&names);
  return err;
}

static enum ss_err list_bundle(struct ss_bundle *b, cJSON *files, struct ss_diag *diag)
{
  enum ss_err err = add_files(b, files, &b->dir, "", diag);
  struct ss_dir dumps = {
      .fd = openat(b->dir.fd, "dumps", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)};

  if (dumps.fd >= 0) {
    err = ss_first_error(err, add_files(b, files, &dumps, "dumps/", diag));
    ss_close(&dumps.fd);
  }
  return err;
}

static bool present(const struct ss_bundle *b, const char *name)
{
  struct stat st;
  return fstatat(b->dir.fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode);
}

static void add_absent(cJSON *to, const struct ss_bundle *b)
{
  for (size_t i = 0; i < b->n_absent; i++) {
    if (present(b, b->absent[i].name))
      continue;
    cJSON *item = cJSON_CreateObject();
    ss_json_str(item, "name", b->absent[i].name);
    ss_json_str(item, "why", b->absent[i].why);
    ss_json_item(to, NULL, item);
  }
}

/* What should be there, is not, and nobody said why. */
static void note_missing(struct ss_bundle *b)
{
  for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
    bool known = present(b, expected[i]);
    for (size_t k = 0; k < b->n_absent && !known; k++)
      known = strcmp(b->absent[k].name, expected[i]) == 0;
    if (!known)
      ss_bundle_absent(b, expected[i], "not written");
  }
}

static const struct {
  const char *key, *meta;
  bool number;
} plain_facts[] = {
    {"kernel", SS_META_KERNEL, false},
    {"cpu_model", SS_META_CPU_MODEL, false},
    {"cpus", SS_META_CPUS, true},
    {"cpus_allowed", SS_META_CPUS_ALLOWED, true},
    {"memory_kb", SS_META_MEMORY_KB, true},
    {"perf_event_paranoid", SS_META_PARANOID, true},
    {"transparent_hugepages", SS_META_THP, false},
};

static void add_machine(cJSON *to, struct ss_profile *p)
{
  static const struct {
    const char *key, *meta;
  } cgroup_facts[] = {{"path", SS_META_CGROUP},
                      {"cpu_max", SS_META_CGROUP_CPU_MAX},
                      {"memory_max", SS_META_CGROUP_MEMORY_MAX}};
  const char *value = ss_profile_meta(p, SS_META_MACHINE);

  if (value)
    ss_json_str(to, "machine", value);
  for (size_t i = 0; i < sizeof plain_facts / sizeof plain_facts[0]; i++) {
    if (!(value = ss_profile_meta(p, plain_facts[i].meta)))
      continue;
    if (plain_facts[i].number)
      ss_json_number(to, plain_facts[i].key,
                     ss_profile_meta_f64(p, plain_facts[i].meta, 0), 0);
    else
      ss_json_str(to, plain_facts[i].key, value);
  }
  cJSON *cgroup = cJSON_CreateObject();
  for (size_t i = 0; i < sizeof cgroup_facts / sizeof cgroup_facts[0]; i++)
    if ((value = ss_profile_meta(p, cgroup_facts[i].meta)))
      ss_json_str(cgroup, cgroup_facts[i].key, value);
  ss_json_item(to, "cgroup", cgroup);
  cJSON *limits = ss_json_meta(p, SS_META_LIMITS);
  ss_json_item(to, "limits", limits ? limits : cJSON_CreateArray());
}

static void add_profile(cJSON *to, struct ss_profile *p)
{
  const char *value;
  cJSON *engine = cJSON_CreateObject(), *counts = cJSON_CreateObject();
  uint64_t samples = 0, truncated = 0;

  add_machine(to, p);
  if ((value = ss_profile_meta(p, SS_META_ENGINE)))
    ss_json_str(engine, "name", value);
  if ((value = ss_profile_meta(p, SS_META_ENGINE_REASON)))
    ss_json_str(engine, "reason", value);
  if ((value = ss_profile_meta(p, SS_META_KERNEL_METHOD)))
    ss_json_str(engine, "kernel_method", value);
  ss_json_item(to, "engine", engine);
  for (size_t i = 0; i < p->n_totals; i++) {
    samples += p->totals[i].samples;
    truncated += p->totals[i].end == SS_END_TRUNCATED ? p->totals[i].samples : 0;
  }
  ss_json_count(counts, "samples", samples);
  if (ss_profile_meta(p, SS_META_LOST))
    ss_json_count(counts, "lost", ss_profile_meta_u64(p, SS_META_LOST, 0));
  if (ss_profile_meta(p, SS_META_REJECTED))
    ss_json_count(counts, "rejected", ss_profile_meta_u64(p, SS_META_REJECTED, 0));
  ss_json_count(counts, "truncated", truncated);
  ss_json_item(to, "counts", counts);
  if ((value = ss_profile_meta(p, SS_META_BLOCKED)))
    ss_json_str(to, "blocked", value);
}

static void add_versions(cJSON *to)
{
  cJSON *versions = cJSON_CreateObject();

  ss_json_str(versions, "stacksample", SS_VERSION);
  ss_json_str(versions, "sqlite", sqlite3_libversion());
  ss_json_str(versions, "cjson", cJSON_Version());
  ss_json_count(versions, "profile_schema", SS_SCHEMA_VERSION);
  ss_json_item(to, "versions", versions);
}

enum ss_err ss_bundle_manifest(struct ss_bundle *b, struct ss_profile *p,
                               struct ss_diag *diag)
{
  cJSON *root = cJSON_CreateObject(), *files = cJSON_CreateArray();
  cJSON *absent = cJSON_CreateArray();
  struct ss_buf text = {0};
  enum ss_err err;

  ss_json_count(root, "schema", 1);
  add_versions(root);
  if (p)
    add_profile(root, p);
  err = list_bundle(b, files, diag);
  note_missing(b);
  add_absent(absent, b);
  ss_json_item(root, "files", files);
  ss_json_item(root, "absent", absent);
  ss_json_print(&text, root, true);
  ss_buf_addc(&text, '\n');
  if (err == SS_ERR_OK)
    err = ss_bundle_put(b, MANIFEST, &text, diag);
  ss_buf_release(&text);
  return err;
}
