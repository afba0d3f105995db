"""Routines that LLVM's code for AArch64 calls, which otherwise are in a compiler's own library.

A function with tiles of its own asks whether its caller left some alive in ZA. If so it has them
saved by `__arm_tpidr2_save`. Only recent compilers' libraries have that, and none of them is linked
here, so every module that needs the routine brings it. LLVM can't compile one from LLVM IR, for the
routine may change four registers only: it is the body's machine code, as data in front of nothing.

Source: Procedure Call Standard for the Arm 64-bit Architecture, "SME support routines".
"""

NEW_TILES = "aarch64_new_za"
"""LLVM's attribute of functions with tiles of their own."""

_SAVE_TILES = (
    0xD53BD0AE,  #    mrs x14, TPIDR2_EL0
    0xB400016E,  #    cbz x14, 1f
    0xF94001D0,  #    ldr x16, [x14]        the buffer to save into
    0xB4000130,  #    cbz x16, 1f
    0x794011D1,  #    ldrh w17, [x14, #8]   how many rows to save
    0x2A1F03EF,  #    mov w15, wzr
    0x6B1101FF,  # 2: cmp w15, w17
    0x540000A2,  #    b.hs 1f
    0xE1206200,  #    str za[w15, 0], [x16]
    0x04305830,  #    addsvl x16, x16, #1
    0x110005EF,  #    add w15, w15, #1
    0x17FFFFFB,  #    b 2b
    0xD65F03C0,  # 1: ret
)
"""`__arm_tpidr2_save`."""


def with_routines(llvm_ir: str) -> str:
    """A module with the routines that its code will call."""
    if NEW_TILES not in llvm_ir:
        return llvm_ir
    words = ", ".join(f"i32 u0x{word:08X}" for word in _SAVE_TILES)
    return (
        f"{llvm_ir}\n"
        "define linkonce_odr hidden void @__arm_tpidr2_save() noinline "
        f"prologue [{len(_SAVE_TILES)} x i32] [{words}] {{ unreachable }}\n"
    )
