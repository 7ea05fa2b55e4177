// The kernels compiled for generic; the flags are in CMakeLists.txt.
#include "ops.h"

#include <cmath>
#include <cstring>
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

const Ops& generic_ops() {
  static const Ops ops = {"generic",  linear,   quantize,         rms_norm,            add,
                          silu_mul, rotary,   to_half,          from_half,           attention<float>,
                          attention<uint16_t>, maximum, exp_sum, shrink, expand};
  return ops;
}

}  // namespace evolute
