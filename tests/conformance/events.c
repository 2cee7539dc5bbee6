// Pipes, eventfd, timerfd, signalfd; poll, select, ppoll.
#include "conf.h"
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

static int ready(int fd, int events)
{
    struct pollfd p = {fd, events, 0};
    OK(poll(&p, 1, 0));
    return p.revents;
}
static void nonblocking(int fd) { OK(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK)); }

CHECK(pipe_bytes_and_eof)
{
    int p[2];
    char buf[16];
    OK(pipe(p));
    EQ(write(p[1], "hello", 5), 5);
    EQ(read(p[0], buf, 2), 2);
    EQ(read(p[0], buf, 16), 3);
    T(!memcmp(buf, "llo", 3));
    EQ(write(p[1], "x", 1), 1);
    close(p[1]);
    EQ(read(p[0], buf, 16), 1);
    EQ(read(p[0], buf, 16), 0);
    EQ(read(p[0], buf, 16), 0);
    ERR(lseek(p[0], 0, SEEK_SET), ESPIPE);
    ERR(pread(p[0], buf, 1, 0), ESPIPE);
    ERR(write(p[0], "x", 1), EBADF);
}

CHECK(pipe_blocks_and_wakes)
{
    int p[2];
    char c;
    OK(pipe(p));
    pid_t k = CHILD(sleep_ms(40); EQ(write(p[1], "k", 1), 1));
    int64_t t0 = now_ns();
    EQ(read(p[0], &c, 1), 1);
    T(now_ns() - t0 >= 20000000);
    EXITS(k, 0);
}

CHECK(pipe_full)
{
    int p[2];
    static char big[1 << 17];
    OK(pipe2(p, O_NONBLOCK | O_CLOEXEC));
    EQ(fcntl(p[0], F_GETFD), FD_CLOEXEC);
    EQ(fcntl(p[1], F_GETPIPE_SZ), 65536);
    EQ(write(p[1], big, sizeof big), 65536);
    ERR(write(p[1], "x", 1), EAGAIN);
    EQ(ready(p[1], POLLOUT), 0);
    int n;
    OK(ioctl(p[0], FIONREAD, &n));
    EQ(n, 65536);
    EQ(read(p[0], big, PAGE), PAGE);
    EQ(ready(p[1], POLLOUT), POLLOUT);
    EQ(fcntl(p[1], F_SETPIPE_SZ, 1 << 17), 1 << 17);
    ERR(fcntl(p[1], F_SETPIPE_SZ, 4096), EBUSY);
}

CHECK(pipe_atomic_writes)
{
    int p[2];
    char buf[4096];
    OK(pipe(p));
    nonblocking(p[1]);
    memset(buf, 1, sizeof buf);
    while (write(p[1], buf, 4096) == 4096) {}
    EQ(read(p[0], buf, 100), 100);
    ERR(write(p[1], buf, 4096), EAGAIN); // all or nothing up to PIPE_BUF
}

CHECK(pipe_large_transfer)
{
    int p[2];
    static unsigned char buf[70000];
    OK(pipe(p));
    pid_t k = CHILD({
        for (int i = 0; i < 60; i++) {
            memset(buf, i, sizeof buf);
            EQ(write(p[1], buf, sizeof buf), sizeof buf);
        }
    });
    close(p[1]);
    size_t at = 0;
    for (ssize_t n; (n = read(p[0], buf, 12345)) > 0; at += n)
        for (int i = 0; i < n; i += 997) EQ(buf[i], (at + i) / sizeof buf);
    EQ(at, 60 * sizeof buf);
    EXITS(k, 0);
}

CHECK(pipe_poll_states)
{
    int p[2];
    OK(pipe(p));
    EQ(ready(p[0], POLLIN), 0);
    EQ(ready(p[1], POLLOUT), POLLOUT);
    EQ(write(p[1], "x", 1), 1);
    EQ(ready(p[0], POLLIN), POLLIN);
    close(p[1]);
    EQ(ready(p[0], POLLIN), POLLIN | POLLHUP);
    char c;
    EQ(read(p[0], &c, 1), 1);
    EQ(ready(p[0], POLLIN), POLLHUP);
    OK(pipe(p));
    close(p[0]);
    EQ(ready(p[1], POLLOUT), POLLOUT | POLLERR);
    EQ(ready(1000, POLLIN), POLLNVAL);
}

