/* A constructed CPython whose memory is overwritten: the first byte chooses the layout
 * and whether all was read at the sample and asyncio runs, then triples (place in the
 * heap or stack, value). */
#include "py_image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct ss_merged out[64];
  struct ss_py_result result;
  struct image *im = size ? image_new(8 + data[0] % 8, data[0] & 0x80) : NULL;
  if (!im)
    return 0;
  im->mem.holds = data[0] & 0x40 ? image_holds : NULL;
  if (data[0] & 0x20 && im->py->layout.await_slot != 0)
    image_tasks(im);
  image_merge(im, out, 64, &result);
  for (size_t at = 1; at + 4 <= size; at += 4) {
    const size_t place = (size_t)(data[at] | data[at + 1] << 8);
    if (data[at + 2] & 1)
      im->stack[place % IMAGE_STACK] = data[at + 3];
    else
      im->heap[place % IMAGE_HEAP] = data[at + 3];
  }
  ss_py_threads_release(im->py);
  im->py->listed_ns = 0;
  image_merge(im, out, 64, &result);
  ss_py_gil_holder(im->py, IMAGE_TID, &im->mem);
  image_free(im);
  return 0;
}
