// The operator as ONNX Runtime sees it. The only file that knows ONNX Runtime; with the kernels it makes a library of
// custom operators.
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
#include "pages.h"

namespace dynaconv {
namespace {

const ort::Api* api = nullptr;

// An error that the runtime reported itself.
struct Reported {
  ort::Status* status;
};

void require(ort::Status* status) {
  if (status) throw Reported{status};
}

template <class F>
ort::Status* guarded(const F& body) {
  try {
    body();
  } catch (const Reported& reported) {
    return reported.status;
  } catch (const std::exception& problem) {
    return api->create_status(ort::kFail, problem.what());
  }
  return nullptr;
}

int processors() {
  static const int count = [] {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
  }();
  return count;
}

// How many threads a session gives an operator. It does not say, so those that come to a call are counted. More than
// were expected are believed at once, fewer where it was so for a while. One call in some begins with a place for each
// processor, as the first one does.
class Threadpool {
 public:
  int expected() {
    return calls_.fetch_add(1, std::memory_order_relaxed) % kCalls ? count_.load(std::memory_order_relaxed) : processors();
  }

  void learn(int came) {
    raise(most_, came);
    raise(count_, came);
    if (learned_.fetch_add(1, std::memory_order_relaxed) % kCalls == kCalls - 1)
      count_.store(most_.exchange(1, std::memory_order_relaxed), std::memory_order_relaxed);
  }

 private:
  static void raise(std::atomic<int>& most, int to) {
    int now = most.load(std::memory_order_relaxed);
    while (to > now && !most.compare_exchange_weak(now, to, std::memory_order_relaxed)) {
    }
  }

  static constexpr unsigned kCalls = 32;
  std::atomic<int> count_{processors()}, most_{1};
  std::atomic<unsigned> calls_{0}, learned_{0};
};

// What a thread works for. Set wherever the kernels may ask.
struct Running {
  const ort::KernelContext* context = nullptr;
  Threadpool* pool = nullptr;
  int count = 1;
};
thread_local Running running;

int count() { return running.count; }

void parallel_for(Index n, void (*fn)(Index, Index, void*), void* context) {
  static std::atomic<std::uint64_t> loops{0};
  thread_local std::uint64_t last = 0;
  struct Loop {
    Index n;
    void (*fn)(Index, Index, void*);
    void* context;
    Running caller;
    std::uint64_t number;
    std::atomic<bool> over{false};
    std::atomic<int> came{0};
    std::atomic_flag caught{};
    std::exception_ptr problem{};
  } loop{n, fn, context, running, 1 + loops.fetch_add(1, std::memory_order_relaxed)};
  // Threads take places in any order, but some thread takes the first one. Those behind the n-th are for counting.
  const auto place = [](void* raw, std::size_t index) {
    Loop& l = *static_cast<Loop*>(raw);
    if (last != l.number && !l.over.load(std::memory_order_acquire)) {
      last = l.number;
      l.came.fetch_add(1, std::memory_order_relaxed);
    }
    if (Index(index) >= l.n) return;
    const Running before = running;
    running = l.caller;
    try {
      l.fn(Index(index), Index(index) + 1, l.context);
    } catch (...) {
      if (!l.caught.test_and_set()) l.problem = std::current_exception();
    }
    running = before;
    if (index == 0) l.over.store(true, std::memory_order_release);
  };
  const Index places = std::max<Index>(n, processors());
  require(api->parallel_for(running.context, place, std::size_t(places), 0, &loop));
  if (loop.problem) std::rethrow_exception(loop.problem);
  running.pool->learn(loop.came.load(std::memory_order_relaxed));
}

std::vector<Index> shape_of(const ort::Value* value) {
  ort::TensorInfo* info;
  require(api->tensor_info(value, &info));
  const std::unique_ptr<ort::TensorInfo, void (*)(ort::TensorInfo*)> owner(info, [](auto* each) { api->release(each); });
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

// `dynaconv.NativeProgram`: images (B, C, H, W) and the constants, both float32, to images (B, H', W', C').
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
    // Without a place for them it says how many there are.
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
    if (settled_.exchange(values, std::memory_order_relaxed) != values)
      use_large_pages(values, std::size_t(numbers[0]) * sizeof(float));
    const Program program{reinterpret_cast<const Step*>(steps_.data()), int(steps_.size() / kFields), values, numbers[0]};
    const Call call(program, contiguous(data_of(images), shape[0], shape[1], shape[2], shape[3]), out_channels_);
    const std::int64_t dims[] = {shape[0], call.size().height, call.size().width, out_channels_};
    ort::Value* out;
    require(api->output(context, 0, dims, 4, &out));
    struct Restore {
      Running before;
      ~Restore() { running = before; }
    } restore{running};
    running = {context, &pool_, pool_.expected()};
    call.run(const_cast<float*>(data_of(out)));
  }

 private:
  std::int64_t out_channels_;
  std::vector<std::int64_t> steps_;
  Threadpool pool_;
  std::atomic<const float*> settled_{nullptr};
};

constexpr ort::CustomOp op{
    .version = ort::kVersion,
    .create_v1 = nullptr,
    .name = [](auto*) { return "NativeProgram"; },
    .provider = [](auto*) { return "CPUExecutionProvider"; },
    .input_type = [](auto*, std::size_t) { return ort::kFloat; },
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
                 void** out) { return guarded([&] { *out = new NativeProgram(info); }); },
    .compute = [](void* kernel, ort::KernelContext* context) {
      return guarded([&] { static_cast<NativeProgram*>(kernel)->compute(context); });
    },
    .infer_shape = nullptr,
    .first_version = [](auto*) { return 1; },
    .last_version = [](auto*) { return INT32_MAX; },
};

}  // namespace
}  // namespace dynaconv

// What the runtime calls when it is given the library.
extern "C" __attribute__((visibility("default"))) dynaconv::ort::Status* RegisterCustomOps(
    dynaconv::ort::SessionOptions* options, const dynaconv::ort::ApiBase* base) {
  using namespace dynaconv;
  const ort::Api* found = base->get(ort::kVersion);
  if (!found) {
    const std::string version = base->version();
    return base->get(1)->create_status(
        ort::kFail, ("dynaconv's operators need ONNX Runtime 1.17 or newer; this is " + version + ".").c_str());
  }
  // Sessions may be made by several threads at once, while others run.
  static std::mutex registering;
  const std::lock_guard lock(registering);
  if (!api) {
    api = found;
    threads = {parallel_for, count};
  }
  // The runtime keeps pointing to it.
  static ort::Domain* domain = nullptr;
  return guarded([&] {
    kernels();
    if (!domain) {
      ort::Domain* made;
      require(api->create_domain("dynaconv", &made));
      std::unique_ptr<ort::Domain, void (*)(ort::Domain*)> owner(made, [](auto* each) { api->release(each); });
      require(api->add_operator(made, &op));
      domain = owner.release();
    }
    require(api->add_domain(options, domain));
  });
}
