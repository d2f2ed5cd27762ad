/*
 * The single-step oracle: a child runs instruction by instruction through
 * prologues, epilogues, realigned frames, PLT stubs, the vdso, signal handlers,
 * assembler without unwind information, and JIT code with and without it. After every
 * one the unwound stack must be the shadow stack kept from the calls, returns and
 * signals that were executed, and what is claimed of the preserved registers must be
 * what they held at the call. There are no exceptions.
 */
#include "unit.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "jitdump.h"
#include "oracle.h"
#include "tmpdir.h"

/* ---- what the child runs ------------------------------------------------------ */

static int compare_ints(const void *a, const void *b)
{
  return *(const int *)a - *(const int *)b;
}

/* A local that is aligned beyond the stack's 16 bytes, in a function whose frame
 * size is not constant: the compiler addresses the caller by another register. */
__attribute__((noinline)) static int realigned(int n)
{
  __attribute__((aligned(64))) volatile char block[128];
  char *room = __builtin_alloca((size_t)n);
  memset(room, n, (size_t)n);
  block[n & 127] = room[n / 2];
  snprintf(room, (size_t)n, "%d", block[n & 127]);
  return room[0];
}

static void library_calls(void)
{
  int numbers[] = {5, 3, 9, 1, 7};
  char text[64];
  struct timespec now;
  qsort(numbers, 5, sizeof numbers[0], compare_ints);
  snprintf(text, sizeof text, "%d %s", numbers[0], "text");
  clock_gettime(CLOCK_MONOTONIC, &now);
  sink += realigned(40 + numbers[1]) + text[0];
}

/* OpenBLAS's way: registers saved by stores, rsp copied to rbx and aligned, rbp
 * used as data; and a leaf without a frame. Neither has unwind information. */
void no_cfi_kernel(long rounds);
void no_cfi_leaf(void);
__asm__(".text\n"
        ".globl no_cfi_kernel\n.type no_cfi_kernel, @function\n"
        "no_cfi_kernel:\n"
        "  sub $0x60, %rsp\n  mov %rbx, (%rsp)\n  mov %rbp, 8(%rsp)\n"
        "  mov %r12, 16(%rsp)\n  mov %rsp, %rbx\n  sub $0x7080, %rsp\n"
        "  and $-4096, %rsp\n  cmp $0, %rdi\n  je 2f\n"
        "1: mov $0x400, %ebp\n  mov %rdi, 0x28(%rsp)\n  mov 0x28(%rsp), %r12\n"
        "  dec %rdi\n  jne 1b\n"
        "2: mov %rbx, %rsp\n  mov (%rsp), %rbx\n  mov 8(%rsp), %rbp\n"
        "  mov 16(%rsp), %r12\n  add $0x60, %rsp\n  ret\n"
        ".size no_cfi_kernel, .-no_cfi_kernel\n"
        ".globl no_cfi_leaf\n.type no_cfi_leaf, @function\n"
        "no_cfi_leaf:\n  xor %eax, %eax\n3: inc %eax\n  cmp $3, %eax\n  jne 3b\n  ret\n"
        ".size no_cfi_leaf, .-no_cfi_leaf\n");

__attribute__((noinline)) static void assembler(void)
{
  no_cfi_kernel(3);
  no_cfi_leaf();
  sink++;
}

/* oneDNN's preamble, a loop, and the way back. */
static const unsigned char jit_code[] = {
    0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57, /* push rbx rbp r12-r15 */
    0xbd, 0x00, 0x04, 0x00, 0x00,                               /* mov ebp, 0x400 */
    0x48, 0x81, 0xec, 0x20, 0x01, 0x00, 0x00,                   /* sub rsp, 0x120 */
    0x31, 0xc0,                                                 /* xor eax, eax */
    0x48, 0x89, 0x44, 0x24, 0x08,                               /* mov [rsp+8], rax */
    0xff, 0xc0, 0x83, 0xf8, 0x03, 0x75, 0xf4,                   /* inc, cmp 3, jne */
    0x48, 0x81, 0xc4, 0x20, 0x01, 0x00, 0x00,                   /* add rsp, 0x120 */
    0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, /* pops */
    0xc3};

