/*
 * The commit of a working folder, from git's own files: .git (a folder, or a
 * file that names one), HEAD, loose refs, packed-refs, and a worktree's common
 * folder. git is never run, so no hook, filter or configuration of the
 * repository can act. What is not understood is "unknown", not guessed.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "facts_priv.h"
#include "stacksample/sys.h"
#include "stacksample/text.h"

#define LEVELS_MAX 64   /* folders upwards */
#define REF_DEPTH_MAX 5 /* symbolic refs, as git */
#define SMALL_FILE 4096
#define PACKED_REFS_MAX (64u << 20)

static bool is_hash(const char *s, size_t len)
{
  return (len == 40 || len == 64) && strspn(s, "0123456789abcdef") >= len;
}

/* A name that stays below the git folder. */
static bool safe_ref(const char *ref)
{
  return ss_starts_with(ref, "refs/") && !strstr(ref, "..") && !strchr(ref, '\\');
}

static bool read_line(int dir, const char *name, struct ss_buf *out)
{
  if (ss_file_read_all(dir, name, SMALL_FILE, out, NULL) != SS_ERR_OK)
    return false;
  if (out->len) {
    out->len = strcspn(out->data, "\r\n");
    out->data[out->len] = '\0';
  }
  return out->len > 0;
}

static int open_dir(int at, const char *path)
{
  return openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* The git folder of the folder `dir`, or -1. */
static int git_folder(int dir)
{
  struct ss_buf line = {0};
  int fd = open_dir(dir, ".git");

  if (fd < 0 && read_line(dir, ".git", &line) && ss_starts_with(line.data, "gitdir: "))
    fd = open_dir(dir, line.data + 8);
  ss_buf_release(&line);
  return fd;
}

static int find_git(int cwd)
{
  int dir = fcntl(cwd, F_DUPFD_CLOEXEC, 3);
  int git = -1;
  struct stat here, above;

  for (int i = 0; i < LEVELS_MAX && dir >= 0 && git < 0; i++) {
    git = git_folder(dir);
    int up = open_dir(dir, "..");
    bool root = up < 0 || fstat(dir, &here) != 0 || fstat(up, &above) != 0 ||
                (here.st_ino == above.st_ino && here.st_dev == above.st_dev);
    ss_close(&dir);
    dir = up;
    if (root)
      break;
  }
  ss_close(&dir);
  return git;
}

/* A line "HASH REF" of packed-refs. */
static bool packed_ref(int git, const char *ref, struct ss_buf *commit)
{
  struct ss_buf text = {0};
  size_t n = strlen(ref);
  bool found = false;

  if (ss_file_read_all(git, "packed-refs", PACKED_REFS_MAX, &text, NULL) != SS_ERR_OK)
    return false;
  for (const char *s = ss_buf_str(&text); *s && !found;) {
    size_t len = strcspn(s, "\n");
    size_t hash = len > n + 1 ? len - n - 1 : 0;
    if (hash && s[hash] == ' ' && memcmp(s + hash + 1, ref, n) == 0 && is_hash(s, hash)) {
      ss_buf_add(commit, s, hash);
      found = true;
    }
    s += len + (s[len] == '\n');
  }
  ss_buf_release(&text);
  return found;
}

static bool resolve_ref(int git, int common, const char *ref, struct ss_buf *commit)
{
  struct ss_buf line = {0}, name = {0};
  bool found = false;

  ss_buf_adds(&name, ref);
  for (int i = 0; i < REF_DEPTH_MAX && !found; i++) {
    if (!safe_ref(ss_buf_str(&name)))
      break;
    if (!read_line(git, name.data, &line) &&
        (common < 0 || !read_line(common, name.data, &line))) {
      found = packed_ref(common >= 0 ? common : git, name.data, commit);
      break;
    }
    if (is_hash(line.data, line.len)) {
      ss_buf_add(commit, line.data, line.len);
      found = true;
    } else if (ss_starts_with(line.data, "ref: ")) {
      ss_buf_clear(&name);
      ss_buf_adds(&name, line.data + 5);
    } else {
      break;
    }
  }
  ss_buf_release(&line);
  ss_buf_release(&name);
  return found;
}

bool ss_git_commit(int cwd, struct ss_buf *commit, struct ss_buf *branch)
{
  struct ss_buf head = {0}, line = {0};
  int git = find_git(cwd), common = -1;
  bool found = false;

  if (git < 0)
    return false;
  if (read_line(git, "commondir", &line))
    common = open_dir(git, line.data);
  if (read_line(git, "HEAD", &head)) {
    if (is_hash(head.data, head.len)) {
      ss_buf_add(commit, head.data, head.len);
      found = true;
    } else if (ss_starts_with(head.data, "ref: ")) {
      found = resolve_ref(git, common, head.data + 5, commit);
      if (found && ss_starts_with(head.data + 5, "refs/heads/"))
        ss_buf_adds(branch, head.data + 16);
    }
  }
  ss_close(&git);
  ss_close(&common);
  ss_buf_release(&head);
  ss_buf_release(&line);
  return found;
}
