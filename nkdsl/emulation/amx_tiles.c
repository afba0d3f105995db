/* What each AMX instruction does, after the "Operation" sections of Intel's manuals.

   Sources: Intel 64 and IA-32 Architectures Software Developer's Manual (SDM), volume 1, chapter
   on Intel AMX; volume 2, section 2.10 (exception classes AMX-E1 to E5) and the pages of the
   instructions; Intel Architecture Instruction Set Extensions Programming Reference (ISE) for
   TDPFP16PS and for `fma32`, "infinite precision" before its one rounding.

   Floats: TDPBF16PS and TDPFP16PS sum the products of even and of odd elements apart, each by
   fused multiply-adds in the order of k from +0, add the two sums, and add that to the
   destination. All of it is float32, rounded to nearest even, DAZ = FTZ = 1 (subnormal operands
   are zeros, subnormal results become zeros), whatever MXCSR says. Subnormal numbers of f16 are
   normal numbers of float32, and count. A NaN result is a NaN: the manuals leave its sign and
   payload open where several operands are NaN, and so does this code. */

#include "amx.h"

#include <immintrin.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

/* Keeps the compiler from moving accesses to memory, any of which may be interrupted for good. */
#define IN_ORDER() atomic_signal_fence(memory_order_seq_cst)

static void set_accessing(struct tile_state *state, bool now)
{
    IN_ORDER();
    state->accessing = now;
    IN_ORDER();
}

/* ---- Configuration --------------------------------------------------------------------------- */

/* The operand of LDTILECFG and STTILECFG (SDM, LDTILECFG, "Memory Area Layout"). */
struct configuration {
    uint8_t palette, start_row, reserved_2[14];
    uint16_t row_bytes[TILES], reserved_32[8];
    uint8_t rows[TILES], reserved_56[8];
};
_Static_assert(sizeof(struct configuration) == 64, "64 bytes, without holes");

static void release(struct tile_state *state)
{
    memset(state, 0, sizeof *state);
}

static bool all_zero(const void *bytes, size_t count)
{
    const uint8_t *p = bytes;
    for (size_t i = 0; i < count; i++)
        if (p[i] != 0)
            return false;
    return true;
}

/* Why LDTILECFG raises #GP, or NULL. Of palette 0 the other bytes are not looked at. */
static const char *check_configuration(const struct configuration *wanted)
{
    if (wanted->palette == 0)
        return NULL;
    if (wanted->palette != 1)
        return "#GP: the palette is neither 0 nor 1";
    if (!all_zero(wanted->reserved_2, sizeof wanted->reserved_2) ||
        !all_zero(wanted->reserved_32, sizeof wanted->reserved_32) ||
        !all_zero(wanted->reserved_56, sizeof wanted->reserved_56))
        return "#GP: a reserved byte of the configuration is not zero";
    for (int t = 0; t < TILES; t++) {
        if (wanted->row_bytes[t] > ROW_BYTES)
            return "#GP: a tile has more than 64 bytes in a row";
        if (wanted->rows[t] > MAX_ROWS)
            return "#GP: a tile has more than 16 rows";
        if ((wanted->row_bytes[t] == 0) != (wanted->rows[t] == 0))
            return "#GP: a tile has rows without bytes, or bytes without rows";
    }
    return NULL;
}

static const char *load_configuration(struct tile_state *state, uint64_t address)
{
    struct configuration wanted;
    set_accessing(state, true);
    memcpy(&wanted, (const void *)address, sizeof wanted);
    set_accessing(state, false);
    const char *refusal = check_configuration(&wanted);
    if (refusal != NULL)
        return refusal;
    release(state);
    if (wanted.palette == 0)
        return NULL;
    state->configured = true;
    state->start_row = wanted.start_row;
    memcpy(state->rows, wanted.rows, sizeof state->rows);
    memcpy(state->row_bytes, wanted.row_bytes, sizeof state->row_bytes);
    return NULL;
}

