"""The dialects of nkdsl.

`nanokernel` says what a product is composed of; in `nkvector` one value is one register.
"""
