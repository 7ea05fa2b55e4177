// Which instruction set runs.
#include <atomic>
#include <stdexcept>
#include <string>

#include "ops.h"

namespace evolute {
namespace {

bool has(const std::string& name) {
#if defined(EVOLUTE_X86)
  __builtin_cpu_init();
  if (name == "avx512")
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
  if (name == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return name == "generic";
}

const Ops* table(const std::string& name) {
#if defined(EVOLUTE_X86)
  if (name == "avx512") return &avx512_ops();
  if (name == "avx2") return &avx2_ops();
#endif
  return &generic_ops();
}

std::atomic<const Ops*> chosen{nullptr};

}  // namespace

const Ops& active_ops() {
  const Ops* ops = chosen.load();
  if (!ops) {
    ops = table(has("avx512") ? "avx512" : has("avx2") ? "avx2" : "generic");
    chosen.store(ops);
  }
  return *ops;
}

void select_isa(const char* name) {
  if (!has(name))
    throw std::invalid_argument(std::string("no instruction set '") + name +
                                "' on this machine; it has generic" + (has("avx2") ? ", avx2" : "") +
                                (has("avx512") ? ", avx512" : "") + ".");
  chosen.store(table(name));
}

}  // namespace evolute
