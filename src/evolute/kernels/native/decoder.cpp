#include "decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace evolute {

void Pages::put(int layer, int64_t page, int offset, int head, const float* k, const float* v) {
  const int64_t base = at(layer, page, head);
  if (half) {
    uint16_t key[kMaxHead];
    uint16_t* to = reinterpret_cast<uint16_t*>(keys.data()) + base;
    active_ops().to_half(k, key, head_width);
    for (int e = 0; e < head_width; e++) to[(int64_t)e * page_size + offset] = key[e];
    active_ops().to_half(v, reinterpret_cast<uint16_t*>(values.data()) + base + offset * head_width,
                         head_width);
    return;
  }
  float* to = reinterpret_cast<float*>(keys.data()) + base;
  for (int e = 0; e < head_width; e++) to[(int64_t)e * page_size + offset] = k[e];
  std::memcpy(reinterpret_cast<float*>(values.data()) + base + offset * head_width, v,
              sizeof(float) * head_width);
}

void Pages::copy_page(int64_t from, int64_t to) {
  for (int side = 0; side < 2; side++)
    std::memcpy(block(to, side), block(from, side), block_floats() * sizeof(float));
}

void Pages::write_floats(const int32_t* to, int64_t count, const float* from, int64_t floats) {
  const int64_t run = block_floats();
  for (int64_t i = 0; i < 2 * count && floats > 0; i++, from += run, floats -= run)
    std::memcpy(block(to[i / 2], i % 2), from, std::min(run, floats) * sizeof(float));
}

Decoder::Decoder(const Shape& s, std::vector<float> table, int num_threads)
    : shape(s), rotary(std::move(table)), layers(s.num_layers), pool(num_threads) {
  if (s.head_width % 16 || s.head_width > kMaxHead || s.num_heads % s.num_kv_heads ||
      s.num_heads / s.num_kv_heads > kMaxTileRows)
    throw std::invalid_argument(
        "the native decoder needs a head width that is a multiple of 16 up to 256 and at most 32 "
        "query heads to a kv head; use the torch executor for this model.");
}

void Decoder::check(const Pages& pages, const Step& step) const {
  const auto refuse = [](const std::string& text) { throw std::invalid_argument(text); };
  if (pages.num_layers != shape.num_layers || pages.num_kv_heads != shape.num_kv_heads ||
      pages.head_width != shape.head_width)
    refuse("the KV pool has another shape than the decoder.");
  for (const Layer& layer : layers) {
    for (const Linear& linear : layer.linear)
      if (!linear.packed) refuse("a linear layer is not set; call set_linear for all 7 modules.");
    for (const auto& [one, other] : {std::pair{kQ, kK}, {kQ, kV}, {kGate, kUp}}) {
      const PanelView &a = layer.linear[one].packed->view, &b = layer.linear[other].packed->view;
      if ((a.storage == Storage::kFloat32) != (b.storage == Storage::kFloat32) || a.group != b.group)
        refuse("matrices that read the same rows must want the same codes.");
    }
    if (layer.attention_norm.empty() || layer.mlp_norm.empty() ||
        (shape.qk_norm && (layer.q_norm.empty() || layer.k_norm.empty())))
      refuse("a norm is not set; call set_norm.");
  }
  if (!embedding.packed || !head.packed || final_norm.empty())
    refuse("embedding, head or final norm is not set.");
  const int context = (int)(rotary.size() / shape.head_width);
  if (step.row_start[0] != 0 || step.row_start[step.num_sequences] != step.num_tokens)
    refuse("row_start must run from 0 to the number of tokens.");
  for (int b = 0; b < step.num_sequences; b++)
    if (step.row_start[b] > step.row_start[b + 1]) refuse("row_start must not fall.");
  for (int b = 0; b < step.num_sequences; b++) {
    if (step.adapter[b] >= 0 && !adapters.count(step.adapter[b]))
      refuse("adapter " + std::to_string(step.adapter[b]) + " is not loaded; call set_adapter.");
    const int length = step.context_len[b], used = (length + pages.page_size - 1) / pages.page_size;
    if (length < 0 || length > context || used > step.table_width)
      refuse("context_len " + std::to_string(length) + " does not fit the page table or context.");
    for (int i = 0; i < used; i++) {
      const int page = step.page_table[(int64_t)b * step.table_width + i];
      if (page < 0 || page >= pages.num_pages) refuse("page " + std::to_string(page) + " of " +
                                                      std::to_string(pages.num_pages) + ".");
    }
    for (int t = step.row_start[b]; t < step.row_start[b + 1]; t++)
      if (step.positions[t] < 0 || step.positions[t] >= length ||
          (t > step.row_start[b] && step.positions[t] <= step.positions[t - 1]))
        refuse("positions must rise and lie below context_len.");
  }
  for (int t = 0; t < step.num_tokens; t++)
    if (step.token_ids[t] < 0 || step.token_ids[t] >= shape.vocab_size)
      refuse("token id " + std::to_string(step.token_ids[t]) + " is outside the vocabulary.");
  for (int r = 0; r < step.num_logits; r++)
    if (step.logit_rows[r] < 0 || step.logit_rows[r] >= step.num_tokens)
      refuse("logit row " + std::to_string(step.logit_rows[r]) + " is outside the step.");
}

