/*
 * The load generator of the benchmark: the same for every gateway, and much cheaper than all of them (one thread, epoll, two
 * system calls a request). The answers of stub.c are checked, not only timed: their identity, the number, order and end of
 * the tokens of a stream, and the framing (conflicting lengths that a gateway lets through are an error).
 *
 *   --mode closed  each connection asks again as soon as it is answered: the most that the gateway can do
 *   --mode open    requests are due at fixed moments, whatever became of those before. Latency counts from the moment a
 *                  request was due, not from when a connection was free for it: corrected for coordinated omission
 *   --mode stream  closed, with server-sent events; connections begin spread over --spread, so that they do not tick together
 *   --mode idle    opens all connections with one request each, prints a line, waits for a line on stdin, and asks once more on
 *                  each: one that was closed in between is an error
 *
 * Prints one JSON object. Requests without an answer at the end (--grace after --seconds) are `unanswered`; they count in
 * the percentiles with the time that they have waited by then.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "histogram.h"

enum { HEAD_MAX = 8192, ID = 16, MARKER = 40, TAIL = 16, EVENTS = 256, READ = 1 << 18, OPENING = 128 };
enum { GIVE_UP = 1000, LEAD = 50000000 /* ns before the first request is due: time to connect */ };
enum mode { CLOSED, OPEN, STREAM, IDLE, MODE_COUNT };
enum state { DOWN, CONNECTING, FREE, BUSY };
enum part { HEAD, SIZE, DATA, DATA_END, TRAILER, DONE };
enum error { CONNECT, BROKEN, STATUS, FRAMING, IDENTITY, TOKENS, ERRORS };
static const char *const MODES[] = {"closed", "open", "stream", "idle"};
static const char *const ERROR_NAMES[] = {"connect", "broken", "status", "framing", "identity", "tokens"};

struct conn {
    int fd, number;
    enum state state;
    enum part part;
    bool chunked, closes, hears_writable, waits;
    unsigned long id;
    int64_t due;
    size_t sent, left, line, head_len;
    unsigned tokens, answers;
    int marked; /* characters of a marker seen, -1 between markers */
    char marker[MARKER + 1], tail[TAIL + 1];
    char head[HEAD_MAX];
};

static struct {
    enum mode mode;
    int64_t port, connections, size, rate, tokens; /* size in bytes of body, rate in requests a second */
    int64_t seconds, grace, spread;                /* in ns */
    const char *model;
    char headers[4096];
} option = {
    .connections = 32, .size = 300, .rate = 1000, .tokens = 64, .seconds = 5000000000, .grace = 5000000000, .model = "agent"};

static struct histogram latency, first, delay;
static struct {
    unsigned long requests, answered, unanswered, tokens, reconnects, errors, error[ERRORS];
    int busy, peak;
} count;

static char *request; /* with room for the identity at id_at and the session at session_at */
static size_t request_len, id_at, session_at;
static struct conn *conns;
static int *waiting; /* a ring of the numbers of connections, in open mode */
static unsigned waiting_from, waiting_to;
static int poller, opened, settled, in_a_row;
static bool gave_up;
static int64_t began, ends;
static unsigned long next_id, next_due;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* requests */

