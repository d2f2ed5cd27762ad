/*
 * Private to src/python. The order of the parts: a layout (data per CPython
 * minor) says where fields are; objects and line tables are read by it into
 * cached code objects; the walker turns a chain of frames into segments, one
 * per evaluation activation; the merge lays segments over native frames.
 *
 * Nothing here tests a version: differences are fields of struct ss_py_layout.
 */
#ifndef SS_PYTHON_PRIV_H
#define SS_PYTHON_PRIV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "stacksample/buf.h"
#include "stacksample/hash.h"
#include "stacksample/limits.h"
#include "stacksample/python.h"

/* ---- layout -------------------------------------------------------------- */

#define SS_PY_ABSENT UINT32_MAX /* this minor has no such field */

/* Every field that is dereferenced: structure, field, bytes read. Width 0: only
 * the address is used. `tstate.current` is `frame` up to 3.10. */
#define SS_PY_FIELDS(X)                                                                  \
  X(runtime, interpreters, 8)                                                            \
  X(runtime, gil, 0)                                                                     \
  X(interp, next, 8)                                                                     \
  X(interp, threads, 8)                                                                  \
  X(interp, gil, 8)                                                                      \
  X(gil, enabled, 4)                                                                     \
  X(gil, holder, 8)                                                                      \
  X(gil, locked, 4)                                                                      \
  X(tstate, next, 8)                                                                     \
  X(tstate, interp, 8)                                                                   \
  X(tstate, current, 8)                                                                  \
  X(tstate, cframe, 8)                                                                   \
  X(tstate, root_cframe, 0)                                                              \
  X(tstate, base_frame, 8)                                                               \
  X(tstate, thread_id, 8)                                                                \
  X(tstate, native_id, 8)                                                                \
  X(tstate, chunk, 8)                                                                    \
  X(tstate, chunk_top, 8)                                                                \
  X(cframe, current, 8)                                                                  \
  X(cframe, previous, 8)                                                                 \
  X(frame, code, 8)                                                                      \
  X(frame, previous, 8)                                                                  \
  X(frame, instr, 8)                                                                     \
  X(frame, lasti, 4)                                                                     \
  X(frame, owner, 1)                                                                     \
  X(frame, entry, 1)                                                                     \
  X(frame, tlbc, 4)                                                                      \
  X(code, type, 8)                                                                       \
  X(code, size, 8)                                                                       \
  X(code, flags, 4)                                                                      \
  X(code, first_line, 4)                                                                 \
  X(code, filename, 8)                                                                   \
  X(code, name, 8)                                                                       \
  X(code, qualname, 8)                                                                   \
  X(code, table, 8)                                                                      \
  X(code, bytes, 0)                                                                      \
  X(code, print, 8)                                                                      \
  X(code, tlbc, 8)                                                                       \
  X(str, length, 8)                                                                      \
  X(str, state, 4)                                                                       \
  X(str, ascii, 0)                                                                       \
  X(str, compact, 0)                                                                     \
  X(bytes, size, 8)                                                                      \
  X(bytes, data, 0)                                                                      \
  X(frame, locals, 0)                                                                    \
  X(frame, stack, 8)                                                                     \
  X(gen, frame, 0)                                                                       \
  X(gen, state, 1)                                                                       \
  X(task, coro, 8)                                                                       \
  X(task, name, 8)                                                                       \
  X(task, callback, 8)                                                                   \
  X(task, awaited_by, 8)                                                                 \
  X(task, awaited_by_set, 1)                                                             \
  X(type, name, 8)                                                                       \
  X(type, basicsize, 8)                                                                  \
  X(type, dictoffset, 8)                                                                 \
  X(type, cached_keys, 8)                                                                \
  X(type, members, 8)                                                                    \
  X(type, base, 8)                                                                       \
  X(dict, keys, 8)                                                                       \
  X(dict, values, 8)                                                                     \
  X(keys, size, 8)                                                                       \
  X(keys, log2_index_bytes, 1)                                                           \
  X(keys, kind, 1)                                                                       \
  X(keys, count, 8)                                                                      \
  X(keys, indices, 0)

