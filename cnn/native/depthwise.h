// The kernel gradient of depthwise convolutions, 1-D to 3-D, float32: oneDNN's takes ten times its forward pass.
//
// Channels are independent. Threads share them out, so there are no partial sums to add, and the result has the same
// bits for any number of threads. Sixteen channels of one input row lie in a buffer, with zeros where the padding is;
// a row of the window over it is one run of multiply-adds into registers.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace depthwise {

constexpr int64_t kLanes = 16;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float))));

struct Shape {
  int64_t batch = 1, channels = 1;
  int64_t in[3] = {1, 1, 1}, out[3] = {1, 1, 1}, window[3] = {1, 1, 1};
  int64_t step[3] = {1, 1, 1}, gap[3] = {1, 1, 1}, low[3] = {0, 0, 0};
};

#define CNN_INLINE inline __attribute__((always_inline))  // into functions for other instruction sets

// sums[t] += x[o * step + t * gap] * y[o] over all o; `taps` of them, a constant where `Taps` is not 0.
template <int Taps>
CNN_INLINE void Row(const float* x, const float* y, int64_t y_stride, const Shape& s, float* sums) {
  const int64_t step = s.step[2] * kLanes, gap = s.gap[2] * kLanes, outs = s.out[2], taps = s.window[2];
  if constexpr (Taps > 0) {
    Lanes sum[Taps];
    for (int t = 0; t < Taps; ++t) sum[t] = *reinterpret_cast<const Lanes*>(sums + t * kLanes);
    for (int64_t o = 0; o < outs; ++o) {
      const Lanes dy = *reinterpret_cast<const Lanes*>(y + o * y_stride);
      for (int t = 0; t < Taps; ++t) sum[t] += *reinterpret_cast<const Lanes*>(x + o * step + t * gap) * dy;
    }
    for (int t = 0; t < Taps; ++t) *reinterpret_cast<Lanes*>(sums + t * kLanes) = sum[t];
  } else {
    for (int64_t t = 0; t < taps; ++t) {
      Lanes sum = *reinterpret_cast<const Lanes*>(sums + t * kLanes);
      for (int64_t o = 0; o < outs; ++o)
        sum += *reinterpret_cast<const Lanes*>(x + o * step + t * gap) * *reinterpret_cast<const Lanes*>(y + o * y_stride);
      *reinterpret_cast<Lanes*>(sums + t * kLanes) = sum;
    }
  }
}

// Whether tap `tap` of an axis sees input `at`, and from which output.
CNN_INLINE bool Seen(const Shape& s, int axis, int64_t at, int64_t tap, int64_t* from) {
  const int64_t steps = at + s.low[axis] - tap * s.gap[axis];
  *from = steps / s.step[axis];
  return steps >= 0 && steps % s.step[axis] == 0 && *from < s.out[axis];
}

// The gradient of channels [first, first + kLanes), as far as there are any.
CNN_INLINE void Block(const Shape& s, const float* x, const float* y, float* kernel, int64_t first) {
  const int64_t channels = s.channels, count = std::min(kLanes, channels - first), taps = s.window[2];
  const int64_t width = (s.out[2] - 1) * s.step[2] + (taps - 1) * s.gap[2] + 1;
  const int64_t begin = std::min(std::max<int64_t>(s.low[2], 0), width);
  const int64_t end = std::min(width, s.low[2] + s.in[2]);
  std::vector<float> row(width * kLanes, 0.f), tail(count < kLanes ? s.out[2] * kLanes : 0, 0.f);
  std::vector<float> sums(s.window[0] * s.window[1] * taps * kLanes, 0.f);
  for (int64_t b = 0; b < s.batch; ++b)
    for (int64_t d = 0; d < s.in[0]; ++d)
      for (int64_t h = 0; h < s.in[1]; ++h) {
        const float* source = x + ((b * s.in[0] + d) * s.in[1] + h) * s.in[2] * channels + first;
        bool filled = false;
        for (int64_t i = 0; i < s.window[0]; ++i) {
          int64_t od, oh;
          if (!Seen(s, 0, d, i, &od)) continue;
          for (int64_t j = 0; j < s.window[1]; ++j) {
            if (!Seen(s, 1, h, j, &oh)) continue;
            for (int64_t p = begin; !filled && p < end; ++p)
              std::memcpy(&row[p * kLanes], source + (p - s.low[2]) * channels, count * sizeof(float));
            filled = true;
            const float* dy = y + ((b * s.out[0] + od) * s.out[1] + oh) * s.out[2] * channels + first;
            int64_t stride = channels;
            if (count < kLanes) {
              for (int64_t o = 0; o < s.out[2]; ++o)
                std::memcpy(&tail[o * kLanes], dy + o * channels, count * sizeof(float));
              dy = tail.data();
              stride = kLanes;
            }
            float* at = &sums[(i * s.window[1] + j) * taps * kLanes];
            if (taps == 3) Row<3>(row.data(), dy, stride, s, at);
            else if (taps == 5) Row<5>(row.data(), dy, stride, s, at);
            else if (taps == 7) Row<7>(row.data(), dy, stride, s, at);
            else Row<0>(row.data(), dy, stride, s, at);
          }
        }
      }
  for (int64_t tap = 0; tap < s.window[0] * s.window[1] * taps; ++tap)
    std::memcpy(kernel + tap * channels + first, &sums[tap * kLanes], count * sizeof(float));
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) inline void Block512(const Shape& s, const float* x, const float* y, float* k,
                                                        int64_t first) {
  Block(s, x, y, k, first);
}
__attribute__((target("avx2,fma"))) inline void Block256(const Shape& s, const float* x, const float* y, float* k,
                                                         int64_t first) {
  Block(s, x, y, k, first);
}
#endif

inline int64_t Blocks(int64_t channels) { return (channels + kLanes - 1) / kLanes; }

// x [batch, *in, channels], y [batch, *out, channels] -> kernel [*window, 1, channels]; one block of channels.
inline void KernelGradient(const Shape& s, const float* x, const float* y, float* kernel, int64_t block) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return Block512(s, x, y, kernel, block * kLanes);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Block256(s, x, y, kernel, block * kLanes);
#endif
  Block(s, x, y, kernel, block * kLanes);
}

}  // namespace depthwise
