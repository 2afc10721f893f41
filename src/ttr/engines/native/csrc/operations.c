/* A sequence of small tensor operations in one call: what surrounds a memory at one token, where calling each
 * operation would take longer than computing it. Tensors are at most AXES-dimensional, with any strides. */
#include <math.h>
#include <string.h>

#include "dots.h"
#include "exponential.h"

/* in the order of ttr.engines.native.entries.CODES */
enum {
    COPY, NEG, EXP, LOG, SIGMOID, SILU, SOFTPLUS, TANH, SQUARE, RSQRT, SQRT, RECIPROCAL, ABS, RELU, EXPM1,
    LOG1P, COS, SIN, LOG_SIGMOID, CLAMP, THRESHOLD, ADD, SUB, MUL, DIV, MAXIMUM, MINIMUM, SUM, MATMUL
};
enum { AXES = 5, MOST_TENSORS = 64 };

/* ``tensor`` counts the pointers of a call, or is -1 for a number: the operation's ``first``. */
struct operand {
    int64_t tensor, offset, strides[AXES];
};

/* out = code(a, b), entry by entry over ``sizes``. CLAMP is to [first, second]; THRESHOLD is a where it is
 * above first, else second. SUM adds over the axes where the strides of out are 0. MATMUL has the axes
 * [., ., M, N, K] and adds over K. A sum, or a mean, is multiplied by ``second``. */
struct operation {
    int64_t code, sizes[AXES];
    struct operand out, a, b;
    double first, second;
};

/* A call: first the tensors, which are new every time, then what stays the same. */
struct sequence {
    real *tensors[MOST_TENSORS];
    int64_t count, threads; /* one thread: the field is for callers that handle all kernels alike */
    const struct operation *operations;
};

INLINE real softplus(real x) { return x > 20 ? x : (real)log1p(exp(x)); }

/* One row of n entries; ``o``, ``s`` and ``u`` are the strides of out, a and b. */
#define ROW(value)                                                                                           \
    if (o == 1 && s == 1 && u == 1)                                                                          \
        for (int64_t i = 0; i < n; i++) {                                                                    \
            const real x = a[i], y = b[i];                                                                   \
            (void)y;                                                                                         \
            out[i] = (value);                                                                                \
        }                                                                                                    \
    else if (o == 1 && s == 1 && u == 0)                                                                     \
        for (int64_t i = 0; i < n; i++) {                                                                    \
            const real x = a[i], y = *b;                                                                     \
            (void)y;                                                                                         \
            out[i] = (value);                                                                                \
        }                                                                                                    \
    else                                                                                                     \
        for (int64_t i = 0; i < n; i++) {                                                                    \
            const real x = a[i * s], y = b[i * u];                                                           \
            (void)y;                                                                                         \
            out[i * o] = (value);                                                                            \
        }                                                                                                    \
    break

/* SIGMOID, or with ``times`` SILU, of contiguous rows. */
static void logistic_row(real *out, const real *a, int64_t n, int times) {
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t left = n - i < LANES ? n - i : LANES;
        vec x = {0};
        memcpy(&x, a + i, left * sizeof(real));
        const vec s = sigmoid(x); /* 0 of NaN */
        const vec y = times ? s * x : (vec)((ints)s | ((ints)x & (ints)(x != x)));
        memcpy(out + i, &y, left * sizeof(real));
    }
}

INLINE real logistic(real x) { return 1 / (1 + (sizeof(real) == 4 ? expf(-x) : exp(-x))); }

static void row(const struct operation *p, real *restrict out, const real *a, const real *b, int64_t n,
                int64_t o, int64_t s, int64_t u) {
    const real low = (real)p->first, high = (real)p->second;
    switch (p->code) {
    case COPY: ROW(x);
    case NEG: ROW(-x);
    case EXP: ROW((real)exp(x));
    case LOG: ROW((real)log(x));
    case SIGMOID:
        if (o == 1 && s == 1) {
            logistic_row(out, a, n, 0);
            break;
        }
        ROW(logistic(x));
    case SILU:
        if (o == 1 && s == 1) {
            logistic_row(out, a, n, 1);
            break;
        }
        ROW(x *logistic(x));
    case SOFTPLUS: ROW(softplus(x));
    case TANH: ROW((real)tanh(x));
    case SQUARE: ROW(x *x);
    case RSQRT: ROW(1 / (real)sqrt(x));
    case SQRT: ROW((real)sqrt(x));
    case RECIPROCAL: ROW(1 / x);
    case ABS: ROW(x < 0 ? -x : x);
    case RELU: ROW(x < 0 ? 0 : x); /* NaN stays NaN */
    case EXPM1: ROW((real)expm1(x));
    case LOG1P: ROW((real)log1p(x));
    case COS: ROW((real)cos(x));
    case SIN: ROW((real)sin(x));
    case LOG_SIGMOID: ROW((x < 0 ? x : 0) - (real)log1p(exp(x < 0 ? x : -x)));
    case CLAMP: ROW(x < low ? low : x > high ? high : x);
    case THRESHOLD: ROW(x <= low ? high : x);
    case ADD: ROW(x + y);
    case SUB: ROW(x - y);
    case MUL: ROW(x *y);
    case DIV: ROW(x / y);
    case MAXIMUM: ROW(x > y || x != x ? x : y);
    case MINIMUM: ROW(x < y || x != x ? x : y);
    }
}

