"""Everything that reproduces a figure: how kernels are timed, and against whom.

Reading order: `problem` (what is computed, and when an answer is right), `timing` (how a number is
taken), `peak` (what 100 % means), `peers` (who else can do it), `ours` and `plans` (the only doors
to the compiler), `report` (what is written down), `micro` and `blocks` (the suites); for whole
products `gemm_sets`, `gemm_problem`, `gemm_turns`, `peers.engine`, `gemm_ours`, `gemm_worker`,
`peers.families`, `gemm_report` and `gemm`, in this order; for networks, which take turns in the
same way, `mlp_problem`, `mlp_ours`, `peers.libxsmm_layers`, `peers.mlp` and `mlp`. `tiles` counts,
and times nothing. README.md holds the commands that regenerate every figure, and what each column
means.

Imports point one way: `jit`, `machine`, `memory`, `page` <- `problem` <- `timing` <- `peak`,
`peers`, `ours` <- `plans`, `options`, `report` <- `micro`, `blocks`. Of the compiler, only tables
are read (`nkdsl.types`, `nkdsl.targets`) and only `ours`, `plans`, `gemm_ours`, `mlp_ours` and
`tiles` call it.
"""
