// The training operators of a DCD layer; part of binding_torch.cpp.
#include <array>
#include <optional>
#include <tuple>

namespace {

using Layout = torch::headeronly::MemoryFormat;

// Calls an operator of torch that returns N tensors.
template <std::size_t N, class... Arguments>
std::array<Tensor, N> call_torch(const char* name, const char* overload, const Arguments&... arguments) {
  std::array<StableIValue, std::max(N, sizeof...(Arguments))> stack{torch::stable::detail::from(arguments)...};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION));
  std::array<Tensor, N> results;
  for (std::size_t i = 0; i < N; ++i) results[i] = torch::stable::detail::to<Tensor>(stack[i]);
  return results;
}

Tensor new_floats(const Sizes& sizes, Layout layout = Layout::Contiguous) {
  return torch::stable::empty(sizes, torch::headeronly::ScalarType::Float, std::nullopt, std::nullopt, std::nullopt, layout);
}

Tensor in_layout(const Tensor& t, Layout layout) {
  return layout == Layout::Contiguous && t.is_contiguous() ? t : torch::stable::contiguous(t, layout);
}

// The pixels of channels_last images as rows, (sample, pixel, channel), or their transposes, (sample, channel, pixel).
Tensor rows_of(const Tensor& image, bool transposes = false) {
  const std::int64_t channels = image.size(1), pixels = image.size(2) * image.size(3);
  const Sizes size{image.size(0), transposes ? channels : pixels, transposes ? pixels : channels};
  const Sizes stride{pixels * channels, transposes ? 1 : channels, transposes ? channels : 1};
  return call_torch<1>("aten::as_strided", "", image, size, stride, std::optional<std::int64_t>())[0];
}

// One step of a DCD layer. `parameters`: W0, squeeze, scale head, fusion head, P and Q. `settings`: gain, the bounds of the
// two heads, and momentum and epsilon of the context's norm. `sizes`: stride, padding and dilation, height before width, and
// whether W(x) is formed, and whether W0 and Q^T are one kernel. Without a context it is the average of x.
struct DCDLayer {
  Tensor x, context, weight;
  std::array<Tensor, 5> tensors;
  Sizes stride, padding, dilation;
  dynaconv::DCDInput input{};
  dynaconv::DCDBranch branch{};
  dynaconv::ContextNorm norm{};
  bool averages, forms_kernel, is_joined, computes_z;

  DCDLayer(const Tensor& image, const std::optional<Tensor>& given, const Tensors& parameters,
           const std::vector<double>& settings, const Sizes& sizes)
      : x(image) {
    require(parameters.size() == 6 && settings.size() == 5 && sizes.size() == 8 && x.dim() == 4 && x.size(0) > 0,
            "the parts of a DCD layer do not match.");
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      require(parameters[i + 1].dim() == 2, "the tensors of a DCD layer's branch are matrices.");
      tensors[i] = in_layout(parameters[i + 1], Layout::Contiguous);
    }
    stride = {sizes[0], sizes[1]}, padding = {sizes[2], sizes[3]}, dilation = {sizes[4], sizes[5]};
    averages = !given, forms_kernel = sizes[6], is_joined = sizes[7], computes_z = !forms_kernel && !is_joined;
    if (given) context = in_layout(*given, Layout::Contiguous);
    dynaconv::DCDInput& d = input;
    d.x = image_of(x);
    d.batch = x.size(0), d.inputs = x.size(1), d.height = x.size(2), d.width = x.size(3);
    dynaconv::DCDBranch& b = branch;
    b.batch = d.batch, b.inputs = d.inputs;
    b.hidden = tensors[0].size(0), b.features = tensors[0].size(1);
    b.outputs = tensors[3].size(0), b.latent = d.latent = tensors[3].size(1);
    set_weight(parameters[0]);
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

  void set_weight(const Tensor& given) {
    require(is_float(given) && given.dim() == 4 && given.size(0) == branch.outputs && given.size(1) == input.inputs,
            "the kernel of a DCD layer does not match its channels.");
    const bool is_point = given.size(2) * given.size(3) == 1 && stride == Sizes{1, 1} && padding == Sizes{0, 0};
    require(is_point || !forms_kernel, "a DCD layer forms 1x1 kernels only.");
    weight = in_layout(given, forms_kernel || given.is_contiguous() ? Layout::Contiguous : Layout::ChannelsLast);
    dynaconv::DCDInput& d = input;
    const auto set_axis = [&](int axis, dynaconv::Index size, auto& step, auto& offset, auto& outputs) {
      const dynaconv::Index taps = given.size(2 + axis), spread = dilation[axis] * (taps - 1);
      require(taps > 0 && stride[axis] > 0 && padding[axis] >= 0 && dilation[axis] > 0 && size + 2 * padding[axis] > spread,
              "the sizes of a DCD layer are positive.");
      step = stride[axis], offset = dilation[axis] * (taps / 2) - padding[axis];
      outputs = (size + 2 * padding[axis] - spread - 1) / step + 1;
    };
    set_axis(0, d.height, d.stride_h, d.offset_h, d.out_height);
    set_axis(1, d.width, d.stride_w, d.offset_w, d.out_width);
  }

