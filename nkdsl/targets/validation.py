"""Whether a target's table is possible: contradictions are refused before they become wrong code.

Everything here follows from the table alone; whether its numbers are *true* is for measurements.
"""

from collections.abc import Iterator

from nkdsl.errors import InvalidInput, NkdslError
from nkdsl.targets.model import Cache, Instruction, Target, TileInstruction, TileUnit

_LLVM_FEATURE_SIGNS = ("+", "-")


def validate(target: Target) -> None:
    """Raise `InvalidInput` with everything that is impossible about `target`, if anything is."""
    if faults := list(_faults(target)):
        raise InvalidInput(f"impossible target '{target.name}': {'; '.join(faults)}")


def _faults(target: Target) -> Iterator[str]:
    yield from _name_faults(target)
    yield from _core_faults(target)
    if not target.instructions:
        yield "it has no instructions"
    names = [i.name for i in (*target.instructions, *target.tile_instructions)]
    for name in sorted({n for n in names if names.count(n) > 1}):
        yield f"two instructions are called {name}"
    for instruction in target.instructions:
        yield from (f"{instruction.name}: {fault}" for fault in _instruction_faults(instruction))
    for tiled in target.tile_instructions:
        yield from (f"{tiled.name}: {fault}" for fault in _tile_faults(tiled))
    if target.tiles is not None:
        yield from _tile_unit_faults(target.tiles)
    yield from _cache_faults(target.caches)


def _name_faults(target: Target) -> Iterator[str]:
    if not target.name or any(c.isspace() or c in ",{}=" for c in target.name):
        yield "its name is empty or holds a space or one of , { } =, which pass options can't"
    if not target.cpu:
        yield "it names no LLVM cpu"
    for feature in target.features:
        if not feature.startswith("+"):
            yield f"feature '{feature}' is not of the form +name"
    for feature in target.tuning:
        if not feature.startswith(_LLVM_FEATURE_SIGNS):
            yield f"tuning '{feature}' is not of the form +name or -name"


def _core_faults(target: Target) -> Iterator[str]:
    if target.registers < 4:
        yield f"{target.registers} registers can't hold two operands, an accumulator and a spare"
    if not 0 <= target.spare_registers < target.registers:
        yield f"{target.spare_registers} of {target.registers} registers can't be spare"
    rates = {
        "loads_per_cycle": target.loads_per_cycle,
        "stores_per_cycle": target.stores_per_cycle,
        "shuffles_per_cycle": target.shuffles_per_cycle,
        "memory_bytes_per_cycle": target.memory_bytes_per_cycle,
        "issue_width": target.issue_width,
        "micro_op_cache": target.micro_op_cache,
    }
    for field, value in rates.items():
        if not value > 0:
            yield f"{field} is {value}, but must be positive"
    amounts = {
        "refill_cycles": target.refill_cycles,
        "store_buffer": target.store_buffer,
        "prefetch_cycles": target.prefetch_cycles,
    }
    for field, value in amounts.items():
        if not value >= 0:
            yield f"{field} is {value}, but must not be negative"


def _instruction_faults(instruction: Instruction) -> Iterator[str]:
    try:
        operand, bits = instruction.operand_type, instruction.bits
    except NkdslError as error:
        yield str(error)
        return
    if bits < 128 or not _is_power_of_two(bits):
        yield (
            f"{instruction.lanes} lanes of {instruction.accumulator} make a register of "
            f"{bits} bits, but registers have 128, 256, 512, …"
        )
    if instruction.k < 1 or instruction.lanes * instruction.k * operand.size * 8 > bits:
        yield (
            f"{instruction.lanes} lanes of {instruction.k} {operand.name} factors do not fit "
            f"a register of {bits} bits"
        )
    if instruction.latency < 1:
        yield f"a latency of {instruction.latency} cycles is impossible"
    if not instruction.per_cycle > 0:
        yield f"per_cycle is {instruction.per_cycle}, but must be positive"
    if not (instruction.upstream and instruction.mnemonic):
        yield "it must say what it is lowered to (upstream, mnemonic)"


def _tile_faults(instruction: TileInstruction) -> Iterator[str]:
    yield from _instruction_faults(instruction)
    if min(instruction.rows, instruction.depth) < 1:
        yield f"{instruction.rows} rows and {instruction.depth} groups of k make no tile"


def _tile_unit_faults(unit: TileUnit) -> Iterator[str]:
    if unit.registers < 3:
        yield f"{unit.registers} tiles can't hold two factors and an accumulator"
    for feature in unit.features:
        if not feature.startswith("+"):
            yield f"feature '{feature}' of {unit.name} is not of the form +name"
    if not min(unit.rows_loaded_per_cycle, unit.rows_stored_per_cycle) > 0:
        yield f"the rates of {unit.name} must be positive"
    if not unit.configure_cycles >= 0:
        yield f"configure_cycles of {unit.name} is {unit.configure_cycles}, which is negative"


def _cache_faults(caches: tuple[Cache, ...]) -> Iterator[str]:
    if not caches:
        yield "it has no caches; list at least L1"
    for level, cache in enumerate(caches, start=1):
        if min(cache.size, cache.ways, cache.line) < 1 or not cache.bytes_per_cycle > 0:
            yield f"L{level}: sizes and rates must be positive"
        elif cache.size % (cache.ways * cache.line):
            yield (
                f"L{level}: {cache.size} bytes are not a whole number of sets of "
                f"{cache.ways} lines of {cache.line} bytes"
            )
    sizes = [cache.size for cache in caches]
    if sizes != sorted(sizes):
        yield f"its caches shrink from level to level ({', '.join(map(str, sizes))} bytes)"


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0