/* Bytes of each structure that we are ready to read in one go. */
enum {
  SS_PY_MAX_runtime = 1 << 20, /* single fields, no buffer */
  SS_PY_MAX_interp = 1 << 20,
  SS_PY_MAX_gil = 64,
  SS_PY_MAX_tstate = 512,
  SS_PY_MAX_cframe = 32,
  SS_PY_MAX_frame = 128,
  SS_PY_MAX_code = 256,
  SS_PY_MAX_str = 96,
  SS_PY_MAX_bytes = 64,
  SS_PY_MAX_gen = 256,
  SS_PY_MAX_task = 256,
  SS_PY_MAX_type = 2048, /* single fields, no buffer */
  SS_PY_MAX_dict = 64,
  SS_PY_MAX_keys = 64,
};

/* What CPython keeps on the C stack in each evaluation activation. */
enum ss_py_anchor {
  SS_PY_ANCHOR_NONE,   /* 3.8, 3.9 */
  SS_PY_ANCHOR_CFRAME, /* _PyCFrame; its chain starts at tstate.cframe */
  SS_PY_ANCHOR_ENTRY   /* entry_frame, a member of the chain of frames */
};
/* Where an activation's last (outermost) Python frame is recognised. */
enum ss_py_boundary {
  SS_PY_BOUNDARY_EACH, /* each frame is an activation */
  SS_PY_BOUNDARY_FLAG, /* frame.is_entry */
  SS_PY_BOUNDARY_OWNER /* followed by an entry_frame: owner == entry_owner */
};
/* Where an instance keeps its attributes. */
enum ss_py_attrs {
  SS_PY_ATTRS_UNREAD, /* not known */
  SS_PY_ATTRS_DICT,   /* to 3.10: a dict at tp_dictoffset */
  SS_PY_ATTRS_SPLIT,  /* 3.11: values at -32, or a dict at -24 */
  SS_PY_ATTRS_TAGGED, /* 3.12: values + 1 (bit 0 set) or a dict at -24 */
  SS_PY_ATTRS_INLINE  /* 3.13: a dict before, else values behind the object */
};
enum ss_py_table { SS_PY_LNOTAB, SS_PY_LINETABLE, SS_PY_LOCATIONS };

struct ss_py_layout {
  uint8_t minor;
  uint8_t anchor;       /* enum ss_py_anchor */
  uint8_t boundary;     /* enum ss_py_boundary */
  uint8_t table;        /* enum ss_py_table */
  uint8_t attrs;        /* enum ss_py_attrs */
  uint8_t values_head;  /* bytes before the first of a PyDictValues */
  uint8_t tuple_hash;   /* bytes between ob_size of a tuple and its first element */
  uint8_t dict_before;  /* INLINE: bytes from the pointer to a dict to the object */
  uint8_t lasti_unit;   /* bytes per f_lasti step; 0: instr is a pointer */
  uint8_t entry_owner;  /* owner of an entry_frame */
  uint8_t owner_max;    /* the largest there is; more is not a frame */
  uint8_t int_shift;    /* bits of an int's size word below its number of digits */
  uint8_t code_tag;     /* low bits of frame.code that are a tag */
  uint8_t kind_shift;   /* bits of str.state: bytes a character (3 bits), */
  uint8_t compact_bit;  /* characters follow the head, */
  uint8_t ascii_bit;    /* all below 128 */
  uint8_t stack_is_int; /* frame.stack counts from frame.locals on (int), else points */
  uint8_t await_slot;   /* a waiting coroutine's awaited object lies so far below the top
                         * of its stack; 0: coroutines that wait are not read */
  int8_t await_min, await_max; /* gen.state of one that waits for another */
  uint32_t shim_flags;         /* co_flags of the __init__ cleanup shim, 0 none */
#define SS_PY_FIELD_MEMBER(group, field, width) uint32_t group##_##field;
  SS_PY_FIELDS(SS_PY_FIELD_MEMBER)
#undef SS_PY_FIELD_MEMBER
  /* Derived: bytes from a structure's start to the end of the last field. */
  uint32_t runtime_need, interp_need, gil_need, tstate_need, cframe_need, frame_need;
  uint32_t code_need, str_need, bytes_need, type_need, dict_need, keys_need;
  uint32_t gen_need, task_need;
};

/* A field of a layout and its offset; ends with SS_PY_PLACES_END. */
struct ss_py_place {
  uint16_t field; /* offsetof(struct ss_py_layout, ...), never 0 */
  uint32_t offset;
};
#define SS_PY_PLACE(name, offset)                                                        \
  {                                                                                      \
    offsetof(struct ss_py_layout, name), offset                                          \
  }
