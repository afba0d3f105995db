/* The integer instructions that compilers put between AMX instructions.

   A trap costs as much as 50 emulated AMX instructions. Stepping over address arithmetic, counters
   and the branch back lets a loop over k run to its end in one trap. Whatever is not understood
   here runs on the CPU: the trap ends before it.

   Operands have 32 or 64 bits. Flags that the manuals leave undefined may differ from the CPU's.
   Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, and volume 1,
   appendix A (flags). */

#include "amx.h"

#include <string.h>

enum flag { CF = 1 << 0, PF = 1 << 2, AF = 1 << 4, ZF = 1 << 6, SF = 1 << 7, OF = 1 << 11 };

/* An instruction, decoded as far as all have a common form. */
struct code {
    const uint8_t *start, *opcode; /* of two bytes where the first is 0F */
    struct extension extend;
    unsigned bits; /* of the operands: 32 or 64 */
    registers *state;
};

static uint64_t truncated(uint64_t value, unsigned bits)
{
    return bits == 32 ? (uint32_t)value : value;
}

static int64_t sign_extended(uint64_t value, unsigned bits)
{
    return bits == 32 ? (int32_t)value : (int64_t)value;
}

static int64_t immediate_at(const uint8_t *at, unsigned bytes)
{
    int32_t value;
    if (bytes == 1)
        return (int8_t)*at;
    memcpy(&value, at, sizeof value);
    return value;
}

/* ---- Operands -------------------------------------------------------------------------------- */

/* A register or a place in memory. A register's upper half is zeroed by 32-bit operations. */
struct place {
    greg_t *reg; /* NULL for memory */
    uint64_t address;
    unsigned bits;
    unsigned length; /* bytes of ModRM, SIB and displacement */
};

static struct place register_place(const struct code *of, unsigned number)
{
    return (struct place){.reg = general_register(of->state, number), .bits = of->bits};
}

/* The operand in ModRM's reg field. */
static struct place reg_operand(const struct code *of, const uint8_t *modrm)
{
    return register_place(of, (*modrm >> 3 & 7) + of->extend.reg);
}

/* The operand in ModRM's rm field; `immediate` as in `decode_memory`. */
static struct place rm_operand(const struct code *of, const uint8_t *modrm, unsigned immediate)
{
    if (*modrm >> 6 == 3) {
        struct place place = register_place(of, (*modrm & 7) + of->extend.base);
        place.length = 1;
        return place;
    }
    struct memory_operand memory = decode_memory(modrm, of->extend, immediate, of->state);
    return (struct place){
        .address = memory.start + memory.index, .bits = of->bits, .length = memory.length};
}

static uint64_t get(const struct place *from)
{
    if (from->reg != NULL)
        return truncated((uint64_t)*from->reg, from->bits);
    uint64_t value = 0;
    memcpy(&value, (const void *)from->address, from->bits / 8);
    return value;
}

static void set(const struct place *to, uint64_t value)
{
    if (to->reg != NULL)
        *to->reg = (greg_t)truncated(value, to->bits);
    else
        memcpy((void *)to->address, &value, to->bits / 8);
}

static bool advance(const struct code *of, const uint8_t *end)
{
    (*of->state)[REG_RIP] = (greg_t)end;
    return true;
}

/* ---- Flags ----------------------------------------------------------------------------------- */

static void set_flags(registers *state, unsigned changed, unsigned flags)
{
    (*state)[REG_EFL] = ((*state)[REG_EFL] & ~(greg_t)changed) | flags;
}

/* ZF, SF and PF, which depend on the result alone. */
static unsigned flags_of(uint64_t result, unsigned bits)
{
    return (truncated(result, bits) == 0 ? ZF : 0) | (result >> (bits - 1) & 1 ? SF : 0) |
           (__builtin_parity((uint8_t)result) ? 0 : PF);
}

static bool condition(const registers *state, unsigned code)
{
    greg_t flags = (*state)[REG_EFL];
    bool less = !(flags & SF) != !(flags & OF), holds;
    switch (code >> 1) {
    case 0:
        holds = flags & OF;
        break;
    case 1:
        holds = flags & CF;
        break;
    case 2:
        holds = flags & ZF;
        break;
    case 3:
        holds = flags & (CF | ZF);
        break;
    case 4:
        holds = flags & SF;
        break;
    case 5:
        holds = flags & PF;
        break;
    case 6:
        holds = less;
        break;
    default:
        holds = less || flags & ZF;
    }
    return holds != (code & 1);
}

