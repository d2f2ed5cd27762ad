/*
 * Is the thread waiting on its CPU? Told by the innermost native frame: by the name of
 * its function in the libraries that have such functions, else by the code around the
 * instruction. Both answers are kept, since threads spin in few places.
 */
#include "pipeline_priv.h"

enum {
  AROUND = 128,        /* bytes on each side: spin loops are shorter */
  PLACES_MAX = 1 << 17 /* remembered of each kind: 2 MB */
};

static uint64_t key_of(const struct ss_module *module, uint64_t vaddr)
{
  return (uint64_t)module->id << 44 ^ vaddr;
}

static void remember(struct ss_idmap *map, uint64_t key, bool answer)
{
  if (map->count < PLACES_MAX)
    (void)ss_idmap_put(map, key, answer);
}

static bool by_name(struct ss_pipeline *p, const struct ss_frame *leaf)
{
  struct ss_module *module = ss_modules_at(p->modules, leaf->module->id);
  uint64_t function = leaf->function ? leaf->function : leaf->vaddr;
  uint64_t key = key_of(leaf->module, function);
  const uint64_t *known = ss_idmap_get(&p->spin_functions, key);
  struct ss_symbol symbol;

  if (known)
    return *known != 0;
  bool spins = module && ss_spin_library(module->name) &&
               ss_module_symbol(module, leaf->vaddr, &symbol) &&
               ss_spin_function(module->name, symbol.name);
  remember(&p->spin_functions, key, spins);
  return spins;
}

static bool by_code(struct ss_pipeline *p, const struct ss_frame *leaf)
{
  struct ss_module *module = ss_modules_at(p->modules, leaf->module->id);
  uint64_t start = leaf->vaddr > AROUND ? leaf->vaddr - AROUND : 0;
  uint64_t key = key_of(leaf->module, leaf->vaddr);
  const uint64_t *known = ss_idmap_get(&p->spin_places, key);
  unsigned char code[2 * AROUND];

  if (known)
    return *known != 0;
  if (start < leaf->function)
    start = leaf->function;
  size_t at = (size_t)(leaf->vaddr - start), len = 0;
  if (module && module->image)
    len = ss_image_read(module->image, start, code, at + AROUND);
  bool spins = at < len && ss_arch_in_spin_loop(code, len, at);
  remember(&p->spin_places, key, spins);
  return spins;
}

bool ss_spinning(struct ss_pipeline *p, const struct ss_frame *leaf)
{
  return leaf->module && (by_name(p, leaf) || by_code(p, leaf));
}

void ss_spinning_release(struct ss_pipeline *p)
{
  ss_idmap_release(&p->spin_functions);
  ss_idmap_release(&p->spin_places);
}
