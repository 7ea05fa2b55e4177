// From rows of logits to tokens; rows do not depend on one another.
#pragma once
#include <vector>

#include "ops.h"

namespace evolute {

// How one row is drawn. temperature 0: the largest logit.
struct Draw {
  float temperature, top_p, min_p;
  int top_k;     // 0: all
  double point;  // in [0, 1): where the inverse distribution function is read
};

// The token at `point` of what min-p, top-k and top-p leave, in vocabulary order; -1 when the
// weights are not finite.
int64_t draw_token(const float* logits, int64_t n, const Draw& draw);

// log sum exp(logits / temperature); not finite when the logits are not.
double log_normalizer(const float* logits, int64_t n, float temperature);

}  // namespace evolute
