"""The command line: `nkdsl` with one module a subcommand, and `nkdsl-opt`.

A subcommand's module has `add_arguments(parser)` and `main(arguments) -> exit status`; it imports
the compiler only when it runs. Whatever goes wrong ends in `errors.guarded`, as one message, and
whatever is written to a file goes through `output`, whole or not at all.
"""
