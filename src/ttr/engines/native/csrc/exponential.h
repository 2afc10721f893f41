/* The exponential and the logistic function of a vector. */
#ifndef TTR_EXPONENTIAL_H
#define TTR_EXPONENTIAL_H

#include "simd.h"

#define IS_DOUBLE (sizeof(real) == 8)
typedef __typeof__((vec){0} < (vec){0}) ints; /* integers as wide as real */

/* min(x, most); NaN stays NaN */
static inline vec at_most(vec x, real most) {
    vec top = (vec){0} + most;
    ints above = x > top;
    return (vec)(((ints)top & above) | ((ints)x & ~above));
}

/* e^x for |x| <= 87 (in float64, given in brackets: 708): e^x = 2^n e^r with n the integer nearest to x / ln 2,
 * |r| <= ln(2) / 2, and the Taylor series of e^r until its remainder is below rounding,
 * |r|^8 / 8! < 6e-9 (|r|^14 / 14! < 5e-18). Adding 1.5 * 2^23 (2^52) rounds to an integer and leaves it in
 * the last bits, from where it is shifted to the exponent. NaN stays NaN; beyond the bound it is any number. */
static inline vec exponential_within(vec x) {
    static const double inverse_factorials[] = {
        1,         1,          1 / 2.,      1 / 6.,       1 / 24.,       1 / 120.,       1 / 720.,
        1 / 5040., 1 / 40320., 1 / 362880., 1 / 3628800., 1 / 39916800., 1 / 479001600., 1 / 6227020800.};
    enum { TERMS = IS_DOUBLE ? 13 : 7 };
    const real magic = IS_DOUBLE ? 6755399441055744.0 : 12582912.0;
    const real high = IS_DOUBLE ? 6.93147180369123816490e-01 : 0.693359375,
               low = IS_DOUBLE ? 1.90821492927058770002e-10 : -2.12194440e-4;
    vec shifted = x * (real)1.4426950408889634 + magic;
    vec n = shifted - magic, r = x - n * high - n * low, sum = (vec){0} + (real)inverse_factorials[TERMS];
#pragma GCC unroll 13
    for (int k = TERMS - 1; k >= 0; k--) sum = sum * r + (real)inverse_factorials[k];
    return sum * (vec)(((ints)shifted + (IS_DOUBLE ? 1023 : 127)) << (IS_DOUBLE ? 52 : 23));
}

/* e^x for x <= 88 (708). Below -87 (-708) the result is that of the bound, negligible beside 1. */
static inline vec exponential(vec x) {
    const real bound = IS_DOUBLE ? 708 : 87;
    return exponential_within(-at_most(-at_most(x, bound), bound));
}

static inline vec maximum(vec x, vec y) {
    ints above = x > y;
    return (vec)(((ints)x & above) | ((ints)y & ~above));
}

/* ln(2)^k / k! */
static const double POWERS_OF_LN2[] = {
    1.0,
    6.93147180559945286e-01,
    2.40226506959100694e-01,
    5.55041086648215762e-02,
    9.61812910762847688e-03,
    1.33335581464284411e-03,
    1.54035303933816061e-04,
    1.52527338040598377e-05,
    1.32154867901443053e-06,
    1.01780860092396960e-07,
    7.05491162080112088e-09,
    4.44553827187081007e-10,
    2.56784359934881958e-11,
    1.36914888539041241e-12,
};

/* 2^x for x <= 0, in the same way: |r| <= 1 / 2 is exact, and the series that of e^(r ln 2), by Horner's rule.
 * Below -126 (-1022) the result is that of the bound. */
static inline vec exponential2(vec x) {
    const real bound = IS_DOUBLE ? -1022 : -126, magic = IS_DOUBLE ? 6755399441055744.0 : 12582912.0;
    const int last = IS_DOUBLE ? 13 : 7;
    x = -at_most(-x, -bound);
    vec shifted = x + magic, r = x - (shifted - magic), sum = (vec){0} + (real)POWERS_OF_LN2[last];
    for (int k = last - 1; k >= 0; k--) sum = sum * r + (real)POWERS_OF_LN2[k];
    return sum * (vec)(((ints)shifted + (IS_DOUBLE ? 1023 : 127)) << (IS_DOUBLE ? 52 : 23));
}

/* 1 / (1 + e^-z), and 0 below the bound: there z times the value at the bound would not be negligible for a
 * huge z. z sigmoid(z) of NaN is NaN. */
static inline vec sigmoid(vec z) {
    const vec s = 1 / (1 + exponential(-z));
    return (vec)((ints)s & (ints)(z >= (real)(IS_DOUBLE ? -708 : -87)));
}

#endif
