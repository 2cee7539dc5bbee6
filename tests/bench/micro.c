// The guest's half of the small measurements: `begin NAME`, then N operations, then `end NAME N NANOSECONDS`.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000L + ts.tv_nsec;
}

// Bytes to and fro: `first` starts.
static void ping_pong(int in, int out, int first, long rounds)
{
    char c = 'x';
    if (first && write(out, &c, 1) != 1) _exit(1);
    for (long i = 0; i < rounds; i++) {
        if (read(in, &c, 1) != 1) _exit(1);
        if ((!first || i + 1 < rounds) && write(out, &c, 1) != 1) _exit(1);
    }
}

static int a[2], b[2];
static long partner_rounds;
static void *partner(void *arg)
{
    ping_pong(a[0], b[1], 0, partner_rounds);
    return arg;
}

static void getppid_loop(long n)
{
    for (long i = 0; i < n; i++) syscall(SYS_getppid);
}
static void clock_loop(long n)
{
    for (long i = 0; i < n; i++) ns();
}
static void pipe_processes(long n)
{
    if (pipe(a) || pipe(b)) _exit(1);
    pid_t p = fork();
    if (p == 0) {
        ping_pong(a[0], b[1], 0, n / 2);
        _exit(0);
    }
    ping_pong(b[0], a[1], 1, n / 2);
    waitpid(p, 0, 0);
}
static void pipe_threads(long n)
{
    pthread_t t;
    if (pipe(a) || pipe(b)) _exit(1);
    partner_rounds = n / 2;
    if (pthread_create(&t, 0, partner, 0)) _exit(1);
    ping_pong(b[0], a[1], 1, n / 2);
    pthread_join(t, 0);
}
static void page_faults(long n)
{
    for (long done = 0; done < n; done += 1024) {
        char *p = mmap(0, 1024 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) _exit(1);
        madvise(p, 1024 * 4096, MADV_NOHUGEPAGE);
        for (long i = 0; i < 1024; i++) p[i * 4096] = 1;
        munmap(p, 1024 * 4096);
    }
}
static void fork_wait(long n)
{
    for (long i = 0; i < n; i++) {
        pid_t p = fork();
        if (p == 0) _exit(0);
        waitpid(p, 0, 0);
    }
}

int main(void)
{
    static const struct { const char *name; void (*run)(long); long n; } tests[] = {
        {"getppid", getppid_loop, 1000000},     {"clock_gettime", clock_loop, 1000000},
        {"pipe-threads", pipe_threads, 100000}, {"pipe-processes", pipe_processes, 100000},
        {"page-fault", page_faults, 102400},    {"fork", fork_wait, 500},
    };
    setvbuf(stdout, 0, _IOLBF, 0);
    for (unsigned i = 0; i < sizeof tests / sizeof *tests; i++) {
        tests[i].run(tests[i].n / 10); // warm
        printf("begin %s\n", tests[i].name);
        long t0 = ns();
        tests[i].run(tests[i].n);
        long t = ns() - t0;
        printf("end %s %ld %ld\n", tests[i].name, tests[i].n, t);
    }
    puts("all done");
    return 0;
}
