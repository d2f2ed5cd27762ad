/*
 * Notes: remarks that any thread may leave for the summary.
 *
 * There are few different ones (SS_NOTES_MAX), so a linear search under one
 * lock is enough; a note is never on the path of a single sample.
 */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stacksample/error.h"
#include "stacksample/escape.h"
#include "stacksample/limits.h"

struct note {
  char text[256];
  size_t count;
};

struct ss_notes {
  pthread_mutex_t lock;
  size_t count;
  size_t dropped; /* notes that found no room */
  struct note notes[SS_NOTES_MAX];
};

struct ss_notes *ss_notes_new(void)
{
  struct ss_notes *notes = calloc(1, sizeof *notes);

  if (notes != NULL && pthread_mutex_init(&notes->lock, NULL) != 0) {
    free(notes);
    return NULL;
  }
  return notes;
}

void ss_notes_free(struct ss_notes *notes)
{
  if (notes == NULL)
    return;
  pthread_mutex_destroy(&notes->lock);
  free(notes);
}

static void add_locked(struct ss_notes *notes, const char *text)
{
  for (size_t i = 0; i < notes->count; i++) {
    if (strcmp(notes->notes[i].text, text) == 0) {
      notes->notes[i].count++;
      return;
    }
  }
  if (notes->count == SS_NOTES_MAX) {
    notes->dropped++;
    return;
  }
  struct note *note = &notes->notes[notes->count++];
  snprintf(note->text, sizeof note->text, "%s", text);
  note->count = 1;
}

void ss_note(struct ss_notes *notes, const char *fmt, ...)
{
  char raw[sizeof notes->notes[0].text];
  char text[sizeof raw];
  va_list ap;

  if (notes == NULL)
    return;
  va_start(ap, fmt);
  int n = vsnprintf(raw, sizeof raw, fmt, ap);
  va_end(ap);
  if (n < 0)
    return;
  ss_terminal_copy(text, sizeof text, raw, strlen(raw));
  pthread_mutex_lock(&notes->lock);
  add_locked(notes, text);
  pthread_mutex_unlock(&notes->lock);
}

void ss_notes_each(struct ss_notes *notes,
                   void (*each)(void *arg, const char *text, size_t count), void *arg)
{
  if (notes == NULL)
    return;
  pthread_mutex_lock(&notes->lock);
  for (size_t i = 0; i < notes->count; i++)
    each(arg, notes->notes[i].text, notes->notes[i].count);
  if (notes->dropped > 0)
    each(arg, "further remarks were not kept", notes->dropped);
  pthread_mutex_unlock(&notes->lock);
}
