/* MInference in C++: dynamic sparse attention for long-context prefill. The C ABI of libminference.
 *
 * Contract
 *   - A function that can fail returns a minference_status, or NULL where it returns a string; minference_last_error()
 *     then says what, per thread, in the form "name rule, got value". On failure no output has been written, unless the function says otherwise.
 *   - Tensors are borrowed for the call and never freed. Strides are in elements; the last dimension is contiguous.
 *     Outputs alias no input.
 *   - Handles are owned by the caller; destroying NULL is legal. Pattern sets and indices are immutable and may be shared
 *     by threads. A context runs one call at a time: a second one, from any thread, gets MINFERENCE_BUSY. Use one context
 *     a thread. After fork(), the child's copy of a context is free, even if another thread was in the middle of a call, and
 *     where it has threads of its own, it starts them anew.
 *   - Structs begin with struct_size, which the caller sets to sizeof: later versions append fields only. Those that come
 *     in arrays or inside others, minference_tensor, minference_sequence and minference_head_pattern, have none and never
 *     change. Zero in every other field is its default unless a comment says otherwise.
 *   - The library never prints, exits, or changes global state, with two exceptions: where the CPU has AMX, the process asks
 *     Linux once for permission to use the tile registers; and loading the library registers a fork handler, which counts.
 *
 * Words: B batch, Hq query heads, Hkv key/value heads (Hq % Hkv == 0; query head h reads head h / (Hq / Hkv)), D head_dim.
 * Positions: query row i of a sequence stands at key position kv_len - q_len + i (bottom-right aligned).
 */
#ifndef MINFERENCE_MINFERENCE_H
#define MINFERENCE_MINFERENCE_H

#include <stddef.h>
#include <stdint.h>

#define MINFERENCE_VERSION "0.1.0"
#define MINFERENCE_ABI_VERSION 1

#if defined(MINFERENCE_STATIC)
#define MINFERENCE_API
#else
#define MINFERENCE_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum minference_status {
  MINFERENCE_OK = 0,
  MINFERENCE_INVALID_ARGUMENT = 1, /* a caller's mistake; the message names argument, rule and value */
  MINFERENCE_UNSUPPORTED = 2,      /* legal, but not on this machine or in this version */
  MINFERENCE_OUT_OF_MEMORY = 3,
  MINFERENCE_BUSY = 4,    /* the context is running another call */
  MINFERENCE_IO = 5,      /* a file could not be read or written */
  MINFERENCE_INTERNAL = 6 /* a defect in the library */
} minference_status;

/* MINFERENCE_VERSION and MINFERENCE_ABI_VERSION of the loaded library. */
MINFERENCE_API const char* minference_version(void);
MINFERENCE_API uint32_t minference_abi_version(void);

/* Status and message of this thread's last failed call; MINFERENCE_OK and "" when none failed. The message is valid until
 * the next one, and has at most 1023 bytes: of a longer one the middle is left out. */
MINFERENCE_API minference_status minference_last_status(void);
MINFERENCE_API const char* minference_last_error(void);

/* ---- Tensors ---------------------------------------------------------------------------------------------------- */

typedef enum minference_dtype {
  MINFERENCE_F32 = 1,
  MINFERENCE_F16 = 2,
  MINFERENCE_BF16 = 3,
  MINFERENCE_I32 = 4,
  MINFERENCE_I64 = 5
} minference_dtype;

/* A tensor of four dimensions in host memory. Query, key, value and out are [B, H, length, D] with stride[3] == 1. */
typedef struct minference_tensor {
  void* data; /* NULL: absent, where a field allows that */
  int64_t shape[4];
  int64_t stride[4]; /* elements */
  int32_t dtype;     /* minference_dtype */
  int32_t device;    /* 0: host memory */
} minference_tensor;

/* One sequence inside [B, H, length, D] tensors: rows [q_begin, q_begin + q_len) of batch entry `batch` attend to keys
 * [kv_begin, kv_begin + kv_len) of the same entry. Padded batches have one an entry, packed ones several.
 * 0 <= q_len <= kv_len when causal. Sequences must not share query rows. */
typedef struct minference_sequence {
  int64_t batch, q_begin, q_len, kv_begin, kv_len;
} minference_sequence;

/* ---- Context: threads and instruction set ------------------------------------------------------------------------ */