#define SS_PY_PLACES_END                                                                 \
  {                                                                                      \
    0, 0                                                                                 \
  }
void ss_py_place_set(struct ss_py_layout *layout, uint16_t field, uint32_t offset);

/* The layout of a minor, for 3.13 on to be overruled by _Py_DebugOffsets; false:
 * no such version here. */
bool ss_py_layout_static(struct ss_py_layout *layout, unsigned minor, bool free_threaded);
/* Checks every field against its buffer and derives the `need`s. */
enum ss_err ss_py_layout_finish(struct ss_py_layout *layout, struct ss_diag *diag);

/* _Py_DebugOffsets (3.13 on) from `len` bytes at _PyRuntime. */
struct ss_py_debug_head {
  uint64_t version; /* PY_VERSION_HEX */
  bool free_threaded;
};
#define SS_PY_DEBUG_MAX 1024 /* bytes of the largest known, rounded up */
bool ss_py_debug_head(const void *bytes, size_t len, struct ss_py_debug_head *head);
enum ss_err ss_py_layout_debug(struct ss_py_layout *layout, const void *bytes, size_t len,
                               struct ss_diag *diag);

/* ---- line tables --------------------------------------------------------- */

/* From byte `start` of the code on; line 0: none. Sorted by start. */
struct ss_py_line {
  uint32_t start;
  int32_t line;
};
struct ss_py_lines {
  struct ss_py_line *items; /* owned */
  size_t count, cap;
  uint32_t end; /* bytes of code that the table covers */
};
void ss_py_lines_release(struct ss_py_lines *lines);
/* Decodes `len` bytes. On error (FORMAT, LIMIT, NOMEM) `lines` is empty. */
enum ss_err ss_py_lines_decode(struct ss_py_lines *lines, enum ss_py_table format,
                               const void *bytes, size_t len, int first_line);
int ss_py_lines_find(const struct ss_py_lines *lines, uint32_t offset);

/* ---- objects ------------------------------------------------------------- */

/* Code objects are remembered by address, and by what they pointed to: memory
 * of a freed one may hold another one a moment later. */
struct ss_py_code_key {
  uint64_t type, size, filename, name, qualname, table;
  uint64_t print; /* 3.12 on: with co_version, which no two code objects share */
  uint32_t flags;
  int32_t first_line;
};
struct ss_py_code_entry {
  const struct ss_py_code *code; /* in ss_py.arena */
  struct ss_py_code_key key;
  uint64_t start;       /* first instruction, in the target */
  uint64_t size;        /* bytes of instructions */
  uint64_t since_ns;    /* when this key was first met */
  uint64_t trust_ns;    /* until when it needs not be compared again */
  bool once;            /* runs once, as a module does, and may be freed then */
  bool reused;          /* the memory had another code object before */
  uint32_t last_offset; /* the answer given last: a caller's line rarely moves */
  int last_line;        /* 0: none yet */
  struct ss_py_lines lines;
};

/* Reads a str as UTF-8 into `out`, at most SS_PY_STRING_MAX characters (then
 * "..."); control characters stay, NUL and lone surrogates become U+FFFD. */
bool ss_py_str(const struct ss_py_layout *layout, const struct ss_mem *mem, uint64_t addr,
               struct ss_buf *out);
/* Decodes characters of `kind` bytes each: the pure part of it. */
void ss_py_str_decode(const void *bytes, size_t count, unsigned kind, struct ss_buf *out);

/* ---- values -------------------------------------------------------------- */

struct ss_py;

/* What an object is, by the name of its type. */
enum ss_py_kind {
  SS_PY_KIND_OTHER,
  SS_PY_KIND_FRAME,  /* has a frame of its own */
  SS_PY_KIND_LEADS,  /* awaits what its first member says */
  SS_PY_KIND_STEP,   /* runs the task that its first member says */
  SS_PY_KIND_METHOD, /* a method in C; its second member is self */
  SS_PY_KIND_STR,
  SS_PY_KIND_INT,
  SS_PY_KIND_FLOAT,
  SS_PY_KIND_LIST,
  SS_PY_KIND_TUPLE,
  SS_PY_KIND_DICT
};
enum ss_py_kind ss_py_kind_of(struct ss_py *py, const struct ss_mem *mem,
                              uint64_t object);
