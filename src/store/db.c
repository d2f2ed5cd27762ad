/*
 * The SQLite side of profile.db: its schema, and opening it.
 *
 * The folder is reached through a descriptor (/proc/self/fd/N), so renaming or
 * replacing the folder cannot redirect a write, and SQLite itself opens the
 * last component without following links. A file that is read may come from
 * anybody: nothing in it is evaluated before its schema is known to be ours,
 * text for text, and its pages have been checked.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>

#include "stacksample/sys.h"
#include "store_priv.h"

/* "Stsp": what file(1) and others may know the format by. */
#define APPLICATION_ID 0x53747370

/* docs/format.md explains them. A change is a new SS_SCHEMA_VERSION. */
static const struct {
  const char *name;
  const char *sql;
} schema[] = {
    {"meta",
     "CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"},
    {"word", "CREATE TABLE word(kind TEXT, id INTEGER, word TEXT NOT NULL, "
             "PRIMARY KEY(kind, id)) WITHOUT ROWID"},
    {"string", "CREATE TABLE string(id INTEGER PRIMARY KEY, text)"},
    {"module",
     "CREATE TABLE module(id INTEGER PRIMARY KEY, path INTEGER, build_id BLOB)"},
    {"frame", "CREATE TABLE frame(id INTEGER PRIMARY KEY, kind INTEGER, name INTEGER, "
              "file INTEGER, first_line INTEGER, module INTEGER, offset INTEGER, "
              "exact INTEGER)"},
    {"stack", "CREATE TABLE stack(id INTEGER PRIMARY KEY, parent INTEGER, frame INTEGER, "
              "line INTEGER)"},
    {"process", "CREATE TABLE process(id INTEGER PRIMARY KEY, pid INTEGER, ppid INTEGER, "
                "label INTEGER, command INTEGER, python INTEGER, worker INTEGER, "
                "start_ns INTEGER, end_ns INTEGER)"},
    {"thread",
     "CREATE TABLE thread(id INTEGER PRIMARY KEY, process INTEGER, tid INTEGER, "
     "name INTEGER, role INTEGER, start_ns INTEGER, end_ns INTEGER, "
     "cpu_ns INTEGER)"},
    {"phase", "CREATE TABLE phase(id INTEGER PRIMARY KEY, process INTEGER, test INTEGER, "
              "phase INTEGER, occurrence INTEGER, start_ns INTEGER, end_ns INTEGER)"},
    {"sample", "CREATE TABLE sample(time_ns INTEGER, weight_ns INTEGER, thread INTEGER, "
               "stack INTEGER, phase INTEGER, state INTEGER, ended INTEGER, "
               "method INTEGER, merge INTEGER, samples INTEGER)"},
    {"total", "CREATE TABLE total(thread INTEGER, stack INTEGER, phase INTEGER, "
              "state INTEGER, ended INTEGER, method INTEGER, merge INTEGER, "
              "samples INTEGER, weight_ns INTEGER)"},
    {"time", "CREATE TABLE time(id INTEGER PRIMARY KEY, thread INTEGER, phase INTEGER, "
             "state INTEGER, ns INTEGER)"},
};
enum { TABLES = sizeof schema / sizeof schema[0] };

/* So that plain SQL can show words for numbers. */
static const struct {
  const char *kind;
  int id;
  const char *word;
} words[] = {{"kind", SS_FRAME_PYTHON, "python"},
             {"kind", SS_FRAME_NATIVE, "native"},
             {"kind", SS_FRAME_KERNEL, "kernel"},
             {"kind", SS_FRAME_SYNTHETIC, "synthetic"},
             {"merge", SS_MERGE_NONE, "none"},
             {"merge", SS_MERGE_VERIFIED, "verified"},
             {"merge", SS_MERGE_UNVERIFIED, "unverified"},
#define STATE_WORD(name, word) {"state", SS_STATE_##name, word},
             SS_STATES(STATE_WORD)
#define END_WORD(name, word, text) {"ended", SS_END_##name, word},
                 SS_ENDS(END_WORD)
#define METHOD_WORD(name, word) {"method", SS_METHOD_##name, word},
                     SS_METHODS(METHOD_WORD)};

/* ---- results ------------------------------------------------------------------- */

