/* The short causal convolution of every channel and SiLU, forwards and backwards, in one pass over the
 * tokens.
 *
 *     z_t = bias + sum_{j<width} weight_j x_{t-past+j},   past = width - 1
 *     y_t = z_t / (1 + e^{-z_t}), or z_t without SiLU
 *
 * Backwards, the gradient d_t of z_t adds weight_j d_t to the gradient of x_{t-past+j} and x_{t-past+j} d_t
 * to that of weight_j. Channels are independent: each thread computes a slab of them, and results are the
 * same to the last bit for any number of threads. */
#include <pthread.h>
#include <string.h>

#include "exponential.h"

enum {
    TOGETHER = 4, /* tokens that share the loads of a weight */
    /* the compiler unrolls kernels up to this width; ttr.engines.native.convolution refuses wider ones */
    MAX_WIDTH = 8,
    /* tokens after which partial sums are added to a total, so that long sums keep their digits */
    SUMMED = 256,
    MAX_THREADS = 64
};

/* Tensors are contiguous in their channels; a `row_stride` counts entries between sequences of a batch, a
 * `stride` entries between tokens. A tensor that is absent is NULL. */
typedef struct {
    int64_t sequences, channels, width, silu, threads;
    const int64_t *bounds; /* [sequences + 1] of packed sequences; NULL: one sequence per row, of `tokens` */
    /* grad_row_stride and grad_stride are those of grad_y; all other tensors are contiguous */
    int64_t tokens, x_row_stride, x_stride, grad_row_stride, grad_stride;
    const real *x, *tail, *weight, *bias; /* tail [sequences,past,channels] */
    real *y;                              /* forwards */
    const real *grad_y;                   /* backwards, with all that follow */
    /* sums [2,width+1,channels], zeros on entry: the gradients of weight and bias, then their partial sums */
    real *grad_x, *grad_tail, *sums;
} Convolution;

#if TTR_VECTOR_BYTES == 0
#error "build with the macros that simd.h names"
#endif

/* ---- vectors ------------------------------------------------------------------------------------------- */
/* n = LANES except at the end of a row; a constant wherever this is inlined in a loop */
static inline __attribute__((always_inline)) vec load(const real *from, int64_t n) {
    if (n == LANES) return *(const uvec *)from;
    vec x = {0};
    memcpy(&x, from, n * sizeof(real));
    return x;
}

static inline __attribute__((always_inline)) void store(real *to, vec x, int64_t n) {
    if (n == LANES) *(uvec *)to = x;
    else memcpy(to, &x, n * sizeof(real));
}

/* ---- rows ---------------------------------------------------------------------------------------------- */
typedef struct {
    const real *x, *tail, *grad_y; /* of one sequence */
    real *y, *grad_x, *grad_tail;
    int64_t tokens;
} Sequence;

static Sequence sequence(const Convolution *c, int64_t i) {
    const int64_t past = c->width - 1, row = c->bounds ? 0 : i, start = c->bounds ? c->bounds[i] : 0;
    const int64_t tokens = c->bounds ? c->bounds[i + 1] - start : c->tokens,
                  before = (row * c->tokens + start) * c->channels;
    return (Sequence){.x = c->x + row * c->x_row_stride + start * c->x_stride,
                      .tail = c->tail + i * past * c->channels,
                      .grad_y =
                          c->grad_y ? c->grad_y + row * c->grad_row_stride + start * c->grad_stride : NULL,
                      .y = c->y ? c->y + before : NULL,
                      .grad_x = c->grad_x ? c->grad_x + before : NULL,
                      .grad_tail = c->grad_tail ? c->grad_tail + i * past * c->channels : NULL,
                      .tokens = tokens};
}

/* Where token t >= -past begins; tokens before 0 are in the tail. */
static inline const real *token(const Convolution *c, const Sequence *s, int64_t t) {
    return t < 0 ? s->tail + (t + c->width - 1) * c->channels : s->x + t * c->x_stride;
}

typedef struct {
    const real *x[TOGETHER + MAX_WIDTH - 1], *grad_y[TOGETHER];
    real *y[TOGETHER], *grad_x[TOGETHER + MAX_WIDTH - 1];
} Rows; /* rows of at most TOGETHER tokens and of the past before them */

static Rows rows(const Convolution *c, const Sequence *s, int64_t t, int count) {
    const int64_t past = c->width - 1;
    Rows r = {0};
    for (int64_t i = 0; i < count + past; i++) {
        const int64_t at = t - past + i;
        r.x[i] = token(c, s, at);
        if (s->grad_x)
            r.grad_x[i] = at < 0 ? s->grad_tail + (at + past) * c->channels : s->grad_x + at * c->channels;
    }
    for (int i = 0; i < count; i++) {
        if (s->y) r.y[i] = s->y + (t + i) * c->channels;
        if (s->grad_y) r.grad_y[i] = s->grad_y + (t + i) * c->grad_stride;
    }
    return r;
}

/* z of `count` tokens in n channels from `at` on */
static inline __attribute__((always_inline)) void convolve(const Convolution *c, const Rows *r, int64_t at,
                                                           int64_t n, int count, int width, vec *z) {
    const vec bias = c->bias ? load(c->bias + at, n) : (vec){0};
    for (int i = 0; i < count; i++) z[i] = bias;
    for (int j = 0; j < width; j++) {
        const vec weight = load(c->weight + j * c->channels + at, n);
        for (int i = 0; i < count; i++) z[i] += weight * load(r->x[i + j] + at, n);
    }
}