CHECK(direct_pipe_keeps_packets)
{
    int p[2];
    char buf[16];
    OK(pipe2(p, O_DIRECT));
    EQ(write(p[1], "one", 3), 3);
    EQ(write(p[1], "twoo", 4), 4);
    EQ(read(p[0], buf, 16), 3);
    EQ(read(p[0], buf, 2), 2); // the rest of the packet is gone
    nonblocking(p[0]);
    ERR(read(p[0], buf, 16), EAGAIN);
}

CHECK(eventfd_counter)
{
    int fd = OK(eventfd(3, EFD_NONBLOCK));
    uint64_t v = 4;
    EQ(ready(fd, POLLIN | POLLOUT), POLLIN | POLLOUT);
    EQ(write(fd, &v, 8), 8);
    EQ(read(fd, &v, 8), 8);
    EQ(v, 7);
    ERR(read(fd, &v, 8), EAGAIN);
    EQ(ready(fd, POLLIN), 0);
    ERR(write(fd, &v, 4), EINVAL);
    v = UINT64_MAX;
    ERR(write(fd, &v, 8), EINVAL);
    v = UINT64_MAX - 1;
    EQ(write(fd, &v, 8), 8);
    EQ(ready(fd, POLLOUT), 0);
    v = 1;
    ERR(write(fd, &v, 8), EAGAIN);
}

CHECK(eventfd_semaphore)
{
    int fd = OK(eventfd(2, EFD_NONBLOCK | EFD_SEMAPHORE));
    uint64_t v;
    EQ(read(fd, &v, 8), 8);
    EQ(v, 1);
    EQ(read(fd, &v, 8), 8);
    ERR(read(fd, &v, 8), EAGAIN);
}

CHECK(eventfd_wakes_a_reader)
{
    int fd = OK(eventfd(0, 0));
    pid_t k = CHILD(uint64_t one = 9; sleep_ms(20); EQ(write(fd, &one, 8), 8));
    uint64_t v;
    EQ(read(fd, &v, 8), 8);
    EQ(v, 9);
    EXITS(k, 0);
}

