/* MInference in C++ on NVIDIA GPUs. The C ABI of libminference_cuda, a library beside libminference.
 *
 * The contract of minference.h holds, with tensors in the memory of the current device. Work goes to the
 * caller's stream and is not waited for; it reads and writes nothing on the host, so calls can be captured in
 * CUDA graphs.
 */
#ifndef MINFERENCE_MINFERENCE_CUDA_H
#define MINFERENCE_MINFERENCE_CUDA_H

#include "minference/minference.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum minference_cuda_form {
  MINFERENCE_CUDA_ALL = 0,      /* every causal pair */
  MINFERENCE_CUDA_RELATIVE = 1, /* tiles of 64 keys at the same offsets of every 64 rows, and columns */
  MINFERENCE_CUDA_WINDOW = 2    /* 0 <= q - k < local, or k < sink */
} minference_cuda_form;

/* Which pairs one query head computes. Five int32. */
typedef struct minference_cuda_head {
  int32_t form;
  int32_t num_tiles;   /* relative */
  int32_t num_columns; /* relative */
  int32_t sink;        /* window */
  int32_t local;       /* window */
} minference_cuda_head;

/* Everything of one sequence and all its heads. q_len <= kv_len, causal. Query, key, value and out are
 * [1, H, length, D], float16 or bfloat16, D 64, 96 or 128; data pointers, head and row strides are multiples
 * of 16 bytes.
 *
 * The index is device memory and is trusted: tiles of a head are starts relative to the position of a row
 * block's first row, descending and at least 64 apart; its columns are key positions, ascending and unique,
 * in [0, kv_len). */
typedef struct minference_cuda_attention_call {
  size_t struct_size;
  minference_tensor query, key, value, out;
  minference_tensor lse; /* [1, Hq, q_len, 1] f32, natural log; data == NULL: not wanted */
  float softmax_scale;
  int32_t tile_capacity;             /* tiles a row of `tiles` holds */
  int32_t column_capacity;           /* columns a row of `columns` holds */
  const minference_cuda_head* heads; /* [Hq]; NULL: every head computes all causal pairs */
  const int32_t* tiles;              /* [Hq, tile_capacity] */
  const int32_t* columns;            /* [Hq, column_capacity] */
  void* workspace; /* device memory on a 256-byte boundary, of no other call until this one is done */
  size_t workspace_bytes;
  void* stream; /* cudaStream_t */
} minference_cuda_attention_call;

/* Bytes of workspace that the call needs: a function of shapes and capacities. */
MINFERENCE_API minference_status
minference_cuda_attention_workspace(const minference_cuda_attention_call* call, size_t* bytes);
MINFERENCE_API minference_status minference_cuda_attention(const minference_cuda_attention_call* call);

/* The message of this thread's last failed minference_cuda call; "" when none failed. */
MINFERENCE_API const char* minference_cuda_last_error(void);

#ifdef __cplusplus
}
#endif

#endif