/* ---- Arithmetic ------------------------------------------------------------------------------ */

/* Numbered as in machine code. */
enum operation { ADD, OR, ADC, SBB, AND, SUB, XOR, CMP };

static uint64_t add_or_subtract(registers *state, enum operation operation, uint64_t a, uint64_t b,
                                unsigned bits)
{
    bool adding = operation == ADD;
    uint64_t result = truncated(adding ? a + b : a - b, bits);
    uint64_t overflow = (a ^ result) & (adding ? b ^ result : a ^ b);
    bool carry = adding ? result < a : a < b;
    unsigned flags = flags_of(result, bits) | (carry ? CF : 0) | ((a ^ b ^ result) & AF);
    flags |= overflow >> (bits - 1) & 1 ? OF : 0;
    set_flags(state, CF | PF | AF | ZF | SF | OF, flags);
    return result;
}

static uint64_t bitwise(registers *state, enum operation operation, uint64_t a, uint64_t b,
                        unsigned bits)
{
    uint64_t result = operation == AND ? a & b : operation == OR ? a | b : a ^ b;
    set_flags(state, CF | PF | ZF | SF | OF, flags_of(result, bits));
    return result;
}

/* `target = target operation value`, and the flags. Returns false for operations that read CF. */
static bool apply(const struct code *of, enum operation operation, const struct place *target,
                  uint64_t value)
{
    uint64_t old, result;
    switch (operation) {
    case ADC:
    case SBB:
        return false;
    case ADD:
    case SUB:
    case CMP:
        old = get(target);
        result = add_or_subtract(of->state, operation, old, truncated(value, of->bits), of->bits);
        break;
    default:
        old = get(target);
        result = bitwise(of->state, operation, old, value, of->bits);
    }
    if (operation != CMP)
        set(target, result);
    return true;
}

/* add, or, and, sub, xor, cmp between a register and a register or memory. */
static bool arithmetic(const struct code *of)
{
    const uint8_t *modrm = of->opcode + 1;
    struct place reg = reg_operand(of, modrm), rm = rm_operand(of, modrm, 0);
    bool to_reg = *of->opcode & 2;
    const struct place *target = to_reg ? &reg : &rm, *source = to_reg ? &rm : &reg;
    return apply(of, *of->opcode >> 3, target, get(source)) && advance(of, modrm + rm.length);
}

/* The same with an immediate operand. */
static bool arithmetic_immediate(const struct code *of)
{
    const uint8_t *modrm = of->opcode + 1;
    unsigned bytes = *of->opcode == 0x83 ? 1 : 4;
    struct place rm = rm_operand(of, modrm, bytes);
    const uint8_t *immediate = modrm + rm.length;
    return apply(of, *modrm >> 3 & 7, &rm, (uint64_t)immediate_at(immediate, bytes)) &&
           advance(of, immediate + bytes);
}

/* The same with rax and an immediate operand, which has a shorter encoding. */
static bool arithmetic_accumulator(const struct code *of)
{
    struct place rax = register_place(of, 0);
    return apply(of, *of->opcode >> 3, &rax, (uint64_t)immediate_at(of->opcode + 1, 4)) &&
           advance(of, of->opcode + 5);
}

static bool test(const struct code *of)
{
    const uint8_t *modrm = of->opcode + 1;
    struct place reg = reg_operand(of, modrm), rm = rm_operand(of, modrm, 0);
    bitwise(of->state, AND, get(&rm), get(&reg), of->bits);
    return advance(of, modrm + rm.length);
}

/* inc and dec: all flags of add and sub but CF. */
static bool increment(const struct code *of)
{
    const uint8_t *modrm = of->opcode + 1;
    unsigned which = *modrm >> 3 & 7;
    if (which > 1)
        return false;
    struct place rm = rm_operand(of, modrm, 0);
    unsigned carry = (*of->state)[REG_EFL] & CF;
    uint64_t result = add_or_subtract(of->state, which == 0 ? ADD : SUB, get(&rm), 1, of->bits);
    set_flags(of->state, CF, carry);
    set(&rm, result);
    return advance(of, modrm + rm.length);
}

