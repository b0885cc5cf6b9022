// Answers from a file of `torchrec-pss export RUN --output FILE --aoti`, without Python.
//
//     client FILE < rows.txt
//
// A row is a line: the dense values, then the ids of each feature, separated by spaces; several ids of one feature by commas, none is "-".
// Prints a probability a line. Exit status 2: a line that is no row, or an id that the model has no row for.

#include <cctype>
#include <exception>
#include <iomanip>
#include <iostream>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

namespace {

constexpr int64_t kRowsARun = 4096;

// Of a shape such as "13" in "float32 Bx13" or "26" in "int64 26xB": the number beside the rows.
int64_t number_beside_rows(const std::string& said) {
  for (size_t i = 0; i < said.size(); ++i) {
    if (std::isdigit(said[i]) && (said[i - 1] == ' ' || said[i - 1] == 'x')) {
      return std::stoll(said.substr(i));
    }
  }
  throw std::invalid_argument("the file's metadata have no number in \"" + said + "\"");
}

template <typename Number>
Number number_of(const std::string& text, const std::string& what) {
  std::istringstream stream(text);
  Number number;
  if (!(stream >> number) || !stream.eof()) {
    throw std::invalid_argument(what + " is no number: \"" + text + "\"");
  }
  return number;
}

struct Rows {
  std::vector<float> dense;
  std::vector<std::vector<int64_t>> ids; // by row, then feature
  int64_t count = 0;
};

void add(Rows& rows, const std::string& line, int64_t num_dense, int64_t num_features, int64_t number) {
  std::istringstream fields(line);
  std::string field;
  const std::string where = "row " + std::to_string(number) + ": ";
  for (int64_t d = 0; d < num_dense; ++d) {
    if (!(fields >> field)) {
      throw std::invalid_argument(where + "has fewer than " + std::to_string(num_dense) + " dense values");
    }
    rows.dense.push_back(number_of<float>(field, where + "dense value " + std::to_string(d)));
  }
  for (int64_t f = 0; f < num_features; ++f) {
    if (!(fields >> field)) {
      throw std::invalid_argument(where + "has ids of fewer than " + std::to_string(num_features) + " features");
    }
    std::vector<int64_t>& bag = rows.ids.emplace_back();
    std::istringstream several(field == "-" ? "" : field);
    for (std::string id; std::getline(several, id, ',');) {
      bag.push_back(number_of<int64_t>(id, where + "an id of feature " + std::to_string(f)));
    }
  }
  if (fields >> field) {
    throw std::invalid_argument(where + "has more fields than the model takes");
  }
  ++rows.count;
}

// The program's arguments: dense [B, d], values [L] and lengths [F, B], feature after feature.
std::vector<at::Tensor> tensors_of(Rows& rows, int64_t num_dense, int64_t num_features) {
  std::vector<int64_t> values, lengths;
  for (int64_t f = 0; f < num_features; ++f) {
    for (int64_t r = 0; r < rows.count; ++r) {
      const std::vector<int64_t>& bag = rows.ids[r * num_features + f];
      values.insert(values.end(), bag.begin(), bag.end());
      lengths.push_back(static_cast<int64_t>(bag.size()));
    }
  }
  return {
      torch::tensor(rows.dense, torch::kFloat).view({rows.count, num_dense}), torch::tensor(values, torch::kLong),
      torch::tensor(lengths, torch::kLong).view({num_features, rows.count})};
}

} // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: client FILE.pt2 < rows.txt\n";
    return 2;
  }
  try {
    const c10::InferenceMode no_gradients;
    torch::inductor::AOTIModelPackageLoader model(argv[1], "model");
    const auto metadata = model.get_metadata();
    const int64_t num_dense = number_beside_rows(metadata.at("torchrec_pss.dense"));
    const int64_t num_features = number_beside_rows(metadata.at("torchrec_pss.lengths"));
    std::cout << std::setprecision(std::numeric_limits<float>::max_digits10);
    std::string line;
    int64_t number = 0;
    for (bool more = true; more;) {
      Rows rows;
      while (rows.count < kRowsARun && (more = static_cast<bool>(std::getline(std::cin, line)))) {
        add(rows, line, num_dense, num_features, number++);
      }
      if (rows.count > 0) {
        const at::Tensor probabilities = model.run(tensors_of(rows, num_dense, num_features)).at(0);
        for (int64_t r = 0; r < rows.count; ++r) {
          std::cout << probabilities.const_data_ptr<float>()[r] << '\n';
        }
      }
    }
  } catch (const c10::Error& error) {
    std::cerr << "error: " << error.what_without_backtrace() << '\n';
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 2;
  }
}
