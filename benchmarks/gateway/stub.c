/*
 * The model server of the benchmark: the same for every gateway, and much cheaper than all of them (one thread, epoll,
 * two system calls a request). A request says who it is in its body, and the answer repeats it:
 *
 *   request   #<id: 16 hex><j or s>            anywhere in the body; j wants JSON, s a stream of server-sent events
 *   answer    #<id><ns: 16 hex><index: 8 hex>  once in JSON, once a token in a stream; ns is CLOCK_MONOTONIC at the
 *                                              moment of writing, so whoever reads it knows how long it was under way
 *
 * GET /stub/counts says what was seen, so that a generator's counts can be checked; any other GET is answered with 200
 * (routers ask for health and models). SIGTERM ends it. Faults are there to prove that the generator notices them.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_MAX = 16384, ID = 16, EVENTS = 256, READ = 1 << 18 };
enum state { IN_HEAD, IN_BODY, WAITING, STREAMING };
enum fault { NO_FAULT, STATUS, LENGTHS, MIXED, OTHER_ID, CUT, TWICE };
static const char *const FAULTS[] = {"none", "status", "lengths", "mixed", "other-id", "cut", "twice"};

struct conn {
    int fd;
    uint32_t life; /* timers of an earlier life are void */
    enum state state;
    size_t head_len, body_left;
    int marked; /* characters of the marker seen, -1 before its # */
    char id[ID + 1];
    bool stream, get, hears_writable;
    enum fault fault;
    unsigned token;
    char *out; /* what the socket did not take yet */
    size_t out_len, out_size;
    struct conn *next_free;
    char head[HEAD_MAX];
};

struct timer {
    int64_t due;
    struct conn *conn;
    uint32_t life;
};

static struct {
    unsigned tokens, slow_every, fault_every;
    int64_t gap, delay, slow;
    enum fault fault;
} option = {.tokens = 64, .gap = 20000000};

static struct {
    unsigned long requests, plain, streams, tokens, bad, cancelled, open, peak_open, streaming, peak_streaming;
} count;

static struct timer *heap;
static size_t heap_len, heap_size;
static struct conn *free_conns;
static int poller;
static volatile sig_atomic_t stopped;