typedef struct minference_context minference_context;

/* Calls task(argument, i) for every i in [0, num_tasks), in any order and on any threads, and returns when all have. */
typedef void (*minference_parallel_for)(void* state, int64_t num_tasks,
                                        void (*task)(void* argument, int64_t i), void* argument);

typedef struct minference_context_options {
  size_t struct_size;
  int32_t num_threads; /* 0: num_cpus, or as many as CPUs this process may use; at most 4096 */
  int32_t num_cpus;    /* 0: the pool's threads may run on every CPU that this process may use */
  /* [num_cpus]: thread i runs on cpus[i % num_cpus]; thread 0 is the caller's and stays. All must be CPUs that this
   * process may use, which are those of its main thread. Not together with parallel_for. */
  const int32_t* cpus;
  /* NULL or "": environment variable MINFERENCE_ISA, else the best here; otherwise one of "portable", "avx2", "avx512",
   * "avx512bf16", "amx". */
  const char* isa;
  minference_parallel_for parallel_for; /* NULL: a pool of the context's own, which sleeps between calls */
  void* parallel_for_state;
} minference_context_options;

/* options == NULL: all defaults. */
MINFERENCE_API minference_status minference_context_create(const minference_context_options* options,
                                                           minference_context** context);
MINFERENCE_API void minference_context_destroy(minference_context* context);
MINFERENCE_API int32_t minference_context_num_threads(const minference_context* context);
MINFERENCE_API const char* minference_context_isa(const minference_context* context);

/* A minference_parallel_for over the threads of an OpenMP runtime that the process has loaded, for hosts whose threads are
 * bound to cores or spin: threads of the library's own would get in their way. parallel_for_state is the address of the
 * runtime's GOMP_parallel, which LLVM's and Intel's runtimes have like GNU's; the context's num_threads says how many of
 * its threads work. */
MINFERENCE_API void minference_openmp_parallel_for(void* gomp_parallel, int64_t num_tasks,
                                                   void (*task)(void* argument, int64_t i), void* argument);

/* The kernel that `step` ("attention" or "estimate") picks for this dtype and head_dim, e.g. "avx512bf16"; NULL when
 * it fails: minference_last_status() says why. `isa` NULL as in the options. */
MINFERENCE_API const char* minference_kernel_name(const char* step, const char* isa, int32_t dtype,
                                                  int64_t head_dim);

/* ---- Head patterns ------------------------------------------------------------------------------------------------ */

typedef enum minference_pattern {
  MINFERENCE_DENSE = 0,
  MINFERENCE_A_SHAPE = 1,        /* size = {sink, local}: keys k < sink, or 0 <= q - k < local */
  MINFERENCE_VERTICAL_SLASH = 2, /* size = {vertical, slash}: budgets of MInference 1.0's selection */
  MINFERENCE_BLOCK_SPARSE = 3,   /* size = {top_k, 0}: 64-key blocks a 64-row block */
  MINFERENCE_ADAPTIVE = 4        /* vertical-slash, chosen online so as to keep `share_ppm` of the mass */
} minference_pattern;

/* Five int32, so that an int32 array [num_heads, 5] is an array of these. */
typedef struct minference_head_pattern {
  int32_t pattern;         /* minference_pattern */
  int32_t size[2];         /* meaning by pattern, see above; >= 0 */
  int32_t last_dense_rows; /* >= 0: the call's last rows, computed densely. A-shape with it is TriShape */
  int32_t share_ppm;       /* adaptive: share of the estimated mass in parts per million, 1 .. 1000000 */
} minference_head_pattern;

typedef struct minference_patterns minference_patterns;

/* Reads a head-pattern file: our JSON, or MInference 1.0's, of at most 64 MiB. A file that breaks a rule is refused with a
 * message that says what and where. */
MINFERENCE_API minference_status minference_patterns_load(const char* path, minference_patterns** patterns);
/* The same from memory, with the same limit; `name` begins the messages. */
MINFERENCE_API minference_status minference_patterns_parse(const char* text, size_t text_size,
                                                           const char* name, minference_patterns** patterns);
/* The set compiled into the library for a hub id such as "meta-llama/Llama-3.1-8B-Instruct". */
MINFERENCE_API minference_status minference_patterns_builtin(const char* model,
                                                             minference_patterns** patterns);
