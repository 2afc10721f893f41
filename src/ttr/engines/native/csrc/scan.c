/* An additive memory with few value channels per head, token by token: the selective scan (Mamba, arXiv
 * 2312.00752; HGRN, 2311.04823) and its derivative.
 *
 *     S_t = D_t S_{t-1} + step_t key_t value_t^T,     y_t = scale S_t^T query_t
 *
 * elementwise in the state, so that there is no product of matrices to gain from a chunk: a block of heads
 * goes through all tokens with its state in the first-level cache. With G_t the gradient of S_t,
 *
 *     G_t = D_{t+1} G_{t+1} + scale query_t grad_y_t^T
 *     grad_query_t = scale S_t grad_y_t,   grad_key_t = step G_t value_t,   grad_value_t = step G_t^T key_t,
 *     grad_step_t = key_t^T G_t value_t,   grad_log_decay_t = D_t (S_{t-1} * G_t) summed over the values.
 *
 * The backward pass goes from checkpoint to checkpoint, r->chunk tokens apart, and recomputes the states in
 * between. Decays are multiplied, never divided. */
#include "exponential.h"
#include "parallel.h"
#include "recurrence.h"

enum { ENTRIES = 256 }; /* of the state of a block of heads, for each value channel */

/* engines/native/scan.py holds the same fields in the same order. With `rates`, [.,.,H,F], the log decay is
 * log_decay_t [H] times them, a product below RESET being a reset; grad_rates is [B,1,H,F]. */
typedef struct {
    recurrence r;
    tensor rates, grad_rates;
} arguments;

#define RESET -80 /* decay.py */

typedef struct {
    const arguments *given;
    int64_t together, blocks; /* heads of a block, blocks of a sequence */
} scan;

/* A block of heads at one token. Rows are [heads, F] or [heads]; `decay` [heads, F] is e^log_decay, and
 * `written` [V, heads] step times value, `products` [heads, F] log decays times rates, and `rate_gradient`
 * [heads, F] the gradient of the rates so far. The others are scratch. */
typedef struct {
    const recurrence *r;
    int64_t batch, first, heads, size, entries; /* F; heads F */
    const arguments *given;
    real *state, *decay, *written, *products, *rate_gradient;
    real *of_head, *gathered_key, *gathered_query, *gathered_decay, *gathered_value, *gathered_gradient;
} block;

/* The rows of a tensor at a token: head h's at data + h stride. */
typedef struct {
    const real *data;
    int64_t stride;
} rows;

static inline int64_t checkpoints(const recurrence *r) { return (r->time + r->chunk - 1) / r->chunk; }

static void allocate_block(block *b, const scan *s, arena *a) {
    const recurrence *r = &s->given->r;
    int64_t entries = s->together * r->key_size;
    b->r = r, b->given = s->given, b->size = r->key_size;
    b->products = allocate(a, entries), b->rate_gradient = allocate(a, entries);
    b->state = allocate(a, r->value_size * entries);
    b->decay = allocate(a, entries);
    b->written = allocate(a, r->value_size * s->together);
    b->of_head = allocate(a, s->together);
    b->gathered_key = allocate(a, entries);
    b->gathered_query = allocate(a, entries);
    b->gathered_decay = allocate(a, 2 * entries);
    b->gathered_value = allocate(a, s->together);
    b->gathered_gradient = allocate(a, s->together);
}

static void choose_block(block *b, const scan *s, int64_t i) {
    int64_t left;
    b->batch = i / s->blocks, b->first = i % s->blocks * s->together;
    left = b->r->heads - b->first;
    b->heads = left < s->together ? left : s->together;
    b->entries = b->heads * b->size;
}

/* The rows of a tensor at a token: where they are, or where they have one entry each, gathered in `scratch`,
 * so that one vector serves several heads. */
static inline rows rows_at(const block *b, tensor t, int64_t time, real *scratch) {
    rows found = {at(t, b->batch, time, b->first), t.stride[2]};
    if (b->size > 1 || found.stride == 1) return found;
    for (int64_t h = 0; h < b->heads; h++) scratch[h] = found.data[h * found.stride];
    return (rows){scratch, 1};
}

static void exponentials(int64_t count, const real *in, real *out) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) *(uvec *)(out + i) = exponential(*(const uvec *)(in + i));
    if (i < count) {
        real rest[LANES] = {0};
        for (int64_t j = i; j < count; j++) rest[j - i] = in[j];
        *(uvec *)rest = exponential(*(const uvec *)rest);
        for (int64_t j = i; j < count; j++) out[j] = rest[j - i];
    }
}

