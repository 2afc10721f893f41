#include "simd.h"
int TTR_NAME(lanes)(void) { return LANES; }
