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
#include "dcd_step.h"
#include "huge_pages.h"
#include "int8.h"
#include "mixture_conv.h"
#include "mixture_conv.h"

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

using Sizes = std::vector<std::int64_t>;

float* data_of(Tensor& t) { return t.numel() ? static_cast<float*>(t.mutable_data_ptr()) : nullptr; }

dynaconv::Map map_of(const Tensor& t) {
  require(is_float(t) && t.dim() == 4, "the feature maps of a convolution are float32, (B, C, H, W), on the CPU.");
  return {t.size(1), t.size(2), t.size(3), t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

// The floats of a contiguous tensor of `size` numbers; null for an empty one, which stands for none.
const float* floats_of(const Tensor& t, dynaconv::Index size) {
  if (!t.numel()) return nullptr;
  require(is_float(t) && t.is_contiguous() && t.numel() == size,
          "the kernels and coefficients of a mixture are contiguous float32 tensors of matching sizes on the CPU.");
  return static_cast<const float*>(t.const_data_ptr());
}

// `coefficients`: attention, channel, spatial and filter. `sizes`: kernel size, stride, padding and dilation, height
// before width.
dynaconv::MixtureConv mixture_of(const Tensor& x, const Tensor& y, const Tensor& kernels, const Tensor& transposed,
                                 const std::vector<Tensor>& coefficients, const Sizes& sizes) {
  require(sizes.size() == 8 && coefficients.size() == 4 && x.size(0) == y.size(0) && coefficients[0].dim() == 2,
          "the arguments of a convolution with mixed kernels do not match.");
  dynaconv::MixtureConv c{};
  c.batch = x.size(0);
  c.kernels = coefficients[0].size(1);
  c.x = map_of(x);
  c.y = map_of(y);
  c.kernel_h = sizes[0], c.kernel_w = sizes[1];
  c.stride_h = sizes[2], c.stride_w = sizes[3];
  c.pad_h = sizes[4], c.pad_w = sizes[5];
  c.dilation_h = sizes[6], c.dilation_w = sizes[7];
  c.input = static_cast<const float*>(x.const_data_ptr());
  for (const dynaconv::Index size : {sizes[0], sizes[1], sizes[2], sizes[3], sizes[6], sizes[7]})
    require(size > 0 && size < 1 << 16, "the sizes of a convolution are positive.");
  const auto outputs = [](auto size, auto kernel, auto stride, auto pad, auto dilation) {
    return (size + 2 * pad - dilation * (kernel - 1) - 1) / stride + 1;
  };
  require(c.pad_h >= 0 && c.pad_w >= 0 &&
              c.y.height == outputs(c.x.height, c.kernel_h, c.stride_h, c.pad_h, c.dilation_h) &&
              c.y.width == outputs(c.x.width, c.kernel_w, c.stride_w, c.pad_w, c.dilation_w),
          "the feature maps of a convolution with mixed kernels do not match its sizes.");
  c.weights = floats_of(kernels, c.weights_size());
  c.transposed = floats_of(transposed, c.transposed_size());
  c.attention = floats_of(coefficients[0], c.batch * c.kernels);
  c.channel = floats_of(coefficients[1], c.batch * c.input_lanes());
  c.spatial = floats_of(coefficients[2], c.batch * c.taps());
  c.filter = floats_of(coefficients[3], c.batch * c.output_lanes());
  require(c.weights && c.attention, "a mixture needs kernels and their weights.");
  return c;
}

Tensor mixture_conv(const Tensor& x, const Tensor& kernels, std::vector<Tensor> coefficients, Tensor out, Sizes sizes) {
  const Tensor none = torch::stable::empty({0}, torch::headeronly::ScalarType::Float);
  const dynaconv::MixtureConv c = mixture_of(x, out, kernels, none, coefficients, sizes);
  dynaconv::mixture_conv(c, static_cast<float*>(out.mutable_data_ptr()));
  return out;
}

// Writes gradients; that of x is left out if `to_x` is empty.
void mixture_conv_gradients(const Tensor& x, const Tensor& kernels, const Tensor& transposed,
                            std::vector<Tensor> coefficients, const Tensor& gradient, Tensor to_x, Tensor to_kernels,
                            std::vector<Tensor> to_coefficients, Sizes sizes) {
  const dynaconv::MixtureConv c = mixture_of(x, gradient, kernels, transposed, coefficients, sizes);
  require(to_kernels.numel() == kernels.numel() && to_kernels.is_contiguous() && to_coefficients.size() == 4 &&
              (!to_x.numel() || (to_x.numel() == x.numel() && c.transposed)),
          "the gradients of a mixture do not match its arguments.");
  for (std::size_t i = 0; i < 4; ++i)
    require(to_coefficients[i].numel() == coefficients[i].numel() && to_coefficients[i].is_contiguous(),
            "the gradients of a mixture do not match its coefficients.");
  auto& to = to_coefficients;
  dynaconv::mixture_conv_gradients(
      c, static_cast<const float*>(gradient.const_data_ptr()),
      {data_of(to_x), data_of(to_kernels), data_of(to[0]), data_of(to[1]), data_of(to[2]), data_of(to[3])});
}

using Tensors = std::vector<Tensor>;

const float* checked(const Tensor& t, dynaconv::Index size) {
  require(is_float(t) && t.is_contiguous() && t.numel() == size,
          "the arguments of a DCD layer are contiguous float32 tensors of matching sizes on the CPU.");
  return static_cast<const float*>(t.const_data_ptr());
}

// `inputs`: context, squeeze, scale head, fusion head, P and Q. `settings`: gain, and the bounds of the two heads.
dynaconv::DCDBranch branch_of(const Tensors& inputs, const std::vector<double>& settings) {
  require(inputs.size() == 6 && settings.size() == 3, "the branch of a DCD layer has six tensors and three settings.");
  for (const Tensor& t : inputs) require(t.dim() == 2, "the tensors of a DCD layer's branch are matrices.");
  dynaconv::DCDBranch b{};
  b.batch = inputs[0].size(0), b.features = inputs[0].size(1), b.hidden = inputs[1].size(0);
  b.outputs = inputs[4].size(0), b.latent = inputs[4].size(1), b.inputs = inputs[5].size(0);
  b.context = checked(inputs[0], b.batch * b.features);
  b.squeeze = checked(inputs[1], b.hidden * b.features);
  b.scale_head = checked(inputs[2], b.outputs * b.hidden);
  b.fusion_head = checked(inputs[3], b.latent * b.latent * b.hidden);
  b.p = checked(inputs[4], b.outputs * b.latent);
  b.q = checked(inputs[5], b.inputs * b.latent);
  b.gain = float(settings[0]), b.scale_bound = float(settings[1]), b.fusion_bound = float(settings[2]);
  return b;
}

// Writes scale, mix and what the gradients need to `out`.
void dcd_branch(Tensors inputs, std::vector<double> settings, Tensors out) {
  const dynaconv::DCDBranch b = branch_of(inputs, settings);
  require(out.size() == 3, "the branch of a DCD layer has three results.");
  checked(out[0], b.batch * b.lanes());
  checked(out[1], b.batch * b.lanes() * b.latent);
  checked(out[2], b.saved_size());
  dynaconv::dcd_branch(b, data_of(out[0]), data_of(out[1]), data_of(out[2]));
}

// Writes the gradients of `inputs`.
void dcd_branch_gradients(Tensors inputs, std::vector<double> settings, const Tensor& saved, const Tensor& to_scale,
                          const Tensor& to_mix, Tensors out) {
  const dynaconv::DCDBranch b = branch_of(inputs, settings);
  require(out.size() == inputs.size(), "the branch of a DCD layer has six gradients.");
  for (std::size_t i = 0; i < out.size(); ++i) checked(out[i], inputs[i].numel());
  dynaconv::dcd_branch_gradients(
      b, checked(saved, b.saved_size()), checked(to_scale, b.batch * b.lanes()),
      checked(to_mix, b.batch * b.lanes() * b.latent),
      {data_of(out[0]), data_of(out[1]), data_of(out[2]), data_of(out[3]), data_of(out[4]), data_of(out[5])});
}

// The distance from pixel to pixel of adjacent channels_last images, which may be some channels of wider ones.
// The stride of an axis of length one has no meaning.
dynaconv::Index pixel_of(const Tensor& t) {
  require(is_float(t) && t.dim() == 4, "the feature maps of a DCD layer are float32, (B, C, H, W), on the CPU.");
  const dynaconv::Index batch = t.size(0), channels = t.size(1), height = t.size(2), width = t.size(3);
  const dynaconv::Index pixel =
      width > 1 ? t.stride(3) : height > 1 ? t.stride(2) : batch > 1 ? t.stride(0) : channels;
  require((channels == 1 || t.stride(1) == 1) && (height == 1 || t.stride(2) == width * pixel) &&
              (batch == 1 || t.stride(0) == height * width * pixel) && pixel >= channels,
          "the feature maps of a DCD layer are in channels_last format.");
  return pixel;
}

dynaconv::DCDSum sum_of(const Tensor& fixed, const Tensor& z, const Tensor& scale, const Tensor& mix) {
  dynaconv::DCDSum s{};
  s.batch = fixed.size(0), s.pixels = fixed.size(2) * fixed.size(3), s.outputs = fixed.size(1), s.latent = z.size(1);
  require(s.outputs % dynaconv::kHalf == 0 && z.size(0) == s.batch && z.size(2) * z.size(3) == s.pixels,
          "the feature maps of a DCD layer do not match.");
  s.fixed_pixel = pixel_of(fixed), s.z_pixel = pixel_of(z);
  s.fixed = static_cast<const float*>(fixed.const_data_ptr());
  s.z = static_cast<const float*>(z.const_data_ptr());
  s.scale = checked(scale, s.batch * s.outputs);
  s.mix = checked(mix, s.batch * s.outputs * s.latent);
  return s;
}

Tensor dcd_sum(const Tensor& fixed, const Tensor& z, const Tensor& scale, const Tensor& mix, Tensor out) {
  const dynaconv::DCDSum s = sum_of(fixed, z, scale, mix);
  require(pixel_of(out) == s.outputs && out.numel() == fixed.numel(), "the result of a DCD layer has another size.");
  dynaconv::dcd_sum(s, data_of(out));
  return out;
}

// Writes the gradients of the four arguments.
void dcd_sum_gradients(const Tensor& fixed, const Tensor& z, const Tensor& scale, const Tensor& mix,
                       const Tensor& gradient, Tensors out) {
  const dynaconv::DCDSum s = sum_of(fixed, z, scale, mix);
  require(out.size() == 4 && pixel_of(gradient) == s.outputs && gradient.numel() == fixed.numel() &&
              out[0].numel() == fixed.numel() && out[1].numel() == z.numel(),
          "the gradients of a DCD layer do not match its arguments.");
  checked(out[2], scale.numel());
  checked(out[3], mix.numel());
  dynaconv::dcd_sum_gradients(s, static_cast<const float*>(gradient.const_data_ptr()),
                              {data_of(out[0]), data_of(out[1]), pixel_of(out[0]), pixel_of(out[1]), data_of(out[2]),
                               data_of(out[3])});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynaconv, CPU, m) {
  m.impl("native_program", TORCH_BOX(&native_program));
  m.impl("mixture_conv", TORCH_BOX(&mixture_conv));
  m.impl("mixture_conv_gradients", TORCH_BOX(&mixture_conv_gradients));
  m.impl("dcd_branch", TORCH_BOX(&dcd_branch));
  m.impl("dcd_branch_gradients", TORCH_BOX(&dcd_branch_gradients));
  m.impl("dcd_sum", TORCH_BOX(&dcd_sum));
  m.impl("dcd_sum_gradients", TORCH_BOX(&dcd_sum_gradients));
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
