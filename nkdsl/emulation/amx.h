/* What the parts of the AMX emulator share; nkdsl/emulation/amx.py describes the whole.

   amx.c          signals, threads, counts and faults, and what Python calls
   amx_decode.c   machine code to `struct instruction`, and addresses of memory operands
   amx_tiles.c    what each instruction does to the tiles
   amx_integer.c  the integer instructions that stand between two AMX instructions */

#pragma once

#define _GNU_SOURCE /* the names of the registers; this header comes before all others */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <ucontext.h>

enum {
    TILES = 8,
    MAX_ROWS = 16,
    ROW_BYTES = 64,
    ROW_DWORDS = ROW_BYTES / 4,
};

enum kind {
    LDTILECFG,
    STTILECFG,
    TILERELEASE,
    TILEZERO,
    TILELOADD,
    TILELOADDT1,
    TILESTORED,
    TDPBF16PS,
    TDPFP16PS,
    TDPBSSD,
    TDPBSUD,
    TDPBUSD,
    TDPBUUD,
    KINDS
};

/* The registers of the interrupted code, as `ucontext_t` holds them. */
typedef greg_t registers[NGREG];

/* ---- amx_decode.c --------------------------------------------------------------------------- */

/* The bits of a REX or VEX prefix that extend the three register fields of an instruction. */
struct extension {
    unsigned reg, index, base; /* 0 or 8, to be added to the field */
};

struct memory_operand {
    uint64_t start;  /* base + displacement */
    uint64_t index;  /* index << scale; 0 where there is no index */
    unsigned length; /* bytes of ModRM, SIB and displacement */
    bool has_sib;
};

struct instruction {
    enum kind kind;
    unsigned length;     /* in bytes */
    unsigned tiles[3];   /* operands in the order of Intel's syntax: destination first */
    unsigned tile_count;
    uint64_t address;    /* of the memory operand's first byte */
    uint64_t stride;     /* bytes from row to row, modulo 2^64 */
    const char *invalid; /* why the encoding raises #UD, or NULL */
};

/* Decode the AMX instruction at `code`. Returns false where it is no AMX instruction; then nothing
   beyond the first byte that shows so has been read. */
bool decode_amx(const uint8_t *code, const registers *from, struct instruction *out);

/* Decode ModRM and what follows it, for mod != 3. `immediate` is the number of bytes between the
   displacement and the end of the instruction: RIP-relative addresses count from there. */
struct memory_operand decode_memory(const uint8_t *modrm, struct extension extend,
                                    unsigned immediate, const registers *from);

/* A general register by its number in machine code. */
greg_t *general_register(registers *of, unsigned number);

/* ---- amx_tiles.c ---------------------------------------------------------------------------- */

struct tile {
    _Alignas(64) uint32_t dwords[MAX_ROWS][ROW_DWORDS];
};

/* TILECFG and TILEDATA: the state that XSAVE would save. */
struct tile_state {
    bool configured;
    volatile uint8_t start_row;
    uint8_t rows[TILES];
    uint16_t row_bytes[TILES]; /* Intel's colsb */
    struct tile tiles[TILES];
    volatile bool accessing; /* a load or store is reading or writing the program's memory */
};

/* Execute one instruction. Returns NULL, or why the hardware would raise a fault; the tiles are
   then as they were. A load that the operating system interrupts (SIGSEGV) leaves its row in
   `start_row`, as the hardware does. */
const char *execute(struct tile_state *state, const struct instruction *instruction);

/* ---- amx_integer.c -------------------------------------------------------------------------- */

/* Execute the instruction at RIP and step over it. Returns false, with nothing changed, where it
   is not one of the few that are understood. */
bool step_integer(registers *state);
