/*
 * doctor's checks of the interpreter: is there one, can its frames be read from
 * outside, what does it have, and how many of libtorch's functions have names.
 *
 * The interpreter is the one that PYTHON names, else python3 of PATH: the same
 * that the user's own command would start. It runs a short script that imports
 * nothing of the current folder, and waits to be looked at.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stacksample/buf.h"
#include "stacksample/cursor.h"
#include "stacksample/elf.h"
#include "stacksample/hash.h"
#include "stacksample/proc.h"
#include "stacksample/python.h"
#include "stacksample/sys.h"

#include "doctor.h"

/* ---- the interpreter ---------------------------------------------------------- */

/* `name` in the absolute folders of PATH. */
static bool find_program(const char *name, char *out, size_t cap)
{
  const char *path = getenv("PATH");
  while (path && *path) {
    size_t len = strcspn(path, ":");
    struct stat st;
    int n = snprintf(out, cap, "%.*s/%s", (int)len, path, name);
    if (len > 0 && path[0] == '/' && n > 0 && (size_t)n < cap && access(out, X_OK) == 0 &&
        stat(out, &st) == 0 && S_ISREG(st.st_mode))
      return true;
    path += len + (path[len] == ':');
  }
  return false;
}

static bool choose_python(char *out, size_t cap)
{
  const char *chosen = getenv("PYTHON");
  if (!chosen || !chosen[0])
    return find_program("python3", out, cap);
  if (!strchr(chosen, '/'))
    return find_program(chosen, out, cap);
  int n = snprintf(out, cap, "%s", chosen);
  return n > 0 && (size_t)n < cap && access(out, X_OK) == 0;
}

/* Four lines: version, torch, pytest, where torch is; then waits for the end
 * of its input. */
static const char script[] = "import sys\n"
                             "sys.path[:] = [p for p in sys.path if p]\n"
                             "print(sys.version.split()[0])\n"
                             "import importlib.util\n"
                             "try:\n"
                             "    from importlib.metadata import version\n"
                             "except ImportError:\n"
                             "    version = None\n"
                             "def has(name):\n"
                             "    if importlib.util.find_spec(name) is None:\n"
                             "        return ''\n"
                             "    try:\n"
                             "        return version(name)\n"
                             "    except Exception:\n"
                             "        return '(version unknown)'\n"
                             "print(has('torch'))\n"
                             "print(has('pytest'))\n"
                             "spec = importlib.util.find_spec('torch')\n"
                             "print(spec.origin or '' if spec else '')\n"
                             "sys.stdout.flush()\n"
                             "sys.stdin.read()\n";

struct interpreter {
  pid_t pid;
  int in, out;
  char text[2 * SS_PATH_MAX]; /* the four lines, each ended by NUL */
  const char *version, *torch, *pytest, *torch_file;
};

static bool start(struct interpreter *p, const char *path)
{
  int in[2], out[2];
  if (pipe2(in, O_CLOEXEC) != 0)
    return false;
  if (pipe2(out, O_CLOEXEC) != 0) {
    ss_close(&in[0]);
    ss_close(&in[1]);
    return false;
  }
  p->pid = fork();
  if (p->pid == 0) {
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    dup2(in[0], STDIN_FILENO);
    dup2(out[1], STDOUT_FILENO);
    dup2(null, STDERR_FILENO);
    execl(path, path, "-c", script, (char *)NULL);
    _exit(127);
  }
  ss_close(&in[0]);
  ss_close(&out[1]);
  p->in = in[1];
  p->out = out[0];
  return p->pid > 0;
}