  // W0, and if both are one kernel Q^T at the centre tap of further output channels.
  Tensor kernel() const {
    if (!is_joined) return weight;
    const bool is_flat = weight.is_contiguous();
    const dynaconv::Index height = weight.size(2), width = weight.size(3), taps = height * width, inputs = input.inputs;
    Tensor joined = new_floats({branch.outputs + branch.latent, inputs, height, width},
                               is_flat ? Layout::Contiguous : Layout::ChannelsLast);
    float* data = data_of(joined);
    std::copy_n(static_cast<const float*>(weight.const_data_ptr()), weight.numel(), data);
    std::fill(data + weight.numel(), data + joined.numel(), 0.0f);
    for (dynaconv::Index l = 0; l < branch.latent; ++l)
      for (dynaconv::Index i = 0; i < inputs; ++i)
        data[(branch.outputs + l) * inputs * taps + (is_flat ? i * taps + centre() : centre() * inputs + i)] =
            branch.q[i * branch.latent + l];
    return joined;
  }

  // The parts of the gradient of such a kernel; that of Q is added.
  Tensor split(const Tensor& to_kernel, float* to_q) const {
    if (!is_joined) return to_kernel;
    const float* data = static_cast<const float*>(to_kernel.const_data_ptr());
    const dynaconv::Index width = weight.size(3), y = centre() / width, x = centre() % width;
    for (dynaconv::Index i = 0; i < input.inputs; ++i)
      for (dynaconv::Index l = 0; l < branch.latent; ++l)
        to_q[i * branch.latent + l] += data[(branch.outputs + l) * to_kernel.stride(0) + i * to_kernel.stride(1) +
                                            y * to_kernel.stride(2) + x * to_kernel.stride(3)];
    Tensor whole = to_kernel;
    return torch::stable::narrow(whole, 0, 0, branch.outputs);
  }

 private:
  dynaconv::Index centre() const { return weight.size(2) / 2 * weight.size(3) + weight.size(3) / 2; }
};

// One block of memory for what a layer keeps: Lambda, P Phi, z = Q^T x, the context, the inverse of its standard deviations
// and what the branch's gradients need. That of the gradients of the first three begins in the same way.
struct DCDMemory {
  dynaconv::Index mix, z, context, inverse, saved, size;

  DCDMemory(const DCDLayer& l, dynaconv::Index lanes_of_z)
      : mix(l.branch.batch * l.branch.outputs),
        z(mix + mix * l.branch.latent),
        context(z + l.branch.batch * l.input.out_pixels() * lanes_of_z),
        inverse(context),
        saved(context),
        size(context) {}
  explicit DCDMemory(const DCDLayer& l) : DCDMemory(l, l.forms_kernel ? 0 : l.branch.latent) {
    inverse = context + (l.averages ? l.branch.batch * l.branch.features : 0);
    saved = inverse + (l.averages ? l.branch.features : 0);
    size = saved + l.branch.saved_size();
  }
};

dynaconv::DCDSum sum_of(const DCDLayer& l, float* memory) {
  const DCDMemory at(l);
  return {l.branch.batch, l.input.out_pixels(), l.branch.outputs, l.branch.latent, memory + at.z, memory, memory + at.mix};
}

// Returns Lambda (W0 x) + P Phi (Q^T x), in the place of W0 x if that is alone; writes Q^T x to the memory if it is not.
Tensor convolve(const DCDLayer& l, float* memory) {
  const Tensor found = call_torch<1>("aten::convolution", "", l.x, l.kernel(), std::optional<Tensor>(), l.stride, l.padding,
                                     l.dilation, false, Sizes{0, 0}, std::int64_t(1))[0];
  const Tensor fixed = in_layout(found, Layout::ChannelsLast);
  Tensor out = l.is_joined ? new_floats({l.branch.batch, l.branch.outputs, l.input.out_height, l.input.out_width},
                                        Layout::ChannelsLast)
                           : fixed;
  dynaconv::dcd_sum(sum_of(l, memory), image_of(fixed, 1), fixed.size(1), data_of(out));
  return out;
}

dynaconv::DCDKernel kernel_of(const DCDLayer& l, const float* memory) {
  dynaconv::DCDKernel k{};
  k.batch = l.branch.batch, k.outputs = l.branch.outputs, k.inputs = l.branch.inputs, k.latent = l.branch.latent;
  k.weight = static_cast<const float*>(l.weight.const_data_ptr()), k.q = l.branch.q;
  k.scale = memory, k.mix = memory + DCDMemory(l).mix;
  return k;
}

// W(x), (sample, output, input).
Tensor form(const DCDLayer& l, const float* memory) {
  Tensor kernel = new_floats({l.branch.batch, l.branch.outputs, l.branch.inputs});
  dynaconv::dcd_kernel(kernel_of(l, memory), data_of(kernel));
  return kernel;
}

