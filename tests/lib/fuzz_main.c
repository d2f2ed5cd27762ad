/*
 * Drives a fuzz entry without libFuzzer: every file given (folders: every
 * file in them) is run once; with `-mutate SECONDS` mutants of these follow
 * until the time is over. `-seed N` makes a run repeatable; the seed is
 * printed. A crash leaves its input in crash-<entry pid>.bin.
 */
#include <dirent.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv) __attribute__((weak));

enum { INPUT_MAX = 1 << 20, CORPUS_MAX = 4096 };

struct input {
  uint8_t *data;
  size_t size;
};
static struct input corpus[CORPUS_MAX];
static size_t corpus_count;
static const uint8_t *running;
static size_t running_size;
static uint64_t random_state;

static uint64_t next_random(void)
{
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

static size_t below(size_t n)
{
  return n > 0 ? (size_t)(next_random() % n) : 0;
}

/* Keeps what crashed us, then dies of the same signal. */
static void on_crash(int sig)
{
  char name[64];
  snprintf(name, sizeof name, "crash-%ld.bin", (long)getpid());
  FILE *f = fopen(name, "wb");
  if (f != NULL) {
    fwrite(running, 1, running_size, f);
    fclose(f);
    fprintf(stderr, "fuzz: input kept in %s\n", name);
  }
  signal(sig, SIG_DFL);
  raise(sig);
}

/* In a heap block of exactly its size, so that ASan sees an over-read. */
static void run(const uint8_t *data, size_t size)
{
  uint8_t *exact = malloc(size > 0 ? size : 1);
  if (exact == NULL)
    exit(99);
  memcpy(exact, data, size);
  running = exact;
  running_size = size;
  LLVMFuzzerTestOneInput(exact, size);
  free(exact);
}

static void load_file(const char *path)
{
  FILE *f = fopen(path, "rb");
  struct input in = {.data = malloc(INPUT_MAX)};

  if (f == NULL || in.data == NULL) {
    fprintf(stderr, "fuzz: cannot read %s\n", path);
    exit(99);
  }
  in.size = fread(in.data, 1, INPUT_MAX, f);
  fclose(f);
  run(in.data, in.size);
  uint8_t *fitted = realloc(in.data, in.size > 0 ? in.size : 1);
  in.data = fitted != NULL ? fitted : in.data;
  if (corpus_count < CORPUS_MAX)
    corpus[corpus_count++] = in;
  else
    free(in.data);
}

static void load(const char *path)
{
  struct stat st;
  char child[4096];
  DIR *dir = stat(path, &st) == 0 && S_ISDIR(st.st_mode) ? opendir(path) : NULL;

  if (dir == NULL) {
    load_file(path);
    return;
  }
  for (struct dirent *e; (e = readdir(dir)) != NULL;) {
    if (e->d_name[0] == '.')
      continue;
    snprintf(child, sizeof child, "%s/%s", path, e->d_name);
    load(child);
  }
  closedir(dir);
}

static void mutate_once(uint8_t *data, size_t *size)
{
  static const uint8_t edges[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
  size_t at = below(*size), len = below(*size - at) % 64 + 1;

  if (*size == 0) {
    data[(*size)++] = (uint8_t)next_random();
    return;
  }
  switch (below(6)) {
  case 0:
    data[at] = (uint8_t)(data[at] ^ 1u << below(8));
    break;
  case 1:
    data[at] = (uint8_t)next_random();
    break;
  case 2: /* a run of an edge value */
    memset(data + at, edges[below(sizeof edges)], len <= *size - at ? len : 1);
    break;
  case 3: /* cut */
    *size = at;
    break;
  case 4: /* remove a piece */
    len = len <= *size - at ? len : 1;
    memmove(data + at, data + at + len, *size - at - len);
    *size -= len;
    break;
  default: /* repeat a piece */
    len = len <= *size - at ? len : 1;
    if (*size + len > INPUT_MAX)
      break;
    memmove(data + at + len, data + at, *size - at);
    *size += len;
  }
}

static unsigned long mutate_for(long seconds)
{
  uint8_t *data = malloc(INPUT_MAX);
  time_t end = time(NULL) + seconds;
  unsigned long runs = 0;

  if (data == NULL)
    exit(99);
  for (; time(NULL) < end; runs++) {
    size_t size = 0;
    if (corpus_count > 0) {
      const struct input *in = &corpus[below(corpus_count)];
      memcpy(data, in->data, in->size);
      size = in->size;
    }
    for (size_t n = below(8) + 1; n > 0; n--)
      mutate_once(data, &size);
    run(data, size);
  }
  free(data);
  return runs;
}

int main(int argc, char **argv)
{
  long seconds = 0;
  unsigned long runs;

  random_state = (uint64_t)time(NULL) << 20 ^ (uint64_t)getpid();
  signal(SIGSEGV, on_crash);
  signal(SIGBUS, on_crash);
  signal(SIGABRT, on_crash);
  if (LLVMFuzzerInitialize != NULL)
    LLVMFuzzerInitialize(&argc, &argv);
  for (int i = 1; i < argc; i++)
    if (strcmp(argv[i], "-mutate") == 0 && i + 1 < argc)
      seconds = strtol(argv[++i], NULL, 10);
    else if (strcmp(argv[i], "-seed") == 0 && i + 1 < argc)
      random_state = strtoull(argv[++i], NULL, 10);
    else
      load(argv[i]);
  random_state |= 1; /* xorshift stays at 0 for ever */
  printf("fuzz: seed %llu\n", (unsigned long long)random_state);
  runs = corpus_count + (seconds > 0 ? mutate_for(seconds) : 0);
  printf("fuzz: %lu inputs, no crash\n", runs);
  for (size_t i = 0; i < corpus_count; i++)
    free(corpus[i].data);
  return 0;
}
