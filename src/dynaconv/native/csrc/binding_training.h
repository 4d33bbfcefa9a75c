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

// The parts of one training step of a DCD layer. `branch`: squeeze, scale head, fusion head, P and Q. `settings`: gain, the
// bounds of the two heads, and momentum and epsilon of the context's norm. `sizes`: stride, offset and output size, height
// before width, and 1 if z = Q^T x is computed here, 0 if not. An empty `context` stands for the average of x.
struct DCDLayer {
  dynaconv::DCDInput input{};
  dynaconv::DCDBranch branch{};
  dynaconv::ContextNorm norm{};
  bool averages, computes_z;

  DCDLayer(const Tensor& x, const Tensor& context, const Tensors& tensors, const std::vector<double>& settings,
           const Sizes& sizes) {
    require(tensors.size() == 5 && settings.size() == 5 && sizes.size() == 7 && x.size(0) > 0,
            "the parts of a DCD layer do not match.");
    for (const Tensor& t : tensors) require(t.dim() == 2, "the tensors of a DCD layer's branch are matrices.");
    averages = !context.numel(), computes_z = sizes[6];
    dynaconv::DCDInput& d = input;
    d.x = image_of(x);
    d.batch = x.size(0), d.inputs = x.size(1), d.height = x.size(2), d.width = x.size(3);
    d.stride_h = sizes[0], d.stride_w = sizes[1], d.offset_h = sizes[2], d.offset_w = sizes[3];
    d.out_height = sizes[4], d.out_width = sizes[5];
    require(d.stride_h > 0 && d.stride_w > 0 && d.out_height >= 0 && d.out_width >= 0,
            "the sizes of a DCD layer are positive.");
    dynaconv::DCDBranch& b = branch;
    b.batch = d.batch, b.inputs = d.inputs;
    b.hidden = tensors[0].size(0), b.features = tensors[0].size(1);
    b.outputs = tensors[3].size(0), b.latent = d.latent = tensors[3].size(1);
    require(!averages || (b.features == d.inputs && d.batch > 1), "a context is normalised over several samples.");
    require(b.outputs % dynaconv::kHalf == 0, "a DCD layer has a multiple of 8 output channels.");
    b.context = averages ? nullptr : checked(context, b.batch * b.features);
    b.squeeze = checked(tensors[0], b.hidden * b.features);
    b.scale_head = checked(tensors[1], b.outputs * b.hidden);
    b.fusion_head = checked(tensors[2], b.latent * b.latent * b.hidden);
    b.p = checked(tensors[3], b.outputs * b.latent);
    b.q = d.q = checked(tensors[4], b.inputs * b.latent);
    b.gain = float(settings[0]), b.scale_bound = float(settings[1]), b.fusion_bound = float(settings[2]);
    norm.momentum = float(settings[3]), norm.epsilon = float(settings[4]);
  }
};

// One block of memory for what a layer keeps: Lambda, P Phi, z, the context, the inverse of its standard deviations and
// what the branch's gradients need. That of the gradients of the first three begins in the same way.
struct DCDMemory {
  dynaconv::Index mix, z, context, inverse, saved, size;

  DCDMemory(dynaconv::Index batch, dynaconv::Index outputs, dynaconv::Index latent, dynaconv::Index z_size)
      : mix(batch * outputs), z(mix + mix * latent), context(z + z_size), inverse(context), saved(context), size(context) {}
  explicit DCDMemory(const DCDLayer& l)
      : DCDMemory(l.branch.batch, l.branch.outputs, l.branch.latent,
                  l.computes_z ? l.branch.batch * l.input.out_pixels() * l.branch.latent : 0) {
    inverse = context + (l.averages ? l.branch.batch * l.branch.features : 0);
    saved = inverse + (l.averages ? l.branch.features : 0);
    size = saved + l.branch.saved_size();
  }
};

Tensor new_floats(dynaconv::Index size) { return torch::stable::empty({size}, torch::headeronly::ScalarType::Float); }

