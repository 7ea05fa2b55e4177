// The Python face; evolute.kernels wraps it with types and documentation.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <mutex>
#include <optional>
#include <stdexcept>

#include "decoder.h"
#include "sampling.h"

namespace nb = nanobind;
using namespace evolute;

template <typename T, int N>
using In = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <typename T, int N>
using Out = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

namespace {

void require(bool ok, const char* text) {
  if (!ok) throw std::invalid_argument(text);
}

std::vector<float> vector_of(const In<float, 1>& x, int64_t n) {
  if ((int64_t)x.shape(0) != n)
    throw std::invalid_argument("a vector has " + std::to_string(x.shape(0)) + " values, expected " +
                                std::to_string(n) + ".");
  return {x.data(), x.data() + n};
}

struct Serial {  // a decoder with its lock: one step at a time
  Decoder decoder;
  std::mutex mutex;
  Serial(const Shape& shape, std::vector<float> rotary, int threads)
      : decoder(shape, std::move(rotary), threads) {}
};

void run_linear(const Packed& w, const In<float, 2>& x, const Out<float, 2>& out, int threads) {
  const int64_t m = x.shape(0), k = x.shape(1), blocks = k / kBlock;
  require(k == w.k && (int64_t)out.shape(0) == m && (int64_t)out.shape(1) == w.n,
          "x must be [T, K] and out [T, N] of the packed matrix.");
  require(threads >= 1 && threads <= 256, "num_threads must lie between 1 and 256.");
  nb::gil_scoped_release release;
  const int64_t tiled = whole_tiles(m);
  std::vector<int8_t> codes(tiled * k);
  std::vector<float> scale(tiled * blocks), sum(tiled * blocks), total(m);
  if (w.view.storage != Storage::kFloat32)
    for (int64_t i = 0; i < m; i++)
      active_ops().quantize(x.data() + i * k, k, w.view.group, codes.data() + code_at(i, k),
                            scale.data() + scale_at(i, k), sum.data() + scale_at(i, k),
                            total.data() + i);
  const Rows rows{x.data(), codes.data(), scale.data(), sum.data(), total.data(), k};
  Pool pool(threads);
  pool.run(w.panels(), [&](int64_t p) {
    active_ops().linear(w.view, p, p + 1, rows, m, out.data(), w.n, false);
  });
}

void run_step(Serial& self, Pages& pages, In<int32_t, 1> token_ids, In<int32_t, 1> positions,
              In<int32_t, 1> row_start, In<int32_t, 1> context_len, In<int32_t, 2> page_table,
              In<int32_t, 1> adapter, In<int32_t, 1> logit_rows, Out<float, 2> logits) {
  const size_t t = token_ids.shape(0), b = context_len.shape(0), r = logit_rows.shape(0);
  require(positions.shape(0) == t && row_start.shape(0) == b + 1 && page_table.shape(0) == b &&
              adapter.shape(0) == b && logits.shape(0) == r &&
              (int64_t)logits.shape(1) == self.decoder.shape.vocab_size,
          "shapes disagree: token_ids and positions [T], row_start [B + 1], context_len and adapter "
          "[B], page_table [B, W], logit_rows [R], logits [R, V].");
  const Step step{(int)t, (int)b, (int)page_table.shape(1), (int)r, token_ids.data(),
                  positions.data(), row_start.data(), context_len.data(), page_table.data(),
                  adapter.data(), logit_rows.data(), logits.data()};
  nb::gil_scoped_release release;
  std::lock_guard<std::mutex> lock(self.mutex);
  self.decoder.forward(pages, step);
}

// tokens[s]: drawn from logits[rows[s]]; -1 when they are not finite.
void draw_tokens(Serial& self, In<float, 2> logits, In<int32_t, 1> rows, In<float, 2> settings,
                 In<int32_t, 1> top_k, In<double, 1> points, Out<int32_t, 1> tokens) {
  const size_t count = rows.shape(0), n = logits.shape(1);
  require(settings.shape(0) == count && settings.shape(1) == 3 && top_k.shape(0) == count &&
              points.shape(0) == count && tokens.shape(0) == count,
          "shapes disagree: rows, top_k, points, tokens [S], settings [S, 3], logits [R, V].");
  for (size_t i = 0; i < count; i++)
    require(rows.data()[i] >= 0 && rows.data()[i] < (int64_t)logits.shape(0), "no such row.");
  nb::gil_scoped_release release;
  std::lock_guard<std::mutex> lock(self.mutex);
  self.decoder.pool.run(count, [&](int64_t i) {
    const float* s = settings.data() + 3 * i;
    const Draw draw{s[0], s[1], s[2], top_k.data()[i], points.data()[i]};
    tokens.data()[i] = (int32_t)draw_token(logits.data() + rows.data()[i] * n, n, draw);
  });
}

// Log-probability of tokens[s] under logits[rows[s]] at a temperature; NaN for a token of -1.
void score_tokens(Serial& self, In<float, 2> logits, In<int32_t, 1> rows, In<float, 1> temperature,
                  In<int32_t, 1> tokens, Out<double, 1> logprobs) {
  const size_t count = rows.shape(0), n = logits.shape(1);
  require(temperature.shape(0) == count && tokens.shape(0) == count && logprobs.shape(0) == count,
          "shapes disagree: rows, temperature, tokens, logprobs [S], logits [R, V].");
  for (size_t i = 0; i < count; i++)
    require(rows.data()[i] >= 0 && rows.data()[i] < (int64_t)logits.shape(0) &&
                tokens.data()[i] >= -1 && tokens.data()[i] < (int64_t)n,
            "no such row or token.");
  nb::gil_scoped_release release;
  std::lock_guard<std::mutex> lock(self.mutex);
  self.decoder.pool.run(count, [&](int64_t i) {
    const float* row = logits.data() + rows.data()[i] * n;
    const float t = temperature.data()[i];
    const int32_t token = tokens.data()[i];
    logprobs.data()[i] = token < 0 ? NAN : (double)row[token] / t - log_normalizer(row, n, t);
  });
}

void module_shape(const Shape& s, int module, int64_t& n, int64_t& k) {
  const int64_t q = (int64_t)s.num_heads * s.head_width, kv = (int64_t)s.num_kv_heads * s.head_width;
  const int64_t outs[] = {q, kv, kv, s.width, s.ff_width, s.ff_width, s.width};
  n = outs[module];
  k = module == kO ? q : module == kDown ? s.ff_width : s.width;
}

void set_linear(Serial& self, int layer, int module, std::shared_ptr<Packed> packed,
                std::optional<In<float, 1>> bias) {
  Decoder& d = self.decoder;
  require(layer >= 0 && layer < d.shape.num_layers && module >= 0 && module < kNumModules,
          "no such layer or module.");
  int64_t n, k;
  module_shape(d.shape, module, n, k);
  require(packed->n == n && packed->k == k, "the matrix has another shape than the module.");
  std::vector<float> padded;
  if (bias) {
    padded = vector_of(*bias, n);
    padded.resize((n + kFloatPanel - 1) / kFloatPanel * kFloatPanel);
  }
  std::lock_guard<std::mutex> lock(self.mutex);
  d.layers[layer].linear[module] = {std::move(packed), std::move(padded)};
}

// Copies to pages that no step reads or writes; many threads may.
void write_floats(Pages& pages, In<int32_t, 1> to, In<float, 1> from) {
  for (size_t i = 0; i < to.shape(0); i++)
    require(to.data()[i] >= 0 && to.data()[i] < pages.num_pages, "no such page.");
  const int64_t room = (int64_t)to.shape(0) * 2 * pages.block_floats();
  require((int64_t)from.shape(0) <= room, "the pages do not hold that many floats.");
  nb::gil_scoped_release release;
  pages.write_floats(to.data(), to.shape(0), from.data(), from.shape(0));
}

// Addresses of the pages' blocks, in the order in which write_floats fills them.
void blocks_of(const Pages& pages, In<int32_t, 1> of, Out<uint64_t, 1> addresses) {
  require(addresses.shape(0) == 2 * of.shape(0), "addresses must be [2 P].");
  for (size_t i = 0; i < of.shape(0); i++) {
    require(of.data()[i] >= 0 && of.data()[i] < pages.num_pages, "no such page.");
    for (int side = 0; side < 2; side++)
      addresses.data()[2 * i + side] = (uint64_t)(uintptr_t)pages.block(of.data()[i], side);
  }
}

// One row of `parts`: layer, module, rank, inputs, outputs, a, b (models/packed_lora.py).
void add_part(const Shape& shape, const int64_t* row, int64_t floats, Adapter& adapter) {
  const auto [layer, module, rank, inputs, outputs, a, b] =
      std::array<int64_t, 7>{row[0], row[1], row[2], row[3], row[4], row[5], row[6]};
  require(layer >= 0 && layer < shape.num_layers && module >= 0 && module < kNumModules && rank > 0,
          "an adapter's part names no such layer or module, or has no rank.");
  int64_t n, k;
  module_shape(shape, (int)module, n, k);
  require(inputs == k && outputs == n, "an adapter needs A [R, K] and B [N, R] of the module.");
  LoraGroup& group = adapter.layers[layer][group_of((int)module)];
  if (group.parts.empty()) group.a = a;
  require(a == group.a + group.rank * padded(k), "an adapter's A rows of one input must be one run.");
  require(a >= 0 && rank <= (floats - a) / padded(k) && b >= 0 && rank <= (floats - b) / padded(n),
          "an adapter's rows lie outside its floats.");
  group.parts.push_back({(int)module, group.rank, (int)rank, b});
  group.rank += (int)rank;
  adapter.max_rank = std::max(adapter.max_rank, group.rank);
}

// The blocks must stay where they are while the adapter is set.
void set_adapter(Serial& self, int index, float scale, In<int64_t, 2> parts, In<uint64_t, 1> blocks,
                 int64_t block_floats) {
  require(index >= 0 && parts.shape(1) == 7 && block_floats > 0,
          "an adapter needs an index, parts [P, 7] and blocks of floats.");
  Adapter adapter;
  adapter.scale = scale;
  adapter.block_floats = block_floats;
  for (size_t i = 0; i < blocks.shape(0); i++)
    adapter.blocks.push_back(reinterpret_cast<const float*>((uintptr_t)blocks.data()[i]));
  if (parts.shape(0)) adapter.layers.resize(self.decoder.shape.num_layers);
  for (size_t i = 0; i < parts.shape(0); i++)
    add_part(self.decoder.shape, parts.data() + 7 * i, (int64_t)blocks.shape(0) * block_floats, adapter);
  std::lock_guard<std::mutex> lock(self.mutex);
  self.decoder.adapters[index] = std::move(adapter);
}

}  // namespace

