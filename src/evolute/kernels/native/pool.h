// A few threads that share numbered tasks. The caller works too; one thread needs no pool.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace evolute {

class Pool {
 public:
  explicit Pool(int num_threads) { resize(num_threads); }
  ~Pool() { resize(1); }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int size() const { return (int)workers_.size() + 1; }
  void resize(int num_threads);  // not while run() is under way

  // Calls fn(i) for i below `count`, in any order, and returns when all are done.
  template <typename F>
  void run(int64_t count, const F& fn) {
    if (workers_.empty() || count <= 1) {
      for (int64_t i = 0; i < count; i++) fn(i);
      return;
    }
    dispatch(count, [](const void* f, int64_t i) { (*static_cast<const F*>(f))(i); }, &fn);
  }

 private:
  using Call = void (*)(const void*, int64_t);
  void dispatch(int64_t count, Call call, const void* context);
  bool take(uint32_t round);
  void work(uint32_t round);

  std::vector<std::thread> workers_;
  // Round in the high half, next task in the low: a task is claimed only in the round it was read.
  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<int64_t> done_{0};
  alignas(64) std::atomic<int64_t> count_{0};
  std::atomic<Call> call_{nullptr};
  std::atomic<const void*> context_{nullptr};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

// Runs rounds of 2 and 9 tasks in turn and counts those in which a task ran not exactly once.
int64_t count_miscounted_rounds(int num_threads, int64_t rounds);

}  // namespace evolute
