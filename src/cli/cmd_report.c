/*
 * stacksample report: outputs again from a bundle's profile.db, or its tables
 * on stdout. Also what makes a bundle of a run whose profiler was killed.
 */
#include <dirent.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#include "stacksample/meta.h"

#include "cli_priv.h"
#include "session.h"

struct report_options {
  const char *format;
  int count; /* of count_units */
  struct ss_write_options write;
};

static const char *const count_units[] = {"time", "samples", NULL};

static int parse(struct report_options *o, int argc, char **argv, const char **bundle)
{
  const struct ss_option options[] = {
      SS_VALUE(STRING, "format", 0, &o->format, "LIST",
               "write these again: folded, trace, flamegraph, speedscope, pprof, "
               "summary, all"),
      SS_VALUE(STRING, "test", 0, &o->write.filter.test, "TEXT",
               "only tests whose id holds TEXT"),
      SS_VALUE(STRING, "thread", 0, &o->write.filter.thread, "NAME",
               "only threads of this name, role or number"),
      SS_VALUE(STRING, "state", 0, &o->write.filter.state, "STATE",
               "only this state: user, kernel, spin, gil, lock, io, ..."),
      SS_VALUE(DURATION, "from", 0, &o->write.filter.from_ns, "DUR",
               "from this time of the run on"),
      SS_VALUE(DURATION, "to", 0, &o->write.filter.to_ns, "DUR",
               "up to this time of the run"),
      SS_CHOICE("count", 0, &o->count, "UNIT",
                "folded stacks in `time` (microseconds, default) or `samples`",
                count_units),
      SS_FLAG("trace-slices-only", 0, &o->write.trace_slices_only,
              "leave the raw samples out of profiler.json"),
      SS_OPTIONS_END,
  };
  const struct ss_usage usage = {
      .command = "report",
      .synopsis = "report [OPTIONS] BUNDLE",
      .about = "Writes outputs again from BUNDLE/profile.db, filtered if asked; without "
               "--format\n"
               "prints tables. Completes the bundle of a run that was killed.",
      .examples = "  stacksample report reports/20261124T183012Z --test stability\n"
                  "  stacksample report --format folded --count samples reports/...\n",
      .statuses = "  0 all done; 1 done in part; 2 nothing done; 64 wrong usage\n",
      .options = options,
  };

  return ss_options_operand(&usage, argc, argv, "BUNDLE", bundle);
}

static bool was_finished(const struct ss_bundle *bundle)
{
  int fd = ss_file_open_read(ss_bundle_dir(bundle), "manifest.json", NULL);

  if (fd < 0)
    return false;
  close(fd);
  return true;
}

static bool has_profile(int folder, const char *name)
{
  struct ss_buf path = {0};
  struct stat st;

  ss_buf_addf(&path, "%s/profile.db", name);
  bool has = fstatat(folder, ss_buf_str(&path), &st, 0) == 0 && S_ISREG(st.st_mode);
  ss_buf_release(&path);
  return has;
}

/* The folder of --output is given as often as one of its bundles: say which there are. */
static void say_no_bundle(const char *path)
{
  DIR *folder = opendir(path);
  char newest[NAME_MAX + 1] = "";
  const struct dirent *entry;

  while (folder && (entry = readdir(folder)))
    if (strcmp(entry->d_name, newest) > 0 && has_profile(dirfd(folder), entry->d_name))
      snprintf(newest, sizeof(newest), "%s", entry->d_name);
  if (folder)
    closedir(folder);
  if (*newest)
    ss_say("%s holds bundles, but is none; name one of them: %s/%s", path, path, newest);
  else
    ss_say("%s is no bundle: it holds no profile.db", path);
}

static enum ss_err write_manifest(struct ss_bundle *bundle, struct ss_diag *diag)
{
  struct ss_profile *profile = NULL;
  enum ss_err err = ss_profile_open(&profile, ss_bundle_dir(bundle), "profile.db", diag);

  if (err == SS_ERR_OK)
    err = ss_bundle_manifest(bundle, profile, diag);
  ss_profile_close(profile);
  return err;
}

