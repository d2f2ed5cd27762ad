/*
 * The words of a thread's states, as they stand in profile.db and in every
 * output.
 */
#include <string.h>

#include "stacksample/context.h"

static const char *const words[] = {
#define STATE_WORD(name, word) word,
    SS_STATES(STATE_WORD)
#undef STATE_WORD
};

const char *ss_state_word(enum ss_state state)
{
  return (unsigned)state < SS_STATE_COUNT ? words[state] : words[SS_STATE_UNKNOWN];
}

enum ss_state ss_state_parse(const char *word)
{
  for (unsigned i = 0; i < SS_STATE_COUNT; i++)
    if (strcmp(words[i], word) == 0)
      return (enum ss_state)i;
  return SS_STATE_COUNT;
}

bool ss_state_running(enum ss_state state)
{
  return state == SS_STATE_USER || state == SS_STATE_KERNEL || state == SS_STATE_SPIN;
}

bool ss_state_waiting(enum ss_state state)
{
  return state == SS_STATE_GIL || state == SS_STATE_LOCK || state == SS_STATE_IO ||
         state == SS_STATE_CHILD || state == SS_STATE_SLEEP || state == SS_STATE_WAIT;
}

enum ss_state ss_state_of_reason(const char *name)
{
  for (unsigned i = 0; i < SS_STATE_COUNT && name[0] == '['; i++) {
    size_t len = strlen(words[i]);
    if (!ss_state_running((enum ss_state)i) && strncmp(name + 1, words[i], len) == 0 &&
        (name[1 + len] == ']' || name[1 + len] == ':'))
      return (enum ss_state)i;
  }
  return SS_STATE_COUNT;
}
