/* What both forms of the selective scan (scan.c, scan_heads.inc) share: their arguments, the log decays, and
 * where states are saved. */
#ifndef TTR_SCAN_H
#define TTR_SCAN_H

#include "exponential.h"
#include "parallel.h"
#include "recurrence.h"

/* engines/native/scan.py holds the same fields in the same order.
 *
 * With `rates`, [.,.,H,F], the log decay is log_decay_t [H] times them; grad_rates is [B,1,H,F].
 * `together` heads are a task. With `shared` all heads have the key and the query of one, and no decay of
 * their own for each channel; then grad_key and grad_query are [B,T,tasks of a sequence,F], summed over the
 * heads of each. */
typedef struct {
    recurrence r;
    tensor rates, grad_rates;
    int64_t together, shared;
} scan;

static inline int64_t tasks(const scan *s) { return (s->r.heads + s->together - 1) / s->together; }
static inline int64_t checkpoints(const recurrence *r) { return (r->time + r->chunk - 1) / r->chunk; }

/* Where the state of a task's heads that enters a checkpoint's tokens is saved. */
static inline real *checkpoint(const recurrence *r, int64_t batch, int64_t first, int64_t index) {
    int64_t of_head = r->key_size * r->value_size;
    return r->states + ((batch * checkpoints(r) + index) * padded(r->heads) + first) * of_head;
}

/* e^x of log decays. Below RESET, a reset, it is 0; above 0, where a memory would grow, NaN, so that a caller
 * who looks at the results need not look at the decays. */
static inline vec decay_of(vec x) {
    const real reset = -80; /* decay.py */
    return (vec)(((ints)exponential_within(x) & ~(ints)(x <= reset)) | (ints)(x > 0));
}

#endif