Rows Decoder::rows_of(const float* x, int64_t k) const {
  return {x, codes_.data(), scale_.data(), sum_.data(), total_.data(), k};
}

// Codes of one row, as the matrix that reads them wants them.
void Decoder::quantize_row(const float* x, int64_t row, int64_t k, const Linear& reader) {
  if (reader.packed->view.storage != Storage::kFloat32)
    active_ops().quantize(x + row * k, k, reader.packed->view.group, codes_.data() + code_at(row, k),
                          scale_.data() + scale_at(row, k), sum_.data() + scale_at(row, k),
                          total_.data() + row);
}

// Rows in runs, so that the codes of one cache line are written by one thread.
template <typename F>
void Decoder::each_row(int64_t count, const F& fn) {
  const int64_t even = (count + pool.size() - 1) / pool.size();
  const int64_t run = std::clamp<int64_t>(even, 1, kRowTile);
  pool.run((count + run - 1) / run, [&](int64_t i) {
    for (int64_t row = i * run; row < std::min(count, (i + 1) * run); row++) fn(row);
  });
}

// x += extra; h = norm(x); codes of h.
void Decoder::norm_rows(const std::vector<float>& weight, const float* extra,
                        const Linear& reader) {
  const int width = shape.width;
  each_row(tokens_, [&](int64_t t) {
    float* x = x_.data() + t * width;
    if (extra) active_ops().add(x, extra + t * width, width);
    active_ops().rms_norm(x, weight.data(), shape.norm_eps, width, h_.data() + t * width);
    quantize_row(h_.data(), t, width, reader);
  });
}

void Decoder::apply(const Linear& linear, const Rows& rows, int64_t m, float* out) {
  PanelView view = linear.packed->view;
  view.bias = linear.bias.empty() ? nullptr : linear.bias.data();
  const int64_t panels = linear.packed->panels();
  const int64_t chunk = std::max<int64_t>(1, panels / (pool.size() * 8));
  pool.run((panels + chunk - 1) / chunk, [&](int64_t i) {
    active_ops().linear(view, i * chunk, std::min(panels, (i + 1) * chunk), rows, m, out, view.n,
                        false);
  });
}

int group_of(int module) {
  return module <= kV ? 0 : module == kO ? 1 : module == kDown ? 3 : 2;
}

// The adapters' first halves read the same x: they are tasks of the same round.
void Decoder::linears(int layer, const float* x, int64_t k, std::vector<Target> targets) {
  const Rows rows = rows_of(x, k);
  struct Part {
    PanelView view;
    int64_t begin, end;
    float* out;
  };
  std::vector<Part> parts;
  for (const Target& target : targets) {
    const Linear& linear = layers[layer].linear[target.module];
    PanelView view = linear.packed->view;
    view.bias = linear.bias.empty() ? nullptr : linear.bias.data();
    const int64_t panels = linear.packed->panels();
    const int64_t chunk = std::max<int64_t>(1, panels / (pool.size() * 4));
    for (int64_t p = 0; p < panels; p += chunk)
      parts.push_back({view, p, std::min(panels, p + chunk), target.out});
  }
  const int group = group_of(targets[0].module);
  shrinks(layer, group, k);
  expands(layer, group, targets);
  const int64_t first = (int64_t)shrinks_.size();
  pool.run(first + (int64_t)parts.size(), [&](int64_t i) {
    if (i < first) return shrink(shrinks_[i], lora_, x, k, low_.data());
    const Part& part = parts[i - first];
    active_ops().linear(part.view, part.begin, part.end, rows, tokens_, part.out, part.view.n, false);
  });
  pool.run((int64_t)expands_.size(), [&](int64_t i) {
    expand(expands_[i], lora_, layers[layer].linear[expands_[i].part->module].packed->n, low_.data());
  });
}

