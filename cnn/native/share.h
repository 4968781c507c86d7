// How a native call uses XLA's own threads.

#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>

#include "xla/ffi/api/ffi.h"

// Calls work(0 .. parts-1), on this thread and on whichever of the pool's come in time. It waits only for
// parts that somebody has begun, so it cannot deadlock when every thread of the pool waits in here.
template <typename Work>
void Share(xla::ffi::ThreadPool& pool, int64_t parts, const Work& work) {
  struct State {
    std::atomic<int64_t> next{0};
    int64_t done = 0;
    std::exception_ptr error;
    std::mutex mutex;
    std::condition_variable finished;
  };
  auto state = std::make_shared<State>();
  auto loop = [state, parts, &work] {  // a helper that comes late never touches `work`
    for (int64_t part; (part = state->next.fetch_add(1)) < parts;) {
      std::exception_ptr error;
      try {
        work(part);
      } catch (...) {
        error = std::current_exception();
      }
      std::lock_guard<std::mutex> lock(state->mutex);
      if (error) state->error = error;
      if (++state->done == parts) state->finished.notify_all();
    }
  };
  for (int64_t helper = 1; helper < parts; ++helper) pool.Schedule(decltype(loop)(loop));
  loop();
  std::unique_lock<std::mutex> lock(state->mutex);
  state->finished.wait(lock, [&] { return state->done == parts; });
  if (state->error) std::rethrow_exception(state->error);
}
