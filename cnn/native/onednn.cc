// oneDNN's convolutions behind the XLA FFI: forward, input gradient and kernel gradient, 1-D to 3-D, float32.
//
// Arrays are dense and channels last (kernels: window, in, out). The rows of a batch are shared out over
// XLA's own threads in `threads` equal parts, and oneDNN runs each part on one thread. OpenMP's own teams
// would be one more pool per calling thread: they spin against XLA's threads, and eight simulated devices
// would start eight of them. It also fixes the order of every sum: results depend on `threads` alone.

#include <dnnl.hpp>
#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <unordered_map>
#include <vector>

#include "depthwise.h"
#include "share.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using dnnl::memory;
using dims = memory::dims;
using Ints = ffi::Span<const int64_t>;
using F32 = ffi::Buffer<ffi::F32>;

namespace {

enum Kind : int64_t { kForward = 0, kInputGradient = 1, kKernelGradient = 2 };
constexpr size_t kCacheEntries = 1024;  // ResNet-152 has fewer than 200 distinct ones
constexpr size_t kWorthSharing = 1 << 16;  // numbers: waking a thread takes as long as copying these
constexpr size_t kPartialSums = size_t{256} << 20;  // bytes of kernel gradients held for summing

dnnl::engine& Engine() {
  static auto* engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);  // outlives every thread
  return *engine;
}

dnnl::stream& Stream() {
  static thread_local dnnl::stream stream(Engine());
  return stream;
}

