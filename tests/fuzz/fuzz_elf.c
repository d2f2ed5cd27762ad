/* ELF images: headers, sections, symbols of any bytes. */
#include <stddef.h>
#include <stdint.h>

#include "stacksample/elf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct ss_image *image = NULL;
  struct ss_symtab *tab = NULL;
  struct ss_section section;
  struct ss_symbol sym;
  unsigned char buf[64];
  if (ss_image_open_bytes(&image, data, size, "fuzz", NULL) != SS_ERR_OK)
    return 0;
  ss_image_section(image, ".eh_frame", &section);
  ss_image_section(image, ".debug_str", &section);
  ss_image_lookup(image, "global_function", &sym);
  ss_image_read(image, 0x380, buf, sizeof buf);
  if (ss_symtab_build(&tab, image, NULL, NULL) == SS_ERR_OK)
    for (uint64_t a = 0; a < 0x1000; a += 16)
      ss_symtab_find(tab, a, &sym);
  ss_symtab_free(tab);
  ss_image_close(image);
  return 0;
}
