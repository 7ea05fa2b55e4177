// Weight matrices in the order the kernels read them.
#pragma once
#include <memory>
#include <vector>

#include "ops.h"
#include "pool.h"

namespace evolute {

struct Packed {
  int64_t n = 0, k = 0, bytes = 0;
  PanelView view{};
  std::shared_ptr<uint8_t> data;

  int64_t panels() const;
  void rows(const int64_t* ids, int64_t count, float* out) const;  // dequantised [count, k]
  void row(int64_t id, float* out) const;
};

std::shared_ptr<Packed> pack_float(const float* w, int64_t n, int64_t k);
// w[n, k] = scale[n, k / 32] * code[n, k] + offset[n, k / 32]; bits is 4 or 8.
std::shared_ptr<Packed> pack_codes(const uint8_t* codes, const float* scale, const float* offset,
                                   int64_t n, int64_t k, int bits);

// w[n, k] = scale[n] * code[n, k] + offset[n], 8 bits; activations are rounded by `group` blocks.
std::shared_ptr<Packed> pack_channels(const uint8_t* codes, const float* scale, const float* offset,
                                      int64_t n, int64_t k, int group);

}  // namespace evolute
