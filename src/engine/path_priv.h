/*
 * The path of one sample, collected innermost first in the pipeline's scratch memory,
 * and the rows of frames that stand in it.
 */
#ifndef SS_PATH_PRIV_H
#define SS_PATH_PRIV_H

#include "pipeline_priv.h"

struct ss_path {
  struct ss_pipeline *p; /* its path[] and path_lines[] hold the frames */
  size_t n;
};
/* Beyond SS_PATH_FRAMES_MAX, and SS_ID_NONE: nothing. `line` 0: not known. */
void ss_path_push(struct ss_path *path, uint32_t frame, int line);
/* What of the sample the kernel ran, under the frame that names its entry. */
void ss_path_push_kernel(struct ss_path *path, const struct ss_record *rec);

uint32_t ss_path_named(struct ss_pipeline *p, enum ss_frame_kind kind, const char *name);
uint32_t ss_path_native(struct ss_pipeline *p, struct ss_process *proc,
                        const struct ss_frame *f);
uint32_t ss_path_python(struct ss_pipeline *p, struct ss_process *proc,
                        const struct ss_py_code *code);

#endif
