/*
 * Threads whose stack pointer points to a buffer most of the time, as in matrix kernels
 * of oneDNN, under callers that change every few microseconds. Ends when it is killed.
 * usage: elsewhere THREADS
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

/* What the stack pointer was is stored in the buffer; there is no unwind information. */
void elsewhere_kernel(long rounds, char *buffer);
__asm__(".text\n"
        ".globl elsewhere_kernel\n.type elsewhere_kernel, @function\n"
        "elsewhere_kernel:\n"
        "  push %rbx\n  push %rbp\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
        "  mov %rsp, %rbp\n  mov %rsi, %rsp\n  mov %rbp, 24(%rsp)\n"
        "1: xor %ebp, %ebp\n  dec %rdi\n  jne 1b\n"
        "  mov 24(%rsp), %rsp\n"
        "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbp\n  pop %rbx\n  ret\n"
        ".size elsewhere_kernel, .-elsewhere_kernel\n");

static volatile unsigned sink;

#define CALLER(name, number, callee)                                                     \
  __attribute__((noinline)) static void name(char *buffer)                               \
  {                                                                                      \
    callee;                                                                              \
    sink += number; /* no two are the same code */                                       \
  }
CALLER(even_inner, 1, elsewhere_kernel(4000, buffer))
CALLER(even_outer, 2, even_inner(buffer))
CALLER(odd_inner, 3, elsewhere_kernel(4000, buffer))
CALLER(odd_middle, 4, odd_inner(buffer))
CALLER(odd_outer, 5, odd_middle(buffer))

static void *work(void *unused)
{
  char *buffer = malloc(65536);
  (void)unused;
  if (buffer == NULL)
    exit(1);
  buffer += 32768;
  for (;;) {
    even_outer(buffer);
    odd_outer(buffer);
  }
}

int main(int argc, char **argv)
{
  long threads = argc > 1 ? strtol(argv[1], NULL, 10) : 0;
  for (long i = 1; i < threads; i++) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, work, NULL) != 0)
      return 1;
  }
  printf("READY\n");
  fflush(stdout);
  work(NULL);
}
