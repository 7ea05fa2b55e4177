// The kernels compiled for avx2; the flags are in CMakeLists.txt.
#include "ops.h"

#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace evolute {
namespace {
#include "vec.inc"

#include "linear.inc"

#include "rowwise.inc"

#include "attention.inc"

#include "lora.inc"
}  // namespace

const Ops& avx2_ops() {
  static const Ops ops = {"avx2",  linear,   quantize,         rms_norm,            add,
                          silu_mul, rotary,   to_half,          from_half,           attention<float>,
                          attention<uint16_t>, maximum, exp_sum, shrink, expand};
  return ops;
}

}  // namespace evolute