static int write_files(struct ss_bundle *bundle, enum ss_outputs which,
                       const char *format, const struct ss_write_options *options)
{
  struct ss_diag diag = {0};
  unsigned failed;

  if (ss_outputs_write(bundle, which, format, options, NULL, &failed, &diag) !=
      SS_ERR_OK) {
    ss_say_err(diag.err, &diag);
    return SS_EXIT_NOTHING;
  }
  if (failed > 0) {
    ss_say("%u output%s could not be written: %s", failed, failed == 1 ? "" : "s",
           diag.text);
    return SS_EXIT_PART;
  }
  if (write_manifest(bundle, &diag) != SS_ERR_OK) {
    ss_say("manifest.json: %s", diag.text);
    return SS_EXIT_PART;
  }
  return SS_EXIT_OK;
}

/* What a killed run could not do any more: names, and its outputs. */
static int complete(struct ss_bundle *bundle, bool trace_slices_only)
{
  struct ss_write_options all = {.trace_slices_only = trace_slices_only};
  struct ss_store *store = NULL;
  struct ss_diag diag = {0};

  if (ss_store_reopen(&store, ss_bundle_dir(bundle), "profile.db", &diag) == SS_ERR_OK) {
    (void)ss_names_resolve(store, NULL, &diag);
    (void)ss_store_close(store, &diag);
  }
  return write_files(bundle, SS_OUTPUTS_OF_RUN, NULL, &all);
}

static int print_tables(struct ss_bundle *bundle, const struct report_options *o)
{
  struct ss_profile *profile = NULL;
  struct ss_diag diag = {0};

  if (ss_profile_open(&profile, ss_bundle_dir(bundle), "profile.db", &diag) !=
          SS_ERR_OK ||
      ss_profile_filter(profile, &o->write.filter, &diag) != SS_ERR_OK) {
    ss_say_err(diag.err, &diag);
    ss_profile_close(profile);
    return SS_EXIT_NOTHING;
  }
  ss_tables_print(profile, &o->write.filter, stdout);
  ss_profile_close(profile);
  return SS_EXIT_OK;
}

static bool check(struct report_options *o)
{
  if (!ss_formats_check(o->format, "report"))
    return false;
  if (o->write.filter.state && ss_state_parse(o->write.filter.state) == SS_STATE_COUNT) {
    ss_say("--state has no '%s'; it knows user, kernel, spin, gil, lock, io, child, "
           "sleep, wait, "
           "runnable, stopped, unknown",
           o->write.filter.state);
    return false;
  }
  if (o->write.filter.to_ns > 0 && o->write.filter.from_ns >= o->write.filter.to_ns) {
    ss_say("--from is not before --to: nothing lies between them");
    return false;
  }
  o->write.count_samples = o->count == 1;
  return true;
}

int ss_cmd_report(int argc, char **argv)
{
  struct report_options o = {0};
  struct ss_bundle *bundle = NULL;
  struct ss_diag diag = {0};
  const char *path = NULL;
  int parsed = parse(&o, argc, argv, &path), status = SS_EXIT_OK;

  if (parsed == -2)
    return SS_EXIT_OK;
  if (parsed < 0 || !check(&o))
    return SS_EXIT_USAGE;
  if (ss_bundle_open(&bundle, path, &diag) != SS_ERR_OK) {
    ss_say_err(diag.err, &diag);
    return SS_EXIT_NOTHING;
  }
  if (!has_profile(ss_bundle_dir(bundle)->fd, ".")) {
    say_no_bundle(path);
    ss_bundle_free(bundle);
    return SS_EXIT_NOTHING;
  }
  if (!was_finished(bundle))
    status = complete(bundle, o.write.trace_slices_only);
  if (status == SS_EXIT_OK)
    status = o.format ? write_files(bundle, SS_OUTPUTS_NAMED, o.format, &o.write)
                      : print_tables(bundle, &o);
  ss_bundle_free(bundle);
  return status;
}
