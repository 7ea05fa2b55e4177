// The decoder stack of the Llama family: one call computes one step.
#pragma once
#include <array>
#include <map>
#include <new>
#include <string>

#include "lora.h"
#include "memory.h"
#include "packing.h"
#include "prefixes.h"

namespace evolute {

enum Module { kQ, kK, kV, kO, kGate, kUp, kDown, kNumModules };
int group_of(int module);  // modules of a group have the same input

struct Shape {
  int num_layers, width, num_heads, num_kv_heads, head_width, ff_width, vocab_size;
  float norm_eps;
  bool qk_norm;
  int window;  // 0: none
};

// Keys [page][layer][kv head][E][page_size], values [page][layer][kv head][page_size][E]. A page may
// hold floats of an adapter instead, in two blocks: where its keys would be, then its values.
struct Pages {
  int num_layers, num_pages, page_size, num_kv_heads, head_width;
  bool half;
  Room keys, values;

  int64_t head_elements() const { return (int64_t)page_size * head_width; }
  int64_t at(int layer, int64_t page, int head) const {
    return ((page * num_layers + layer) * num_kv_heads + head) * head_elements();
  }
  void put(int layer, int64_t page, int offset, int head, const float* k, const float* v);
  void copy_page(int64_t from, int64_t to);
  int64_t page_elements() const { return at(0, 1, 0); }  // of keys, and of values
  int64_t block_floats() const { return page_elements() * (half ? 2 : 4) / 4; }
  float* block(int64_t page, int side) const {
    return reinterpret_cast<float*>((side ? values : keys).data() + at(0, page, 0) * (half ? 2 : 4));
  }
  void write_floats(const int32_t* to, int64_t count, const float* from, int64_t floats);
};

struct Linear {
  std::shared_ptr<Packed> packed;
  std::vector<float> bias;  // padded to whole panels
};

struct Layer {
  std::array<Linear, kNumModules> linear;
  std::vector<float> attention_norm, mlp_norm, q_norm, k_norm;
};

struct Step {
  int num_tokens, num_sequences, table_width, num_logits;
  const int32_t *token_ids, *positions, *row_start, *context_len, *page_table, *adapter, *logit_rows;
  float* logits;
};

class Decoder {
 public:
  Decoder(const Shape& shape, std::vector<float> rotary, int num_threads);
  void forward(Pages& pages, const Step& step);  // throws std::invalid_argument, before any write

  Shape shape;
  std::vector<float> rotary;
  std::vector<Layer> layers;
  std::vector<float> final_norm;
  Linear embedding, head;
  std::map<int, Adapter> adapters;
  Pool pool;
  int64_t key_blocks() const { return plan_.key_blocks; }  // of the last step
  bool share_prefixes = true;  // keys that several sequences read are read once

 private:
  struct Target {
    int module;
    float* out;
  };
  void check(const Pages& pages, const Step& step) const;
  Rows rows_of(const float* x, int64_t k) const;
  template <typename F>
  void each_row(int64_t count, const F& fn);
  void quantize_row(const float* x, int64_t row, int64_t k, const Linear& reader);
  void norm_rows(const std::vector<float>& weight, const float* extra, const Linear& reader);
  void apply(const Linear& linear, const Rows& rows, int64_t m, float* out);
  void linears(int layer, const float* x, int64_t k, std::vector<Target> targets);
  void plan_lora(const Step& step);
  void shrinks(int layer, int group, int64_t k);
  void expands(int layer, int group, const std::vector<Target>& targets);
  void place(Pages& pages, const Step& step, int layer);
  void attend(const Pages& pages, const Step& step, int layer);

  int tokens_ = 0;
  std::vector<float> x_, h_, q_, k_, v_, a_, y_, g_, u_, scale_, sum_, total_, low_;
  std::vector<int8_t> codes_;
  AttentionPlan plan_;
  LoraPlan lora_;
  std::vector<ShrinkTask> shrinks_;
  std::vector<ExpandTask> expands_;
};

}  // namespace evolute
