// What one instruction set must provide. Every table is compiled from the same .inc files with
// other compiler flags; `active_ops` picks one at run time.
#pragma once
#include <cstddef>
#include <cstdint>

namespace evolute {

constexpr int kBlock = 32;      // weights that share a scale and an offset
constexpr int kRowTile = 16;    // rows of activations whose codes lie together
constexpr int kCodePanel = 16;  // outputs of a panel of codes
constexpr int kFloatPanel = 32; // outputs of a panel of floats
constexpr int kKeyBlock = 64;   // positions of one online-softmax step, at absolute multiples
constexpr int kMaxHead = 256;   // widest head
constexpr int kMaxTileRows = 32;
constexpr int kRowsAhead = 4;   // of an adapter, to be asked for
constexpr int kNearFloats = 5200;  // of activations that stay in the first cache beside them

enum class Storage : int { kFloat32 = 0, kQ4 = 1, kQ8 = 2, kChannel = 3 };

// The panels of one weight matrix.
struct PanelView {
  const uint8_t* data;
  ptrdiff_t panel_bytes;
  int64_t n, k;
  Storage storage;
  bool half_scales;
  int group;  // blocks of inputs whose codes share a scale of activations
  const float* bias;  // [n] padded to a panel, or null
};

// Rows of activations: always float32, and 8-bit codes when a quantised layer reads them. Codes lie
// in tiles of 16 rows, block by block, so that one pointer serves all rows of a tile.
struct Rows {
  const float* x;       // [m, k]
  const int8_t* codes;  // [m / 16, k / 32, 16, 32], m rounded up
  const float* scale;   // [m / 16, k / 32, 16]
  const float* sum;     // [m / 16, k / 32, 16] scale * sum(codes)
  const float* total;   // [m] the sums of a row added up
  int64_t k;
};

inline int64_t whole_tiles(int64_t m) { return (m + kRowTile - 1) / kRowTile * kRowTile; }
inline int64_t code_at(int64_t row, int64_t k) {
  return row / kRowTile * kRowTile * k + row % kRowTile * kBlock;
}
inline int64_t scale_at(int64_t row, int64_t k) {
  return row / kRowTile * kRowTile * (k / kBlock) + row % kRowTile;
}

// Some queries of one sequence.
struct AttentionPart {
  int first, num_tokens;     // tokens of the step
  const int32_t* positions;  // of these tokens
  const int32_t* page_table;
};

// One head's keys and values for queries of some sequences, which have the pages of their first
// `shared` positions in common: those are read once for all of them.
struct AttentionTile {
  const AttentionPart* parts;
  int num_parts;
  int shared;          // a multiple of kKeyBlock that no query's position is below
  const float* q;      // token 0, first head of the group; already scaled by 1 / sqrt(E)
  ptrdiff_t q_stride;  // floats between tokens; heads of a group are head_width apart
  float* out;
  ptrdiff_t out_stride;
  int group, head_width, page_size;
  int window;           // 0: none
  const void* keys;     // of this layer and kv head; [page][E][page_size]
  const void* values;   // [page][page_size][E]
  ptrdiff_t page_stride;  // elements between pages
};

struct Ops {
  const char* name;
  void (*linear)(const PanelView&, int64_t panel_begin, int64_t panel_end, const Rows&, int64_t m,
                 float* out, ptrdiff_t out_stride, bool accumulate);
  // One row; codes, scale and sum point at its place in the tile. `group` blocks share a scale.
  void (*quantize)(const float* x, int64_t k, int group, int8_t* codes, float* scale, float* sum,
                   float* total);
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* out);
  void (*add)(float* x, const float* y, int64_t n);
  void (*silu_mul)(float* gate, const float* up, int64_t n);
  void (*rotary)(float* x, const float* table, int num_heads, int head_width, float scale);
  void (*to_half)(const float* x, uint16_t* out, int64_t n);
  void (*from_half)(const uint16_t* x, float* out, int64_t n);
  // The second tile is computed next, or null.
  void (*attention_float)(const AttentionTile&, const AttentionTile*);
  void (*attention_half)(const AttentionTile&, const AttentionTile*);
  float (*maximum)(const float* x, int64_t n);  // NaN is passed over
  // out[i] = exp((x[i] - shift) * inverse); returns the sum. out may be null.
  double (*exp_sum)(const float* x, float shift, float inverse, int64_t n, float* out);
  // Rows of an adapter on m rows of activations. After `count` rows come kRowsAhead more that
  // memory is only asked for.
  // low[t * stride + j] = scale * <x[t], rows[j]>, over k inputs; rows go on with zeros to whole
  // vectors of 16; `packed` has room for kNearFloats, or 4 rows of x
  void (*shrink)(const float* const* rows, int count, const float* const* x, int m, int64_t k,
                 float scale, float* low, ptrdiff_t stride, float* packed);
  // out[t][i] += sum over j of low[t * stride + j] * rows[j][i], for n outputs; `packed` has room
  // for count * n floats
  void (*expand)(const float* const* rows, int count, const float* low, ptrdiff_t stride, int m,
                 int64_t n, float* const* out, float* packed);
};

const Ops& generic_ops();
#if defined(EVOLUTE_X86)
const Ops& avx2_ops();
const Ops& avx512_ops();
#endif
const Ops& active_ops();
void select_isa(const char* name);  // throws std::invalid_argument with what is there

}  // namespace evolute
