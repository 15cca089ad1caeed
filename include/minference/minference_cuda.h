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
  MINFERENCE_CUDA_WINDOW = 2,   /* |q - k| < local, or k < sink */
  MINFERENCE_CUDA_BLOCKS = 3    /* 64-key blocks of its own for every 64 rows */
} minference_cuda_form;

typedef enum minference_cuda_kernel {
  MINFERENCE_CUDA_KERNEL_BEST = 0, /* the first of these that serves the call on this device */
  MINFERENCE_CUDA_KERNEL_SM90 = 1, /* Hopper; D 64, 96, 128 or 256; no dense rows; data pointers multiples of
                                      16 bytes, and so, where there are several, positive strides of heads and rows */
  MINFERENCE_CUDA_KERNEL_SM80 = 2  /* compute capability 8.0 and later; every call */
} minference_cuda_kernel;

/* Which pairs one query head computes. Five int32. */
typedef struct minference_cuda_head {
  int32_t form;
  int32_t num_tiles;   /* relative */
  int32_t num_columns; /* relative */
  int32_t sink;        /* window */
  int32_t local;       /* window */
} minference_cuda_head;

/* Everything of one sequence and all its heads. q_len <= kv_len. Query, key, value and out are
 * [1, H, length, D], float16 or bfloat16, D a multiple of 8 up to 256. Inputs whose rows do not begin on 16-byte
 * boundaries are copied to the workspace first.
 *
 * The index is device memory and is trusted: tiles of a head are starts relative to the position of a row
 * block's first row, descending and at least 64 apart; its columns are key positions, ascending and unique,
 * in [0, kv_len); key blocks of a row block are in [0, ceil(kv_len / 64)), ascending and unique. */
typedef struct minference_cuda_attention_call {
  size_t struct_size;
  minference_tensor query, key, value, out;
  minference_tensor lse;             /* [1, Hq, q_len, 1] f32, natural log; data == NULL: not wanted */
  float softmax_scale;               /* above 0 */
  int32_t tile_capacity;             /* tiles a row of `tiles` holds */
  int32_t column_capacity;           /* columns a row of `columns` holds */
  const minference_cuda_head* heads; /* [Hq]; NULL: every head computes all causal pairs */
  const int32_t* tiles;              /* [Hq, tile_capacity] */
  const int32_t* columns;            /* [Hq, column_capacity] */
  void* workspace; /* device memory on a 256-byte boundary, of no other call until this one is done */
  size_t workspace_bytes;
  void* stream;               /* cudaStream_t */
  int32_t non_causal;         /* 1: no causal mask; then no relative heads */
  int32_t kernel;             /* minference_cuda_kernel */
  const int32_t* row_offsets; /* [Hq, ceil(q_len / 64) + 1], rising from 0; NULL: no head has block lists */
  const int32_t*
      key_blocks; /* [Hq, block_capacity]: row block b computes key_blocks[row_offsets[b]] up to, not
                                 including, key_blocks[row_offsets[b + 1]] */
  int32_t block_capacity;
  const int32_t* last_dense_rows; /* [Hq]: so many of the call's last rows compute every pair; NULL: none */
} minference_cuda_attention_call;

/* Bytes of workspace that the call needs: a function of shapes, strides, capacities and data pointers' alignment. */
MINFERENCE_API minference_status
minference_cuda_attention_workspace(const minference_cuda_attention_call* call, size_t* bytes);
MINFERENCE_API minference_status minference_cuda_attention(const minference_cuda_attention_call* call);

/* ---- MInference for a layer ------------------------------------------------------------------------------ */

/* What the calls below share: q_len <= kv_len; tensors [B, H, length, D] with device == 1, float16 or
 * bfloat16, D a multiple of 8 up to 256; data pointers and the strides of batch entries, heads and rows multiples
 * of 16 bytes; at most 128 query heads; at most 1,536,000 keys with block-sparse heads; a device of compute
 * capability 8.0 or later. Patterns, `heads`, are host memory and read before the call returns: any, but only dense
 * and A-shape when non_causal. Heads are estimated, selected and indexed on the device as minference.h says; there
 * too is decided which vertical-slash and adaptive ones run densely by fallback.
 *
 * An adaptive head may select more columns than `column_capacity`; it then computes every pair, whatever
 * `fallback` says.
 *
 * Every call has a function that says how many bytes of workspace it needs, given the same struct: device
 * memory on a 256-byte boundary, of no other call until this one is done. */

/* Room for tiles and columns of a head: enough for whatever the published selection keeps, and for a
 * sixteenth of the keys in an adaptive head. */
typedef struct minference_cuda_capacity {
  int32_t tiles, columns;
} minference_cuda_capacity;

