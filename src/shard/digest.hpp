#pragma once
// An order-free digest of tensors: pieces of any cut, on any ranks, add up to the same 64 bits.
//
// A tensor of name t with fp32 bits x[0..n) has, modulo 2^64,
//     D(t) = mix(h, n) + sum over blocks b of 1024 elements of P(h, b) * sum over j of K[j] * x[1024 b + j]
// with h a hash of the name, K a fixed table of random 64-bit keys and P a random odd factor of the block. It is linear
// in x, so a cut may lie anywhere; one changed element always changes it, others but for one case in about 2^32.
// Not cryptographic. Source: multilinear hashing (Carter and Wegman 1979).
#include <cstdint>

namespace tessera::shard {

/// What elements [begin, begin + count) of a tensor of `numel` elements contribute. `key`: a hash of its name.
std::uint64_t digest_piece(std::uint64_t key, std::int64_t numel, std::int64_t begin, const float* values,
                           std::int64_t count) noexcept;

}  // namespace tessera::shard
