/* The loops of kernel_loops.h for each instruction set. One is chosen when the program runs. */

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#define FETCH __builtin_prefetch /* which may point anywhere */
#else
#define INLINE static __forceinline
#define FETCH(at) ((void)(at))
#endif

#define AHEAD 2048 /* bytes: measured, for one query over codes that no cache near the core holds */

#define LESS(a, b) ((a) < (b) ? (a) : (b))

#if defined(__GNUC__) && defined(__x86_64__)
#define ON_X86
#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512vpopcntdq")))
TARGET INLINE __m512i pairs_avx512(__m512i a, __m512i b)
{
    return _mm512_add_epi64(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}
TARGET INLINE __m512i quads_avx512(__m512i ab, __m512i cd)
{
    const __m512i even = _mm512_shuffle_i64x2(ab, cd, 0x88), odd = _mm512_shuffle_i64x2(ab, cd, 0xdd);
    return _mm512_permutex_epi64(_mm512_add_epi64(even, odd), 0xd8);
}
#define PATH(name) name##_avx512
#define VEC __m512i
#define LANES 8
#define LOAD(at) _mm512_loadu_si512(at)
#define STORE(at, v) _mm512_storeu_si512(at, v)
#define SPREAD(word) _mm512_set1_epi64((long long)(word))
#define XOR _mm512_xor_si512
#define COUNT _mm512_popcnt_epi64
#define PLUS _mm512_add_epi64
#define SUMS(counts) (counts)
#define LESSER _mm512_min_epu64
#define BELOW(a, limit) _mm512_cmplt_epu64_mask(a, limit)
#define ROWS2(a, b) _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), pairs_avx512(a, b))
#define ROWS4(a, b, c, d) quads_avx512(pairs_avx512(a, b), pairs_avx512(c, d))
#define KEYS(sums, number) _mm512_add_epi64(_mm512_slli_epi64(sums, 20), number)
#include "kernel_loops.h"

#define TARGET __attribute__((target("avx2")))
TARGET INLINE __m256i ones_avx2(__m256i bits) /* of each byte, four bits at a time from a table */
{
    const __m128i sixteen = _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i table = _mm256_broadcastsi128_si256(sixteen), low = _mm256_set1_epi8(15);
    return _mm256_add_epi8(_mm256_shuffle_epi8(table, _mm256_and_si256(bits, low)),
                           _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(bits, 4), low)));
}
TARGET INLINE __m256i pairs_avx2(__m256i a, __m256i b)
{
    return _mm256_add_epi8(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
}
TARGET INLINE __m256i quads_avx2(__m256i ab, __m256i cd)
{
    return _mm256_add_epi8(_mm256_permute2x128_si256(ab, cd, 0x20), _mm256_permute2x128_si256(ab, cd, 0x31));
}
#define PATH(name) name##_avx2
#define VEC __m256i
#define LANES 4
#define LOAD(at) _mm256_loadu_si256((const __m256i *)(at))
#define STORE(at, v) _mm256_storeu_si256((__m256i *)(at), v)
#define SPREAD(word) _mm256_set1_epi64x((long long)(word))
#define XOR _mm256_xor_si256
#define COUNT ones_avx2
#define PLUS _mm256_add_epi8
#define SUMS(counts) _mm256_sad_epu8(counts, _mm256_setzero_si256())
#define LESSER _mm256_min_epu32
#define BELOW(a, limit) _mm256_movemask_epi8(_mm256_cmpgt_epi64(limit, a))
#define ROWS2(a, b) _mm256_permute4x64_epi64(pairs_avx2(a, b), 0xd8)
#define ROWS4(a, b, c, d) quads_avx2(pairs_avx2(a, b), pairs_avx2(c, d))
#define KEYS(sums, number) _mm256_add_epi64(_mm256_slli_epi64(sums, 20), number)
#include "kernel_loops.h"
#endif

#if defined(__GNUC__) && defined(__aarch64__)
#define ON_ARM
#include <arm_neon.h>

#define TARGET
#define PATH(name) name##_neon
#define VEC uint64x2_t
#define LANES 2
#define LOAD(at) vreinterpretq_u64_u8(vld1q_u8(at))
#define STORE(at, v) vst1q_u64(at, v)
#define SPREAD(word) vdupq_n_u64((uint64_t)(word))
#define XOR veorq_u64
#define COUNT(bits) vreinterpretq_u64_u8(vcntq_u8(vreinterpretq_u8_u64(bits)))
#define PLUS(a, b) vreinterpretq_u64_u8(vaddq_u8(vreinterpretq_u8_u64(a), vreinterpretq_u8_u64(b)))
#define SUMS(counts) vpaddlq_u32(vpaddlq_u16(vpaddlq_u8(vreinterpretq_u8_u64(counts))))
#define LESSER(a, b) vreinterpretq_u64_u32(vminq_u32(vreinterpretq_u32_u64(a), vreinterpretq_u32_u64(b)))
#define BELOW(a, limit) vmaxvq_u32(vreinterpretq_u32_u64(vcltq_u64(a, limit)))
#define ROWS2(a, b) PLUS(vtrn1q_u64(a, b), vtrn2q_u64(a, b))
#define ROWS4(a, b, c, d) ROWS2(PLUS(a, b), PLUS(c, d))
#define KEYS(sums, number) vaddq_u64(vshlq_n_u64(sums, 20), number)
#include "kernel_loops.h"
#endif

static inline uint64_t ones_portable(uint64_t bits) /* of each byte */
{
    bits -= bits >> 1 & 0x5555555555555555u;
    bits = (bits & 0x3333333333333333u) + (bits >> 2 & 0x3333333333333333u);
    return (bits + (bits >> 4)) & 0x0f0f0f0f0f0f0f0fu;
}
static inline uint64_t load_portable(const uint8_t *at)
{
    uint64_t word;
    memcpy(&word, at, 8);
    return word;
}
#define TARGET
#define PATH(name) name##_portable
#define VEC uint64_t
#define LANES 1
#define LOAD load_portable
#define STORE(at, v) (*(at) = (v))
#define SPREAD(word) ((uint64_t)(word))
#define XOR(a, b) ((a) ^ (b))
#define COUNT ones_portable
#define PLUS(a, b) ((a) + (b))
#define SUMS(counts) ((((counts) & 0xff00ff00ff00ffu) + ((counts) >> 8 & 0xff00ff00ff00ffu)) * 0x1000100010001u >> 48)
#define LESSER LESS
#define BELOW(a, limit) ((a) < (limit))
#define ROWS2 PLUS
#define ROWS4(a, b, c, d) ((a) + (b) + (c) + (d))
#define KEYS(sums, number) ((sums) << 20 | (number))
#include "kernel_loops.h"

typedef struct {
    const char *name;
    int (*scan)(const uint8_t *, size_t, int, int, const uint64_t *, uint32_t, uint64_t *);
    void (*distances)(const uint8_t *, size_t, int, int, const uint64_t *, uint64_t *);
    void (*assign)(const uint8_t *, size_t, int, int, const uint64_t *, int, uint64_t *);
} Path;

static const Path paths[] = { /* fastest first */
#if defined(ON_X86)
    {"avx512", scan_avx512, distances_avx512, assign_avx512},
    {"avx2", scan_avx2, distances_avx2, assign_avx2},
#elif defined(ON_ARM)
    {"neon", scan_neon, distances_neon, assign_neon},
#endif
    {"portable", scan_portable, distances_portable, assign_portable},
};
#define PATHS ((int)(sizeof paths / sizeof *paths))

static int supported(const Path *path)
{
#if defined(ON_X86)
    __builtin_cpu_init();
    if (!strcmp(path->name, "avx512"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vpopcntdq");
    if (!strcmp(path->name, "avx2"))
        return __builtin_cpu_supports("avx2");
#endif
    return path != NULL;
}
