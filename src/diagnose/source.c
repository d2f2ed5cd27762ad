/*
 * The source line of a Python frame, read as the process itself would find the
 * file: below its root, which may be a container's. Regular files only, and never
 * through a link that leads out of that root.
 */
#include <fcntl.h>
#include <string.h>

#include "stacksample/escape.h"
#include "stacksample/fsafe.h"
#include "stacksample/proc.h"
#include "stacksample/sys.h"

#include "look_priv.h"

#define SOURCE_BYTES_MAX (4u << 20) /* of a file whose line is shown */
#define LINE_BYTES_MAX 80           /* of a line that are shown */

static bool read_in_root(pid_t pid, const char *file, struct ss_buf *text)
{
  char link[64];
  int root, fd;
  bool ok = false;

  snprintf(link, sizeof(link), "/proc/%d/root", (int)pid);
  root = open(link, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (root < 0)
    return false;
  fd = ss_open_beneath(root, file);
  if (fd >= 0) {
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ok = ss_file_read_all(AT_FDCWD, link, SOURCE_BYTES_MAX, text, NULL) == SS_ERR_OK;
  }
  ss_close(&fd);
  ss_close(&root);
  return ok;
}

void ss_look_source(struct ss_buf *out, pid_t pid, const char *file, int line)
{
  struct ss_buf text = {0};
  const char *at = NULL;
  size_t len;

  if (line > 0 && file && file[0] == '/' && read_in_root(pid, file, &text))
    at = ss_buf_str(&text);
  for (int i = 1; i < line && at; i++) {
    at = strchr(at, '\n');
    at = at ? at + 1 : NULL;
  }
  if (at) {
    at += strspn(at, " \t");
    len = strcspn(at, "\r\n");
    ss_escape_terminal(out, at, len > LINE_BYTES_MAX ? LINE_BYTES_MAX : len);
  }
  ss_buf_release(&text);
}
