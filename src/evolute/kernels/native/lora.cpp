#include "lora.h"

#include <algorithm>
#include <cstring>

#include "ops.h"

namespace evolute {
namespace {

// A thread's own: pointers to rows, copies of those that cross blocks, a panel of columns.
struct Scratch {
  std::vector<const float*> rows;
  std::vector<float> copies, room;

  float* panel() {  // from where a cache line begins
    const uintptr_t at = reinterpret_cast<uintptr_t>(room.data());
    return room.data() + (64 - at % 64) % 64 / sizeof(float);
  }

  // `count` rows of `width` floats, `pitch` apart from `at` on.
  void find(const Adapter& adapter, int64_t at, int64_t pitch, int count, int64_t width) {
    float* free = copies.data();
    for (int j = 0; j < count; j++, at += pitch) {
      rows[j] = adapter.read(at, width, free);
      if (rows[j] == free) free += padded(width);
    }
    for (int j = count; j < count + kRowsAhead; j++, at += pitch) rows[j] = adapter.where(at);
  }
};

Scratch& scratch_of(int64_t count, int64_t width) {
  thread_local Scratch scratch;
  const auto grow = [](auto& of, int64_t to) {
    if ((int64_t)of.size() < to) of.resize(to);
  };
  grow(scratch.rows, count + kRowsAhead);
  grow(scratch.copies, count * padded(width));
  grow(scratch.room, std::max({count * padded(width), (int64_t)kNearFloats, 4 * padded(width)}) + 16);
  return scratch;
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
  const float* in[kAdapterRows];
  for (int i = 0; i < tile->count; i++) in[i] = x + plan.tokens[tile->first + i] * k;
  Scratch& scratch = scratch_of(count, k);
  scratch.find(*tile->adapter, group->a + first * padded(k), padded(k), count, padded(k));
  active_ops().shrink(scratch.rows.data(), count, in, tile->count, k, tile->adapter->scale,
                      low + (int64_t)tile->first * plan.max_rank + first, plan.max_rank,
                      scratch.panel());
}

void expand(const ExpandTask& task, const LoraPlan& plan, int64_t n, const float* low) {
  const auto& [tile, part, out, first, count] = task;
  float* to[kAdapterRows];
  for (int i = 0; i < tile->count; i++) to[i] = out + plan.tokens[tile->first + i] * n + first;
  Scratch& scratch = scratch_of(part->rank, count);
  scratch.find(*tile->adapter, part->b + first, padded(n), part->rank, count);
  active_ops().expand(scratch.rows.data(), part->rank,
                      low + (int64_t)tile->first * plan.max_rank + part->first, plan.max_rank,
                      tile->count, count, to, scratch.panel());
}

}  // namespace evolute
