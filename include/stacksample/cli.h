/*
 * The command line: table of commands, table-driven options, exit statuses.
 * Only this layer prints to the terminal and ends the process.
 */
#ifndef STACKSAMPLE_CLI_H
#define STACKSAMPLE_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "stacksample/error.h"

/* Exit statuses of our own. `run` uses the 12x ones. */
enum {
  SS_EXIT_OK = 0,
  SS_EXIT_PART = 1,
  SS_EXIT_NOTHING = 2,
  SS_EXIT_USAGE = 64,
  SS_EXIT_TIMEOUT = 124,
  SS_EXIT_RUN_USAGE = 125,
  SS_EXIT_NOT_EXECUTABLE = 126,
  SS_EXIT_NOT_FOUND = 127
};

struct ss_command {
  const char *name;
  const char *summary;                /* one line of the command table */
  int (*main)(int argc, char **argv); /* argv[0] is the command's name */
};
extern const struct ss_command ss_commands[]; /* ends with NULL name */

/* One option of a command. */
enum ss_option_kind {
  SS_OPT_FLAG,     /* bool */
  SS_OPT_STRING,   /* const char *, borrowed from argv */
  SS_OPT_UINT,     /* uint64_t within [min, max] */
  SS_OPT_DURATION, /* uint64_t nanoseconds: 90, 90s, 15m, 1h, 1.5s */
  SS_OPT_CHOICE    /* int: index into choices */
};
struct ss_option {
  const char *name; /* long name without -- */
  char letter;      /* 0: none */
  enum ss_option_kind kind;
  void *value;                /* of the type above */
  const char *arg;            /* what --help calls the argument */
  const char *help;           /* one line with the default */
  uint64_t min, max;          /* UINT */
  const char *const *choices; /* CHOICE, ends with NULL */
};
/* Rows of a table of them. */
#define SS_VALUE(kind_, name_, letter_, value_, arg_, help_)                             \
  {                                                                                      \
    .name = (name_), .letter = (letter_), .kind = SS_OPT_##kind_, .value = (value_),     \
    .arg = (arg_), .help = (help_)                                                       \
  }
#define SS_FLAG(name_, letter_, value_, help_)                                           \
  SS_VALUE(FLAG, name_, letter_, value_, NULL, help_)
#define SS_NUMBER(name_, letter_, value_, arg_, help_, min_, max_)                       \
  {                                                                                      \
    .name = (name_), .letter = (letter_), .kind = SS_OPT_UINT, .value = (value_),        \
    .arg = (arg_), .help = (help_), .min = (min_), .max = (max_)                         \
  }
#define SS_CHOICE(name_, letter_, value_, arg_, help_, choices_)                         \
  {                                                                                      \
    .name = (name_), .letter = (letter_), .kind = SS_OPT_CHOICE, .value = (value_),      \
    .arg = (arg_), .help = (help_), .choices = (choices_)                                \
  }
#define SS_OPTIONS_END                                                                   \
  {                                                                                      \
    .name = NULL                                                                         \
  }
struct ss_usage {
  const char *command; /* "run" */
  const char *synopsis;
  const char *about; /* a paragraph */
  const char *examples;
  const char *statuses;
  const struct ss_option *options; /* ends with NULL name */
};
/* Parses until "--" or the first word that is no option; returns its index in
 * argv, or -1 after printing one line that says what and how to fix it, or -2
 * after --help. "--rate 5", "--rate=5", "-r5", "-r 5"; unique prefixes are not
 * accepted (a script must not break when an option is added). */
int ss_options_parse(const struct ss_usage *usage, int argc, char **argv);
/* The same for commands whose operand may stand before, between or behind the
 * options: exactly one is taken. Returns 0 with *operand set, or -1, -2 as above. */
int ss_options_operand(const struct ss_usage *usage, int argc, char **argv,
                       const char *operand_name, const char **operand);
/* "90", "1.5s", "15m", "1h" -> nanoseconds. */
bool ss_duration_parse(const char *text, uint64_t *ns);

/* "stacksample: " and the line, on stderr; escaped for terminals. */
void ss_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* What main calls: picks the command, prints the table without one. */
int ss_main(int argc, char **argv);

int ss_cmd_run(int argc, char **argv);
int ss_cmd_attach(int argc, char **argv);
int ss_cmd_dump(int argc, char **argv);
int ss_cmd_report(int argc, char **argv);
int ss_cmd_doctor(int argc, char **argv);

#endif