static void store_configuration(struct tile_state *state, uint64_t address)
{
    struct configuration current = {0};
    if (state->configured) {
        current.palette = 1;
        current.start_row = state->start_row;
        memcpy(current.rows, state->rows, sizeof current.rows);
        memcpy(current.row_bytes, state->row_bytes, sizeof current.row_bytes);
    }
    set_accessing(state, true);
    memcpy((void *)address, &current, sizeof current);
    set_accessing(state, false);
}

/* ---- Loads and stores ------------------------------------------------------------------------ */

static void zero_rows_from(struct tile *tile, unsigned row)
{
    memset(tile->dwords[row], 0, (MAX_ROWS - row) * ROW_BYTES);
}

/* A call of `memcpy` for each row would take longer than the rest of a load. */
static inline void copy_row(void *to, const void *from, unsigned bytes)
{
    if (bytes == ROW_BYTES)
        memcpy(to, from, ROW_BYTES);
    else
        memcpy(to, from, bytes);
    IN_ORDER();
}

static void load(struct tile_state *state, const struct instruction *from)
{
    unsigned t = from->tiles[0], bytes = state->row_bytes[t];
    struct tile *tile = &state->tiles[t];
    zero_rows_from(tile, state->start_row);
    set_accessing(state, true);
    for (; state->start_row < state->rows[t]; state->start_row++) {
        uint64_t source = from->address + state->start_row * from->stride;
        copy_row(tile->dwords[state->start_row], (const void *)source, bytes);
    }
    set_accessing(state, false);
    state->start_row = 0;
}

static void store(struct tile_state *state, const struct instruction *to)
{
    unsigned t = to->tiles[0], bytes = state->row_bytes[t];
    const struct tile *tile = &state->tiles[t];
    set_accessing(state, true);
    for (; state->start_row < state->rows[t]; state->start_row++) {
        uint64_t target = to->address + state->start_row * to->stride;
        copy_row((void *)target, tile->dwords[state->start_row], bytes);
    }
    set_accessing(state, false);
    state->start_row = 0;
}

/* ---- Products -------------------------------------------------------------------------------- */

/* As many floats as the CPU's registers hold, and its fused multiply-add. Where it has none, the C
   library's `fmaf` is as exact, and 100 times slower. */
#if defined(__AVX512F__)
typedef __m512 floats;
#define BROADCAST _mm512_set1_ps
#define FUSED _mm512_fmadd_ps
#elif defined(__FMA__)
typedef __m256 floats;
#define BROADCAST _mm256_set1_ps
#define FUSED _mm256_fmadd_ps
#else
typedef float floats;
#define BROADCAST
#define FUSED fmaf
#endif

enum { LANES = sizeof(floats) / sizeof(float), VECTORS = ROW_DWORDS / LANES };

union row {
    float at[ROW_DWORDS];
    floats vectors[VECTORS];
};

/* A tile whose dwords hold two elements each, widened to float32. */
struct pairs {
    union row even[MAX_ROWS], odd[MAX_ROWS];
};

struct sums {
    union row rows[MAX_ROWS];
};

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Exact, in any state of MXCSR: no operand and no result is subnormal in float32. */
static float float_of_f16(uint32_t bits)
{
    uint32_t sign = (bits & 0x8000) << 16, rest = bits & 0x7FFF;
    uint32_t subnormal = bits_of((float)(int32_t)rest * 0x1p-24f);
    uint32_t normal = (rest << 13) + ((127 - 15) << 23);
    uint32_t infinite = (rest << 13) | 0x7F800000; /* or NaN */
    uint32_t finite = rest < 0x0400 ? subnormal : normal;
    return float_of(sign | (rest < 0x7C00 ? finite : infinite));
}

static void widen_bf16(const struct tile *from, struct pairs *to)
{
    for (int r = 0; r < MAX_ROWS; r++)
        for (int n = 0; n < ROW_DWORDS; n++) {
            to->even[r].at[n] = float_of(from->dwords[r][n] << 16);
            to->odd[r].at[n] = float_of(from->dwords[r][n] & 0xFFFF0000);
        }
}

