/* Independent tasks on several threads. Threads exist for one call only, so there is no state, nothing to
 * shut down and nothing that a fork could break. */
#ifndef TTR_PARALLEL_H
#define TTR_PARALLEL_H

#include <pthread.h>
#include <stdlib.h>

#include "scratch.h"

enum { MOST_THREADS = 256, ALIGNMENT = 64 };

/* Runs task i of a job in the given scratch memory; if its base is NULL, the task only reports the size that
 * it needs. */
typedef void task(const void *job, int64_t i, arena scratch, int64_t *needed);

typedef struct {
    const void *job;
    task *run;
    int64_t *next, count; /* the number of the next task, shared by all threads; the number of tasks */
    arena scratch;
} thread;

static void *work(void *argument) {
    thread *t = argument;
    int64_t i;
    while ((i = __atomic_fetch_add(t->next, 1, __ATOMIC_RELAXED)) < t->count)
        t->run(t->job, i, t->scratch, NULL);
    return NULL;
}

/* Returns 0, or -1 if there is no memory for the scratch. Results do not depend on the number of threads: one
 * thread runs each task. */
static inline int run_tasks(const void *job, int64_t count, int64_t threads, task *run) {
    int64_t next = 0, needed = 0, started = 1;
    if (count == 0) return 0;
    threads = threads < count ? threads : count;
    threads = threads > MOST_THREADS ? MOST_THREADS : threads < 1 ? 1 : threads;
    run(job, 0, (arena){NULL, 0}, &needed);
    needed = (needed + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    real *scratch = aligned_alloc(ALIGNMENT, (size_t)(threads * needed) * sizeof(real));
    if (!scratch) return -1;
    thread all[MOST_THREADS];
    pthread_t others[MOST_THREADS];
    for (int64_t i = 0; i < threads; i++)
        all[i] = (thread){job, run, &next, count, {scratch + i * needed, 0}};
    while (started < threads && !pthread_create(&others[started], NULL, work, &all[started])) started++;
    work(&all[0]);
    for (int64_t i = 1; i < started; i++) pthread_join(others[i], NULL);
    free(scratch);
    return 0;
}

#endif
