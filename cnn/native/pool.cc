// Max pooling behind the XLA FFI, 1-D to 3-D, float32: the largest of each window, and its derivative's two maps.
//
// The first of the largest pixels is a window's winner. `take` picks from another array what lies under the
// winners; `put`, its transpose, adds each window's number to where its winner lies. Both find the winners anew
// in `x`: that is read anyway, and costs less than to write them in the forward pass and to read them here.
// Arrays are dense and channels last. Channels never meet, so the threads share out images and, within them,
// blocks of channels; the order of every sum is that of the windows, however many threads there are.

#include <algorithm>
#include <cstring>
#include <limits>

#include "share.h"
#include "xla/ffi/api/ffi.h"

// The same loops for wider vectors, chosen when the library is loaded.
#if defined(__GNUC__) && !defined(__clang__)
#define WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDE
#endif

namespace ffi = xla::ffi;
using Ints = ffi::Span<const int64_t>;
using F32 = ffi::Buffer<ffi::F32>;

namespace {

enum Kind : int64_t { kMax = 0, kTake = 1, kPut = 2 };
constexpr int64_t kLanes = 256;  // most channels of a block: what is known of one window stays in the first cache
constexpr int64_t kLeastLanes = 16;

// One spatial axis, and the taps of a window that lie within it.
struct Axis {
  int64_t size = 1, out = 1, taps = 1, step = 1, gap = 1, low = 0;

