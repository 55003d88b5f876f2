/*
 * Durations in ns, kept in buckets so that recording one costs a few instructions and any number of them fits.
 * 128 steps an octave: a value is right to 0.8 %, and rounded up.
 */
#include <stdint.h>
#include <stdio.h>

enum { STEPS = 128, BUCKETS = 58 * STEPS };
struct histogram {
    unsigned long count, buckets[BUCKETS];
    int64_t max;
    double sum;
};

static void record(struct histogram *h, int64_t ns) {
    unsigned long v = ns < 0 ? 0 : (unsigned long)ns;
    int shift = v < STEPS ? 0 : 63 - __builtin_clzll(v) - 7;
    h->buckets[shift * STEPS + (int)(v >> shift)]++;
    h->count++;
    h->sum += (double)v;
    if (ns > h->max) h->max = ns;
}

/* In microseconds: the smallest step that `part` of all values do not exceed. */
static double percentile(const struct histogram *h, double part) {
    unsigned long wanted = (unsigned long)(part * (double)h->count), seen = 0;
    if (wanted < part * (double)h->count) wanted++;
    for (int i = 0; i < BUCKETS; i++) {
        seen += h->buckets[i];
        if (!seen || seen < wanted) continue;
        int shift = i < 2 * STEPS ? 0 : i / STEPS - 1;
        unsigned long top = (((unsigned long)(i - shift * STEPS) + 1) << shift) - 1;
        return (double)(top < (unsigned long)h->max ? top : (unsigned long)h->max) / 1e3;
    }
    return 0;
}

/* As a member of a JSON object, in microseconds. */
static void show(const char *name, const struct histogram *h) {
    printf("\"%s\":{\"count\":%lu,\"mean\":%.3f,\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"p999\":%.3f,\"max\":%.3f},", name,
           h->count, h->count ? h->sum / (double)h->count / 1e3 : 0, percentile(h, 0.5), percentile(h, 0.9), percentile(h, 0.99),
           percentile(h, 0.999), (double)h->max / 1e3);
}
