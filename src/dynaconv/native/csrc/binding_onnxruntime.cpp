// The binding of the operator to ONNX Runtime, a custom operator library. The only file that knows ONNX Runtime.
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "call.h"
#include "onnxruntime_abi.h"
#include "huge_pages.h"

namespace dynaconv {
namespace {

const ort::Api* api = nullptr;

// An error that the runtime returned.
struct StatusError {
  ort::Status* status;
};

void require(ort::Status* status) {
  if (status) throw StatusError{status};
}

template <class F>
ort::Status* catch_errors(const F& body) {
  try {
    body();
  } catch (const StatusError& error) {
    return error.status;
  } catch (const std::exception& error) {
    return api->create_status(ort::kFail, error.what());
  }
  return nullptr;
}

int num_processors() {
  static const int count = [] {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
  }();
  return count;
}

// Estimates the session's intra-op thread count, which ONNX Runtime's C API does not expose, by counting the threads
// that take part in a parallel loop. The estimate rises at once and falls only after kCalls loops. The first call and
// then every kCalls-th one use all processors. Benchmark of kCalls: benchmarks/export_latency.py --runtimes ort.
class ThreadCountEstimate {
 public:
  int next_call() {
    const bool uses_all = calls_.fetch_add(1, std::memory_order_relaxed) % kCalls == 0;
    return uses_all ? num_processors() : count_.load(std::memory_order_relaxed);
  }

  void update(int num_threads) {
    raise(max_, num_threads);
    raise(count_, num_threads);
    if (updates_.fetch_add(1, std::memory_order_relaxed) % kCalls == kCalls - 1)
      count_.store(max_.exchange(1, std::memory_order_relaxed), std::memory_order_relaxed);
  }

 private:
  // value = max(value, to)
  static void raise(std::atomic<int>& value, int to) {
    int now = value.load(std::memory_order_relaxed);
    while (to > now && !value.compare_exchange_weak(now, to, std::memory_order_relaxed)) {
    }
  }

  static constexpr unsigned kCalls = 32;
  std::atomic<int> count_{num_processors()}, max_{1};
  std::atomic<unsigned> calls_{0}, updates_{0};
};

// The call that a thread works for; set whenever the kernels may use `threads`.
struct CallContext {
  const ort::KernelContext* kernel = nullptr;
  ThreadCountEstimate* estimate = nullptr;
  int num_threads = 1;
};
thread_local CallContext current;

int count() { return current.num_threads; }

void parallel_for(Index n, void (*fn)(Index, Index, void*), void* context) {
  static std::atomic<std::uint64_t> num_loops{0};
  thread_local std::uint64_t last_counted = 0;
  struct Loop {
    Index n;
    void (*fn)(Index, Index, void*);
    void* context;
    CallContext caller;
    std::uint64_t number;
    std::atomic<bool> finished{false};
    std::atomic<int> num_threads{0};
    std::atomic_flag caught{};
    std::exception_ptr exception{};
  } loop{n, fn, context, current, 1 + num_loops.fetch_add(1, std::memory_order_relaxed)};
  // Threads take indices in any order, but some thread takes index 0. Indices from n on only serve to count threads.
  const auto body = [](void* raw, std::size_t index) {
    Loop& l = *static_cast<Loop*>(raw);
    if (last_counted != l.number && !l.finished.load(std::memory_order_acquire)) {
      last_counted = l.number;
      l.num_threads.fetch_add(1, std::memory_order_relaxed);
    }
    if (Index(index) >= l.n) return;
    const CallContext before = current;
    current = l.caller;
    try {
      l.fn(Index(index), Index(index) + 1, l.context);
    } catch (...) {
      if (!l.caught.test_and_set()) l.exception = std::current_exception();
    }
    current = before;
    if (index == 0) l.finished.store(true, std::memory_order_release);
  };
  const Index total = std::max<Index>(n, num_processors());
  require(api->parallel_for(current.kernel, body, std::size_t(total), 0, &loop));
  if (loop.exception) std::rethrow_exception(loop.exception);
  current.estimate->update(loop.num_threads.load(std::memory_order_relaxed));
}

std::vector<Index> shape_of(const ort::Value* value) {
  ort::TensorInfo* info;
  require(api->tensor_info(value, &info));
  const std::unique_ptr<ort::TensorInfo, void (*)(ort::TensorInfo*)> owner(info, [](auto* i) { api->release(i); });
  std::size_t count;
  require(api->num_dims(info, &count));
  std::vector<std::int64_t> dims(count);
  require(api->dims(info, dims.data(), count));
  return {dims.begin(), dims.end()};
}

const float* data_of(const ort::Value* value) {
  void* data;
  require(api->data(const_cast<ort::Value*>(value), &data));
  return static_cast<const float*>(data);
}

// `dynaconv.NativeProgram`: maps float32 images (B, C, H, W) and the constants, words of 32 bits, to images
// (B, H', W', C').
class NativeProgram {
 public:
  explicit NativeProgram(const ort::KernelInfo* info) {
    std::int64_t format;
    require(api->integer(info, "format", &format));
    if (format != kFormat)
      throw std::runtime_error("the file was written for other native kernels (format " + std::to_string(format) +
                               ") than these (format " + std::to_string(kFormat) + "); export the network again.");
    require(api->integer(info, "out_channels", &out_channels_));
    std::size_t size = 0;
    // Without an output array the function returns the number of integers.
    require(api->integers(info, "steps", nullptr, &size));
    steps_.resize(size);
    if (size) require(api->integers(info, "steps", steps_.data(), &size));
    if (size % kFields || !size)
      throw std::runtime_error("the native program is damaged: it is not one of whole steps.");
  }

