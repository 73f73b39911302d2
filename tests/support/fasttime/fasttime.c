/*
 * LD_PRELOAD: the clocks of a process run N times faster, and its waits end N times sooner.
 *
 *   FASTTIME         N
 *   FASTTIME_ORIGIN  "<wall>:<monotonic>" in ns: the moment at which fast and real time agree. Without
 *                    it that is the start of the process, which hands it to its children.
 *
 * Fast are: the wall and the monotonic clocks, sleeps, and the time limits of locks, conditions,
 * select, poll, epoll and socket options, as CPython 3.11 to 3.13 and C extensions call them. Not
 * fast are CPU time, file times, kernel timers (TCP, timerfd), what glibc does within itself (DNS),
 * and other processes: a server's real 1 ms takes N ms here.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define REAL(name)                                                         \
    ({                                                                     \
        static __typeof__(&name) found;                                    \
        if (!found) found = (__typeof__(&name))dlsym(RTLD_NEXT, #name);    \
        found;                                                             \
    })
#define SECOND 1000000000LL

typedef long long ns;

static double factor = 1;
static ns origin_wall, origin_monotonic;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static ns ns_of(struct timespec t) { return t.tv_sec * SECOND + t.tv_nsec; }
static struct timespec spec_of(ns t) {
    if (t < 0) t = 0;
    return (struct timespec){t / SECOND, t % SECOND};
}
static struct timeval val_of(ns t) {
    return (struct timeval){t / SECOND, t % SECOND / 1000};
}
static ns ns_of_val(struct timeval t) { return t.tv_sec * SECOND + t.tv_usec * 1000LL; }

static ns real_clock(clockid_t clock) {
    struct timespec t;
    REAL(clock_gettime)(clock, &t);
    return ns_of(t);
}

static void start(void) {
    const char *n = getenv("FASTTIME"), *origin = getenv("FASTTIME_ORIGIN");
    if (n && atof(n) > 0) factor = atof(n);
    if (origin && sscanf(origin, "%lld:%lld", &origin_wall, &origin_monotonic) == 2) return;
    char text[64];
    origin_wall = real_clock(CLOCK_REALTIME);
    origin_monotonic = real_clock(CLOCK_MONOTONIC);
    snprintf(text, sizeof text, "%lld:%lld", origin_wall, origin_monotonic);
    setenv("FASTTIME_ORIGIN", text, 1);
}
__attribute__((constructor)) static void begin(void) { pthread_once(&once, start); }

/* ---- between fast and real ---- */

static int is_wall(clockid_t clock) { return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE; }
static int is_fast(clockid_t clock) {
    return is_wall(clock) || clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_COARSE ||
           clock == CLOCK_MONOTONIC_RAW || clock == CLOCK_BOOTTIME;
}
static ns origin_of(clockid_t clock) {
    begin();
    return is_wall(clock) ? origin_wall : origin_monotonic;
}

/* A span of fast time in real time: rounded up, so that nobody wakes early and asks again. */
static ns shorter(ns span) {
    begin();
    if (span <= 0) return span;
    ns real = (ns)(span / factor);
    return real < 1 ? 1 : real;
}
static ns longer(ns span) { return (ns)(span * factor); }

/* A moment on a fast clock, on the real one. */
static struct timespec moment(clockid_t clock, const struct timespec *fast) {
    if (!is_fast(clock)) return *fast;
    ns origin = origin_of(clock);
    return spec_of(origin + (ns)((ns_of(*fast) - origin) / factor) + 1);
}

/* ---- clocks ---- */

int clock_gettime(clockid_t clock, struct timespec *t) {
    int done = REAL(clock_gettime)(clock, t);
    if (done == 0 && is_fast(clock)) {
        ns origin = origin_of(clock);
        *t = spec_of(origin + longer(ns_of(*t) - origin));
    }
    return done;
}
time_t time(time_t *to) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (to) *to = t.tv_sec;
    return t.tv_sec;
}
int gettimeofday(struct timeval *restrict to, void *restrict zone) {
    struct timespec t;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &t);
    *to = val_of(ns_of(t));
    return 0;
}
int timespec_get(struct timespec *to, int base) {
    return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, to) == 0 ? base : 0;
}

