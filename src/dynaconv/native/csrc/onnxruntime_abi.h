// The part of ONNX Runtime's C API that a custom operator needs. Its layout never changes: later versions only append
// to it. It is declared here because ONNX Runtime's Python package has no headers. Source: ONNX Runtime's documentation
// of `OrtApi` and `OrtCustomOp`, version 17 of the API (ONNX Runtime 1.17). `RegisterCustomOps` checks that the runtime
// has that version; tests/export/test_native_form.py calls the functions in the installed one.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dynaconv::ort {

constexpr std::uint32_t kVersion = 17;
constexpr int kFloat = 1, kInt32 = 6;   // element types
constexpr int kFail = 1;           // an error code

struct Status;
struct KernelInfo;
struct KernelContext;
struct Value;
struct TensorInfo;
struct SessionOptions;
struct Domain;

// A table of functions, called by their index. All functions except `create_status` and `release` return a status,
// which is null on success.
class Api {
 public:
  Status* create_status(int code, const char* message) const {
    return at<Status*(int, const char*)>(0)(code, message);
  }
  Status* create_domain(const char* name, Domain** out) const {
    return at<Status*(const char*, Domain**)>(26)(name, out);
  }
  Status* add_operator(Domain* domain, const struct CustomOp* op) const {
    return at<Status*(Domain*, const CustomOp*)>(27)(domain, op);
  }
  Status* add_domain(SessionOptions* options, Domain* domain) const {
    return at<Status*(SessionOptions*, Domain*)>(28)(options, domain);
  }
  Status* data(Value* value, void** out) const { return at<Status*(Value*, void**)>(51)(value, out); }
  Status* num_dims(const TensorInfo* info, std::size_t* out) const {
    return at<Status*(const TensorInfo*, std::size_t*)>(61)(info, out);
  }
  Status* dims(const TensorInfo* info, std::int64_t* out, std::size_t length) const {
    return at<Status*(const TensorInfo*, std::int64_t*, std::size_t)>(62)(info, out, length);
  }
  Status* tensor_info(const Value* value, TensorInfo** out) const {
    return at<Status*(const Value*, TensorInfo**)>(65)(value, out);
  }
  Status* integer(const KernelInfo* info, const char* name, std::int64_t* out) const {
    return at<Status*(const KernelInfo*, const char*, std::int64_t*)>(86)(info, name, out);
  }
  Status* input(const KernelContext* context, std::size_t index, const Value** out) const {
    return at<Status*(const KernelContext*, std::size_t, const Value**)>(90)(context, index, out);
  }
  Status* output(KernelContext* context, std::size_t index, const std::int64_t* dims, std::size_t count,
                 Value** out) const {
    return at<Status*(KernelContext*, std::size_t, const std::int64_t*, std::size_t, Value**)>(91)(context, index, dims,
                                                                                                  count, out);
  }
  void release(Status* status) const { at<void(Status*)>(93)(status); }
  void release(TensorInfo* info) const { at<void(TensorInfo*)>(99)(info); }
  void release(Domain* domain) const { at<void(Domain*)>(101)(domain); }
  Status* integers(const KernelInfo* info, const char* name, std::int64_t* out, std::size_t* size) const {
    return at<Status*(const KernelInfo*, const char*, std::int64_t*, std::size_t*)>(163)(info, name, out, size);
  }
  Status* parallel_for(const KernelContext* context, void (*fn)(void*, std::size_t), std::size_t total,
                       std::size_t batches, void* data) const {
    return at<Status*(const KernelContext*, void (*)(void*, std::size_t), std::size_t, std::size_t, void*)>(274)(
        context, fn, total, batches, data);
  }

 private:
  template <class F>
  F* at(int index) const {
    return reinterpret_cast<F*>(functions_[index]);
  }

  void (*functions_[275])();
};

struct ApiBase {
  const Api* (*get)(std::uint32_t version);   // null if the runtime is older
  const char* (*version)();
};

// The functions that an operator gives to the runtime; optional ones may be null.
struct CustomOp {
  using Self = const CustomOp*;
  std::uint32_t version;
  void* (*create_v1)(Self, const Api*, const KernelInfo*);
  const char* (*name)(Self);
  const char* (*provider)(Self);
  int (*input_type)(Self, std::size_t);
  std::size_t (*num_inputs)(Self);
  int (*output_type)(Self, std::size_t);
  std::size_t (*num_outputs)(Self);
  void (*compute_v1)(void*, KernelContext*);
  void (*destroy)(void*);
  int (*input_presence)(Self, std::size_t);     // 0: required
  int (*output_presence)(Self, std::size_t);
  int (*input_memory)(Self, std::size_t);       // 0: memory of the device that the operator runs on
  int (*variadic_inputs)(Self);
  int (*homogeneous_inputs)(Self);
  int (*variadic_outputs)(Self);
  int (*homogeneous_outputs)(Self);
  Status* (*create)(Self, const Api*, const KernelInfo*, void**);
  Status* (*compute)(void*, KernelContext*);
  Status* (*infer_shape)(Self, void*);
  int (*first_version)(Self);
  int (*last_version)(Self);
};

}  // namespace dynaconv::ort