/* A JSON body of --size bytes, its fields in the order of the stock OpenAI client: the model comes after the messages. */
static void prepare_request(void) {
    static const char LINE[] = "    with open(path) as file:\\n        rows = [line.split(',') for line in file if line]\\n";
    const char *stream = option.mode == STREAM ? ",\"stream\":true,\"stream_options\":{\"include_usage\":true}" : "";
    char *start, *end, *text;
    if (asprintf(&start,
                 "{\"messages\":[{\"role\":\"system\",\"content\":\"You review code.\"},{\"role\":\"user\",\"content\":\"#") < 0 ||
        asprintf(&end, "\"}],\"model\":\"%s\",\"max_tokens\":%d%s}", option.model, (int)option.tokens, stream) < 0 ||
        !(text = calloc(1, (size_t)option.size + sizeof LINE)))
        exit(1);
    long room = option.size - (long)(strlen(start) + ID + 1 + strlen(end));
    while ((long)strlen(text) + (long)sizeof LINE <= room) strcat(text, LINE);
    while ((long)strlen(text) < room) strcat(text, "."); /* so that no escape is cut in two */
    if (asprintf(&request,
                 "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nx-session-id: session-%08x\r\n%s"
                 "content-type: application/json\r\ncontent-length: %zu\r\n\r\n%s%016x%c%s%s",
                 (int)option.port, 0, option.headers, (size_t)option.size - (size_t)room + strlen(text), start, 0,
                 option.mode == STREAM ? 's' : 'j', text, end) < 0)
        exit(1);
    session_at = (size_t)(strstr(request, "session-0") - request) + 8;
    id_at = (size_t)(strchr(request, '#') - request) + 1;
    request_len = strlen(request);
    free(start), free(end), free(text);
}

static void hex(char *to, unsigned long value, int digits) {
    for (int i = digits - 1; i >= 0; i--, value >>= 4) to[i] = "0123456789abcdef"[value & 15];
}

static void hear(struct conn *c, bool writable, int how) {
    struct epoll_event event = {.events = EPOLLIN | (writable ? EPOLLOUT : 0), .data.ptr = c};
    c->hears_writable = writable;
    epoll_ctl(poller, how, c->fd, &event);
}

static bool fail(struct conn *c, enum error error);

static void send_more(struct conn *c) {
    hex(request + id_at, c->id, ID);
    hex(request + session_at, (unsigned long)c->number, 8);
    ssize_t n = send(c->fd, request + c->sent, request_len - c->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0) c->sent += (size_t)n;
    if (n < 0 && errno != EAGAIN)
        fail(c, BROKEN);
    else if (c->hears_writable != (c->sent < request_len))
        hear(c, c->sent < request_len, EPOLL_CTL_MOD);
}

static void ask(struct conn *c, int64_t due) {
    c->state = BUSY;
    c->part = HEAD;
    c->due = due;
    c->id = ++next_id;
    c->sent = c->left = c->line = c->head_len = 0;
    c->tokens = 0;
    c->marked = -1;
    memset(c->tail, ' ', TAIL);
    count.requests++;
    if (++count.busy > count.peak) count.peak = count.busy;
    send_more(c);
}

/* connections */

static void connect_(struct conn *c) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)option.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) {
        fprintf(stderr, "load: no socket: %s (is the limit of open files high enough?)\n", strerror(errno));
        exit(1);
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->state = CONNECTING;
    hear(c, true, EPOLL_CTL_ADD);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS) fail(c, CONNECT);
}

/* A connection has nothing to do: it asks at once, or waits for its next moment. */
static void is_free(struct conn *c) {
    int64_t now = now_ns();
    c->state = FREE;
    if (option.mode == OPEN) {
        if (!c->waits) waiting[waiting_to++ % (unsigned)option.connections] = c->number;
        c->waits = true;
    } else if (option.mode == IDLE ? !c->answers : now < ends) {
        ask(c, now);
    }
}

/* Whoever has waited longest, so that all connections are used. Those that broke meanwhile are passed over. */
static struct conn *longest_free(void) {
    for (; waiting_from != waiting_to; waiting_from++) {
        struct conn *c = &conns[waiting[waiting_from % (unsigned)option.connections]];
        if (c->state == FREE) return c;
        c->waits = false;
    }
    return NULL;
}

static void disconnect(struct conn *c) {
    if (c->state == BUSY) count.busy--;
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    c->state = DOWN;
}

/* It was closed between two requests, which is allowed. */
static void reconnect(struct conn *c) {
    count.reconnects++;
    disconnect(c);
    if (now_ns() < ends) connect_(c);
}

/* Always false, for whoever has to say that there is no such connection any more. */
static bool fail(struct conn *c, enum error error) {
    count.error[error]++, count.errors++;
    if (c->state == BUSY || c->state == CONNECTING) settled++;
    disconnect(c);
    if (++in_a_row > GIVE_UP && option.mode != IDLE) ends = 0, gave_up = true; /* there is nobody */
    if (option.mode != IDLE && now_ns() < ends) connect_(c);
    return false;
}

