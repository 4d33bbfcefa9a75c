// The binding of the operator to torch. The only file that includes torch headers, those of its stable ABI (torch 2.10
// and later).
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "call.h"
#include "huge_pages.h"
#include "int8.h"

namespace {

using torch::stable::Tensor;

void parallel_for(dynaconv::Index n, void (*fn)(dynaconv::Index, dynaconv::Index, void*), void* context) {
  // Torch's C interface loses the exception itself and reports only that one was thrown.
  std::exception_ptr exception;
  std::atomic_flag caught;
  torch::stable::parallel_for(0, n, 1, [&](std::int64_t begin, std::int64_t end) {
    try {
      fn(begin, end, context);
    } catch (...) {
      if (!caught.test_and_set()) exception = std::current_exception();
    }
  });
  if (exception) std::rethrow_exception(exception);
}

int count() { return int(torch::stable::get_num_threads()); }

void require(bool holds, const char* message) {
  if (!holds) throw std::runtime_error(message);
}

bool is_float(const Tensor& t) { return t.is_cpu() && t.scalar_type() == torch::headeronly::ScalarType::Float; }

Tensor native_program(const Tensor& x, const Tensor& constants, const Tensor& steps, std::int64_t out_channels,
                      std::vector<std::int64_t> /* sizes; used only for the shape of fake tensors */) {
  require(is_float(x) && x.dim() == 4, "the native program takes float32 images (B, C, H, W) on the CPU.");
  require(is_float(constants) && constants.dim() == 1 && constants.is_contiguous(),
          "the constants of a native program are one contiguous float32 vector on the CPU.");
  require(steps.is_cpu() && steps.scalar_type() == torch::headeronly::ScalarType::Long && steps.is_contiguous() &&
              steps.numel() % dynaconv::kFields == 0,
          "the steps of a native program are one contiguous int64 tensor on the CPU whose length is a multiple of the "
          "number of fields; build it again with deploy(model, backend='native').");
  const dynaconv::Program program{static_cast<const dynaconv::Step*>(steps.const_data_ptr()),
                                  int(steps.numel() / dynaconv::kFields),
                                  static_cast<const float*>(constants.const_data_ptr()), constants.numel()};
  const dynaconv::Input input{static_cast<const float*>(x.const_data_ptr()),
                              x.size(0), x.size(1), x.size(2), x.size(3),
                              x.stride(0), x.stride(1), x.stride(2), x.stride(3)};
  const dynaconv::Call call(program, input, out_channels);
  const std::vector<std::int64_t> shape{input.batch, out_channels, call.size().height, call.size().width};
  Tensor out = torch::stable::empty(shape, torch::headeronly::ScalarType::Float, std::nullopt, std::nullopt,
                                    std::nullopt, torch::headeronly::MemoryFormat::ChannelsLast);
  call.run(static_cast<float*>(out.mutable_data_ptr()));
  return out;
}

}  // namespace

#include "binding_training.h"
#include "binding_dcd.h"

STABLE_TORCH_LIBRARY_IMPL(dynaconv, CPU, m) {
  m.impl("native_program", TORCH_BOX(&native_program));
  m.impl("mixture_conv", TORCH_BOX(&mixture_conv));
  m.impl("mixture_conv_gradients", TORCH_BOX(&mixture_conv_gradients));
  m.impl("mixture_patches", TORCH_BOX(&mixture_patches));
  m.impl("mixture_patches_gradients", TORCH_BOX(&mixture_patches_gradients));
  m.impl("average", TORCH_BOX(&average));
  m.impl("average_gradient", TORCH_BOX(&average_gradient));
  m.impl("kernel_mix", TORCH_BOX(&kernel_mix));
  m.impl("kernel_mix_gradients", TORCH_BOX(&kernel_mix_gradients));
  m.impl("dcd_layer", TORCH_BOX(&dcd_layer));
  m.impl("dcd_layer_gradients", TORCH_BOX(&dcd_layer_gradients));
}

// Python calls this when it loads the library: returns the name of the instruction set, or null and a message in
// `error` if DYNACONV_ISA names one that cannot run.
extern "C" __attribute__((visibility("default"))) const char* dynaconv_native_isa(char* error, std::size_t size) {
  try {
    dynaconv::threads = {parallel_for, count};
    return dynaconv::kernels().name;
  } catch (const std::exception& exception) {
    const std::string message = exception.what();
    message.copy(error, size - 1);
    error[std::min(message.size(), size - 1)] = '\0';
    return nullptr;
  }
}

// The instruction set of products in int8; those of `portable` are slower than float32. Call dynaconv_native_isa before.
extern "C" __attribute__((visibility("default"))) const char* dynaconv_native_int8_isa() {
  return dynaconv::int8_kernels().name;
}

// Python calls this for constants that have just been packed or unpickled.
extern "C" __attribute__((visibility("default"))) void dynaconv_native_settle(const void* data, std::size_t bytes) {
  dynaconv::use_huge_pages(data, bytes);
}

extern "C" __attribute__((visibility("default"))) int dynaconv_native_fields() { return dynaconv::kFields; }
