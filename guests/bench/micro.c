/* Rates of single kinds of instructions, printed as `rate NAME NUMBER`, each measured for about a second. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { SIZE = 64, BLOCK = 1 << 20 };

static double a[SIZE][SIZE], b[SIZE][SIZE], c[SIZE][SIZE];
static uint8_t from[BLOCK], to[BLOCK];

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* 10,000 rounds of what x87 programs do: load, multiply, add, divide, square root. */
static void x87(void) {
    long double x = 1.5L;
    for (int i = 1; i <= 10000; i++) {
        long double y = x * 1.0001L + (long double)i;
        __asm__ volatile("fsqrt" : "+t"(y));
        x = y / 3.25L;
    }
    volatile long double keep = x;
    (void)keep;
}

static void sse2(void) {
    for (int i = 0; i < SIZE; i++) {
        for (int k = 0; k < SIZE; k++) {
            double factor = a[i][k];
            for (int j = 0; j < SIZE; j++) c[i][j] += factor * b[k][j];
        }
    }
}

static void rep_movs(void) {
    void *source = from, *target = to;
    size_t count = BLOCK;
    __asm__ volatile("rep movsb" : "+S"(source), "+D"(target), "+c"(count) : : "memory");
}

static void rate(const char *name, void (*work)(void)) {
    long rounds = 0;
    double start = now(), end;
    do {
        work();
        rounds++;
        end = now();
    } while (end - start < 1.0);
    printf("rate %s %.1f\n", name, (double)rounds / (end - start));
    fflush(stdout);
}

int main(void) {
    for (int i = 0; i < SIZE; i++) {
        for (int j = 0; j < SIZE; j++) {
            a[i][j] = i + j;
            b[i][j] = i - j;
        }
    }
    memset(from, 7, sizeof from);
    rate("x87", x87);
    rate("sse2-matmul", sse2);
    rate("rep-movs", rep_movs);
    return memcmp(from, to, sizeof from) != 0;
}
