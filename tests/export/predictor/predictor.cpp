// A predictor process without Python: loads fbgemm's operators and a scripted predict module,
// answers one batch, prints a score a line.
//
//   predictor MODULE BATCH OPERATORS.so...
//
// BATCH is text: the number of lengths, the lengths, the number of values, the values.

#include <dlfcn.h>
#include <torch/script.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

template <typename T>
torch::Tensor read_tensor(std::istream& in, torch::ScalarType type) {
  std::size_t count = 0;
  if (!(in >> count)) throw std::runtime_error("the batch ends early");
  std::vector<T> numbers(count);
  for (T& number : numbers)
    if (!(in >> number)) throw std::runtime_error("the batch ends early");
  return torch::tensor(numbers, torch::dtype(type));
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 4) {
    std::cerr << "usage: predictor MODULE BATCH OPERATORS.so...\n";
    return 2;
  }
  for (int i = 3; i < argc; ++i)
    if (dlopen(argv[i], RTLD_NOW | RTLD_GLOBAL) == nullptr) throw std::runtime_error(dlerror());
  torch::jit::Module module = torch::jit::load(argv[1]);
  module.eval();

  std::ifstream file(argv[2]);
  c10::Dict<std::string, torch::Tensor> batch;
  batch.insert("id_list_features.lengths", read_tensor<std::int32_t>(file, torch::kInt32));
  batch.insert("id_list_features.values", read_tensor<std::int64_t>(file, torch::kInt64));
  batch.insert("float_features", torch::empty({0, 0}));

  c10::InferenceMode guard;
  const auto answer = module.forward({batch}).toGenericDict();
  const torch::Tensor scores = answer.at("default").toTensor().contiguous();
  for (std::int64_t i = 0; i < scores.numel(); ++i)
    std::printf("%.9g\n", scores.data_ptr<float>()[i]);
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
