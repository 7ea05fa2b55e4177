#include "memory.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace evolute {

void ask_for_large_pages(void* memory, size_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kLarge = 2 << 20;
  const uintptr_t first = ((uintptr_t)memory + kLarge - 1) / kLarge * kLarge;
  const uintptr_t end = ((uintptr_t)memory + bytes) / kLarge * kLarge;
  if (end > first) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
}

void give_back_memory() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

std::shared_ptr<uint8_t> piece_of_slab(size_t bytes) {
  constexpr size_t kLarge = 2 << 20, kSlab = 16 << 20;
  static std::mutex mutex;
  static std::weak_ptr<uint8_t> last;
  static size_t used = 0, size = 0;
  static std::atomic<size_t> held = 0;  // by slabs
  const size_t wanted = (bytes + 63) / 64 * 64;
  const std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<uint8_t> slab = last.lock();
  if (!slab || used + wanted > size) {
    // no larger than what is held: a model exchanged again and again grows no further than twice
    const size_t fitting = std::clamp(held.load(), kLarge, kSlab);
    size = (std::max(wanted, fitting) + kLarge - 1) / kLarge * kLarge;
    void* memory = std::calloc(size + kLarge, 1);
    if (!memory) throw std::bad_alloc();
    ask_for_large_pages(memory, size + kLarge);
    const size_t first = (kLarge - (uintptr_t)memory % kLarge) % kLarge, own = size;
    held += own;
    const std::shared_ptr<void> owner(memory, [own](void* one) {
      std::free(one);
      held -= own;
    });
    slab = std::shared_ptr<uint8_t>(owner, static_cast<uint8_t*>(memory) + first);
    last = slab;
    used = 0;
  }
  uint8_t* piece = slab.get() + used;
  used += wanted;
  return std::shared_ptr<uint8_t>(slab, piece);
}

}  // namespace evolute
