// Signals: handlers, masks, waiting, queueing, restarting.
#include "conf.h"

static volatile int hits, last_sig, last_code, last_value;
static volatile pid_t last_pid;
static void *volatile last_addr;
static void count(int sig) { hits++; last_sig = sig; }
static void info(int sig, siginfo_t *si, void *uc)
{
    (void)uc;
    hits++;
    last_sig = sig;
    last_code = si->si_code;
    last_pid = si->si_pid;
    last_addr = si->si_addr;
    if (si->si_code == SI_QUEUE || si->si_code == SI_TIMER) last_value = si->si_value.sival_int;
}
static void on(int sig, void (*fn)(int), int flags)
{
    struct sigaction sa = {.sa_handler = fn, .sa_flags = flags};
    OK(sigaction(sig, &sa, 0));
}
static void on_info(int sig, void (*fn)(int, siginfo_t *, void *), int flags)
{
    struct sigaction sa = {.sa_sigaction = fn, .sa_flags = flags | SA_SIGINFO};
    OK(sigaction(sig, &sa, 0));
}
static sigset_t set_of(int a, int b)
{
    sigset_t s;
    sigemptyset(&s);
    sigaddset(&s, a);
    if (b) sigaddset(&s, b);
    return s;
}
static struct itimerval once_ms(int ms) { return (struct itimerval){{0, 0}, {ms / 1000, ms % 1000 * 1000}}; }

CHECK(sigaction_reports_the_old)
{
    struct sigaction old;
    on(SIGUSR1, count, SA_RESTART);
    OK(sigaction(SIGUSR1, 0, &old));
    EQ(old.sa_handler, count);
    T(old.sa_flags & SA_RESTART);
    ERR(sigaction(SIGKILL, &old, 0), EINVAL);
    ERR(sigaction(SIGSTOP, &old, 0), EINVAL);
    ERR(sigaction(65, &old, 0), EINVAL);
    ERR(sigaction(0, &old, 0), EINVAL);
}

CHECK(raise_runs_the_handler)
{
    on(SIGUSR1, count, 0);
    EQ(raise(SIGUSR1), 0);
    EQ(hits, 1);
    EQ(last_sig, SIGUSR1);
}

CHECK(siginfo_of_kill)
{
    on_info(SIGUSR2, info, 0);
    OK(kill(getpid(), SIGUSR2));
    EQ(hits, 1);
    EQ(last_code, SI_USER);
    EQ(last_pid, getpid());
}

CHECK(siginfo_of_tgkill)
{
    on_info(SIGUSR2, info, 0);
    OK(syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGUSR2));
    EQ(hits, 1);
    EQ(last_code, SI_TKILL);
    EQ(last_pid, getpid());
    ERR(syscall(SYS_tgkill, getpid(), -1, SIGUSR2), EINVAL);
    ERR(syscall(SYS_tgkill, getpid(), 3999999, SIGUSR2), ESRCH);
}

CHECK(kill_errors)
{
    ERR(kill(getpid(), 65), EINVAL);
    ERR(kill(3999999, SIGTERM), ESRCH);
    OK(kill(getpid(), 0));
}

CHECK(blocked_stays_pending)
{
    sigset_t s = set_of(SIGUSR1, 0), p;
    on(SIGUSR1, count, 0);
    OK(sigprocmask(SIG_BLOCK, &s, 0));
    OK(kill(getpid(), SIGUSR1));
    OK(kill(getpid(), SIGUSR1));
    EQ(hits, 0);
    OK(sigpending(&p));
    EQ(sigismember(&p, SIGUSR1), 1);
    EQ(sigismember(&p, SIGUSR2), 0);
    OK(sigprocmask(SIG_UNBLOCK, &s, 0));
    EQ(hits, 1); // a standard signal does not queue
    OK(sigpending(&p));
    EQ(sigismember(&p, SIGUSR1), 0);
}

CHECK(ignored_is_dropped_even_when_pending)
{
    sigset_t s = set_of(SIGUSR1, 0), p;
    OK(sigprocmask(SIG_BLOCK, &s, 0));
    OK(kill(getpid(), SIGUSR1));
    on(SIGUSR1, SIG_IGN, 0);
    OK(sigpending(&p));
    EQ(sigismember(&p, SIGUSR1), 0);
    on(SIGUSR1, count, 0);
    OK(sigprocmask(SIG_UNBLOCK, &s, 0));
    EQ(hits, 0);
}

static volatile int mask_inside;
static void look_at_mask(int sig)
{
    sigset_t now;
    (void)sig;
    sigprocmask(SIG_BLOCK, 0, &now);
    mask_inside = sigismember(&now, SIGUSR1) | sigismember(&now, SIGUSR2) << 1;
}
CHECK(mask_during_the_handler)
{
    struct sigaction sa = {.sa_handler = look_at_mask};
    sigset_t now;
    sigaddset(&sa.sa_mask, SIGUSR2);
    OK(sigaction(SIGUSR1, &sa, 0));
    raise(SIGUSR1);
    EQ(mask_inside, 3);
    sigprocmask(SIG_BLOCK, 0, &now);
    EQ(sigismember(&now, SIGUSR1), 0);
    EQ(sigismember(&now, SIGUSR2), 0);
    sa.sa_flags = SA_NODEFER;
    sigemptyset(&sa.sa_mask);
    OK(sigaction(SIGUSR1, &sa, 0));
    raise(SIGUSR1);
    EQ(mask_inside, 0);
}

