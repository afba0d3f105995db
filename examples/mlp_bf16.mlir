// Three layers of a perceptron, relu(x·Wᵀ + b), in bf16, batch 256: linalg on tensors, in the form
// in which torch-mlir writes torch.nn.Linear and torch.relu.
//
// nkdsl makes one product a layer of it: the transposes become maps, and rounding, bias and relu
// run while a result is stored. Only what a layer leaves for the next one goes through memory.
//
//     nkdsl run examples/mlp_bf16.mlir
//     nkdsl-opt examples/mlp_bf16.mlir \
//         -p bufferize,linalg-to-nanokernel,fold-transposes,fuse-epilogues

#element = affine_map<(m, n) -> (m, n)>
#column = affine_map<(m, n) -> (n)>

func.func @mlp(
    %x: tensor<256x1024xbf16>,
    %w0: tensor<1024x1024xbf16>, %b0: tensor<1024xbf16>,
    %w1: tensor<1024x1024xbf16>, %b1: tensor<1024xbf16>,
    %w2: tensor<1024x1024xbf16>, %b2: tensor<1024xbf16>) -> tensor<256x1024xbf16> {
  %zero = arith.constant 0.0 : bf16
  %start = arith.constant 0.0 : f32
  %weights = tensor.empty() : tensor<1024x1024xbf16>
  %sums = tensor.empty() : tensor<256x1024xf32>
  %layer = tensor.empty() : tensor<256x1024xbf16>
  %first = linalg.fill ins(%start : f32) outs(%sums : tensor<256x1024xf32>) -> tensor<256x1024xf32>

  %t0 = linalg.transpose ins(%w0 : tensor<1024x1024xbf16>)
      outs(%weights : tensor<1024x1024xbf16>) permutation = [1, 0]
  %p0 = linalg.matmul ins(%x, %t0 : tensor<256x1024xbf16>, tensor<1024x1024xbf16>)
      outs(%first : tensor<256x1024xf32>) -> tensor<256x1024xf32>
  %r0 = linalg.generic {indexing_maps = [#element, #element],
                         iterator_types = ["parallel", "parallel"]}
      ins(%p0 : tensor<256x1024xf32>) outs(%layer : tensor<256x1024xbf16>) {
  ^bb0(%sum: f32, %old: bf16):
    %rounded = arith.truncf %sum : f32 to bf16
    linalg.yield %rounded : bf16
  } -> tensor<256x1024xbf16>
  %s0 = linalg.generic {indexing_maps = [#element, #column, #element],
                         iterator_types = ["parallel", "parallel"]}
      ins(%r0, %b0 : tensor<256x1024xbf16>, tensor<1024xbf16>)
      outs(%layer : tensor<256x1024xbf16>) {
  ^bb0(%product: bf16, %bias: bf16, %old: bf16):
    %sum = arith.addf %product, %bias : bf16
    linalg.yield %sum : bf16
  } -> tensor<256x1024xbf16>
  %y0 = linalg.generic {indexing_maps = [#element, #element],
                         iterator_types = ["parallel", "parallel"]}
      ins(%s0 : tensor<256x1024xbf16>) outs(%layer : tensor<256x1024xbf16>) {
  ^bb0(%value: bf16, %old: bf16):
    %positive = arith.cmpf ugt, %value, %zero : bf16
    %relu = arith.select %positive, %value, %zero : bf16
    linalg.yield %relu : bf16
  } -> tensor<256x1024xbf16>

  %t1 = linalg.transpose ins(%w1 : tensor<1024x1024xbf16>)
      outs(%weights : tensor<1024x1024xbf16>) permutation = [1, 0]
  %p1 = linalg.matmul ins(%y0, %t1 : tensor<256x1024xbf16>, tensor<1024x1024xbf16>)
      outs(%first : tensor<256x1024xf32>) -> tensor<256x1024xf32>
  %r1 = linalg.generic {indexing_maps = [#element, #element],
                         iterator_types = ["parallel", "parallel"]}
      ins(%p1 : tensor<256x1024xf32>) outs(%layer : tensor<256x1024xbf16>) {
  ^bb0(%sum: f32, %old: bf16):
    %rounded = arith.truncf %sum : f32 to bf16
    linalg.yield %rounded : bf16
  } -> tensor<256x1024xbf16>
  %s1 = linalg.generic {indexing_maps = [#element, #column, #element],
                         iterator_types = ["parallel", "parallel"]}
      ins(%r1, %b1 : tensor<256x1024xbf16>, tensor<1024xbf16>)
      outs(%layer : tensor<256x1024xbf16>) {
  ^bb0(%product: bf16, %bias: bf16, %old: bf16):
    %sum = arith.addf %product, %bias : bf16
    linalg.yield %sum : bf16
  } -> tensor<256x1024xbf16>
  %y1 = linalg.generic {indexing_maps = [#element, #element],
                         iterator_types = ["parallel", "parallel"]}
      ins(%s1 : tensor<256x1024xbf16>) outs(%layer : tensor<256x1024xbf16>) {
  ^bb0(%value: bf16, %old: bf16):
    %positive = arith.cmpf ugt, %value, %zero : bf16
    %relu = arith.select %positive, %value, %zero : bf16
    linalg.yield %relu : bf16
  } -> tensor<256x1024xbf16>

  %t2 = linalg.transpose ins(%w2 : tensor<1024x1024xbf16>)
      outs(%weights : tensor<1024x1024xbf16>) permutation = [1, 0]
  %p2 = linalg.matmul ins(%y1, %t2 : tensor<256x1024xbf16>, tensor<1024x1024xbf16>)
      outs(%first : tensor<256x1024xf32>) -> tensor<256x1024xf32>
  %r2 = linalg.generic {indexing_maps = [#element, #element],
                         iterator_types = ["parallel", "parallel"]}
      ins(%p2 : tensor<256x1024xf32>) outs(%layer : tensor<256x1024xbf16>) {
  ^bb0(%sum: f32, %old: bf16):
    %rounded = arith.truncf %sum : f32 to bf16
    linalg.yield %rounded : bf16
  } -> tensor<256x1024xbf16>
  %s2 = linalg.generic {indexing_maps = [#element, #column, #element],
                         iterator_types = ["parallel", "parallel"]}
      ins(%r2, %b2 : tensor<256x1024xbf16>, tensor<1024xbf16>)
      outs(%layer : tensor<256x1024xbf16>) {
  ^bb0(%product: bf16, %bias: bf16, %old: bf16):
    %sum = arith.addf %product, %bias : bf16
    linalg.yield %sum : bf16
  } -> tensor<256x1024xbf16>
  %y2 = linalg.generic {indexing_maps = [#element, #element],
                         iterator_types = ["parallel", "parallel"]}
      ins(%s2 : tensor<256x1024xbf16>) outs(%layer : tensor<256x1024xbf16>) {
  ^bb0(%value: bf16, %old: bf16):
    %positive = arith.cmpf ugt, %value, %zero : bf16
    %relu = arith.select %positive, %value, %zero : bf16
    linalg.yield %relu : bf16
  } -> tensor<256x1024xbf16>
  return %y2 : tensor<256x1024xbf16>
}