CHECK(timerfd_once_and_repeating)
{
    int fd = OK(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
    struct itimerspec t = {{0, 0}, {0, 30000000}}, left;
    uint64_t n;
    OK(timerfd_settime(fd, 0, &t, 0));
    ERR(read(fd, &n, 8), EAGAIN);
    OK(timerfd_gettime(fd, &left));
    T(left.it_value.tv_nsec > 0 && left.it_value.tv_nsec <= 30000000);
    struct pollfd p = {fd, POLLIN, 0};
    int64_t t0 = now_ns();
    EQ(poll(&p, 1, 5000), 1);
    T(now_ns() - t0 >= 20000000);
    EQ(read(fd, &n, 8), 8);
    EQ(n, 1);
    ERR(read(fd, &n, 8), EAGAIN);
    t = (struct itimerspec){{0, 5000000}, {0, 5000000}};
    OK(timerfd_settime(fd, 0, &t, 0));
    sleep_ms(60);
    EQ(read(fd, &n, 8), 8);
    T(n >= 10 && n < 10000);
}

CHECK(timerfd_absolute)
{
    int fd = OK(timerfd_create(CLOCK_REALTIME, 0));
    struct itimerspec t = {{0, 0}, {1, 0}}; // long past: at once
    uint64_t n;
    OK(timerfd_settime(fd, TFD_TIMER_ABSTIME, &t, 0));
    EQ(read(fd, &n, 8), 8);
    EQ(n, 1);
    t.it_value.tv_nsec = 1000000000;
    ERR(timerfd_settime(fd, 0, &t, 0), EINVAL);
    ERR(timerfd_create(77, 0), EINVAL);
}

CHECK(signalfd_reads)
{
    sigset_t s;
    sigemptyset(&s);
    sigaddset(&s, SIGUSR1);
    sigaddset(&s, SIGUSR2);
    OK(sigprocmask(SIG_BLOCK, &s, 0));
    int fd = OK(signalfd(-1, &s, SFD_NONBLOCK));
    struct signalfd_siginfo si[2];
    ERR(read(fd, si, sizeof si), EAGAIN);
    OK(kill(getpid(), SIGUSR2));
    EQ(ready(fd, POLLIN), POLLIN);
    EQ(read(fd, si, sizeof si), sizeof *si);
    EQ(si[0].ssi_signo, SIGUSR2);
    EQ(si[0].ssi_pid, getpid());
    OK(kill(getpid(), SIGUSR1));
    OK(kill(getpid(), SIGUSR2));
    EQ(read(fd, si, sizeof si), 2 * sizeof *si);
    EQ(si[0].ssi_signo, SIGUSR1);
    ERR(read(fd, si, 7), EINVAL);
}

CHECK(signalfd_wakes_poll)
{
    sigset_t s;
    sigemptyset(&s);
    sigaddset(&s, SIGCHLD);
    OK(sigprocmask(SIG_BLOCK, &s, 0));
    int fd = OK(signalfd(-1, &s, 0));
    pid_t k = CHILD(sleep_ms(20); _exit(5));
    struct pollfd p = {fd, POLLIN, 0};
    EQ(poll(&p, 1, 5000), 1);
    struct signalfd_siginfo si;
    EQ(read(fd, &si, sizeof si), sizeof si);
    EQ(si.ssi_pid, k);
    EQ(si.ssi_status, 5);
    EXITS(k, 5);
}

CHECK(poll_timeout_and_many)
{
    int p[2];
    OK(pipe(p));
    struct pollfd f[300];
    for (int i = 0; i < 300; i++) f[i] = (struct pollfd){i == 299 ? p[0] : -1, POLLIN, 99};
    int64_t t0 = now_ns();
    EQ(poll(f, 300, 30), 0);
    T(now_ns() - t0 >= 29000000);
    EQ(f[0].revents, 0);
    pid_t k = CHILD(sleep_ms(20); EQ(write(p[1], "x", 1), 1));
    EQ(poll(f, 300, -1), 1);
    EQ(f[299].revents, POLLIN);
    EXITS(k, 0);
    EQ(poll(0, 0, 0), 0);
    ERR(poll((void *)8, 1, 0), EFAULT);
}

static void nothing(int sig) { (void)sig; }
CHECK(ppoll_mask)
{
    sigset_t s, none;
    sigemptyset(&none);
    sigemptyset(&s);
    sigaddset(&s, SIGUSR1);
    struct sigaction sa = {.sa_handler = nothing};
    OK(sigaction(SIGUSR1, &sa, 0));
    OK(sigprocmask(SIG_BLOCK, &s, 0));
    OK(kill(getpid(), SIGUSR1));
    struct timespec ts = {5, 0};
    ERR(ppoll(0, 0, &ts, &none), EINTR);
    ts = (struct timespec){0, 10000000};
    EQ(ppoll(0, 0, &ts, 0), 0);
}

CHECK(select_sets)
{
    int p[2], q[2];
    OK(pipe(p));
    OK(pipe(q));
    fd_set r, w;
    FD_ZERO(&r);
    FD_ZERO(&w);
    FD_SET(p[0], &r);
    FD_SET(q[0], &r);
    FD_SET(q[1], &w);
    EQ(write(p[1], "x", 1), 1);
    struct timeval tv = {1, 0};
    EQ(select(q[1] + 1, &r, &w, 0, &tv), 2);
    T(FD_ISSET(p[0], &r) && !FD_ISSET(q[0], &r) && FD_ISSET(q[1], &w));
    FD_ZERO(&r);
    FD_SET(q[0], &r);
    tv = (struct timeval){0, 20000};
    int64_t t0 = now_ns();
    EQ(select(q[0] + 1, &r, 0, 0, &tv), 0);
    T(now_ns() - t0 >= 19000000);
    EQ(FD_ISSET(q[0], &r), 0);
    FD_SET(40, &r); // not open
    tv.tv_sec = 0;
    ERR(select(41, &r, 0, 0, &tv), EBADF);
    ERR(select(-1, 0, 0, 0, &tv), EINVAL);
}

CHECK(pselect_timeout)
{
    struct timespec ts = {0, 20000000};
    int64_t t0 = now_ns();
    EQ(pselect(0, 0, 0, 0, &ts, 0), 0);
    T(now_ns() - t0 >= 20000000);
}
