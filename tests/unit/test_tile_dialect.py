"""Tiles as values: which register each of them lies in, and which programs would lose one."""

import pytest
from xdsl.dialects import func
from xdsl.dialects.builtin import Float32Type
from xdsl.utils.exceptions import VerifyException

from nkdsl.dialects.tile import (
    ConfigureOp,
    LoadOp,
    MmaOp,
    RegisterFile,
    StoreOp,
    TileType,
    ZeroOp,
    verify_registers,
)
from nkdsl.frontend import load, make_context

SUM, LEFT, RIGHT = "!tile.tile<11x16xf32>", "!tile.tile<11x32xbf16>", "!tile.tile<16x32xbf16>"

CONFIGURED = f"tile.configure [{SUM}, {SUM}, {LEFT}, {RIGHT}]"

LOAD = "tile.load {source}[%c0, %c0] rows 0 into {register} : {memory}, {tile}"
MEMORY = {
    SUM: ("%c", "memref<11x16xf32>"),
    LEFT: ("%a", "memref<11x32xbf16>"),
    RIGHT: ("%b", "memref<16x32xbf16>"),
}


def loaded(tile: str, register: int) -> str:
    source, memory = MEMORY[tile]
    return LOAD.format(source=source, memory=memory, tile=tile, register=register)


def stored(value: str) -> str:
    return f"tile.store {value}, %c[%c0, %c0] rows 0 : memref<11x16xf32>, {SUM}"


def multiplied(acc: str, lhs: str = "%l", rhs: str = "%r") -> str:
    return f'tile.mma {acc}, {lhs}, {rhs} using "tile.bf16x16x16x32" : {SUM}, {LEFT}, {RIGHT}'


FACTORS = f"%l = {loaded(LEFT, 2)}\n%r = {loaded(RIGHT, 3)}"


def function(*body: str) -> func.FuncOp:
    """A function that computes on tiles; `%c0` is zero, `%n` any number, `%yes` any truth."""
    module = load(
        f"""func.func @f(%a: memref<11x32xbf16>, %b: memref<16x32xbf16>, %c: memref<11x16xf32>,
            %n: index, %yes: i1) {{
          %c0 = arith.constant 0 : index
          %c1 = arith.constant 1 : index
          {CONFIGURED}
          {chr(10).join(body)}
          tile.release
          func.return
        }}""",
        make_context(),
    )
    (found,) = (op for op in module.ops if isinstance(op, func.FuncOp))
    return found


def verified(*body: str) -> tuple[func.FuncOp, RegisterFile]:
    found = function(*body)
    configured = next(op for op in found.walk() if isinstance(op, ConfigureOp))
    return found, verify_registers(found.body.blocks[0], tuple(configured.shapes))


# ------------------------------------------------------------------------------------ accepted


def test_every_value_has_the_register_it_says_and_sums_that_of_their_accumulator() -> None:
    found, registers = verified(
        f"%s = tile.zero into 1 : {SUM}",
        FACTORS,
        f"%t = {multiplied('%s')}",
        f"%u = {multiplied('%t')}",
        stored("%u"),
    )
    for op in found.walk():
        match op:
            case ZeroOp() | LoadOp():
                assert op.register is not None
                assert registers[op.result] == op.register.value.data
            case MmaOp():
                assert registers[op.result] == registers[op.acc] == 1
            case StoreOp():
                assert op.tile in registers
            case _:
                pass


def test_a_register_may_be_taken_again_after_the_last_use_of_what_it_held() -> None:
    verified(
        f"%s = tile.zero into 0 : {SUM}",
        FACTORS,
        f"%t = {multiplied('%s')}",
        f"%l2 = {loaded(LEFT, 2)}",
        f"%u = {multiplied('%t', '%l2')}",
        stored("%u"),
        f"%v = tile.zero into 0 : {SUM}",
        stored("%v"),
    )


def test_loops_and_branches_carry_tiles_in_their_registers() -> None:
    found, registers = verified(
        f"""%s = scf.if %yes -> ({SUM}) {{
          %x = tile.zero into 1 : {SUM}
          scf.yield %x : {SUM}
        }} else {{
          %y = {loaded(SUM, 1)}
          scf.yield %y : {SUM}
        }}
        %t = scf.for %i = %c0 to %n step %c1 iter_args(%p = %s) -> ({SUM}) {{
          {FACTORS}
          %q = {multiplied("%p")}
          scf.yield %q : {SUM}
        }}
        {stored("%t")}"""
    )
    (store,) = (op for op in found.walk() if isinstance(op, StoreOp))
    assert registers[store.tile] == 1