/* D_t, [heads, F] */
static void load_decays(const block *b, int64_t time, real *decay) {
    const recurrence *r = b->r;
    if (r->decay == NO_DECAY) {
        for (int64_t e = 0; e < b->entries; e++) decay[e] = 1;
        return;
    }
    rows log = rows_at(b, r->log_decay, time, b->gathered_decay);
    if (b->given->rates.data) {
        for (int64_t h = 0; h < b->heads; h++) {
            const real *rate = at(b->given->rates, 0, 0, b->first + h);
            for (int64_t f = 0; f < b->size; f++)
                b->products[h * b->size + f] = log.data[h * log.stride] * rate[f];
        }
        exponentials(b->entries, b->products, decay);
        for (int64_t e = 0; e < b->entries; e++)
            if (b->products[e] <= RESET) decay[e] = 0; /* NaN stays NaN */
    } else if (b->size == 1 || (r->decay == CHANNEL_DECAY && log.stride == b->size)) {
        exponentials(b->entries, log.data, decay);
    } else if (r->decay == CHANNEL_DECAY) {
        for (int64_t h = 0; h < b->heads; h++)
            exponentials(b->size, log.data + h * log.stride, decay + h * b->size);
    } else {
        for (int64_t h = 0; h < b->heads; h++) b->gathered_decay[h] = log.data[h * log.stride];
        exponentials(b->heads, b->gathered_decay, b->of_head);
        for (int64_t h = 0; h < b->heads; h++)
            for (int64_t f = 0; f < b->size; f++) decay[h * b->size + f] = b->of_head[h];
    }
}

/* step_t value_t, [V, heads] */
static void load_written(const block *b, int64_t time) {
    const recurrence *r = b->r;
    for (int64_t h = 0; h < b->heads; h++) {
        const real *value = at(r->value, b->batch, time, b->first + h);
        real step = r->step.data ? *at(r->step, b->batch, time, b->first + h) : 1;
        for (int64_t v = 0; v < r->value_size; v++) b->written[v * b->heads + h] = step * value[v];
    }
}

/* `after` = D before + key written, for one value channel; `before` may be `after` */
static void advance(const block *b, rows key, const real *decay, int64_t v, const real *before, real *after) {
    const real *written = b->written + v * b->heads;
    if (b->size == 1) {
#pragma omp simd
        for (int64_t h = 0; h < b->heads; h++) after[h] = decay[h] * before[h] + key.data[h] * written[h];
        return;
    }
    for (int64_t h = 0; h < b->heads; h++) {
        const real *k = key.data + h * key.stride, *d = decay + h * b->size, *in = before + h * b->size;
        real *out = after + h * b->size, w = written[h];
#pragma omp simd
        for (int64_t f = 0; f < b->size; f++) out[f] = d[f] * in[f] + k[f] * w;
    }
}

/* y_t for one value channel */
static void read_out(const block *b, rows query, const real *state, int64_t time, int64_t v) {
    const recurrence *r = b->r;
    real *y = at(r->y, b->batch, time, b->first) + v, scale = *r->scale.data;
    int64_t stride = r->y.stride[2];
    if (b->size == 1 && stride == 1) {
#pragma omp simd
        for (int64_t h = 0; h < b->heads; h++) y[h] = scale * query.data[h] * state[h];
        return;
    }
    for (int64_t h = 0; h < b->heads; h++) {
        const real *q = query.data + h * query.stride, *s = state + h * b->size;
        real sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t f = 0; f < b->size; f++) sum += q[f] * s[f];
        y[h * stride] = scale * sum;
    }
}

/* The state that enters the first token; between tensors [H, F, V] and blocks [V, heads, F]. */
static void load_state(const block *b, tensor from, real *state) {
    int64_t values = b->r->value_size;
    for (int64_t h = 0; h < b->heads; h++)
        for (int64_t f = 0; f < b->size; f++)
            for (int64_t v = 0; v < values; v++)
                state[v * b->entries + h * b->size + f] =
                    at(from, b->batch, b->first + h, 0)[f * from.stride[2] + v];
}

static void store_state(const block *b, const real *state, tensor to) {
    int64_t values = b->r->value_size;
    for (int64_t h = 0; h < b->heads; h++)
        for (int64_t f = 0; f < b->size; f++)
            for (int64_t v = 0; v < values; v++)
                at(to, b->batch, b->first + h, 0)[f * to.stride[2] + v] =
                    state[v * b->entries + h * b->size + f];
}

/* Where the state [V, heads, F] that enters a checkpoint's tokens is saved. */
static inline real *checkpoint(const block *b, int64_t index) {
    const recurrence *r = b->r;
    int64_t all = r->heads * r->key_size * r->value_size;
    return r->states + (b->batch * checkpoints(r) + index) * all + b->first * r->key_size * r->value_size;
}