  int64_t First(int64_t at) const {
    const int64_t before = low - at * step;
    return before > 0 ? (before + gap - 1) / gap : 0;
  }
  int64_t Last(int64_t at) const {  // one behind it
    const int64_t room = size + low - at * step;
    return room > 0 ? std::min(taps, (room + gap - 1) / gap) : 0;
  }
  int64_t Pixel(int64_t at, int64_t tap) const { return at * step + tap * gap - low; }
};

struct Block {
  Axis d, h, w;
  int64_t channels, lanes;  // of the arrays, and of them here
};

// Calls tap(pixel) for the window's pixels at (od, oh, ow), in order; pixels are counted in floats.
template <typename Tap>
inline __attribute__((always_inline)) void Taps(const Block& b, int64_t od, int64_t oh, int64_t ow, const Tap& tap) {
  for (int64_t kd = b.d.First(od); kd < b.d.Last(od); ++kd)
    for (int64_t kh = b.h.First(oh); kh < b.h.Last(oh); ++kh) {
      const int64_t row = (b.d.Pixel(od, kd) * b.h.size + b.h.Pixel(oh, kh)) * b.w.size;
      for (int64_t kw = b.w.First(ow); kw < b.w.Last(ow); ++kw) tap((row + b.w.Pixel(ow, kw)) * b.channels);
    }
}

// Calls window(od, oh, ow, place of its number).
template <typename Window>
inline __attribute__((always_inline)) void Windows(const Block& b, const Window& window) {
  int64_t place = 0;
  for (int64_t od = 0; od < b.d.out; ++od)
    for (int64_t oh = 0; oh < b.h.out; ++oh)
      for (int64_t ow = 0; ow < b.w.out; ++ow, place += b.channels) window(od, oh, ow, place);
}

WIDE void Largest(const Block& b, const float* x, float* y) {
  Windows(b, [&](int64_t od, int64_t oh, int64_t ow, int64_t place) __attribute__((always_inline)) {
    float best[kLanes];
    std::fill_n(best, b.lanes, -std::numeric_limits<float>::infinity());
    Taps(b, od, oh, ow, [&](int64_t pixel) __attribute__((always_inline)) {
      const float* values = x + pixel;
      for (int64_t c = 0; c < b.lanes; ++c) {
        const float value = values[c];
        best[c] = (value > best[c]) | (value != value) ? value : best[c];  // a NaN stays
      }
    });
    std::memcpy(y + place, best, b.lanes * sizeof(float));
  });
}

// `won` becomes, for each channel, the winner's distance from the window's first pixel, which is returned (-1:
// the window has none). A NaN loses to whatever follows, as in `lax`.
inline __attribute__((always_inline)) int64_t Winners(const Block& b, int64_t od, int64_t oh, int64_t ow,
                                                      const float* x, int32_t* won) {
  float best[kLanes];
  int64_t first = -1;
  Taps(b, od, oh, ow, [&](int64_t pixel) __attribute__((always_inline)) {
    const float* values = x + pixel;
    if (first < 0) {
      first = pixel;
      std::memcpy(best, values, b.lanes * sizeof(float));
      std::fill_n(won, b.lanes, 0);
      return;
    }
    const int32_t distance = static_cast<int32_t>(pixel - first);
    for (int64_t c = 0; c < b.lanes; ++c) {
      const float value = values[c], before = best[c];
      const bool stays = before >= value;
      best[c] = stays ? before : value;
      won[c] = stays ? won[c] : distance;
    }
  });
  return first;
}

WIDE void Take(const Block& b, const float* values, const float* x, float* y) {
  Windows(b, [&](int64_t od, int64_t oh, int64_t ow, int64_t place) __attribute__((always_inline)) {
    int32_t won[kLanes];
    const int64_t first = Winners(b, od, oh, ow, x, won);
    for (int64_t c = 0; c < b.lanes; ++c) y[place + c] = first < 0 ? 0 : values[first + won[c] + c];
  });
}

WIDE void Put(const Block& b, const float* y, const float* x, float* sums) {
  const int64_t pixels = b.d.size * b.h.size * b.w.size;
  for (int64_t pixel = 0; pixel < pixels; ++pixel) std::fill_n(sums + pixel * b.channels, b.lanes, 0.0f);
  Windows(b, [&](int64_t od, int64_t oh, int64_t ow, int64_t place) __attribute__((always_inline)) {
    int32_t won[kLanes];
    const int64_t first = Winners(b, od, oh, ow, x, won);
    if (first < 0) return;
    for (int64_t c = 0; c < b.lanes; ++c) sums[first + won[c] + c] += y[place + c];
  });
}

ffi::Error Pool(ffi::ThreadPool pool, F32 moved, F32 x, ffi::Result<F32> result, int64_t kind, Ints window, Ints steps,
                Ints dilation, Ints low, int64_t threads) {
  const auto shape = x.dimensions(), out = kind == kPut ? moved.dimensions() : result->dimensions();
  const size_t rank = shape.size() - 2;
  Block whole;
  Axis* axes[] = {&whole.d, &whole.h, &whole.w};
  int64_t x_image = 1, y_image = 1;
  for (size_t axis = 0; axis < rank; ++axis) {
    *axes[3 - rank + axis] = {shape[axis + 1], out[axis + 1], window[axis], steps[axis], dilation[axis], low[axis]};
    x_image *= shape[axis + 1], y_image *= out[axis + 1];
  }
  const int64_t batch = shape[0], channels = shape[rank + 1];
  if (x_image * channels > std::numeric_limits<int32_t>::max())
    return ffi::Error::InvalidArgument("max pooling: one image has more than 2^31 numbers");
  whole.channels = channels;
  x_image *= channels, y_image *= channels;

  int64_t lanes = std::min(channels, kLanes);
  auto blocks = [&] { return (channels + lanes - 1) / lanes; };
  while (batch * blocks() < threads && lanes > kLeastLanes) lanes = std::max((lanes + 1) / 2, kLeastLanes);
  const int64_t units = batch * blocks(), parts = std::min(units, threads);
  Share(pool, parts, [&](int64_t part) {
    for (int64_t unit = part * units / parts; unit < (part + 1) * units / parts; ++unit) {
      const int64_t image = unit / blocks(), channel = unit % blocks() * lanes;
      Block block = whole;
      block.lanes = std::min(lanes, channels - channel);
      const float* from = moved.typed_data() + image * (kind == kPut ? y_image : x_image) + channel;
      const float* pixels = x.typed_data() + image * x_image + channel;
      float* to = result->typed_data() + image * (kind == kPut ? x_image : y_image) + channel;
      if (kind == kMax) Largest(block, pixels, to);
      if (kind == kTake) Take(block, from, pixels, to);
      if (kind == kPut) Put(block, from, pixels, to);
    }
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnPool, Pool,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Ret<F32>()
                                  .Attr<int64_t>("kind")
                                  .Attr<Ints>("window")
                                  .Attr<Ints>("strides")
                                  .Attr<Ints>("dilation")
                                  .Attr<Ints>("low")
                                  .Attr<int64_t>("threads"));
