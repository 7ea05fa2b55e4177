// Which queries a task of attention answers: those of sequences with the same first pages together.
#pragma once
#include <vector>

#include "ops.h"

namespace evolute {

struct Step;

struct AttentionPlan {
  struct Tile {
    int head, first_part, num_parts, shared;
  };
  std::vector<AttentionPart> parts;
  std::vector<Tile> tiles;
  int64_t key_blocks = 0;  // of kKeyBlock positions that a layer reads, without a window

  // A tile has at most `most` tokens. Without `share`, each sequence reads its own keys.
  void make(const Step& step, int page_size, int kv_heads, int most, bool share);

 private:
  void add(const Step& step, const std::vector<int>& sequences, int shared, int kv_heads, int most);
  std::vector<int> order_, group_;
};

}  // namespace evolute
