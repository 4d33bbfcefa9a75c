// Classifies a picture with a network that `dynaconv export` wrote, in ONNX Runtime, without Python and torch.
//
//     classify network.onnx picture.ppm [libdynaconv_onnxruntime.so]
//
// The picture is a binary PPM (P6) or PGM (P5) file. The library has the operators of files written with `--native`;
// `python -m dynaconv.native.build --runtime onnxruntime` prints its path. docs/native.md says how to compile this file.
#include <onnxruntime_c_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

const OrtApi* ort = nullptr;

void check(OrtStatus* status) {
  if (!status) return;
  std::string message = ort->GetErrorMessage(status);
  ort->ReleaseStatus(status);
  throw std::runtime_error(message);
}

// A picture of one or three channels, row by row, with the channels of a pixel together.
struct Picture {
  int height, width, channels;
  std::vector<float> values;

  float& at(int y, int x, int c) { return values[(std::size_t(y) * width + x) * channels + c]; }
  float at(int y, int x, int c) const { return values[(std::size_t(y) * width + x) * channels + c]; }
};

Picture read_picture(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind, comment;
  int width = 0, height = 0, largest = 0;
  file >> kind;
  for (int* number : {&width, &height, &largest}) {
    while ((file >> std::ws).peek() == '#') std::getline(file, comment);
    file >> *number;
  }
  if (!file || (kind != "P5" && kind != "P6") || largest != 255 || width < 1 || height < 1) {
    throw std::runtime_error(path + " is no binary PPM or PGM file with values up to 255");
  }
  Picture picture{height, width, kind == "P6" ? 3 : 1, {}};
  file.get();
  std::vector<char> bytes(std::size_t(height) * width * picture.channels);
  if (!file.read(bytes.data(), std::streamsize(bytes.size()))) throw std::runtime_error(path + " ends too early");
  for (char byte : bytes) picture.values.push_back(static_cast<unsigned char>(byte));
  return picture;
}

Picture with_channels(const Picture& picture, int channels) {
  if (picture.channels == channels) return picture;
  Picture result{picture.height, picture.width, channels, {}};
  for (std::size_t i = 0; i < picture.values.size(); i += picture.channels) {
    const float* v = &picture.values[i];
    // ITU-R 601-2 luma, as PIL converts to grey.
    float grey = picture.channels == 1 ? v[0] : std::round(0.299f * v[0] + 0.587f * v[1] + 0.114f * v[2]);
    result.values.insert(result.values.end(), channels, grey);
  }
  return result;
}

// Resizes the columns with a triangle filter, which is bilinear with antialiasing, and swaps rows and columns.
Picture resized_and_turned(const Picture& picture, int width) {
  Picture result{width, picture.height, picture.channels, {}};
  result.values.resize(std::size_t(width) * picture.height * picture.channels);
  double scale = double(picture.width) / width, support = std::max(scale, 1.0);
  for (int x = 0; x < width; ++x) {
    double center = (x + 0.5) * scale;
    int first = std::max(0, int(center - support + 0.5)), last = std::min(picture.width, int(center + support + 0.5));
    std::vector<double> weights;
    for (int i = first; i < last; ++i) weights.push_back(std::max(0.0, 1 - std::abs(i + 0.5 - center) / support));
    double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    for (int y = 0; y < picture.height; ++y) {
      for (int c = 0; c < picture.channels; ++c) {
        double value = 0;
        for (int i = first; i < last; ++i) value += weights[i - first] / sum * picture.at(y, i, c);
        result.at(x, y, c) = float(value);
      }
    }
  }
  return result;
}

Picture resized(const Picture& picture, int height, int width) {
  if (picture.height == height && picture.width == width) return picture;
  Picture result = resized_and_turned(resized_and_turned(picture, width), height);
  for (float& value : result.values) value = std::round(value);
  return result;
}

Picture cropped(const Picture& picture, int height, int width) {
  int top = (picture.height - height) / 2, left = (picture.width - width) / 2;
  Picture result{height, width, picture.channels, {}};
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      for (int c = 0; c < picture.channels; ++c) result.values.push_back(picture.at(top + y, left + x, c));
    }
  }
  return result;
}

std::vector<double> numbers(const std::string& text) {
  std::vector<double> found;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) found.push_back(std::stod(part));
  return found;
}

std::vector<std::string> lines(const std::string& text) {
  std::vector<std::string> found;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) found.push_back(line);
  return found;
}

