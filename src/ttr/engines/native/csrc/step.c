/* One token of a memory that is a matrix S [F,V], for every head of every sequence:
 *
 *     S <- D S + b (k v^T - e (S_x^T p)^T),   S_x = D S, or S where ``old``          y = s S^T q
 *
 * the recurrence of forms/linear_recurrence.py with a factor s on the query. Moving the state costs more than
 * computing with it. With found = S_x^T p the read-out of the memory after the token is
 *
 *     y = s (D S)^T q - s b (q.e) found + s b (q.k) v
 *
 * so one pass over S computes S^T p and S^T q, and a second one, in reverse order, writes S, so that the rows
 * read last are still in the cache. An additive memory reads nothing of S before it writes, hence one pass.
 * Where a token reads before it writes, y = s S^T q with the S before the token. */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "simd.h"

enum { QUERY, KEY, VALUE, READ, ERASE, STEP, LOG_DECAY, OPERANDS };

/* A call, as native/step.py lays it out: first the tensors, which are new with every token, then what stays
 * the same. Operands [B,h,.] have a contiguous last axis; NULL where the recurrence has none. */
struct token {
    const real *operands[OPERANDS];
    const real *memory; /* [B,H,F,V], contiguous */
    real *next, *y;     /* the memory after the token, which may be the same tensor; [B,H,V] */
    int64_t *position;  /* [B], validated, and raised by one where the memory is written in place; or NULL */
    int64_t strides[OPERANDS][3]; /* of the batch, of a head, and how many heads of the memory share a head */
    int64_t batch, heads, features, values;
    /* log_decay is [B,H,F]; S_x is S; y is read before the write; the numbers are known to be valid */
    int64_t channels, old, reads_first, checked;
    int64_t threads;
    double scale;
};

INLINE const real *at(const struct token *t, int which, int64_t b, int64_t h) {
    const int64_t *stride = t->strides[which];
    return t->operands[which] ? t->operands[which] + b * stride[0] + h / stride[2] * stride[1] : NULL;
}

/* Without it the compiler loads a number once for each of its uses, and loads are the bottleneck of these
 * loops. */
#if defined(__x86_64__)
#define LOAD_ONCE(x) __asm__("" : "+v"(x))
#elif defined(__aarch64__)
#define LOAD_ONCE(x) __asm__("" : "+w"(x))
#else
#define LOAD_ONCE(x)
#endif

#define LAST_POSITION (INT64_C(1) << 62) /* as in values.py */

/* Rows at a time: enough that the V sums or V numbers to write, which they share, are seldom loaded. */
enum { ROWS = 4, LINE = 64 / sizeof(real) };

#define NAME_(name, type) name##_##type
#define NAME(name, type) NAME_(name, type)
#define LANES_OF(type) NAME(lanes, type)
#define TYPE vec
#define ANYWHERE uvec
#include "step_rows.inc"
#undef TYPE
#undef ANYWHERE
#define TYPE real
#define ANYWHERE real
#include "step_rows.inc"

/* found += S^T error, y += S^T query, of a memory [F,V]. */
static void read_memory(const real *memory, const real *error, const real *query, real *found, real *y,
                        int64_t F, int64_t V) {
    int64_t f = 0;
    for (; f + ROWS <= F; f += ROWS) {
        const real *rows = memory + f * V;
        read_rows_real(read_rows_vec(0, rows, error + f, query + f, found, y, V, ROWS), rows, error + f,
                       query + f, found, y, V, ROWS);
    }
    for (; f < F; f++) {
        const real *row = memory + f * V;
        read_rows_real(read_rows_vec(0, row, error + f, query + f, found, y, V, 1), row, error + f, query + f,
                       found, y, V, 1);
    }
}

/* What the second pass over a memory needs: see ``write_rows`` and ``add_rows``. */
struct update {
    const real *from, *decay, *key, *erase, *written, *erased, *query;
    real *to, *y;
    int64_t V, ahead; /* from one head's memory to the next, or 0 */
};