// A block of memory per thread and purpose that only grows: fresh pages cost more than most convolutions.
class Arena {
 public:
  ~Arena() { std::free(data_); }
  float* Get(size_t bytes) {
    if (bytes > size_) {
      std::free(data_);
      size_ = 0;
      data_ = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
      if (data_ == nullptr) throw std::bad_alloc();
      size_ = bytes;
    }
    return static_cast<float*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

// oneDNN asks OpenMP for the number of threads where a primitive is made and where it runs; the setting is
// each thread's own.
class Threads {
 public:
  explicit Threads(int count) : before_(omp_get_max_threads()) { omp_set_num_threads(count); }
  ~Threads() { omp_set_num_threads(before_); }

 private:
  int before_;
};

struct Problem {
  int64_t kind, groups, pool;  // threads there are,
  int64_t threads = 1;         // and threads for one part of the batch
  dims x, y, kernel;                     // n c space, n c space, [groups] out in window
  dims x_strides, y_strides, k_strides;  // of the dense channels-last arrays
  dims steps, dilation, low, high;

  std::vector<int64_t> Key() const {
    std::vector<int64_t> key{kind, groups, pool, threads};
    for (const dims* part : {&x, &y, &kernel, &steps, &dilation, &low, &high})
      key.insert(key.end(), part->begin(), part->end());
    return key;
  }
};

// Of a part of the kernel into oneDNN's layout, or of its gradient back.
struct Reorder {
  memory::desc from, to, scratch;
  dnnl::primitive primitive;
};

struct Entry {
  dnnl::primitive primitive;
  std::vector<Reorder> reorders;  // none where oneDNN takes the plain layout
  memory::desc x, y, kernel, plain, scratch;
};

struct Hash {
  size_t operator()(const std::vector<int64_t>& key) const {
    size_t hash = key.size();
    for (int64_t value : key) hash ^= std::hash<int64_t>()(value) + 0x9e3779b9 + (hash << 6) + (hash >> 2);
    return hash;
  }
};

// Cuts the outermost axis (groups, else output channels) into `parts`; none where a block of the layout would be cut.
std::vector<Reorder> MakeReorders(const memory::desc& from, const memory::desc& to, const dims& sizes, int64_t parts) {
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  std::vector<Reorder> reorders;
  if (sizes[0] % parts) return reorders;
  dims cut = sizes, offset(sizes.size(), 0);
  cut[0] /= parts;
  try {
    for (int64_t part = 0; part < parts; ++part) {
      offset[0] = part * cut[0];
      Reorder reorder{from.submemory_desc(cut, offset), to.submemory_desc(cut, offset), {}, {}};
      dnnl::reorder::primitive_desc made(Engine(), reorder.from, Engine(), reorder.to, attr);
      reorder.primitive = dnnl::reorder(made);
      reorder.scratch = made.scratchpad_desc();
      reorders.push_back(reorder);
    }
  } catch (const dnnl::error&) {
    if (parts == 1) throw;
    reorders.clear();
  }
  return reorders;
}

std::shared_ptr<const Entry> Make(const Problem& p) {
  using dnnl::algorithm;
  using dnnl::prop_kind;
  constexpr auto f32 = memory::data_type::f32;
  auto entry = std::make_shared<Entry>();
  entry->x = memory::desc(p.x, f32, p.x_strides);
  entry->y = memory::desc(p.y, f32, p.y_strides);
  entry->plain = memory::desc(p.kernel, f32, p.k_strides);
  memory::desc any(p.kernel, f32, memory::format_tag::any);
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);  // the library's own is not safe between threads
  dims gaps;
  for (int64_t step : p.dilation) gaps.push_back(step - 1);
  const auto direct = algorithm::convolution_direct;
  dnnl::convolution_forward::primitive_desc forward(Engine(), prop_kind::forward_training, direct, entry->x, any,
                                                    entry->y, p.steps, gaps, p.low, p.high, attr);
  if (p.kind == kForward) {
    entry->primitive = dnnl::convolution_forward(forward);
    entry->kernel = forward.weights_desc();
    entry->scratch = forward.scratchpad_desc();
  } else if (p.kind == kInputGradient) {
    dnnl::convolution_backward_data::primitive_desc backward(Engine(), direct, entry->x, any, entry->y, p.steps, gaps,
                                                             p.low, p.high, forward, attr);
    entry->primitive = dnnl::convolution_backward_data(backward);
    entry->kernel = backward.weights_desc();
    entry->scratch = backward.scratchpad_desc();
  } else {
    dnnl::convolution_backward_weights::primitive_desc backward(Engine(), direct, entry->x, any, entry->y, p.steps,
                                                                gaps, p.low, p.high, forward, attr);
    entry->primitive = dnnl::convolution_backward_weights(backward);
    entry->kernel = backward.diff_weights_desc();
    entry->scratch = backward.scratchpad_desc();
  }
  if (entry->kernel != entry->plain) {
    const bool back = p.kind == kKernelGradient;
    const auto& from = back ? entry->kernel : entry->plain;
    const auto& to = back ? entry->plain : entry->kernel;
    const bool large = entry->plain.get_size() / sizeof(float) > kWorthSharing;
    if (large) entry->reorders = MakeReorders(from, to, p.kernel, p.pool);
    if (entry->reorders.empty()) entry->reorders = MakeReorders(from, to, p.kernel, 1);
  }
  return entry;
}

// Least recently used out; making a primitive generates code and takes up to some milliseconds.
std::shared_ptr<const Entry> Lookup(const Problem& problem) {
  using Item = std::pair<std::vector<int64_t>, std::shared_ptr<const Entry>>;
  static auto* mutex = new std::mutex;
  static auto* items = new std::list<Item>;
  static auto* index = new std::unordered_map<std::vector<int64_t>, std::list<Item>::iterator, Hash>;
  auto key = problem.Key();
  std::lock_guard<std::mutex> lock(*mutex);
  auto found = index->find(key);
  if (found == index->end()) {
    Threads team(problem.threads);
    items->emplace_front(key, Make(problem));
    found = index->emplace(std::move(key), items->begin()).first;
    if (items->size() > kCacheEntries) {
      index->erase(items->back().first);
      items->pop_back();
    }
  } else {
    items->splice(items->begin(), *items, found->second);
  }
  return items->front().second;
}

void Execute(const dnnl::primitive& primitive, const memory::desc& scratch, std::unordered_map<int, memory> args) {
  static thread_local Arena arena;
  if (scratch.get_size()) args.emplace(DNNL_ARG_SCRATCHPAD, memory(scratch, Engine(), arena.Get(scratch.get_size())));
  primitive.execute(Stream(), args);
  Stream().wait();
}

void RunReorders(ffi::ThreadPool& pool, const std::vector<Reorder>& reorders, float* from, float* to) {
  Share(pool, reorders.size(), [&](int64_t part) {
    Threads team(1);
    const Reorder& reorder = reorders[part];
    Execute(reorder.primitive, reorder.scratch,
            {{DNNL_ARG_FROM, memory(reorder.from, Engine(), from)}, {DNNL_ARG_TO, memory(reorder.to, Engine(), to)}});
  });
}

// n c space of a channels-last shape, and its strides.
void Activation(Ints shape, dims* sizes, dims* strides) {
  const size_t rank = shape.size();
  *sizes = {shape[0], shape[rank - 1]};
  sizes->insert(sizes->end(), shape.begin() + 1, shape.end() - 1);
  strides->assign(rank, 1);
  int64_t stride = shape[rank - 1];
  for (size_t axis = rank - 1; axis >= 2; --axis) {
    (*strides)[axis] = stride;
    stride *= (*sizes)[axis];
  }
  (*strides)[0] = stride;
}

void Kernel(Ints shape, int64_t groups, dims* sizes, dims* strides) {
  const size_t rank = shape.size();
  const int64_t in = shape[rank - 2], out = shape[rank - 1];
  dims window(shape.begin(), shape.end() - 2), steps(rank - 2);
  int64_t stride = in * out;
  for (size_t axis = rank - 2; axis-- > 0;) {
    steps[axis] = stride;
    stride *= window[axis];
  }
  *sizes = {out / groups, in};
  *strides = {1, out};
  if (groups > 1) {
    sizes->insert(sizes->begin(), groups);
    strides->insert(strides->begin(), out / groups);
  }
  sizes->insert(sizes->end(), window.begin(), window.end());
  strides->insert(strides->end(), steps.begin(), steps.end());
}

// Into how many equal parts the batch is cut: at least one per thread where it can be, never more than `most`.
int64_t Parts(int64_t batch, int64_t threads, int64_t most) {
  int64_t parts = std::min(batch, std::min(threads, most));
  while (batch % parts && parts < std::min(batch, most)) ++parts;
  while (batch % parts) --parts;
  return parts;
}

depthwise::Shape DepthwiseShape(const Problem& p) {
  depthwise::Shape shape;
  shape.batch = p.x[0];
  shape.channels = p.groups;
  const size_t rank = p.steps.size();
  for (size_t axis = 0; axis < rank; ++axis) {
    const size_t to = 3 - rank + axis;
    shape.in[to] = p.x[2 + axis];
    shape.out[to] = p.y[2 + axis];
    shape.window[to] = p.kernel[3 + axis];
    shape.step[to] = p.steps[axis];
    shape.gap[to] = p.dilation[axis];
    shape.low[to] = p.low[axis];
  }
  return shape;
}

ffi::Error Run(ffi::ThreadPool pool, F32 a, F32 b, ffi::Result<F32> out, int64_t kind, Ints steps, Ints dilation,
               Ints low, Ints high, int64_t groups, int64_t threads) {
  auto copy = [](Ints values) { return dims(values.begin(), values.end()); };
  Problem problem{kind, groups, threads, 1, {}, {}, {}, {}, {}, {}, copy(steps), copy(dilation), copy(low), copy(high)};
  float* first = a.typed_data();
  float* second = b.typed_data();
  float* result = out->typed_data();
  float *x, *y, *kernel;
  auto describe = [&](const F32& xs, const F32& ys, const F32& ks) {
    Activation(xs.dimensions(), &problem.x, &problem.x_strides);
    Activation(ys.dimensions(), &problem.y, &problem.y_strides);
    Kernel(ks.dimensions(), groups, &problem.kernel, &problem.k_strides);
  };
  if (kind == kForward) {
    describe(a, *out, b);
    x = first, kernel = second, y = result;
  } else if (kind == kInputGradient) {
    describe(*out, a, b);
    y = first, kernel = second, x = result;
  } else {
    describe(a, b, *out);
    x = first, y = second, kernel = result;
  }

  if (kind == kKernelGradient && groups > 1 && groups == problem.x[1] && groups == problem.y[1]) {
    const auto shape = DepthwiseShape(problem);
    const int64_t blocks = depthwise::Blocks(groups), workers = std::min(blocks, threads);
    Share(pool, workers, [&](int64_t worker) {
      for (int64_t block = worker * blocks / workers; block < (worker + 1) * blocks / workers; ++block)
        depthwise::KernelGradient(shape, x, y, kernel, block);
    });
    return ffi::Error::Success();
  }

  const int64_t batch = problem.x[0];
  const int64_t most = kind == kKernelGradient ? std::max<int64_t>(kPartialSums / out->size_bytes(), 1) : batch;
  const int64_t parts = Parts(batch, threads, most), rows = batch / parts;
  const int64_t x_part = rows * problem.x_strides[0], y_part = rows * problem.y_strides[0];
  problem.x[0] = problem.y[0] = rows;
  problem.threads = std::max<int64_t>(threads / parts, 1);  // more than one for a batch smaller than the pool
  const auto entry = Lookup(problem);
  static thread_local Arena arena;

  if (kind != kKernelGradient) {
    float* inner = kernel;
    if (!entry->reorders.empty()) {
      inner = arena.Get(entry->kernel.get_size());
      RunReorders(pool, entry->reorders, kernel, inner);
    }
    Share(pool, parts, [&](int64_t part) {
      Threads team(problem.threads);
      memory xs(entry->x, Engine(), x + part * x_part), ys(entry->y, Engine(), y + part * y_part);
      memory ks(entry->kernel, Engine(), inner);
      if (kind == kForward)
        Execute(entry->primitive, entry->scratch, {{DNNL_ARG_SRC, xs}, {DNNL_ARG_WEIGHTS, ks}, {DNNL_ARG_DST, ys}});
      else
        Execute(entry->primitive, entry->scratch,
                {{DNNL_ARG_DIFF_SRC, xs}, {DNNL_ARG_WEIGHTS, ks}, {DNNL_ARG_DIFF_DST, ys}});
    });
    return ffi::Error::Success();
  }

  // Each part has its own sum; they are added in the order of the parts.
  const size_t bytes = (entry->kernel.get_size() + 63) / 64 * 64;
  const bool direct = parts == 1 && entry->reorders.empty();
  float* sums = direct ? kernel : arena.Get(bytes * parts);
  const size_t stride = bytes / sizeof(float), count = entry->kernel.get_size() / sizeof(float);
  Share(pool, parts, [&](int64_t part) {
    Threads team(problem.threads);
    Execute(entry->primitive, entry->scratch,
            {{DNNL_ARG_SRC, memory(entry->x, Engine(), x + part * x_part)},
             {DNNL_ARG_DIFF_DST, memory(entry->y, Engine(), y + part * y_part)},
             {DNNL_ARG_DIFF_WEIGHTS, memory(entry->kernel, Engine(), sums + part * stride)}});
  });
  const size_t slices = count > kWorthSharing ? threads : 1;
  Share(pool, slices, [&](int64_t slice) {
    const size_t first = count * slice / slices, last = count * (slice + 1) / slices;
    for (int64_t part = 1; part < parts; ++part)
      for (size_t i = first; i < last; ++i) sums[i] += sums[part * stride + i];
  });
  if (!entry->reorders.empty()) {
    RunReorders(pool, entry->reorders, sums, kernel);
  } else if (!direct) {
    std::memcpy(kernel, sums, out->size_bytes());
  }
  return ffi::Error::Success();
}

ffi::Error Guarded(ffi::ThreadPool pool, F32 a, F32 b, ffi::Result<F32> out, int64_t kind, Ints steps, Ints dilation,
                   Ints low, Ints high, int64_t groups, int64_t threads) {
  try {
    return Run(pool, a, b, out, kind, steps, dilation, low, high, groups, threads);
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("oneDNN convolution: ") + error.what());
  }
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnConv, Guarded,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Ret<F32>()
                                  .Attr<int64_t>("kind")
                                  .Attr<Ints>("strides")
                                  .Attr<Ints>("dilation")
                                  .Attr<Ints>("low")
                                  .Attr<Ints>("high")
                                  .Attr<int64_t>("groups")
                                  .Attr<int64_t>("threads"));