// Computes all that does not need the convolution with W0. `running`: mean, variance and number of batches.
Tensor dcd_prepare(const Tensor& x, const Tensor& context, Tensors branch, Tensors running,
                   std::vector<double> settings, Sizes sizes) {
  DCDLayer l(x, context, branch, settings, sizes);
  const DCDMemory at(l);
  Tensor memory = new_floats(at.size);
  float* data = data_of(memory);
  if (l.averages) {
    require(running.size() == 3, "the context's norm has a mean, a variance and a number of batches.");
    l.norm.mean = const_cast<float*>(checked(running[0], l.branch.features));
    l.norm.variance = const_cast<float*>(checked(running[1], l.branch.features));
    require(running[2].numel() == 1 && running[2].scalar_type() == torch::headeronly::ScalarType::Long,
            "the number of batches is one integer.");
    ++*static_cast<std::int64_t*>(running[2].mutable_data_ptr());
    l.branch.context = data + at.context;
  }
  if (l.averages || l.computes_z)
    dynaconv::dcd_input(l.input, l.norm, l.averages ? data + at.context : nullptr, data + at.inverse,
                        l.computes_z ? data + at.z : nullptr);
  dynaconv::dcd_branch(l.branch, data, data + at.mix, data + at.saved);
  return memory;
}

// Computes all gradients that do not need the convolution's: adds to `to_x`, if it is not empty, and to that of Q, which is
// the last of `out`. The others are those of a given context, or an empty tensor, and of the tensors of the branch.
void dcd_gradients(const Tensor& x, const Tensor& context, Tensors branch, std::vector<double> settings, Sizes sizes,
                   const Tensor& memory, const Tensor& to_memory, Tensor to_x, Tensors out) {
  DCDLayer l(x, context, branch, settings, sizes);
  const DCDMemory at(l);
  const dynaconv::DCDBranch& b = l.branch;
  const dynaconv::Index lanes = dynaconv::panel_width(b.latent);
  const DCDMemory to(b.batch, b.outputs, b.latent, l.computes_z ? b.batch * l.input.out_pixels() * lanes : 0);
  const float *data = checked(memory, at.size), *gradient = checked(to_memory, to.size);
  require(out.size() == 6 && (!to_x.numel() || to_x.numel() == x.numel()),
          "the gradients of a DCD layer do not match its arguments.");
  for (std::size_t i = 0; i < 5; ++i) checked(out[i + 1], branch[i].numel());
  Tensor own = l.averages ? new_floats(b.batch * b.features) : out[0];
  checked(own, b.batch * b.features);
  if (l.averages) l.branch.context = data + at.context;
  float *to_context = data_of(own), *to_q = data_of(out[5]);
  dynaconv::dcd_branch_gradients(l.branch, data, data + at.saved, gradient, gradient + to.mix,
                                 {to_context, data_of(out[1]), data_of(out[2]), data_of(out[3]), data_of(out[4]), to_q});
  float* to_image = to_x.numel() ? image_of(to_x) : nullptr;
  if ((l.averages && to_image) || l.computes_z)
    dynaconv::dcd_input_gradients(l.input, data + at.context, data + at.inverse, l.averages ? to_context : nullptr,
                                  l.computes_z ? gradient + to.z : nullptr, to_image, to_q);
}

// `fixed` has W0 x, and behind it Q^T x if that is not in the memory.
struct SumOfMaps {
  dynaconv::DCDSum sum{};
  bool is_joined;

  SumOfMaps(const Tensor& fixed, const Tensor& memory, std::int64_t latent, std::int64_t outputs) {
    dynaconv::DCDSum& s = sum;
    s.batch = fixed.size(0), s.pixels = fixed.size(2) * fixed.size(3), s.outputs = outputs, s.latent = latent;
    s.fixed = image_of(fixed, 1), s.fixed_pixel = fixed.size(1);
    is_joined = s.fixed_pixel != outputs;
    const DCDMemory at(s.batch, s.outputs, s.latent, is_joined ? 0 : s.batch * s.pixels * s.latent);
    require(latent > 0 && (!is_joined || s.fixed_pixel == outputs + latent) && is_float(memory) &&
                memory.is_contiguous() && memory.numel() >= at.size,
            "the memory of a DCD layer does not match its feature maps.");
    s.scale = static_cast<const float*>(memory.const_data_ptr());
    s.mix = s.scale + at.mix;
    s.z = is_joined ? s.fixed + outputs : s.scale + at.z, s.z_pixel = is_joined ? s.fixed_pixel : latent;
  }
  // Whether a tensor has a pixel for each of `fixed`.
  bool matches(const Tensor& t) const { return t.numel() == sum.batch * sum.pixels * sum.outputs; }
};

