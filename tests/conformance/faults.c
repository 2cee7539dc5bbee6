// Signals: alternate stacks, faults, contexts, timers, children, default actions, threads.
#include "conf.h"
#include <ucontext.h>

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


static char altstack[64 << 10];
static volatile int on_alt;
static void where(int sig)
{
    char here;
    stack_t ss;
    (void)sig;
    sigaltstack(0, &ss);
    on_alt = &here >= altstack && &here < altstack + sizeof altstack ? 1 + !!(ss.ss_flags & SS_ONSTACK) : 0;
}
CHECK(sigaltstack_is_used)
{
    stack_t ss = {.ss_sp = altstack, .ss_size = sizeof altstack}, old;
    OK(sigaltstack(&ss, 0));
    OK(sigaltstack(0, &old));
    EQ(old.ss_sp, altstack);
    EQ(old.ss_size, sizeof altstack);
    EQ(old.ss_flags, 0);
    on(SIGUSR1, where, 0);
    raise(SIGUSR1);
    EQ(on_alt, 0);
    on(SIGUSR1, where, SA_ONSTACK);
    raise(SIGUSR1);
    EQ(on_alt, 2);
    ss.ss_size = 100;
    ERR(sigaltstack(&ss, 0), ENOMEM);
    ss.ss_flags = 1234;
    ERR(sigaltstack(&ss, 0), EINVAL);
    ss = (stack_t){.ss_flags = SS_DISABLE};
    OK(sigaltstack(&ss, 0));
    raise(SIGUSR1);
    EQ(on_alt, 0);
}

static sigjmp_buf jump;
static void jump_out(int sig) { siglongjmp(jump, sig); }
CHECK(siglongjmp_restores_the_mask)
{
    sigset_t now;
    on(SIGUSR1, jump_out, 0);
    volatile int rounds = 0;
    if (sigsetjmp(jump, 1) == 0 || rounds < 3) {
        rounds++;
        raise(SIGUSR1);
        FAIL("the handler came back");
    }
    EQ(rounds, 3);
    sigprocmask(SIG_BLOCK, 0, &now);
    EQ(sigismember(&now, SIGUSR1), 0);
}

static void fault_jump(int sig, siginfo_t *si, void *uc)
{
    (void)uc;
    last_code = si->si_code;
    last_addr = si->si_addr;
    siglongjmp(jump, sig);
}
CHECK(sigfpe)
{
    on_info(SIGFPE, fault_jump, 0);
    volatile int zero = 0, one = 1;
    int r = sigsetjmp(jump, 1);
    if (r == 0) {
        one = one / zero;
        FAIL("the division came back");
    }
    EQ(r, SIGFPE);
    EQ(last_code, FPE_INTDIV);
}

CHECK(sigill)
{
    on_info(SIGILL, fault_jump, 0);
    int r = sigsetjmp(jump, 1);
    if (r == 0) {
        __asm__ volatile("ud2");
        FAIL("ud2 came back");
    }
    EQ(r, SIGILL);
    EQ(last_code, ILL_ILLOPN);
}

CHECK(sigtrap)
{
    on_info(SIGTRAP, info, 0);
    __asm__ volatile("int3");
    EQ(hits, 1);
    EQ(last_sig, SIGTRAP);
}

static volatile long gregs_rip;
static void skip_ud2(int sig, siginfo_t *si, void *ctx)
{
    (void)sig, (void)si;
    ucontext_t *uc = ctx;
    gregs_rip = uc->uc_mcontext.gregs[REG_RIP];
    uc->uc_mcontext.gregs[REG_RIP] += 2;
    uc->uc_mcontext.gregs[REG_RBX] = 0x1234567;
}
CHECK(handler_edits_the_context)
{
    on_info(SIGILL, skip_ud2, 0);
    long rbx = 1, at = 0;
    __asm__ volatile("lea 1f(%%rip), %1\n1: ud2" : "+b"(rbx), "=&r"(at)::"memory");
    EQ(gregs_rip, at);
    EQ(rbx, 0x1234567);
}

