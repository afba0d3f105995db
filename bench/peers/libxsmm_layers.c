/* A network of fully connected layers, block by block, around libxsmm's batch-reduce kernels.
 *
 * nkdsl.bench.peers.libxsmm_layers has the kernels generated, lays the weights out, and describes a
 * network by the structures below, field by field. With tiles of t there lie, the last index
 * contiguous,
 *
 *     activations   [batch / t][width / t][t][t]
 *     weights       [outputs / t][inputs / t][t / v][t][v]     v steps of the reduction side by side
 *
 * and a layer is a loop over the blocks of what it gives, on all threads:
 *
 *     sums = the sum over b < inputs / t of activations[i][b] * weights[j][b]      libxsmm, one call
 *     result[i][j] = max(sums + bias[j], floor)                                    finish_...
 *
 * A block of sums, f32 or s32, never leaves the nearest cache. The input is blocked first, and what
 * the last layer gives is written row by row; both are parts of a call.
 *
 * libxsmm multiplies u8 by s8. Activations of s8 are kept as u8, larger by 128; `offset`, 128 times
 * the sum of each column of weights, is what their sums are too large by.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

enum { LARGEST_TILE = 64 };
enum { F32, BF16, BYTES };
/* Of the structure that libxsmm 2.x takes, in words of 8 bytes. */
enum { WORDS = 22, COUNT = 2, FIRST = 4, SECOND = 10, THIRD = 16 };

typedef void (*Kernel)(const void *first, const void *second, void *sums, const uint64_t *count);
typedef void (*StructureKernel)(const uint64_t *words);

typedef struct {
  const void *kernel;    /* libxsmm's, for a whole block of sums */
  uint64_t inputs;       /* blocks */
  uint64_t outputs;      /* blocks */
  const char *weights;
  uint64_t weights_step; /* bytes from a block of outputs to the next */
  const char *source;
  uint64_t source_step;  /* bytes from a block of rows to the next */
  char *target;
  uint64_t down_step;    /* bytes from a block to the one below it, */
  uint64_t right_step;   /* to the one beside it, */
  uint64_t row_step;     /* and from a row of a block to the next */
  const float *bias;     /* one an output */
  const int32_t *offset; /* likewise; of BYTES only */
  int64_t shift;         /* by what BYTES in the target are larger than they say */
} Layer;

typedef struct {
  const Layer *layers;
  uint64_t depth;         /* layers */
  uint64_t rows;          /* blocks of the batch */
  uint64_t tile;
  uint64_t element;       /* of activations: F32, BF16 or BYTES */
  uint64_t one_structure; /* kernels take one structure of addresses, as of libxsmm 2.x */
  uint64_t rows_outside;  /* blocks are taken row by row; else column by column */
  const uint8_t *input;   /* row by row */
  uint8_t *blocked;       /* its blocks */
  uint64_t input_columns; /* blocks */
  uint64_t tile_bytes;    /* of a row of a block */
  uint64_t flip;          /* 0x80 where the input is s8, else 0 */
  float scale;            /* of sums of BYTES */
  float floor;
  float ceiling;          /* of BYTES */
} Network;

static void flip_bytes(const uint8_t *restrict from, uint8_t *restrict to, uint64_t count,
                       uint8_t flip) {
  for (uint64_t i = 0; i < count; i++) to[i] = from[i] ^ flip;
}

/* One row of blocks of the input; s8 becomes u8, larger by 128. */
static void block_rows(const Network *n, uint64_t row) {
  const uint64_t bytes = n->tile_bytes, width = n->input_columns * bytes;
  const uint8_t *input = n->input + row * n->tile * width;
  uint8_t *blocked = n->blocked + row * n->tile * width;
  for (uint64_t column = 0; column < n->input_columns; column++)
    for (uint64_t i = 0; i < n->tile; i++, blocked += bytes)
      flip_bytes(input + i * width + column * bytes, blocked, bytes, (uint8_t)n->flip);
}

static void multiply(const Network *n, const Layer *l, uint64_t row, uint64_t column, void *sums) {
  const char *first = l->weights + column * l->weights_step;
  const char *second = l->source + row * l->source_step;
  if (!n->one_structure) {
    ((Kernel)l->kernel)(first, second, sums, &l->inputs);
    return;
  }
  uint64_t words[WORDS] = {0};
  words[COUNT] = (uintptr_t)&l->inputs;
  words[FIRST] = (uintptr_t)first;
  words[SECOND] = (uintptr_t)second;
  words[THIRD] = (uintptr_t)sums;
  ((StructureKernel)l->kernel)(words);
}

static inline float at_least(float value, float floor) { return value > floor ? value : floor; }

static inline float at_most(float value, float ceiling) { return value < ceiling ? value : ceiling; }

/* To the nearest number, halves to the even one; there are no NaN. */
static inline uint16_t to_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static void finish_f32(const Network *n, const float *restrict sums, const float *restrict bias,
                       float *restrict target) {
  for (uint64_t j = 0; j < n->tile; j++) target[j] = at_least(sums[j] + bias[j], n->floor);
}

static void finish_bf16(const Network *n, const float *restrict sums, const float *restrict bias,
                        uint16_t *restrict target) {
  for (uint64_t j = 0; j < n->tile; j++) target[j] = to_bf16(at_least(sums[j] + bias[j], n->floor));
}

static void finish_bytes(const Network *n, const Layer *l, const int32_t *restrict sums,
                         const int32_t *restrict offset, const float *restrict bias,
                         uint8_t *restrict target) {
  const int32_t shift = (int32_t)l->shift;
  for (uint64_t j = 0; j < n->tile; j++) {
    const float value = (float)(sums[j] - offset[j]) * n->scale + bias[j];
    target[j] = (uint8_t)((int32_t)rintf(at_most(at_least(value, n->floor), n->ceiling)) + shift);
  }
}

static void finish(const Network *n, const Layer *l, const void *sums, uint64_t column,
                   char *target) {
  const float *bias = l->bias + column * n->tile;
  for (uint64_t i = 0; i < n->tile; i++, target += l->row_step) {
    const uint64_t first = i * n->tile;
    switch (n->element) {
    case F32:
      finish_f32(n, (const float *)sums + first, bias, (float *)target);
      break;
    case BF16:
      finish_bf16(n, (const float *)sums + first, bias, (uint16_t *)target);
      break;
    default:
      finish_bytes(n, l, (const int32_t *)sums + first, l->offset + column * n->tile, bias,
                   (uint8_t *)target);
    }
  }
}

static void block(const Network *n, const Layer *l, uint64_t row, uint64_t column) {
  _Alignas(64) char sums[LARGEST_TILE * LARGEST_TILE * 4];
  multiply(n, l, row, column, sums);
  finish(n, l, sums, column, l->target + row * l->down_step + column * l->right_step);
}

/* The whole network: all threads work on each layer, and wait for each other behind it. */
void nkdsl_network(const Network *n) {
#pragma omp parallel
  {
#pragma omp for schedule(static)
    for (uint64_t row = 0; row < n->rows; row++) block_rows(n, row);
    for (uint64_t number = 0; number < n->depth; number++) {
      const Layer *l = &n->layers[number];
      const uint64_t blocks = n->rows * l->outputs;
#pragma omp for schedule(static)
      for (uint64_t b = 0; b < blocks; b++) {
        if (n->rows_outside)
          block(n, l, b / l->outputs, b % l->outputs);
        else
          block(n, l, b % n->rows, b / n->rows);
      }
    }
  }
}
