/*
 * What a thread is for, told by its entry function.
 *
 * A pool's thread starts in a function of its library, right after the frames
 * of clone and pthread_create that every thread has. The thread's name comes
 * second: it is inherited by threads made later (OpenMP workers of an autograd
 * thread are called pt_autograd_0 too) and may be set to anything.
 */
#include <string.h>

#include "stacksample/context.h"
#include "stacksample/text.h"

/* Starts a thread without saying what for. A name ends where the rule ends, or
 * goes on with arguments, template arguments, a version or an offset. */
static const char *const plumbing[] = {
    "clone",
    "__clone",
    "clone3",
    "__clone3",
    "__GI___clone",
    "__GI___clone3",
    "start_thread",
    "_start",
    "__libc_start_main",
    "__libc_start_call_main",
    "execute_native_thread_routine",
    "std::thread::_State_impl",
    "std::thread::_Invoker",
    "std::__invoke",
    "std::__invoke_impl",
    "libc.so.6",
    "libpthread.so.0",
    "libstdc++.so.6",
    "ld-musl-x86_64",
    "libc.musl-x86_64",
    "void std::__invoke_impl",
    "std::execute_native_thread_routine_compat",
};

struct role_rule {
  const char *name; /* the entry function, or the library where it has no symbol */
  const char *role;
};

static const struct role_rule by_entry[] = {
    {"gomp_thread_start", "openmp"},
    {"libgomp", "openmp"},
    {"__kmp_launch_worker", "openmp"},
    {"__kmp_launch_thread", "openmp"},
    {"__kmp_launch_monitor", "openmp"},
    {"libiomp5", "openmp"},
    {"libomp", "openmp"},
    {"blas_thread_server", "blas"},
    {"libopenblas", "blas"},
    {"libscipy_openblas", "blas"},
    {"torch::autograd::Engine::thread_init", "autograd"},
    {"torch::autograd::Engine::reentrant_thread_init", "autograd"},
    {"torch::autograd::python::PythonEngine::thread_init", "autograd"},
};

/* Prefixes of names that PyTorch gives to its threads (c10::setThreadName). */
static const struct role_rule by_name[] = {
    {"pt_autograd_", "autograd"},
    {"pt_data_worker", "dataloader"},
    {"pt_data_pin", "dataloader"},
};

static bool identifier_char(char c)
{
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         c == '_';
}

/* Libraries carry a hash or version behind their stem (libgomp-a34b3233.so.1),
 * functions end at the first character that no identifier has. */
static bool named(const char *text, const char *rule)
{
  size_t len = strlen(rule);
  if (strncmp(text, rule, len) != 0)
    return false;
  return ss_starts_with(rule, "lib") || !identifier_char(text[len]);
}

static bool is_plumbing(const char *name)
{
  for (size_t i = 0; i < sizeof plumbing / sizeof plumbing[0]; i++)
    if (named(name, plumbing[i]))
      return true;
  return false;
}

static const char *role_of_entry(const char *name)
{
  for (size_t i = 0; i < sizeof by_entry / sizeof by_entry[0]; i++)
    if (named(name, by_entry[i].name))
      return by_entry[i].role;
  return NULL;
}

static const char *role_of_name(const char *name)
{
  for (size_t i = 0; i < sizeof by_name / sizeof by_name[0]; i++)
    if (ss_starts_with(name, by_name[i].name))
      return by_name[i].role;
  return NULL;
}

const char *ss_role_of(const char *const *outer_names, size_t count,
                       const char *thread_name, bool is_leader, bool has_python)
{
  const char *role = NULL;
  size_t entry = 0;
  while (entry < count && is_plumbing(outer_names[entry]))
    entry++;
  if (!is_leader && entry < count)
    role = role_of_entry(outer_names[entry]);
  if (!role && thread_name)
    role = role_of_name(thread_name);
  if (role)
    return role;
  if (is_leader)
    return "main";
  return has_python ? "python" : "native";
}