// Rows of the step by adapter, wherever their sequences stand (Hu et al. 2021; gathered as in
// Punica, Chen et al. 2023).
void Decoder::plan_lora(const Step& step) {
  std::map<int, std::vector<int>> tokens;
  for (int b = 0; b < step.num_sequences; b++)
    if (step.adapter[b] >= 0)
      for (int t = step.row_start[b]; t < step.row_start[b + 1]; t++)
        tokens[step.adapter[b]].push_back(t);
  lora_.tokens.clear();
  lora_.tiles.clear();
  lora_.max_rank = 0;
  for (const auto& [index, rows] : tokens) {
    const Adapter& adapter = adapters.at(index);
    if (adapter.layers.empty()) continue;
    lora_.max_rank = std::max(lora_.max_rank, adapter.max_rank);
    for (size_t at = 0; at < rows.size(); at += kAdapterRows) {
      const int count = (int)std::min<size_t>(kAdapterRows, rows.size() - at);
      lora_.tiles.push_back({&adapter, (int)lora_.tokens.size(), count});
      lora_.tokens.insert(lora_.tokens.end(), rows.begin() + at, rows.begin() + at + count);
    }
  }
  low_.resize(lora_.tokens.size() * lora_.max_rank);
}

constexpr int64_t kTaskFloats = 16384;  // of weights: fits the first caches, and is worth a wake-up

void Decoder::shrinks(int layer, int group, int64_t k) {
  shrinks_.clear();
  const int most = (int)std::max<int64_t>(4, kTaskFloats / k / 4 * 4);
  for (const LoraTile& tile : lora_.tiles) {
    if (layer >= (int)tile.adapter->layers.size()) continue;
    const LoraGroup& found = tile.adapter->layers[layer][group];
    for (int r = 0; r < found.rank; r += most)
      shrinks_.push_back({&tile, &found, r, std::min(most, found.rank - r)});
  }
}

void Decoder::expands(int layer, int group, const std::vector<Target>& targets) {
  expands_.clear();
  for (const LoraTile& tile : lora_.tiles) {
    if (layer >= (int)tile.adapter->layers.size()) continue;
    for (const auto& part : tile.adapter->layers[layer][group].parts)
      for (const Target& target : targets) {
        if (target.module != part.module) continue;
        const int64_t n = layers[layer].linear[part.module].packed->n;
        const int64_t most = std::max<int64_t>(64, kTaskFloats / part.rank / 64 * 64);
        for (int64_t at = 0; at < n; at += most)
          expands_.push_back({&tile, &part, target.out, at, std::min(most, n - at)});
      }
  }
}

// Norms and rotary positions of q and k; keys and values to their slots.
void Decoder::place(Pages& pages, const Step& step, int layer) {
  const Ops& ops = active_ops();
  const int width = shape.head_width, heads = shape.num_heads, kv_heads = shape.num_kv_heads;
  const Layer& weights = layers[layer];
  pool.run(step.num_sequences, [&](int64_t b) {
    for (int64_t t = step.row_start[b]; t < step.row_start[b + 1]; t++) {
      float *q = q_.data() + t * heads * width, *k = k_.data() + t * kv_heads * width;
      if (shape.qk_norm) {
        for (int h = 0; h < heads; h++)
          ops.rms_norm(q + h * width, weights.q_norm.data(), shape.norm_eps, width, q + h * width);
        for (int h = 0; h < kv_heads; h++)
          ops.rms_norm(k + h * width, weights.k_norm.data(), shape.norm_eps, width, k + h * width);
      }
      const int position = step.positions[t];
      const float* table = rotary.data() + (int64_t)position * width;
      ops.rotary(q, table, heads, width, 1.f / std::sqrt((float)width));
      ops.rotary(k, table, kv_heads, width, 1.f);
      const int page = step.page_table[b * step.table_width + position / pages.page_size];
      for (int h = 0; h < kv_heads; h++)
        pages.put(layer, page, position % pages.page_size, h, k + h * width,
                  v_.data() + (t * kv_heads + h) * width);
    }
  });
}