static void clobber_fpu(int sig)
{
    (void)sig;
    __asm__ volatile("pcmpeqd %%xmm0,%%xmm0; pcmpeqd %%xmm7,%%xmm7; pcmpeqd %%xmm15,%%xmm15" ::: "xmm0", "xmm7", "xmm15");
    hits++;
}
CHECK(handler_does_not_disturb_registers)
{
    on(SIGUSR1, clobber_fpu, 0);
    uint64_t in[6] = {1, 2, 3, 4, 5, 6}, out[6] = {0};
    long pid = getpid(), r12 = 0x12, r15 = 0x15;
    __asm__ volatile("movdqu (%3),%%xmm0; movdqu 16(%3),%%xmm7; movdqu 32(%3),%%xmm15\n"
                     "mov $0x12,%%r12; mov $0x15,%%r15; mov $62,%%eax; syscall\n"
                     "movdqu %%xmm0,(%4); movdqu %%xmm7,16(%4); movdqu %%xmm15,32(%4); mov %%r12,%0; mov %%r15,%1"
                     : "=&r"(r12), "=&r"(r15)
                     : "D"(pid), "r"(in), "r"(out), "S"((long)SIGUSR1)
                     : "rax", "rcx", "r11", "r12", "r15", "xmm0", "xmm7", "xmm15", "memory");
    EQ(hits, 1);
    EQ(r12, 0x12);
    EQ(r15, 0x15);
    T(!memcmp(in, out, sizeof in));
}

CHECK(sigpipe)
{
    int p[2];
    OK(pipe(p));
    close(p[0]);
    on(SIGPIPE, count, 0);
    ERR(write(p[1], "x", 1), EPIPE);
    EQ(hits, 1);
    signal(SIGPIPE, SIG_DFL);
    DIES(CHILD(signal(SIGPIPE, SIG_DFL); if (write(p[1], "x", 1)) {}), SIGPIPE);
}

CHECK(sigchld_info)
{
    on_info(SIGCHLD, info, 0);
    pid_t p = CHILD(_exit(3));
    for (int i = 0; i < 2000 && !hits; i++) sleep_ms(1);
    EQ(hits, 1);
    EQ(last_code, CLD_EXITED);
    EQ(last_pid, p);
    EXITS(p, 3);
}

CHECK(sigchld_ignored_reaps_alone)
{
    signal(SIGCHLD, SIG_IGN);
    pid_t p = CHILD(_exit(3));
    ERR(waitpid(p, 0, 0), ECHILD);
}

CHECK(alarm_counts_down)
{
    on(SIGALRM, count, 0);
    EQ(alarm(100), 0);
    unsigned left = alarm(0);
    T(left == 100 || left == 99);
    EQ(hits, 0);
}

CHECK(setitimer_repeats)
{
    on(SIGALRM, count, SA_RESTART);
    struct itimerval it = {{0, 5000}, {0, 5000}}, old;
    OK(setitimer(ITIMER_REAL, &it, 0));
    for (int64_t t0 = now_ns(); hits < 10 && now_ns() - t0 < 10000000000LL;) {}
    T(hits >= 10);
    OK(getitimer(ITIMER_REAL, &old));
    EQ(old.it_interval.tv_usec, 5000);
    memset(&it, 0, sizeof it);
    OK(setitimer(ITIMER_REAL, &it, &old));
    EQ(old.it_interval.tv_usec, 5000);
}

CHECK(setitimer_prof_counts_cpu_time)
{
    on(SIGPROF, count, SA_RESTART);
    struct itimerval it = {{0, 10000}, {0, 10000}};
    OK(setitimer(ITIMER_PROF, &it, 0));
    for (int64_t t0 = now_ns(); hits < 3 && now_ns() - t0 < 10000000000LL;) {}
    T(hits >= 3);
}

CHECK(posix_timer)
{
    timer_t t;
    struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 99};
    struct itimerspec its = {{0, 0}, {0, 20000000}}, left;
    on_info(SIGUSR1, info, 0);
    OK(timer_create(CLOCK_MONOTONIC, &ev, &t));
    OK(timer_settime(t, 0, &its, 0));
    OK(timer_gettime(t, &left));
    T(left.it_value.tv_nsec > 0 && left.it_value.tv_nsec <= 20000000);
    for (int i = 0; i < 2000 && !hits; i++) sleep_ms(1);
    EQ(hits, 1);
    EQ(last_code, SI_TIMER);
    EQ(last_value, 99);
    OK(timer_delete(t));
    ERR(timer_gettime(t, &left), EINVAL);
}

