"""The passes, one file each, named after the pass.

Imported as `nkdsl.transforms`. Each pass moves the program one level down, from `linalg` towards
the upstream dialects that mlir-opt knows, and does nothing else. Passes import the dialects, the
targets and the planner, never the backends.
"""