/* oneDNN's matrix product by AVX2: rsp points to the caller's buffer (argument 7), what
 * it was is stored there, and rbp is data. */
static const unsigned char jit_elsewhere[] =
    {0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41,
     0x56, 0x41, 0x57,                         /* push rbx rbp r12-r15 */
     0x48, 0x89, 0xe5,                         /* mov rbp, rsp */
     0xb8, 0x40, 0x00, 0x00, 0x00,             /* mov eax, 64 */
     0x85, 0xff, 0x75, 0x09,                   /* test edi; jne 1f */
     0x48, 0x29, 0xc4, 0x48, 0x83, 0xe4, 0xc0, /* sub, and rsp */
     0xeb, 0x05,                               /* jmp 2f */
     0x48, 0x8b, 0x64, 0x24, 0x38,             /* 1: mov rsp, [rsp+56] */
     0x48, 0x89, 0x6c, 0x24, 0x18,             /* 2: mov [rsp+24], rbp */
     0x31, 0xed, 0xff, 0xc5, 0x83, 0xfd, 0x03,
     0x75, 0xf9,                   /* 3: xor, inc, cmp ebp; jne 3b */
     0x48, 0x8b, 0x64, 0x24, 0x18, /* mov rsp, [rsp+24] */
     0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41,
     0x5c, 0x5d, 0x5b, /* pops */
     0xc3};

/* The preamble of its version 3; rbp is data, too. */
static const unsigned char jit_newer[] = {
    0x55, 0x48, 0x89, 0xe5,                               /* push rbp; mov rbp, rsp */
    0x53, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57, /* push rbx r12-r15 */
    0x48, 0x81, 0xec, 0x60, 0x01, 0x00, 0x00,             /* sub rsp, 0x160 */
    0x31, 0xed, 0xff, 0xc5, 0x83, 0xfd, 0x03, 0x75, 0xf9, /* xor, inc, cmp ebp; jne */
    0x48, 0x81, 0xc4, 0x60, 0x01, 0x00, 0x00,             /* add rsp, 0x160 */
    0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5b, 0x5d, /* pops */
    0xc3};

/* Pushes in a compiler's order. */
static const unsigned char jit_reversed[] = {
    0x41, 0x57, 0x41, 0x56, 0x41, 0x55, 0x41, 0x54, 0x55, 0x53, /* push r15-r12 rbp rbx */
    0x48, 0x83, 0xec, 0x18,                                     /* sub rsp, 24 */
    0x31, 0xed, 0xff, 0xc5, 0x83, 0xfd, 0x03, 0x75, 0xf9, /* xor, inc, cmp ebp; jne */
    0x48, 0x83, 0xc4, 0x18,                               /* add rsp, 24 */
    0x5b, 0x5d, 0x41, 0x5c, 0x41, 0x5d, 0x41, 0x5e, 0x41, 0x5f, /* pops */
    0xc3};

static unsigned char *jit_page, *jit_newer_at, *jit_reversed_at, *jit_elsewhere_at;
static char *jit_buffer;

__attribute__((noinline)) static void call_jit(void)
{
  void (*code)(void);
  void (*elsewhere)(long, long, long, long, long, long, char *);
  memcpy(&code, &jit_page, sizeof code);
  code();
  memcpy(&code, &jit_newer_at, sizeof code);
  code();
  memcpy(&code, &jit_reversed_at, sizeof code);
  code();
  memcpy(&elsewhere, &jit_elsewhere_at, sizeof elsewhere);
  for (long i = 0; i < 2; i++)
    elsewhere(i, 0, 0, 0, 0, 0, jit_buffer);
  sink++;
}

