// The binding of the operation to OpenVINO, an extension library. The only file that includes OpenVINO headers.
#include <tbb/parallel_for.h>
#include <tbb/partitioner.h>
#include <tbb/task_arena.h>

#include <cstdint>
#include <memory>
#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>
#include <openvino/op/op.hpp>
#include <vector>

#include "call.h"

namespace dynaconv {
namespace {

// OpenVINO calls an operation inside the task arena of its stream, which has as many threads as the stream.
void parallel_for(Index n, void (*fn)(Index, Index, void*), void* context) {
  // The calling thread keeps index 0, the main thread of the pool; other threads of the arena can steal the other ones.
  tbb::parallel_for(
      tbb::blocked_range<Index>(0, n, 1), [&](const auto& range) { fn(range.begin(), range.end(), context); },
      tbb::simple_partitioner());
}

int count() { return tbb::this_task_arena::max_concurrency(); }

// `dynaconv.NativeProgram`: maps float32 images (B, C, H, W) and the constants to images (B, H', W', C'). The constants are
// words of 32 bits: OpenVINO sets subnormal numbers of float32 constants to zero.
class NativeProgram : public ov::op::Op {
 public:
  OPENVINO_OP("NativeProgram", "dynaconv");

  NativeProgram() = default;

  void validate_and_infer_types() override {
    NODE_VALIDATION_CHECK(this, get_input_element_type(0).compatible(ov::element::f32),
                          "dynaconv's native kernels compute in float32.");
    NODE_VALIDATION_CHECK(this, get_input_element_type(1).compatible(ov::element::i32),
                          "the native program is damaged: its constants are not words of 32 bits.");
    NODE_VALIDATION_CHECK(this, format_ == kFormat, "the file was written for other native kernels (format ", format_,
                          ") than these (format ", kFormat, "); export the network again.");
    NODE_VALIDATION_CHECK(this, steps_.size() % kFields == 0 && !steps_.empty(),
                          "the native program is damaged: it is not one of whole steps.");
    const ov::PartialShape images = get_input_partial_shape(0), constants = get_input_partial_shape(1);
    NODE_VALIDATION_CHECK(this, images.rank().compatible(4) && constants.is_static() && constants.size() == 1, kTakes);
    if (images.rank().is_dynamic())
      return set_output_type(0, ov::element::f32, {-1, -1, -1, out_channels_});
    const Program program = program_of(nullptr, Index(constants[0].get_length()));
    // The shape is inferred from the steps themselves, so that it always matches the output of `evaluate`.
    const auto known = [](const ov::Dimension& d, Index otherwise) {
      return d.is_static() ? Index(d.get_length()) : otherwise;
    };
    const Index channels = known(images[1], Index(program.steps[0].in_channels));
    const Call call(program, contiguous(nullptr, 0, channels, known(images[2], kUnknown), known(images[3], kUnknown)),
                    out_channels_);
    const auto dimension = [](Index size) { return size == kUnknown ? ov::Dimension() : ov::Dimension(size); };
    set_output_type(0, ov::element::f32,
                    {images[0], dimension(call.size().height), dimension(call.size().width), out_channels_});
  }

  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
    auto copy = std::make_shared<NativeProgram>();
    copy->set_arguments(inputs);
    copy->format_ = format_;
    copy->out_channels_ = out_channels_;
    copy->steps_ = steps_;
    copy->validate_and_infer_types();
    return copy;
  }

  bool visit_attributes(ov::AttributeVisitor& visitor) override {
    visitor.on_attribute("format", format_);
    visitor.on_attribute("out_channels", out_channels_);
    visitor.on_attribute("steps", steps_);
    return true;
  }

  bool has_evaluate() const override { return true; }

  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
    const ov::Tensor &images = inputs[0], &constants = inputs[1];
    const ov::Shape shape = images.get_shape();
    NODE_VALIDATION_CHECK(this, shape.size() == 4, kTakes);
    const Input input = contiguous(images.data<const float>(), Index(shape[0]), Index(shape[1]), Index(shape[2]),
                                   Index(shape[3]));
    const Call call(program_of(static_cast<const float*>(constants.data()), Index(constants.get_size())), input, out_channels_);
    outputs[0].set_shape({shape[0], std::size_t(call.size().height), std::size_t(call.size().width),
                          std::size_t(out_channels_)});
    call.run(outputs[0].data<float>());
    return true;
  }

 private:
  static constexpr const char* kTakes = "the native program takes images (B, C, H, W) and one vector of constants.";

  Program program_of(const float* constants, Index count) const {
    return {reinterpret_cast<const Step*>(steps_.data()), int(steps_.size() / kFields), constants, count};
  }

  std::int64_t format_ = 0, out_channels_ = 0;
  std::vector<std::int64_t> steps_;
};

const bool ready = (threads = {parallel_for, count}, true);

}  // namespace
}  // namespace dynaconv

OPENVINO_CREATE_EXTENSIONS(std::vector<ov::Extension::Ptr>(
    {std::make_shared<ov::OpExtension<dynaconv::NativeProgram>>()}));
