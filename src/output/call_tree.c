/*
 * A call tree over texts: what the aggregating writers (folded stacks, the
 * flamegraph, V8 sample events) share.
 *
 * Invariant: a node's parent has a lower index.
 */
#include <stdlib.h>
#include <string.h>

#include "output_priv.h"

void ss_tree_release(struct ss_tree *tree)
{
  free(tree->nodes);
  ss_idmap_release(&tree->index);
  *tree = (struct ss_tree){0};
}

uint32_t ss_tree_child(struct ss_tree *tree, uint32_t parent, uint32_t text)
{
  uint64_t key = (uint64_t)parent << 32 | text;
  const uint64_t *known = ss_idmap_get(&tree->index, key);
  if (known != NULL)
    return (uint32_t)*known;
  if (tree->count >= SS_ID_NONE ||
      !ss_grow(&tree->nodes, &tree->cap, tree->count + 1, sizeof *tree->nodes) ||
      !ss_idmap_put(&tree->index, key, tree->count))
    return SS_ID_NONE;
  tree->nodes[tree->count] = (struct ss_tree_node){.parent = parent, .text = text};
  return (uint32_t)tree->count++;
}

/* ---- preorder ------------------------------------------------------------------ */

struct sort_item {
  const char *text;
  uint32_t node;
};

static int by_text(const void *a, const void *b)
{
  const struct sort_item *x = a, *y = b;
  int order = strcmp(x->text, y->text);
  return order != 0 ? order : (x->node > y->node) - (x->node < y->node);
}

struct links {
  uint32_t *first, *next, first_root;
};

/* Children as linked lists, in the order of `items`. */
static void link_children(const struct ss_tree *tree, const struct sort_item *items,
                          struct links *l)
{
  memset(l->first, 0xff, tree->count * sizeof *l->first);
  l->first_root = SS_ID_NONE;
  for (size_t i = tree->count; i-- > 0;) {
    uint32_t node = items[i].node, parent = tree->nodes[node].parent;
    uint32_t *head = parent == SS_ID_NONE ? &l->first_root : &l->first[parent];
    l->next[node] = *head;
    *head = node;
  }
}

static void walk(const struct ss_tree *tree, const struct links *l, uint32_t *order)
{
  size_t n = 0;
  uint32_t node = l->first_root;
  while (node != SS_ID_NONE) {
    order[n++] = node;
    uint32_t go = l->first[node];
    while (go == SS_ID_NONE && node != SS_ID_NONE) {
      go = l->next[node];
      node = tree->nodes[node].parent;
    }
    node = go;
  }
}

uint32_t *ss_tree_preorder(const struct ss_tree *tree, const struct ss_texts *texts)
{
  size_t n = tree->count + 1; /* never 0 bytes */
  uint32_t *order = calloc(n, sizeof *order);
  struct sort_item *items = calloc(n, sizeof *items);
  struct links l = {calloc(n, sizeof(uint32_t)), calloc(n, sizeof(uint32_t)), 0};
  if (order == NULL || items == NULL || l.first == NULL || l.next == NULL) {
    free(order);
    order = NULL;
    goto out;
  }
  for (size_t i = 0; i < tree->count; i++) {
    items[i].text = ss_texts_str(texts, tree->nodes[i].text, NULL);
    items[i].node = (uint32_t)i;
  }
  qsort(items, tree->count, sizeof *items, by_text);
  link_children(tree, items, &l);
  walk(tree, &l, order);
out:
  free(items);
  free(l.first);
  free(l.next);
  return order;
}