INLINE void update_rows(const struct update *u, int64_t f, const int n, const int adds, const int special) {
    const real *from = u->from + f * u->V, *decay = u->decay + f, *key = u->key + f, *written = u->written,
               *erased = u->erased;
    const int64_t V = u->V;
    real *to = u->to + f * V, *y = u->y;
    if (adds) {
        const int64_t c =
            add_rows_vec(0, from, to, decay, key, u->query + f, written, y, V, n, u->ahead, special);
        add_rows_real(c, from, to, decay, key, u->query + f, written, y, V, n, u->ahead, special);
    } else {
        const real *erase = special ? u->erase + f : NULL;
        const int64_t c = write_rows_vec(0, from, to, decay, key, erase, written, erased, V, n, u->ahead);
        write_rows_real(c, from, to, decay, key, erase, written, erased, V, n, u->ahead);
    }
}

/* In reverse order, since the rows that were read last are still in the cache; meanwhile those of the next
 * head are prefetched. */
INLINE void update_memory(const struct update *u, int64_t F, const int adds, const int special) {
    int64_t f = F;
    for (; f >= ROWS; f -= ROWS) update_rows(u, f - ROWS, ROWS, adds, special);
    while (f-- > 0) update_rows(u, f, 1, adds, special);
}

/* exp of a log decay; below -80 it is a reset, 0. */
INLINE real decay_of(real log_decay) {
    return log_decay < -80 ? 0 : sizeof(real) == 4 ? expf(log_decay) : exp(log_decay);
}

static real dot(const real *x, const real *y, int64_t n) {
    real sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}

/* Scratch vectors, F or V long, each aligned to cache lines: a vector register across two lines is loaded
 * twice. */
struct scratch {
    real *decay, *error, *query, *found, *written, *erased, *y;
};

/* ``fetch``: prefetch the memory of the next head, which is not in the cache. Returns whether the read-out is
 * finite. */
static int one_head(const struct token *t, int64_t b, int64_t h, struct scratch row, int fetch) {
    const int64_t F = t->features, V = t->values, index = b * t->heads + h;
    const real *query = at(t, QUERY, b, h), *key = at(t, KEY, b, h), *value = at(t, VALUE, b, h);
    const real *read = at(t, READ, b, h), *erase = at(t, ERASE, b, h), *log_decay = at(t, LOG_DECAY, b, h);
    const real *memory = t->memory + index * F * V;
    const real step = t->operands[STEP] ? *at(t, STEP, b, h) : 1, scale = (real)t->scale;
    const real same = log_decay && !t->channels ? decay_of(*log_decay) : 1;
    const int first = t->reads_first;
    real *y = row.y, of_value = 0, of_found = 0; /* the factors of v and found in y */

    if (log_decay && t->channels)
        for (int64_t f = 0; f < F; f++) row.decay[f] = decay_of(log_decay[f]);
    else
        for (int64_t f = 0; f < F; f++) row.decay[f] = same;
    for (int64_t f = 0; f < F; f++) row.query[f] = scale * query[f] * (read && !first ? row.decay[f] : 1);
    for (int64_t f = 0; read && f < F; f++) row.error[f] = read[f] * (t->old ? 1 : row.decay[f]);
    memset(y, 0, V * sizeof(real));
    memset(row.found, 0, V * sizeof(real));
    if (read) read_memory(memory, row.error, row.query, row.found, y, F, V);
    if (read && !first) {
        of_value = scale * step * dot(query, key, F);
        of_found = erase ? scale * step * dot(query, erase, F) : of_value;
    }
    for (int64_t c = 0; c < V; c++) {
        y[c] += of_value * value[c] - of_found * row.found[c];
        row.erased[c] = step * row.found[c];
        row.written[c] = step * value[c] - (erase ? 0 : row.erased[c]);
    }
    const struct update u = {.from = memory,
                             .to = t->next + index * F * V,
                             .decay = row.decay,
                             .key = key,
                             .erase = erase,
                             .query = row.query,
                             .written = row.written,
                             .erased = row.erased,
                             .y = y,
                             .V = V,
                             .ahead = fetch ? F * V : 0};
    if (read) erase ? update_memory(&u, F, 0, 1) : update_memory(&u, F, 0, 0);
    else first ? update_memory(&u, F, 1, 1) : update_memory(&u, F, 1, 0);
    if (V) memcpy(t->y + index * V, y, V * sizeof(real)); /* an empty tensor is NULL, which memcpy forbids */
    int wrong = 0;
    for (int64_t c = 0; c < V; c++) wrong |= y[c] - y[c] != 0; /* NaN for what is not finite */
    return !wrong;
}

