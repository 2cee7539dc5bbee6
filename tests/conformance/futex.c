// The futex system call by itself.
#include "conf.h"
#include <linux/futex.h>

static long futex(volatile uint32_t *w, int op, uint32_t val, const void *timeout, volatile uint32_t *w2, uint32_t val3)
{
    return syscall(SYS_futex, w, op, val, timeout, w2, val3);
}
static struct timespec *ms(int n)
{
    static __thread struct timespec ts;
    ts = (struct timespec){n / 1000, n % 1000 * 1000000L};
    return &ts;
}

struct waiter {
    volatile uint32_t *word;
    uint32_t val, mask;
    int op;
    volatile int state; // 1 about to wait, 2 came back
    volatile long result;
    pthread_t t;
};
static void *wait_thread(void *arg)
{
    struct waiter *w = arg;
    w->state = 1;
    long r = futex(w->word, w->op, w->val, 0, 0, w->mask);
    w->result = r == -1 ? -errno : r;
    w->state = 2;
    return 0;
}
static void start(struct waiter *w, volatile uint32_t *word, int op, uint32_t val, uint32_t mask)
{
    *w = (struct waiter){.word = word, .op = op, .val = val, .mask = mask};
    EQ(pthread_create(&w->t, 0, wait_thread, w), 0);
    while (w->state == 0) sleep_ms(1);
    sleep_ms(30); // time to fall asleep in the kernel
    EQ(w->state, 1);
}
static void finish(struct waiter *w, long result)
{
    EQ(pthread_join(w->t, 0), 0);
    EQ(w->result, result);
}

CHECK(wait_value_changed)
{
    uint32_t w = 1;
    ERR(futex(&w, FUTEX_WAIT_PRIVATE, 0, 0, 0, 0), EAGAIN);
    ERR(futex(&w, FUTEX_WAIT, 2, 0, 0, 0), EAGAIN);
}

CHECK(wake_without_waiters)
{
    uint32_t w = 0;
    EQ(futex(&w, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0), 0);
    EQ(futex(&w, FUTEX_WAKE, INT_MAX, 0, 0, 0), 0);
}

CHECK(wait_times_out)
{
    uint32_t w = 0;
    int64_t t0 = now_ns();
    ERR(futex(&w, FUTEX_WAIT_PRIVATE, 0, ms(40), 0, 0), ETIMEDOUT);
    int64_t t = now_ns() - t0;
    T(t >= 40000000 && t < 3000000000LL);
    ERR(futex(&w, FUTEX_WAIT_PRIVATE, 0, ms(0), 0, 0), ETIMEDOUT);
}

CHECK(wait_bad_timeout)
{
    uint32_t w = 0;
    struct timespec bad = {0, 1000000000}, negative = {-1, 0};
    ERR(futex(&w, FUTEX_WAIT_PRIVATE, 0, &bad, 0, 0), EINVAL);
    ERR(futex(&w, FUTEX_WAIT_PRIVATE, 0, &negative, 0, 0), EINVAL);
    ERR(futex(&w, FUTEX_WAIT_PRIVATE, 0, (void *)8, 0, 0), EFAULT);
}

CHECK(bad_address_and_alignment)
{
    ERR(futex((void *)64, FUTEX_WAIT_PRIVATE, 0, 0, 0, 0), EFAULT);
    uint32_t w[2] = {0};
    ERR(futex((void *)((char *)w + 1), FUTEX_WAIT_PRIVATE, 0, 0, 0, 0), EINVAL);
    ERR(futex(w, 77, 0, 0, 0, 0), ENOSYS);
}

CHECK(wake_one)
{
    uint32_t w = 0;
    struct waiter a, b;
    start(&a, &w, FUTEX_WAIT_PRIVATE, 0, 0);
    start(&b, &w, FUTEX_WAIT_PRIVATE, 0, 0);
    EQ(futex(&w, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0), 1);
    sleep_ms(30);
    EQ((a.state == 2) + (b.state == 2), 1);
    EQ(futex(&w, FUTEX_WAKE_PRIVATE, 5, 0, 0, 0), 1);
    finish(&a, 0);
    finish(&b, 0);
}