  void compute(ort::KernelContext* context) {
    const ort::Value *images, *constants;
    require(api->input(context, 0, &images));
    require(api->input(context, 1, &constants));
    const std::vector<Index> shape = shape_of(images), numbers = shape_of(constants);
    if (shape.size() != 4 || numbers.size() != 1)
      throw std::runtime_error("the native program takes images (B, C, H, W) and one vector of constants.");
    const float* values = data_of(constants);
    if (on_huge_pages_.exchange(values, std::memory_order_relaxed) != values)
      use_huge_pages(values, std::size_t(numbers[0]) * sizeof(float));
    const auto* steps = reinterpret_cast<const Step*>(steps_.data());
    const Program program{steps, int(steps_.size() / kFields), values, numbers[0]};
    const Call call(program, contiguous(data_of(images), shape[0], shape[1], shape[2], shape[3]), out_channels_);
    const std::int64_t dims[] = {shape[0], call.size().height, call.size().width, out_channels_};
    ort::Value* out;
    require(api->output(context, 0, dims, 4, &out));
    struct Restore {
      CallContext before;
      ~Restore() { current = before; }
    } restore{current};
    current = {context, &estimate_, estimate_.next_call()};
    call.run(const_cast<float*>(data_of(out)));
  }

 private:
  std::int64_t out_channels_;
  std::vector<std::int64_t> steps_;
  ThreadCountEstimate estimate_;
  std::atomic<const float*> on_huge_pages_{nullptr};   // the last constants that `use_huge_pages` got
};

constexpr ort::CustomOp op{
    .version = ort::kVersion,
    .create_v1 = nullptr,
    .name = [](auto*) { return "NativeProgram"; },
    .provider = [](auto*) { return "CPUExecutionProvider"; },
    .input_type = [](auto*, std::size_t index) { return index ? ort::kInt32 : ort::kFloat; },
    .num_inputs = [](auto*) { return std::size_t(2); },
    .output_type = [](auto*, std::size_t) { return ort::kFloat; },
    .num_outputs = [](auto*) { return std::size_t(1); },
    .compute_v1 = nullptr,
    .destroy = [](void* kernel) { delete static_cast<NativeProgram*>(kernel); },
    .input_presence = [](auto*, std::size_t) { return 0; },
    .output_presence = [](auto*, std::size_t) { return 0; },
    .input_memory = [](auto*, std::size_t) { return 0; },
    .variadic_inputs = nullptr,
    .homogeneous_inputs = nullptr,
    .variadic_outputs = nullptr,
    .homogeneous_outputs = nullptr,
    .create = [](auto*, const ort::Api*, const ort::KernelInfo* info,
                 void** out) { return catch_errors([&] { *out = new NativeProgram(info); }); },
    .compute = [](void* kernel, ort::KernelContext* context) {
      return catch_errors([&] { static_cast<NativeProgram*>(kernel)->compute(context); });
    },
    .infer_shape = nullptr,
    .first_version = [](auto*) { return 1; },
    .last_version = [](auto*) { return INT32_MAX; },
};

}  // namespace
}  // namespace dynaconv

// ONNX Runtime calls this function when it registers the library.
extern "C" __attribute__((visibility("default"))) dynaconv::ort::Status* RegisterCustomOps(
    dynaconv::ort::SessionOptions* options, const dynaconv::ort::ApiBase* base) {
  using namespace dynaconv;
  const ort::Api* supported = base->get(ort::kVersion);
  if (!supported) {
    const std::string version = base->version();
    return base->get(1)->create_status(
        ort::kFail, ("dynaconv's operators need ONNX Runtime 1.17 or newer; this is version " + version + ".").c_str());
  }
  // Several threads may create sessions at once, while other sessions run.
  static std::mutex registering;
  const std::lock_guard lock(registering);
  if (!api) {
    api = supported;
    threads = {parallel_for, count};
  }
  // The runtime keeps a pointer to the domain.
  static ort::Domain* domain = nullptr;
  return catch_errors([&] {
    kernels();
    if (!domain) {
      ort::Domain* created;
      require(api->create_domain("dynaconv", &created));
      std::unique_ptr<ort::Domain, void (*)(ort::Domain*)> owner(created, [](auto* d) { api->release(d); });
      require(api->add_operator(created, &op));
      domain = owner.release();
    }
    require(api->add_domain(options, domain));
  });
}