/* A set from an array [num_layers, num_query_heads]. */
MINFERENCE_API minference_status minference_patterns_create(int64_t num_layers, int64_t num_query_heads,
                                                            const minference_head_pattern* heads,
                                                            const char* source,
                                                            minference_patterns** patterns);
MINFERENCE_API void minference_patterns_destroy(minference_patterns* patterns);

/* Hub ids with a built-in set, sorted: 0 <= i < count; outside, NULL without a message. */
MINFERENCE_API int64_t minference_builtin_count(void);
MINFERENCE_API const char* minference_builtin_model(int64_t i);

MINFERENCE_API int64_t minference_patterns_num_layers(const minference_patterns* patterns);
MINFERENCE_API int64_t minference_patterns_num_query_heads(const minference_patterns* patterns);
MINFERENCE_API const char* minference_patterns_source(const minference_patterns* patterns);
/* Copies layer `layer`'s num_query_heads patterns. */
MINFERENCE_API minference_status minference_patterns_layer(const minference_patterns* patterns, int64_t layer,
                                                           minference_head_pattern* heads);
/* Refuses, naming both counts, unless the set has exactly these. */
MINFERENCE_API minference_status minference_patterns_check(const minference_patterns* patterns,
                                                           int64_t num_layers, int64_t num_query_heads);
/* Our JSON, zero-terminated; owned by the set. */
MINFERENCE_API minference_status minference_patterns_json(const minference_patterns* patterns,
                                                          const char** text);
/* Written to a temporary file beside `path`, then renamed. */
MINFERENCE_API minference_status minference_patterns_save(const minference_patterns* patterns,
                                                          const char* path);

/* ---- A whole layer ------------------------------------------------------------------------------------------------- */

typedef enum minference_fallback {
  MINFERENCE_FALLBACK_AUTO = 0, /* short calls, and heads whose index costs more than dense, run densely */
  MINFERENCE_FALLBACK_OFF = 1   /* always what the pattern says */
} minference_fallback;

/* Filled on success, untouched on failure. Arrays are the caller's, or NULL. */
typedef struct minference_statistics {
  size_t struct_size;
  double seconds_estimate, seconds_select, seconds_index, seconds_attend;
  int64_t pairs; /* computed pairs of the index contract, each once, over sequences and heads */
  int64_t
      all_pairs; /* of the same rows, causal ones unless non_causal; density = pairs / all_pairs, 1 of none */
  double* head_density;   /* [num_sequences, Hq] */
  int32_t* head_fallback; /* [num_sequences, Hq]: 1 where the head ran densely by fallback */
} minference_statistics;

typedef struct minference_prefill_args {
  size_t struct_size;
  minference_tensor query;      /* [B, Hq, q_len, D] f32, f16 or bf16 */
  minference_tensor key, value; /* [B, Hkv, kv_len, D] */
  minference_tensor out;        /* like query */
  minference_tensor lse; /* [B, Hq, q_len, 1] f32, natural log, -inf without keys; data NULL: not wanted */
  float softmax_scale;   /* 0: 1 / sqrt(D) */
  int32_t non_causal;    /* 1: no causal mask; then dense, A-shape and block-sparse only */
  const minference_sequence* sequences; /* [num_sequences]; NULL: every batch entry whole */
  int64_t num_sequences;
  const minference_head_pattern* heads; /* [num_heads], num_heads == Hq */
  int64_t num_heads;
  int32_t fallback; /* minference_fallback */
  int32_t
      share_index; /* 1: the query heads of a KV head share one, docs/algorithm.md, "One index for a group" */
} minference_prefill_args;

/* estimate -> select -> index -> attend for all heads of one layer. Rows in no sequence get out = 0 and lse = -inf.
 * `statistics` may be NULL. Sequences are computed one after the other: OUT_OF_MEMORY in the middle of a batch leaves the
 * rows of those before written, and nothing else. */
MINFERENCE_API minference_status minference_prefill(minference_context* context,
                                                    const minference_prefill_args* args,
                                                    minference_statistics* statistics);

/* ---- The steps, one by one (one sequence, batch 1) ------------------------------------------------------------------ */

/* With L = min(64, q_len) and A the causal softmax of the last L rows: column_sums[h, k] = sum_i A[i, k] and
 * diagonal_sums[h, o] = sum_i A[i, position_i - o]. Both [1, Hq, 1, kv_len] f32, with one stride[1] >= kv_len. */
