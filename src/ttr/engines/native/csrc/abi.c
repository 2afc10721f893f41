/* What the loader asks before it binds a kernel; compiled once, for any processor. */
#include <string.h>

/* Raised with every change of a kernel's arguments or of a struct; library.py expects the same number. */
enum { ABI = 6 };

int ttr_abi(void) { return ABI; }

/* Whether this library holds the kernels of an instruction set, and this processor and its operating system
 * run them.
 * __builtin_cpu_supports asks both: it reads the registers that the system saves (XGETBV) beside CPUID. */
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
