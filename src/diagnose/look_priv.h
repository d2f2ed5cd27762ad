/* Private to src/diagnose. */
#ifndef STACKSAMPLE_LOOK_PRIV_H
#define STACKSAMPLE_LOOK_PRIV_H

#include "stacksample/blocked.h"
#include "stacksample/look.h"
#include "stacksample/proc.h"
#include "stacksample/python.h"

/* State, call, object, how long: from the system call, /proc and the frames. */
void ss_look_waiting(struct ss_look_thread *t, const struct ss_blocked *b,
                     const struct ss_stat *st, struct ss_py *py,
                     const struct ss_mem *mem);

#endif
