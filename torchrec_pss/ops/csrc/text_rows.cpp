// Rows of delimited text, and tokens: what torchrec_pss/datasets/text_rows.py calls by ctypes, without Python's lock.
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "blake2b.h"

namespace torchrec_pss {
namespace {

// What a field is; torchrec_pss/datasets/text_rows.py has the same numbers.
enum Kind : int32_t { kIgnored = 0, kLabel = 1, kDense = 2, kSparse = 3 };

// Of a plain number. What Python reads otherwise or not at all (a sign +, blanks, _, inf, a missing label) is left to Python.
bool is_number(const char* first, const char* last, double* value) {
  const bool negative = first != last && *first == '-';
  const char* const digits = first + negative;
  if (digits == last) {
    return false;
  }
  if (last - digits <= 15) { // exact in a double
    int64_t whole = 0;
    const char* at = digits;
    for (; at != last && *at >= '0' && *at <= '9'; ++at) {
      whole = 10 * whole + (*at - '0');
    }
    if (at == last) {
      *value = negative ? -static_cast<double>(whole) : static_cast<double>(whole);
      return true;
    }
  }
  if ((*digits < '0' || *digits > '9') && *digits != '.') {
    return false;
  }
  const auto [end, error] = std::from_chars(first, last, *value);
  return error == std::errc() && end == last && std::isfinite(*value);
}

// Its bytes, little-endian and padded by zeros; of more than 8 a hash.
int64_t id_of(const char* token, int64_t length) {
  if (length > 8) {
    return blake2b(token, length);
  }
  uint64_t id = 0;
  for (int64_t i = 0; i < length; ++i) {
    id |= static_cast<uint64_t>(static_cast<unsigned char>(token[i])) << (8 * i);
  }
  return static_cast<int64_t>(id);
}

struct Columns {
  const int32_t* kinds;
  int64_t number, dense;
};

// Whether it was plain; a row's dense values are beside each other, its ids `rows` apart.
bool parse(const char* at, const char* end, char delimiter, const Columns& columns, double* dense, int64_t* ids, int64_t rows, float* label) {
  while (end != at && (end[-1] == '\r' || end[-1] == '\n')) {
    --end;
  }
  for (int64_t field = 0; field < columns.number; ++field) {
    const char* stop = at;
    for (; stop != end && *stop != delimiter; ++stop) {
      if (*stop == '"') {
        return false;
      }
    }
    if ((stop == end) != (field + 1 == columns.number)) {
      return false; // too few fields, or too many
    }
    switch (columns.kinds[field]) {
      case kLabel:
        if (stop - at != 1 || (*at != '0' && *at != '1')) {
          return false;
        }
        *label = static_cast<float>(*at - '0');
        break;
      case kDense:
        *dense = 0;
        if (stop != at && !is_number(at, stop, dense)) {
          return false;
        }
        ++dense;
        break;
      case kSparse:
        *ids = id_of(at, stop - at);
        ids += rows;
        break;
      default:
        break;
    }
    at = stop + 1;
  }
  return true;
}

} // namespace
} // namespace torchrec_pss

// Lines of `text` from `first` on, of which ends[i] is the place behind the last byte of the i-th, and one more byte (its end) is
// between two. Of those that are not plain `odd` is 1, and what was written for them is nothing. How many they are.
extern "C" int64_t torchrec_pss_parse_rows(
    const char* text, int64_t first, const int64_t* ends, int64_t rows, char delimiter, const int32_t* kinds, int64_t num_fields,
    int64_t num_dense, double* dense, int64_t* ids, float* labels, uint8_t* odd) {
  const torchrec_pss::Columns columns{kinds, num_fields, num_dense};
  int64_t number = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const bool plain = torchrec_pss::parse(
        text + first, text + ends[row], delimiter, columns, dense + row * num_dense, ids + row, rows, labels + row);
    odd[row] = !plain;
    number += !plain;
    first = ends[row] + 1;
  }
  return number;
}

// Ids of tokens: the i-th lies in `text` from offsets[i] to offsets[i + 1].
extern "C" void torchrec_pss_token_ids(const char* text, const int64_t* offsets, int64_t number, int64_t* ids) {
  for (int64_t i = 0; i < number; ++i) {
    ids[i] = torchrec_pss::id_of(text + offsets[i], offsets[i + 1] - offsets[i]);
  }
}