static volatile int depth, max_depth;
static void nested(int sig)
{
    (void)sig;
    if (++depth > max_depth) max_depth = depth;
    if (depth < 5) raise(SIGUSR1);
    depth--;
}
CHECK(nested_handlers)
{
    on(SIGUSR1, nested, SA_NODEFER);
    raise(SIGUSR1);
    EQ(max_depth, 5);
    EQ(depth, 0);
}

CHECK(resethand)
{
    struct sigaction old;
    on(SIGUSR1, count, SA_RESETHAND);
    raise(SIGUSR1);
    EQ(hits, 1);
    OK(sigaction(SIGUSR1, 0, &old));
    EQ(old.sa_handler, SIG_DFL);
}

CHECK(sigsuspend_waits)
{
    sigset_t s = set_of(SIGALRM, 0), none;
    sigemptyset(&none);
    on(SIGALRM, count, 0);
    OK(sigprocmask(SIG_BLOCK, &s, 0));
    struct itimerval it = once_ms(30);
    OK(setitimer(ITIMER_REAL, &it, 0));
    ERR(sigsuspend(&none), EINTR);
    EQ(hits, 1);
    sigprocmask(SIG_BLOCK, 0, &none);
    EQ(sigismember(&none, SIGALRM), 1); // the old mask is back
}

CHECK(pause_is_interrupted)
{
    on(SIGALRM, count, SA_RESTART);
    struct itimerval it = once_ms(20);
    OK(setitimer(ITIMER_REAL, &it, 0));
    ERR(pause(), EINTR);
    EQ(hits, 1);
}

CHECK(sigtimedwait_takes_and_times_out)
{
    sigset_t s = set_of(SIGUSR1, SIGUSR2);
    siginfo_t si;
    struct timespec soon = {0, 30000000}, zero = {0, 0};
    OK(sigprocmask(SIG_BLOCK, &s, 0));
    ERR(sigtimedwait(&s, &si, &zero), EAGAIN);
    int64_t t0 = now_ns();
    ERR(sigtimedwait(&s, &si, &soon), EAGAIN);
    T(now_ns() - t0 >= 30000000);
    OK(kill(getpid(), SIGUSR2));
    EQ(sigtimedwait(&s, &si, &soon), SIGUSR2);
    EQ(si.si_signo, SIGUSR2);
    EQ(si.si_code, SI_USER);
    OK(kill(getpid(), SIGUSR1));
    EQ(sigwaitinfo(&s, 0), SIGUSR1);
}

static int order[16];
static void note_order(int sig, siginfo_t *si, void *uc)
{
    (void)sig, (void)uc;
    order[hits++ & 15] = si->si_value.sival_int;
}
CHECK(realtime_signals_queue_in_order)
{
    int rt = SIGRTMIN + 1;
    sigset_t s = set_of(rt, 0);
    on_info(rt, note_order, 0);
    OK(sigprocmask(SIG_BLOCK, &s, 0));
    for (int i = 0; i < 8; i++) OK(sigqueue(getpid(), rt, (union sigval){.sival_int = 100 + i}));
    OK(sigprocmask(SIG_UNBLOCK, &s, 0));
    EQ(hits, 8);
    for (int i = 0; i < 8; i++) EQ(order[i], 100 + i);
}

CHECK(sigqueue_value)
{
    on_info(SIGUSR1, info, 0);
    OK(sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 4711}));
    EQ(last_code, SI_QUEUE);
    EQ(last_value, 4711);
}

CHECK(lowest_number_first)
{
    int a = SIGRTMIN + 2, b = SIGRTMIN + 3;
    sigset_t s = set_of(a, b);
    siginfo_t si;
    OK(sigprocmask(SIG_BLOCK, &s, 0));
    OK(kill(getpid(), b));
    OK(kill(getpid(), a));
    EQ(sigwaitinfo(&s, &si), a);
    EQ(sigwaitinfo(&s, &si), b);
}

CHECK(read_is_interrupted)
{
    int p[2];
    char c;
    OK(pipe(p));
    on(SIGALRM, count, 0);
    struct itimerval it = once_ms(30);
    OK(setitimer(ITIMER_REAL, &it, 0));
    ERR(read(p[0], &c, 1), EINTR);
    EQ(hits, 1);
}

static int restart_pipe;
static void feed_second(int sig)
{
    (void)sig;
    hits++;
    struct itimerval it = once_ms(30);
    if (hits == 1) setitimer(ITIMER_REAL, &it, 0);
    else if (write(restart_pipe, "x", 1) != 1) _exit(55);
}
CHECK(read_is_restarted)
{
    int p[2];
    char c = 0;
    OK(pipe(p));
    restart_pipe = p[1];
    on(SIGALRM, feed_second, SA_RESTART);
    struct itimerval it = once_ms(30);
    OK(setitimer(ITIMER_REAL, &it, 0));
    EQ(read(p[0], &c, 1), 1);
    EQ(c, 'x');
    EQ(hits, 2);
}

CHECK(poll_is_never_restarted)
{
    on(SIGALRM, count, SA_RESTART);
    struct itimerval it = once_ms(30);
    OK(setitimer(ITIMER_REAL, &it, 0));
    ERR(poll(0, 0, 5000), EINTR);
}

CHECK(wait_is_restarted)
{
    on(SIGALRM, count, SA_RESTART);
    struct itimerval it = once_ms(20);
    pid_t p = CHILD(sleep_ms(80));
    OK(setitimer(ITIMER_REAL, &it, 0));
    EQ(waitpid(p, 0, 0), p);
    EQ(hits, 1);
}
