/* What the loader calls before it binds a kernel; compiled once, for any processor. */
#include <string.h>

/* Raised with every change of a kernel's arguments or of a struct; library.py expects the same number. */
enum { ABI = 10 };

int ttr_abi(void) { return ABI; }

/* Whether this library holds the kernels of an instruction set and both this processor and its operating
 * system can run them. __builtin_cpu_supports checks both: it reads XGETBV, which says what registers the
 * operating system saves, as well as CPUID. */
int ttr_runs(const char *isa) {
#ifdef TTR_HAS_AVX512
    if (strcmp(isa, "avx512") == 0)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("fma");
#endif
#ifdef TTR_HAS_AVX2
    if (strcmp(isa, "avx2") == 0) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return strcmp(isa, "portable") == 0;
}