CHECK(default_actions_kill)
{
    static const int sigs[] = {SIGHUP, SIGINT, SIGQUIT, SIGABRT, SIGKILL, SIGUSR1, SIGUSR2, SIGALRM, SIGTERM, SIGVTALRM, SIGIO, SIGSYS};
    for (unsigned i = 0; i < sizeof sigs / sizeof *sigs; i++)
        DIES(CHILD(signal(sigs[i], SIG_DFL); kill(getpid(), sigs[i])), sigs[i]);
}

CHECK(default_actions_ignore)
{
    EXITS(CHILD(kill(getpid(), SIGCHLD); kill(getpid(), SIGURG); kill(getpid(), SIGWINCH); kill(getpid(), SIGCONT); _exit(6)), 6);
}

CHECK(default_of_a_fault)
{
    DIES(CHILD(signal(SIGSEGV, SIG_DFL); *(volatile int *)0 = 1), SIGSEGV);
    DIES(CHILD(__asm__ volatile("ud2")), SIGILL);
    DIES(CHILD(*(volatile int *)0x8000000000000000 = 1), SIGSEGV); // no address at all: a general protection fault
    // no privileged instruction here: where the program runs beside the kernel, nothing traps it (docs/architecture.md)
}

CHECK(blocked_fault_kills)
{
    DIES(CHILD({
        sigset_t s = set_of(SIGSEGV, 0);
        on(SIGSEGV, count, 0);
        sigprocmask(SIG_BLOCK, &s, 0);
        *(volatile int *)0 = 1;
    }), SIGSEGV);
}

CHECK(stop_and_continue)
{
    int st;
    pid_t p = CHILD(for (;;) sleep_ms(5));
    OK(kill(p, SIGSTOP));
    EQ(waitpid(p, &st, WUNTRACED), p);
    T(WIFSTOPPED(st) && WSTOPSIG(st) == SIGSTOP);
    OK(kill(p, SIGCONT));
    EQ(waitpid(p, &st, WCONTINUED), p);
    T(WIFCONTINUED(st));
    OK(kill(p, SIGKILL));
    DIES(p, SIGKILL);
}

static void *blocked_thread(void *arg)
{
    sigset_t s = set_of(SIGUSR1, 0);
    pthread_sigmask(SIG_BLOCK, &s, 0);
    *(volatile int *)arg = 1;
    while (*(volatile int *)arg != 2) sleep_ms(1);
    return (void *)(long)hits;
}
CHECK(process_signal_goes_to_a_thread_that_wants_it)
{
    static volatile int state;
    pthread_t t;
    on(SIGUSR1, count, 0);
    EQ(pthread_create(&t, 0, blocked_thread, (void *)&state), 0);
    while (!state) sleep_ms(1);
    for (int i = 0; i < 10; i++) OK(kill(getpid(), SIGUSR1));
    for (int i = 0; i < 1000 && hits < 1; i++) sleep_ms(1);
    EQ(hits, 10);
    state = 2;
    EQ(pthread_join(t, 0), 0);
}

static __thread volatile int thread_hits;
static void count_thread(int sig) { (void)sig; thread_hits++; }
static void *wants_signal(void *arg)
{
    *(volatile int *)arg = 1;
    while (!thread_hits) sleep_ms(1);
    return (void *)(long)thread_hits;
}
CHECK(pthread_kill_reaches_that_thread)
{
    static volatile int state;
    pthread_t t;
    void *r;
    on(SIGUSR1, count_thread, 0);
    EQ(pthread_create(&t, 0, wants_signal, (void *)&state), 0);
    while (!state) sleep_ms(1);
    EQ(pthread_kill(t, SIGUSR1), 0);
    EQ(pthread_join(t, &r), 0);
    EQ(r, 1);
    EQ(thread_hits, 0);
}
