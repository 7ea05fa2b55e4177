#include "pool.h"

#include <chrono>

namespace evolute {
namespace {

constexpr auto kSpin = std::chrono::microseconds(50);  // then sleep: others need the core

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

void Pool::resize(int num_threads) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
  workers_.clear();
  stop_ = false;
  const uint32_t round = (uint32_t)(state_.load() >> 32);
  for (int i = 1; i < num_threads; i++) workers_.emplace_back([this, round] { work(round); });
}

void Pool::dispatch(int64_t count, Call call, const void* context) {
  const uint32_t round = (uint32_t)(state_.load() >> 32) + 1;
  // The old round is closed first: who still looks at it must not claim a task of the new one.
  state_.store((uint64_t)(round - 1) << 32 | 0xFFFFFFFFu);
  count_.store(count, std::memory_order_release);
  call_.store(call, std::memory_order_release);
  context_.store(context, std::memory_order_release);
  done_.store(0, std::memory_order_relaxed);
  state_.store((uint64_t)round << 32);
  if (sleepers_.load()) {
    std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }
  while (take(round)) {
  }
  for (int spins = 0; done_.load(std::memory_order_acquire) < count; spins++)
    spins < 20000 ? pause() : std::this_thread::yield();
}

// Claims and runs one task of the round; false when none is left.
bool Pool::take(uint32_t round) {
  uint64_t state = state_.load(std::memory_order_acquire);
  const int64_t count = count_.load(std::memory_order_acquire);
  const Call call = call_.load(std::memory_order_acquire);
  const void* context = context_.load(std::memory_order_acquire);
  do {
    if ((uint32_t)(state >> 32) != round || (int64_t)(uint32_t)state >= count) return false;
  } while (!state_.compare_exchange_weak(state, state + 1));
  call(context, (int64_t)(uint32_t)state);
  done_.fetch_add(1, std::memory_order_release);
  return true;
}

void Pool::work(uint32_t seen) {
  const auto fresh = [&] { return (uint32_t)(state_.load() >> 32) != seen; };
  while (true) {
    const auto until = std::chrono::steady_clock::now() + kSpin;
    for (int i = 0; !fresh() && !stop_; i++) {
      pause();
      if (i % 64 || std::chrono::steady_clock::now() < until) continue;
      std::unique_lock<std::mutex> lock(mutex_);
      sleepers_++;
      wake_.wait(lock, [&] { return fresh() || stop_; });
      sleepers_--;
    }
    if (stop_) return;
    seen = (uint32_t)(state_.load() >> 32);
    while (take(seen)) {
    }
  }
}

int64_t count_miscounted_rounds(int num_threads, int64_t rounds) {
  Pool pool(num_threads);
  std::atomic<int> runs[9];
  int64_t wrong = 0;
  for (int64_t round = 0; round < rounds; round++) {
    const int64_t count = round % 2 ? 2 : 9;  // few, then more: an old claim may fit the new count
    for (auto& n : runs) n.store(0, std::memory_order_relaxed);
    pool.run(count, [&](int64_t i) { runs[i].fetch_add(1); });
    bool right = true;
    for (int64_t i = 0; i < 9; i++) right &= runs[i].load() == (i < count);
    wrong += !right;
  }
  return wrong;
}

}  // namespace evolute