/* Whether all numbers of the token are finite, steps >= 0, log decays <= 0 (-inf allowed), and positions
 * valid counts. */
static int sound(const struct token *t) {
    const int64_t sizes[OPERANDS] = {
        t->features, t->features, t->values, t->features, t->features, 1, t->channels ? t->features : 1};
    int wrong = 0;
    for (int which = 0; which < OPERANDS; which++)
        for (int64_t b = 0; t->operands[which] && b < t->batch; b++)
            for (int64_t h = 0; h < t->heads; h += t->strides[which][2]) {
                const real *x = at(t, which, b, h);
                if (which == LOG_DECAY)
                    for (int64_t i = 0; i < sizes[which]; i++) wrong |= !(x[i] <= 0);
                else
                    for (int64_t i = 0; i < sizes[which]; i++) wrong |= x[i] - x[i] != 0;
                if (which == STEP) wrong |= *x < 0;
            }
    for (int64_t b = 0; t->position && b < t->batch; b++)
        wrong |= t->position[b] < 0 || t->position[b] > LAST_POSITION;
    return !wrong;
}

/* The heads, of all sequences, that one thread computes. */
struct share {
    const struct token *token;
    struct scratch rows;
    int fetch, finite;
    int64_t start, stop;
};

static void *run_share(void *argument) {
    struct share *s = argument;
    for (int64_t i = s->start; i < s->stop; i++)
        s->finite &= one_head(s->token, i / s->token->heads, i % s->token->heads, s->rows,
                              s->fetch && i + 1 < s->stop);
    return NULL;
}

enum { MOST_THREADS = 64, NEAR = 1 << 20 }; /* NEAR: bytes assumed to fit a core's own cache */

/* ``tensors`` are the pointers at the beginning of ``struct token``, in its order; those of ``layout`` are
 * ignored. Returns 0; 1 with nothing changed if a number is invalid; 2 with nothing changed if there is no
 * memory for the scratch; 3 if all is done but not every read-out is finite. */
int TTR_NAME(step)(const void *tensors, const struct token *layout) {
    struct token call = *layout;
    const struct token *t = memcpy(&call, tensors, offsetof(struct token, strides));
    if (!t->checked && !sound(t)) return 1;
    const int64_t all = t->batch * t->heads, F = (t->features + LINE - 1) / LINE * LINE,
                  V = (t->values + LINE - 1) / LINE * LINE;
    const int far = all * t->features * t->values * (int64_t)sizeof(real) > NEAR;
    int64_t threads = t->threads < all ? t->threads : all, started = 1;
    threads = threads < 1 ? 1 : threads > MOST_THREADS ? MOST_THREADS : threads;
    real *scratch = aligned_alloc(64, (threads * (3 * F + 4 * V) + LINE) * sizeof(real));
    if (!scratch) return 2;
    struct share shares[MOST_THREADS];
    pthread_t workers[MOST_THREADS];
    for (int64_t i = 0; i < threads; i++) {
        real *f = scratch + i * (3 * F + 4 * V), *v = f + 3 * F;
        shares[i] = (struct share){t,
                                   {f, f + F, f + 2 * F, v, v + V, v + 2 * V, v + 3 * V},
                                   far,
                                   1,
                                   all * i / threads,
                                   all * (i + 1) / threads};
    }
    while (started < threads && pthread_create(&workers[started], NULL, run_share, &shares[started]) == 0)
        started++;
    run_share(&shares[0]);
    for (int64_t i = started; i < threads; i++)
        run_share(&shares[i]); /* those for which no thread could be created */
    for (int64_t i = 1; i < started; i++) pthread_join(workers[i], NULL);
    free(scratch);
    for (int64_t b = 0; t->position && t->next == t->memory && b < t->batch; b++) t->position[b]++;
    int finite = 1;
    for (int64_t i = 0; i < threads; i++) finite &= shares[i].finite;
    return finite ? 0 : 3;
}