NB_MODULE(_native, m) {
  m.def("set_isa", [](const std::string& name) { select_isa(name.c_str()); });
  m.def("give_back_memory", &give_back_memory, nb::call_guard<nb::gil_scoped_release>());
  m.def("isa", [] { return std::string(active_ops().name); });
  nb::class_<Packed>(m, "Packed")
      .def_static("from_float32", [](In<float, 2> w) {
        return pack_float(w.data(), w.shape(0), w.shape(1));
      })
      .def_static("from_blocks", [](In<uint8_t, 2> codes, In<float, 2> scale, In<float, 2> offset,
                                    int bits) {
        const size_t n = codes.shape(0), blocks = codes.shape(1) / kBlock;
        require(scale.shape(0) == n && offset.shape(0) == n && scale.shape(1) == blocks &&
                    offset.shape(1) == blocks,
                "scale and offset must be [N, K / 32] for codes [N, K].");
        return pack_codes(codes.data(), scale.data(), offset.data(), n, codes.shape(1), bits);
      })
      .def_static("from_channels", [](In<uint8_t, 2> codes, In<float, 1> scale,
                                      In<float, 1> offset, int group) {
        const size_t n = codes.shape(0);
        require(scale.shape(0) == n && offset.shape(0) == n,
                "scale and offset must be [N] for codes [N, K].");
        return pack_channels(codes.data(), scale.data(), offset.data(), n, codes.shape(1), group);
      })
      .def("run", &run_linear)
      .def("rows", [](const Packed& w, In<int64_t, 1> ids, Out<float, 2> out) {
        require(out.shape(0) == ids.shape(0) && (int64_t)out.shape(1) == w.k, "out must be [ids, K].");
        for (size_t i = 0; i < ids.shape(0); i++)
          require(ids.data()[i] >= 0 && ids.data()[i] < w.n, "a row id is outside the matrix.");
        w.rows(ids.data(), ids.shape(0), out.data());
      })
      .def_prop_ro("n", [](const Packed& w) { return w.n; })
      .def_prop_ro("k", [](const Packed& w) { return w.k; })
      .def_prop_ro("nbytes", [](const Packed& w) { return w.bytes; });
  nb::class_<Pages>(m, "Pages")
      .def("__init__", [](Pages* self, int layers, int pages, int size, int heads, int width,
                          bool half) {
        require(layers > 0 && pages > 0 && size > 0 && heads > 0 && width > 0 && width <= kMaxHead &&
                    width % 16 == 0,
                "a KV pool needs positive sizes and a head width that is a multiple of 16.");
        new (self) Pages{layers, pages, size, heads, width, half, {}, {}};
        const size_t bytes = (size_t)self->at(0, pages, 0) * (half ? 2 : 4);
        self->keys.resize(bytes);
        self->values.resize(bytes);
      })
      .def("copy_page", [](Pages& p, int from, int to) {
        require(from >= 0 && from < p.num_pages && to >= 0 && to < p.num_pages, "no such page.");
        p.copy_page(from, to);
      })
      .def("write_floats", &write_floats)
      .def("blocks", &blocks_of)
      .def_prop_ro("nbytes", [](const Pages& p) { return p.keys.size() + p.values.size(); })
      .def_prop_ro("block_floats", [](const Pages& p) { return p.block_floats(); });
  nb::class_<Serial>(m, "Decoder")
      .def("__init__", [](Serial* self, int layers, int width, int heads, int kv_heads,
                          int head_width, int ff, int vocab, float eps, bool qk_norm, int window,
                          In<float, 2> rotary, int threads) {
        require(layers > 0 && width > 0 && heads > 0 && kv_heads > 0 && head_width > 0 && ff > 0 &&
                    vocab > 0 && threads > 0 && (int)rotary.shape(1) == head_width,
                "sizes must be positive and rotary [context, head_width].");
        const Shape shape{layers, width, heads, kv_heads, head_width, ff, vocab, eps, qk_norm, window};
        new (self) Serial(shape, {rotary.data(), rotary.data() + rotary.size()}, threads);
      })
      .def("set_linear", &set_linear, nb::arg(), nb::arg(), nb::arg(), nb::arg().none())
      .def("set_norm", [](Serial& s, int layer, int which, In<float, 1> weight) {
        Decoder& d = s.decoder;
        require(layer >= 0 && layer < d.shape.num_layers && which >= 0 && which < 4, "no such norm.");
        auto value = vector_of(weight, which < 2 ? d.shape.width : d.shape.head_width);
        Layer& to = d.layers[layer];
        std::lock_guard<std::mutex> lock(s.mutex);
        (which == 0 ? to.attention_norm : which == 1 ? to.mlp_norm : which == 2 ? to.q_norm
                                                                                : to.k_norm) = value;
      })
      .def("set_final_norm", [](Serial& s, In<float, 1> w) {
        std::lock_guard<std::mutex> lock(s.mutex);
        s.decoder.final_norm = vector_of(w, s.decoder.shape.width);
      })
      .def("set_vocabulary", [](Serial& s, std::shared_ptr<Packed> embedding,
                                std::shared_ptr<Packed> head) {
        const Shape& shape = s.decoder.shape;
        for (const auto& p : {embedding, head})
          require(p->n == shape.vocab_size && p->k == shape.width, "expected a matrix [V, D].");
        std::lock_guard<std::mutex> lock(s.mutex);
        s.decoder.embedding.packed = embedding;
        s.decoder.head.packed = head;
      })
      .def("set_adapter", &set_adapter)
      .def("drop_adapter", [](Serial& s, int index) {
        std::lock_guard<std::mutex> lock(s.mutex);
        s.decoder.adapters.erase(index);
      })
      .def_prop_rw("num_threads", [](const Serial& s) { return s.decoder.pool.size(); },
                   [](Serial& s, int n) {
                     require(n >= 1 && n <= 256, "num_threads must lie between 1 and 256.");
                     std::lock_guard<std::mutex> lock(s.mutex);
                     s.decoder.pool.resize(n);
                   })
      .def_prop_ro("key_blocks", [](const Serial& s) { return s.decoder.key_blocks(); })
      .def_prop_rw("share_prefixes", [](const Serial& s) { return s.decoder.share_prefixes; },
                   [](Serial& s, bool value) { s.decoder.share_prefixes = value; })
      .def("forward", &run_step)
      .def("draw", &draw_tokens)
      .def("score", &score_tokens);
  m.def("count_miscounted_rounds", &count_miscounted_rounds, nb::call_guard<nb::gil_scoped_release>());
}