CHECK(shared_across_fork)
{
    volatile uint32_t *w = MAP(mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    pid_t p = CHILD(EQ(futex(w, FUTEX_WAIT, 0, ms(5000), 0, 0), 0));
    long woken = 0;
    for (int i = 0; i < 1000 && !woken; i++) {
        sleep_ms(2);
        woken = futex(w, FUTEX_WAKE, 1, 0, 0, 0);
    }
    EQ(woken, 1);
    EXITS(p, 0);
}

CHECK(shared_file_mapping)
{
    // two mappings of one file page at different addresses are one futex
    int fd = OK(open("futex", O_RDWR | O_CREAT, 0600));
    OK(ftruncate(fd, PAGE));
    volatile uint32_t *a = MAP(mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    volatile uint32_t *b = MAP(mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    struct waiter x;
    start(&x, a, FUTEX_WAIT, 0, 0);
    EQ(futex(b, FUTEX_WAKE, 1, 0, 0, 0), 1);
    finish(&x, 0);
}

CHECK(requeue)
{
    uint32_t w = 0, v = 0;
    struct waiter t[3];
    for (int i = 0; i < 3; i++) start(&t[i], &w, FUTEX_WAIT_PRIVATE, 0, 0);
    EQ(futex(&w, FUTEX_REQUEUE_PRIVATE, 1, (void *)2, &v, 0), 3);
    sleep_ms(20);
    EQ(futex(&w, FUTEX_WAKE_PRIVATE, 10, 0, 0, 0), 0);
    EQ(futex(&v, FUTEX_WAKE_PRIVATE, 10, 0, 0, 0), 2);
    for (int i = 0; i < 3; i++) finish(&t[i], 0);
}

CHECK(cmp_requeue)
{
    uint32_t w = 5, v = 0;
    struct waiter t[3];
    for (int i = 0; i < 3; i++) start(&t[i], &w, FUTEX_WAIT_PRIVATE, 5, 0);
    ERR(futex(&w, FUTEX_CMP_REQUEUE_PRIVATE, 1, (void *)10, &v, 6), EAGAIN);
    EQ(futex(&w, FUTEX_CMP_REQUEUE_PRIVATE, 0, (void *)1, &v, 5), 1);
    EQ(futex(&v, FUTEX_WAKE_PRIVATE, 10, 0, 0, 0), 1);
    EQ(futex(&w, FUTEX_WAKE_PRIVATE, 10, 0, 0, 0), 2);
    for (int i = 0; i < 3; i++) finish(&t[i], 0);
}

CHECK(wake_op)
{
    uint32_t w = 0, v = 3;
    struct waiter a, b;
    start(&a, &w, FUTEX_WAIT_PRIVATE, 0, 0);
    start(&b, &v, FUTEX_WAIT_PRIVATE, 3, 0);
    // v += 4; wake one of w; the old v (3) > 5 does not hold, so nobody of v
    EQ(futex(&w, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1, &v, FUTEX_OP(FUTEX_OP_ADD, 4, FUTEX_OP_CMP_GT, 5)), 1);
    EQ(v, 7);
    // v = 1; the old value was 7
    EQ(futex(&w, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1, &v, FUTEX_OP(FUTEX_OP_SET, 1, FUTEX_OP_CMP_EQ, 7)), 1);
    EQ(v, 1);
    EQ(futex(&w, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1, &v, FUTEX_OP(FUTEX_OP_OR, 6, FUTEX_OP_CMP_NE, 7)), 0);
    EQ(v, 7);
    EQ(futex(&w, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1, &v, FUTEX_OP(FUTEX_OP_ANDN, 2, FUTEX_OP_CMP_LT, 0)), 0);
    EQ(v, 5);
    EQ(futex(&w, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1, &v, FUTEX_OP(FUTEX_OP_XOR, 1, FUTEX_OP_CMP_GE, 0)), 0);
    EQ(v, 4);
    finish(&a, 0);
    finish(&b, 0);
}

CHECK(bitset)
{
    uint32_t w = 0;
    struct waiter a, b;
    start(&a, &w, FUTEX_WAIT_BITSET_PRIVATE, 0, 1);
    start(&b, &w, FUTEX_WAIT_BITSET_PRIVATE, 0, 6);
    EQ(futex(&w, FUTEX_WAKE_BITSET_PRIVATE, 10, 0, 0, 8), 0);
    EQ(futex(&w, FUTEX_WAKE_BITSET_PRIVATE, 10, 0, 0, 2), 1);
    finish(&b, 0);
    EQ(a.state, 1);
    EQ(futex(&w, FUTEX_WAKE_PRIVATE, 10, 0, 0, 0), 1);
    finish(&a, 0);
    ERR(futex(&w, FUTEX_WAIT_BITSET_PRIVATE, 0, 0, 0, 0), EINVAL);
    ERR(futex(&w, FUTEX_WAKE_BITSET_PRIVATE, 1, 0, 0, 0), EINVAL);
}

CHECK(bitset_absolute_timeout)
{
    uint32_t w = 0;
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    int64_t t0 = now_ns();
    ts.tv_nsec += 40000000;
    if (ts.tv_nsec >= 1000000000) ts.tv_sec++, ts.tv_nsec -= 1000000000;
    ERR(futex(&w, FUTEX_WAIT_BITSET_PRIVATE, 0, &ts, 0, ~0u), ETIMEDOUT);
    T(now_ns() - t0 >= 39000000);
    clock_gettime(CLOCK_REALTIME, &ts);
    ts.tv_sec -= 5;
    ERR(futex(&w, FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, 0, &ts, 0, ~0u), ETIMEDOUT);
}

static void nothing(int sig) { (void)sig; }
static void *interrupt(void *arg)
{
    sleep_ms(40);
    syscall(SYS_tgkill, getpid(), (pid_t)(long)arg, SIGUSR1);
    return 0;
}
CHECK(interrupted_by_a_signal)
{
    uint32_t w = 0;
    pthread_t t;
    struct sigaction sa = {.sa_handler = nothing};
    OK(sigaction(SIGUSR1, &sa, 0));
    EQ(pthread_create(&t, 0, interrupt, (void *)syscall(SYS_gettid)), 0);
    ERR(futex(&w, FUTEX_WAIT_PRIVATE, 0, 0, 0, 0), EINTR);
    EQ(pthread_join(t, 0), 0);
}

CHECK(pi_lock_unlock)
{
    uint32_t w = 0;
    EQ(futex(&w, FUTEX_LOCK_PI_PRIVATE, 0, 0, 0, 0), 0);
    EQ(w & FUTEX_TID_MASK, syscall(SYS_gettid));
    ERR(futex(&w, FUTEX_LOCK_PI_PRIVATE, 0, 0, 0, 0), EDEADLK);
    EQ(futex(&w, FUTEX_UNLOCK_PI_PRIVATE, 0, 0, 0, 0), 0);
    EQ(w, 0);
    EQ(futex(&w, FUTEX_TRYLOCK_PI_PRIVATE, 0, 0, 0, 0), 0);
    EQ(futex(&w, FUTEX_UNLOCK_PI_PRIVATE, 0, 0, 0, 0), 0);
    w = 1;
    ERR(futex(&w, FUTEX_UNLOCK_PI_PRIVATE, 0, 0, 0, 0), EPERM);
}

CHECK(pi_hands_over)
{
    uint32_t w = 0;
    struct waiter a;
    EQ(futex(&w, FUTEX_LOCK_PI_PRIVATE, 0, 0, 0, 0), 0);
    start(&a, &w, FUTEX_LOCK_PI_PRIVATE, 0, 0);
    T(w & FUTEX_WAITERS);
    EQ(futex(&w, FUTEX_UNLOCK_PI_PRIVATE, 0, 0, 0, 0), 0);
    finish(&a, 0);
}

CHECK(robust_list)
{
    volatile uint32_t *w = MAP(mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    pid_t p = CHILD({
        struct node { struct robust_list l; } *n = (void *)(w + 16);
        struct robust_list_head head;
        head.list.next = &n->l;
        n->l.next = &head.list;
        head.futex_offset = (char *)w - (char *)n;
        head.list_op_pending = 0;
        *w = syscall(SYS_gettid) | FUTEX_WAITERS;
        OK(syscall(SYS_set_robust_list, &head, sizeof head));
        ERR(syscall(SYS_set_robust_list, &head, 7), EINVAL);
        struct robust_list_head *got = 0;
        size_t len = 0;
        OK(syscall(SYS_get_robust_list, 0, &got, &len));
        EQ(got, &head);
        EQ(len, sizeof head);
        syscall(SYS_exit, 0);
    });
    EXITS(p, 0);
    EQ(*w & FUTEX_OWNER_DIED, FUTEX_OWNER_DIED);
    EQ(*w & FUTEX_TID_MASK, 0);
}

struct waitv { uint64_t val, uaddr; uint32_t flags, reserved; };
static void *wake_soon(void *arg)
{
    for (int i = 0; i < 2000 && futex(arg, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0) == 0; i++) sleep_ms(2);
    return 0;
}
CHECK(waitv)
{
    uint32_t a = 1, b = 2;
    struct waitv v[2] = {{1, (uintptr_t)&a, 2 | 128, 0}, {2, (uintptr_t)&b, 2 | 128, 0}};
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    ERR(syscall(449, v, 2, 0, &ts, CLOCK_MONOTONIC), ETIMEDOUT);
    v[1].val = 3;
    ERR(syscall(449, v, 2, 0, 0, 0), EAGAIN);
    v[1].val = 2;
    pthread_t t;
    EQ(pthread_create(&t, 0, wake_soon, &b), 0);
    EQ(syscall(449, v, 2, 0, 0, 0), 1);
    EQ(pthread_join(t, 0), 0);
    ERR(syscall(449, v, 0, 0, 0, 0), EINVAL);
}

CHECK(clear_child_tid_wakes)
{
    // what pthread_join stands on: the kernel clears the word and wakes it when a thread ends
    static volatile uint32_t word = 1;
    char *stack = MAP(mmap(0, 64 << 10, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_CHILD_CLEARTID;
    long r;
    register long r10 __asm__("r10") = (long)&word;
    register long r8 __asm__("r8") = 0;
    __asm__ volatile("syscall; test %%eax,%%eax; jnz 1f; mov $60,%%eax; xor %%edi,%%edi; syscall; 1:"
                     : "=a"(r) : "0"(56L), "D"((long)flags), "S"(stack + (64 << 10)), "d"(0L), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    T(r > 0);
    while (word != 0) {
        long f = futex(&word, FUTEX_WAIT, 1, ms(5000), 0, 0);
        T(f == 0 || errno == EAGAIN);
    }
}

static uint32_t contended;
static volatile long shared_count;
static void *lock_loop(void *arg)
{
    // the three-state lock: 0 free, 1 held, 2 held with waiters
    for (int i = 0; i < 5000; i++) {
        uint32_t c = 0;
        if (!__atomic_compare_exchange_n(&contended, &c, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_ACQUIRE)) {
            if (c != 2) c = __atomic_exchange_n(&contended, 2, __ATOMIC_ACQUIRE);
            while (c) {
                futex(&contended, FUTEX_WAIT_PRIVATE, 2, 0, 0, 0);
                c = __atomic_exchange_n(&contended, 2, __ATOMIC_ACQUIRE);
            }
        }
        shared_count++;
        if (i % 100 == 0) sched_yield();
        if (__atomic_exchange_n(&contended, 0, __ATOMIC_RELEASE) == 2) futex(&contended, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
    }
    return arg;
}
CHECK(no_lost_wakeup_under_contention)
{
    pthread_t t[6];
    for (int i = 0; i < 6; i++) EQ(pthread_create(&t[i], 0, lock_loop, 0), 0);
    for (int i = 0; i < 6; i++) EQ(pthread_join(t[i], 0), 0);
    EQ(shared_count, 30000);
}