/* ---- sleeps ---- */

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *want, struct timespec *left) {
    if (!is_fast(clock)) return REAL(clock_nanosleep)(clock, flags, want, left);
    struct timespec t = flags & TIMER_ABSTIME ? moment(clock, want) : spec_of(shorter(ns_of(*want)));
    int done = REAL(clock_nanosleep)(clock, flags, &t, left);
    if (done == EINTR && left && !(flags & TIMER_ABSTIME)) *left = spec_of(longer(ns_of(*left)));
    return done;
}
int nanosleep(const struct timespec *want, struct timespec *left) {
    int done = clock_nanosleep(CLOCK_MONOTONIC, 0, want, left);
    if (done) errno = done;
    return done ? -1 : 0;
}
int usleep(useconds_t want) {
    struct timespec t = spec_of(want * 1000LL);
    return nanosleep(&t, NULL);
}
unsigned sleep(unsigned want) {
    struct timespec t = {want, 0}, left = {0, 0};
    return nanosleep(&t, &left) == 0 ? 0 : (unsigned)left.tv_sec + (left.tv_nsec > 0);
}

/* ---- locks and conditions ---- */

int sem_timedwait(sem_t *restrict s, const struct timespec *restrict until) {
    struct timespec t = moment(CLOCK_REALTIME, until);
    return REAL(sem_timedwait)(s, &t);
}
int sem_clockwait(sem_t *restrict s, clockid_t clock, const struct timespec *restrict until) {
    struct timespec t = moment(clock, until);
    return REAL(sem_clockwait)(s, clock, &t);
}
int pthread_mutex_timedlock(pthread_mutex_t *restrict m, const struct timespec *restrict until) {
    struct timespec t = moment(CLOCK_REALTIME, until);
    return REAL(pthread_mutex_timedlock)(m, &t);
}
int pthread_mutex_clocklock(pthread_mutex_t *restrict m, clockid_t clock, const struct timespec *restrict until) {
    struct timespec t = moment(clock, until);
    return REAL(pthread_mutex_clocklock)(m, clock, &t);
}
int pthread_cond_clockwait(pthread_cond_t *restrict c, pthread_mutex_t *restrict m, clockid_t clock,
                           const struct timespec *restrict until) {
    struct timespec t = moment(clock, until);
    return REAL(pthread_cond_clockwait)(c, m, clock, &t);
}

typedef int (*condition_wait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);

/* On x86-64 there is a second one, of another layout, for programs older than glibc 2.3.2. */
static condition_wait real_condition_wait(void) {
    static condition_wait found;
    if (!found) found = (condition_wait)dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!found) found = (condition_wait)dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    return found;
}

/*
 * The clock is that of the condition's attributes; a moment tells which it was, as the monotonic
 * clock counts from boot. CPython waits so for its interpreter lock, 5 ms at a time, and then asks
 * the holder to let go: at some hundred times the speed that would be nearly always. So a wait here
 * takes 0.5 ms of real time at least, if it would take that much without us.
 */
int pthread_cond_timedwait(pthread_cond_t *restrict c, pthread_mutex_t *restrict m,
                           const struct timespec *restrict until) {
    clockid_t clock = ns_of(*until) > 1000000000LL * SECOND ? CLOCK_REALTIME : CLOCK_MONOTONIC;
    ns now = real_clock(clock), end = ns_of(moment(clock, until)), span = longer(end - now);
    ns least = span < SECOND / 2000 ? span : SECOND / 2000;
    struct timespec t = spec_of(end - now < least ? now + least : end);
    return real_condition_wait()(c, m, &t);
}