static bool finished(struct conn *c, int64_t now) {
    bool stream = option.mode == STREAM;
    if (c->tokens != (stream ? option.tokens : 1) || (stream && !memmem(c->tail, TAIL, "[DONE]", 6))) return fail(c, TOKENS);
    record(&latency, now - c->due);
    count.answered++;
    count.busy--;
    settled++;
    in_a_row = 0;
    c->answers++;
    c->state = FREE;
    if (c->closes && option.mode == IDLE) return fail(c, BROKEN); /* what is not kept alive cannot be idle */
    if (c->closes)
        reconnect(c);
    else
        is_free(c);
    return true;
}

/* answers */

static bool has_word(const char *line, const char *word) {
    const char *found = strcasestr(line, word);
    return found && found < strstr(line, "\r\n");
}

/* The headers that frame the answer. Two that contradict each other are an error, as is none. */
static bool read_head(struct conn *c) {
    long length = -1;
    bool bad = false;
    c->chunked = c->closes = false;
    for (char *line = strstr(c->head, "\r\n") + 2; *line != '\r'; line = strstr(line, "\r\n") + 2) {
        if (!strncasecmp(line, "content-length:", 15)) {
            char *end;
            long found = strtol(line + 15, &end, 10);
            bad |= (*end != '\r' && *end != ' ') || found < 0 || (length >= 0 && length != found);
            length = found;
        } else if (!strncasecmp(line, "transfer-encoding:", 18)) {
            c->chunked = true;
            bad |= !has_word(line, "chunked");
        } else if (!strncasecmp(line, "connection:", 11)) {
            c->closes = has_word(line, "close");
        }
    }
    if (bad || (length >= 0) == c->chunked) return fail(c, FRAMING);
    if (strncmp(c->head, "HTTP/1.1 200", 12) != 0) return fail(c, STATUS);
    c->left = length > 0 ? (size_t)length : 0;
    c->part = c->chunked ? SIZE : length ? DATA : DONE;
    return true;
}

static bool marker_done(struct conn *c, int64_t now) {
    unsigned long id, written;
    unsigned index;
    if (sscanf(c->marker, "%16lx%16lx%8x", &id, &written, &index) != 3 || id != c->id) return fail(c, IDENTITY);
    if (index != c->tokens) return fail(c, TOKENS);
    record(index ? &delay : &first, now - (index ? (int64_t)written : c->due));
    c->tokens++;
    count.tokens++;
    return true;
}

static bool body(struct conn *c, const char *data, size_t len, int64_t now) {
    size_t keep = len < TAIL ? len : TAIL;
    memmove(c->tail, c->tail + keep, TAIL - keep);
    memcpy(c->tail + TAIL - keep, data + len - keep, keep);
    for (const char *end = data + len; data < end;) {
        if (c->marked < 0) {
            data = memchr(data, '#', (size_t)(end - data));
            if (!data) break;
            data++;
            c->marked = 0;
        }
        while (data < end && c->marked < MARKER) c->marker[c->marked++] = *data++;
        if (c->marked == MARKER) {
            c->marker[MARKER] = 0;
            c->marked = -1;
            if (!marker_done(c, now)) return false;
        }
    }
    return true;
}

/* What is around the data of chunks, a byte at a time. */
static bool chunk_byte(struct conn *c, char byte) {
    if (byte == '\r') return true;
    if (byte != '\n') {
        c->line++;
        if (c->part == TRAILER) return true;
        c->left = c->left * 16 + (size_t)(byte <= '9' ? byte - '0' : (byte | 32) - 'a' + 10);
        return c->part == SIZE && isxdigit((unsigned char)byte) && c->line < 9;
    }
    if (c->part == SIZE && !c->line) return false;
    c->part = c->part == DATA_END ? SIZE : c->part == SIZE ? (c->left ? DATA : TRAILER) : c->line ? TRAILER : DONE;
    c->line = 0;
    return true;
}

