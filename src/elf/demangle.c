/*
 * C++ names. The C++ run-time library's own demangler is used; its input and
 * its output are capped, because a symbol of 4 KB may expand exponentially.
 */
#include "elf_priv.h"
#include "stacksample/limits.h"

/* cxxabi.h is a C++ header; this is its C interface (Itanium C++ ABI, 3.4). */
extern char *__cxa_demangle(const char *mangled, char *buffer, size_t *size, int *status);

char *ss_demangle(const char *name)
{
  size_t len = strnlen(name, SS_SYMBOL_NAME_MAX);
  char *copy = strndup(name, len);
  if (copy == NULL || len == SS_SYMBOL_NAME_MAX || name[0] != '_' || name[1] != 'Z')
    return copy;
  copy[strcspn(copy, "@")] = 0; /* a symbol version is no part of the name */
  int status = 0;
  char *plain = __cxa_demangle(copy, NULL, NULL, &status);
  if (plain == NULL || status != 0 ||
      strnlen(plain, SS_DEMANGLED_MAX) == SS_DEMANGLED_MAX) {
    free(plain);
    return copy;
  }
  free(copy);
  return plain;
}