typedef struct minference_estimate_args {
  size_t struct_size;
  minference_tensor query; /* [1, Hq, q_len, D] */
  minference_tensor key;   /* [1, Hkv, kv_len, D] */
  minference_tensor column_sums, diagonal_sums;
  float softmax_scale; /* 0: 1 / sqrt(D) */
} minference_estimate_args;
MINFERENCE_API minference_status minference_estimate(minference_context* context,
                                                     const minference_estimate_args* args);

/* Sums -> members, ascending and unique. Heads must be vertical-slash or adaptive; adaptive ones weigh columns by what the
 * context's attention kernel for f32 and head_dim 128 pays for them. Counts are always written; with capacity too small
 * for some head, nothing else is and the call fails with INVALID_ARGUMENT. */
typedef struct minference_select_args {
  size_t struct_size;
  minference_tensor column_sums, diagonal_sums; /* [1, Hq, 1, kv_len] f32 */
  const minference_head_pattern* heads;         /* [Hq] */
  int64_t num_heads;
  int32_t* columns; /* [Hq, column_capacity]; NULL with capacity 0, as `offsets`: asks for the counts */
  int64_t column_capacity;
  int64_t* column_counts; /* [Hq] */
  int32_t* offsets;       /* [Hq, offset_capacity] */
  int64_t offset_capacity;
  int64_t* offset_counts; /* [Hq] */
} minference_select_args;
MINFERENCE_API minference_status minference_select(minference_context* context,
                                                   const minference_select_args* args);

/* Which pairs every head computes: see docs/algorithm.md, "The index contract". Immutable. */
typedef struct minference_index minference_index;

/* From columns and offsets: columns [1, Hq, 1, num_columns] and offsets [1, Hq, 1, num_offsets], I32 or I64; duplicates
 * count once, members outside [0, kv_len) are errors (offsets may reach down to 1 - q_len when non_causal). */
MINFERENCE_API minference_status minference_index_vertical_slash(const minference_tensor* columns,
                                                                 const minference_tensor* offsets,
                                                                 int64_t q_len, int64_t kv_len,
                                                                 int32_t non_causal,
                                                                 minference_index** index);
/* From patterns, running the steps that they need on one sequence. fallback and share_index as in minference_prefill. */
typedef struct minference_index_args {
  size_t struct_size;
  minference_tensor query; /* [1, Hq, q_len, D] */
  minference_tensor key;   /* [1, Hkv, kv_len, D] */
  float softmax_scale;     /* 0: 1 / sqrt(D) */
  int32_t non_causal;
  const minference_head_pattern* heads; /* [num_heads], num_heads == Hq */
  int64_t num_heads;
  int32_t fallback;
  int32_t share_index;
} minference_index_args;
MINFERENCE_API minference_status minference_index_create(minference_context* context,
                                                         const minference_index_args* args,
                                                         minference_index** index);
MINFERENCE_API void minference_index_destroy(minference_index* index);

typedef enum minference_index_form {
  MINFERENCE_INDEX_ALL = 0, /* every pair */
  /* Keys P + tiles[i] .. P + tiles[i] + 63 and columns, P the position of a row block's first row: the same lists for
   * every row block. */
  MINFERENCE_INDEX_RELATIVE = 1,
  MINFERENCE_INDEX_WINDOW = 2, /* A-shape, exact for every pair */
  MINFERENCE_INDEX_BLOCKS = 3  /* CSR: row block b computes key_blocks[row_offsets[b], row_offsets[b + 1]) */
} minference_index_form;

/* One head of an index; pointers live as long as the index. */
typedef struct minference_index_head {
  size_t struct_size;
  int32_t form; /* minference_index_form */
  const int32_t* tiles;
  int64_t num_tiles; /* descending, disjoint */
  const int32_t* columns;
  int64_t num_columns; /* ascending, unique */
  int64_t sink, local;
  const int64_t* row_offsets;
  int64_t num_row_offsets;
  const int32_t* key_blocks;
  int64_t num_key_blocks;
  int64_t last_dense_rows;
  int64_t pairs, all_pairs; /* as in minference_statistics, of this head */
  int64_t memory_bytes;
} minference_index_head;
MINFERENCE_API int64_t minference_index_num_heads(const minference_index* index);
MINFERENCE_API minference_status minference_index_get(const minference_index* index, int64_t head,
                                                      minference_index_head* out);

