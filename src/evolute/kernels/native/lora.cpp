#include "lora.h"

#include <algorithm>
#include <cstring>

#include "ops.h"

namespace evolute {
namespace {

float* scratch_of(int64_t floats) {
  thread_local std::vector<float> memory;
  if ((int64_t)memory.size() < floats) memory.resize(floats);
  return memory.data();
}

}  // namespace

const float* Adapter::read(int64_t at, int64_t count, float* scratch) const {
  int64_t block = at / block_floats, offset = at % block_floats;
  if (offset + count <= block_floats) return blocks[block] + offset;
  for (int64_t done = 0; done < count; block++, offset = 0) {
    const int64_t run = std::min(count - done, block_floats - offset);
    std::memcpy(scratch + done, blocks[block] + offset, run * sizeof(float));
    done += run;
  }
  return scratch;
}

void shrink(const ShrinkTask& task, const LoraPlan& plan, const float* x, int64_t k, float* low) {
  const auto& [tile, group, first, count] = task;
  const int64_t pitch = padded(k);
  const float *in[kAdapterRows], *rows[kRankTile], *next[kRankTile];
  float* scratch = scratch_of(kRankTile * pitch);
  for (int i = 0; i < tile->count; i++) in[i] = x + plan.tokens[tile->first + i] * k;
  for (int r = first; r < first + count; r += kRankTile) {
    const int some = std::min(kRankTile, first + count - r);
    for (int j = 0; j < some; j++) {
      const int64_t at = group->a + (r + j) * pitch;
      rows[j] = tile->adapter->read(at, k, scratch + j * pitch);
      next[j] = tile->adapter->where(at + kRankTile * pitch);
    }
    active_ops().shrink(rows, next, some, in, tile->count, k, tile->adapter->scale,
                        low + (int64_t)tile->first * plan.max_rank + r, plan.max_rank);
  }
}

void expand(const ExpandTask& task, const LoraPlan& plan, int64_t n, const float* low) {
  const auto& [tile, part, out, first, count] = task;
  const int64_t pitch = padded(n), width = padded(count);
  const float *rows[kRankTile], *next[kRankTile];
  float *to[kAdapterRows], *scratch = scratch_of(kRankTile * width);
  for (int i = 0; i < tile->count; i++) to[i] = out + plan.tokens[tile->first + i] * n + first;
  for (int r = 0; r < part->rank; r += kRankTile) {
    const int some = std::min(kRankTile, part->rank - r);
    for (int j = 0; j < some; j++) {
      const int64_t at = part->b + (r + j) * pitch + first;
      rows[j] = tile->adapter->read(at, count, scratch + j * width);
      next[j] = tile->adapter->where(at + kRankTile * pitch);
    }
    active_ops().expand(rows, next, some, low + (int64_t)tile->first * plan.max_rank + part->first + r,
                        plan.max_rank, tile->count, count, to);
  }
}

}  // namespace evolute
