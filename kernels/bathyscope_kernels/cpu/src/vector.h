// Sixteen floats at a time, in the compiler's own vectors: AVX-512, AVX2, NEON or plain code.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace bathyscope {

constexpr int64_t kLanes = 16;
typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Bits __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));

inline Floats load(const float* from) {
  Floats v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
inline void store(float* to, Floats v) { std::memcpy(to, &v, sizeof v); }
inline Floats fill(float value) { return value - Floats{}; }

// bfloat16 is the upper half of a float.
inline Floats load(const uint16_t* from) {
  Halves h;
  std::memcpy(&h, from, sizeof h);
  Bits bits = __builtin_convertvector(h, Bits) << 16;
  return (Floats)bits;
}
inline Floats absolute(Floats v) { return (Floats)((Bits)v & 0x7fffffffu); }
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

// One bit for each lane that is not below `bound`; NaN counts as not below.
inline uint32_t not_below(Floats v, float bound) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)v, _mm512_set1_ps(bound), _CMP_NLT_UQ);
#elif defined(__AVX2__)
  __m256 half[2], limit = _mm256_set1_ps(bound);
  std::memcpy(half, &v, sizeof v);
  uint32_t low = _mm256_movemask_ps(_mm256_cmp_ps(half[0], limit, _CMP_NLT_UQ));
  uint32_t high = _mm256_movemask_ps(_mm256_cmp_ps(half[1], limit, _CMP_NLT_UQ));
  return low | high << 8;
#else
  uint32_t mask = 0;
  for (int i = 0; i < kLanes; ++i) mask |= uint32_t(!(v[i] < bound)) << i;
  return mask;
#endif
}

// The sum of the lanes, always in the same order.
inline float sum(Floats v) {
  float part[kLanes];
  std::memcpy(part, &v, sizeof v);
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) part[i] += part[i + half];
  return part[0];
}

inline float dot(const float* a, const float* b, int64_t n) {
  Floats s0{}, s1{}, s2{}, s3{};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    s0 += load(a + i) * load(b + i);
    s1 += load(a + i + kLanes) * load(b + i + kLanes);
    s2 += load(a + i + 2 * kLanes) * load(b + i + 2 * kLanes);
    s3 += load(a + i + 3 * kLanes) * load(b + i + 3 * kLanes);
  }
  for (; i + kLanes <= n; i += kLanes) s0 += load(a + i) * load(b + i);
  float rest = 0;
  for (; i < n; ++i) rest += a[i] * b[i];
  return sum((s0 + s1) + (s2 + s3)) + rest;
}

// y += factor * x
inline void add_scaled(float* y, const float* x, float factor, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, load(y + i) + factor * load(x + i));
  for (; i < n; ++i) y[i] += factor * x[i];
}

}  // namespace bathyscope