/* Offset of an object's members, behind what all objects have. */
uint64_t ss_py_members(const struct ss_py *py);
/* An int from 0 to 2^60 - 1. */
bool ss_py_int(const struct ss_py *py, const struct ss_mem *mem, uint64_t object,
               uint64_t *value);

/* ---- the process --------------------------------------------------------- */

enum { SS_PY_TSTATES_MAX = 4 }; /* thread states of one thread (interpreters) */
enum { SS_PY_LOOSE_MAX = 10 };  /* frames outside the data stack in a plan */
enum { SS_PY_ONCE_MAX = 2 };    /* code objects in a plan */

struct ss_py_thread {
  pid_t tid;    /* ours */
  pid_t ns_tid; /* the target's own gettid() */
  unsigned count;
  uint64_t tstate[SS_PY_TSTATES_MAX];
  uint64_t gil;      /* its interpreter's struct _gil_runtime_state; 0 unknown */
  uint64_t retry_ns; /* no thread state: when to look again */
  uint64_t wait_ns;  /* ... and how long to wait after that */
  uint64_t generation;
  uint64_t path_start; /* of the chase's path to the running task; 0 none */
  struct ss_read_plan plan;
  struct ss_py_loose {
    uint64_t frame;
    uint64_t met_ns;                 /* on a stack, the last time */
  } loose[SS_PY_LOOSE_MAX];          /* most recent first */
  unsigned loose_count, loose_first; /* the first one's place in the plan */
};

/* CFA - anchor of an evaluation function: a constant of the build. */
struct ss_py_eval {
  const struct ss_module *module;
  uint64_t function;
  uint64_t delta;
  uint32_t hits;
};
enum { SS_PY_EVALS_MAX = 16, SS_PY_EVAL_SURE = 3 };

struct ss_py_step { /* one Python frame of a walk */
  const struct ss_py_code *code;
  uint64_t frame; /* 0: `code` names an asyncio task */
  int line;
  bool generator; /* the frame lies in a generator or coroutine */
};
struct ss_py_segment { /* the frames of one activation */
  size_t first, count;
  uint64_t anchor;                 /* up to 3.10: the frame itself */
  bool closed;                     /* it ends at an anchor */
  bool late;                       /* frames outside what the plan reads at the sample */
  uint64_t behind;                 /* the frame that called the activation, 0 none */
  size_t await_first, await_count; /* in ss_py.awaits, shown outside its frames */
};

enum { SS_PY_KINDS_MAX = 32 }; /* types that values.c knows by name */

struct ss_py {
  const struct ss_unwind_space *space;
  struct ss_seen *seen; /* borrowed; NULL: nothing is chased */
  struct ss_py_layout layout;
  char version[24];
  uint64_t runtime;     /* _PyRuntime */
  uint64_t code_type;   /* &PyCode_Type; 0: learned from the first code object */
  bool nested_pid_ns;   /* thread ids in the target differ from ours */
  uint32_t pthread_tid; /* offset of the tid in struct pthread, 0 unknown */
  pid_t ns_pid;         /* the target's own getpid() */
  uint64_t listed_ns;   /* when the thread states were last listed */
  uint64_t generation;  /* last one given to a plan */

  struct ss_idmap native; /* ns tid -> first index in tstates + 1 */
  struct ss_py_found {
    uint64_t tstate;
    uint32_t next; /* same thread: index + 1, 0 none */
  } * found;
  size_t found_count, found_cap;
  struct ss_idmap thread_index; /* tid -> index in threads */
  struct ss_py_thread **threads;
  size_t thread_count, thread_cap;

  struct ss_idmap code_index; /* address -> struct ss_py_code_entry * */
  struct ss_idmap code_pool;  /* hash of what is shown -> struct ss_py_code * */
  struct ss_interner names;
  struct ss_arena arena;

  struct ss_py_eval evals[SS_PY_EVALS_MAX];
  unsigned eval_count;
  const struct ss_module *module; /* that defines _PyRuntime */
  uint64_t eval_start, eval_end;  /* _PyEval_EvalFrameDefault in it; 0 unknown */
  uint64_t frame_hits[6];         /* how often a saved register held the current frame */
  uint64_t cframe_delta;          /* CFA - _PyCFrame (3.12, which has both anchors) */
  uint32_t cframe_hits;

