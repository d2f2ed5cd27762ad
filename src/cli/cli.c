/*
 * The command table's dispatcher and the messages of the command line.
 *
 * A command is found by its exact name; a near miss is answered with the name
 * that was probably meant. Nothing is created or started here.
 */
#include "stacksample/cli.h"

#include <stdarg.h>

#include "stacksample/buf.h"
#include "stacksample/escape.h"
#include "stacksample/sys.h"

#include "cli_priv.h"

const struct ss_command ss_commands[] = {
    {"run", "launch a command, sample it until it ends, leave a bundle", ss_cmd_run},
    {"attach", "sample a live process and its children, leave a bundle", ss_cmd_attach},
    {"dump", "print every thread of a live process tree", ss_cmd_dump},
    {"report", "write outputs again from a bundle, or print its tables", ss_cmd_report},
    {"doctor", "what works on this machine, and how to fix what does not", ss_cmd_doctor},
    {NULL, NULL, NULL},
};

void ss_say(const char *fmt, ...)
{
  struct ss_buf text = {0}, line = {0};
  va_list ap;

  va_start(ap, fmt);
  ss_buf_vaddf(&text, fmt, ap);
  va_end(ap);
  ss_buf_adds(&line, "stacksample: ");
  ss_escape_terminal(&line, ss_buf_str(&text), text.len);
  ss_buf_addc(&line, '\n');
  (void)ss_write_all(STDERR_FILENO, ss_buf_str(&line), line.len);
  ss_buf_release(&text);
  ss_buf_release(&line);
}

void ss_say_err(enum ss_err err, const struct ss_diag *diag)
{
  ss_say("%s", diag->text[0] ? diag->text : ss_strerror(err));
}

/* Edit distance (insert, delete, change), capped: 3 means "not alike". */
static size_t distance(const char *a, const char *b)
{
  size_t la = strlen(a), lb = strlen(b), row[64], i, j;

  if (la >= 63 || lb >= 63)
    return 3;
  for (j = 0; j <= lb; j++)
    row[j] = j;
  for (i = 1; i <= la; i++) {
    size_t diagonal = row[0];
    row[0] = i;
    for (j = 1; j <= lb; j++) {
      size_t change = diagonal + (a[i - 1] != b[j - 1]);
      size_t shorter = row[j] < row[j - 1] ? row[j] : row[j - 1];
      diagonal = row[j];
      row[j] = change < shorter + 1 ? change : shorter + 1;
    }
  }
  return row[lb];
}

bool ss_alike(const char *word, const char *known)
{
  size_t len = strlen(known);

  if (strlen(word) >= 3 && strncmp(word, known, strlen(word)) == 0)
    return true;
  return distance(word, known) <= (len > 4 ? 2u : 1u);
}

static void print_table(FILE *to)
{
  fprintf(to, "stacksample %s: where the time of a pytest run on PyTorch goes\n\n",
          SS_VERSION);
  for (const struct ss_command *c = ss_commands; c->name; c++)
    fprintf(to, "  stacksample %-8s %s\n", c->name, c->summary);
  fputs("\nStart with: stacksample run -- pytest tests/test_slow.py\n"
        "`stacksample COMMAND --help` tells more.\n",
        to);
}

static const struct ss_command *find_command(const char *name)
{
  for (const struct ss_command *c = ss_commands; c->name; c++)
    if (strcmp(c->name, name) == 0)
      return c;
  return NULL;
}

static int unknown_command(const char *name)
{
  for (const struct ss_command *c = ss_commands; c->name; c++)
    if (ss_alike(name, c->name)) {
      ss_say("unknown command %s; did you mean `stacksample %s`?", name, c->name);
      return SS_EXIT_USAGE;
    }
  ss_say("unknown command %s; to profile it: stacksample run -- %s", name, name);
  return SS_EXIT_USAGE;
}

static bool is_help(const char *word)
{
  return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 ||
         strcmp(word, "help") == 0;
}

int ss_main(int argc, char **argv)
{
  bool help = argc > 1 && is_help(argv[1]);
  const struct ss_command *command;

  if (argc < 2 || (help && argc == 2)) {
    print_table(stdout);
    return SS_EXIT_OK;
  }
  if (strcmp(argv[1], "--version") == 0) {
    ss_print_version(stdout);
    return SS_EXIT_OK;
  }
  argc -= 1 + help;
  argv += 1 + help;
  command = find_command(argv[0]);
  if (command == NULL)
    return unknown_command(argv[0]);
  if (help)
    return command->main(2, (char *[]){argv[0], (char[]){"--help"}, NULL});
  return command->main(argc, argv);
}
