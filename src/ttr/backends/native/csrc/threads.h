/* Heads of sequences in parallel. Threads live for one call, so there is no state, nothing to shut down and nothing to survive a fork. */
#ifndef TTR_THREADS_H
#define TTR_THREADS_H

#include <pthread.h>
#include <stdlib.h>

#include "recurrence.h"

enum { MOST_THREADS = 256, ALIGNMENT = 64 };

/* Runs one head of one sequence in the scratch memory given; with a scratch of base NULL it only counts what it needs. */
typedef void task(const recurrence *r, int64_t batch, int64_t head, arena scratch, int64_t *needed);

typedef struct {
    const recurrence *r;
    task *run;
    int64_t *next; /* the next task of all, shared */
    arena scratch;
} worker;

static void *work(void *argument) {
    worker *w = argument;
    int64_t i, count = w->r->batch * w->r->heads;
    while ((i = __atomic_fetch_add(w->next, 1, __ATOMIC_RELAXED)) < count) w->run(w->r, i / w->r->heads, i % w->r->heads, w->scratch, NULL);
    return NULL;
}

/* 0, or -1 if there is no memory for the scratch. Results do not depend on the number of threads: each task is one thread's. */
static int run_tasks(const recurrence *r, task *run) {
    int64_t count = r->batch * r->heads, threads = r->threads < count ? r->threads : count, next = 0, needed = 0, started = 1;
    if (count == 0) return 0;
    if (threads < 1) threads = 1;
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    run(r, 0, 0, (arena){NULL, 0}, &needed);
    needed = (needed + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    real *scratch = aligned_alloc(ALIGNMENT, (size_t)(threads * needed) * sizeof(real));
    if (!scratch) return -1;
    worker workers[MOST_THREADS];
    pthread_t others[MOST_THREADS];
    for (int64_t i = 0; i < threads; i++) workers[i] = (worker){r, run, &next, {scratch + i * needed, 0}};
    while (started < threads && !pthread_create(&others[started], NULL, work, &workers[started])) started++;
    work(&workers[0]);
    for (int64_t i = 1; i < started; i++) pthread_join(others[i], NULL);
    free(scratch);
    return 0;
}

#endif