/* shl, shr and sar by a constant. */
static bool shift(const struct code *of)
{
    enum { SHL = 4, SHR = 5, SAR = 7 };
    const uint8_t *modrm = of->opcode + 1;
    unsigned which = *modrm >> 3 & 7, immediate = *of->opcode == 0xC1;
    struct place rm = rm_operand(of, modrm, immediate);
    unsigned count = (immediate ? modrm[rm.length] : 1) & (of->bits - 1);
    if (count == 0 || (which != SHL && which != SHR && which != SAR))
        return false;
    uint64_t old = get(&rm), last, result;
    if (which == SHL) {
        result = truncated(old << count, of->bits);
        last = old >> (of->bits - count);
    } else {
        int64_t wide = sign_extended(old, of->bits);
        result = truncated(which == SHR ? old >> count : (uint64_t)(wide >> count), of->bits);
        last = (uint64_t)(wide >> (count - 1));
    }
    /* OF is defined for shifts by 1: whether the sign changed. */
    unsigned overflow = (old ^ result) >> (of->bits - 1) & 1 ? OF : 0;
    set_flags(of->state, CF | PF | ZF | SF | OF,
              flags_of(result, of->bits) | (last & 1 ? CF : 0) | overflow);
    set(&rm, result);
    return advance(of, modrm + rm.length + immediate);
}

/* imul of two or three operands; of the flags only CF and OF are defined. */
static bool multiply(const struct code *of, const uint8_t *modrm, unsigned immediate)
{
    struct place reg = reg_operand(of, modrm), rm = rm_operand(of, modrm, immediate);
    int64_t a = sign_extended(get(&rm), of->bits), b = sign_extended(get(&reg), of->bits), wide;
    if (immediate)
        b = immediate_at(modrm + rm.length, immediate);
    bool overflow = __builtin_mul_overflow(a, b, &wide);
    overflow |= sign_extended((uint64_t)wide, of->bits) != wide;
    set_flags(of->state, CF | OF, overflow ? CF | OF : 0);
    set(&reg, (uint64_t)wide);
    return advance(of, modrm + rm.length + immediate);
}

/* ---- Moves ----------------------------------------------------------------------------------- */

static bool move(const struct code *of)
{
    const uint8_t *modrm = of->opcode + 1;
    struct place reg = reg_operand(of, modrm), rm = rm_operand(of, modrm, 0);
    bool to_reg = *of->opcode & 2;
    set(to_reg ? &reg : &rm, get(to_reg ? &rm : &reg));
    return advance(of, modrm + rm.length);
}

static bool move_immediate(const struct code *of)
{
    const uint8_t *modrm = of->opcode + 1;
    if ((*modrm >> 3 & 7) != 0)
        return false;
    struct place rm = rm_operand(of, modrm, 4);
    set(&rm, (uint64_t)immediate_at(modrm + rm.length, 4));
    return advance(of, modrm + rm.length + 4);
}

/* The only instruction with an immediate operand of 64 bits. */
static bool move_wide_immediate(const struct code *of)
{
    struct place reg = register_place(of, (*of->opcode & 7) + of->extend.base);
    uint64_t value = 0;
    memcpy(&value, of->opcode + 1, of->bits / 8);
    set(&reg, value);
    return advance(of, of->opcode + 1 + of->bits / 8);
}

static bool move_sign_extended(const struct code *of)
{
    const uint8_t *modrm = of->opcode + 1;
    struct place reg = reg_operand(of, modrm), rm = rm_operand(of, modrm, 0);
    rm.bits = 32;
    set(&reg, (uint64_t)sign_extended(get(&rm), 32));
    return advance(of, modrm + rm.length);
}

/* cmov, which reads its operand even where it does not move it. */
static bool move_if(const struct code *of)
{
    const uint8_t *modrm = of->opcode + 2;
    struct place reg = reg_operand(of, modrm), rm = rm_operand(of, modrm, 0);
    uint64_t moved = get(&rm), kept = get(&reg);
    set(&reg, condition(of->state, of->opcode[1] & 15) ? moved : kept);
    return advance(of, modrm + rm.length);
}