  struct ss_py_step *steps; /* scratch of a merge */
  size_t step_count, step_cap;
  struct ss_py_segment *segments;
  size_t segment_count, segment_cap;
  struct ss_py_step *awaits; /* scratch of a merge: tasks and who waits for them */
  size_t await_count, await_cap;
  struct ss_py_type {
    uint64_t type;
    uint8_t kind; /* enum ss_py_kind */
  } kinds[SS_PY_KINDS_MAX];
  unsigned kind_count;
  struct ss_idmap task_names; /* id in `names` -> struct ss_py_code * */
  uint64_t asyncio_tried_at;  /* generation of the mappings */
  uint32_t running_task;      /* offset in a thread state (3.14 on); 0 unknown */
  struct ss_buf scratch;
  uint64_t once[SS_PY_ONCE_MAX]; /* code objects of the running merge that are compared */
  unsigned once_count;           /* at each sample, and have been for long */
  bool chased;                   /* what the running merge needs was read at the sample */
  bool deep;                     /* the running merge met more frames than are kept */
  uint64_t now_ns;               /* time of the running merge */
  struct ss_py_counts counts;
};

/* Where CPython is: fills runtime, code_type, layout, version. */
enum ss_err ss_py_detect(struct ss_py *py, struct ss_diag *diag);

/* The code object at `addr`, from the cache or read now; NULL: not one. */
struct ss_py_code_entry *ss_py_code_at(struct ss_py *py, const struct ss_mem *mem,
                                       uint64_t addr);
/* Tells stage 1 until when the object at `addr` need not be read at a sample; `print` is
 * what tells it from others at that address (0: no code object). `lasting`: as of
 * ss_seen_mark. */
void ss_py_vouch(struct ss_py *py, uint64_t addr, uint64_t print, uint64_t until_ns,
                 bool lasting);
/* A name that is shown as it is, "[task: reader]"; NULL: out of memory. */
const struct ss_py_code *ss_py_shown_name(struct ss_py *py, const char *text, size_t len);
/* Between merges: drops the cache when it has grown too large. */
void ss_py_codes_trim(struct ss_py *py);
void ss_py_codes_release(struct ss_py *py);
/* The current line by an offset into the instructions. */
int ss_py_code_line(struct ss_py_code_entry *entry, uint32_t offset);

void ss_py_threads_open(struct ss_py *py);
struct ss_py_thread *ss_py_thread_find(const struct ss_py *py, pid_t tid); /* or NULL */
/* The thread, listed again where it is unknown (rate-limited unless `sure`);
 * NULL only when out of memory; count 0: runs no Python. */
struct ss_py_thread *ss_py_thread_get(struct ss_py *py, pid_t tid, bool sure);
/* Lists again for a thread some of whose evaluations have no frames: an interpreter may
 * have been made since and run on it. true: it has other thread states now. */
bool ss_py_thread_look_again(struct ss_py *py, struct ss_py_thread *thread);
void ss_py_threads_release(struct ss_py *py);
/* The thread state's bytes, `tstate_need` of them; false: it is gone or is now
 * another thread's. */
bool ss_py_tstate_read(struct ss_py *py, const struct ss_mem *mem, uint64_t tstate,
                       pid_t ns_tid, unsigned char bytes[SS_PY_MAX_tstate]);

/* The thread's struct _gil_runtime_state, remembered; 0: unknown. */
uint64_t ss_py_gil_address(struct ss_py *py, const struct ss_mem *mem,
                           struct ss_py_thread *thread);

/* Memory as one merge sees it: the stack as it was at the sample, all else from
 * what was read then, else live (in blocks, kept for the merge). */
enum { SS_PY_BLOCK = 4096 };
struct ss_py_view {
  const struct ss_mem *stack, *mem;
  uint64_t stack_lo, stack_hi; /* [lo, hi) is read by `stack` */
  uint64_t block_addr;
  size_t block_len;
  unsigned char block[SS_PY_BLOCK];
};
bool ss_py_view_read(struct ss_py_view *view, uint64_t addr, void *buf, size_t len);
/* True: that read is exact, not from later live memory. */
bool ss_py_view_exact(const struct ss_py_view *view, uint64_t addr, size_t len);

