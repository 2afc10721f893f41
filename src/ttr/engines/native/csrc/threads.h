/* Heads of sequences in parallel. A thread advances several heads together, one checkpoint interval at a
 * time: where tokens are a page apart, heads share the pages, of which a core's TLB holds a few thousand. */
#ifndef TTR_THREADS_H
#define TTR_THREADS_H

#include "parallel.h"
#include "recurrence.h"

enum { MOST_TOGETHER = 8 };

/* Runs heads first, ..., first + count - 1 of all sequences in the scratch memory given, as a task does. */
typedef void heads_task(const recurrence *r, int64_t first, int64_t count, arena scratch, int64_t *needed);

typedef struct {
    const recurrence *r;
    heads_task *run;
    int64_t all, together;
} heads;

static void run_together(const void *job, int64_t i, arena scratch, int64_t *needed) {
    const heads *h = job;
    int64_t first = i * h->together, left = h->all - first;
    h->run(h->r, first, left < h->together && !needed ? left : h->together, scratch, needed);
}

static inline int run_all_heads(const recurrence *r, heads_task *run) {
    int64_t all = r->batch * r->heads, threads = r->threads < all ? r->threads : all;
    int64_t together = threads > 0 ? (all + threads - 1) / threads : all;
    if (together > MOST_TOGETHER) together = MOST_TOGETHER;
    heads h = {r, run, all, together};
    return all ? run_tasks(&h, (all + together - 1) / together, threads, run_together) : 0;
}

#endif