Tensor dcd_sum(const Tensor& fixed, const Tensor& memory, std::int64_t latent, Tensor out) {
  const SumOfMaps maps(fixed, memory, latent, out.size(1));
  require(maps.matches(out), "the result of a DCD layer has another size.");
  dynaconv::dcd_sum(maps.sum, image_of(out));
  return out;
}

// Writes the gradient of `fixed`; returns those of Lambda, P Phi and of z if that is in the memory.
Tensor dcd_sum_gradients(const Tensor& fixed, const Tensor& memory, std::int64_t latent, const Tensor& gradient,
                         Tensor to_fixed) {
  const SumOfMaps maps(fixed, memory, latent, gradient.size(1));
  const dynaconv::DCDSum& s = maps.sum;
  require(maps.matches(gradient) && to_fixed.numel() == fixed.numel(),
          "the gradients of a DCD layer do not match its arguments.");
  const dynaconv::Index lanes = dynaconv::panel_width(latent);
  const DCDMemory to(s.batch, s.outputs, s.latent, maps.is_joined ? 0 : s.batch * s.pixels * lanes);
  Tensor result = new_floats(to.size);
  float *data = data_of(result), *map = image_of(to_fixed, 1);
  dynaconv::dcd_sum_gradients(s, image_of(gradient),
                              {map, maps.is_joined ? map + s.outputs : data + to.z,
                               maps.is_joined ? s.fixed_pixel : lanes, data, data + to.mix});
  return result;
}

dynaconv::DCDKernel kernel_of(const Tensor& weight, const Tensor& q, const Tensor& memory, dynaconv::Index batch) {
  require(weight.dim() == 2 && q.dim() == 2, "the factors of a DCD kernel are matrices.");
  dynaconv::DCDKernel k{};
  k.batch = batch, k.outputs = weight.size(0), k.inputs = weight.size(1), k.latent = q.size(1);
  const DCDMemory at(k.batch, k.outputs, k.latent, 0);
  require(k.outputs % dynaconv::kHalf == 0 && k.inputs % dynaconv::kHalf == 0 && is_float(memory) &&
              memory.is_contiguous() && memory.numel() >= at.size,
          "the kernel of a DCD layer has a multiple of 8 channels.");
  k.weight = checked(weight, k.size());
  k.q = checked(q, k.inputs * k.latent);
  k.scale = static_cast<const float*>(memory.const_data_ptr());
  k.mix = k.scale + at.mix;
  return k;
}

// Writes W(x), (sample, output, input).
Tensor dcd_kernel(const Tensor& weight, const Tensor& q, const Tensor& memory, Tensor out) {
  const dynaconv::DCDKernel k = kernel_of(weight, q, memory, out.size(0));
  checked(out, k.batch * k.size());
  dynaconv::dcd_kernel(k, data_of(out));
  return out;
}

// Writes the gradients of W0 and Q; returns those of Lambda and P Phi.
Tensor dcd_kernel_gradients(const Tensor& weight, const Tensor& q, const Tensor& memory, const Tensor& gradient,
                            Tensor to_weight, Tensor to_q) {
  const dynaconv::DCDKernel k = kernel_of(weight, q, memory, gradient.size(0));
  checked(to_weight, k.size());
  checked(to_q, q.numel());
  const DCDMemory to(k.batch, k.outputs, k.latent, 0);
  Tensor result = new_floats(to.size);
  float* data = data_of(result);
  dynaconv::dcd_kernel_gradients(k, checked(gradient, k.batch * k.size()),
                                 {data_of(to_weight), data_of(to_q), data, data + to.mix});
  return result;
}

}  // namespace