// Returns W(x) x and the memory.
std::tuple<Tensor, Tensor> dcd_layer(const Tensor& x, std::optional<Tensor> context, Tensors parameters, Tensors running,
                                     std::vector<double> settings, Sizes sizes) {
  DCDLayer l(x, context, parameters, settings, sizes);
  const DCDMemory at(l);
  Tensor memory = new_floats({at.size});
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
  if (!l.forms_kernel) return {convolve(l, data), memory};
  Tensor out = new_floats({l.branch.batch, l.branch.outputs, l.input.height, l.input.width}, Layout::ChannelsLast);
  call_torch<1>("aten::bmm", "out", rows_of(x), torch::stable::transpose(form(l, data), 1, 2), rows_of(out));
  return {out, memory};
}

// Returns the gradients of x, empty without `for_x`, of a given context, empty without one, and of the parameters. `out` is
// the layer's output if W(x) is not formed; without one it is computed again.
Tensors dcd_layer_gradients(const Tensor& x, std::optional<Tensor> context, Tensors parameters,
                            std::vector<double> settings, Sizes sizes, const Tensor& memory, std::optional<Tensor> out,
                            const Tensor& to_out, bool for_x) {
  DCDLayer l(x, context, parameters, settings, sizes);
  const dynaconv::DCDBranch& b = l.branch;
  const DCDMemory at(l);
  const DCDMemory to(l, l.computes_z ? dynaconv::panel_width(b.latent) : 0);
  checked(memory, at.size);
  Tensor kept = out || l.forms_kernel ? memory : torch::stable::clone(memory);
  float* data = data_of(kept);
  const Tensor gradient = in_layout(to_out, Layout::ChannelsLast);
  const dynaconv::Index size = b.batch * b.outputs * l.input.out_pixels();
  require(gradient.numel() == size && gradient.size(1) == b.outputs,
          "the gradients of a DCD layer do not match its arguments.");
  Tensor to_memory = new_floats({to.size}), to_context = new_floats({b.batch, b.features});
  float *from = data_of(to_memory), *own = data_of(to_context);
  std::array<Tensor, 5> to_tensors;
  for (std::size_t i = 0; i < to_tensors.size(); ++i) to_tensors[i] = torch::stable::empty_like(l.tensors[i]);
  auto& [to_squeeze, to_scale_head, to_fusion_head, to_p, to_q] = to_tensors;
  Tensor to_x = new_floats({0}), to_weight, to_own_q = new_floats({0});
  if (l.forms_kernel) {
    const Tensor to_kernel = call_torch<1>("aten::bmm", "", rows_of(gradient, true), rows_of(x))[0];
    to_weight = new_floats({b.outputs, b.inputs, 1, 1}), to_own_q = torch::stable::empty_like(l.tensors[4]);
    dynaconv::dcd_kernel_gradients(kernel_of(l, data), checked(to_kernel, b.batch * b.outputs * b.inputs),
                                   {data_of(to_weight), data_of(to_own_q), from, from + to.mix});
    if (for_x) {
      to_x = torch::stable::empty_like(x);
      call_torch<1>("aten::bmm", "out", rows_of(gradient), form(l, data), rows_of(to_x));
    }
  } else {
    const Tensor result = in_layout(out ? *out : convolve(l, data), Layout::ChannelsLast);
    require(result.numel() == size, "the output of a DCD layer does not match its arguments.");
    const dynaconv::Index channels = b.outputs + (l.is_joined ? b.latent : 0);
    Tensor to_fixed = new_floats({b.batch, channels, l.input.out_height, l.input.out_width}, Layout::ChannelsLast);
    dynaconv::dcd_sum_gradients(sum_of(l, data), image_of(result), image_of(gradient),
                                {data_of(to_fixed), channels, l.is_joined ? nullptr : from + to.z, from, from + to.mix});
    const std::array<bool, 3> needed{for_x, true, false};
    auto found = call_torch<3>("aten::convolution_backward", "", to_fixed, x, l.kernel(), std::optional<Sizes>(), l.stride,
                               l.padding, l.dilation, false, Sizes{0, 0}, std::int64_t(1),
                               torch::headeronly::HeaderOnlyArrayRef<bool>(needed));
    if (for_x) to_x = in_layout(found[0], Layout::ChannelsLast);
    to_weight = found[1];
  }
  if (l.averages) l.branch.context = data + at.context;
  dynaconv::dcd_branch_gradients(b, data, data + at.saved, from, from + to.mix,
                                 {own, data_of(to_squeeze), data_of(to_scale_head), data_of(to_fusion_head), data_of(to_p),
                                  data_of(to_q)});
  if ((l.averages && for_x) || l.computes_z)
    dynaconv::dcd_input_gradients(l.input, data + at.context, data + at.inverse, l.averages ? own : nullptr,
                                  l.computes_z ? from + to.z : nullptr, for_x ? image_of(to_x) : nullptr, data_of(to_q));
  if (!l.forms_kernel) to_weight = l.split(to_weight, data_of(to_q));
  for (dynaconv::Index i = 0; i < to_own_q.numel(); ++i) data_of(to_q)[i] += data_of(to_own_q)[i];
  if (l.averages) to_context = new_floats({0});
  return {to_x, to_context, to_weight, to_squeeze, to_scale_head, to_fusion_head, to_p, to_q};
}

}  // namespace
