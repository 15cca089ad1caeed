/* One layer of attention in C: two heads, 4096 tokens, each head its own pattern. */
#include <minference/minference.h>
#include <stdio.h>
#include <stdlib.h>

enum { kHeads = 2, kTokens = 4096, kDim = 64, kCount = kHeads * kTokens * kDim };

static minference_tensor tensor(float* data) {
  return (minference_tensor){.data = data,
                             .shape = {1, kHeads, kTokens, kDim},
                             .stride = {kCount, kTokens * kDim, kDim, 1},
                             .dtype = MINFERENCE_F32};
}

int main(void) {
  float* memory = malloc(4 * kCount * sizeof(float));
  if (!memory) return 1;
  for (int i = 0; i < 3 * kCount; ++i) memory[i] = (float)rand() / (float)RAND_MAX - 0.5f;

  const minference_head_pattern heads[kHeads] = {
      {.pattern = MINFERENCE_A_SHAPE, .size = {128, 512}},
      {.pattern = MINFERENCE_VERTICAL_SLASH, .size = {100, 800}},
  };
  minference_prefill_args args = {.struct_size = sizeof args, .heads = heads, .num_heads = kHeads};
  args.query = tensor(memory);
  args.key = tensor(memory + kCount);
  args.value = tensor(memory + 2 * kCount);
  args.out = tensor(memory + 3 * kCount);
  minference_statistics statistics = {.struct_size = sizeof statistics};

  minference_context* context = NULL;
  int failed = minference_context_create(NULL, &context) || minference_prefill(context, &args, &statistics);
  if (failed) fprintf(stderr, "%s\n", minference_last_error());
  if (!failed) printf("density %.1f %%\n", 100.0 * (double)statistics.pairs / (double)statistics.all_pairs);
  minference_context_destroy(context);
  free(memory);
  return failed;
}
