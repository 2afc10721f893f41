/* Common definitions of all kernel files, which are compiled once per instruction set and floating type.
 *
 * The build passes -DTTR_ISA=avx512|avx2|portable, -DTTR_REAL=float|double and -DTTR_VECTOR_BYTES=64|32|16;
 * vectors are the compilers' own (GCC, Clang), so one source serves AVX-512, AVX2, NEON and the rest. */
#ifndef TTR_SIMD_H
#define TTR_SIMD_H

#include <stddef.h>
#include <stdint.h>

typedef TTR_REAL real;
typedef real vec __attribute__((vector_size(TTR_VECTOR_BYTES))); /* aligned */
typedef real uvec __attribute__((vector_size(TTR_VECTOR_BYTES), aligned(sizeof(real)),
                                 may_alias)); /* for loads and stores anywhere */

enum { LANES = TTR_VECTOR_BYTES / sizeof(real) };

/* for functions whose copies are to know the numbers that their callers pass */
#define INLINE static inline __attribute__((always_inline))

#define TTR_JOIN_(a, b, c) ttr_##a##_##b##_##c
#define TTR_JOIN(a, b, c) TTR_JOIN_(a, b, c)
/* ttr_NAME_ISA_REAL, the symbol that the loader binds */
#define TTR_NAME(name) TTR_JOIN(name, TTR_ISA, TTR_REAL)

/* The sum of the lanes, in their order */
INLINE real sum_of(vec x) {
    real sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += x[lane];
    return sum;
}

#endif