/* estimate -> select -> index for one sequence, B == 1. */
typedef struct minference_cuda_index_call {
  size_t struct_size;
  minference_tensor query;              /* [1, Hq, q_len, D] */
  minference_tensor key;                /* [1, Hkv, kv_len, D] */
  float softmax_scale;                  /* 0: 1 / sqrt(D) */
  int32_t fallback;                     /* minference_fallback */
  const minference_head_pattern* heads; /* host memory, [num_heads], num_heads == Hq */
  int64_t num_heads;
  /* What minference_cuda_attention takes: the index. */
  minference_cuda_capacity capacity;
  minference_cuda_head* index_heads; /* [Hq] */
  int32_t* tiles;                    /* [Hq, capacity.tiles] */
  int32_t* columns;                  /* [Hq, capacity.columns] */
  /* Each may be NULL. */
  int64_t* pairs;         /* [Hq]: pairs that the head computes, each once */
  int32_t* offsets;       /* [Hq, offset_capacity], ascending, of vertical-slash and adaptive heads */
  int32_t* offset_counts; /* [Hq]; with offsets. Where a count is larger, the row has the smallest ones */
  int32_t offset_capacity;
  float* column_sums;   /* [Hq, kv_len], of the same heads; NULL if and only if diagonal_sums is */
  float* diagonal_sums; /* [Hq, kv_len] */
  void* workspace;
  size_t workspace_bytes;
  void* stream;             /* cudaStream_t */
  int32_t non_causal;       /* 1: no causal mask; then dense and A-shape only */
  int32_t* last_dense_rows; /* [Hq]; may be NULL when no head has any */
  /* As minference_cuda_attention takes them; may be NULL without block-sparse heads. A block_capacity of
   * ceil(q_len / 64) * max(top_k, 3) is enough. */
  int32_t* row_offsets; /* [Hq, ceil(q_len / 64) + 1] */
  int32_t* key_blocks;  /* [Hq, block_capacity] */
  int32_t block_capacity;
  int32_t
      share_index; /* as in minference_prefill_args: the heads that share an index have copies of it, and sums
                          and offsets of all together in the row of the first */
} minference_cuda_index_call;

/* From query, key and heads alone. */
MINFERENCE_API minference_status minference_cuda_index_capacity(const minference_cuda_index_call* call,
                                                                minference_cuda_capacity* capacity);
MINFERENCE_API minference_status minference_cuda_index_workspace(const minference_cuda_index_call* call,
                                                                 size_t* bytes);
MINFERENCE_API minference_status minference_cuda_index(const minference_cuda_index_call* call);

/* The index of given columns and offsets, as minference_index_vertical_slash, without fallback. The lists are
 * device memory in any order, duplicates count once; members outside [0, kv_len) are left out. A head whose
 * index does not fit `capacity` computes every pair: {ceil(kv_len / 64) + 1, columns given} is enough. */
typedef struct minference_cuda_vertical_slash_call {
  size_t struct_size;
  int64_t q_len, kv_len, num_heads;
  const int32_t* columns;     /* [num_heads, column_stride] */
  const int32_t* num_columns; /* [num_heads], device memory; NULL: column_stride each */
  int32_t column_stride;
  int32_t offset_stride;
  const int32_t* offsets;     /* [num_heads, offset_stride] */
  const int32_t* num_offsets; /* as num_columns */
  minference_cuda_capacity capacity;
  minference_cuda_head* index_heads; /* [num_heads] */
  int32_t* tiles;                    /* [num_heads, capacity.tiles] */
  int32_t* index_columns;            /* [num_heads, capacity.columns] */
  int64_t* pairs;                    /* [num_heads] or NULL */
  void* workspace;
  size_t workspace_bytes;
  void* stream;
} minference_cuda_vertical_slash_call;
MINFERENCE_API minference_status
minference_cuda_vertical_slash_workspace(const minference_cuda_vertical_slash_call* call, size_t* bytes);
MINFERENCE_API minference_status
minference_cuda_vertical_slash(const minference_cuda_vertical_slash_call* call);

/* estimate -> select -> index -> attend for all heads of one layer: minference_prefill. Sequences, in host
 * memory, are computed one after the other on the stream; rows in none get out = 0 and lse = -inf.
 *
 * With a block table keys and values are read from a paged cache: key and value are pools of pages,
 * [num_pages, Hkv, page_size, D] in any strides (those of vLLM's and FlashAttention's [num_pages, page_size,
 * Hkv, D] too), and key k of sequence i lies in row k % page_size of page block_table[i][k / page_size].
 * `sequences` is then given, with kv_begin 0. The workspace holds the keys and values of one sequence more. */
typedef struct minference_cuda_prefill_call {
  size_t struct_size;
  minference_tensor query;              /* [B, Hq, q_len, D] */
  minference_tensor key, value;         /* [B, Hkv, kv_len, D] */
  minference_tensor out;                /* like query */
  minference_tensor lse;                /* [B, Hq, q_len, 1] f32, natural log; data == NULL: not wanted */
  float softmax_scale;                  /* 0: 1 / sqrt(D) */
  int32_t fallback;                     /* minference_fallback */
  const minference_sequence* sequences; /* host memory, [num_sequences]; NULL: every batch entry whole */
  int64_t num_sequences;
  const minference_head_pattern* heads; /* host memory, [num_heads], num_heads == Hq */
  int64_t num_heads;
  int32_t column_capacity; /* 0: what minference_cuda_index_capacity would say of each sequence */
  int64_t* pairs;          /* device memory, [num_sequences, Hq]; NULL: not wanted */
  void* workspace;
  size_t workspace_bytes;
  void* stream;
  const int32_t* block_table; /* device memory, [num_sequences, block_table_stride]; NULL: not paged. Its
                                 pages are trusted to be in the pool */
  int64_t block_table_stride; /* pages a sequence can have */
  int32_t non_causal;         /* 1: no causal mask; then dense and A-shape only */
  int32_t share_index;        /* as in minference_prefill_args */
} minference_cuda_prefill_call;
MINFERENCE_API minference_status minference_cuda_prefill_workspace(const minference_cuda_prefill_call* call,
                                                                   size_t* bytes);
MINFERENCE_API minference_status minference_cuda_prefill(const minference_cuda_prefill_call* call);

/* The message of this thread's last failed minference_cuda call; "" when none failed. */
MINFERENCE_API const char* minference_cuda_last_error(void);

#ifdef __cplusplus
}
#endif

#endif
