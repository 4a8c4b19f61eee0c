// A predictor process without Python: loads fbgemm's operators and a scripted predict module,
// answers one batch, prints a score a line.
//
//   predictor [--as-server=ROWS] MODULE BATCH OPERATORS.so...
//
// BATCH is text: the number of lengths, the lengths, the number of values, the values.
//
// With --as-server it asks as TorchRec's own server does (torchrec/inference/server.cpp), but on the
// CPU: once with dummies of fixed shapes, then with numbers of four bytes and a float for each row.

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

float warm_up(torch::jit::Module& module) {
  c10::Dict<std::string, torch::Tensor> batch;
  batch.insert("float_features", torch::ones({1, 13}, torch::kFloat32));
  batch.insert("id_list_features.lengths", torch::ones({26}, torch::kLong));
  batch.insert("id_list_features.values", torch::ones({26}, torch::kLong));
  return module.forward({batch}).toGenericDict().at("default").toTensor().item<float>();
}

}  // namespace

int main(int argc, char** argv) try {
  const std::string option = "--as-server=";
  std::int64_t rows = 0;
  if (argc > 1 && std::string(argv[1]).rfind(option, 0) == 0) {
    rows = std::stoll(argv[1] + option.size());
    --argc, ++argv;
  }
  if (argc < 4) {
    std::cerr << "usage: predictor [--as-server=ROWS] MODULE BATCH OPERATORS.so...\n";
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
  if (rows > 0) {
    warm_up(module);
    for (const char* name : {"id_list_features.lengths", "id_list_features.values"})
      batch.insert_or_assign(name, batch.at(name).to(torch::kInt32));
    batch.insert_or_assign("float_features", torch::zeros({rows, 1}));
  }
  const auto answer = module.forward({batch}).toGenericDict();
  const torch::Tensor scores = answer.at("default").toTensor().contiguous();
  for (std::int64_t i = 0; i < scores.numel(); ++i)
    std::printf("%.9g\n", scores.data_ptr<float>()[i]);
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
