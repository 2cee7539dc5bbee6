// epoll: level and edge triggered, one-shot, nested, many descriptors, threads.
#include "conf.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

static int add(int ep, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event e = {.events = events, .data.u64 = data};
    return epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
}
static int mod(int ep, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event e = {.events = events, .data.u64 = data};
    return epoll_ctl(ep, EPOLL_CTL_MOD, fd, &e);
}
// One event or none: its bits, and its data in *data.
static uint32_t one(int ep, int timeout, uint64_t *data)
{
    struct epoll_event e[8];
    int n = OK(epoll_wait(ep, e, 8, timeout));
    if (n == 0) return 0;
    EQ(n, 1);
    if (data) *data = e[0].data.u64;
    return e[0].events;
}
static void pair(int s[2]) { OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s)); }

CHECK(level_triggered)
{
    int ep = OK(epoll_create1(EPOLL_CLOEXEC)), s[2];
    uint64_t d = 0;
    char buf[8];
    pair(s);
    OK(add(ep, s[0], EPOLLIN, 0x1122334455667788));
    EQ(one(ep, 0, 0), 0);
    EQ(write(s[1], "ab", 2), 2);
    EQ(one(ep, 1000, &d), EPOLLIN);
    EQ(d, 0x1122334455667788);
    EQ(one(ep, 0, 0), EPOLLIN);
    EQ(read(s[0], buf, 1), 1);
    EQ(one(ep, 0, 0), EPOLLIN);
    EQ(read(s[0], buf, 1), 1);
    EQ(one(ep, 0, 0), 0);
}

CHECK(edge_triggered)
{
    int ep = OK(epoll_create1(0)), s[2];
    char buf[8];
    pair(s);
    OK(add(ep, s[0], EPOLLIN | EPOLLET, 1));
    EQ(write(s[1], "ab", 2), 2);
    EQ(one(ep, 1000, 0), EPOLLIN);
    EQ(one(ep, 0, 0), 0); // still readable, but no new edge
    EQ(write(s[1], "c", 1), 1);
    EQ(one(ep, 1000, 0), EPOLLIN);
    EQ(read(s[0], buf, 8), 3);
    EQ(one(ep, 0, 0), 0);
}

CHECK(one_shot)
{
    int ep = OK(epoll_create1(0)), s[2];
    pair(s);
    OK(add(ep, s[0], EPOLLIN | EPOLLONESHOT, 1));
    EQ(write(s[1], "a", 1), 1);
    EQ(one(ep, 1000, 0), EPOLLIN);
    EQ(one(ep, 0, 0), 0);
    EQ(write(s[1], "b", 1), 1);
    EQ(one(ep, 0, 0), 0);
    OK(mod(ep, s[0], EPOLLIN | EPOLLONESHOT, 2));
    uint64_t d;
    EQ(one(ep, 1000, &d), EPOLLIN);
    EQ(d, 2);
}

CHECK(control_errors)
{
    int ep = OK(epoll_create1(0)), s[2];
    pair(s);
    struct epoll_event e = {.events = EPOLLIN};
    ERR(epoll_ctl(ep, EPOLL_CTL_MOD, s[0], &e), ENOENT);
    ERR(epoll_ctl(ep, EPOLL_CTL_DEL, s[0], 0), ENOENT);
    OK(add(ep, s[0], EPOLLIN, 1));
    ERR(add(ep, s[0], EPOLLIN, 1), EEXIST);
    ERR(add(ep, 999, EPOLLIN, 1), EBADF);
    ERR(add(999, s[0], EPOLLIN, 1), EBADF);
    ERR(add(ep, ep, EPOLLIN, 1), EINVAL);
    ERR(add(s[0], s[1], EPOLLIN, 1), EINVAL);
    ERR(epoll_ctl(ep, 77, s[0], &e), EINVAL);
    int f = OK(open("f", O_CREAT | O_RDWR, 0600));
    ERR(add(ep, f, EPOLLIN, 1), EPERM); // regular files cannot be polled
    ERR(epoll_ctl(ep, EPOLL_CTL_ADD, s[1], (void *)8), EFAULT);
    ERR(epoll_wait(ep, &e, 0, 0), EINVAL);
    ERR(epoll_create1(1), EINVAL);
    ERR(syscall(SYS_epoll_create, 0), EINVAL);
    OK(epoll_ctl(ep, EPOLL_CTL_DEL, s[0], 0));
    EQ(one(ep, 0, 0), 0);
}

CHECK(out_and_modify)
{
    int ep = OK(epoll_create1(0)), s[2];
    static char big[4096];
    pair(s);
    OK(add(ep, s[0], EPOLLIN | EPOLLOUT, 1));
    EQ(one(ep, 0, 0), EPOLLOUT);
    while (write(s[0], big, sizeof big) > 0) {}
    EQ(errno, EAGAIN);
    EQ(one(ep, 0, 0), 0);
    OK(mod(ep, s[0], EPOLLOUT, 1));
    while (read(s[1], big, sizeof big) > 0) {}
    EQ(one(ep, 1000, 0), EPOLLOUT);
    OK(mod(ep, s[0], 0, 1));
    EQ(one(ep, 0, 0), 0);
}

CHECK(hangup_bits)
{
    int ep = OK(epoll_create1(0)), s[2];
    pair(s);
    OK(add(ep, s[0], EPOLLIN | EPOLLRDHUP, 1));
    OK(shutdown(s[1], SHUT_WR));
    EQ(one(ep, 1000, 0), EPOLLIN | EPOLLRDHUP);
    close(s[1]);
    EQ(one(ep, 1000, 0), EPOLLIN | EPOLLRDHUP | EPOLLHUP);
    int p[2];
    OK(pipe(p));
    ep = OK(epoll_create1(0));
    OK(add(ep, p[1], 0, 1)); // errors come unasked
    close(p[0]);
    EQ(one(ep, 1000, 0), EPOLLERR);
}

