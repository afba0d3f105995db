// RUN: nkdsl-opt %s -p expand-math | filecheck %s

// A bf16 result takes the short form: a polynomial of degree 3. e^x is the square of e^(x/2).
// CHECK-LABEL: func.func @short
// CHECK-NEXT:    nanokernel.gemm
// CHECK-NEXT:    ^bb0(%sum: f32):
// CHECK-DAG:       [[LOW:%[0-9]+]] = arith.constant -1.100000e+02 : f32
// CHECK-DAG:       [[HIGH:%[0-9]+]] = arith.constant 9.000000e+01 : f32
// CHECK-DAG:       [[SHIFT:%[0-9]+]] = arith.constant 23 : i32
// CHECK:           [[X0:%[0-9]+]] = arith.maximumf %sum, [[LOW]] : f32
// CHECK-NEXT:      [[X:%[0-9]+]] = arith.minimumf [[X0]], [[HIGH]] : f32
// CHECK-NEXT:      [[Z:%[0-9]+]] = math.fma [[X]], [[STEP:%[0-9]+]], [[ROUND:%[0-9]+]] : f32
// CHECK-NEXT:      [[N:%[0-9]+]] = arith.subf [[ROUND]], [[Z]] : f32
// CHECK-NEXT:      [[F:%[0-9]+]] = math.fma [[X]], [[STEP]], [[N]] : f32
// CHECK-NEXT:      [[P0:%[0-9]+]] = math.fma {{%[0-9]+}}, [[F]], {{%[0-9]+}} : f32
// CHECK-NEXT:      [[P1:%[0-9]+]] = math.fma [[P0]], [[F]], {{%[0-9]+}} : f32
// CHECK-NEXT:      [[P:%[0-9]+]] = math.fma [[P1]], [[F]], {{%[0-9]+}} : f32
// CHECK-NEXT:      [[BITS:%[0-9]+]] = arith.bitcast [[Z]] : f32 to i32
// CHECK-NEXT:      [[MOVED:%[0-9]+]] = arith.shli [[BITS]], [[SHIFT]] : i32
// CHECK-NEXT:      [[POWER:%[0-9]+]] = arith.bitcast [[MOVED]] : i32 to f32
// CHECK-NEXT:      [[ROOT:%[0-9]+]] = arith.mulf [[P]], [[POWER]] : f32
// CHECK-NEXT:      [[EXP:%[a-z0-9]+]] = arith.mulf [[ROOT]], [[ROOT]] : f32
// CHECK-NEXT:      %r = arith.truncf [[EXP]] : f32 to bf16
// CHECK-NEXT:      nanokernel.yield %r : bf16
func.func @short(%a: memref<8x8xf32>, %b: memref<8x8xf32>, %c: memref<8x8xbf16>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x8xf32>, memref<8x8xf32>) outs(%c[m, n] : memref<8x8xbf16>) from zero epilogue {
  ^bb0(%sum: f32):
    %e = math.exp %sum : f32
    %r = arith.truncf %e : f32 to bf16
    nanokernel.yield %r : bf16
  }
  return
}

// An f32 result takes the full form: silu keeps no exp of its own, and one division.
// CHECK-LABEL: func.func @full
// CHECK-NOT:     math.exp
// CHECK-NOT:     arith.negf
// CHECK-COUNT-9: math.fma
// CHECK-NOT:     math.exp
// CHECK:         [[T:%[0-9]+]] = arith.mulf
// CHECK-NEXT:    [[SUM:%[0-9]+]] = arith.addf [[T]], {{%[0-9]+}} : f32
// CHECK-NEXT:    [[SIGMOID:%[0-9]+]] = arith.divf [[T]], [[SUM]] : f32
// CHECK-NEXT:    [[SILU:%[a-z0-9]+]] = arith.mulf %sum, [[SIGMOID]] : f32
// CHECK-NEXT:    nanokernel.yield [[SILU]] : f32
func.func @full(%a: memref<8x8xf32>, %b: memref<8x8xf32>, %c: memref<8x8xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x8xf32>, memref<8x8xf32>) outs(%c[m, n] : memref<8x8xf32>) epilogue {
  ^bb0(%sum: f32):
    %one = arith.constant 1.0 : f32
    %n = arith.negf %sum : f32
    %e = math.exp %n : f32
    %d = arith.addf %e, %one : f32
    %r = arith.divf %sum, %d : f32
    nanokernel.yield %r : f32
  }
  return
}

// 1 + erf(z) is computed by itself: 2 - erfc(|z|), or erfc(|z|) where z is negative.
// CHECK-LABEL: func.func @one_plus_erf
// CHECK:         [[SIZE:%[0-9]+]] = math.absf %sum : f32
// CHECK:         [[TAIL:%[0-9]+]] = arith.mulf
// CHECK-NEXT:    [[OTHER:%[0-9]+]] = arith.subf {{%[0-9]+}}, [[TAIL]] : f32
// CHECK-NEXT:    [[NEGATIVE:%[0-9]+]] = arith.cmpf olt, %sum, {{%[0-9]+}} : f32
// CHECK-NEXT:    [[R:%[a-z0-9]+]] = arith.select [[NEGATIVE]], [[TAIL]], [[OTHER]] : f32
// CHECK-NEXT:    arith.truncf [[R]] : f32 to bf16
func.func @one_plus_erf(%a: memref<8x8xf32>, %b: memref<8x8xf32>, %c: memref<8x8xbf16>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x8xf32>, memref<8x8xf32>) outs(%c[m, n] : memref<8x8xbf16>) epilogue {
  ^bb0(%sum: f32):
    %one = arith.constant 1.0 : f32
    %erf = math.erf %sum : f32
    %r = arith.addf %erf, %one : f32
    %s = arith.truncf %r : f32 to bf16
    nanokernel.yield %s : bf16
  }
  return
}

// Other functions, other types and what stands outside of epilogues stay.
// CHECK-LABEL: func.func @others
// CHECK-NEXT:    %e = math.exp %x : f32
// CHECK:         ^bb{{[0-9]+}}(%sum: f64):
// CHECK-NEXT:      %r = math.exp %sum : f64
// CHECK:         ^bb{{[0-9]+}}([[SUM:%[a-z0-9_]+]]: f32):
// CHECK-NEXT:      %sin = math.sin [[SUM]] : f32
// CHECK-NEXT:      %{{.*}} = math.sqrt %sin
func.func @others(%a: memref<8x8xf32>, %b: memref<8x8xf32>, %c: memref<8x8xf32>, %p: memref<8x8xf64>, %q: memref<8x8xf64>, %s: memref<8x8xf64>, %x: f32) -> f32 {
  %e = math.exp %x : f32
  nanokernel.gemm ins(%p[m, k], %q[k, n] : memref<8x8xf64>, memref<8x8xf64>) outs(%s[m, n] : memref<8x8xf64>) epilogue {
  ^bb0(%sum: f64):
    %r = math.exp %sum : f64
    nanokernel.yield %r : f64
  }
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x8xf32>, memref<8x8xf32>) outs(%c[m, n] : memref<8x8xf32>) epilogue {
  ^bb0(%sum: f32):
    %sin = math.sin %sum : f32
    %r = math.sqrt %sin : f32
    nanokernel.yield %r : f32
  }
  return %e : f32
}
