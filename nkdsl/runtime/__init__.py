"""The runtime: native kernels called on numpy arrays, every argument checked first."""