int sigtimedwait(const sigset_t *restrict set, siginfo_t *restrict got, const struct timespec *restrict limit) {
    struct timespec t = spec_of(limit ? shorter(ns_of(*limit)) : 0);
    return REAL(sigtimedwait)(set, got, limit ? &t : NULL);
}

/* ---- descriptors ---- */

int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *limit, const sigset_t *mask) {
    struct timespec t = spec_of(limit ? shorter(ns_of(*limit)) : 0);
    return REAL(ppoll)(fds, count, limit ? &t : NULL, mask);
}
int poll(struct pollfd *fds, nfds_t count, int limit) {
    struct timespec t = spec_of(limit * (SECOND / 1000));
    return ppoll(fds, count, limit < 0 ? NULL : &t, NULL);
}
int __poll_chk(struct pollfd *fds, nfds_t count, int limit, size_t size) {
    if (size / sizeof *fds < count) abort();
    return poll(fds, count, limit);
}

int pselect(int count, fd_set *restrict r, fd_set *restrict w, fd_set *restrict x,
            const struct timespec *restrict limit, const sigset_t *restrict mask) {
    struct timespec t = spec_of(limit ? shorter(ns_of(*limit)) : 0);
    return REAL(pselect)(count, r, w, x, limit ? &t : NULL, mask);
}
int select(int count, fd_set *restrict r, fd_set *restrict w, fd_set *restrict x,
           struct timeval *restrict limit) {
    struct timespec t = spec_of(limit ? ns_of_val(*limit) : 0);
    return pselect(count, r, w, x, limit ? &t : NULL, NULL);
}

/* Its milliseconds are too coarse to be divided: wait with ppoll, then look. */
int epoll_pwait(int epoll, struct epoll_event *events, int room, int limit, const sigset_t *mask) {
    if (limit <= 0) return REAL(epoll_pwait)(epoll, events, room, limit, mask);
    struct pollfd one = {.fd = epoll, .events = POLLIN};
    struct timespec t = spec_of(limit * (SECOND / 1000));
    int ready = ppoll(&one, 1, &t, mask);
    return ready <= 0 ? ready : REAL(epoll_pwait)(epoll, events, room, 0, mask);
}
int epoll_wait(int epoll, struct epoll_event *events, int room, int limit) {
    return epoll_pwait(epoll, events, room, limit, NULL);
}

int setsockopt(int fd, int level, int option, const void *value, socklen_t length) {
    if (level != SOL_SOCKET || (option != SO_RCVTIMEO && option != SO_SNDTIMEO) ||
        length != sizeof(struct timeval))
        return REAL(setsockopt)(fd, level, option, value, length);
    ns span = shorter(ns_of_val(*(const struct timeval *)value));
    struct timeval t = val_of(span > 0 && span < 1000 ? 1000 : span); /* 0 would be for ever */
    return REAL(setsockopt)(fd, level, option, &t, length);
}

/* ---- alarms ---- */

static struct itimerval scaled(const struct itimerval *t, ns (*scale)(ns)) {
    ns every = scale(ns_of_val(t->it_interval)), first = scale(ns_of_val(t->it_value));
    if (first > 0 && first < 1000) first = 1000;
    if (every > 0 && every < 1000) every = 1000;
    return (struct itimerval){val_of(every), val_of(first)};
}
int setitimer(__itimer_which_t which, const struct itimerval *restrict new, struct itimerval *restrict old) {
    if (which != ITIMER_REAL) return REAL(setitimer)(which, new, old);
    struct itimerval t = scaled(new, shorter);
    int done = REAL(setitimer)(which, &t, old);
    if (done == 0 && old) *old = scaled(old, longer);
    return done;
}
unsigned alarm(unsigned seconds) {
    struct itimerval t = {{0, 0}, {seconds, 0}}, old;
    if (setitimer(ITIMER_REAL, &t, &old) != 0) return 0;
    return (unsigned)old.it_value.tv_sec + (old.it_value.tv_usec > 0);
}
