/* Heads of sequences in parallel. Threads live for one call, so there is no state, nothing to shut down and nothing to survive a fork. */
#ifndef TTR_THREADS_H
#define TTR_THREADS_H

#include <pthread.h>
#include <stdlib.h>

#include "recurrence.h"

enum { MOST_THREADS = 256, MOST_TOGETHER = 8, ALIGNMENT = 64 };

/* Runs heads first, ..., first + count - 1 of all sequences in the scratch memory given; with a scratch of base NULL it only counts what it
 * needs. They go through time together, a stretch at a time: where tokens are a page apart, heads share the pages, of which a core
 * remembers few thousand. */
typedef void task(const recurrence *r, int64_t first, int64_t count, arena scratch, int64_t *needed);

typedef struct {
    const recurrence *r;
    task *run;
    int64_t *next; /* the next head of all, shared */
    int64_t together;
    arena scratch;
} worker;

static void *work(void *argument) {
    worker *w = argument;
    int64_t i, all = w->r->batch * w->r->heads;
    while ((i = __atomic_fetch_add(w->next, w->together, __ATOMIC_RELAXED)) < all)
        w->run(w->r, i, i + w->together < all ? w->together : all - i, w->scratch, NULL);
    return NULL;
}

/* 0, or -1 if there is no memory for the scratch. Results do not depend on the number of threads: each head is one thread's. */
static inline int run_tasks(const recurrence *r, task *run) {
    int64_t all = r->batch * r->heads, threads = r->threads < all ? r->threads : all, next = 0, needed = 0, started = 1;
    if (all == 0) return 0;
    if (threads < 1) threads = 1;
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    int64_t together = (all + threads - 1) / threads;
    if (together > MOST_TOGETHER) together = MOST_TOGETHER;
    run(r, 0, together, (arena){NULL, 0}, &needed);
    needed = (needed + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    real *scratch = aligned_alloc(ALIGNMENT, (size_t)(threads * needed) * sizeof(real));
    if (!scratch) return -1;
    worker workers[MOST_THREADS];
    pthread_t others[MOST_THREADS];
    for (int64_t i = 0; i < threads; i++) workers[i] = (worker){r, run, &next, together, {scratch + i * needed, 0}};
    while (started < threads && !pthread_create(&others[started], NULL, work, &workers[started])) started++;
    work(&workers[0]);
    for (int64_t i = 1; i < started; i++) pthread_join(others[i], NULL);
    free(scratch);
    return 0;
}

#endif
