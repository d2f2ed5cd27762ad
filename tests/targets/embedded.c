/* A program of its own that runs Python inside: embedded LIBPYTHON SCRIPT [ARG]. The
 * script finds itself called from `call_into_python`. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

typedef void initialize(int signals);
typedef int run_file(FILE *file, const char *name);

__attribute__((noinline)) static int call_into_python(run_file *run, const char *script)
{
  FILE *file = fopen(script, "r");
  if (!file)
    return 1;
  const int status = run(file, script);
  fclose(file);
  return status != 0;
}

int main(int argc, char **argv)
{
  void *python = argc > 2 ? dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL) : NULL;
  void *start = python ? dlsym(python, "Py_InitializeEx") : NULL;
  void *run = python ? dlsym(python, "PyRun_SimpleFile") : NULL;
  if (!start || !run) {
    fprintf(stderr, "%s\n", argc > 2 ? dlerror() : "embedded LIBPYTHON SCRIPT");
    return 2;
  }
  ((initialize *)start)(0);
  return call_into_python((run_file *)run, argv[2]);
}