static void widen_f16(const struct tile *from, struct pairs *to)
{
    for (int r = 0; r < MAX_ROWS; r++)
        for (int n = 0; n < ROW_DWORDS; n++) {
            to->even[r].at[n] = float_of_f16(from->dwords[r][n] & 0xFFFF);
            to->odd[r].at[n] = float_of_f16(from->dwords[r][n] >> 16);
        }
}

static float float_of_byte(uint32_t dword, unsigned byte, bool is_signed)
{
    uint32_t at_top = dword << (24 - 8 * byte);
    return (float)(is_signed ? (int32_t)at_top >> 24 : (int32_t)(at_top >> 24));
}

/* Two of the four bytes of each dword: `first` and the next. */
static void widen_bytes(const struct tile *from, unsigned first, bool is_signed, struct pairs *to)
{
    for (int r = 0; r < MAX_ROWS; r++)
        for (int n = 0; n < ROW_DWORDS; n++) {
            to->even[r].at[n] = float_of_byte(from->dwords[r][n], first, is_signed);
            to->odd[r].at[n] = float_of_byte(from->dwords[r][n], first + 1, is_signed);
        }
}

/* For each row of `lhs` and column of `rhs`, the sum of the products of even elements plus that of
   odd elements. */
static void sum_products(const struct pairs *lhs, const struct pairs *rhs, unsigned rows,
                         unsigned depth, struct sums *out)
{
    for (unsigned m = 0; m < rows; m++)
        for (unsigned v = 0; v < VECTORS; v++) {
            floats even = {0}, odd = {0};
            for (unsigned k = 0; k < depth; k++) {
                even = FUSED(BROADCAST(lhs->even[m].at[k]), rhs->even[k].vectors[v], even);
                odd = FUSED(BROADCAST(lhs->odd[m].at[k]), rhs->odd[k].vectors[v], odd);
            }
            out->rows[m].vectors[v] = even + odd;
        }
}

/* The operands of a product, C (m × n) += A (m × k) B (k × n), n and k in dwords. */
struct product {
    struct tile *c;
    const struct tile *a, *b;
    unsigned rows, depth, columns;
};

static void clear_outside(const struct product *of)
{
    for (unsigned m = 0; m < of->rows; m++)
        memset(of->c->dwords[m] + of->columns, 0, ROW_BYTES - 4 * of->columns);
    zero_rows_from(of->c, of->rows);
}

/* Not inlined: the compiler does not know that these operations depend on MXCSR, and would move
   them past its change. */
__attribute__((noinline)) static void add_float_products(const struct product *of,
                                                         const struct pairs *lhs,
                                                         const struct pairs *rhs)
{
    struct sums sums;
    sum_products(lhs, rhs, of->rows, of->depth, &sums);
    for (unsigned m = 0; m < of->rows; m++)
        for (unsigned v = 0; v < VECTORS; v++) {
            floats *c = (floats *)of->c->dwords[m] + v;
            *c += sums.rows[m].vectors[v];
        }
}

static void multiply_floats(const struct product *of,
                            void (*widen)(const struct tile *, struct pairs *))
{
    enum { DAZ = 0x0040, MASK_ALL = 0x1F80, NEAREST = 0x0000, FTZ = 0x8000 };
    struct pairs lhs, rhs;
    widen(of->a, &lhs);
    widen(of->b, &rhs);
    unsigned before = _mm_getcsr();
    _mm_setcsr(DAZ | MASK_ALL | NEAREST | FTZ);
    add_float_products(of, &lhs, &rhs);
    _mm_setcsr(before);
}

/* Sums of 32 products of bytes are below 2^24: float32 holds them exactly. */
static void multiply_bytes(const struct product *of, bool a_signed, bool b_signed)
{
    struct pairs lhs, rhs;
    struct sums sums;
    for (unsigned first = 0; first < 4; first += 2) {
        widen_bytes(of->a, first, a_signed, &lhs);
        widen_bytes(of->b, first, b_signed, &rhs);
        sum_products(&lhs, &rhs, of->rows, of->depth, &sums);
        for (unsigned m = 0; m < of->rows; m++)
            for (int n = 0; n < ROW_DWORDS; n++)
                of->c->dwords[m][n] += (uint32_t)(int32_t)sums.rows[m].at[n];
    }
}

