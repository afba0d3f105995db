// RUN: xdsl-opt %s --split-input-file --verify-diagnostics --parsing-diagnostics | filecheck %s

// Blocks of scalable tiles are blocks of tiles.

// CHECK: Expected 'scalable'
"test.op"() {a = !nanokernel.block<8x8xf32, lanes = n, tiles = 4x4, large>} : () -> ()

// -----

// CHECK: Expected 'tiles'
"test.op"() {a = !nanokernel.block<8x8xf32, lanes = n, scalable>} : () -> ()

// -----

// CHECK: tiles of 4x4 don't make up 8x6
"test.op"() {a = !nanokernel.block<8x6xf32, lanes = n, tiles = 4x4, scalable>} : () -> ()

// -----

// CHECK: tiles lie along m or n, not k
"test.op"() {a = !nanokernel.block<8x4xf32, lanes = k, tiles = 4x4, scalable>} : () -> ()
