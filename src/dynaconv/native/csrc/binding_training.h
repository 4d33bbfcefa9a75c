// The training operators; part of binding_torch.cpp.
#include <utility>

#include "average.h"
#include "dcd_step.h"
#include "kernel_mix.h"
#include "mixture_conv.h"
#include "mixture_patches.h"
#include "workspace.h"

namespace {

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

// A convolution without its kernels and its output's distances. `coefficients`: attention, channel, spatial and filter.
// `sizes`: kernel size, stride, padding and dilation, height before width.
dynaconv::MixtureConv mixture_of(const Tensor& x, dynaconv::Index outputs, const std::vector<Tensor>& coefficients,
                                 const Sizes& sizes) {
  require(sizes.size() == 8 && coefficients.size() == 4 && coefficients[0].dim() == 2 &&
              coefficients[0].size(0) == x.size(0),
          "the arguments of a convolution with mixed kernels do not match.");
  dynaconv::MixtureConv c{};
  c.batch = x.size(0);
  c.kernels = coefficients[0].size(1);
  c.x = map_of(x);
  c.kernel_h = sizes[0], c.kernel_w = sizes[1];
  c.stride_h = sizes[2], c.stride_w = sizes[3];
  c.pad_h = sizes[4], c.pad_w = sizes[5];
  c.dilation_h = sizes[6], c.dilation_w = sizes[7];
  c.input = static_cast<const float*>(x.const_data_ptr());
  for (const dynaconv::Index size : {sizes[0], sizes[1], sizes[2], sizes[3], sizes[6], sizes[7]})
    require(size > 0 && size < 1 << 16, "the sizes of a convolution are positive.");
  const auto sizes_of_output = [](auto size, auto kernel, auto stride, auto pad, auto dilation) {
    const auto rest = size + 2 * pad - dilation * (kernel - 1) - 1;
    require(pad >= 0 && rest >= 0, "the kernel of a convolution is larger than its input.");
    return rest / stride + 1;
  };
  c.y.channels = outputs;
  c.y.height = sizes_of_output(c.x.height, c.kernel_h, c.stride_h, c.pad_h, c.dilation_h);
  c.y.width = sizes_of_output(c.x.width, c.kernel_w, c.stride_w, c.pad_w, c.dilation_w);
  c.attention = floats_of(coefficients[0], c.batch * c.kernels);
  c.channel = floats_of(coefficients[1], c.batch * c.input_lanes());
  c.spatial = floats_of(coefficients[2], c.batch * c.taps());
  c.filter = floats_of(coefficients[3], c.batch * c.output_lanes());
  require(c.attention, "a mixture needs the weights of its kernels.");
  return c;
}

dynaconv::MixtureConv mixture_of(const Tensor& x, const Tensor& y, const Tensor& kernels, const Tensor& transposed,
                                 const std::vector<Tensor>& coefficients, const Sizes& sizes) {
  dynaconv::MixtureConv c = mixture_of(x, y.size(1), coefficients, sizes);
  const dynaconv::Map map = map_of(y);
  require(y.size(0) == c.batch && map.height == c.y.height && map.width == c.y.width,
          "the feature maps of a convolution with mixed kernels do not match its sizes.");
  c.y = map;
  c.weights = floats_of(kernels, c.weights_size());
  c.transposed = floats_of(transposed, c.transposed_size());
  require(c.weights, "a mixture needs kernels.");
  return c;
}

Tensor mixture_conv(const Tensor& x, const Tensor& kernels, std::vector<Tensor> coefficients, Tensor out, Sizes sizes) {
  const Tensor none = torch::stable::empty({0}, torch::headeronly::ScalarType::Float);
  const dynaconv::MixtureConv c = mixture_of(x, out, kernels, none, coefficients, sizes);
  dynaconv::mixture_conv(c, static_cast<float*>(out.mutable_data_ptr()));
  return out;
}

void require_matching(const std::vector<Tensor>& gradients, const std::vector<Tensor>& coefficients) {
  require(gradients.size() == coefficients.size(), "the gradients of a mixture do not match its coefficients.");
  for (std::size_t i = 0; i < gradients.size(); ++i)
    require(gradients[i].numel() == coefficients[i].numel() && gradients[i].is_contiguous(),
            "the gradients of a mixture do not match its coefficients.");
}

// Writes gradients; that of x is left out if `to_x` is empty.
void mixture_conv_gradients(const Tensor& x, const Tensor& kernels, const Tensor& transposed,
                            std::vector<Tensor> coefficients, const Tensor& gradient, Tensor to_x, Tensor to_kernels,
                            std::vector<Tensor> to_coefficients, Sizes sizes) {
  const dynaconv::MixtureConv c = mixture_of(x, gradient, kernels, transposed, coefficients, sizes);
  require(to_kernels.numel() == kernels.numel() && to_kernels.is_contiguous() &&
              (!to_x.numel() || (to_x.numel() == x.numel() && c.transposed)),
          "the gradients of a mixture do not match its arguments.");
  require_matching(to_coefficients, coefficients);
  auto& to = to_coefficients;
  dynaconv::mixture_conv_gradients(
      c, static_cast<const float*>(gradient.const_data_ptr()),
      {data_of(to_x), data_of(to_kernels), data_of(to[0]), data_of(to[1]), data_of(to[2]), data_of(to[3])});
}

// Returns patches, (sample and output pixel, kernel, tap and channel).
Tensor mixture_patches(const Tensor& x, std::vector<Tensor> coefficients, Sizes sizes) {
  const dynaconv::MixtureConv c = mixture_of(x, 0, coefficients, sizes);
  require(c.x.channels == 1 || c.x.stride_c == 1, "the channels of images of which patches are taken are adjacent.");
  Tensor out = torch::stable::empty({c.batch * c.y.pixels(), c.kernels * c.rows()}, torch::headeronly::ScalarType::Float);
  dynaconv::mixture_patches(c, data_of(out));
  return out;
}

// Writes gradients; that of x is left out if `to_x` is empty.
void mixture_patches_gradients(const Tensor& x, std::vector<Tensor> coefficients, const Tensor& gradient, Tensor to_x,
                               std::vector<Tensor> to_coefficients, Sizes sizes) {
  const dynaconv::MixtureConv c = mixture_of(x, 0, coefficients, sizes);
  const auto has_strides_of_x = [&] {
    for (int axis = 0; axis < 4; ++axis)
      if (to_x.size(axis) != x.size(axis) || (to_x.size(axis) > 1 && to_x.stride(axis) != x.stride(axis))) return false;
    return is_float(to_x);
  };
  require(c.x.channels == 1 || c.x.stride_c == 1, "the channels of images of which patches are taken are adjacent.");
  require(is_float(gradient) && gradient.is_contiguous() &&
              gradient.numel() == c.batch * c.y.pixels() * c.kernels * c.rows() && (!to_x.numel() || has_strides_of_x()),
          "the gradients of a mixture do not match its arguments.");
  require_matching(to_coefficients, coefficients);
  auto& to = to_coefficients;
  dynaconv::mixture_patches_gradients(c, static_cast<const float*>(gradient.const_data_ptr()),
                                      {data_of(to_x), nullptr, data_of(to[0]), data_of(to[1]), data_of(to[2]), nullptr});
}

using Tensors = std::vector<Tensor>;

// `coefficients`: attention, and those of input and output channels, which are both empty if there are none.
dynaconv::KernelMix mix_of(const Tensor& kernels, const Tensors& coefficients) {
  require(kernels.dim() == 3 && coefficients.size() == 3 && coefficients[0].dim() == 2,
          "the kernels of a mixture are (K, C_out, C_in), with three coefficients.");
  dynaconv::KernelMix m{};
  m.batch = coefficients[0].size(0);
  m.kernels = kernels.size(0), m.outputs = kernels.size(1), m.inputs = kernels.size(2);
  m.weights = floats_of(kernels, m.kernels * m.size());
  m.attention = floats_of(coefficients[0], m.batch * m.kernels);
  m.channel = floats_of(coefficients[1], m.batch * m.inputs);
  m.filter = floats_of(coefficients[2], m.batch * m.outputs);
  require(m.weights && m.attention && !m.channel == !m.filter, "a mixture needs kernels and their weights.");
  return m;
}

Tensor kernel_mix(const Tensor& kernels, Tensors coefficients, Tensor out) {
  const dynaconv::KernelMix m = mix_of(kernels, coefficients);
  require(out.numel() == m.batch * m.size() && out.is_contiguous(), "the result of a mixture has another size.");
  dynaconv::kernel_mix(m, data_of(out));
  return out;
}

// Writes the gradients of kernels and coefficients.
void kernel_mix_gradients(const Tensor& kernels, Tensors coefficients, const Tensor& gradient, Tensors out) {
  const dynaconv::KernelMix m = mix_of(kernels, coefficients);
  require(out.size() == 4 && gradient.numel() == m.batch * m.size(),
          "the gradients of a mixture do not match its arguments.");
  for (std::size_t i = 0; i < 4; ++i)
    require(out[i].numel() == (i ? coefficients[i - 1] : kernels).numel() && out[i].is_contiguous(),
            "the gradients of a mixture do not match its arguments.");
  dynaconv::kernel_mix_gradients(m, floats_of(gradient, m.batch * m.size()),
                                 {data_of(out[0]), data_of(out[1]), data_of(out[2]), data_of(out[3])});
}

const float* checked(const Tensor& t, dynaconv::Index size) {
  require(is_float(t) && t.is_contiguous() && t.numel() == size,
          "the arguments of a layer are contiguous float32 tensors of matching sizes on the CPU.");
  return static_cast<const float*>(t.const_data_ptr());
}

// The data of dense channels_last images of a multiple of `step` channels. The stride of an axis of length one has no
// meaning.
const float* image_of(const Tensor& t, int step = dynaconv::kHalf) {
  require(is_float(t) && t.dim() == 4, "feature maps are float32, (B, C, H, W), on the CPU.");
  const dynaconv::Index batch = t.size(0), channels = t.size(1), height = t.size(2), width = t.size(3);
  const auto has = [&](int axis, dynaconv::Index stride) { return t.size(axis) <= 1 || t.stride(axis) == stride; };
  require(channels % step == 0 && has(1, 1) && has(3, channels) && has(2, width * channels) &&
              (batch <= 1 || t.stride(0) == height * width * channels),
          "feature maps are in channels_last format, with a multiple of 8 channels.");
  return static_cast<const float*>(t.const_data_ptr());
}

float* image_of(Tensor& t, int step = dynaconv::kHalf) {
  return const_cast<float*>(image_of(std::as_const(t), step));
}

Tensor average(const Tensor& x, Tensor out) {
  checked(out, x.size(0) * x.size(1));
  dynaconv::average(image_of(x), x.size(0), x.size(2) * x.size(3), x.size(1), data_of(out));
  return out;
}

// Adds to the gradient of x.
void average_gradient(const Tensor& to_average, Tensor to_x) {
  float* out = image_of(to_x);
  dynaconv::average_gradient(checked(to_average, to_x.size(0) * to_x.size(1)), to_x.size(0),
                             to_x.size(2) * to_x.size(3), to_x.size(1), out);
}

}  // namespace