/* Reads the four lines, at most 20 s: a cold disk may be slow. */
static bool read_facts(struct interpreter *p)
{
  const char **lines[] = {&p->version, &p->torch, &p->pytest, &p->torch_file};
  uint64_t deadline = ss_now_ns() + 20000000000u;
  size_t len = 0, count = 0, begin = 0;
  while (count < 4 && len < sizeof p->text - 1 && ss_now_ns() < deadline) {
    struct pollfd wait = {p->out, POLLIN, 0};
    if (poll(&wait, 1, 100) <= 0)
      continue;
    ssize_t n = ss_read_some(p->out, p->text + len, 1);
    if (n <= 0)
      return false;
    if (p->text[len++] != '\n')
      continue;
    p->text[len - 1] = '\0';
    *lines[count++] = p->text + begin;
    begin = len;
  }
  return count == 4;
}

static void end(struct interpreter *p)
{
  ss_close(&p->in);
  ss_close(&p->out);
  if (p->pid > 0) {
    kill(p->pid, SIGKILL);
    waitpid(p->pid, NULL, 0);
  }
}

/* Python frames of the waiting interpreter's main thread. */
static unsigned read_frames(pid_t pid, bool *shared, struct ss_diag *diag)
{
  struct ss_paths *paths = ss_paths_new();
  struct ss_modules *modules = ss_modules_new();
  struct ss_py_result result = {0};
  struct ss_merged frames[16];
  struct ss_py *py = NULL;
  struct ss_mem_live live;
  struct ss_maps maps;
  ss_mem_live_init(&live, pid);
  ss_maps_init(&maps, paths);
  struct ss_unwind_space space = {
      .pid = pid, .maps = &maps, .modules = modules, .live = &live.mem};
  if (paths && modules && ss_maps_load(&maps, pid, diag) == SS_ERR_OK &&
      ss_py_open(&py, &space, diag) == SS_ERR_OK)
    ss_py_merge(py, pid, &live.mem, &live.mem, NULL, 0, frames, 16, &result);
  for (size_t i = 0; i < maps.count && !*shared; i++)
    *shared = strstr(ss_paths_get(paths, maps.items[i].path), "/libpython") != NULL;
  ss_py_free(py);
  ss_maps_release(&maps);
  ss_mem_live_release(&live);
  ss_modules_free(modules);
  ss_paths_free(paths);
  return result.python;
}

static void note_libtorch(struct ss_doctor *d, const char *torch_file)
{
  const char *slash = strrchr(torch_file, '/');
  if (slash)
    snprintf(d->libtorch, sizeof d->libtorch, "%.*s/lib/libtorch_cpu.so",
             (int)(slash - torch_file), torch_file);
}

static void say_package(struct ss_doctor_row *row, const char *name, const char *version)
{
  size_t len = strlen(row->gives);
  if (version[0])
    snprintf(row->gives + len, sizeof row->gives - len, "%s%s %.40s",
             strchr(row->gives, ';') ? ", " : "; ", name, version);
  else
    snprintf(row->gives + len, sizeof row->gives - len, "%sno %s",
             strchr(row->gives, ';') ? ", " : "; ", name);
}

void ss_doctor_python(struct ss_doctor *d, struct ss_doctor_row *row)
{
  struct interpreter p = {.in = -1, .out = -1};
  struct ss_diag diag = {0};
  char path[SS_PATH_MAX];
  bool shared = false;
  unsigned frames = 0;
  if (!choose_python(path, sizeof path)) {
    row->works = SS_WORKS_NO;
    snprintf(row->gives, sizeof row->gives, "no interpreter found");
    snprintf(row->fix, sizeof row->fix, "PYTHON=/path/to/python stacksample doctor");
    return;
  }
  snprintf(row->what, sizeof row->what, "python %.200s", path);
  bool ran = start(&p, path) && read_facts(&p);
  if (ran)
    frames = read_frames(p.pid, &shared, &diag);
  if (!ran || frames == 0) {
    row->works = SS_WORKS_NO;
    snprintf(row->gives, sizeof row->gives, "%s",
             !ran           ? "it does not run a script"
             : diag.text[0] ? diag.text
                            : "its frames could not be read");
    snprintf(row->fix, sizeof row->fix, "PYTHON=/path/to/python stacksample doctor");
  } else {
    snprintf(row->gives, sizeof row->gives, "%.40s, %s", p.version,
             shared ? "libpython" : "static");
    say_package(row, "torch", p.torch);
    say_package(row, "pytest", p.pytest);
    if (!p.torch[0] || !p.pytest[0]) {
      row->works = SS_WORKS_PART;
      snprintf(row->fix, sizeof row->fix, "PYTHON=/path/to/python stacksample doctor");
    }
    note_libtorch(d, p.torch_file);
  }
  end(&p);
}

