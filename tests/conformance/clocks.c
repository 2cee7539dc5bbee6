// Time: clocks, sleeping, CPU time.
#include "conf.h"
#include <sys/times.h>

static int64_t at(clockid_t c)
{
    struct timespec ts;
    OK(clock_gettime(c, &ts));
    T(ts.tv_nsec >= 0 && ts.tv_nsec < 1000000000);
    return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}
static void *spin(void *arg)
{
    for (int64_t t0 = now_ns(); now_ns() - t0 < 50000000;) {}
    return arg;
}

CHECK(monotonic_never_goes_back)
{
    int64_t last = at(CLOCK_MONOTONIC);
    for (int i = 0; i < 200000; i++) {
        int64_t t = at(CLOCK_MONOTONIC);
        if (t < last) FAIL("went back by %lld ns", (long long)(last - t));
        last = t;
    }
}

static volatile int64_t newest;
static void *watch_clock(void *arg)
{
    for (int i = 0; i < 50000; i++) {
        int64_t seen = __atomic_load_n(&newest, __ATOMIC_SEQ_CST), t = now_ns();
        if (t < seen) return (void *)(seen - t);
        while (seen < t && !__atomic_compare_exchange_n(&newest, &seen, t, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {}
    }
    return arg;
}
CHECK(monotonic_across_cpus)
{
    pthread_t t[4];
    void *r;
    for (int i = 0; i < 4; i++) EQ(pthread_create(&t[i], 0, watch_clock, 0), 0);
    for (int i = 0; i < 4; i++) {
        EQ(pthread_join(t[i], &r), 0);
        EQ(r, 0);
    }
}

CHECK(clocks_agree)
{
    int64_t m = at(CLOCK_MONOTONIC), b = at(CLOCK_BOOTTIME), raw = at(CLOCK_MONOTONIC_RAW), c = at(CLOCK_MONOTONIC_COARSE);
    T(b >= m);
    T(m - c < 100000000 && c - m < 1000000);
    T(raw > 0);
    int64_t r = at(CLOCK_REALTIME), rc = at(CLOCK_REALTIME_COARSE);
    T(r - rc < 100000000);
    T(r > 1577836800LL * 1000000000); // after 2020
    EQ(time(0) - r / 1000000000 <= 1, 1);
    struct timeval tv;
    OK(gettimeofday(&tv, 0));
    int64_t us = tv.tv_sec * 1000000LL + tv.tv_usec - r / 1000;
    T(us >= 0 && us < 2000000);
    T(at(CLOCK_TAI) > 0);
    struct timespec ts;
    ERR(clock_gettime(100, &ts), EINVAL);
}

CHECK(vdso_and_system_call_agree)
{
    for (int i = 0; i < 100; i++) {
        struct timespec ts;
        int64_t a = now_ns();
        OK(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &ts));
        int64_t b = ts.tv_sec * 1000000000LL + ts.tv_nsec, c = now_ns();
        T(a <= b && b <= c);
    }
}

CHECK(resolution)
{
    struct timespec ts;
    OK(clock_getres(CLOCK_MONOTONIC, &ts));
    EQ(ts.tv_sec, 0);
    EQ(ts.tv_nsec, 1);
    OK(clock_getres(CLOCK_REALTIME_COARSE, &ts));
    T(ts.tv_nsec >= 1 && ts.tv_nsec <= 10000000);
    ERR(clock_getres(100, &ts), EINVAL);
}

CHECK(nanosleep_sleeps)
{
    struct timespec ts = {0, 30000000};
    int64_t t0 = now_ns();
    OK(nanosleep(&ts, 0));
    int64_t t = now_ns() - t0;
    T(t >= 30000000 && t < 3000000000LL);
    ts.tv_nsec = 1000000000;
    ERR(nanosleep(&ts, 0), EINVAL);
    ts = (struct timespec){-1, 0};
    ERR(nanosleep(&ts, 0), EINVAL);
    ts = (struct timespec){0, 0};
    OK(nanosleep(&ts, 0));
    t0 = now_ns();
    OK(usleep(5000));
    T(now_ns() - t0 >= 5000000);
}

static void nothing(int sig) { (void)sig; }
CHECK(nanosleep_reports_the_rest)
{
    struct timespec ts = {5, 0}, rest = {0, 0};
    struct itimerval it = {{0, 0}, {0, 30000}};
    struct sigaction sa = {.sa_handler = nothing, .sa_flags = SA_RESTART};
    OK(sigaction(SIGALRM, &sa, 0));
    OK(setitimer(ITIMER_REAL, &it, 0));
    ERR(nanosleep(&ts, &rest), EINTR);
    T(rest.tv_sec == 4 || (rest.tv_sec < 5 && rest.tv_sec >= 2));
}

CHECK(clock_nanosleep_absolute)
{
    struct timespec ts;
    OK(clock_gettime(CLOCK_MONOTONIC, &ts));
    int64_t t0 = now_ns();
    ts.tv_nsec += 30000000;
    if (ts.tv_nsec >= 1000000000) ts.tv_sec++, ts.tv_nsec -= 1000000000;
    EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, 0), 0);
    T(now_ns() - t0 >= 29000000);
    ts = (struct timespec){0, 1};
    EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, 0), 0); // already past
    OK(clock_gettime(CLOCK_REALTIME, &ts));
    EQ(clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &ts, 0), 0);
    EQ(clock_nanosleep(100, 0, &ts, 0), EINVAL);
}

