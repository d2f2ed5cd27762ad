/* Names of native frames, from open modules and from files opened again. */
#include "unit.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../src/output/output_priv.h"
#include "stacksample/elf.h"
#include "written.h"

struct where { /* a function of this process' libc */
  char path[4096];
  uint64_t vaddr;
};

static struct where where_version(void)
{
  struct where w = {.vaddr = 0};
  Dl_info info;
  struct link_map *map = NULL;
  void *symbol = dlsym(RTLD_DEFAULT, "gnu_get_libc_version");
  assert_non_null(symbol);
  assert_int_not_equal(dladdr1(symbol, &info, (void **)&map, RTLD_DL_LINKMAP), 0);
  snprintf(w.path, sizeof w.path, "%s", info.dli_fname);
  w.vaddr = (uint64_t)(uintptr_t)symbol - map->l_addr;
  return w;
}

/* The module row of a file, with its true build-id. */
static struct ss_module_row module_row(struct ss_store *s, const char *path)
{
  struct ss_module_row row = {.path = ss_store_string(s, path, strlen(path))};
  struct ss_image *image = NULL;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  assert_int_equal(ss_image_open(&image, fd, path, NULL), SS_ERR_OK);
  row.build_id_len = (uint32_t)ss_image_build_id(image, row.build_id);
  ss_image_close(image);
  return row;
}

static uint32_t add_frame(struct ss_store *s, uint32_t module, uint64_t offset)
{
  struct ss_frame_row row = {.kind = SS_FRAME_NATIVE,
                             .name = SS_ID_NONE,
                             .file = SS_ID_NONE,
                             .module = module,
                             .offset = offset,
                             .exact = true};
  return ss_store_frame(s, &row);
}

static const char *name_of(struct ss_store *s, uint32_t frame)
{
  struct ss_frame_row row;
  assert_true(ss_store_frame_at(s, frame, &row));
  return ss_store_str(s, row.name);
}

struct fixture {
  char path[TMPDIR_PATH];
  struct ss_dir dir;
  struct ss_store *store;
};

static void begin(struct fixture *f)
{
  *f = (struct fixture){0};
  assert_true(tmpdir_make(f->path));
  assert_int_equal(ss_dir_open(&f->dir, f->path, false, NULL), SS_ERR_OK);
  assert_int_equal(ss_store_create(&f->store, &f->dir, "profile.db", NULL), SS_ERR_OK);
}

static void end(struct fixture *f)
{
  assert_int_equal(ss_store_close(f->store, NULL), SS_ERR_OK);
  ss_dir_close(&f->dir);
  assert_int_equal(tmpdir_remove(f->path), 0);
}

static void names_from_the_same_file(void **state)
{
  (void)state;
  struct fixture f;
  struct where w = where_version();
  begin(&f);
  struct ss_module_row row = module_row(f.store, w.path);
  if (row.build_id_len == 0) {
    end(&f);
    skip(); /* a libc without build-id: never opened again by path */
  }
  uint32_t module = ss_store_module(f.store, &row);
  uint32_t start = add_frame(f.store, module, w.vaddr);
  uint32_t inside = add_frame(f.store, module, w.vaddr + 1);
  uint32_t outside = add_frame(f.store, module, 8); /* the ELF header */
  assert_int_equal(ss_names_resolve(f.store, NULL, NULL), SS_ERR_OK);
  assert_string_equal(name_of(f.store, start), "gnu_get_libc_version");
  assert_string_equal(name_of(f.store, inside), "gnu_get_libc_version");
  assert_string_equal(name_of(f.store, outside), "");
  end(&f);
}

/* A library that was rebuilt since would name wrongly. */
static void refuses_another_file_of_that_path(void **state)
{
  (void)state;
  struct fixture f;
  struct where w = where_version();
  begin(&f);
  struct ss_module_row row = module_row(f.store, w.path);
  row.build_id[0] ^= 1;
  row.build_id_len = 20;
  uint32_t frame = add_frame(f.store, ss_store_module(f.store, &row), w.vaddr);
  row.build_id_len = 0;
  uint32_t unknown = add_frame(f.store, ss_store_module(f.store, &row), w.vaddr + 1);
  assert_int_equal(ss_names_resolve(f.store, NULL, NULL), SS_ERR_OK);
  assert_string_equal(name_of(f.store, frame), "");
  assert_string_equal(name_of(f.store, unknown), "");
  end(&f);
}

/* A missing file, a folder, a FIFO that nobody writes: none may stop us. */
static void survives_paths_that_are_no_file(void **state)
{
  (void)state;
  struct fixture f;
  char fifo[96];
  begin(&f);
  snprintf(fifo, sizeof fifo, "%s/fifo", f.path);
  assert_int_equal(mkfifo(fifo, 0600), 0);
  const char *const paths[] = {"/nowhere/lib.so", "/", fifo, "[vdso]", ""};
  for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
    struct ss_module_row row = {.path =
                                    ss_store_string(f.store, paths[i], strlen(paths[i])),
                                .build_id = {1, 2, 3},
                                .build_id_len = 20};
    uint32_t frame = add_frame(f.store, ss_store_module(f.store, &row), 4096);
    assert_int_equal(ss_names_resolve(f.store, NULL, NULL), SS_ERR_OK);
    assert_string_equal(name_of(f.store, frame), "");
  }
  end(&f);
}

static void knows_which_writers_are_asked_for(void **state)
{
  (void)state;
  static const struct {
    const char *list, *file;
    bool named;
  } cases[] = {
      {NULL, "stacks.folded", true},        {NULL, "profile.pb.gz", false},
      {"all", "profile.pb.gz", true},       {"none", "profiler.json", false},
      {"none", "summary.md", false},        {"trace", "profiler.json", true},
      {"trace", "flamegraph.html", false},  {"folded,pprof", "profile.pb.gz", true},
      {"trace,summary", "tests.tsv", true}, {"fold", "stacks.folded", false},
      {"", "stacks-wait.folded", false},    {"foldedx", "stacks.folded", false},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const struct ss_writer *w = ss_writers;
    while (strcmp(w->file, cases[i].file) != 0) {
      w++;
      assert_non_null(w->format);
    }
    assert_int_equal(ss_writer_named(w, cases[i].list), cases[i].named);
  }
  struct ss_diag diag = {0};
  assert_int_equal(ss_writer_check_list("folded,all,none,speedscope", &diag), SS_ERR_OK);
  assert_int_equal(ss_writer_check_list(NULL, &diag), SS_ERR_OK);
  assert_int_equal(ss_writer_check_list("folded,svg", &diag), SS_ERR_USAGE);
  assert_non_null(strstr(diag.text, "svg"));
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(names_from_the_same_file),
      cmocka_unit_test(refuses_another_file_of_that_path),
      cmocka_unit_test(survives_paths_that_are_no_file),
      cmocka_unit_test(knows_which_writers_are_asked_for),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