static inline __attribute__((always_inline)) void forward(const Convolution *c, const Rows *r, int64_t at,
                                                          int64_t n, int count, int width) {
    vec z[TOGETHER];
    convolve(c, r, at, n, count, width, z);
    for (int i = 0; i < count; i++) store(r->y[i] + at, c->silu ? z[i] * sigmoid(z[i]) : z[i], n);
}

/* silu'(z) = s + z s (1 - s), s = 1 / (1 + e^{-z}) */
static inline __attribute__((always_inline)) void backward(const Convolution *c, const Rows *r, int64_t at,
                                                           int64_t n, int count, int width) {
    const int past = width - 1;
    real *sums = c->sums + (width + 1) * c->channels + at;
    vec d[TOGETHER], grad[TOGETHER + MAX_WIDTH - 1], bias = load(sums + width * c->channels, n);
    if (c->silu) convolve(c, r, at, n, count, width, d);
    for (int i = 0; i < count; i++) {
        const vec grad_y = load(r->grad_y[i] + at, n), s = c->silu ? sigmoid(d[i]) : (vec){0};
        d[i] = c->silu ? grad_y * (s + d[i] * s * (1 - s)) : grad_y;
        bias += d[i];
    }
    store(sums + width * c->channels, bias, n);
    for (int i = 0; i < count + past; i++) grad[i] = i < past ? load(r->grad_x[i] + at, n) : (vec){0};
    for (int j = 0; j < width; j++) {
        const vec weight = load(c->weight + j * c->channels + at, n);
        vec sum = load(sums + j * c->channels, n);
        for (int i = 0; i < count; i++) {
            grad[i + j] += weight * d[i];
            sum += d[i] * load(r->x[i + j] + at, n);
        }
        store(sums + j * c->channels, sum, n);
    }
    for (int i = 0; i < count + past; i++) store(r->grad_x[i] + at, grad[i], n);
}

/* ---- slabs of channels --------------------------------------------------------------------------------- */
typedef struct {
    const Convolution *c;
    int64_t from, to;
} Slab;

typedef void Step(const Convolution *, const Rows *, int64_t at, int64_t n, int count, int width);

static inline __attribute__((always_inline)) void across(const Slab *slab, const Rows *r, int count,
                                                         int width, Step step) {
    int64_t at = slab->from;
    for (; at + LANES <= slab->to; at += LANES) step(slab->c, r, at, LANES, count, width);
    if (at < slab->to) step(slab->c, r, at, slab->to - at, count, width);
}

static void add_to_total(const Slab *slab) {
    const int64_t width = slab->c->width, channels = slab->c->channels;
    for (int64_t j = 0; j <= width; j++) {
        real *total = slab->c->sums + j * channels, *part = total + (width + 1) * channels;
        for (int64_t at = slab->from; at < slab->to; at++) total[at] += part[at], part[at] = 0;
    }
}

static inline __attribute__((always_inline)) void along(const Slab *slab, int width, Step step, int summing) {
    int64_t summed = 0;
    for (int64_t i = 0; i < slab->c->sequences; i++) {
        const Sequence s = sequence(slab->c, i);
        for (int64_t t = 0; t < s.tokens; t += TOGETHER) {
            const int count = s.tokens - t < TOGETHER ? (int)(s.tokens - t) : TOGETHER;
            const Rows r = rows(slab->c, &s, t, count);
            if (count == TOGETHER) across(slab, &r, TOGETHER, width, step);
            else across(slab, &r, count, width, step);
            if (summing && (summed += count) >= SUMMED) add_to_total(slab), summed = 0;
        }
    }
    if (summing) add_to_total(slab);
}

static void *run(void *argument) {
    const Slab *slab = argument;
    const int width = (int)slab->c->width;
    if (slab->c->grad_y) {
        if (width == 4) along(slab, 4, backward, 1);
        else along(slab, width, backward, 1);
    } else {
        if (width == 4) along(slab, 4, forward, 0);
        else along(slab, width, forward, 0);
    }
    return NULL;
}

/* Backwards where there is a grad_y, else forwards; grad_tail and sums are 0 on entry. */
int TTR_NAME(short_convolution)(const Convolution *c) {
    const int64_t vectors = (c->channels + LANES - 1) / LANES;
    int64_t threads = c->threads < vectors ? c->threads : vectors;
    threads = threads < MAX_THREADS ? threads : MAX_THREADS;
    pthread_t started[MAX_THREADS];
    Slab slabs[MAX_THREADS];
    int alone[MAX_THREADS] = {1}; /* run by the caller: the first slab, and any that got no thread */
    for (int64_t i = 0; i < threads; i++) {
        const int64_t from = i * vectors / threads * LANES, to = (i + 1) * vectors / threads * LANES;
        slabs[i] = (Slab){c, from, to < c->channels ? to : c->channels};
        if (i > 0) alone[i] = pthread_create(&started[i], NULL, run, &slabs[i]) != 0;
    }
    for (int64_t i = 0; i < threads; i++)
        if (alone[i]) run(&slabs[i]);
    for (int64_t i = 1; i < threads; i++)
        if (!alone[i]) pthread_join(started[i], NULL);
    return 0;
}