static void run_forward(const void *job, int64_t i, arena scratch, int64_t *needed) {
    const scan *s = job;
    const recurrence *r = &s->given->r;
    block b;
    allocate_block(&b, s, &scratch);
    if (needed) {
        *needed = scratch.used;
        return;
    }
    choose_block(&b, s, i);
    load_state(&b, r->memory, b.state);
    for (int64_t t = 0; t < r->time; t++) {
        if (r->states && t % r->chunk == 0) {
            real *saved = checkpoint(&b, t / r->chunk);
            for (int64_t e = 0; e < r->value_size * b.entries; e++) saved[e] = b.state[e];
        }
        load_decays(&b, t, b.decay);
        load_written(&b, t);
        rows key = rows_at(&b, r->key, t, b.gathered_key), query = rows_at(&b, r->query, t, b.gathered_query);
        for (int64_t v = 0; v < r->value_size; v++) {
            real *state = b.state + v * b.entries;
            if (r->reads_first) read_out(&b, query, state, t, v);
            advance(&b, key, b.decay, v, state, state);
            if (!r->reads_first) read_out(&b, query, state, t, v);
        }
    }
    store_state(&b, b.state, r->last);
}

/* The gradients of one head at a token, from `before` = S_{t-1} and `after` = S_t. `gradient` is G_t without
 * the token's own read-out, and becomes D_t G_t. */
static void run_head(const block *b, int64_t t, int64_t h, const real *k, const real *q, const real *d,
                     const real *before, const real *after, real *gradient) {
    const recurrence *r = b->r;
    int64_t head = b->first + h, size = b->size;
    const int channel = r->decay == CHANNEL_DECAY, early = r->reads_first != 0;
    const real *grad_y = at(r->y, b->batch, t, head), *value = at(r->value, b->batch, t, head);
    real step = r->step.data ? *at(r->step, b->batch, t, head) : 1, of_step = 0, of_decay = 0;
    real *restrict of_query = at(r->grad_query, b->batch, t, head);
    real *restrict of_key = at(r->grad_key, b->batch, t, head);
    real *restrict of_channel = channel ? at(r->grad_log_decay, b->batch, t, head) : b->gathered_decay;
    for (int64_t v = 0; v < r->value_size; v++) {
        real *restrict g = gradient + v * b->entries;
        const real *old = before + v * b->entries, *read = early ? old : after + v * b->entries;
        real dy = *r->scale.data * grad_y[v], w = step * value[v], written = 0, decayed = 0,
             late = early ? 0 : dy;
        if (v == 0)
            for (int64_t f = 0; f < size; f++) of_query[f] = of_key[f] = of_channel[f] = 0;
#pragma omp simd reduction(+ : written, decayed)
        for (int64_t f = 0; f < size; f++) {
            real whole = g[f] + q[f] * late, kept = d[f] * whole, change = kept * old[f];
            of_query[f] += dy * read[f];
            of_key[f] += w * whole;
            of_channel[f] += change;
            written += k[f] * whole;
            decayed += change;
            g[f] = kept + q[f] * (dy - late);
        }
        at(r->grad_value, b->batch, t, head)[v] = step * written;
        of_step += value[v] * written;
        of_decay += decayed;
    }
    if (b->given->rates.data) {
        const real *rate = at(b->given->rates, 0, 0, head), log = *at(r->log_decay, b->batch, t, head);
        real *restrict of_rate = b->rate_gradient + h * size;
        of_decay = 0;
#pragma omp simd reduction(+ : of_decay)
        for (int64_t f = 0; f < size; f++) {
            of_decay += of_channel[f] * rate[f];
            of_rate[f] += of_channel[f] * log;
        }
    }
    if (r->step.data) *at(r->grad_step, b->batch, t, head) = of_step;
    if (r->decay == HEAD_DECAY) *at(r->grad_log_decay, b->batch, t, head) = of_decay;
}

/* Entry v of every head's row, one after the other. */
static inline const real *column(const block *b, tensor t, int64_t time, int64_t v, real *scratch) {
    const real *data = at(t, b->batch, time, b->first) + v;
    if (t.stride[2] == 1) return data;
    for (int64_t h = 0; h < b->heads; h++) scratch[h] = data[h * t.stride[2]];
    return scratch;
}