CHECK(short_sleeps_are_short)
{
    int64_t t0 = now_ns();
    for (int i = 0; i < 100; i++) {
        struct timespec ts = {0, 100000};
        OK(nanosleep(&ts, 0));
    }
    T(now_ns() - t0 < 2000000000LL); // a tick of 4 ms or more each would be far too much on any machine
}

CHECK(process_cpu_time)
{
    int64_t p = at(CLOCK_PROCESS_CPUTIME_ID), t = at(CLOCK_THREAD_CPUTIME_ID);
    spin(0);
    int64_t dp = at(CLOCK_PROCESS_CPUTIME_ID) - p, dt = at(CLOCK_THREAD_CPUTIME_ID) - t;
    T(dp > 1000000 && dt > 1000000);
    p = at(CLOCK_PROCESS_CPUTIME_ID);
    sleep_ms(60);
    T(at(CLOCK_PROCESS_CPUTIME_ID) - p < 50000000); // sleeping costs nothing
}

CHECK(thread_time_adds_up)
{
    int64_t p = at(CLOCK_PROCESS_CPUTIME_ID), t = at(CLOCK_THREAD_CPUTIME_ID);
    pthread_t th;
    EQ(pthread_create(&th, 0, spin, 0), 0);
    EQ(pthread_join(th, 0), 0);
    T(at(CLOCK_PROCESS_CPUTIME_ID) - p > 1000000);
    T(at(CLOCK_THREAD_CPUTIME_ID) - t < at(CLOCK_PROCESS_CPUTIME_ID) - p);
}

CHECK(times_and_getrusage)
{
    struct tms a, b;
    struct rusage ru;
    OK(times(&a));
    for (int i = 0; i < 4; i++) spin(0);
    OK(times(&b));
    T(b.tms_utime + b.tms_stime > a.tms_utime + a.tms_stime);
    memset(MAP(mmap(0, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)), 1, 8 << 20);
    OK(getrusage(RUSAGE_SELF, &ru));
    T(ru.ru_utime.tv_sec * 1000000 + ru.ru_utime.tv_usec + ru.ru_stime.tv_sec * 1000000 + ru.ru_stime.tv_usec > 10000);
    T(ru.ru_maxrss > 4096);
    OK(getrusage(RUSAGE_CHILDREN, &ru));
    OK(getrusage(RUSAGE_THREAD, &ru));
    ERR(getrusage(99, &ru), EINVAL);
    EQ(sysconf(_SC_CLK_TCK), 100);
}

CHECK(sleeping_order)
{
    // ten children with different sleeps end in the order of their sleeps
    int p[2];
    char order[11] = {0};
    OK(pipe(p));
    for (int i = 0; i < 5; i++) CHILD(sleep_ms(20 + (4 - i) * 60); char c = '0' + i; EQ(write(p[1], &c, 1), 1));
    for (int i = 0; i < 5; i++) EQ(read(p[0], order + i, 1), 1);
    T(!strcmp(order, "43210"));
}