static void multiply(struct tile_state *state, const struct instruction *instruction)
{
    const unsigned *t = instruction->tiles;
    struct product product = {
        .c = &state->tiles[t[0]],
        .a = &state->tiles[t[1]],
        .b = &state->tiles[t[2]],
        .rows = state->rows[t[0]],
        .depth = state->rows[t[2]],
        .columns = state->row_bytes[t[0]] / 4u,
    };
    switch (instruction->kind) {
    case TDPBF16PS:
        multiply_floats(&product, widen_bf16);
        break;
    case TDPFP16PS:
        multiply_floats(&product, widen_f16);
        break;
    default:
        multiply_bytes(&product, instruction->kind == TDPBSSD || instruction->kind == TDPBSUD,
                       instruction->kind == TDPBSSD || instruction->kind == TDPBUSD);
    }
    clear_outside(&product);
    state->start_row = 0;
}

/* ---- All instructions ------------------------------------------------------------------------ */

/* What classes AMX-E3, E4 and E5 have in common. */
static const char *check_tiles(const struct tile_state *state, const struct instruction *of)
{
    if (of->tile_count != 0 && !state->configured)
        return "#UD: no tiles are configured";
    for (unsigned i = 0; i < of->tile_count; i++) {
        if (of->tiles[i] >= TILES)
            return "#UD: there are only eight tiles";
        if (state->rows[of->tiles[i]] == 0)
            return "#UD: a tile is not configured";
        if (of->kind != TILEZERO && state->row_bytes[of->tiles[i]] % 4 != 0)
            return "#UD: the bytes in a row of a tile are no multiple of 4";
    }
    return NULL;
}

/* Class AMX-E4. */
static const char *check_product(const struct tile_state *state, const unsigned tiles[3])
{
    unsigned c = tiles[0], a = tiles[1], b = tiles[2];
    if (c == a || c == b || a == b)
        return "#UD: a tile is named twice";
    if (state->rows[c] != state->rows[a])
        return "#UD: the first and the second tile differ in their rows";
    if (state->row_bytes[c] != state->row_bytes[b])
        return "#UD: the first and the third tile differ in their bytes in a row";
    if (state->row_bytes[a] / 4 != state->rows[b])
        return "#UD: the second tile has not one dword in a row for each row of the third";
    return NULL;
}

static const char *check(const struct tile_state *state, const struct instruction *instruction)
{
    if (instruction->invalid != NULL)
        return instruction->invalid;
    const char *refusal = check_tiles(state, instruction);
    if (refusal != NULL)
        return refusal;
    switch (instruction->kind) {
    case LDTILECFG:
    case STTILECFG:
    case TILERELEASE:
    case TILEZERO:
        return NULL;
    case TILELOADD:
    case TILELOADDT1:
    case TILESTORED:
        if (state->start_row >= state->rows[instruction->tiles[0]])
            return "#UD: start_row is not below the rows of the tile";
        return NULL;
    default:
        return check_product(state, instruction->tiles);
    }
}

const char *execute(struct tile_state *state, const struct instruction *instruction)
{
    const char *refusal = check(state, instruction);
    if (refusal != NULL)
        return refusal;
    switch (instruction->kind) {
    case LDTILECFG:
        return load_configuration(state, instruction->address);
    case STTILECFG:
        store_configuration(state, instruction->address);
        break;
    case TILERELEASE:
        release(state);
        break;
    case TILEZERO:
        zero_rows_from(&state->tiles[instruction->tiles[0]], 0);
        state->start_row = 0;
        break;
    case TILELOADD:
    case TILELOADDT1:
        load(state, instruction);
        break;
    case TILESTORED:
        store(state, instruction);
        break;
    default:
        multiply(state, instruction);
    }
    return NULL;
}