static bool load_address(const struct code *of)
{
    const uint8_t *modrm = of->opcode + 1;
    if (*modrm >> 6 == 3)
        return false;
    struct place reg = reg_operand(of, modrm), rm = rm_operand(of, modrm, 0);
    set(&reg, rm.address);
    return advance(of, modrm + rm.length);
}

static bool no_operation(const struct code *of)
{
    const uint8_t *modrm = of->opcode + 2;
    return advance(of, modrm + rm_operand(of, modrm, 0).length);
}

/* ---- Branches -------------------------------------------------------------------------------- */

static bool jump(const struct code *of, const uint8_t *offset, unsigned bytes, bool taken)
{
    const uint8_t *next = offset + bytes;
    return advance(of, taken ? next + immediate_at(offset, bytes) : next);
}

/* ---- All of them ----------------------------------------------------------------------------- */

static bool step_two_bytes(const struct code *of)
{
    uint8_t second = of->opcode[1];
    switch (second) {
    case 0x1F:
        return no_operation(of);
    case 0x40 ... 0x4F:
        return move_if(of);
    case 0x80 ... 0x8F:
        return jump(of, of->opcode + 2, 4, condition(of->state, second & 15));
    case 0xAF:
        return multiply(of, of->opcode + 2, 0);
    }
    return false;
}

static bool step_one_byte(const struct code *of)
{
    uint8_t opcode = *of->opcode;
    switch (opcode) {
    case 0x01: case 0x09: case 0x21: case 0x29: case 0x31: case 0x39:
    case 0x03: case 0x0B: case 0x23: case 0x2B: case 0x33: case 0x3B:
        return arithmetic(of);
    case 0x05: case 0x0D: case 0x25: case 0x2D: case 0x35: case 0x3D:
        return arithmetic_accumulator(of);
    case 0x0F:
        return step_two_bytes(of);
    case 0x63:
        return move_sign_extended(of);
    case 0x69:
        return multiply(of, of->opcode + 1, 4);
    case 0x6B:
        return multiply(of, of->opcode + 1, 1);
    case 0x70 ... 0x7F:
        return jump(of, of->opcode + 1, 1, condition(of->state, opcode & 15));
    case 0x81: case 0x83:
        return arithmetic_immediate(of);
    case 0x85:
        return test(of);
    case 0x89: case 0x8B:
        return move(of);
    case 0x8D:
        return load_address(of);
    case 0x90: /* r8 as its operand makes it an exchange */
        return of->extend.base == 0 && advance(of, of->opcode + 1);
    case 0xB8 ... 0xBF:
        return move_wide_immediate(of);
    case 0xC1: case 0xD1:
        return shift(of);
    case 0xC7:
        return move_immediate(of);
    case 0xE9:
        return jump(of, of->opcode + 1, 4, true);
    case 0xEB:
        return jump(of, of->opcode + 1, 1, true);
    case 0xFF:
        return increment(of);
    }
    return false;
}

/* The long no-operations that pad code have prefixes; no other instruction here may have one. */
static bool step_padding(struct code *of)
{
    while (*of->opcode == 0x66 || *of->opcode == 0x2E)
        of->opcode++;
    if (of->opcode[0] == 0x90)
        return advance(of, of->opcode + 1);
    if (of->opcode[0] == 0x0F && of->opcode[1] == 0x1F)
        return no_operation(of);
    return false;
}

bool step_integer(registers *state)
{
    const uint8_t *start = (const uint8_t *)(*state)[REG_RIP];
    struct code code = {.opcode = start, .bits = 32, .state = state};
    if (*start == 0x66)
        return step_padding(&code);
    if ((*start & 0xF0) == 0x40) {
        code.bits = *start & 8 ? 64 : 32;
        code.extend = (struct extension){
            .reg = *start & 4 ? 8 : 0, .index = *start & 2 ? 8 : 0, .base = *start & 1 ? 8 : 0};
        code.opcode = start + 1;
    }
    return step_one_byte(&code);
}
