// The training operators; part of binding_torch.cpp.
#include <utility>

#include "average.h"
#include "dcd_step.h"
#include "kernel_mix.h"
#include "mixture_conv.h"
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

// The data of dense channels_last images of a multiple of 8 channels. The stride of an axis of length one has no meaning.
const float* image_of(const Tensor& t) {
  require(is_float(t) && t.dim() == 4, "feature maps are float32, (B, C, H, W), on the CPU.");
  const dynaconv::Index batch = t.size(0), channels = t.size(1), height = t.size(2), width = t.size(3);
  const auto has = [&](int axis, dynaconv::Index stride) { return t.size(axis) <= 1 || t.stride(axis) == stride; };
  require(channels % dynaconv::kHalf == 0 && has(1, 1) && has(3, channels) && has(2, width * channels) &&
              (batch <= 1 || t.stride(0) == height * width * channels),
          "feature maps are in channels_last format, with a multiple of 8 channels.");
  return static_cast<const float*>(t.const_data_ptr());
}

float* image_of(Tensor& t) { return const_cast<float*>(image_of(std::as_const(t))); }

// A contiguous tensor of `size` numbers; null for an empty one, which stands for none.
float* optional(const Tensor& t, dynaconv::Index size) {
  return t.numel() ? const_cast<float*>(checked(t, size)) : nullptr;
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

// `sizes`: stride, offset and output size, height before width.
dynaconv::DCDInput input_of(const Tensor& x, const Tensor& q, const Sizes& sizes) {
  require(sizes.size() == 6 && q.dim() == 2, "the input of a DCD layer comes with six sizes and Q.");
  dynaconv::DCDInput d{};
  d.x = image_of(x);
  d.batch = x.size(0), d.inputs = x.size(1), d.latent = q.size(1), d.height = x.size(2), d.width = x.size(3);
  d.stride_h = sizes[0], d.stride_w = sizes[1], d.offset_h = sizes[2], d.offset_w = sizes[3];
  d.out_height = sizes[4], d.out_width = sizes[5];
  require(d.stride_h > 0 && d.stride_w > 0 && d.out_height >= 0 && d.out_width >= 0,
          "the sizes of a DCD layer are positive.");
  d.q = checked(q, d.inputs * d.latent);
  return d;
}

// `running`: mean and variance; `norm`: their momentum, and epsilon. Writes context, inverse and z, where an empty tensor
// stands for none.
void dcd_input(const Tensor& x, const Tensor& q, Tensors running, std::vector<double> norm, Sizes sizes, Tensors out) {
  const dynaconv::DCDInput d = input_of(x, q, sizes);
  require(running.size() == 2 && norm.size() == 2 && out.size() == 3, "the input of a DCD layer has three results.");
  const dynaconv::ContextNorm statistics{optional(running[0], d.inputs), optional(running[1], d.inputs),
                                         float(norm[0]), float(norm[1])};
  float *context = optional(out[0], d.batch * d.inputs), *inverse = optional(out[1], d.inputs);
  require(!context || (inverse && statistics.mean && statistics.variance && d.batch > 1),
          "a context is normalised over several samples.");
  dynaconv::dcd_input(d, statistics, context, inverse, optional(out[2], d.batch * d.out_pixels() * d.latent));
}

// Adds to `to_x` and `to_q`; an empty tensor stands for none.
void dcd_input_gradients(const Tensor& x, const Tensor& q, Sizes sizes, const Tensor& context, const Tensor& inverse,
                         const Tensor& to_context, const Tensor& to_z, Tensor to_x, Tensor to_q) {
  const dynaconv::DCDInput d = input_of(x, q, sizes);
  const float* gradient = optional(to_context, d.batch * d.inputs);
  checked(to_q, d.inputs * d.latent);
  require(!to_x.numel() || to_x.numel() == x.numel(), "the gradients of a DCD layer do not match its arguments.");
  dynaconv::dcd_input_gradients(d, gradient ? checked(context, d.batch * d.inputs) : nullptr,
                                gradient ? checked(inverse, d.inputs) : nullptr, gradient,
                                optional(to_z, d.batch * d.out_pixels() * dynaconv::panel_width(d.latent)),
                                to_x.numel() ? image_of(to_x) : nullptr, data_of(to_q));
}

dynaconv::DCDSum sum_of(const Tensor& fixed, const Tensor& z, const Tensor& scale, const Tensor& mix) {
  dynaconv::DCDSum s{};
  s.fixed = image_of(fixed);
  s.batch = fixed.size(0), s.pixels = fixed.size(2) * fixed.size(3), s.outputs = fixed.size(1);
  require(s.batch > 0 && s.pixels > 0, "the feature maps of a DCD layer are not empty.");
  s.latent = z.numel() / (s.batch * s.pixels);
  s.z = checked(z, s.batch * s.pixels * s.latent);
  s.scale = checked(scale, s.batch * s.outputs);
  s.mix = checked(mix, s.batch * s.outputs * s.latent);
  return s;
}

Tensor dcd_sum(const Tensor& fixed, const Tensor& z, const Tensor& scale, const Tensor& mix, Tensor out) {
  const dynaconv::DCDSum s = sum_of(fixed, z, scale, mix);
  require(out.numel() == fixed.numel(), "the result of a DCD layer has another size.");
  dynaconv::dcd_sum(s, image_of(out));
  return out;
}

// Writes the gradients of the four arguments.
void dcd_sum_gradients(const Tensor& fixed, const Tensor& z, const Tensor& scale, const Tensor& mix,
                       const Tensor& gradient, Tensors out) {
  const dynaconv::DCDSum s = sum_of(fixed, z, scale, mix);
  require(out.size() == 4 && gradient.numel() == fixed.numel() && out[0].numel() == fixed.numel(),
          "the gradients of a DCD layer do not match its arguments.");
  checked(out[1], s.batch * s.pixels * dynaconv::panel_width(s.latent));
  checked(out[2], scale.numel());
  checked(out[3], mix.numel());
  dynaconv::dcd_sum_gradients(s, image_of(gradient),
                              {image_of(out[0]), data_of(out[1]), data_of(out[2]), data_of(out[3])});
}

dynaconv::DCDKernel kernel_of(const Tensor& weight, const Tensor& q, const Tensor& scale, const Tensor& mix) {
  require(weight.dim() == 2 && q.dim() == 2 && scale.dim() == 2, "the factors of a DCD kernel are matrices.");
  dynaconv::DCDKernel k{};
  k.batch = scale.size(0), k.outputs = weight.size(0), k.inputs = weight.size(1), k.latent = q.size(1);
  require(k.outputs % dynaconv::kHalf == 0 && k.inputs % dynaconv::kHalf == 0,
          "the kernel of a DCD layer has a multiple of 8 channels.");
  k.weight = checked(weight, k.size());
  k.q = checked(q, k.inputs * k.latent);
  k.scale = checked(scale, k.batch * k.outputs);
  k.mix = checked(mix, k.batch * k.outputs * k.latent);
  return k;
}

Tensor dcd_kernel(const Tensor& weight, const Tensor& q, const Tensor& scale, const Tensor& mix, Tensor out) {
  const dynaconv::DCDKernel k = kernel_of(weight, q, scale, mix);
  checked(out, k.batch * k.size());
  dynaconv::dcd_kernel(k, data_of(out));
  return out;
}

// Writes the gradients of the four arguments.
void dcd_kernel_gradients(const Tensor& weight, const Tensor& q, const Tensor& scale, const Tensor& mix,
                          const Tensor& gradient, Tensors out) {
  const dynaconv::DCDKernel k = kernel_of(weight, q, scale, mix);
  require(out.size() == 4, "a DCD kernel has four gradients.");
  checked(out[0], k.size());
  checked(out[1], q.numel());
  checked(out[2], scale.numel());
  checked(out[3], mix.numel());
  dynaconv::dcd_kernel_gradients(k, checked(gradient, k.batch * k.size()),
                                 {data_of(out[0]), data_of(out[1]), data_of(out[2]), data_of(out[3])});
}

}  // namespace
