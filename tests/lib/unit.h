/* What every unit test includes first: cmocka needs these four before it. */
#ifndef STACKSAMPLE_TEST_UNIT_H
#define STACKSAMPLE_TEST_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif
