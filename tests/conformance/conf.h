// The conformance framework: checks register themselves, run one by one and print one line each.
//
//   CHECK(name) { OK(call); EQ(a, b); ERR(call, ENOENT); T(condition); }
//
// Output is `ok NAME`, `not ok NAME: why` or `skip NAME: why`, then `# N passed, N failed, N skipped`.
// Each check runs in a child of its own, so that a crash costs one check. CONF_NOFORK=1 runs them all in
// one process. Arguments that do not begin with `--` select checks by name.
// Every program must pass on Linux itself: that is how we know that a check asks for the right thing.
#ifndef CONF_H
#define CONF_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct conf_check {
    const char *name;
    void (*run)(void);
    struct conf_check *next;
};
static struct conf_check *conf_first, **conf_last = &conf_first;
static const char *conf_name = "", *conf_self = "";
static char conf_dir[128];
static pid_t conf_pid, conf_tid;
static int conf_nofork;
static volatile int conf_failed, conf_skipped;
static jmp_buf conf_out;

#define CHECK(n)                                                                       \
    static void t_##n(void);                                                           \
    static struct conf_check conf_##n = {#n, t_##n, 0};                                \
    __attribute__((constructor)) static void conf_add_##n(void)                        \
    {                                                                                  \
        *conf_last = &conf_##n;                                                        \
        conf_last = &conf_##n.next;                                                    \
    }                                                                                  \
    static void t_##n(void)

// Set by a program that executes itself: called when argv[1] begins with `--`.
static int (*conf_child)(int argc, char **argv);

static void conf_line(const char *kind, const char *fmt, va_list ap)
{
    char buf[512];
    int n = snprintf(buf, sizeof buf, "%s %s: ", kind, conf_name);
    n += vsnprintf(buf + n, sizeof buf - n - 2, fmt, ap);
    if (n > (int)sizeof buf - 2) n = sizeof buf - 2;
    buf[n++] = '\n';
    if (write(1, buf, n) < 0) _exit(98);
}

// Ends the check as failed. In a check's own child process it notes the reason and exits with 99.
__attribute__((noreturn, format(printf, 1, 2), unused)) static void conf_fail(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (getpid() != conf_pid) {
        conf_line("# in a child of", fmt, ap);
        _exit(99);
    }
    conf_line("not ok", fmt, ap);
    va_end(ap);
    conf_failed = 1;
    if (!conf_nofork) _exit(1);
    if (syscall(SYS_gettid) != conf_tid) pthread_exit(0);
    longjmp(conf_out, 1);
}

__attribute__((noreturn, format(printf, 1, 2), unused)) static void conf_skip(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    conf_line("skip", fmt, ap);
    va_end(ap);
    conf_skipped = 1;
    if (!conf_nofork) _exit(77);
    longjmp(conf_out, 1);
}

#define FAIL(...) conf_fail(__VA_ARGS__)
#define T(cond)                                                                                  \
    do {                                                                                         \
        if (!(cond)) FAIL("line %d: not true: %s (errno %d)", __LINE__, #cond, errno);           \
    } while (0)
#define EQ(a, b)                                                                                 \
    do {                                                                                         \
        long long a_ = (long long)(a), b_ = (long long)(b);                                      \
        if (a_ != b_)                                                                            \
            FAIL("line %d: %s is %lld (0x%llx), expected %lld (0x%llx)", __LINE__, #a, a_, a_, b_, b_); \
    } while (0)
#define OK(call)                                                                                 \
    ({                                                                                           \
        errno = 0;                                                                               \
        long r_ = (long)(call);                                                                  \
        if (r_ == -1) FAIL("line %d: %s: errno %d (%s)", __LINE__, #call, errno, strerror(errno)); \
        r_;                                                                                      \
    })
#define ERR(call, e)                                                                             \
    do {                                                                                         \
        errno = 0;                                                                               \
        long r_ = (long)(call);                                                                  \
        int e_ = errno;                                                                          \
        if (r_ != -1) FAIL("line %d: %s gave %ld, expected errno %s", __LINE__, #call, r_, #e);  \
        if (e_ != (e)) FAIL("line %d: %s: errno %d (%s), expected %s", __LINE__, #call, e_, strerror(e_), #e); \
    } while (0)
// mmap and friends, where the failure value is MAP_FAILED
#define MAP(call) ((void *)OK(call))

// Forks and runs the arguments as statements in the child, which exits with 0 after it; gives the pid.
#define CHILD(...)                                                                               \
    ({                                                                                           \
        pid_t p_ = OK(fork());                                                                   \
        if (p_ == 0) {                                                                           \
            __VA_ARGS__;                                                                         \
            _exit(0);                                                                            \
        }                                                                                        \
        p_;                                                                                      \
    })

// Waits for a child and gives its raw status.
__attribute__((unused)) static int reap(pid_t p)
{
    int st = -1;
    pid_t r;
    do r = waitpid(p, &st, 0);
    while (r == -1 && errno == EINTR);
    EQ(r, p);
    return st;
}
// The child must have exited with this code.
#define EXITS(p, code)                                                                           \
    do {                                                                                         \
        int s_ = reap(p);                                                                        \
        if (!WIFEXITED(s_) || WEXITSTATUS(s_) != (code))                                         \
            FAIL("line %d: child status 0x%x, expected exit code %d", __LINE__, s_, (int)(code)); \
    } while (0)
#define DIES(p, sig)                                                                             \
    do {                                                                                         \
        int s_ = reap(p);                                                                        \
        if (!WIFSIGNALED(s_) || WTERMSIG(s_) != (sig))                                           \
            FAIL("line %d: child status 0x%x, expected signal %d", __LINE__, s_, (int)(sig));    \
    } while (0)

__attribute__((unused)) static int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}
__attribute__((unused)) static void sleep_ms(int ms)
{
    struct timespec ts = {ms / 1000, ms % 1000 * 1000000L};
    while (nanosleep(&ts, &ts) == -1 && errno == EINTR) {}
}
#define PAGE 4096L

// One fork per check; a check that takes too long is killed with all its process group.
static volatile pid_t conf_running;
static volatile int conf_timed_out;
static void conf_alarm(int sig)
{
    (void)sig;
    conf_timed_out = 1;
    kill(-conf_running, SIGKILL);
    kill(conf_running, SIGKILL);
}

static int conf_rm(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    remove(path);
    return 0;
}

// 0 passed, 1 failed, 2 skipped
static int conf_run(struct conf_check *c)
{
    char line[256];
    conf_name = c->name;
    // a folder of its own, so that no check meets another one's files
    snprintf(line, sizeof line, "%s/%s", conf_dir, c->name);
    mkdir(line, 0755);
    if (chdir(line) == -1 && chdir(conf_dir) == -1) _exit(97);
    if (conf_nofork) {
        conf_failed = conf_skipped = 0;
        if (setjmp(conf_out) == 0) c->run();
        if (conf_failed || conf_skipped) return conf_failed ? 1 : 2;
        int n = snprintf(line, sizeof line, "ok %s\n", c->name);
        return write(1, line, n) == n ? 0 : 1;
    }
    conf_timed_out = 0;
    pid_t p = fork();
    if (p == 0) {
        setpgid(0, 0);
        signal(SIGALRM, SIG_DFL);
        conf_pid = getpid();
        conf_tid = syscall(SYS_gettid);
        c->run();
        int n = snprintf(line, sizeof line, "ok %s\n", c->name);
        _exit(write(1, line, n) == n ? 0 : 1);
    }
    int st = 0, n = 0;
    if (p > 0) {
        const char *limit = getenv("CONF_TIMEOUT");
        conf_running = p;
        alarm(limit ? atoi(limit) : 30);
        while (waitpid(p, &st, 0) == -1 && errno == EINTR) {}
        alarm(0);
        kill(-p, SIGKILL);
        while (waitpid(-1, 0, WNOHANG) > 0) {}
    }
    if (p < 0) n = snprintf(line, sizeof line, "not ok %s: fork: %s\n", c->name, strerror(errno));
    else if (conf_timed_out) n = snprintf(line, sizeof line, "not ok %s: no end within the time limit\n", c->name);
    else if (WIFSIGNALED(st)) n = snprintf(line, sizeof line, "not ok %s: killed by signal %d\n", c->name, WTERMSIG(st));
    else if (WEXITSTATUS(st) == 0) return 0;
    else if (WEXITSTATUS(st) == 1) return 1;
    else if (WEXITSTATUS(st) == 77) return 2;
    else n = snprintf(line, sizeof line, "not ok %s: exit code %d\n", c->name, WEXITSTATUS(st));
    if (write(1, line, n) != n) return 1;
    return 1;
}

int main(int argc, char **argv)
{
    int count[3] = {0};
    conf_self = argv[0];
    if (argc > 1 && !strncmp(argv[1], "--", 2) && conf_child) return conf_child(argc, argv);
    conf_pid = getpid();
    conf_tid = syscall(SYS_gettid);
    conf_nofork = getenv("CONF_NOFORK") && *getenv("CONF_NOFORK") == '1';
    mkdir("/tmp", 01777);
    snprintf(conf_dir, sizeof conf_dir, "/tmp/confXXXXXX");
    if (!mkdtemp(conf_dir) || chdir(conf_dir)) {
        printf("not ok setup: no scratch folder %s: %s\n# 0 passed, 1 failed, 0 skipped\n", conf_dir, strerror(errno));
        return 1;
    }
    umask(022);
    signal(SIGALRM, conf_alarm);
    for (struct conf_check *c = conf_first; c; c = c->next) {
        int wanted = argc < 2;
        for (int i = 1; i < argc; i++) wanted |= !strcmp(argv[i], c->name);
        if (wanted) count[conf_run(c)]++;
    }
    if (chdir("/") == 0) nftw(conf_dir, conf_rm, 16, FTW_DEPTH | FTW_PHYS);
    char line[128];
    int n = snprintf(line, sizeof line, "# %d passed, %d failed, %d skipped\n", count[0], count[1], count[2]);
    if (write(1, line, n) != n) return 1;
    return count[1] != 0;
}
#endif