static bool feed(struct conn *c, const char *data, size_t len, int64_t now) {
    if (c->part == HEAD) {
        size_t before = c->head_len, n = len < HEAD_MAX - 1 - before ? len : HEAD_MAX - 1 - before;
        memcpy(c->head + before, data, n);
        c->head[before + n] = 0;
        char *end = strstr(c->head + (before > 3 ? before - 3 : 0), "\r\n\r\n");
        c->head_len = end ? (size_t)(end + 4 - c->head) : before + n;
        if (!end) return c->head_len < HEAD_MAX - 1 || fail(c, FRAMING);
        data += c->head_len - before, len -= c->head_len - before;
        if (!read_head(c)) return false;
    }
    while (len && c->part != DONE) {
        if (c->part != DATA) {
            if (!chunk_byte(c, *data)) return fail(c, FRAMING);
            data++, len--;
            continue;
        }
        size_t n = len < c->left ? len : c->left;
        if (!body(c, data, n, now)) return false;
        data += n, len -= n, c->left -= n;
        if (!c->left) c->part = c->chunked ? DATA_END : DONE;
    }
    if (len) return fail(c, FRAMING); /* more than the answer */
    return c->part != DONE || finished(c, now);
}

static void readable(struct conn *c) {
    static char buffer[READ];
    ssize_t n = recv(c->fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    if (n > 0 && c->state == BUSY)
        feed(c, buffer, (size_t)n, now_ns());
    else if (c->state == BUSY || n > 0 || option.mode == IDLE)
        fail(c, BROKEN);
    else
        reconnect(c);
}

static void writable(struct conn *c) {
    int error = 0;
    socklen_t size = sizeof error;
    if (c->state == BUSY) {
        send_more(c);
    } else if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size) || error) {
        fail(c, CONNECT);
    } else {
        hear(c, false, EPOLL_CTL_MOD);
        is_free(c);
    }
}

/* the flow */

static void turn(int64_t until) {
    struct epoll_event events[EVENTS];
    int64_t wait = until - now_ns();
    if (wait < 0) wait = 0;
    struct timespec timeout = {wait / 1000000000, wait % 1000000000};
    int n = epoll_pwait2(poller, events, EVENTS, &timeout, NULL);
    for (int i = 0; i < n; i++) {
        struct conn *c = events[i].data.ptr;
        if (events[i].events & EPOLLOUT)
            writable(c); /* what there is to read is told again */
        else
            readable(c);
    }
}

static int64_t due_at(unsigned long i) { return began + LEAD + (int64_t)((double)i * 1e9 / option.rate); }

static bool backlog(void) { return option.mode == OPEN && !gave_up && due_at(next_due) < ends; }

static void leave_unanswered(int64_t waited, bool no_token) {
    count.unanswered++;
    record(&latency, waited);
    if (no_token) record(&first, waited);
}

static void run(void) {
    began = now_ns();
    ends = began + option.seconds + (option.mode == OPEN ? LEAD : 0);
    for (int64_t now = began; now < ends || (now < ends + option.grace && (count.busy || backlog()));) {
        int64_t next = now < ends ? ends : ends + option.grace;
        while (opened < option.connections && began + option.spread / option.connections * opened <= now && now < ends)
            connect_(&conns[opened++]);
        if (opened < option.connections && now < ends) next = began + option.spread / option.connections * opened;
        if (option.mode == OPEN) {
            for (struct conn *c; backlog() && due_at(next_due) <= now && (c = longest_free());) {
                waiting_from++;
                c->waits = false;
                ask(c, due_at(next_due++));
            }
            if (longest_free() && backlog() && due_at(next_due) < next) next = due_at(next_due);
        }
        turn(next);
        now = now_ns();
    }
    int64_t now = now_ns();
    for (int i = 0; i < option.connections; i++)
        if (conns[i].state == BUSY) leave_unanswered(now - conns[i].due, !conns[i].tokens);
    for (; backlog(); next_due++, count.requests++) leave_unanswered(now - due_at(next_due), true);
}

