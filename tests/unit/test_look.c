/* A look at a child of our own: what it says of a thread that waits, how it is put
 * into text and JSON, what happens when the child has ended. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "stacksample/look.h"
#include "stacksample/proc.h"
#include "stacksample/sys.h"
#include "unit.h"

struct child {
  pid_t pid;
  int pipe[2];
};

/* Reads from a pipe that nobody writes to. */
static int start(void **state)
{
  struct child *c = calloc(1, sizeof(*c));
  struct ss_stat st = {0};
  assert_int_equal(pipe(c->pipe), 0);
  c->pid = fork();
  if (c->pid == 0) {
    char byte;
    _exit(read(c->pipe[0], &byte, 1) == 1 ? 0 : 1);
  }
  while (ss_stat_read(&st, c->pid, 0) && st.state != 'S')
    ;
  *state = c;
  return 0;
}

static int end(void **state)
{
  struct child *c = *state;
  kill(c->pid, SIGKILL);
  waitpid(c->pid, NULL, 0);
  close(c->pipe[0]);
  close(c->pipe[1]);
  free(c);
  return 0;
}

static struct ss_look *take(struct ss_looker *l)
{
  struct ss_look_options options = {0};
  struct ss_look *look = NULL;
  struct ss_diag diag = {0};
  assert_int_equal(ss_look_take(l, &options, &look, &diag), SS_ERR_OK);
  return look;
}

static void test_waiting_thread(void **state)
{
  struct child *c = *state;
  struct ss_looker *l = ss_looker_new(c->pid);
  struct ss_look *look = take(l);
  char object[32];
  assert_int_equal(look->n_processes, 1);
  assert_int_equal(look->n_threads, 1);
  const struct ss_look_thread *t = &look->threads[0];
  assert_int_equal(t->tid, c->pid);
  assert_int_equal(t->state, SS_STATE_IO);
  assert_string_equal(t->syscall, "read");
  snprintf(object, sizeof(object), "%d pipe:[", c->pipe[0]);
  assert_int_equal(strncmp(t->object, object, strlen(object)), 0);
  assert_true(t->n_frames > 0);
  assert_int_equal(look->stops, 0);
  assert_true(t->for_ns == SS_LOOK_UNKNOWN ||
              t->for_ns <= look->processes[0].up_ns + UINT64_C(1000000000));
  assert_true(look->processes[0].busy < 0);
  ss_look_free(look);
  look = take(l); /* with what is kept from the first */
  assert_true(look->processes[0].busy >= 0);
  assert_int_equal(look->n_threads, 1);
  ss_look_free(look);
  ss_looker_free(l);
}

static void test_text_and_json(void **state)
{
  struct child *c = *state;
  struct ss_looker *l = ss_looker_new(c->pid);
  struct ss_look *look = take(l);
  struct ss_look_print print = {.looks = 1};
  struct ss_buf text = {0}, json = {0};
  char heading[64];
  ss_look_text(look, &print, &text);
  snprintf(heading, sizeof(heading), "\nthread %d ", (int)c->pid);
  assert_non_null(strstr(ss_buf_str(&text), heading));
  assert_non_null(strstr(ss_buf_str(&text), "looked once, stopped no thread"));
  assert_int_equal(ss_look_json(look, &print, &json, NULL), SS_ERR_OK);
  cJSON *root = cJSON_Parse(ss_buf_str(&json));
  cJSON *threads = cJSON_GetObjectItemCaseSensitive(root, "threads");
  assert_int_equal(cJSON_GetArraySize(threads), 1);
  cJSON_Delete(root);
  ss_buf_release(&text);
  ss_buf_release(&json);
  ss_look_free(look);
  ss_looker_free(l);
}

/* Names of the target's own choice reach the terminal harmlessly. */
static void test_hostile_names(void **state)
{
  (void)state;
  struct ss_look_frame frame = {
      .python = true, .name = (char *)(uintptr_t) "\033]52;c;x\007", .file = NULL};
  struct ss_look_thread thread = {.pid = 1,
                                  .tid = 1,
                                  .name = "\033[2J\"\xff",
                                  .role = "main",
                                  .for_ns = SS_LOOK_UNKNOWN,
                                  .frames = &frame,
                                  .n_frames = 1};
  struct ss_look_process process = {.pid = 1, .n_threads = 1, .busy = -1};
  struct ss_look look = {
      .processes = &process, .n_processes = 1, .threads = &thread, .n_threads = 1};
  struct ss_look_print print = {.looks = 1};
  struct ss_buf text = {0}, json = {0};
  ss_look_text(&look, &print, &text);
  assert_null(memchr(ss_buf_str(&text), '\033', text.len));
  assert_int_equal(ss_look_json(&look, &print, &json, NULL), SS_ERR_OK);
  assert_null(memchr(ss_buf_str(&json), '\033', json.len));
  cJSON *root = cJSON_Parse(ss_buf_str(&json));
  assert_non_null(root);
  cJSON_Delete(root);
  ss_buf_release(&text);
  ss_buf_release(&json);
}

/* Equal stacks are printed once, under the names of all. */
static void test_names_of_alike(void **state)
{
  static const struct {
    const char *names[6];
    const char *wanted;
  } cases[] = {
      {{"loader", "saver", "loader"}, "thread 2..4 loader, saver x 3  lock  c()"},
      {{"m-1", "m-2", "m-3", "m-4", "m-5"}, "thread 2..6 m-* x 5  lock  c()"},
      {{"a", "b", "c", "d", "e", "a"}, "2..7 a, b, c, d, ... x 6  lock  c()"},
      {{"one"}, "thread 2 one  lock  cpu 0.0 s  c()"}};
  struct ss_look_frame frame = {.name = (char *)(uintptr_t) "f"};
  struct ss_look_process process = {.pid = 1, .busy = -1};
  struct ss_look_print print = {.looks = 1};
  (void)state;
  for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
    struct ss_look_thread threads[6];
    struct ss_look look = {.processes = &process, .n_processes = 1, .threads = threads};
    struct ss_buf text = {0};
    for (size_t n = 0; n < 6 && cases[i].names[n]; n++) {
      threads[look.n_threads++] = (struct ss_look_thread){.pid = 1,
                                                          .tid = 2 + (pid_t)n,
                                                          .role = "python",
                                                          .state = SS_STATE_LOCK,
                                                          .syscall = "c",
                                                          .for_ns = SS_LOOK_UNKNOWN,
                                                          .frames = &frame,
                                                          .n_frames = 1};
      snprintf(threads[n].name, sizeof(threads[n].name), "%s", cases[i].names[n]);
    }
    ss_look_text(&look, &print, &text);
    if (!strstr(ss_buf_str(&text), cases[i].wanted))
      fail_msg("no \"%s\" in\n%s", cases[i].wanted, ss_buf_str(&text));
    ss_buf_release(&text);
  }
}

static void test_ended(void **state)
{
  (void)state;
  struct ss_look_options options = {0};
  struct ss_look *look = NULL;
  struct ss_diag diag = {0};
  pid_t pid = fork();
  if (pid == 0)
    _exit(0);
  waitpid(pid, NULL, 0);
  struct ss_looker *l = ss_looker_new(pid);
  assert_int_equal(ss_look_take(l, &options, &look, &diag), SS_ERR_GONE);
  assert_null(look);
  ss_looker_free(l);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_waiting_thread, start, end),
      cmocka_unit_test_setup_teardown(test_text_and_json, start, end),
      cmocka_unit_test(test_hostile_names),
      cmocka_unit_test(test_names_of_alike),
      cmocka_unit_test(test_ended),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
