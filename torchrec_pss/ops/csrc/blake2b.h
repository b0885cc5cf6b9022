// BLAKE2b with a digest of 8 bytes, without a key (RFC 7693): the ids of tokens that are longer.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>

namespace torchrec_pss {

constexpr std::array<uint64_t, 8> kBlakeStart = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};

// The words of a block that each round mixes in, in its order.
constexpr uint8_t kBlakeOrder[12][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3}};

inline void blake_block(std::array<uint64_t, 8>& state, const unsigned char* block, uint64_t bytes, bool last) {
  uint64_t words[16], v[16];
  std::memcpy(words, block, sizeof(words));
  std::copy(state.begin(), state.end(), v);
  std::copy(kBlakeStart.begin(), kBlakeStart.end(), v + 8);
  v[12] ^= bytes;
  v[14] ^= last ? ~uint64_t(0) : 0;
  const auto mix = [&](int a, int b, int c, int d, uint64_t x, uint64_t y) {
    v[a] += v[b] + x;
    v[d] = std::rotr(v[d] ^ v[a], 32);
    v[c] += v[d];
    v[b] = std::rotr(v[b] ^ v[c], 24);
    v[a] += v[b] + y;
    v[d] = std::rotr(v[d] ^ v[a], 16);
    v[c] += v[d];
    v[b] = std::rotr(v[b] ^ v[c], 63);
  };
  for (const auto& order : kBlakeOrder) {
    for (int i = 0; i < 4; ++i) { // columns, then diagonals
      mix(i, 4 + i, 8 + i, 12 + i, words[order[2 * i]], words[order[2 * i + 1]]);
    }
    for (int i = 0; i < 4; ++i) {
      mix(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, words[order[8 + 2 * i]], words[order[9 + 2 * i]]);
    }
  }
  for (int i = 0; i < 8; ++i) {
    state[i] ^= v[i] ^ v[i + 8];
  }
}

// The digest's 8 bytes, little-endian.
inline int64_t blake2b(const char* text, int64_t length) {
  constexpr int64_t kBlock = 128;
  std::array<uint64_t, 8> state = kBlakeStart;
  state[0] ^= 0x01010000 ^ sizeof(uint64_t);
  int64_t done = 0;
  for (; length - done > kBlock; done += kBlock) {
    blake_block(state, reinterpret_cast<const unsigned char*>(text) + done, done + kBlock, false);
  }
  unsigned char rest[kBlock] = {};
  std::copy(text + done, text + length, rest);
  blake_block(state, rest, length, true);
  return std::bit_cast<int64_t>(state[0]);
}

} // namespace torchrec_pss