def test_a_tile_from_outside_may_be_used_in_every_turn_of_a_loop() -> None:
    verified(
        f"""%s = tile.zero into 0 : {SUM}
        {FACTORS}
        %t = scf.for %i = %c0 to %n step %c1 iter_args(%p = %s) -> ({SUM}) {{
          %q = {multiplied("%p")}
          scf.yield %q : {SUM}
        }}
        {stored("%t")}"""
    )


# ------------------------------------------------------------------------------------- refused


REFUSED = {
    "no register": ([f"%s = tile.zero : {SUM}"], "tile.zero must say into which register"),
    "no register for what is loaded": (
        [f"%l = tile.load %a[%c0, %c0] rows 0 : memref<11x32xbf16>, {LEFT}"],
        "tile.load must say into which register",
    ),
    "another shape": (
        [f"%l = {loaded(LEFT, 3)}"],
        r"register 3 is configured as !tile.tile<16x32xbf16>, not !tile.tile<11x32xbf16>",
    ),
    "a register that is not configured": (
        [f"%s = tile.zero into 4 : {SUM}"],
        r"register 4 is configured as nothing, not !tile.tile<11x16xf32>",
    ),
    "taken by another value": (
        [f"%s = tile.zero into 0 : {SUM}", f"%t = {loaded(SUM, 0)}", stored("%s")],
        "register 0 holds another tile than tile.store is given",
    ),
    "taken by sums": (
        [f"%s = tile.zero into 0 : {SUM}", FACTORS, f"%t = {multiplied('%s')}", stored("%s")],
        "register 0 holds another tile than tile.store is given",
    ),
    "a factor that was loaded over": (
        [
            f"%s = tile.zero into 0 : {SUM}",
            FACTORS,
            f"%l2 = {loaded(LEFT, 2)}",
            f"%t = {multiplied('%s')}",
        ],
        "register 2 holds another tile than tile.mma is given",
    ),
    "released": (
        [f"%s = tile.zero into 0 : {SUM}", "tile.release", stored("%s")],
        "register 0 holds another tile than tile.store is given",
    ),
    "configured again": (
        [f"%s = tile.zero into 0 : {SUM}", CONFIGURED, stored("%s")],
        "register 0 holds another tile than tile.store is given",
    ),
    "a loop that ends in another register": (
        [
            f"""%s = tile.zero into 0 : {SUM}
            %t = scf.for %i = %c0 to %n step %c1 iter_args(%p = %s) -> ({SUM}) {{
              %q = {loaded(SUM, 1)}
              scf.yield %q : {SUM}
            }}"""
        ],
        "a loop must leave a tile in the register it had",
    ),
    "lost in the next turn of a loop": (
        [
            f"""%s = tile.zero into 0 : {SUM}
            {FACTORS}
            %t = scf.for %i = %c0 to %n step %c1 iter_args(%p = %s) -> ({SUM}) {{
              %q = {multiplied("%p")}
              %l2 = {loaded(LEFT, 2)}
              %u = {multiplied("%q", "%l2")}
              scf.yield %u : {SUM}
            }}"""
        ],
        "register 2 holds another tile in the loop's next turn",
    ),
    "what a loop carried, used after it": (
        [
            f"""%s = tile.zero into 0 : {SUM}
            {FACTORS}
            %t = scf.for %i = %c0 to %n step %c1 iter_args(%p = %s) -> ({SUM}) {{
              %q = {multiplied("%p")}
              scf.yield %q : {SUM}
            }}
            {stored("%s")}"""
        ],
        "register 0 holds another tile than tile.store is given",
    ),
    "branches that end in different registers": (
        [
            f"""%s = scf.if %yes -> ({SUM}) {{
              %x = tile.zero into 0 : {SUM}
              scf.yield %x : {SUM}
            }} else {{
              %y = tile.zero into 1 : {SUM}
              scf.yield %y : {SUM}
            }}"""
        ],
        "both branches must leave a tile in one register",
    ),
    "lost in a branch": (
        [
            f"""%s = tile.zero into 0 : {SUM}
            scf.if %yes {{
              %x = {loaded(SUM, 0)}
            }}
            {stored("%s")}"""
        ],
        "register 0 holds another tile than tile.store is given",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_program_that_would_lose_a_tile_is_refused(name: str) -> None:
    body, words = REFUSED[name]
    with pytest.raises(VerifyException, match=words):
        verified(*body)


# --------------------------------------------------------------------------------------- types


def test_scalable_tiles_grow_with_the_vector_and_rows_of_one_only_in_width() -> None:
    square = TileType.of(4, 4, Float32Type(), scalable=True)
    row = TileType.of(1, 4, Float32Type(), scalable=True)
    fixed = TileType.of(4, 4, Float32Type())
    assert [t.shape_at(4) for t in (square, row, fixed)] == [(16, 16), (1, 16), (4, 4)]
