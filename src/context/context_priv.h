/*
 * Parts of src/context that its tests share.
 */
#ifndef STACKSAMPLE_CONTEXT_PRIV_H
#define STACKSAMPLE_CONTEXT_PRIV_H

#include <stddef.h>

#include "stacksample/context.h"

/* The text of native_functions.yaml; NULL when out of memory. */
struct ss_overloads *ss_overloads_parse(const char *text, size_t len);

#endif