// A network in ONNX Runtime, and what its file says of its images and classes.
class Network {
 public:
  Network(const char* file, const char* library) {
    check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "classify", &env_));
    OrtSessionOptions* options = nullptr;
    check(ort->CreateSessionOptions(&options));
    void* handle = nullptr;  // the library stays loaded until the program ends
    if (library) check(ort->RegisterCustomOpsLibrary(options, library, &handle));
    check(ort->CreateSession(env_, file, options, &session_));
    ort->ReleaseSessionOptions(options);
    check(ort->SessionGetModelMetadata(session_, &metadata_));
    check(ort->GetAllocatorWithDefaultOptions(&allocator_));
  }

  ~Network() {
    ort->ReleaseModelMetadata(metadata_);
    ort->ReleaseSession(session_);
    ort->ReleaseEnv(env_);
  }

  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;

  // An entry of the metadata; "" if there is none.
  std::string entry(const std::string& key) const {
    char* text = nullptr;
    check(ort->ModelMetadataLookupCustomMetadataMap(metadata_, allocator_, ("dynaconv." + key).c_str(), &text));
    if (!text) return "";
    std::string copy = text;
    check(ort->AllocatorFree(allocator_, text));
    return copy;
  }

  // The picture in the size and the channels that the network expects.
  Picture prepared(const Picture& given) const {
    std::vector<double> size = numbers(entry("image_size"));
    if (size.size() != 2) throw std::runtime_error("the file says nothing of its images; export it with `info`");
    int height = int(size[0]), width = int(size[1]);
    Picture picture = with_channels(given, entry("colors") == "L" ? 1 : 3);
    if (entry("crop_mode") != "center") return resized(picture, height, width);
    double factor = std::floor(std::min(height, width) / std::stod(entry("crop_pct"))) /
                    std::min(picture.height, picture.width);
    int tall = std::max(height, int(picture.height * factor)), wide = std::max(width, int(picture.width * factor));
    return cropped(resized(picture, tall, wide), height, width);
  }

  std::vector<float> scores(const Picture& picture) const {
    bool pixels = entry("input") == "uint8 BHWC";
    std::vector<double> mean = numbers(entry("mean")), deviation = numbers(entry("std"));
    std::vector<std::uint8_t> bytes;
    std::vector<float> values;
    if (pixels) {
      for (float value : picture.values) bytes.push_back(std::uint8_t(std::clamp(value, 0.0f, 255.0f)));
    } else {
      for (int c = 0; c < picture.channels; ++c) {
        for (int y = 0; y < picture.height; ++y) {
          for (int x = 0; x < picture.width; ++x) {
            values.push_back(float((picture.at(y, x, c) / 255 - mean.at(c)) / deviation.at(c)));
          }
        }
      }
    }
    std::int64_t rows = picture.height, columns = picture.width, channels = picture.channels;
    std::vector<std::int64_t> shape = pixels ? std::vector<std::int64_t>{1, rows, columns, channels}
                                             : std::vector<std::int64_t>{1, channels, rows, columns};
    return pixels ? run(bytes, shape, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8)
                  : run(values, shape, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
  }

 private:
  template <class T>
  std::vector<float> run(std::vector<T>& data, const std::vector<std::int64_t>& shape,
                         ONNXTensorElementDataType type) const {
    OrtMemoryInfo* memory = nullptr;
    OrtValue *input = nullptr, *output = nullptr;
    check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
    check(ort->CreateTensorWithDataAsOrtValue(memory, data.data(), data.size() * sizeof(T), shape.data(), shape.size(),
                                              type, &input));
    ort->ReleaseMemoryInfo(memory);
    const char *input_name = "images", *output_name = "output";
    check(ort->Run(session_, nullptr, &input_name, &input, 1, &output_name, 1, &output));
    OrtTensorTypeAndShapeInfo* info = nullptr;
    std::size_t count = 0;
    float* found = nullptr;
    check(ort->GetTensorTypeAndShape(output, &info));
    check(ort->GetTensorShapeElementCount(info, &count));
    check(ort->GetTensorMutableData(output, reinterpret_cast<void**>(&found)));
    std::vector<float> scores(found, found + count);
    ort->ReleaseTensorTypeAndShapeInfo(info);
    ort->ReleaseValue(output);
    ort->ReleaseValue(input);
    return scores;
  }

  OrtEnv* env_ = nullptr;
  OrtSession* session_ = nullptr;
  OrtModelMetadata* metadata_ = nullptr;
  OrtAllocator* allocator_ = nullptr;
};

void classify(const char* file, const char* picture, const char* library) {
  Network network(file, library);
  std::vector<float> scores = network.scores(network.prepared(read_picture(picture)));
  std::vector<std::string> names = lines(network.entry("class_names"));
  float largest = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (float score : scores) sum += std::exp(double(score - largest));
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
  for (std::size_t i = 0; i < std::min<std::size_t>(3, order.size()); ++i) {
    std::string name = order[i] < names.size() ? names[order[i]] : "class " + std::to_string(order[i]);
    std::printf("%6.2f %%  %s\n", 100 * std::exp(double(scores[order[i]] - largest)) / sum, name.c_str());
  }
}

}  // namespace

int main(int count, char** words) {
  if (count != 3 && count != 4) {
    std::fprintf(stderr, "usage: %s network.onnx picture.ppm [libdynaconv_onnxruntime.so]\n", words[0]);
    return 2;
  }
  ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (!ort) {
    std::fprintf(stderr, "ONNX Runtime %s is older than the header\n", OrtGetApiBase()->GetVersionString());
    return 1;
  }
  try {
    classify(words[1], words[2], count == 4 ? words[3] : nullptr);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
