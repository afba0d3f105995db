// A product in a C program, compiled ahead of time:
//
//     nkdsl compile examples/matmul_127x255x511.mlir --emit=obj -o matmul.o --header matmul.h
//     cc -I. examples/call_from_c.c matmul.o -o call_from_c && ./call_from_c
//
// With --target=x86-64-v3 the object runs on any x86-64 processor with AVX2. Instead of an object,
// --emit=so makes a library for dlopen. The symbol is the name of the MLIR function.

#include "matmul.h"

#include <stdio.h>

enum { M = 127, N = 255, K = 511 };

static float a[M * K], b[K * N], c[M * N];

int main(void) {
  for (int i = 0; i < M * K; i++) a[i] = (float)(i % 7 - 3);
  for (int i = 0; i < K * N; i++) b[i] = (float)(i % 5 - 2);

  matmul(a, b, c); // C += A·B

  // Small integers are exact in any order of summation.
  int wrong = 0;
  for (int i = 0; i < M; i++) {
    for (int j = 0; j < N; j++) {
      float sum = 0;
      for (int k = 0; k < K; k++) sum += a[i * K + k] * b[k * N + j];
      wrong += sum != c[i * N + j];
    }
  }
  printf("%d of %d elements are wrong\n", wrong, M * N);
  return wrong != 0;
}