/* At most OPENING connections are busy at a time, until each has got one more answer or failed. */
static void idle_round(bool first_round) {
    int64_t until = now_ns() + option.seconds + option.grace;
    settled = opened = 0;
    while (settled < option.connections && now_ns() < until) {
        while (opened < option.connections && opened - settled < OPENING) {
            struct conn *c = &conns[opened++];
            if (first_round)
                connect_(c);
            else if (c->state == FREE)
                ask(c, now_ns());
            else
                settled++; /* it has failed before */
        }
        turn(until);
    }
    count.unanswered += (unsigned long)(option.connections - settled);
}

static void run_idle(void) {
    char byte;
    began = now_ns();
    idle_round(true);
    printf("{\"held\":%lu,\"errors\":%lu}\n", count.answered, count.errors);
    fflush(stdout);
    if (read(0, &byte, 1) >= 0) idle_round(false);
}

static void report(double seconds) {
    printf("{\"mode\":\"%s\",\"seconds\":%.6f,\"requests\":%lu,\"answered\":%lu,\"unanswered\":%lu,\"tokens\":%lu,",
           MODES[option.mode], seconds, count.requests, count.answered, count.unanswered, count.tokens);
    printf("\"reconnects\":%lu,\"peak\":%d,\"gave_up\":%s,", count.reconnects, count.peak, gave_up ? "true" : "false");
    show("latency_us", &latency);
    show("first_us", &first);
    show("token_us", &delay);
    printf("\"errors\":%lu,\"error_kinds\":{", count.errors);
    for (int i = 0; i < ERRORS; i++) printf("%s\"%s\":%lu", i ? "," : "", ERROR_NAMES[i], count.error[i]);
    printf("}}\n");
}

static void read_options(int argc, char **argv) {
    static const struct number {
        const char *name;
        int64_t *to;
        double unit;
    } numbers[] = {{"--port", &option.port, 1},         {"--connections", &option.connections, 1},
                   {"--size", &option.size, 1},         {"--tokens", &option.tokens, 1},
                   {"--seconds", &option.seconds, 1e9}, {"--grace", &option.grace, 1e9},
                   {"--spread", &option.spread, 1e9},   {"--rate", &option.rate, 1}};
    int i = 1;
    for (; i + 1 < argc; i += 2) {
        size_t at = 0, known = sizeof numbers / sizeof *numbers, used = strlen(option.headers);
        while (at < known && strcmp(argv[i], numbers[at].name)) at++;
        if (at < known)
            *numbers[at].to = (int64_t)(atof(argv[i + 1]) * numbers[at].unit);
        else if (!strcmp(argv[i], "--model"))
            option.model = argv[i + 1];
        else if (!strcmp(argv[i], "--header"))
            snprintf(option.headers + used, sizeof option.headers - used, "%s\r\n", argv[i + 1]);
        else if (!strcmp(argv[i], "--mode"))
            while (option.mode < MODE_COUNT && strcmp(argv[i + 1], MODES[option.mode])) option.mode++;
        else
            break;
    }
    if (i == argc && option.mode < MODE_COUNT && option.port > 0 && option.connections > 0 && option.rate > 0) return;
    fprintf(stderr, "load: --port is needed, --mode is closed, open, stream or idle, --connections and --rate are above 0\n");
    exit(64);
}

int main(int argc, char **argv) {
    read_options(argc, argv);
    prctl(PR_SET_TIMERSLACK, 1UL); /* the default would let requests go 50 us late */
    prepare_request();
    conns = calloc((size_t)option.connections, sizeof *conns);
    waiting = calloc((size_t)option.connections, sizeof *waiting);
    if (!conns || !waiting) return 1;
    for (int i = 0; i < option.connections; i++) conns[i].fd = -1, conns[i].number = i;
    poller = epoll_create1(0);
    if (option.mode == IDLE)
        run_idle();
    else
        run();
    report((double)(now_ns() - began) / 1e9);
    return 0;
}
