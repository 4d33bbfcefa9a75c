// The operation as OpenVINO sees it. The only file that knows OpenVINO; with the kernels it makes an extension library.
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

// OpenVINO calls an operation inside the arena of its stream, which has as many threads as the stream was given.
void parallel_for(Index n, void (*fn)(Index, Index, void*), void* context) {
  // The calling thread keeps the first index, which leads, and offers the others.
  tbb::parallel_for(
      tbb::blocked_range<Index>(0, n, 1), [&](const auto& range) { fn(range.begin(), range.end(), context); },
      tbb::simple_partitioner());
}

int count() { return tbb::this_task_arena::max_concurrency(); }

// `dynaconv.NativeProgram`: images (B, C, H, W) and the constants, both float32, to images (B, H', W', C').
class NativeProgram : public ov::op::Op {
 public:
  OPENVINO_OP("NativeProgram", "dynaconv");

  NativeProgram() = default;

  void validate_and_infer_types() override {
    for (std::size_t i = 0; i < 2; ++i)
      NODE_VALIDATION_CHECK(this, get_input_element_type(i).compatible(ov::element::f32),
                            "dynaconv's native kernels compute in float32.");
    NODE_VALIDATION_CHECK(this, format_ == kFormat, "the file was written for other native kernels (format ", format_,
                          ") than these (format ", kFormat, "); export the network again.");
    NODE_VALIDATION_CHECK(this, steps_.size() % kFields == 0 && !steps_.empty() && sizes_.size() % 4 == 0,
                          "the native program is damaged: it is not one of whole steps.");
    const ov::PartialShape images = get_input_partial_shape(0);
    NODE_VALIDATION_CHECK(this, images.rank().compatible(4), "the native program takes images (B, C, H, W).");
    if (images.rank().is_dynamic())
      return set_output_type(0, ov::element::f32, {-1, -1, -1, out_channels_});
    ov::Dimension height = images[2], width = images[3];
    for (std::size_t i = 0; i < sizes_.size(); i += 4) {
      height = resized(height, sizes_[i], sizes_[i + 1]);
      width = resized(width, sizes_[i + 2], sizes_[i + 3]);
    }
    set_output_type(0, ov::element::f32, {images[0], height, width, out_channels_});
  }

  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
    auto copy = std::make_shared<NativeProgram>();
    copy->set_arguments(inputs);
    copy->format_ = format_;
    copy->out_channels_ = out_channels_;
    copy->steps_ = steps_;
    copy->sizes_ = sizes_;
    copy->validate_and_infer_types();
    return copy;
  }

  bool visit_attributes(ov::AttributeVisitor& visitor) override {
    visitor.on_attribute("format", format_);
    visitor.on_attribute("out_channels", out_channels_);
    visitor.on_attribute("steps", steps_);
    visitor.on_attribute("sizes", sizes_);
    return true;
  }

  bool has_evaluate() const override { return true; }

  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
    const ov::Tensor &images = inputs[0], &constants = inputs[1];
    const ov::Shape shape = images.get_shape();
    const Program program{reinterpret_cast<const Step*>(steps_.data()), int(steps_.size() / kFields),
                          constants.data<const float>(), Index(constants.get_size())};
    const Index channels = Index(shape[1]), height = Index(shape[2]), width = Index(shape[3]);
    const Input input{images.data<const float>(),  Index(shape[0]), channels, height, width,
                      channels * height * width, height * width,  width,    1};
    const Call call(program, input, out_channels_);
    outputs[0].set_shape({shape[0], std::size_t(call.size().height), std::size_t(call.size().width),
                          std::size_t(out_channels_)});
    call.run(outputs[0].data<float>());
    return true;
  }

 private:
  // Pixels along an axis: n become (n + offset) / stride + 1, or one where the stride is 0.
  static ov::Dimension resized(const ov::Dimension& size, std::int64_t offset, std::int64_t stride) {
    if (!stride) return 1;
    if (size.is_dynamic()) return ov::Dimension::dynamic();
    return (size.get_length() + offset) / stride + 1;
  }

  std::int64_t format_ = 0, out_channels_ = 0;
  std::vector<std::int64_t> steps_, sizes_;
};

const bool ready = (threads = {parallel_for, count}, true);

}  // namespace
}  // namespace dynaconv

OPENVINO_CREATE_EXTENSIONS(std::vector<ov::Extension::Ptr>(
    {std::make_shared<ov::OpExtension<dynaconv::NativeProgram>>()}));
