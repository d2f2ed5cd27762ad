/*
 * stacksample dump: every thread of a tree, now, on stdout. The target runs on.
 */
#include <errno.h>

#include "stacksample/look.h"
#include "stacksample/proc.h"
#include "stacksample/sys.h"
#include "stacksample/text.h"

#include "cli_priv.h"

/* Without --quick: this many looks, spread over 2 s, so that "nothing moved"
 * can be told from "busy". */
#define LOOKS 3
#define LOOK_GAP_NS UINT64_C(1000000000)

struct dump_options {
  bool json, quick, full, no_children, no_python, no_native, never_stop;
  uint64_t repeat, interval_ns;
  pid_t pid;
};

static int parse(struct dump_options *o, int argc, char **argv, const char **pid)
{
  const struct ss_option options[] = {
      SS_FLAG("json", 'j', &o->json, "as JSON, one object a dump"),
      SS_FLAG("quick", 0, &o->quick, "one look instead of three over 2 s"),
      SS_FLAG("full", 0, &o->full, "pytest's own frames, too"),
      SS_NUMBER("repeat", 'n', &o->repeat, "N", "take N dumps (1)", 1, 1000000),
      SS_VALUE(DURATION, "interval", 'i', &o->interval_ns, "DUR", "between them (1s)"),
      SS_FLAG("no-children", 0, &o->no_children, "only this process"),
      SS_FLAG("no-python", 0, &o->no_python, "leave Python frames out"),
      SS_FLAG("no-native", 0, &o->no_native, "leave native frames out"),
      SS_FLAG("never-stop", 0, &o->never_stop,
              "no stacks of running threads: nothing is stopped"),
      SS_OPTIONS_END,
  };
  const struct ss_usage usage = {
      .command = "dump",
      .synopsis = "dump [OPTIONS] PID",
      .about =
          "Prints every thread of PID and its children: state, for how long, system "
          "call,\n"
          "Python and native frames in one order. Blocked threads are not stopped; a\n"
          "running one is for about a millisecond.",
      .examples =
          "  stacksample dump $(pgrep -of pytest)\n"
          "  stacksample dump --json --repeat 3 --interval 10s 4121 > dumps.json\n",
      .statuses = "  0 all done; 1 done in part; 2 nothing done; 64 wrong usage\n",
      .options = options,
  };

  return ss_options_operand(&usage, argc, argv, "PID", pid);
}

/* The last of the looks is what is printed. */
static enum ss_err take(struct ss_looker *looker, const struct dump_options *o,
                        struct ss_look **look, struct ss_look_print *print,
                        struct ss_diag *diag)
{
  struct ss_look_options options = {.no_children = o->no_children,
                                    .no_python = o->no_python,
                                    .no_native = o->no_native,
                                    .never_stop = o->never_stop};
  unsigned wanted = o->quick ? 1 : LOOKS;
  uint64_t first_ns = 0;

  *look = NULL;
  for (unsigned i = 0; i < wanted; i++) {
    struct ss_look *next = NULL;
    enum ss_err err;
    if (i > 0)
      ss_sleep_ns(LOOK_GAP_NS);
    err = ss_look_take(looker, &options, &next, diag);
    if (err != SS_ERR_OK) /* it ended between two looks: the last one stands */
      return *look ? SS_ERR_OK : err;
    ss_look_free(*look);
    *look = next;
    first_ns = first_ns ? first_ns : next->at_ns;
    print->looks = i + 1;
    print->over_ns = next->at_ns - first_ns;
  }
  return SS_ERR_OK;
}

/* Between dumps for a reader of text; JSON has its own "at". */
static void add_number(struct ss_buf *out, const struct dump_options *o, uint64_t number,
                       const struct ss_look *look)
{
  char at[SS_UTC_MAX];

  if (o->json || o->repeat == 1)
    return;
  ss_buf_addf(out, "%sdump %llu of %llu, %s\n", number ? "\n" : "",
              (unsigned long long)number + 1, (unsigned long long)o->repeat,
              ss_utc(at, look->wall_ns));
}

static int print_one(struct ss_looker *looker, const struct dump_options *o,
                     uint64_t number)
{
  char *cwd = getcwd(NULL, 0);
  struct ss_look_print print = {.full = o->full, .cwd = cwd};
  struct ss_look *look = NULL;
  struct ss_diag diag = {0};
  struct ss_buf out = {0};
  int status = SS_EXIT_OK;

  if (take(looker, o, &look, &print, &diag) != SS_ERR_OK) {
    ss_say_err(diag.err, &diag);
    free(cwd);
    return SS_EXIT_NOTHING;
  }
  add_number(&out, o, number, look);
  if (o->json)
    (void)ss_look_json(look, &print, &out, &diag);
  else
    ss_look_text(look, &print, &out);
  if (ss_write_all(STDOUT_FILENO, ss_buf_str(&out), out.len) != 0) {
    ss_say("the dump could not be written: %s", strerror(errno));
    status = SS_EXIT_NOTHING;
  } else if (look->unvisited > 0) {
    ss_say("%zu threads were not looked at", look->unvisited);
    status = SS_EXIT_PART;
  }
  ss_buf_release(&out);
  ss_look_free(look);
  free(cwd);
  return status;
}

static int dump(const struct dump_options *o)
{
  struct ss_looker *looker = ss_looker_new(o->pid);
  int status = SS_EXIT_NOTHING;

  if (looker == NULL) {
    ss_say("no memory for a dump");
    return SS_EXIT_NOTHING;
  }
  for (uint64_t i = 0; i < o->repeat; i++) {
    if (i > 0)
      ss_sleep_ns(o->interval_ns);
    status = print_one(looker, o, i);
    if (status == SS_EXIT_NOTHING)
      break;
  }
  ss_looker_free(looker);
  return status;
}

int ss_cmd_dump(int argc, char **argv)
{
  struct dump_options o = {.repeat = 1, .interval_ns = 1000000000};
  struct ss_diag diag = {0};
  const char *pid = NULL;
  int parsed = parse(&o, argc, argv, &pid);

  if (parsed == -2)
    return SS_EXIT_OK;
  if (parsed < 0)
    return SS_EXIT_USAGE;
  if (!ss_pid_parse(pid, &o.pid)) {
    ss_say("'%s' is no process id: stacksample dump PID", pid);
    return SS_EXIT_USAGE;
  }
  if (ss_access_explain(o.pid, &diag) != SS_ERR_OK) {
    ss_say_err(diag.err, &diag);
    return SS_EXIT_NOTHING;
  }
  return dump(&o);
}