/* As `run_head` for all heads, which have one key channel each. */
static void run_heads(const block *b, int64_t t, const real *k, const real *q, const real *d,
                      const real *before, const real *after, real *gradient) {
    const recurrence *r = b->r;
    int64_t heads = b->heads, values = r->value_size;
    const real *step = r->step.data ? column(b, r->step, t, 0, b->of_head) : 0, scale = *r->scale.data;
    const int early = r->reads_first != 0;
    real *restrict of_query = at(r->grad_query, b->batch, t, b->first);
    real *restrict of_key = at(r->grad_key, b->batch, t, b->first);
    real *restrict of_value = at(r->grad_value, b->batch, t, b->first);
    real *restrict of_step = step ? at(r->grad_step, b->batch, t, b->first) : b->gathered_decay;
    real *restrict of_decay =
        r->decay != NO_DECAY ? at(r->grad_log_decay, b->batch, t, b->first) : b->gathered_decay + heads;
    for (int64_t v = 0; v < values; v++) {
        real *restrict g = gradient + v * heads;
        const real *old = before + v * heads, *read = early ? old : after + v * heads;
        const real *grad_y = column(b, r->y, t, v, b->gathered_gradient),
                   *value = column(b, r->value, t, v, b->gathered_value);
        if (v == 0)
            for (int64_t h = 0; h < heads; h++) of_query[h] = of_key[h] = of_step[h] = of_decay[h] = 0;
#pragma omp simd
        for (int64_t h = 0; h < heads; h++) {
            real dy = scale * grad_y[h], late = early ? 0 : dy, share = step ? step[h] : 1;
            real whole = g[h] + q[h] * late, kept = d[h] * whole, written = k[h] * whole;
            of_query[h] += dy * read[h];
            of_key[h] += share * value[h] * whole;
            of_step[h] += value[h] * written;
            of_decay[h] += kept * old[h];
            of_value[h * values + v] = share * written;
            g[h] = kept + q[h] * (dy - late);
        }
    }
    if (b->given->rates.data)
        for (int64_t h = 0; h < heads; h++) {
            b->rate_gradient[h] += of_decay[h] * *at(r->log_decay, b->batch, t, b->first + h);
            of_decay[h] *= *at(b->given->rates, 0, 0, b->first + h);
        }
}

static void run_token(const block *b, int64_t t, const real *before, const real *after, const real *decay,
                      real *gradient) {
    rows key = rows_at(b, b->r->key, t, b->gathered_key),
         query = rows_at(b, b->r->query, t, b->gathered_query);
    if (b->size == 1) {
        run_heads(b, t, key.data, query.data, decay, before, after, gradient);
        return;
    }
    for (int64_t h = 0; h < b->heads; h++) {
        int64_t start = h * b->size;
        run_head(b, t, h, key.data + h * key.stride, query.data + h * query.stride, decay + start,
                 before + start, after + start, gradient + start);
    }
}

static void run_backward(const void *job, int64_t i, arena scratch, int64_t *needed) {
    const scan *s = job;
    const recurrence *r = &s->given->r;
    block b;
    allocate_block(&b, s, &scratch);
    int64_t entries = s->together * r->key_size, all = r->value_size * entries;
    real *states = allocate(&scratch, (r->chunk + 1) * all), *decays = allocate(&scratch, r->chunk * entries);
    if (needed) {
        *needed = scratch.used;
        return;
    }
    choose_block(&b, s, i);
    all = r->value_size * b.entries;
    load_state(&b, r->last, b.state);
    for (int64_t e = 0; e < b.entries; e++) b.rate_gradient[e] = 0;
    for (int64_t c = checkpoints(r) - 1; c >= 0; c--) {
        int64_t first = c * r->chunk, tokens = r->time - first < r->chunk ? r->time - first : r->chunk;
        const real *saved = checkpoint(&b, c);
        for (int64_t e = 0; e < all; e++) states[e] = saved[e];
        for (int64_t j = 0; j < tokens; j++) {
            load_decays(&b, first + j, decays + j * b.entries);
            load_written(&b, first + j);
            rows key = rows_at(&b, r->key, first + j, b.gathered_key);
            for (int64_t v = 0; v < r->value_size; v++)
                advance(&b, key, decays + j * b.entries, v, states + j * all + v * b.entries,
                        states + (j + 1) * all + v * b.entries);
        }
        for (int64_t j = tokens - 1; j >= 0; j--)
            run_token(&b, first + j, states + j * all, states + (j + 1) * all, decays + j * b.entries,
                      b.state);
    }
    store_state(&b, b.state, r->grad_memory);
    if (b.given->rates.data)
        for (int64_t e = 0; e < b.entries; e++)
            at(b.given->grad_rates, b.batch, 0, b.first + e / b.size)[e % b.size] = b.rate_gradient[e];
}

static int run_all(const arguments *given, task *run) {
    const recurrence *r = &given->r;
    int64_t together = ENTRIES / r->key_size;
    if (together < 1) together = 1;
    if (together > r->heads) together = r->heads;
    scan s = {given, together, together ? (r->heads + together - 1) / together : 0};
    return run_tasks(&s, r->batch * s.blocks, r->threads, run);
}

int TTR_NAME(scan_forward)(const arguments *given) { return run_all(given, run_forward); }
int TTR_NAME(scan_backward)(const arguments *given) { return run_all(given, run_backward); }