static enum ss_err err_of(int code)
{
  switch (code & 0xff) {
  case SQLITE_OK:
  case SQLITE_ROW:
  case SQLITE_DONE:
    return SS_ERR_OK;
  case SQLITE_NOMEM:
    return SS_ERR_NOMEM;
  case SQLITE_CORRUPT:
  case SQLITE_NOTADB:
  case SQLITE_SCHEMA:
  case SQLITE_TOOBIG:
    return SS_ERR_FORMAT;
  case SQLITE_PERM:
  case SQLITE_READONLY:
  case SQLITE_AUTH:
  case SQLITE_BUSY:
  case SQLITE_LOCKED:
    return SS_ERR_ACCESS;
  default:
    return SS_ERR_IO;
  }
}

enum ss_err ss_db_fail(const struct ss_db *db, int code, const char *doing,
                       struct ss_diag *diag)
{
  int sys = db->sql != NULL ? sqlite3_system_errno(db->sql) : 0;
  const char *why = sqlite3_errstr(code);

  if ((code & 0xff) == SQLITE_BUSY)
    why = "a running stacksample is writing it";
  else if ((code & 0xff) == SQLITE_FULL)
    why = "no space left on the disk";
  else if (sys != 0) /* "disk I/O error" does not say which */
    why = strerror(sys);
  ss_fail(diag, err_of(code), "%s: %s", doing, why);
  if (diag != NULL)
    diag->sys_errno = sys;
  return err_of(code);
}

int ss_db_exec(struct ss_db *db, const char *sql)
{
  return sqlite3_exec(db->sql, sql, NULL, NULL, NULL);
}

sqlite3_stmt *ss_db_prepare(struct ss_db *db, const char *sql)
{
  sqlite3_stmt *st = NULL;

  if (sqlite3_prepare_v3(db->sql, sql, -1, SQLITE_PREPARE_PERSISTENT, &st, NULL) !=
      SQLITE_OK)
    return NULL;
  return st;
}

/* ---- opening ---------------------------------------------------------------------- */

static sqlite3_vfs vfs;
static pthread_once_t vfs_once = PTHREAD_ONCE_INIT;

/* SQLite would resolve /proc/self/fd/N to the path that it has now, which may
 * lead elsewhere later, and refuses paths of more than 512 bytes. */
static int keep_path(sqlite3_vfs *self, const char *name, int cap, char *out)
{
  (void)self;
  sqlite3_snprintf(cap, out, "%s", name);
  return SQLITE_OK;
}

static void make_vfs(void)
{
  const sqlite3_vfs *base = sqlite3_vfs_find("unix");

  if (base == NULL)
    return;
  vfs = *base;
  vfs.pNext = NULL;
  vfs.zName = "stacksample";
  vfs.xFullPathname = keep_path;
  sqlite3_vfs_register(&vfs, 0);
}