void Decoder::attend(const Pages& pages, const Step& step, int layer) {
  const int width = shape.head_width, group = shape.num_heads / shape.num_kv_heads;
  const ptrdiff_t stride = (ptrdiff_t)shape.num_heads * width;
  const auto tile = [&](int64_t i) {
    const AttentionPlan::Tile& one = plan_.tiles[i];
    const int64_t base = pages.at(layer, 0, one.head), at = (int64_t)one.head * group * width;
    const int size = pages.half ? 2 : 4;
    return AttentionTile{plan_.parts.data() + one.first_part, one.num_parts, one.shared,
                         q_.data() + at, stride, a_.data() + at, stride, group, width,
                         pages.page_size, shape.window, pages.keys.data() + base * size,
                         pages.values.data() + base * size, (ptrdiff_t)pages.page_elements()};
  };
  const int64_t count = (int64_t)plan_.tiles.size();
  const int64_t chunk = std::max<int64_t>(1, count / (pool.size() * 8));
  const auto attention = pages.half ? active_ops().attention_half : active_ops().attention_float;
  pool.run((count + chunk - 1) / chunk, [&](int64_t c) {
    const int64_t end = std::min(count, (c + 1) * chunk);
    for (int64_t i = c * chunk; i < end; i++) {
      const AttentionTile now = tile(i), next = tile(std::min(i + 1, end - 1));
      attention(now, i + 1 < end ? &next : nullptr);
    }
  });
}

void Decoder::forward(Pages& pages, const Step& step) {
  check(pages, step);
  tokens_ = step.num_tokens;
  const int64_t t = tokens_, width = shape.width, ff = shape.ff_width;
  const int64_t q = (int64_t)shape.num_heads * shape.head_width;
  const int64_t kv = (int64_t)shape.num_kv_heads * shape.head_width;
  const int64_t widest = std::max({width, ff, q});
  for (auto* buffer : {&x_, &h_, &y_}) buffer->resize(t * width);
  for (auto* buffer : {&q_, &a_}) buffer->resize(t * q);
  for (auto* buffer : {&k_, &v_}) buffer->resize(t * kv);
  for (auto* buffer : {&g_, &u_}) buffer->resize(t * ff);
  codes_.resize(whole_tiles(t) * widest);
  for (auto* buffer : {&scale_, &sum_}) buffer->resize(whole_tiles(t) * (widest / kBlock + 1));
  total_.resize(t);
  const int most = std::max(1, kMaxTileRows / (shape.num_heads / shape.num_kv_heads));
  plan_.make(step, pages.page_size, shape.num_kv_heads, most, share_prefixes && !shape.window);
  plan_lora(step);
  each_row(t, [&](int64_t i) { embedding.packed->row(step.token_ids[i], x_.data() + i * width); });
  const float* extra = nullptr;
  for (int layer = 0; layer < shape.num_layers; layer++) {
    const auto& linear = layers[layer].linear;
    norm_rows(layers[layer].attention_norm, extra, linear[kQ]);
    linears(layer, h_.data(), width, {{kQ, q_.data()}, {kK, k_.data()}, {kV, v_.data()}});
    place(pages, step, layer);
    attend(pages, step, layer);
    each_row(t, [&](int64_t i) { quantize_row(a_.data(), i, q, linear[kO]); });
    linears(layer, a_.data(), q, {{kO, y_.data()}});
    norm_rows(layers[layer].mlp_norm, y_.data(), linear[kGate]);
    linears(layer, h_.data(), width, {{kGate, g_.data()}, {kUp, u_.data()}});
    each_row(t, [&](int64_t i) {
      active_ops().silu_mul(g_.data() + i * ff, u_.data() + i * ff, ff);
      quantize_row(g_.data(), i, ff, linear[kDown]);
    });
    linears(layer, g_.data(), ff, {{kDown, y_.data()}});
    extra = y_.data();
  }
  each_row(step.num_logits, [&](int64_t r) {
    const int64_t row = step.logit_rows[r];
    float* x = h_.data() + r * width;
    std::memcpy(x, x_.data() + row * width, sizeof(float) * width);
    if (extra) active_ops().add(x, extra + row * width, width);
    active_ops().rms_norm(x, final_norm.data(), shape.norm_eps, width, x);
    quantize_row(h_.data(), r, width, head);
  });
  apply(head, rows_of(h_.data(), width), step.num_logits, step.logits);
}

}  // namespace evolute