static void stop(int number) {
    (void)number;
    stopped = 1;
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void *grown(void *old, size_t size) {
    void *p = realloc(old, size);
    if (!p) {
        fprintf(stderr, "stub: out of memory\n");
        exit(1);
    }
    return p;
}

/* timers: a binary heap by due time */

static void at(int64_t due, struct conn *c) {
    if (heap_len == heap_size) heap = grown(heap, (heap_size = heap_size ? 2 * heap_size : 1024) * sizeof *heap);
    size_t i = heap_len++;
    for (; i && heap[(i - 1) / 2].due > due; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = (struct timer){due, c, c->life};
}

static struct timer earliest(void) {
    struct timer first = heap[0], last = heap[--heap_len];
    size_t i = 0, child;
    for (; (child = 2 * i + 1) < heap_len; i = child) {
        if (child + 1 < heap_len && heap[child + 1].due < heap[child].due) child++;
        if (heap[child].due >= last.due) break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return first;
}

/* connections */

static void next_request(struct conn *c) {
    c->state = IN_HEAD;
    c->head_len = 0;
    c->marked = -1;
}

static void opened(int fd) {
    struct conn *c = free_conns;
    if (c)
        free_conns = c->next_free;
    else
        memset(c = grown(NULL, sizeof *c), 0, offsetof(struct conn, head));
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->fd = fd;
    c->hears_writable = false;
    c->out_len = 0;
    next_request(c);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    if (++count.open > count.peak_open) count.peak_open = count.open;
}

static void gone(struct conn *c) {
    if (c->state == STREAMING) count.streaming--;
    if (c->state == STREAMING || c->state == WAITING) count.cancelled++;
    close(c->fd);
    c->fd = -1;
    c->state = IN_HEAD;
    c->life++;
    c->next_free = free_conns;
    free_conns = c;
    count.open--;
}

static void hear_writable(struct conn *c, bool wanted) {
    if (c->hears_writable == wanted) return;
    c->hears_writable = wanted;
    struct epoll_event event = {.events = EPOLLIN | (wanted ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
}

/* Whatever the socket does not take is kept; a broken socket is found by the next read. */
static void write_out(struct conn *c, const char *data, size_t len) {
    if (!c->out_len) {
        ssize_t n = send(c->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN) return;
        if (n > 0) data += n, len -= (size_t)n;
        if (!len) return;
    }
    if (c->out_len + len > c->out_size) c->out = grown(c->out, c->out_size = 2 * (c->out_len + len));
    memcpy(c->out + c->out_len, data, len);
    c->out_len += len;
    hear_writable(c, true);
}

static void writable(struct conn *c) {
    ssize_t n = send(c->fd, c->out, c->out_len, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0) memmove(c->out, c->out + n, c->out_len -= (size_t)n);
    if (!c->out_len) hear_writable(c, false);
}

/* answers */

static void page(struct conn *c, int status, const char *body) {
    char text[2048];
    int n = snprintf(text, sizeof text, "HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s", status,
                     strlen(body), body);
    next_request(c);
    write_out(c, text, (size_t)n);
}

static void answer_get(struct conn *c) {
    char body[512];
    if (strncmp(c->head, "GET /stub/counts", 16) != 0) {
        page(c, 200,
             "{\"object\":\"list\",\"status\":\"ok\",\"data\":[{\"id\":\"stub\",\"object\":\"model\",\"owned_by\":\"stub\"}]}");
        return;
    }
    snprintf(body, sizeof body,
             "{\"requests\":%lu,\"plain\":%lu,\"streams\":%lu,\"tokens\":%lu,\"bad\":%lu,\"cancelled\":%lu,\"open\":%lu,"
             "\"peak_open\":%lu,\"peak_streaming\":%lu}",
             count.requests, count.plain, count.streams, count.tokens, count.bad, count.cancelled, count.open, count.peak_open,
             count.peak_streaming);
    page(c, 200, body);
}

static void answer_plain(struct conn *c) {
    char body[1024], text[2048];
    const char *other = c->fault == OTHER_ID ? "ffffffffffffffff" : c->id;
    int size =
        snprintf(body, sizeof body,
                 "{\"id\":\"chatcmpl-%s\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"stub\",\"choices\":"
                 "[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"#%s%016llx%08x The function returns before "
                 "the file is closed; move the call into the with block.\"},\"finish_reason\":\"stop\"}],"
                 "\"usage\":{\"prompt_tokens\":64,\"completion_tokens\":24,\"total_tokens\":88}}",
                 other, other, (unsigned long long)now_ns(), 0);
    const char *more = c->fault == MIXED ? "transfer-encoding: chunked\r\n" : c->fault == LENGTHS ? "content-length: 2\r\n" : "";
    int n = snprintf(text, sizeof text, "HTTP/1.1 %s\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n",
                     c->fault == STATUS ? "500 Internal Server Error" : "200 OK", more, size);
    memcpy(text + n, body, (size_t)size);
    count.plain++;
    next_request(c);
    write_out(c, text, (size_t)(n + (c->fault == CUT ? size / 2 : size)));
    if (c->fault == CUT) gone(c);
}

static size_t chunk(char *to, const char *data, int len) {
    int n = sprintf(to, "%x\r\n", len);
    memcpy(to + n, data, (size_t)len);
    memcpy(to + n + len, "\r\n", 2);
    return (size_t)(n + len + 2);
}

/* One token, one write: with the head before the first and the end of the stream after the last. */
static void answer_token(struct conn *c, int64_t due) {
    static const char HEAD[] =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";
    static const char CHUNK[] =
        "data: {\"id\":\"chatcmpl-%s\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":"
        "\"stub\",\"choices\":[{\"index\":0,\"delta\":{%s},\"finish_reason\":%s}]%s}\n\n";
    char text[4096], event[1024], delta[128];
    size_t n = 0;
    if (!c->token) {
        memcpy(text, HEAD, n = sizeof HEAD - 1);
        c->state = STREAMING;
        count.streams++;
        if (++count.streaming > count.peak_streaming) count.peak_streaming = count.streaming;
    }
    bool last = c->token + 1 == option.tokens;
    snprintf(delta, sizeof delta, "\"content\":\"#%s%016llx%08x \"", c->fault == OTHER_ID ? "ffffffffffffffff" : c->id,
             (unsigned long long)now_ns(), c->token);
    int len = snprintf(event, sizeof event, CHUNK, c->id, delta, "null", "");
    n += chunk(text + n, event, len);
    if (c->fault == TWICE && last) n += chunk(text + n, event, len);
    count.tokens++;
    c->token++;
    if (last) {
        len = snprintf(event, sizeof event, CHUNK, c->id, "", "\"stop\"",
                       ",\"usage\":{\"prompt_tokens\":64,\"completion_tokens\":64,\"total_tokens\":128}");
        n += chunk(text + n, event, len);
        n += chunk(text + n, "data: [DONE]\n\n", 14);
        memcpy(text + n, "0\r\n\r\n", 5);
        n += 5;
        count.streaming--;
        next_request(c);
    } else {
        at(due + option.gap, c);
    }
    write_out(c, text, n);
    if (c->fault == CUT && c->token == (option.tokens + 1) / 2) gone(c);
}

static void answer(struct conn *c, int64_t due) {
    if (c->stream)
        answer_token(c, due);
    else
        answer_plain(c);
}

static void asked(struct conn *c) {
    if (c->get) {
        answer_get(c);
        return;
    }
    count.requests++;
    if (c->marked <= ID) {
        count.bad++;
        page(c, 400, "{\"error\":{\"message\":\"the request has no marker\"}}");
        return;
    }
    c->fault = option.fault_every && count.requests % option.fault_every == 0 ? option.fault : NO_FAULT;
    c->token = 0;
    bool slow = option.slow_every && count.requests % option.slow_every == 0;
    int64_t now = now_ns(), wait = option.delay + (slow ? option.slow : 0);
    c->state = WAITING;
    c->life++;
    if (wait)
        at(now + wait, c);
    else
        answer(c, now);
}

/* requests */

static bool head_done(struct conn *c) {
    c->head[c->head_len] = 0;
    c->get = strncmp(c->head, "GET ", 4) == 0;
    const char *length = strcasestr(c->head, "\r\ncontent-length:");
    if (strcasestr(c->head, "\r\ntransfer-encoding:") || (!length && !c->get)) return false;
    c->body_left = length ? strtoul(length + 17, NULL, 10) : 0;
    c->state = IN_BODY;
    return true;
}

/* Looks for the marker; the size of a body hardly matters, memchr is fast. */
static void look(struct conn *c, const char *data, size_t len) {
    const char *end = data + len;
    if (c->marked < 0) {
        data = memchr(data, '#', len);
        if (!data) return;
        data++;
        c->marked = 0;
    }
    for (; data < end && c->marked <= ID; data++, c->marked++) {
        if (c->marked < ID)
            c->id[c->marked] = *data;
        else
            c->stream = *data == 's';
    }
}

/* The bytes of one read. False: the connection is no longer. */
static bool feed(struct conn *c, const char *data, size_t len) {
    while (len) {
        if (c->state == IN_HEAD) {
            size_t before = c->head_len, n = len < HEAD_MAX - 1 - before ? len : HEAD_MAX - 1 - before;
            memcpy(c->head + before, data, n);
            char *end = memmem(c->head + (before > 3 ? before - 3 : 0), n + (before > 3 ? 3 : before), "\r\n\r\n", 4);
            if (!end && before + n == HEAD_MAX - 1) break;
            c->head_len = end ? (size_t)(end + 4 - c->head) : before + n;
            size_t taken = c->head_len - before;
            data += taken, len -= taken;
            if (!end) return true;
            if (!head_done(c)) break;
        } else if (c->state != IN_BODY) {
            break; /* it speaks while it is spoken to */
        }
        size_t n = len < c->body_left ? len : c->body_left;
        look(c, data, n);
        data += n, len -= n, c->body_left -= n;
        if (!c->body_left) {
            asked(c);
            if (c->fd < 0) return false;
        }
    }
    if (!len) return true;
    count.bad++;
    gone(c);
    return false;
}

static void readable(struct conn *c) {
    static char buffer[READ];
    ssize_t n = recv(c->fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (n > 0)
        feed(c, buffer, (size_t)n);
    else if (n == 0 || errno != EAGAIN)
        gone(c);
}

static int listening(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&address, size) || listen(fd, 4096) || getsockname(fd, (struct sockaddr *)&address, &size)) {
        fprintf(stderr, "stub: cannot listen on 127.0.0.1:%d: %s\n", port, strerror(errno));
        exit(1);
    }
    printf("listening on http://127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

static void serve(int listener) {
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    while (!stopped) {
        int64_t wait = heap_len ? heap[0].due - now_ns() : 0;
        if (wait < 0) wait = 0;
        struct timespec timeout = {wait / 1000000000, wait % 1000000000};
        int n = epoll_pwait2(poller, events, EVENTS, heap_len ? &timeout : NULL, NULL);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (!c) {
                for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) opened(fd);
                continue;
            }
            if (events[i].events & EPOLLOUT) writable(c);
            if (events[i].events & ~(uint32_t)EPOLLOUT) readable(c);
        }
        for (int64_t now = now_ns(); heap_len && heap[0].due <= now;) {
            struct timer timer = earliest();
            if (timer.life == timer.conn->life) answer(timer.conn, timer.due);
        }
    }
}

static enum fault fault_named(const char *name) {
    for (size_t i = 0; i < sizeof FAULTS / sizeof *FAULTS; i++)
        if (!strcmp(name, FAULTS[i])) return (enum fault)i;
    fprintf(stderr, "stub: there is no fault %s; there are status, lengths, mixed, other-id, cut, twice\n", name);
    exit(64);
}

int main(int argc, char **argv) {
    static const struct option names[] = {{"port", 1, 0, 'p'},     {"tokens", 1, 0, 't'},      {"gap-us", 1, 0, 'g'},
                                          {"delay-us", 1, 0, 'd'}, {"slow-every", 1, 0, 'e'},  {"slow-us", 1, 0, 's'},
                                          {"fault", 1, 0, 'f'},    {"fault-every", 1, 0, 'n'}, {0, 0, 0, 0}};
    int port = 0;
    option.fault_every = 1;
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        if (c == '?') return 64;
        if (c == 'p') port = atoi(optarg);
        if (c == 't') option.tokens = (unsigned)atoi(optarg);
        if (c == 'g') option.gap = atoll(optarg) * 1000;
        if (c == 'd') option.delay = atoll(optarg) * 1000;
        if (c == 'e') option.slow_every = (unsigned)atoi(optarg);
        if (c == 's') option.slow = atoll(optarg) * 1000;
        if (c == 'f') option.fault = fault_named(optarg);
        if (c == 'n') option.fault_every = (unsigned)atoi(optarg);
    }
    if (!option.tokens) option.tokens = 1;
    signal(SIGTERM, stop);
    signal(SIGINT, stop);
    prctl(PR_SET_TIMERSLACK, 1UL); /* the default would let tokens come 50 us late */
    poller = epoll_create1(0);
    serve(listening(port));
    return 0;
}
