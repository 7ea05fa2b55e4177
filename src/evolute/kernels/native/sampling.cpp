#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace evolute {
namespace {

constexpr int64_t kChunk = 1024;

// First i with weights[0] + ... + weights[i] > point, the sums taken in double.
int64_t find(const float* weights, int64_t n, double point) {
  double below = 0;
  int64_t last = -1;
  for (int64_t i = 0; i < n; i++) {
    if (weights[i] > 0) last = i;
    below += weights[i];
    if (below > point) return i;
  }
  return last;  // the chunks' sums were rounded another way
}

int64_t draw_from_all(const float* logits, int64_t n, float top, const Draw& draw) {
  const float inverse = 1.f / draw.temperature;
  const int64_t chunks = (n + kChunk - 1) / kChunk;
  std::vector<double> sums(chunks);
  for (int64_t c = 0; c < chunks; c++)
    sums[c] = active_ops().exp_sum(logits + c * kChunk, top, inverse,
                                   std::min(kChunk, n - c * kChunk), nullptr);
  const double total = std::accumulate(sums.begin(), sums.end(), 0.0);
  if (!std::isfinite(total)) return -1;
  double point = draw.point * total;
  int64_t chunk = 0, last = 0;
  for (; chunk < chunks && !(sums[chunk] > point); chunk++) {
    if (sums[chunk] > 0) last = chunk;
    point -= sums[chunk];
  }
  if (chunk == chunks) chunk = last;
  float weights[kChunk];
  const int64_t size = std::min(kChunk, n - chunk * kChunk);
  active_ops().exp_sum(logits + chunk * kChunk, top, inverse, size, weights);
  return chunk * kChunk + find(weights, size, point);
}

// What top-p keeps of `ids`: the shortest head of the ranking whose weight reaches top_p.
void keep_nucleus(std::vector<int32_t>& ids, const std::vector<float>& weights, double top_p) {
  const auto ahead = [&](int32_t a, int32_t b) {
    return weights[a] != weights[b] ? weights[a] > weights[b] : a < b;
  };
  double total = 0, before = 0;
  for (int32_t id : ids) total += weights[id];
  size_t ranked = 0;
  for (size_t part = 64;; part *= 8) {
    const size_t end = std::min(ids.size(), part);
    std::partial_sort(ids.begin() + ranked, ids.begin() + end, ids.end(), ahead);
    for (; ranked < end; ranked++) {
      if (before >= top_p * total) return ids.resize(ranked);
      before += weights[ids[ranked]];
    }
    if (end == ids.size()) return;
  }
}

int64_t draw_from_some(const float* logits, int64_t n, float top, const Draw& draw) {
  std::vector<float> weights(n);
  const double all = active_ops().exp_sum(logits, top, 1.f / draw.temperature, n, weights.data());
  if (!std::isfinite(all)) return -1;
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; i++)
    if (weights[i] >= draw.min_p && weights[i] > 0) ids.push_back((int32_t)i);
  if (draw.top_k && (size_t)draw.top_k < ids.size()) {
    std::nth_element(ids.begin(), ids.begin() + draw.top_k, ids.end(), [&](int32_t a, int32_t b) {
      return weights[a] != weights[b] ? weights[a] > weights[b] : a < b;
    });
    ids.resize(draw.top_k);
  }
  if (draw.top_p < 1) keep_nucleus(ids, weights, draw.top_p);
  std::sort(ids.begin(), ids.end());
  std::vector<float> kept(ids.size());
  std::transform(ids.begin(), ids.end(), kept.begin(), [&](int32_t id) { return weights[id]; });
  const double total = std::accumulate(kept.begin(), kept.end(), 0.0);
  return ids[find(kept.data(), (int64_t)kept.size(), draw.point * total)];
}

}  // namespace

int64_t draw_token(const float* logits, int64_t n, const Draw& draw) {
  const float top = active_ops().maximum(logits, n);
  if (!std::isfinite(top)) return -1;  // every token is barred, or the logits are no numbers
  if (draw.temperature <= 0) return std::find(logits, logits + n, top) - logits;
  const bool cut = draw.top_k || draw.top_p < 1 || draw.min_p > 0;
  return cut ? draw_from_some(logits, n, top, draw) : draw_from_all(logits, n, top, draw);
}

double log_normalizer(const float* logits, int64_t n, float temperature) {
  const float top = active_ops().maximum(logits, n);
  if (!std::isfinite(top)) return NAN;
  const double sum = active_ops().exp_sum(logits, top, 1.f / temperature, n, nullptr);
  return (double)top / temperature + std::log(sum);
}

}  // namespace evolute