CHECK(close_removes)
{
    int ep = OK(epoll_create1(0)), s[2];
    pair(s);
    OK(add(ep, s[0], EPOLLIN, 1));
    EQ(write(s[1], "x", 1), 1);
    int d = OK(dup(s[0]));
    close(s[0]);
    EQ(one(ep, 0, 0), EPOLLIN); // the open file lives on in the duplicate
    close(d);
    EQ(one(ep, 0, 0), 0);
}

CHECK(nested)
{
    int inner = OK(epoll_create1(0)), outer = OK(epoll_create1(0)), s[2];
    pair(s);
    OK(add(inner, s[0], EPOLLIN, 5));
    OK(add(outer, inner, EPOLLIN, 6));
    EQ(one(outer, 0, 0), 0);
    struct pollfd p = {outer, POLLIN, 0};
    EQ(poll(&p, 1, 0), 0);
    EQ(write(s[1], "x", 1), 1);
    uint64_t d;
    EQ(one(outer, 1000, &d), EPOLLIN);
    EQ(d, 6);
    EQ(poll(&p, 1, 0), 1);
    EQ(one(inner, 0, &d), EPOLLIN);
    EQ(d, 5);
    ERR(add(inner, outer, EPOLLIN, 7), ELOOP);
}

CHECK(timeout)
{
    int ep = OK(epoll_create1(0));
    int64_t t0 = now_ns();
    EQ(one(ep, 30, 0), 0);
    int64_t t = now_ns() - t0;
    T(t >= 29000000 && t < 3000000000LL);
    struct timespec ts = {0, 20000000};
    struct epoll_event e;
    t0 = now_ns();
    EQ(syscall(441, ep, &e, 1, &ts, 0, 8), 0); // epoll_pwait2
    T(now_ns() - t0 >= 20000000);
}

CHECK(many_descriptors_rotate)
{
    int ep = OK(epoll_create1(0));
    int fd[500];
    for (int i = 0; i < 500; i++) {
        fd[i] = OK(eventfd(i % 2, EFD_NONBLOCK));
        OK(add(ep, fd[i], EPOLLIN, i));
    }
    char seen[500] = {0};
    struct epoll_event e[16];
    for (int round = 0, got = 0; got < 250; round++) {
        T(round < 200);
        int n = OK(epoll_wait(ep, e, 16, 0));
        T(n > 0);
        for (int i = 0; i < n; i++) {
            EQ(e[i].data.u64 % 2, 1);
            if (!seen[e[i].data.u64]++) got++; // nobody starves: all come within a few rounds
        }
    }
    for (int i = 0; i < 500; i++) close(fd[i]);
    EQ(epoll_wait(ep, e, 16, 0), 0);
}

struct job { int ep; volatile int got; };
static void *waiter(void *arg)
{
    struct job *j = arg;
    struct epoll_event e;
    if (epoll_wait(j->ep, &e, 1, 10000) == 1) __atomic_add_fetch(&j->got, 1, __ATOMIC_SEQ_CST);
    return 0;
}
CHECK(threads_wait_on_one)
{
    struct job j = {OK(epoll_create1(0)), 0};
    pthread_t t[4];
    int fd[4];
    for (int i = 0; i < 4; i++) EQ(pthread_create(&t[i], 0, waiter, &j), 0);
    sleep_ms(20);
    for (int i = 0; i < 4; i++) {
        fd[i] = OK(eventfd(0, EFD_NONBLOCK));
        OK(add(j.ep, fd[i], EPOLLIN | EPOLLET, i)); // added while they wait
    }
    uint64_t v = 1;
    for (int i = 0; i < 4; i++) EQ(write(fd[i], &v, 8), 8);
    for (int i = 0; i < 4; i++) EQ(pthread_join(t[i], 0), 0);
    EQ(j.got, 4);
}

CHECK(exclusive)
{
    struct job j = {OK(epoll_create1(0)), 0};
    int fd = OK(eventfd(0, 0));
    OK(add(j.ep, fd, EPOLLIN | EPOLLEXCLUSIVE, 1));
    ERR(mod(j.ep, fd, EPOLLIN, 1), EINVAL);
    uint64_t v = 1;
    EQ(write(fd, &v, 8), 8);
    EQ(one(j.ep, 1000, 0), EPOLLIN);
}

static void nothing(int sig) { (void)sig; }
CHECK(pwait_mask)
{
    int ep = OK(epoll_create1(0));
    struct epoll_event e;
    sigset_t s, none;
    sigemptyset(&none);
    sigemptyset(&s);
    sigaddset(&s, SIGUSR1);
    signal(SIGUSR1, nothing);
    OK(sigprocmask(SIG_BLOCK, &s, 0));
    OK(kill(getpid(), SIGUSR1));
    EQ(epoll_pwait(ep, &e, 1, 10, &s), 0);
    ERR(epoll_pwait(ep, &e, 1, 5000, &none), EINTR);
}

CHECK(inherited_by_fork)
{
    int ep = OK(epoll_create1(0)), s[2];
    pair(s);
    OK(add(ep, s[0], EPOLLIN, 3));
    pid_t k = CHILD(uint64_t d = 0; EQ(one(ep, 10000, &d), EPOLLIN); EQ(d, 3));
    sleep_ms(20);
    EQ(write(s[1], "x", 1), 1);
    EXITS(k, 0);
}
