"""Backends: from upstream MLIR to native code.

`mlir` runs the stock mlir-opt and mlir-translate, `native` turns LLVM IR into assembly, objects
and code in memory through llvmlite, `linker` makes shared libraries. Nothing above this package
starts a process.
"""
