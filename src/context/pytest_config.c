/*
 * Which file configures pytest, by its own rules (_pytest/config/findpaths.py): that of
 * -c; else the first with its section in the folder that all arguments have in common,
 * or above it; else, where no setup.py marks a root, in an argument's own folder or above
 * it. Folders are compared as they are written: no link is followed.
 */
#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "context_limits.h"
#include "stacksample/fsafe.h"
#include "stacksample/limits.h"
#include "stacksample/text.h"

#define INI_MAX (1u << 20)

/* ---- the text of a file ----------------------------------------------------------- */

static const char *line_end(const char *s, const char *end)
{
  const char *nl = memchr(s, '\n', (size_t)(end - s));
  return nl ? nl : end;
}

static const char *next_line(const char *s, const char *end)
{
  const char *eol = line_end(s, end);
  return eol < end ? eol + 1 : end;
}

static bool is_section(const char *line, const char *end, const char *section)
{
  size_t n = strlen(section);
  while (end > line && isspace((unsigned char)end[-1]))
    end--;
  return (size_t)(end - line) == n + 2 && line[0] == '[' &&
         memcmp(line + 1, section, n) == 0 && line[n + 1] == ']';
}

/* Where the value of `key` starts in this line, or NULL. */
static const char *key_value(const char *line, const char *end, const char *key)
{
  size_t n = strlen(key);
  if ((size_t)(end - line) <= n || memcmp(line, key, n) != 0)
    return NULL;
  const char *p = line + n;
  while (p < end && (*p == ' ' || *p == '\t'))
    p++;
  return p < end && (*p == '=' || *p == ':') ? p + 1 : NULL;
}

/* Does the value go on in the line `next`: indented, or an open TOML list? */
static bool goes_on(const struct ss_buf *value, const char *next, const char *end)
{
  const char *text = ss_buf_str(value);
  text += strspn(text, " \t\r\n");
  if (*text == '[')
    return !strchr(text, ']');
  return next < end && (*next == ' ' || *next == '\t');
}

bool ss_ini_value(const char *text, size_t len, const char *section, const char *key,
                  struct ss_buf *out)
{
  const char *end = text + len;
  bool inside = false;

  for (const char *line = text; line < end;) {
    const char *eol = line_end(line, end);
    const char *value = inside ? key_value(line, eol, key) : NULL;
    if (*line == '[')
      inside = is_section(line, eol, section);
    line = next_line(line, end);
    if (!value)
      continue;
    ss_buf_add(out, value, (size_t)(eol - value));
    while (line < end && goes_on(out, line, end)) {
      ss_buf_addc(out, '\n');
      ss_buf_add(out, line, (size_t)(line_end(line, end) - line));
      line = next_line(line, end);
    }
    return true;
  }
  return false;
}

static bool has_section(const struct ss_buf *text, const char *section)
{
  const char *s = ss_buf_str(text), *end = s + text->len;
  for (; s < end; s = next_line(s, end))
    if (is_section(s, line_end(s, end), section))
      return true;
  return false;
}

/* ---- files ------------------------------------------------------------------------- */

/* In pytest's order. `own`: it is pytest's whatever stands in it. */
static const struct ini_file {
  const char *file, *section;
  bool toml, own;
} ini_files[] = {
    {"pytest.toml", "pytest", true, true},
    {".pytest.toml", "pytest", true, true},
    {"pytest.ini", "pytest", false, true},
    {".pytest.ini", "pytest", false, true},
    {"pyproject.toml", "tool.pytest", true, false},
    {"pyproject.toml", "tool.pytest.ini_options", true, false},
    {"tox.ini", "pytest", false, false},
    {"setup.cfg", "tool:pytest", false, false},
};
enum { INI_FILES = sizeof ini_files / sizeof ini_files[0] };

static bool take(struct ss_pytest_config *config, const char *path,
                 const struct ini_file *as, bool own)
{
  if (ss_file_read_all(AT_FDCWD, path, INI_MAX, &config->text, NULL) != SS_ERR_OK ||
      (!own && !has_section(&config->text, as->section)))
    return false;
  config->section = as->section;
  config->toml = as->toml;
  snprintf(config->file, sizeof config->file, "%s", ss_base_name(path));
  return true;
}

/* The file of -c, by what its name ends with. */
static bool take_named(struct ss_pytest_config *config, const char *path)
{
  for (size_t i = 0; i < INI_FILES; i++)
    if (ss_ends_with(path, strrchr(ini_files[i].file, '.')) &&
        take(config, path, &ini_files[i], false))
      return true;
  return false;
}

/* ---- folders ---------------------------------------------------------------------- */

/* An absolute folder without a "/" at its end: "" is the root. */
static void cut_last(struct ss_buf *folder)
{
  const char *slash = folder->len > 0 ? strrchr(folder->data, '/') : NULL;

  folder->len = slash ? (size_t)(slash - folder->data) : 0;
  if (folder->data)
    folder->data[folder->len] = '\0';
}