static bool file_present(const struct ss_db *db, const char *name, const char *suffix)
{
  char side[256];
  struct stat st;

  snprintf(side, sizeof side, "%s%s", name, suffix);
  return fstatat(db->dirfd, side, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_size > 0;
}

static int harden(struct ss_db *db)
{
  static const int off[] = {SQLITE_DBCONFIG_TRUSTED_SCHEMA,
                            SQLITE_DBCONFIG_ENABLE_TRIGGER, SQLITE_DBCONFIG_ENABLE_VIEW,
                            SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION};

  sqlite3_extended_result_codes(db->sql, 1);
  sqlite3_db_config(db->sql, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
  for (size_t i = 0; i < sizeof off / sizeof off[0]; i++)
    sqlite3_db_config(db->sql, off[i], 0, NULL);
  sqlite3_limit(db->sql, SQLITE_LIMIT_LENGTH, SS_DB_VALUE_MAX + 1024);
  sqlite3_limit(db->sql, SQLITE_LIMIT_ATTACHED, 0);
  sqlite3_limit(db->sql, SQLITE_LIMIT_WORKER_THREADS, 0);
  /* Exclusive: no shared-memory file, whose mapping a full disk could turn
   * into SIGBUS. */
  return ss_db_exec(db, "PRAGMA locking_mode=EXCLUSIVE; PRAGMA mmap_size=0;"
                        "PRAGMA cell_size_check=ON; PRAGMA secure_delete=OFF;");
}

/* Nothing is synced while the profile is written: the thread that writes it also takes
 * the samples, and a disk may make it wait for seconds. That we are killed costs nothing
 * so; only a machine that goes down could. ss_store_close syncs. */
static int create_schema(struct ss_db *db)
{
  char pragmas[160];
  int rc;

  snprintf(pragmas, sizeof pragmas,
           "PRAGMA application_id=%d; PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;"
           "BEGIN; PRAGMA user_version=%d",
           APPLICATION_ID, SS_SCHEMA_VERSION);
  rc = ss_db_exec(db, pragmas);
  for (size_t i = 0; rc == SQLITE_OK && i < TABLES; i++)
    rc = ss_db_exec(db, schema[i].sql);
  sqlite3_stmt *st = ss_db_prepare(db, "INSERT INTO word VALUES(?, ?, ?)");
  for (size_t i = 0; st != NULL && rc == SQLITE_OK && i < sizeof words / sizeof words[0];
       i++) {
    sqlite3_bind_text(st, 1, words[i].kind, -1, SQLITE_STATIC);
    sqlite3_bind_int(st, 2, words[i].id);
    sqlite3_bind_text(st, 3, words[i].word, -1, SQLITE_STATIC);
    sqlite3_step(st);
    rc = sqlite3_reset(st);
  }
  sqlite3_finalize(st);
  return rc == SQLITE_OK ? ss_db_exec(db, "COMMIT") : rc;
}

/* ---- checking a file that may be anybody's ---------------------------------------- */

sqlite3_int64 ss_db_number(struct ss_db *db, const char *sql, int *rc)
{
  sqlite3_stmt *st = ss_db_prepare(db, sql);
  sqlite3_int64 n = 0;

  *rc = st != NULL ? sqlite3_step(st) : sqlite3_extended_errcode(db->sql);
  if (*rc == SQLITE_ROW)
    n = sqlite3_column_int64(st, 0);
  if (*rc == SQLITE_ROW || *rc == SQLITE_DONE)
    *rc = SQLITE_OK;
  sqlite3_finalize(st);
  return n;
}

static bool is_ours(const char *type, const char *name, const char *sql)
{
  for (size_t i = 0; i < TABLES; i++)
    if (strcmp(schema[i].name, name) == 0)
      return strcmp(type, "table") == 0 && strcmp(schema[i].sql, sql) == 0;
  return false;
}

static const char *column_text(sqlite3_stmt *st, int column)
{
  const char *text = (const char *)sqlite3_column_text(st, column);

  return text != NULL ? text : "";
}

/* No view, trigger, index, generated column or check constraint of somebody
 * else's can be in a schema that is ours text for text. */
static enum ss_err check_schema(struct ss_db *db, const char *name, struct ss_diag *diag)
{
  size_t found = 0;
  int rc;
  sqlite3_stmt *st = ss_db_prepare(db, "SELECT type, name, sql FROM sqlite_master");

  rc = st != NULL ? sqlite3_step(st) : sqlite3_extended_errcode(db->sql);
  for (; rc == SQLITE_ROW; rc = sqlite3_step(st)) {
    if (!is_ours(column_text(st, 0), column_text(st, 1), column_text(st, 2))) {
      sqlite3_finalize(st);
      return ss_fail(diag, SS_ERR_FORMAT, "%s has tables that stacksample did not make",
                     name);
    }
    found++;
  }
  sqlite3_finalize(st);
  if (rc != SQLITE_DONE)
    return ss_db_fail(db, rc, name, diag);
  if (found != TABLES)
    return ss_fail(diag, SS_ERR_FORMAT, "%s lacks tables of a profile", name);
  return SS_ERR_OK;
}

static enum ss_err check_pages(struct ss_db *db, const char *name, struct ss_diag *diag)
{
  sqlite3_stmt *st = ss_db_prepare(db, "PRAGMA quick_check(1)");
  int rc = st != NULL ? sqlite3_step(st) : sqlite3_extended_errcode(db->sql);
  enum ss_err err = SS_ERR_OK;

  if (rc != SQLITE_ROW)
    err = ss_db_fail(db, rc, name, diag);
  else if (strcmp(column_text(st, 0), "ok") != 0)
    err = ss_fail(diag, SS_ERR_FORMAT, "%s is damaged: %s", name, column_text(st, 0));
  sqlite3_finalize(st);
  return err;
}

static enum ss_err check(struct ss_db *db, const char *name, struct ss_diag *diag)
{
  int rc;
  sqlite3_int64 app = ss_db_number(db, "PRAGMA application_id", &rc);
  enum ss_err err;

  if (rc != SQLITE_OK)
    return ss_db_fail(db, rc, name, diag);
  if (app != APPLICATION_ID)
    return ss_fail(diag, SS_ERR_FORMAT, "%s is not a profile of stacksample", name);
  sqlite3_int64 version = ss_db_number(db, "PRAGMA user_version", &rc);
  if (version != SS_SCHEMA_VERSION)
    return ss_fail(diag, SS_ERR_UNSUPPORTED,
                   "%s has schema version %lld; this stacksample reads version %d", name,
                   (long long)version, SS_SCHEMA_VERSION);
  err = check_schema(db, name, diag);
  return err == SS_ERR_OK ? check_pages(db, name, diag) : err;
}

/* ---- open, close ----------------------------------------------------------------- */

/* `logged`: its header says that changes go to a log (bytes 18 and 19 of the
 * SQLite file format: 2), as while a stacksample runs, or after it was killed. */
static enum ss_err prepare_file(const struct ss_dir *dir, const char *name,
                                enum ss_db_mode mode, bool *logged, struct ss_diag *diag)
{
  struct ss_diag local = {0};
  unsigned char header[20] = {0};
  int fd = mode == SS_DB_CREATE ? ss_file_create(dir, name, &local)
                                : ss_file_open_read(dir, name, &local);

  if (fd < 0 && diag != NULL)
    *diag = local;
  if (fd < 0)
    return local.err;
  *logged = ss_pread_some(fd, header, sizeof header, 0) == (ssize_t)sizeof header &&
            (header[18] != 1 || header[19] != 1);
  ss_close(&fd);
  return SS_ERR_OK;
}

/* The statements that bring an opened file into the state its mode wants. */
static int enter_mode(struct ss_db *db, enum ss_db_mode mode, bool logged)
{
  if (mode == SS_DB_EXTEND)
    return ss_db_exec(db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL");
  /* What a killed writer left in the log goes into the file, once. */
  return logged ? ss_db_exec(db, "PRAGMA journal_mode=DELETE; PRAGMA query_only=ON")
                : SQLITE_OK;
}

static enum ss_err open_failed(const struct ss_db *db, int rc, const char *name,
                               bool logged, struct ss_diag *diag)
{
  int kind = rc & 0xff;

  if (logged && (kind == SQLITE_CANTOPEN || kind == SQLITE_READONLY))
    return ss_fail(
        diag, SS_ERR_ACCESS,
        "%s was left by a killed stacksample and its folder cannot be written: "
        "copy the folder, with %s-wal, to a place that can",
        name, name);
  return ss_db_fail(db, rc, name, diag);
}

static enum ss_err open_connection(struct ss_db *db, const char *name,
                                   enum ss_db_mode mode, bool logged,
                                   struct ss_diag *diag)
{
  int access =
      mode == SS_DB_READ && !logged ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE;
  int rc =
      sqlite3_open_v2(db->path, &db->sql, access | SQLITE_OPEN_NOMUTEX, "stacksample");

  if (rc == SQLITE_OK)
    rc = harden(db);
  if (rc == SQLITE_OK && mode == SS_DB_CREATE)
    rc = create_schema(db);
  if (rc != SQLITE_OK)
    return open_failed(db, rc, name, logged, diag);
  if (mode == SS_DB_CREATE)
    return SS_ERR_OK;
  enum ss_err err = check(db, name, diag);
  if (err != SS_ERR_OK)
    return err;
  rc = enter_mode(db, mode, logged);
  return rc != SQLITE_OK ? open_failed(db, rc, name, logged, diag) : SS_ERR_OK;
}

enum ss_err ss_db_open(struct ss_db *db, const struct ss_dir *dir, const char *name,
                       enum ss_db_mode mode, struct ss_diag *diag)
{
  enum ss_err err;
  bool logged = false;
  int n;

  *db = (struct ss_db){.dirfd = -1};
  pthread_once(&vfs_once, make_vfs);
  err = prepare_file(dir, name, mode, &logged, diag);
  if (err != SS_ERR_OK)
    return err;
  db->dirfd = fcntl(dir->fd, F_DUPFD_CLOEXEC, 3);
  if (db->dirfd < 0)
    return ss_fail_errno(diag, "cannot open %s", name);
  logged = logged || file_present(db, name, "-wal") || file_present(db, name, "-journal");
  n = snprintf(db->path, sizeof db->path, "/proc/self/fd/%d/%s", db->dirfd, name);
  if (n < 0 || (size_t)n >= sizeof db->path)
    err = ss_fail(diag, SS_ERR_USAGE, "the name %s is too long", name);
  else
    err = open_connection(db, name, mode, logged, diag);
  if (err != SS_ERR_OK)
    ss_db_close(db);
  return err;
}

void ss_db_close(struct ss_db *db)
{
  if (db->sql != NULL)
    sqlite3_close(db->sql);
  ss_close(&db->dirfd);
  db->sql = NULL;
}