/* Entered by the kernel, left through the C library's restorer. */
static void on_signal(int number)
{
  char text[32];
  snprintf(text, sizeof text, "%d", number);
  sink += text[0];
}

/* On the thread's stack, from a system call that sends it. Where it comes between
 * two instructions the oracle sends it: see `hit_at`. */
static void signals(void)
{
  struct sigaction action = {.sa_handler = on_signal};
  sigaction(SIGUSR1, &action, NULL);
  raise(SIGUSR1);
}

/* JIT code that looks like nothing known, and a call in it, but whose unwind
 * information is in a jitdump. rbp is data in it. */
static const unsigned char registered_code[] = {
    0x55,                                     /* push rbp */
    0x48, 0x81, 0xec, 0x00, 0x10, 0x00, 0x00, /* sub rsp, 0x1000 */
    0xbd, 0x00, 0x04, 0x00, 0x00,             /* mov ebp, 0x400 */
    0xe8, 0x0d, 0x00, 0x00, 0x00,             /* call the last instructions */
    0xff, 0xc8, 0x75, 0xfc,                   /* 1: dec eax; jne 1b */
    0x48, 0x81, 0xc4, 0x00, 0x10, 0x00, 0x00, /* add rsp, 0x1000 */
    0x5d, 0xc3,                               /* pop rbp; ret */
    0xb8, 0x03, 0x00, 0x00, 0x00, 0xc3};      /* mov eax, 3; ret */
#define REGISTERED_FIRST 31                   /* bytes of the first function */

static const unsigned char registered_rows[] = {
    0x41, 0x0e, 16,   0x86, 2, /* after push: CFA rsp+16, rbp at CFA-16 */
    0x47, 0x0e, 0x90, 0x20,    /* after sub: rsp+0x1010 */
    0x55, 0x0e, 16,            /* after add */
    0x41, 0x0e, 8,    0xc6};   /* after pop */

static unsigned char *registered;

/* Writes the dump and maps it, as the marker that it is found by. */
static void write_jitdump(void)
{
  unsigned char cfi[128];
  char folder[TMPDIR_PATH], path[64];
  struct ss_buf b = {0};
  jitdump_header(&b);
  size_t len =
      jitdump_eh_frame(cfi, REGISTERED_FIRST, registered_rows, sizeof registered_rows);
  jitdump_unwinding(&b, cfi, len);
  jitdump_load(&b, (uintptr_t)registered, registered_code, REGISTERED_FIRST, 1, "outer");
  len = jitdump_eh_frame(cfi, sizeof registered_code - REGISTERED_FIRST,
                         (const unsigned char *)"", 0);
  jitdump_unwinding(&b, cfi, len);
  jitdump_load(&b, (uintptr_t)registered + REGISTERED_FIRST, registered_code,
               sizeof registered_code - REGISTERED_FIRST, 2, "inner");
  if (!tmpdir_make(folder))
    _exit(1);
  snprintf(path, sizeof path, "%s/jit-%d.dump", folder, (int)getpid());
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 || write(fd, b.data, b.len) != (ssize_t)b.len ||
      mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0) == MAP_FAILED)
    _exit(1);
  (void)tmpdir_remove(folder); /* the mapping is enough */
}

__attribute__((noinline)) static void call_registered(void)
{
  void (*code)(void);
  memcpy(&code, &registered, sizeof code);
  code();
  sink++;
}

static void stepped_registered(void)
{
  unsigned char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED)
    _exit(1);
  registered = page + 64;
  memcpy(registered, registered_code, sizeof registered_code);
  write_jitdump();
  begin_marker();
  call_registered();
  end_marker();
}