static void set_folder(struct ss_buf *folder, const char *cwd, const char *path)
{
  const char *parts[] = {path[0] == '/' ? "" : cwd, path};

  ss_buf_clear(folder);
  for (size_t i = 0; i < 2; i++) {
    for (const char *at = parts[i]; *at; at += strspn(at, "/")) {
      const size_t n = strcspn(at, "/");
      if (n == 2 && memcmp(at, "..", 2) == 0)
        cut_last(folder);
      else if (n > 0 && !(n == 1 && at[0] == '.'))
        ss_buf_addf(folder, "/%.*s", (int)n, at);
      at += n;
    }
  }
}

/* The folder of an argument such as tests/test_a.py::test_b; false: there is none. */
static bool folder_of(struct ss_buf *folder, const char *cwd, const char *argument)
{
  const char *names = strstr(argument, "::");
  struct ss_buf path = {0};
  struct stat st;

  ss_buf_add(&path, argument, names ? (size_t)(names - argument) : strlen(argument));
  set_folder(folder, cwd, ss_buf_str(&path));
  ss_buf_release(&path);
  if (stat(folder->len > 0 ? folder->data : "/", &st) != 0)
    return false;
  if (!S_ISDIR(st.st_mode))
    cut_last(folder);
  return true;
}

static bool is_in(const char *path, const struct ss_buf *folder)
{
  return strncmp(path, ss_buf_str(folder), folder->len) == 0 &&
         (path[folder->len] == '/' || path[folder->len] == '\0');
}

/* Does `look` find something in the folder or above it? `folder` is used up. */
static bool upwards(struct ss_buf *folder, struct ss_pytest_config *config,
                    bool look(const struct ss_buf *folder,
                              struct ss_pytest_config *config))
{
  for (;; cut_last(folder)) {
    if (look(folder, config))
      return true;
    if (folder->len == 0)
      return false;
  }
}

static bool look_for_ini(const struct ss_buf *folder, struct ss_pytest_config *config)
{
  struct ss_buf path = {0};
  bool found = false;

  for (size_t i = 0; i < INI_FILES && !found; i++) {
    ss_buf_clear(&path);
    ss_buf_addf(&path, "%s/%s", ss_buf_str(folder), ini_files[i].file);
    found = take(config, ss_buf_str(&path), &ini_files[i], ini_files[i].own);
  }
  ss_buf_release(&path);
  return found;
}

static bool look_for_setup(const struct ss_buf *folder, struct ss_pytest_config *config)
{
  struct ss_buf path = {0};

  (void)config;
  ss_buf_addf(&path, "%s/setup.py", ss_buf_str(folder));
  const bool found = access(ss_buf_str(&path), F_OK) == 0;
  ss_buf_release(&path);
  return found;
}

/* What all folders of arguments are in; the working folder where there are none. */
static void common_folder(struct ss_buf *common, const char *cwd,
                          const struct ss_buf *arguments)
{
  struct ss_buf folder = {0};
  bool any = false;

  for (size_t at = 0; at < arguments->len; at += strlen(arguments->data + at) + 1) {
    if (!folder_of(&folder, cwd, arguments->data + at))
      continue;
    if (!any)
      set_folder(common, "", ss_buf_str(&folder));
    any = true;
    while (!is_in(ss_buf_str(&folder), common))
      cut_last(common);
  }
  if (!any)
    set_folder(common, "", cwd);
  ss_buf_release(&folder);
}

static bool search_each(struct ss_pytest_config *config, const char *cwd,
                        const struct ss_buf *arguments)
{
  struct ss_buf folder = {0};
  bool found = false;

  for (size_t at = 0; at < arguments->len && !found;
       at += strlen(arguments->data + at) + 1)
    found = folder_of(&folder, cwd, arguments->data + at) &&
            upwards(&folder, config, look_for_ini);
  ss_buf_release(&folder);
  return found;
}

static void search(struct ss_pytest_config *config, const char *cwd,
                   const struct ss_buf *arguments)
{
  struct ss_buf folder = {0};
  bool found;

  common_folder(&folder, cwd, arguments);
  found = upwards(&folder, config, look_for_ini);
  if (!found) {
    common_folder(&folder, cwd, arguments);
    if (!upwards(&folder, config, look_for_setup))
      (void)search_each(config, cwd, arguments);
  }
  ss_buf_release(&folder);
}

void ss_pytest_config_find(struct ss_pytest_config *config, int cwd_fd, const char *file,
                           const struct ss_buf *arguments)
{
  char link[64], cwd[SS_PATH_MAX];
  struct ss_buf path = {0};

  snprintf(link, sizeof link, "/proc/self/fd/%d", cwd_fd);
  const ssize_t len = cwd_fd >= 0 ? readlink(link, cwd, sizeof cwd - 1) : -1;
  if (len <= 0)
    return;
  cwd[len] = '\0';
  if (file) {
    set_folder(&path, cwd, file);
    (void)take_named(config, ss_buf_str(&path));
  } else {
    search(config, cwd, arguments);
  }
  ss_buf_release(&path);
}

void ss_pytest_config_release(struct ss_pytest_config *config)
{
  ss_buf_release(&config->text);
}
