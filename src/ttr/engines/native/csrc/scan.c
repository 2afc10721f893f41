/* An additive memory with few value channels per head, token by token: the selective scan (Mamba, arXiv
 * 2312.00752; HGRN, 2311.04823) and its derivative.
 *
 *     S_t = D_t S_{t-1} + step_t key_t value_t^T,     y_t = scale S_t^T query_t
 *
 * elementwise in the state, so that there is no product of matrices to gain from a chunk: a block of heads
 * goes through all tokens with its state in the first-level cache, here a vector of key channels at a time, in
 * scan_heads.inc a vector of heads. With G_t the gradient of S_t,
 *
 *     G_t = D_{t+1} G_{t+1} + scale query_t grad_y_t^T
 *     grad_query_t = scale S_t grad_y_t,   grad_key_t = step G_t value_t,   grad_value_t = step G_t^T key_t,
 *     grad_step_t = key_t^T G_t value_t,   grad_log_decay_t = D_t (S_{t-1} * G_t) summed over the values.
 *
 * The backward pass goes from checkpoint to checkpoint, r->chunk tokens apart, and recomputes the states in
 * between. Decays are multiplied, never divided. */
#include "scan.h"
#include "scan_heads.inc"

/* A block of heads at one token. Rows are [heads, F] or [heads]; `decay` [heads, F] is e^log_decay, and
 * `written` [V, heads] step times value; `rate_gradient` [heads, F] is the gradient of the rates so far. The
 * others are scratch. */
typedef struct {
    const recurrence *r;
    int64_t batch, first, heads, size, entries; /* F; heads F */
    const scan *given;
    real *state, *decay, *written, *rate_gradient;
    real *of_head, *gathered; /* [heads], [heads, F] */
} block;

static void allocate_block(block *b, const scan *s, arena *a) {
    const recurrence *r = &s->r;
    int64_t entries = s->together * r->key_size;
    b->r = r, b->given = s, b->size = r->key_size;
    b->rate_gradient = allocate(a, entries);
    b->state = allocate(a, r->value_size * entries);
    b->decay = allocate(a, entries);
    b->written = allocate(a, r->value_size * s->together);
    b->of_head = allocate(a, s->together);
    b->gathered = allocate(a, entries);
}

static void choose_block(block *b, const scan *s, int64_t i) {
    int64_t left;
    b->batch = i / tasks(s), b->first = i % tasks(s) * s->together;
    left = b->r->heads - b->first;
    b->heads = left < s->together ? left : s->together;
    b->entries = b->heads * b->size;
}

static inline rows rows_of(const block *b, tensor t, int64_t time) {
    return (rows){at(t, b->batch, time, b->first), t.stride[2]};
}

static void exponentials(int64_t count, const real *in, real *out) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) *(uvec *)(out + i) = decay_of(*(const uvec *)(in + i));
    if (i < count) {
        real rest[LANES] = {0};
        for (int64_t j = i; j < count; j++) rest[j - i] = in[j];
        *(uvec *)rest = decay_of(*(const uvec *)rest);
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
    rows log = rows_of(b, r->log_decay, time);
    if (b->given->rates.data) {
        for (int64_t h = 0; h < b->heads; h++) {
            const real *rate = at(b->given->rates, 0, 0, b->first + h);
            for (int64_t f = 0; f < b->size; f++)
                b->gathered[h * b->size + f] = log.data[h * log.stride] * rate[f];
        }
        exponentials(b->entries, b->gathered, decay);
    } else if (r->decay == CHANNEL_DECAY && log.stride == b->size) {
        exponentials(b->entries, log.data, decay);
    } else if (r->decay == CHANNEL_DECAY) {
        for (int64_t h = 0; h < b->heads; h++)
            exponentials(b->size, log.data + h * log.stride, decay + h * b->size);
    } else {
        for (int64_t h = 0; h < b->heads; h++) b->gathered[h] = log.data[h * log.stride];
        exponentials(b->heads, b->gathered, b->of_head);
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

static void run_forward(const void *job, int64_t i, arena scratch, int64_t *needed) {
    const scan *s = job;
    const recurrence *r = &s->r;
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
            real *saved = checkpoint(r, b.batch, b.first, t / r->chunk);
            for (int64_t e = 0; e < r->value_size * b.entries; e++) saved[e] = b.state[e];
        }
        load_decays(&b, t, b.decay);
        load_written(&b, t);
        rows key = rows_of(&b, r->key, t), query = rows_of(&b, r->query, t);
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
    real *restrict of_channel = channel ? at(r->grad_log_decay, b->batch, t, head) : b->gathered;
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

static void run_token(const block *b, int64_t t, const real *before, const real *after, const real *decay,
                      real *gradient) {
    rows key = rows_of(b, b->r->key, t), query = rows_of(b, b->r->query, t);
    for (int64_t h = 0; h < b->heads; h++) {
        int64_t start = h * b->size;
        run_head(b, t, h, key.data + h * key.stride, query.data + h * query.stride, decay + start,
                 before + start, after + start, gradient + start);
    }
}

static void run_backward(const void *job, int64_t i, arena scratch, int64_t *needed) {
    const scan *s = job;
    const recurrence *r = &s->r;
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
        const real *saved = checkpoint(r, b.batch, b.first, c);
        for (int64_t e = 0; e < all; e++) states[e] = saved[e];
        for (int64_t j = 0; j < tokens; j++) {
            load_decays(&b, first + j, decays + j * b.entries);
            load_written(&b, first + j);
            rows key = rows_of(&b, r->key, first + j);
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

static int run_all(const scan *s, task *by_channels, task *by_heads) {
    task *run = s->shared || s->r.key_size == 1 ? by_heads : by_channels;
    return run_tasks(s, s->r.batch * tasks(s), s->r.threads, run);
}

int TTR_NAME(scan_forward)(const scan *s) { return run_all(s, run_forward, heads_forward); }
int TTR_NAME(scan_backward)(const scan *s) { return run_all(s, run_backward, heads_backward); }