static void stepped(void)
{
  jit_page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (jit_page == MAP_FAILED)
    _exit(1);
  memcpy(jit_page + 512, jit_code, sizeof jit_code);
  jit_elsewhere_at = jit_page + 1024;
  memcpy(jit_elsewhere_at, jit_elsewhere, sizeof jit_elsewhere);
  jit_reversed_at = jit_page + 3072;
  memcpy(jit_reversed_at, jit_reversed, sizeof jit_reversed);
  jit_newer_at = jit_page + 2048;
  memcpy(jit_newer_at, jit_newer, sizeof jit_newer);
  jit_page += 512;
  jit_buffer =
      mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (jit_buffer == MAP_FAILED)
    _exit(1);
  jit_buffer += 4096;
  begin_marker();
  signals();
  library_calls();
  assembler();
  call_jit();
  end_marker();
}

/* OpenBLAS's assembler kernels, where that library is there. */
typedef void gemm_fn(int order, int ta, int tb, int m, int n, int k, double alpha,
                     const double *a, int lda, const double *b, int ldb, double beta,
                     double *c, int ldc);
typedef double dot_fn(int n, const double *x, int dx, const double *y, int dy);

static double matrix_a[256], matrix_b[256], matrix_c[256];

static void *open_blas(void)
{
  setenv("OPENBLAS_CORETYPE", "Haswell", 1); /* the kernels with the large frames */
  setenv("OPENBLAS_NUM_THREADS", "1", 1);
  return dlopen("libopenblas.so.0", RTLD_NOW);
}

static void stepped_blas(void)
{
  void *lib = open_blas();
  gemm_fn *gemm = NULL;
  dot_fn *dot = NULL;
  void *symbol = dlsym(lib, "cblas_dgemm");
  memcpy(&gemm, &symbol, sizeof gemm);
  symbol = dlsym(lib, "cblas_ddot");
  memcpy(&dot, &symbol, sizeof dot);
  if (gemm == NULL || dot == NULL)
    _exit(1);
  /* The first call sets the library up; that is not what is looked at. */
  gemm(102, 111, 111, 4, 4, 4, 1.0, matrix_a, 16, matrix_b, 16, 0.0, matrix_c, 16);
  begin_marker();
  gemm(102, 111, 112, 13, 9, 5, 1.0, matrix_a, 16, matrix_b, 16, 0.0, matrix_c, 16);
  sink += (int)dot(50, matrix_a, 1, matrix_b, 1);
  end_marker();
}

static bool have_blas(void)
{
  int status = 1;
  pid_t pid = fork();
  if (pid == 0)
    _exit(open_blas() == NULL);
  return waitpid(pid, &status, 0) == pid && status == 0 && __builtin_cpu_supports("avx2");
}

/* ---- the tests ------------------------------------------------------------------ */

static void test_every_instruction(void **state)
{
  (void)state;
  /* The first instruction of a function, where the one before is another's, and of
   * code without unwind information; the child has our addresses. */
  static struct oracle o = {.hit_at = {(uintptr_t)realigned, (uintptr_t)no_cfi_kernel}};
  run_oracle(&o, stepped);
  assert_int_equal(o.signals, 3);
  assert_true(o.signal_frames >= 3 * 100);
  assert_true(o.plt >= 5);
  assert_true(o.methods[SS_METHOD_PROLOGUE] >= 30);
  assert_true(o.methods[SS_METHOD_JIT] >= 20);
  assert_true(o.unknown * 10 < o.known);
}

static void test_registered_code(void **state)
{
  (void)state;
  static struct oracle o;
  run_oracle(&o, stepped_registered);
  assert_true(o.methods[SS_METHOD_JIT] >= 15);
  assert_int_equal(o.methods[SS_METHOD_SCAN], 0);
}

static void test_blas_kernels(void **state)
{
  (void)state;
  static struct oracle o;
  if (!have_blas()) {
    print_message("skipped: no libopenblas.so.0, or no AVX2\n");
    skip();
  }
  run_oracle(&o, stepped_blas);
  assert_true(o.methods[SS_METHOD_PROLOGUE] >= 500);
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_instruction),
                                     cmocka_unit_test(test_registered_code),
                                     cmocka_unit_test(test_blas_kernels)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
