#include "prefixes.h"

#include <algorithm>

#include "decoder.h"

namespace evolute {
namespace {

int tokens_of(const Step& step, int b) { return step.row_start[b + 1] - step.row_start[b]; }
const int32_t* table_of(const Step& step, int b) {
  return step.page_table + (int64_t)b * step.table_width;
}

// Positions before the first query, in whole blocks of keys: what another may share.
int before(const Step& step, int b) {
  return step.positions[step.row_start[b]] / kKeyBlock * kKeyBlock;
}

// Positions, in whole blocks, that both have in the same pages.
int in_common(const Step& step, int page_size, int a, int b) {
  const int most = std::min(before(step, a), before(step, b));
  const int32_t *one = table_of(step, a), *other = table_of(step, b);
  int pages = 0;
  while (pages * page_size < most && one[pages] == other[pages]) pages++;
  return std::min(most, pages * page_size) / kKeyBlock * kKeyBlock;
}

}  // namespace

// The tiles of a head stand together, so that keys they share are still in the caches.
void AttentionPlan::add(const Step& step, const std::vector<int>& sequences, int shared,
                        int kv_heads, int most) {
  const int first = (int)parts.size();
  for (const int b : sequences)
    for (int t = step.row_start[b]; t < step.row_start[b + 1]; t += most)
      parts.push_back({t, std::min(most, step.row_start[b + 1] - t), step.positions + t,
                       table_of(step, b)});
  const int count = (int)parts.size() - first;
  key_blocks += (int64_t)shared / kKeyBlock * kv_heads;
  for (int i = first; i < (int)parts.size(); i++)
    key_blocks += (parts[i].positions[parts[i].num_tokens - 1] - shared + kKeyBlock) / kKeyBlock *
                  (int64_t)kv_heads;
  for (int head = 0; head < kv_heads; head++) {
    if (shared) tiles.push_back({head, first, count, shared});
    for (int i = 0; i < count && !shared; i++) tiles.push_back({head, first + i, 1, 0});
  }
}

// Sequences in the order of their page tables: those that share stand side by side. A tile takes
// the next while what is not read again grows; of tables that begin alike, the longer come first.
void AttentionPlan::make(const Step& step, int page_size, int kv_heads, int most, bool share) {
  parts.clear();
  tiles.clear();
  order_.clear();
  key_blocks = 0;
  for (int b = 0; b < step.num_sequences; b++)
    if (share && tokens_of(step, b) && 2 * tokens_of(step, b) <= most && before(step, b))
      order_.push_back(b);
    else if (tokens_of(step, b))
      add(step, group_ = {b}, 0, kv_heads, most);
  std::sort(order_.begin(), order_.end(), [&](int a, int b) {
    const int32_t *one = table_of(step, a), *other = table_of(step, b);
    const int32_t* end = one + (before(step, a) + page_size - 1) / page_size;
    const int32_t* other_end = other + (before(step, b) + page_size - 1) / page_size;
    const auto [x, y] = std::mismatch(one, end, other, other_end);
    if (x != end && y != other_end) return *x < *y;
    return x == end && y == other_end ? a < b : x != end;
  });
  for (size_t i = 0; i < order_.size(); i += group_.size()) {
    group_ = {order_[i]};
    int shared = before(step, order_[i]), tokens = tokens_of(step, order_[i]);
    for (size_t j = i + 1; j < order_.size(); j++) {
      const int common = std::min(shared, in_common(step, page_size, order_[j - 1], order_[j]));
      tokens += tokens_of(step, order_[j]);
      const int64_t saved = (int64_t)(group_.size() - 1) * shared;
      if (tokens > most || !common || (int64_t)group_.size() * common < saved) break;
      shared = common;
      group_.push_back(order_[j]);
    }
    add(step, group_, group_.size() > 1 ? shared : 0, kv_heads, most);
  }
}

}  // namespace evolute
