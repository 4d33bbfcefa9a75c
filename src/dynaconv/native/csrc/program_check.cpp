// Checks of programs: no program, however damaged, reads or writes outside its constants and images.
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

#include "layers.h"
#include "product_int8.h"

namespace dynaconv {
namespace {

[[noreturn]] void throw_damaged(int step, const std::string& what) {
  throw std::runtime_error("the native program is damaged: step " + std::to_string(step) + " has " + what + ".");
}

// Checks the fields of a step: every constant must be inside the vector of constants.
class StepChecker {
 public:
  StepChecker(const Program& p, int step) : constants_(p.num_constants), step_(step) {}

  // The product of `factors` is the number of floats that must be at `offset`.
  void require(std::int64_t offset, std::initializer_list<std::int64_t> factors, const char* name) const {
    std::int64_t floats = 1;
    bool overflows = false;
    for (const std::int64_t factor : factors) overflows |= __builtin_mul_overflow(floats, factor, &floats);
    if (overflows || offset < 0 || offset > constants_ - floats) throw_damaged(step_, std::string("no ") + name);
  }
  void require_if_present(std::int64_t offset, std::int64_t floats, const char* name) const {
    if (offset >= 0) require(offset, {floats}, name);
  }
  void require_range(std::int64_t value, std::int64_t low, std::int64_t high, const char* name) const {
    if (value < low || value > high) throw_damaged(step_, std::string("a wrong ") + name);
  }
  [[noreturn]] void fail(const char* what) const { throw_damaged(step_, what); }

