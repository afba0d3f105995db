"""A compiled function: machine code that is called on numpy arrays, and what became of its source.

A `Kernel` keeps its machine code alive: `address` is valid as long as the kernel is. A call checks
its arguments (`runtime.entry`), then runs native code without holding Python's lock; any number of
threads may call one kernel, each with results and a workspace of its own. Factors that were packed
for the kernel (`nkdsl.pack`) surprise those checks, and are then found out; so are tensors.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import ModuleOp

from nkdsl.backends import linker, native
from nkdsl.backends.native import LoadedCode
from nkdsl.emulation.calls import emulated_call
from nkdsl.errors import InvalidInput, Unsupported
from nkdsl.frontend import load, make_context, to_text
from nkdsl.packed import Packed, Variants
from nkdsl.pipeline import LEVELS, lower
from nkdsl.runtime import openmp
from nkdsl.runtime.entry import CheckedCall, Entry, native_entry
from nkdsl.runtime.signature import Signature
from nkdsl.targets import can_run
from nkdsl.targets.model import Target
from nkdsl.tensors import Tensor, as_array

Array = npt.NDArray[np.generic]


class _Call(CheckedCall):
    """A call that leaves packed factors to the kernels that read them, and takes tensors."""

    variants: Variants

    def __call__(self, *arguments: object, workspace: npt.NDArray[np.uint8] | None = None) -> None:
        """Check the arguments, then run; see `Kernel.__call__`."""
        if Packed in map(type, arguments):
            self.variants.call(arguments, workspace)
            return
        symbol = self.signature.symbol
        arrays = [as_array(x, f"argument {i} of {symbol}") for i, x in enumerate(arguments)]
        super().__call__(*arrays, workspace=workspace)


class Kernel:
    """One function of a program, compiled for a target."""

    def __init__(
        self,
        *,
        source: ModuleOp,
        signature: Signature,
        target: Target,
        llvm_ir: str,
        workspace_bytes: int,
        plans: tuple[str, ...],
        threads: int = 1,
        emulate: bool = False,
    ):
        """Made by `nkdsl.compile`.

        Args:
            source: the program as it was given.
            signature: what the arguments must be.
            target: what it was compiled for.
            llvm_ir: what became of it.
            workspace_bytes: bytes of scratch memory that a call needs.
            plans: the plan of each product, in order.
            threads: how many it was planned for.
            emulate: whether calls go through an emulator, where this CPU isn't the target.
        """
        self.signature = signature
        self.target = target
        self.workspace_bytes = workspace_bytes
        """Bytes of scratch memory that a call needs."""
        self.plans = plans
        """The plan of each product, in order."""
        self._source = source
        self._threads = threads
        self._llvm_ir = llvm_ir
        self._emulated = emulate and can_run(target) is not None

    def __repr__(self) -> str:
        return f"<nkdsl.Kernel {self.c_declaration} for {self.target.name}>"

    # ------------------------------------------------------------------------ what it is

    @property
    def plan(self) -> str:
        """The plan of the first product."""
        return self.plans[0] if self.plans else ""

    @property
    def c_declaration(self) -> str:
        """The C prototype of the native entry point."""
        return self.signature.declaration(self.workspace_bytes)

    def ir(self, level: str) -> str:
        """The program at a level, as MLIR text.

        Below nkdsl's levels there is `llvm`, LLVM IR; `mlir` is another name of `upstream`.

        Raises:
            InvalidInput: naming the levels, for an unknown one.
        """
        if level == "llvm":
            return self._llvm_ir
        end = "upstream" if level == "mlir" else level
        if end not in LEVELS:
            known = ", ".join((*LEVELS, "llvm"))
            raise InvalidInput(f"there is no level '{level}'; levels are {known}")
        context = make_context()
        module = load(self._source, context)
        lower(module, context, self.target, end=end, threads=self._threads)
        return to_text(module)

    def asm(self) -> str:
        """The assembly text for the target."""
        return native.emit_assembly(self._llvm_ir, self.target)

    def object_code(self) -> bytes:
        """A position-independent object file for the target."""
        return native.emit_object(self._llvm_ir, self.target)

    def shared_library(self) -> bytes:
        """A shared library for the target that exports the function by its name."""
        return linker.link_shared(self.object_code(), self.target.triple)

    def explain(self) -> str:
        """What was planned and why: blocks, registers, edges, predicted cycles."""
        from nkdsl.explain import explain_module

        return explain_module(self._source, self.target, threads=self._threads)

    # ----------------------------------------------------------------------- how it runs

    def prepare(self) -> None:
        """Make the machine code now, so that the first call costs no more than the others.

        Raises:
            Unsupported: where this CPU can't run the target's code.
        """
        _ = self.entry

    @cached_property
    def _code(self) -> LoadedCode:
        # LLVM ends the process where it can't resolve a function.
        if openmp.is_called(self._llvm_ir) and openmp.ensure_loaded() is None:
            raise Unsupported(
                f"{self.signature.symbol} shares its work between threads: {openmp.absence()}"
            )
        return native.load(self._llvm_ir, self.target, emulated=self._emulated)

    @cached_property
    def address(self) -> int:
        """The native entry point's address; its type is `c_declaration`.

        It is valid as long as this kernel lives, and checks nothing: pointers must be to memory of
        the parameters' types and layouts, sizes (`a_d0`) and strides in elements (`a_s0`) must be
        those of that memory, results must not overlap other arguments, and where `workspace_bytes`
        is not 0 the last pointer is to so many bytes, aligned to 64, that no other call uses
        meanwhile.

        Raises:
            Unsupported: where this CPU can't run the target's code.
        """
        return self._code.address(self.signature.symbol)

    @cached_property
    def entry(self) -> Entry:
        """The function that a call goes through, without the detour by way of the kernel.

        It takes what `Kernel.__call__` takes and checks as much, and lives on its own.

        Raises:
            Unsupported: where this CPU can't run the target's code.
        """
        return self._emulated_entry() if self._emulated else native_entry(self.checked)

    def _emulated_entry(self) -> Entry:
        call, variants = emulated_call(self), self.variants

        def entry(*arguments: object) -> None:
            if Packed in map(type, arguments):
                variants.call(arguments)
            else:
                call(*arguments)

        return entry

    @cached_property
    def checked(self) -> CheckedCall:
        """The call of native code that checks its arguments in Python; emulates nothing.

        Raises:
            Unsupported: where this CPU can't run the target's code.
        """
        call = _Call(self.signature, self._code, self.address, self.workspace_bytes)
        call.variants = self.variants
        return call

    @cached_property
    def variants(self) -> Variants:
        """The kernels that do the same with some arguments packed."""
        return Variants(
            self._source,
            self.signature.symbol,
            self.target,
            self.plans,
            [parameter.name for parameter in self.signature.parameters],
            threads=self._threads,
            emulate=self._emulated,
        )

    def packed(self, *factors: Packed, arguments: Sequence[int | str] | None = None) -> "Kernel":
        """The kernel that reads packed factors, for native callers.

        It takes the array `factor.panels` in place of each factor's argument. It is compiled when
        it is asked for, or called with them packed, for the first time.

        Args:
            factors: in the order of the arguments that they are.
            arguments: which arguments these are, by position or name; may be left out where only
                one choice of arguments fits.

        Raises:
            InvalidInput: for a factor that was packed for another kernel, saying what differs; and
                where several choices of arguments fit.
        """
        return self.variants.reader(factors, arguments)

    def __call__(
        self,
        *arguments: Array | Tensor | float | Packed,
        workspace: npt.NDArray[np.uint8] | None = None,
    ) -> None:
        """Run on arrays, in the order of the function's parameters; writes in place.

        Python's lock is free meanwhile. Threads may call at the same time if none writes what
        another one uses.

        Args:
            arguments: for each parameter an array of exactly its type, shape and strides, as far
                as these are known, or a tensor of PyTorch, a number, or what `nkdsl.pack` made for
                this kernel.
            workspace: `workspace_bytes` bytes of scratch memory, aligned to 64; the kernel's own
                by default.

        Raises:
            InvalidInput: for arguments that don't fit, before any native code runs.
            Unsupported: where this CPU can't run the target's code.
        """
        if workspace is None:
            self.entry(*arguments)
        else:
            self.checked(*arguments, workspace=workspace)