/* ---- names of libtorch ----------------------------------------------------------- */

/* Share of functions with a name, of at most SAMPLED ones spread evenly over
 * the sorted table of .eh_frame_hdr (LSB, "DWARF extensions"); -1: no table. */
static int named_percent(struct ss_module *module)
{
  enum { SAMPLED = 4096, TABLE_AT = 12, ENCODINGS = 0x3b031b01, ENTRY = 8 };
  struct ss_section hdr;
  size_t named = 0, tried = 0;
  if (!module || !module->image ||
      !ss_image_section(module->image, ".eh_frame_hdr", &hdr))
    return -1;
  struct ss_cursor c = ss_cursor_init(hdr.bytes, hdr.len);
  uint32_t encodings = ss_read_u32(&c);
  ss_skip(&c, 4); /* where .eh_frame is */
  size_t count = ss_read_u32(&c);
  if (c.failed || encodings != ENCODINGS || count == 0)
    return -1;
  size_t step = count / SAMPLED + 1;
  for (size_t i = 0; i < count; i += step) {
    struct ss_symbol symbol;
    struct ss_cursor entry = ss_cursor_sub(&c, TABLE_AT + i * ENTRY, ENTRY);
    int32_t start = (int32_t)ss_read_u32(&entry);
    if (entry.failed)
      break;
    tried++;
    named += ss_module_symbol(module, hdr.vaddr + (uint64_t)(int64_t)start, &symbol);
  }
  return tried ? (int)(named * 100 / tried) : -1;
}

/* Maps the file as a target would, so that it takes the same way to its names
 * as in a profile, separate debug files included. */
static int percent_of_file(const char *path)
{
  struct ss_paths *paths = ss_paths_new();
  struct ss_modules *modules = ss_modules_new();
  struct ss_maps maps;
  int percent = -1;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  void *page = fd >= 0 ? mmap(NULL, 1, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
  ss_close(&fd);
  ss_maps_init(&maps, paths);
  if (paths && modules && page != MAP_FAILED &&
      ss_maps_load(&maps, getpid(), NULL) == SS_ERR_OK) {
    struct ss_map *map = ss_maps_find(&maps, (uint64_t)(uintptr_t)page);
    if (map)
      percent = named_percent(ss_module_of(modules, getpid(), &maps, map, NULL));
  }
  if (page != MAP_FAILED)
    munmap(page, 1);
  ss_maps_release(&maps);
  ss_modules_free(modules);
  ss_paths_free(paths);
  return percent;
}

void ss_doctor_symbols(struct ss_doctor *d, struct ss_doctor_row *row)
{
  enum { ENOUGH_PERCENT = 90 };
  if (!d->libtorch[0]) {
    row->works = SS_WORKS_SKIP;
    return;
  }
  int percent = percent_of_file(d->libtorch);
  if (percent < 0) {
    row->works = SS_WORKS_NO;
    snprintf(row->gives, sizeof row->gives, "%.200s has no table of functions",
             d->libtorch);
    return;
  }
  snprintf(row->gives, sizeof row->gives, "%d %% of functions named", percent);
  if (percent < ENOUGH_PERCENT) {
    row->works = SS_WORKS_PART;
    snprintf(row->fix, sizeof row->fix, "%s",
             strstr(d->libtorch, "/dist-packages/")
                 ? "install python3-torch-dbgsym, or pip's torch"
                 : "install pip's torch, which is not stripped");
  }
}