struct ss_py_frame {
  uint64_t addr, code, previous, instr;
  int32_t lasti;
  uint32_t tlbc;
  uint8_t owner;
  bool entry;
};
bool ss_py_frame_read(const struct ss_py *py, struct ss_py_view *view, uint64_t addr,
                      struct ss_py_frame *frame);

/* The step of a frame; false: it is not a frame of Python code. */
bool ss_py_step_of(struct ss_py *py, struct ss_py_view *view,
                   const struct ss_py_frame *frame, struct ss_py_step *step);
/* Appends one frame of the walk; false: it is not a frame of Python code. */
bool ss_py_step_add(struct ss_py *py, struct ss_py_view *view,
                    const struct ss_py_frame *frame);
/* Walks the frames of a thread state into py->steps and py->segments (appended,
 * innermost first). An open last segment: its chain could not be followed to an
 * anchor. */
void ss_py_walk(struct ss_py *py, struct ss_py_view *view, uint64_t tstate,
                const unsigned char *tstate_bytes);
/* Goes on behind the activation whose entry_frame is at `anchor` in the snapshot;
 * false: there is none. */
bool ss_py_walk_behind(struct ss_py *py, struct ss_py_view *view,
                       const unsigned char *tstate_bytes, uint64_t anchor);
/* Walks from an activation whose _PyCFrame is at `cframe` (0: not needed) and whose
 * current frame is `frame` (0: as the _PyCFrame says). */
void ss_py_walk_at(struct ss_py *py, struct ss_py_view *view, uint64_t tstate,
                   const unsigned char *tstate_bytes, uint64_t cframe, uint64_t frame);

/* Up to 3.10: assigns each frame's segment to the evaluation frame that has it in
 * a callee-saved register, or (in `stack`) in its own frame. `assigned` (native frame
 * -> segment + 1) is filled; NONE, or why something is left over. */
enum ss_py_doubt ss_py_assign_registers(struct ss_py *py, const struct ss_mem *stack,
                                        const struct ss_frame *native, size_t count,
                                        uint32_t *assigned);
/* Finds the thread's state(s) and walks them, once more with a fresh list where
 * `sure` (it does run Python) and nothing was found. The thread state walked last
 * and its bytes; NULL: none. */
struct ss_py_thread *ss_py_find_frames(struct ss_py *py, struct ss_py_view *view,
                                       pid_t tid, bool sure, uint64_t *tstate,
                                       unsigned char bytes[SS_PY_MAX_tstate]);
/* Is it known that an evaluation function keeps its anchor so far below its CFA? */
bool ss_py_known_place(const struct ss_py *py, uint64_t delta);
/* Was a frame's caller found by the looks of code without a file, which may be CPython's
 * JIT (3.13 on)? Of other such code only what a scan finds is a guess. */
bool ss_py_is_guess(const struct ss_py *py, const struct ss_frame *frame);
/* Is this a frame of the evaluation function, by what was learned or its symbol. */
bool ss_py_is_eval(const struct ss_py *py, const struct ss_frame *frame);

/* Finds the asyncio tasks whose coroutines run in py->segments, and the chain of those
 * that wait for them, into py->awaits. */
void ss_py_tasks_find(struct ss_py *py, struct ss_py_thread *thread,
                      struct ss_py_view *view, uint64_t tstate);
/* How a chase comes from thread->path_start to the running task. */
void ss_py_tasks_path(const struct ss_py *py, const struct ss_py_thread *thread,
                      struct ss_chase *chase);
/* _asyncio's own table of offsets (3.14 on), at `addr`; false: rejected. */
bool ss_py_asyncio_read(struct ss_py *py, uint64_t addr);
void ss_py_tasks_release(struct ss_py *py);

/* Renews the thread's plan where the last merge needed more than it reads. */
void ss_py_plan_update(struct ss_py *py, struct ss_py_thread *thread, uint64_t tstate,
                       const unsigned char *tstate_bytes);

static inline uint64_t ss_py_u64(const unsigned char *bytes, uint32_t offset)
{
  uint64_t value;
  memcpy(&value, bytes + offset, sizeof value);
  return value;
}

static inline uint32_t ss_py_u32(const unsigned char *bytes, uint32_t offset)
{
  uint32_t value;
  memcpy(&value, bytes + offset, sizeof value);
  return value;
}

#endif
