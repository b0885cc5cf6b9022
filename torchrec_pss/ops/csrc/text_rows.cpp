// Rows of delimited text, and tokens: what torchrec_pss/datasets/text_rows.py calls by ctypes, without Python's lock.
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "blake2b.h"

namespace torchrec_pss {
namespace {

// What a field is; torchrec_pss/datasets/text_rows.py has the same numbers.
enum Kind : int32_t { kIgnored = 0, kLabel = 1, kDense = 2, kSparse = 3, kBag = 4, kTime = 5 };

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

// Whether it was plain; a row's dense values are beside each other, its ids `rows` apart, and so are the two ends of its bags' fields in
// the text, which begins at `text`.
bool parse(
    const char* text, const char* at, const char* end, char delimiter, const Columns& columns, double* dense, int64_t* ids, int64_t* spans,
    int64_t rows, float* label) {
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
      case kTime:
        *dense = 0;
        if ((stop != at || columns.kinds[field] == kTime) && !is_number(at, stop, dense)) {
          return false;
        }
        ++dense;
        break;
      case kSparse:
        *ids = id_of(at, stop - at);
        ids += rows;
        break;
      case kBag:
        spans[0] = at - text;
        spans[1] = stop - text;
        spans += 2 * rows;
        break;
      default:
        break;
    }
    at = stop + 1;
  }
  return true;
}

// Hands each piece of the fields that is not empty, and its field's number, to `take`; how many there were.
template <typename Take>
int64_t split(const char* text, const int64_t* spans, int64_t rows, char separator, int32_t* lengths, Take take) {
  int64_t number = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t before = number;
    const char* const end = text + spans[2 * row + 1];
    for (const char* at = text + spans[2 * row]; at < end;) {
      const void* const found = std::memchr(at, separator, end - at);
      const char* const stop = found == nullptr ? end : static_cast<const char*>(found);
      if (stop != at) {
        take(number++, at, stop, row);
      }
      at = stop + 1;
    }
    lengths[row] = static_cast<int32_t>(number - before);
  }
  return number;
}

} // namespace
} // namespace torchrec_pss

// Lines of `text` from `first` on, of which ends[i] is the place behind the last byte of the i-th, and one more byte (its end) is
// between two. Of those that are not plain `odd` is 1, and what was written for them is nothing. How many they are.
extern "C" int64_t torchrec_pss_parse_rows(
    const char* text, int64_t first, const int64_t* ends, int64_t rows, char delimiter, const int32_t* kinds, int64_t num_fields,
    int64_t num_dense, double* dense, int64_t* ids, float* labels, int64_t* spans, uint8_t* odd) {
  const torchrec_pss::Columns columns{kinds, num_fields, num_dense};
  int64_t number = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const bool plain = torchrec_pss::parse(
        text, text + first, text + ends[row], delimiter, columns, dense + row * num_dense, ids + row, spans + 2 * row, rows, labels + row);
    odd[row] = !plain;
    number += !plain;
    first = ends[row] + 1;
  }
  return number;
}

// Ids of tokens: the i-th lies in `text` from offsets[i] to offsets[i + 1].
extern "C" int64_t torchrec_pss_token_ids(const char* text, const int64_t* offsets, int64_t number, int64_t* ids) {
  for (int64_t i = 0; i < number; ++i) {
    ids[i] = torchrec_pss::id_of(text + offsets[i], offsets[i + 1] - offsets[i]);
  }
  return number;
}

// Of fields that lie in `text` from spans[2 i] to spans[2 i + 1] the ids of all tokens that are not empty, and how many each has. How many
// there are in all: at most one for two bytes, and one more a field.
extern "C" int64_t torchrec_pss_split_ids(
    const char* text, const int64_t* spans, int64_t rows, char separator, int64_t* ids, int32_t* lengths, uint8_t*) {
  return torchrec_pss::split(text, spans, rows, separator, lengths, [ids](int64_t number, const char* at, const char* stop, int64_t) {
    ids[number] = torchrec_pss::id_of(at, stop - at);
  });
}

// Likewise numbers; where one is not plain, its row becomes odd.
extern "C" int64_t torchrec_pss_split_numbers(
    const char* text, const int64_t* spans, int64_t rows, char separator, float* numbers, int32_t* lengths, uint8_t* odd) {
  return torchrec_pss::split(
      text, spans, rows, separator, lengths, [numbers, odd](int64_t number, const char* at, const char* stop, int64_t row) {
        double value = 0;
        const bool plain = torchrec_pss::is_number(at, stop, &value) && std::isfinite(static_cast<float>(value));
        numbers[number] = static_cast<float>(value);
        odd[row] |= !plain;
      });
}
