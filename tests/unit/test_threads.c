/* Roles of threads by their entry function, and the words of states. */
#include "unit.h"

#include <string.h>

#include "stacksample/context.h"

struct row {
  const char *outer[6]; /* outermost first */
  const char *comm;
  bool leader, python;
  const char *role;
};

static const struct row rows[] = {
    {{"_start", "__libc_start_main", "main"}, "python3", true, true, "main"},
    {{"_start", "main"}, "cat", true, false, "main"},
    /* What a main thread calls does not make it a worker. */
    {{"_start", "gomp_thread_start"}, "pt_main_thread", true, true, "main"},
    {{"clone3", "start_thread", "gomp_thread_start"}, "python3", false, false, "openmp"},
    {{"clone3", "start_thread", "gomp_thread_start.constprop.0"}, "", false, 0, "openmp"},
    {{"clone", "start_thread", "libgomp-a34b3233.so.1+0x1c1b0"}, "", false, 0, "openmp"},
    {{"libc.so.6+0x88f50", "libgomp.so.1+0x1c1b0"}, "", false, false, "openmp"},
    {{"__clone", "start_thread", "__kmp_launch_worker(void*)"}, "", false, 0, "openmp"},
    /* Names are inherited: an OpenMP worker made by an autograd thread. */
    {{"clone3", "start_thread", "gomp_thread_start"},
     "pt_autograd_0",
     false,
     0,
     "openmp"},
    {{"clone3", "start_thread", "blas_thread_server"}, "python", false, false, "blas"},
    {{"clone3", "start_thread", "libscipy_openblas64_-ff651d7f.so+0x123"},
     "",
     false,
     false,
     "blas"},
    {{"clone3", "start_thread", "execute_native_thread_routine",
      "torch::autograd::python::PythonEngine::thread_init(int, "
      "std::shared_ptr<torch::autograd::ReadyQueue> const&, bool)"},
     "python3",
     false,
     true,
     "autograd"},
    {{"clone3", "start_thread",
      "std::thread::_State_impl<std::thread::_Invoker<std::tuple<void "
      "(torch::autograd::Engine::*)()>>>::_M_run()",
      "torch::autograd::Engine::thread_init(int, "
      "std::shared_ptr<torch::autograd::ReadyQueue> const&, bool)"},
     "",
     false,
     false,
     "autograd"},
    {{0}, "pt_autograd_1", false, false, "autograd"},
    {{"_start", "main"}, "pt_data_worker", true, true, "dataloader"},
    {{"clone3", "start_thread", "pythread_wrapper"}, "pt_data_pin", 0, 1, "dataloader"},
    {{"clone3", "start_thread", "pythread_wrapper"}, "loader", false, true, "python"},
    /* Only the entry function counts, not what a thread happens to call. */
    {{"clone3", "start_thread", "pythread_wrapper", "gomp_thread_start"},
     "x",
     false,
     true,
     "python"},
    {{"clone3", "start_thread", "gomp_thread_starter"}, "x", false, false, "native"},
    {{"clone3", "start_thread"}, "x", false, false, "native"},
    {{0}, "x", false, false, "native"},
    {{0}, NULL, false, true, "python"},
};

static void test_roles(void **state)
{
  (void)state;
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    const struct row *r = &rows[i];
    size_t count = 0;
    while (count < 6 && r->outer[count])
      count++;
    const char *role = ss_role_of(r->outer, count, r->comm, r->leader, r->python);
    if (strcmp(role, r->role) != 0)
      fail_msg("row %zu: %s, not %s", i, role, r->role);
  }
}

static void test_states(void **state)
{
  (void)state;
  assert_string_equal(ss_state_word(SS_STATE_USER), "user");
  assert_string_equal(ss_state_word(SS_STATE_UNKNOWN), "unknown");
  assert_string_equal(ss_state_word((enum ss_state)99), "unknown");
  for (unsigned i = 0; i < SS_STATE_COUNT; i++) {
    enum ss_state s = (enum ss_state)i;
    assert_int_equal(ss_state_parse(ss_state_word(s)), s);
    assert_int_equal(ss_state_running(s), i <= SS_STATE_SPIN);
  }
  assert_int_equal(ss_state_parse("use"), SS_STATE_COUNT);
  assert_int_equal(ss_state_parse(""), SS_STATE_COUNT);
}

static void test_what_the_kernel_was_entered_for(void **state)
{
  (void)state;
  static const struct {
    const char *symbol, *text; /* NULL: says nothing */
  } symbols[] = {
      {"__x64_sys_munmap", "[kernel: munmap]"},
      {"ksys_read", "[kernel: read]"},
      {"__x64_sys_exit_group", "[kernel: exit_group]"},
      {"asm_exc_page_fault", "[kernel: page fault]"},
      {"exc_page_fault.cold", "[kernel: page fault]"},
      {"asm_sysvec_apic_timer_interrupt", "[kernel: interrupt]"},
      {"do_exit", "[kernel: exit]"},
      {"do_exit_more", NULL},
      {"__x64_sys_", NULL},
      {"do_syscall_64", NULL},
      {"clear_page_erms", NULL},
      {"", NULL},
  };
  char text[32];
  for (size_t i = 0; i < sizeof symbols / sizeof symbols[0]; i++) {
    bool known = ss_kernel_class(symbols[i].symbol, text, sizeof text);
    assert_int_equal(known, symbols[i].text != NULL);
    if (known)
      assert_string_equal(text, symbols[i].text);
  }
  assert_false(ss_kernel_class("__x64_sys_name_that_is_far_too_long", text, sizeof text));
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_roles),
      cmocka_unit_test(test_states),
      cmocka_unit_test(test_what_the_kernel_was_entered_for),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
