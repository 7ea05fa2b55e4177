#include "packing.h"

#include <cstring>
#include <stdexcept>
#include <string>

#include "memory.h"

namespace evolute {
namespace {

void allocate(Packed& p, int64_t n, int64_t k, int width, int64_t panel_bytes) {
  p.n = n;
  p.k = k;
  p.bytes = (n + width - 1) / width * panel_bytes;
  p.data = piece_of_slab(p.bytes);
  p.view.data = p.data.get();
  p.view.panel_bytes = panel_bytes;
  p.view.n = n;
  p.view.k = k;
  p.view.group = 1;
}

bool fits_half(const float* x, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    uint16_t half;
    float back;
    generic_ops().to_half(x + i, &half, 1);
    generic_ops().from_half(&half, &back, 1);
    if (back != x[i]) return false;
  }
  return true;
}

}  // namespace

int64_t Packed::panels() const { return bytes / view.panel_bytes; }

std::shared_ptr<Packed> pack_float(const float* w, int64_t n, int64_t k) {
  auto p = std::make_shared<Packed>();
  allocate(*p, n, k, kFloatPanel, k * kFloatPanel * 4);
  p->view.storage = Storage::kFloat32;
  float* to = reinterpret_cast<float*>(p->data.get());
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < k; j++)
      to[(i / kFloatPanel * k + j) * kFloatPanel + i % kFloatPanel] = w[i * k + j];
  return p;
}

std::shared_ptr<Packed> pack_codes(const uint8_t* codes, const float* scale, const float* offset,
                                   int64_t n, int64_t k, int bits) {
  if (k % kBlock || (bits != 4 && bits != 8))
    throw std::invalid_argument("blocks need a width that is a multiple of 32 and 4 or 8 bits, not " +
                                std::to_string(k) + " and " + std::to_string(bits) +
                                "; use from_float32.");
  const int64_t blocks = k / kBlock, top = bits == 4 ? 15 : 255;
  auto p = std::make_shared<Packed>();
  const bool half = fits_half(scale, n * blocks) && fits_half(offset, n * blocks);
  const int64_t code_bytes = bits == 4 ? 256 : 512, record = code_bytes + (half ? 64 : 128);
  allocate(*p, n, k, kCodePanel, blocks * record);
  p->view.storage = bits == 4 ? Storage::kQ4 : Storage::kQ8;
  p->view.half_scales = half;
  for (int64_t i = 0; i < n; i++)
    for (int64_t b = 0; b < blocks; b++) {
      uint8_t* to = p->data.get() + i / 16 * p->view.panel_bytes + b * record;
      const int64_t lane = i % 16;
      for (int j = 0; j < kBlock; j++) {
        const uint8_t code = codes[i * k + b * kBlock + j];
        if (code > top) throw std::invalid_argument("a code exceeds 4 bits; use bits=8.");
        const int group = j / 4;
        if (bits == 8)
          to[group * 64 + lane * 4 + j % 4] = code;
        else
          to[group % 4 * 64 + lane * 4 + j % 4] |= group < 4 ? code : code << 4;
      }
      const float pair[2] = {scale[i * blocks + b], offset[i * blocks + b]};
      for (int which = 0; which < 2; which++)
        if (half)
          generic_ops().to_half(pair + which,
                                reinterpret_cast<uint16_t*>(to + code_bytes) + 16 * which + lane, 1);
        else
          std::memcpy(to + code_bytes + 64 * which + 4 * lane, pair + which, 4);
    }
  return p;
}

std::shared_ptr<Packed> pack_channels(const uint8_t* codes, const float* scale, const float* offset,
                                      int64_t n, int64_t k, int group) {
  if (group < 1 || k % (kBlock * group))
    throw std::invalid_argument("a width of " + std::to_string(k) + " cannot be cut in groups of " +
                                std::to_string(group) + " blocks of 32; choose a group that divides it.");
  auto p = std::make_shared<Packed>();
  allocate(*p, n, k, kCodePanel, k * kCodePanel + 128);
  p->view.storage = Storage::kChannel;
  p->view.group = group;
  for (int64_t i = 0; i < n; i++) {
    uint8_t* to = p->data.get() + i / 16 * p->view.panel_bytes;
    const int64_t lane = i % 16;
    for (int64_t j = 0; j < k; j++) to[j / 4 * 64 + lane * 4 + j % 4] = codes[i * k + j];
    std::memcpy(to + k * kCodePanel + 4 * lane, scale + i, 4);
    std::memcpy(to + k * kCodePanel + 64 + 4 * lane, offset + i, 4);
  }
  return p;
}

void Packed::row(int64_t id, float* out) const {
  if (view.storage == Storage::kFloat32) {
    const float* from = reinterpret_cast<const float*>(view.data + id / 32 * view.panel_bytes);
    for (int64_t j = 0; j < k; j++) out[j] = from[j * kFloatPanel + id % kFloatPanel];
    return;
  }
  if (view.storage == Storage::kChannel) {
    const uint8_t* from = view.data + id / 16 * view.panel_bytes;
    const int64_t lane = id % 16;
    float pair[2];
    for (int which = 0; which < 2; which++)
      std::memcpy(pair + which, from + k * kCodePanel + 64 * which + 4 * lane, 4);
    for (int64_t j = 0; j < k; j++) out[j] = pair[0] * from[j / 4 * 64 + lane * 4 + j % 4] + pair[1];
    return;
  }
  const bool four = view.storage == Storage::kQ4, half = view.half_scales;
  const int64_t code_bytes = four ? 256 : 512, record = code_bytes + (half ? 64 : 128);
  const int64_t lane = id % 16;
  for (int64_t b = 0; b < k / kBlock; b++) {
    const uint8_t* from = view.data + id / 16 * view.panel_bytes + b * record;
    float pair[2];
    for (int which = 0; which < 2; which++)
      if (half)
        generic_ops().from_half(
            reinterpret_cast<const uint16_t*>(from + code_bytes) + 16 * which + lane, pair + which, 1);
      else
        std::memcpy(pair + which, from + code_bytes + 64 * which + 4 * lane, 4);
    for (int j = 0; j < kBlock; j++) {
      const int group = j / 4;
      uint8_t code = from[(four ? group % 4 : group) * 64 + lane * 4 + j % 4];
      if (four) code = group < 4 ? code & 15 : code >> 4;
      out[b * kBlock + j] = pair[0] * code + pair[1];
    }
  }
}

void Packed::rows(const int64_t* ids, int64_t count, float* out) const {
  for (int64_t i = 0; i < count; i++) row(ids[i], out + i * k);
}

}  // namespace evolute
