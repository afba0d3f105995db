/* Machine code to `struct instruction`.

   All AMX instructions are VEX.128.0F38.W0, with a three-byte VEX prefix:

       C4  | R X B mmmmm | W vvvv L pp | opcode | ModRM | SIB | displacement |

   R, X, B and vvvv are stored inverted. Source: Intel 64 and IA-32 Architectures Software
   Developer's Manual (SDM), volume 2: section 2.3 (VEX), tables 2-2 and 2-3 (ModRM and SIB), and
   the pages of the instructions. */

#include "amx.h"

#include <string.h>

enum { NO_PREFIX, PREFIX_66, PREFIX_F3, PREFIX_F2 };

static const struct form {
    uint8_t opcode, prefix;
    bool memory; /* ModRM names memory, not a register */
    enum kind kind;
} FORMS[] = {
    {0x49, NO_PREFIX, true, LDTILECFG},
    {0x49, PREFIX_66, true, STTILECFG},
    {0x49, NO_PREFIX, false, TILERELEASE},
    {0x49, PREFIX_F2, false, TILEZERO},
    {0x4B, PREFIX_F2, true, TILELOADD},
    {0x4B, PREFIX_66, true, TILELOADDT1},
    {0x4B, PREFIX_F3, true, TILESTORED},
    {0x5C, PREFIX_F3, false, TDPBF16PS},
    {0x5C, PREFIX_F2, false, TDPFP16PS},
    {0x5E, PREFIX_F2, false, TDPBSSD},
    {0x5E, PREFIX_F3, false, TDPBSUD},
    {0x5E, PREFIX_66, false, TDPBUSD},
    {0x5E, NO_PREFIX, false, TDPBUUD},
};

static const struct form *find_form(unsigned opcode, unsigned prefix, bool memory)
{
    for (size_t i = 0; i < sizeof FORMS / sizeof *FORMS; i++)
        if (FORMS[i].opcode == opcode && FORMS[i].prefix == prefix && FORMS[i].memory == memory)
            return &FORMS[i];
    return NULL;
}

greg_t *general_register(registers *of, unsigned number)
{
    static const int PLACES[16] = {
        REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
        REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
    };
    return &(*of)[PLACES[number]];
}

static uint64_t value_of(const registers *from, unsigned number)
{
    return (uint64_t)*general_register((registers *)from, number);
}

static uint64_t displacement(const uint8_t *at, unsigned bytes)
{
    int32_t wide;
    switch (bytes) {
    case 0:
        return 0;
    case 1:
        return (uint64_t)(int8_t)*at;
    default:
        memcpy(&wide, at, sizeof wide);
        return (uint64_t)wide;
    }
}

struct memory_operand decode_memory(const uint8_t *modrm, struct extension extend,
                                    unsigned immediate, const registers *from)
{
    unsigned mod = *modrm >> 6, rm = *modrm & 7;
    bool has_sib = rm == 4;
    unsigned base = has_sib ? modrm[1] & 7 : rm;
    /* rbp and r13 cannot be a base without displacement: their code means none, or RIP. */
    bool no_base = mod == 0 && base == 5;
    unsigned bytes = mod == 1 ? 1 : mod == 2 || no_base ? 4 : 0;

    struct memory_operand operand = {.length = 1 + has_sib + bytes, .has_sib = has_sib};
    operand.start = displacement(modrm + 1 + has_sib, bytes);
    if (!no_base)
        operand.start += value_of(from, base + extend.base);
    else if (!has_sib)
        operand.start += (uint64_t)(modrm + operand.length + immediate);
    if (has_sib) {
        unsigned index = (modrm[1] >> 3 & 7) + extend.index;
        if (index != 4) /* rsp's code means none */
            operand.index = value_of(from, index) << (modrm[1] >> 6);
    }
    return operand;
}

/* The tile operands and what must hold for the register fields; `vvvv` as it is meant, 0 where the
   prefix leaves it unused. */
static void decode_tiles(struct instruction *out, uint8_t modrm, struct extension extend,
                         unsigned vvvv)
{
    unsigned reg = (modrm >> 3 & 7) + extend.reg, rm = modrm & 7;
    switch (out->kind) {
    case LDTILECFG:
    case STTILECFG:
        if (reg != 0)
            out->invalid = "#UD: a register field that must be zero is not";
        break;
    case TILERELEASE:
        if (modrm != 0xC0)
            out->invalid = "#UD: a register field that must be zero is not";
        break;
    case TILEZERO:
        if (rm != 0)
            out->invalid = "#UD: a register field that must be zero is not";
        /* fall through */
    case TILELOADD:
    case TILELOADDT1:
    case TILESTORED:
        out->tiles[0] = reg;
        out->tile_count = 1;
        break;
    default:
        out->tiles[0] = reg;
        out->tiles[1] = rm + extend.base;
        out->tiles[2] = vvvv;
        out->tile_count = 3;
        return;
    }
    if (vvvv != 0)
        out->invalid = "#UD: VEX.vvvv names an operand that the instruction does not have";
}

static void decode_address(struct instruction *out, const struct memory_operand *memory)
{
    switch (out->kind) {
    case LDTILECFG:
    case STTILECFG:
        out->address = memory->start + memory->index;
        break;
    default:
        out->address = memory->start;
        out->stride = memory->index;
        if (!memory->has_sib)
            out->invalid = "#UD: an address without SIB byte";
    }
}

/* The number of prefixes before VEX that 64-bit mode allows; `*unsupported` if one of them changes
   the address in a way that is not emulated. */
static unsigned skip_prefixes(const uint8_t *code, bool *unsupported)
{
    for (unsigned n = 0;; n++) {
        switch (code[n]) {
        case 0x26: /* es, cs, ss, ds: no meaning in 64-bit mode */
        case 0x2E:
        case 0x36:
        case 0x3E:
            continue;
        case 0x64: /* fs, gs, addresses of 32 bits */
        case 0x65:
        case 0x67:
            *unsupported = true;
            continue;
        }
        return n;
    }
}

bool decode_amx(const uint8_t *code, const registers *from, struct instruction *out)
{
    bool unsupported = false;
    unsigned prefixes = skip_prefixes(code, &unsupported);
    const uint8_t *vex = code + prefixes, *modrm = vex + 4;
    enum { MAP_0F38 = 2, W = 0x80, L = 0x04 };
    if (vex[0] != 0xC4 || (vex[1] & 0x1F) != MAP_0F38 || vex[2] & (W | L))
        return false;
    bool in_memory = *modrm >> 6 != 3;
    const struct form *form = find_form(vex[3], vex[2] & 3, in_memory);
    if (form == NULL)
        return false;

    struct extension extend = {
        .reg = vex[1] & 0x80 ? 0 : 8,
        .index = vex[1] & 0x40 ? 0 : 8,
        .base = vex[1] & 0x20 ? 0 : 8,
    };
    *out = (struct instruction){.kind = form->kind, .length = prefixes + 5};
    decode_tiles(out, *modrm, extend, ~vex[2] >> 3 & 15);
    if (in_memory) {
        struct memory_operand memory = decode_memory(modrm, extend, 0, from);
        out->length = prefixes + 4 + memory.length;
        decode_address(out, &memory);
    }
    if (unsupported)
        out->invalid = "FS, GS or 32-bit addresses, which are not emulated";
    return true;
}
