// Memory that is read once a step: zeros, on cache lines, in large system pages where there are
// any, since address look-ups cost more than the bytes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace evolute {

void ask_for_large_pages(void* memory, size_t bytes);
void give_back_memory();  // what the allocator keeps of freed memory, to the system

// Takes memory only where it was written.
class Room {
 public:
  void resize(size_t bytes) {
    memory_.reset(static_cast<uint8_t*>(std::calloc(bytes + 64, 1)));
    if (!memory_) throw std::bad_alloc();
    bytes_ = bytes;
    ask_for_large_pages(memory_.get(), bytes + 64);
  }
  uint8_t* data() const { return memory_.get() + (64 - (uintptr_t)memory_.get() % 64) % 64; }
  size_t size() const { return bytes_; }

 private:
  std::unique_ptr<uint8_t, void (*)(void*)> memory_{nullptr, std::free};
  size_t bytes_ = 0;
};

// A piece of a slab that small neighbours share, so that they lie in the same large pages. The slab
// is freed with its last piece.
std::shared_ptr<uint8_t> piece_of_slab(size_t bytes);

}  // namespace evolute