/* the product of two rows, one of them from memory: a single stream of it is read twice as fast as several */
INLINE real streamed_dot(const real *a, const real *b, int64_t K) {
    vec sums[TOGETHER] = {{0}};
    real rest = 0;
    int64_t k = 0;
    for (; k + TOGETHER * LANES <= K; k += TOGETHER * LANES)
        for (int j = 0; j < TOGETHER; j++)
            sums[j] += *(const uvec *)(a + k + j * LANES) * *(const uvec *)(b + k + j * LANES);
    for (; k + LANES <= K; k += LANES) sums[0] += *(const uvec *)(a + k) * *(const uvec *)(b + k);
    for (; k < K; k++) rest += a[k] * b[k];
    return horizontal((sums[0] + sums[1]) + (sums[2] + sums[3])) + rest;
}

static void matmul(const struct operation *p, real *out, const real *a, const real *b) {
    const int64_t M = p->sizes[2], N = p->sizes[3], K = p->sizes[4];
    const int64_t *o = p->out.strides, *s = p->a.strides, *u = p->b.strides;
    if (M == 1 && s[4] == 1 && u[4] == 1) {
        for (int64_t n = 0; n < N; n++) out[n * o[3]] = streamed_dot(a, b + n * u[3], K);
    } else if (s[4] == 1 && u[4] == 1) { /* rows times rows: every row of b is read once, from memory, for all of a */
        int64_t n = 0;
        for (; n + TOGETHER <= N; n += TOGETHER)
            for (int64_t m = 0; m < M; m++)
                dots(out + m * o[2] + n * o[3], o[3], a + m * s[2], b + n * u[3], u[3], K, TOGETHER);
        for (; n < N; n++)
            for (int64_t m = 0; m < M; m++)
                dots(out + m * o[2] + n * o[3], o[3], a + m * s[2], b + n * u[3], u[3], K, 1);
    } else
        for (int64_t m = 0; m < M; m++) {
            for (int64_t n = 0; n < N; n++) out[m * o[2] + n * o[3]] = 0;
            for (int64_t k = 0; k < K; k++) {
                const real x = a[m * s[2] + k * s[4]];
                real *restrict to = out + m * o[2];
                const real *from = b + k * u[4];
                if (o[3] == 1 && u[3] == 1)
                    for (int64_t n = 0; n < N; n++) to[n] += x * from[n];
                else
                    for (int64_t n = 0; n < N; n++) to[n * o[3]] += x * from[n * u[3]];
            }
        }
}

/* out += a over a row of n entries */
INLINE void add_row(real *restrict out, const real *a, int64_t n, int64_t o, int64_t s) {
    if (o == 0 && s == 1) {
        vec sums = {0};
        real sum = 0;
        int64_t i = 0;
        for (; i + LANES <= n; i += LANES) sums += *(const uvec *)(a + i);
        for (; i < n; i++) sum += a[i];
        *out += horizontal(sums) + sum;
    } else if (o == 1 && s == 1)
        for (int64_t i = 0; i < n; i++) out[i] += a[i];
    else
        for (int64_t i = 0; i < n; i++) out[i * o] += a[i * s];
}

static void run(const struct operation *p, real *out, const real *a, const real *b) {
    const int64_t *size = p->sizes, *o = p->out.strides, *s = p->a.strides, *u = p->b.strides;
    if (p->code == SUM) { /* the axes of out, at their first entries */
        for (int64_t i = 0; i < (o[0] ? size[0] : 1); i++)
            for (int64_t j = 0; j < (o[1] ? size[1] : 1); j++)
                for (int64_t k = 0; k < (o[2] ? size[2] : 1); k++)
                    for (int64_t l = 0; l < (o[3] ? size[3] : 1); l++)
                        for (int64_t m = 0; m < (o[4] ? size[4] : 1); m++)
                            out[i * o[0] + j * o[1] + k * o[2] + l * o[3] + m * o[4]] = 0;
    }
    for (int64_t i = 0; i < size[0]; i++)
        for (int64_t j = 0; j < size[1]; j++) {
            real *out_ij = out + i * o[0] + j * o[1];
            const real *a_ij = a + i * s[0] + j * s[1], *b_ij = b + i * u[0] + j * u[1];
            if (p->code == MATMUL) {
                matmul(p, out_ij, a_ij, b_ij);
                continue;
            }
            for (int64_t k = 0; k < size[2]; k++)
                for (int64_t l = 0; l < size[3]; l++) {
                    real *to = out_ij + k * o[2] + l * o[3];
                    const real *x = a_ij + k * s[2] + l * s[3], *y = b_ij + k * u[2] + l * u[3];
                    if (p->code == SUM) add_row(to, x, size[4], o[4], s[4]);
                    else row(p, to, x, y, size[4], o[4], s[4], u[4]);
                }
        }
    if (p->code == SUM && p->second != 1)
        for (int64_t i = 0; i < (o[0] ? size[0] : 1); i++)
            for (int64_t j = 0; j < (o[1] ? size[1] : 1); j++)
                for (int64_t k = 0; k < (o[2] ? size[2] : 1); k++)
                    for (int64_t l = 0; l < (o[3] ? size[3] : 1); l++)
                        for (int64_t m = 0; m < (o[4] ? size[4] : 1); m++)
                            out[i * o[0] + j * o[1] + k * o[2] + l * o[3] + m * o[4]] *= (real)p->second;
}

INLINE real *at(const struct operand *x, real *const *tensors, real *number) {
    return (x->tensor < 0 ? number : tensors[x->tensor]) + x->offset;
}

/* ``tensors`` are the pointers at the beginning of ``struct sequence``; those of ``layout`` are ignored. */
int TTR_NAME(operations)(const void *tensors, const struct sequence *layout) {
    struct sequence call = *layout;
    memcpy(&call, tensors, sizeof call.tensors);
    for (int64_t i = 0; i < call.count; i++) {
        const struct operation *p = &call.operations[i];
        real number = (real)p->first;
        run(p, at(&p->out, call.tensors, &number), at(&p->a, call.tensors, &number),
            at(&p->b, call.tensors, &number));
    }
    return 0;
}
