// Runs native programs from files, without torch: for processors that torch is not installed on, or emulated ones.
// tools/check_arm.py writes the files: counts, steps, constants, input, expected output.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <vector>

#include "program.h"

namespace {

template <class T>
std::vector<T> read(std::FILE* file, std::size_t count) {
  std::vector<T> values(count);
  if (std::fread(values.data(), sizeof(T), count, file) != count) throw std::runtime_error("the file ends too early");
  return values;
}

// The largest difference from what is expected, by the largest value that is.
double difference(const char* path) {
  std::FILE* file = std::fopen(path, "rb");
  if (!file) throw std::runtime_error("there is no such file");
  // Steps, constants, batch, channels, height and width of the input, floats of the output.
  const auto head = read<std::int64_t>(file, 7);
  const auto steps = read<std::int64_t>(file, std::size_t(head[0]) * dynaconv::kFields);
  const auto constants = read<float>(file, std::size_t(head[1]));
  const auto images = read<float>(file, std::size_t(head[2] * head[3] * head[4] * head[5]));
  const auto want = read<float>(file, std::size_t(head[6]));
  std::fclose(file);
  // The kernels read vectors where they are aligned.
  auto* aligned = static_cast<float*>(std::aligned_alloc(64, (constants.size() + 16) / 16 * 64));
  std::copy(constants.begin(), constants.end(), aligned);
  const auto* first = reinterpret_cast<const dynaconv::Step*>(steps.data());
  const dynaconv::Program program{first, int(head[0]), aligned, head[1]};
  const dynaconv::Input input{images.data(), head[2], head[3], head[4], head[5],
                              head[3] * head[4] * head[5], head[4] * head[5], head[5], 1};
  dynaconv::check(program, input);
  std::vector<float> out(want.size(), NAN);
  dynaconv::run(program, input, out.data());
  std::free(aligned);
  double worst = 0, largest = 1e-30;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double here = std::abs(double(out[i]) - double(want[i]));
    worst = here <= worst ? worst : here;   // NaN is worse than any number
    largest = std::max(largest, std::abs(double(want[i])));
  }
  return worst / largest;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::printf("%s\n", dynaconv::kernels().name);
    for (int i = 1; i < argc; ++i) std::printf("%.3e %s\n", difference(argv[i]), argv[i]);
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "%s\n", problem.what());
    return 1;
  }
}
