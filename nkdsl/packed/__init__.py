"""Factors that are packed once, for kernels that are called again and again with the same ones.

```python
w = nkdsl.pack(b, like=k)  # k: a kernel of one product, of static sizes
k(a, w, c)  # reads the panels of w; as often as you like

w1 = nkdsl.pack(b1, like=network, argument=3)  # of several products: say which argument it is
network(x, b0, bias0, w1, bias1, y)  # any arguments packed, the others are arrays
```

A packed factor lies in panels, each as wide as a block of registers, one behind the other: B as
`[N/48][K][48]`. For the compiler that is a layout like any other, told by index maps, so the kernel
that reads it is the same program with other maps and needs no pass of its own:

```mlir
nanokernel.gemm ins(%a[m, k], %b[k, n] : ...) outs(%c[m, n] : ...)
// becomes
nanokernel.gemm ins(%a[m, k], %b[n0, k, n1] : ...) outs(%c[m, 48 * n0 + n1] : ...)
```

Where the width divides no size, the last panel ends in zeros, and a second product reads as much of
it as there is. The width is the planner's choice: of all widths of register blocks, the one whose
plan is predicted to take the least time. Of several products each is looked at by itself; where
several factors are packed, one product after the other is rewritten so, and those that read none
keep their plans.

For an instruction that takes k in groups, two of bf16 or four of 8-bit integers, a panel holds
groups (VNNI), `[N/48][ceil(K/2)][48][2]`, whose last one is filled up with zeros:
`%b[n0, k floordiv 2, n1, k mod 2]`.

Modules: `layout` (where elements lie), `product` (one product and its factor), `program` (a
function of products and its arguments), `variants` (the kernels that read what is packed).
"""

from typing import TYPE_CHECKING

from nkdsl.packed.layout import Array, Layout, Operand, Packed
from nkdsl.packed.variants import Variants

if TYPE_CHECKING:
    from nkdsl.runtime.kernel import Kernel

__all__ = ["Layout", "Packed", "Variants", "pack"]


def pack(
    array: Array,
    like: "Kernel",
    *,
    argument: int | str | None = None,
    operand: Operand | None = None,
) -> Packed:
    """Pack a factor for a kernel, once for all its calls.

    The kernel that reads the panels is compiled once, and `like` keeps it: of one product here; of
    several by the first call with these arguments packed, or beforehand by `like.packed(...)`.

    Args:
        array: the factor, of the shape and type that the kernel takes, and of any strides; or a
            tensor of PyTorch.
        like: a kernel; the product must be of static sizes.
        argument: which of the kernel's arguments it is: its position, or its name as in
            `like.c_declaration`. May be left out where there is one product.
        operand: which of the only product's factors it is, `rhs` (the default) or `lhs`.

    Returns:
        What `like` takes in the array's place, and so does every kernel, and every argument, that
        is read in the same layout.

    Raises:
        InvalidInput: for an array of another shape or type, and for an argument that isn't there.
        Unsupported: for arguments that no kernel can read packed, with the reason; and without
            `argument` for kernels of several products, with the arguments that can be packed.
    """
    return like.variants.pack(array, argument, operand)
