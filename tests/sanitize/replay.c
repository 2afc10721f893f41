/* Repeats the calls recorded by recorder.py, without Python, under a sanitizer:
 *
 *     replay LIBRARY FILE [exact]
 *
 * Each call runs in every instruction set that the library supports here, with 1, 2 and 4 threads, in memory
 * that is not a byte longer than the caller's tensors. The number of threads must change no bit; with
 * `exact`, results in the instruction set of the recording must equal the recorded ones. With FEW_THREADS two
 * of three threads are refused. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { /* as HEAD in recorder.py */
    char kernel[32], isa[16], real[8];
    uint64_t result, layout, threads, stretches, pointers;
} head;

typedef struct {
    uint64_t size;
    unsigned char *before, *after, *first; /* as recorded; and after the call with one thread */
} stretch;

typedef struct {
    uint64_t at, stretch, offset;
} pointer;

typedef struct {
    head head;
    unsigned char *layout; /* the struct of the call, without its pointers and its number of threads */
    stretch *stretches;
    pointer *pointers;
} record;

static const char *const ISAS[] = {"avx512", "avx2", "portable"};
static const int64_t THREADS[] = {1, 2, 4};

static int refused; /* number of threads */

#ifdef FEW_THREADS
int pthread_create(pthread_t *made, const pthread_attr_t *attributes, void *(*run)(void *), void *argument) {
    static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    static int asked;
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    if (asked++ % 3 == 0) return real(made, attributes, run, argument);
    refused++;
    return EAGAIN;
}
#endif

static void fail(const record *r, const char *isa, int64_t threads, const char *what) {
    fprintf(stderr, "%s %s, %s, %d threads: %s\n", r->head.kernel, r->head.real, isa, (int)threads, what);
    exit(1);
}

static void *read_bytes(FILE *file, uint64_t size) {
    void *found = malloc(size);
    if (fread(found, 1, size, file) != size) {
        fprintf(stderr, "The recording ends in the middle of a call.\n");
        exit(1);
    }
    return found;
}

static int next_record(FILE *file, record *r) {
    if (fread(&r->head, sizeof r->head, 1, file) != 1) return 0;
    r->layout = read_bytes(file, r->head.layout);
    r->stretches = calloc(r->head.stretches, sizeof(stretch));
    for (stretch *s = r->stretches; s < r->stretches + r->head.stretches; s++) {
        uint64_t *size = read_bytes(file, sizeof *size);
        s->size = *size;
        free(size);
        s->before = read_bytes(file, s->size), s->after = read_bytes(file, s->size),
        s->first = malloc(s->size);
    }
    r->pointers = read_bytes(file, r->head.pointers * sizeof(pointer));
    return 1;
}

static void forget(record *r) {
    for (stretch *s = r->stretches; s < r->stretches + r->head.stretches; s++)
        free(s->before), free(s->after), free(s->first);
    free(r->layout), free(r->stretches), free(r->pointers);
}

static void make_call(void *library, const record *r, const char *isa, int64_t threads, int exact) {
    char symbol[96];
    snprintf(symbol, sizeof symbol, "ttr_%s_%s_%s", r->head.kernel, isa, r->head.real);
    void *kernel = dlsym(library, symbol);
    if (!kernel) fail(r, isa, threads, "the library has no such kernel");
    unsigned char *layout = memcpy(malloc(r->head.layout), r->layout, r->head.layout);
    unsigned char **memory = calloc(r->head.stretches, sizeof *memory);
    memcpy(layout + r->head.threads, &threads, sizeof threads);
    for (uint64_t i = 0; i < r->head.stretches; i++)
        memory[i] = memcpy(malloc(r->stretches[i].size), r->stretches[i].before, r->stretches[i].size);
    for (const pointer *p = r->pointers; p < r->pointers + r->head.pointers; p++) {
        unsigned char *place = memory[p->stretch] + p->offset;
        memcpy(layout + p->at, &place, sizeof place);
    }
    /* these take their tensors apart from the struct that begins with them */
    const int apart = !strcmp(r->head.kernel, "step") || !strcmp(r->head.kernel, "operations");
    int result =
        !apart
            ? (*(int (**)(const void *))&kernel)(layout)
            : (*(int (**)(const void *, const void *))&kernel)(layout, layout);
    if (result != (int)r->head.result) fail(r, isa, threads, "it returned something else");
    for (uint64_t i = 0; i < r->head.stretches; i++) {
        const stretch *s = &r->stretches[i];
        if (threads == 1) memcpy(s->first, memory[i], s->size);
        if (memcmp(s->first, memory[i], s->size)) fail(r, isa, threads, "another result than at one thread");
        if (exact && !strcmp(isa, r->head.isa) && memcmp(s->after, memory[i], s->size))
            fail(r, isa, threads, "another result than recorded");
        free(memory[i]);
    }
    free(memory), free(layout);
}

int main(int count, char **arguments) {
    void *library = count > 2 ? dlopen(arguments[1], RTLD_NOW) : NULL;
    FILE *file = count > 2 ? fopen(arguments[2], "rb") : NULL;
    int (*runs)(const char *) = NULL, exact = count > 3 && !strcmp(arguments[3], "exact");
    if (library) *(void **)&runs = dlsym(library, "ttr_runs");
    if (!runs || !file) {
        fprintf(stderr, "usage: replay LIBRARY FILE [exact]; got %s\n",
                runs ? "no such file" : "no such library");
        return 2;
    }
    record r;
    long calls = 0;
    for (; next_record(file, &r); forget(&r))
        for (int i = 0; i < 3; i++)
            for (int t = 0; t < 3 && runs(ISAS[i]); t++, calls++)
                make_call(library, &r, ISAS[i], THREADS[t], exact);
    fclose(file);
    printf("%ld calls, %d threads refused\n", calls, refused);
#ifdef FEW_THREADS
    return !refused;
#endif
    return !calls;
}
