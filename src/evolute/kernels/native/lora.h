// Adapters that lie in memory cut into blocks, and which rows of a step use which.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

namespace evolute {

constexpr int kNumGroups = 4;      // what is multiplied in a layer: qkv | o | gate, up | down
constexpr int kAdapterRows = 36;   // rows of activations of one task

inline int64_t padded(int64_t floats) { return (floats + 15) / 16 * 16; }

// Modules with one input: their A rows lie one below the other from `a` on.
struct LoraGroup {
  struct Part {
    int module, first, rank;  // `first` counts the ranks of the parts before
    int64_t b;                // where its B^T rows begin
  };
  int rank = 0;
  int64_t a = 0;
  std::vector<Part> parts;
};

struct Adapter {
  float scale = 1;
  int max_rank = 0;  // of a group
  int64_t block_floats = 1;
  std::vector<const float*> blocks;
  std::vector<std::array<LoraGroup, kNumGroups>> layers;

  // `count` floats at `at`; copied together to `scratch` when they cross blocks.
  const float* read(int64_t at, int64_t count, float* scratch) const;
  const float* where(int64_t at) const {  // of one float; the last block's start beyond the end
    const int64_t last = (int64_t)blocks.size() - 1, block = at / block_floats;
    return block > last ? blocks[last] : blocks[block] + at % block_floats;
  }
};

// Up to kAdapterRows rows of a step with one adapter: tokens[first : first + count].
struct LoraTile {
  const Adapter* adapter;
  int first, count;
};

struct LoraPlan {
  std::vector<int> tokens;
  std::vector<LoraTile> tiles;
  int max_rank = 0;
};

// What adds to a group's outputs: y += scale (x A^T) B^T. Both halves are many independent tasks.
struct ShrinkTask {
  const LoraTile* tile;
  const LoraGroup* group;
  int first, count;  // ranks
};
struct ExpandTask {
  const LoraTile* tile;
  const LoraGroup::Part* part;
  float* out;
  int64_t first, count;  // outputs
};

void shrink(const ShrinkTask& task, const LoraPlan& plan, const float* x, int64_t k, float* low);
void expand(const ExpandTask& task, const LoraPlan& plan, int64_t n, const float* low);

}  // namespace evolute
