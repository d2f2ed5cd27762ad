/* Functions that hide truncation, run a shell, or are not reentrant. Included
 * by the compiler command line into every file of ours (-include). */
#ifndef STACKSAMPLE_BANNED_H
#define STACKSAMPLE_BANNED_H

/* Their own headers come first, so that only our uses are poisoned. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Macros of glibc (alloca; the others when fortified under clang) cannot be
 * poisoned as they are. */
#undef alloca
#undef sprintf
#undef vsprintf
#pragma GCC poison strcpy strcat strncpy strncat sprintf vsprintf strtok
#pragma GCC poison strtok_r gets atoi atol atoll tmpnam mktemp popen system
#pragma GCC poison alloca asctime ctime chdir

#endif