/* softmax(query key^T) value over exactly the pairs of the index: adds no members, never falls back. */
typedef struct minference_attention_args {
  size_t struct_size;
  minference_tensor query, key, value, out, lse; /* as in minference_prefill_args, B == 1 */
  float softmax_scale;                           /* 0: 1 / sqrt(D) */
  const minference_index* index;                 /* its q_len, kv_len and heads must be the tensors' */
} minference_attention_args;
MINFERENCE_API minference_status minference_attention(minference_context* context,
                                                      const minference_attention_args* args);

/* ---- Paged caches ---------------------------------------------------------------------------------------------------- */

/* Keys or values of one sequence, from a host's pool of pages that hold them in an order of its own: element (token, dim)
 * of a page and head lies at token_offsets[token] + dim_offsets[dim] of its `elements`. */
typedef struct minference_gather_args {
  size_t struct_size;
  minference_tensor pages;      /* [num_pages, Hkv, 1, elements] f32, f16 or bf16: the pool */
  const int32_t* token_offsets; /* [page_size] */
  int64_t page_size;            /* tokens, at least 1 */
  const int32_t* dim_offsets;   /* [D] */
  const int32_t*
      table; /* [table_size]: the sequence's pages, in order; those after its last may be anything */
  int64_t table_size;
  minference_tensor out; /* [1, Hkv, kv_len, D] of the pool's dtype */
} minference_gather_args;
MINFERENCE_API minference_status minference_gather(minference_context* context,
                                                   const minference_gather_args* args);

/* ---- Offline search (arXiv 2407.02490, Algorithm 1): what head patterns cost and lose on given tensors ---------------- */

/* What one pattern does in one head, against dense attention by the same kernel. Comes in arrays and never changes. */
typedef struct minference_score {
  double error;          /* of the output: sqrt(sum |out - dense|^2 / sum |dense|^2) over all rows */
  double kept_mass;      /* mean over rows of the attention mass inside the pairs computed */
  double kept_mass_last; /* the same over the last 64 rows */
  double
      cost; /* of attention over dense attention's: tiles, columns and row blocks as the kernel pays for them */
  int64_t pairs, all_pairs; /* as in minference_statistics */
} minference_score;

typedef struct minference_score_patterns_args {
  size_t struct_size;
  minference_tensor query;      /* [1, Hq, q_len, D] f32, f16 or bf16; causal, 1 <= q_len <= kv_len */
  minference_tensor key, value; /* [1, Hkv, kv_len, D] */
  float softmax_scale;          /* 0: 1 / sqrt(D) */
  const minference_head_pattern* candidates; /* [num_candidates, Hq]: candidate c of head h */
  int64_t num_candidates;
} minference_score_patterns_args;

/* scores is [num_candidates, Hq]. Nothing falls back to dense. Needs memory for two outputs of the layer. */
MINFERENCE_API minference_status minference_score_patterns(minference_context* context,
                                                           const minference_score_patterns_args* args,
                                                           minference_score* scores);

typedef struct minference_fit_args {
  size_t struct_size;
  minference_tensor query, key; /* as in minference_score_patterns_args */
  float softmax_scale;          /* 0: 1 / sqrt(D) */
  const minference_head_pattern*
      candidates;           /* [num_candidates, Hq]: A-shape, vertical-slash or block-sparse */
  const int32_t* free_size; /* [num_candidates]: which of size[0] and size[1] is free */
  int64_t num_candidates;
  double cost;    /* wanted, as in minference_score: above 0 */
  int32_t shared; /* 1: the heads of a candidate get one size, whose mean cost over heads counts */
} minference_fit_args;

/* Makes candidates of equal cost: fitted, [num_candidates, Hq] and not `candidates`, has in every head the largest free
 * size, from 1 to kv_len, that costs at most args->cost, or 1 where that already costs more. */
MINFERENCE_API minference_status minference_fit_patterns(minference_context* context,
                                                         const minference_fit_args* args,
                                                         minference_head_pattern* fitted);

#ifdef __cplusplus
}
#endif

#endif /* MINFERENCE_MINFERENCE_H */