 private:
  Index constants_;
  int step_;
};

constexpr std::int64_t kMaxSize = 1 << 20;

void check_cells(const Step& s, const StepChecker& checker) {
  checker.require_range(s.num_cells, 0, kMaxSize, "number of cells");
  if (!is_assembled(s)) return;
  if (s.kind == kScale || is_mixture(s) || s.latent || s.has_scale || s.has_shift)
    checker.fail("a kernel of cells with parts that it does not allow");
  const std::int64_t whole[] = {s.out_channels, kernel_inputs(s), s.kernel_h, s.kernel_w};
  const std::int64_t cell[] = {s.cell_out, s.cell_in, s.cell_h, s.cell_w};
  for (int axis = 0; axis < 4; ++axis) {
    checker.require_range(cell[axis], 1, whole[axis], "size of cells");
    if (whole[axis] % cell[axis]) checker.fail("cells that do not divide its kernel");
  }
  // Neither the kernel nor the number of its blocks is limited by the size of the constants.
  constexpr double kMaxKernel = 1 << 28;
  if (double(s.out_channels) * double(s.in_channels) * double(s.kernel_h) * double(s.kernel_w) > kMaxKernel)
    checker.fail("too large a kernel of cells");
  const std::int64_t size = s.cell_out * s.cell_in * s.cell_h * s.cell_w;
  checker.require(s.cells, {panel_width(size), stored_rows(s, s.num_cells)}, "cells");
  if (s.blend >= 0) checker.require(s.blend, {kPanel + num_blocks(s) * s.num_cells}, "blend");
  checker.require_if_present(s.channel_scale, round_up(s.out_channels, kPanel), "scale of channels");
}

void check_dynamic(const Step& s, const StepChecker& checker) {
  checker.require_range(s.algorithm, kAuto, kFactors, "algorithm");
  checker.require_range(s.latent, 0, kMaxSize, "latent size");
  checker.require_range(s.context_size, 1, 2, "context size");
  checker.require_range(s.hidden, 1, kMaxSize, "hidden size");
  checker.require_range(s.branch_activation, kReluB, kGate, "branch activation");
  checker.require_range(s.scale_activation, kAffine, kTanh, "scale activation");
  const Index channels = round_up(s.out_channels, kPanel), hidden = round_up(s.hidden, kPanel);
  checker.require_range(s.kernels, 1, kMaxSize, "number of kernels");
  checker.require_range(s.static_kernel, 0, s.kernels > 1, "static kernel");
  if (s.squeeze < 0) {
    if (s.hidden != s.in_channels || s.context_size != 1) checker.fail("no squeeze");
  } else {
    checker.require(s.squeeze, {panel_width(s.hidden), s.in_channels, s.context_size, s.context_size}, "squeeze");
    checker.require_if_present(s.squeeze_bias, hidden, "squeeze bias");
    if (s.branch_activation == kGate) checker.require(s.gate, {panel_width(s.hidden), s.hidden}, "gate");
  }
  if (s.hidden_norm >= 0 && s.squeeze < 0) checker.fail("a norm of the hidden vector without a squeeze");
  if (s.hidden_norm >= 0) checker.require(s.hidden_norm, {2, hidden}, "norm of the hidden vector");
  check_cells(s, checker);
  checker.require(s.heads, {heads_size(s), s.hidden}, "heads");
  checker.require_if_present(s.heads_bias, heads_size(s), "heads' bias");
  checker.require_if_present(s.scaled_bias, channels, "scaled bias");
  if (s.scaled_bias >= 0 && !s.has_scale) checker.fail("a scaled bias without its scale");
  if (s.biases >= 0) checker.require(s.biases, {channels, s.kernels}, "biases");
  if (s.biases >= 0 && s.kernels == 1) checker.fail("biases without kernels");
  if (is_mixture(s) && (s.latent || (s.kind == kDepthwise && s.has_channel)))
    checker.fail("a mixture with parts that it does not allow");
  if (s.kind == kDepthwise && !s.latent && !s.has_scale && !is_mixture(s) && !is_assembled(s))
    checker.fail("neither Lambda nor a residual");
  if (!s.latent) return;
  if (s.groups > 1) checker.fail("a residual, which groups do not allow");
  checker.require(s.p, {panel_width(s.out_channels), s.latent}, "P");
  if (s.kind == kDepthwise) {
    checker.require(s.q_rows, {round_up(s.latent, kPanel), s.kernel_h, s.kernel_w}, "R by rows");
    return;
  }
  checker.require(s.q, {panel_width(s.latent), depth_of(s, s.in_channels)}, "Q");
  if (s.precision == kInt8) checker.require(s.q_scale, {2, round_up(s.latent, kPanel)}, "scale of Q");
  checker.require(s.q_rows, {round_up(s.latent, kPanel), s.in_channels}, "Q by rows");
}

void check_int8(const Step& s, const StepChecker& checker) {
  if (s.precision != kInt8) return;
  // No sum of products of bytes exceeds 32 bits.
  constexpr std::int64_t kMaxInputs = 1 << 16;
  const std::int64_t taps = s.kernel_h * s.kernel_w;
  if (s.kind != kDense || s.groups > 1 || reads_input(s) || taps > kMaxInputs || taps * s.in_channels > kMaxInputs ||
      (taps == 1 && (s.pad_top || s.pad_left || s.pad_bottom || s.pad_right)))
    checker.fail("a precision that its kind does not allow");
  if (!is_mixture(s) && !is_assembled(s))
    checker.require(s.weight_scale, {2, round_up(s.out_channels, kPanel)}, "scale of weights");
}

void check_step(const Program& p, int index) {
  const Step& s = p.steps[index];
  const StepChecker checker(p, index);
  checker.require_range(s.kind, kDense, kNorm, "kind");
  for (auto slot : {s.source, s.target}) checker.require_range(slot, 0, p.num_steps, "slot");
  checker.require_range(s.residual, -1, p.num_steps, "slot");
  for (auto size : {s.in_channels, s.out_channels, s.kernel_h, s.kernel_w, s.stride_h, s.stride_w, s.dilation_h,
                    s.dilation_w})
    checker.require_range(size, 1, kMaxSize, "size");
  for (auto pad : {s.pad_top, s.pad_left, s.pad_bottom, s.pad_right})
    checker.require_range(pad, 0, kMaxSize, "padding");
  checker.require_range(s.activation, 0, int(Activation::kHardswish), "activation");
  checker.require_range(s.precision, kFloat32, kInt8, "precision");
  checker.require_range(s.groups, 1, kMaxSize, "number of groups");
  if (s.in_channels % s.groups || s.out_channels % s.groups) throw_damaged(index, "groups that do not divide its channels");
  if (s.target == s.source || s.target == s.residual || s.target == 0)
    throw_damaged(index, "a target that is also read");
  check_int8(s, checker);
  const Index channels = round_up(s.out_channels, kPanel);
  checker.require_if_present(s.bias, channels, "bias");
  const bool has_no_branch = s.kind == kMaxPool || s.kind == kMean || s.kind == kNorm;
  if (s.kind != kDense && (s.in_channels != s.out_channels || (s.residual >= 0 && s.kind != kScale) || s.fused || s.groups > 1 ||
                           (s.dynamic && has_no_branch) || (s.precision != kFloat32 && s.kind != kDepthwise)))
    throw_damaged(index, "fields that its kind does not allow");
  if (s.kind == kNorm) checker.require(s.weight, {channels + kPanel}, "factors");
  if (has_no_branch) return;
  if (s.kind == kScale) {
    if (!s.dynamic || !s.has_scale || s.latent || s.has_shift || s.scaled_bias >= 0 || s.biases >= 0 || is_mixture(s))
      throw_damaged(index, "fields that its kind does not allow");
    return check_dynamic(s, checker);
  }
  if (s.fused) {
    const Step* next = index + 1 < p.num_steps ? &s + 1 : nullptr;
    if (!next || next->kind != kDepthwise || next->dynamic || next->source != s.target || s.residual >= 0 ||
        next->target == s.source)
      throw_damaged(index, "no static depthwise step after it, although it is fused");
  }
  if (s.dynamic) check_dynamic(s, checker);
  const bool depthwise = s.kind == kDepthwise;
  if (s.precision != kFloat32 && depthwise && !is_mixture(s) && !is_assembled(s))
    throw_damaged(index, "a precision that its kind does not allow");
  if (is_assembled(s)) return;
  const std::int64_t kernels = s.dynamic ? s.kernels : 1;
  const Index width = depthwise ? channels : panel_width(s.out_channels);
  const std::int64_t rows = (depthwise ? 1 : Windows(s).size()) * s.kernel_h * s.kernel_w;
  checker.require(s.weight, {width, stored_rows(s, rows), kernels}, "weight");
}

}  // namespace

Size output_size(const Step& s, Index height, Index width) {
  const auto along = [](Index size, Index padding, Index reach, Index stride) {
    return size == kUnknown ? kUnknown : (size + padding - reach) / stride + 1;
  };
  return {along(height, s.pad_top + s.pad_bottom, s.dilation_h * (s.kernel_h - 1) + 1, s.stride_h),
          along(width, s.pad_left + s.pad_right, s.dilation_w * (s.kernel_w - 1) + 1, s.stride_w)};
}

Images shape_after(const Step& s, const Images& x) {
  const Size size = s.kind == kMean    ? Size{1, 1}
                    : s.kind == kScale || s.kind == kNorm ? Size{x.height, x.width}
                                                          : output_size(s, x.height, x.width);
  Images out;
  out.samples = x.samples;
  out.channels = s.out_channels;
  out.height = size.height;
  out.width = size.width;
  return out;
}

Size check(const Program& p, const Input& input) {
  if (p.num_steps < 1) throw std::runtime_error("the native program is damaged: it has no steps.");
  std::vector<Images> images(std::size_t(p.num_steps) + 1);
  images[0].channels = input.channels;
  images[0].height = input.height;
  images[0].width = input.width;
  for (int i = 0; i < p.num_steps; ++i) {
    const Step& s = p.steps[i];
    check_step(p, i);
    const Images& x = images[std::size_t(s.source)];
    if (x.channels != s.in_channels && s.source == 0)
      throw std::runtime_error("the images have " + std::to_string(x.channels) + " channels; this network takes " +
                               std::to_string(s.in_channels) + ".");
    if (x.channels != s.in_channels) throw_damaged(i, "a source with the wrong number of channels");
    const Size reach{s.dilation_h * (s.kernel_h - 1) + 1, s.dilation_w * (s.kernel_w - 1) + 1};
    if ((x.height != kUnknown && x.height + s.pad_top + s.pad_bottom < reach.height) ||
        (x.width != kUnknown && x.width + s.pad_left + s.pad_right < reach.width))
      throw std::runtime_error("an image of " + std::to_string(input.height) + " x " + std::to_string(input.width) +
                               " pixels is too small for this network: it is smaller than a kernel; give larger ones.");
    const Images y = shape_after(s, x);
    if (s.residual >= 0) {
      const Images& r = images[std::size_t(s.residual)];
      if (r.channels != y.channels || r.height != y.height || r.width != y.width)
        throw_damaged(i, "a residual of the wrong shape");
    }
    images[std::size_t(s.target)] = y;
    // The images between the steps of a fused pair never exist as a whole, so no later step may read them.
    if (i > 0 && p.steps[i - 1].fused) images[std::size_t(s.source)] = Images();
  }
  const Images& last = images[std::size_t(p.steps[p.num_steps - 1].target)];
  return {last.height, last.width};
}

}  // namespace dynaconv
