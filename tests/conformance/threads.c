// POSIX threads as the C library builds them on clone, futex and robust lists.
#include "conf.h"
#include <semaphore.h>

static void *give(void *arg) { return (char *)arg + 1; }
static void wait_for(volatile int *flag)
{
    for (int i = 0; !__atomic_load_n(flag, __ATOMIC_SEQ_CST); i++) {
        if (i > 5000) FAIL("line %d: a thread did not get ahead", __LINE__);
        sleep_ms(1);
    }
}

CHECK(create_join_result)
{
    pthread_t t;
    void *r;
    EQ(pthread_create(&t, 0, give, (void *)41), 0);
    EQ(pthread_join(t, &r), 0);
    EQ(r, 42);
}

CHECK(create_two_hundred)
{
    for (int round = 0; round < 4; round++) {
        pthread_t t[50];
        void *r;
        for (long i = 0; i < 50; i++) EQ(pthread_create(&t[i], 0, give, (void *)i), 0);
        for (long i = 0; i < 50; i++) {
            EQ(pthread_join(t[i], &r), 0);
            EQ(r, i + 1);
        }
    }
}

static volatile int detached_ran;
static void *detached(void *arg) { detached_ran = 1; return arg; }
CHECK(detached_thread_runs)
{
    pthread_attr_t a;
    pthread_t t;
    pthread_attr_init(&a);
    pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&a, 128 << 10);
    EQ(pthread_create(&t, &a, detached, 0), 0);
    wait_for(&detached_ran);
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long counter;
static void *count_up(void *arg)
{
    for (int i = 0; i < 20000; i++) {
        pthread_mutex_lock(&lock);
        counter++;
        pthread_mutex_unlock(&lock);
    }
    return arg;
}
CHECK(mutex_excludes)
{
    pthread_t t[4];
    counter = 0;
    for (int i = 0; i < 4; i++) EQ(pthread_create(&t[i], 0, count_up, 0), 0);
    for (int i = 0; i < 4; i++) EQ(pthread_join(t[i], 0), 0);
    EQ(counter, 80000);
}

CHECK(mutex_types)
{
    pthread_mutexattr_t a;
    pthread_mutex_t m;
    pthread_mutexattr_init(&a);
    pthread_mutexattr_settype(&a, PTHREAD_MUTEX_ERRORCHECK);
    pthread_mutex_init(&m, &a);
    EQ(pthread_mutex_unlock(&m), EPERM);
    EQ(pthread_mutex_lock(&m), 0);
    EQ(pthread_mutex_lock(&m), EDEADLK);
    EQ(pthread_mutex_trylock(&m), EBUSY);
    EQ(pthread_mutex_unlock(&m), 0);
    pthread_mutexattr_settype(&a, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&m, &a);
    for (int i = 0; i < 3; i++) EQ(pthread_mutex_lock(&m), 0);
    for (int i = 0; i < 3; i++) EQ(pthread_mutex_unlock(&m), 0);
}

static void in_ms(struct timespec *ts, int ms)
{
    clock_gettime(CLOCK_REALTIME, ts);
    ts->tv_nsec += ms * 1000000L;
    ts->tv_sec += ts->tv_nsec / 1000000000;
    ts->tv_nsec %= 1000000000;
}

CHECK(mutex_timedlock)
{
    pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
    struct timespec ts;
    pthread_mutex_lock(&m);
    int64_t t0 = now_ns();
    in_ms(&ts, 50);
    EQ(pthread_mutex_timedlock(&m, &ts), ETIMEDOUT);
    T(now_ns() - t0 >= 45000000);
}

static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static int turn;
static void *pong(void *arg)
{
    pthread_mutex_lock(&lock);
    for (int i = 0; i < 2000; i++) {
        while (turn != 1) pthread_cond_wait(&cond, &lock);
        turn = 0;
        pthread_cond_signal(&cond);
    }
    pthread_mutex_unlock(&lock);
    return arg;
}
CHECK(cond_ping_pong)
{
    pthread_t t;
    EQ(pthread_create(&t, 0, pong, 0), 0);
    pthread_mutex_lock(&lock);
    for (int i = 0; i < 2000; i++) {
        turn = 1;
        pthread_cond_signal(&cond);
        while (turn != 0) pthread_cond_wait(&cond, &lock);
    }
    pthread_mutex_unlock(&lock);
    EQ(pthread_join(t, 0), 0);
}

static int released, go_all;
static void *wait_broadcast(void *arg)
{
    pthread_mutex_lock(&lock);
    turn++;
    while (!go_all) pthread_cond_wait(&cond, &lock);
    released++;
    pthread_mutex_unlock(&lock);
    return arg;
}
CHECK(cond_broadcast)
{
    pthread_t t[8];
    turn = 0;
    for (int i = 0; i < 8; i++) EQ(pthread_create(&t[i], 0, wait_broadcast, 0), 0);
    for (int ready = 0; !ready; sleep_ms(1)) {
        pthread_mutex_lock(&lock);
        ready = turn == 8;
        pthread_mutex_unlock(&lock);
    }
    pthread_mutex_lock(&lock);
    go_all = 1;
    pthread_cond_broadcast(&cond);
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < 8; i++) EQ(pthread_join(t[i], 0), 0);
    EQ(released, 8);
}

CHECK(cond_timedwait_monotonic)
{
    pthread_condattr_t a;
    pthread_cond_t c;
    pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
    struct timespec ts;
    pthread_condattr_init(&a);
    EQ(pthread_condattr_setclock(&a, CLOCK_MONOTONIC), 0);
    pthread_cond_init(&c, &a);
    pthread_mutex_lock(&m);
    clock_gettime(CLOCK_MONOTONIC, &ts);
    int64_t t0 = now_ns();
    ts.tv_nsec += 40000000;
    if (ts.tv_nsec >= 1000000000) ts.tv_nsec -= 1000000000, ts.tv_sec++;
    EQ(pthread_cond_timedwait(&c, &m, &ts), ETIMEDOUT);
    T(now_ns() - t0 >= 39000000);
}

static pthread_rwlock_t rw = PTHREAD_RWLOCK_INITIALIZER;
static volatile int wrote;
static void *writer(void *arg)
{
    pthread_rwlock_wrlock(&rw);
    wrote = 1;
    pthread_rwlock_unlock(&rw);
    return arg;
}
CHECK(rwlock)
{
    pthread_t t;
    EQ(pthread_rwlock_rdlock(&rw), 0);
    EQ(pthread_rwlock_tryrdlock(&rw), 0);
    EQ(pthread_rwlock_trywrlock(&rw), EBUSY);
    EQ(pthread_create(&t, 0, writer, 0), 0);
    sleep_ms(20);
    EQ(wrote, 0);
    EQ(pthread_rwlock_unlock(&rw), 0);
    EQ(pthread_rwlock_unlock(&rw), 0);
    EQ(pthread_join(t, 0), 0);
    EQ(wrote, 1);
}

static __thread long tls_zero, tls_init = 1234;
static __thread char tls_big[3000];
static void *tls_thread(void *arg)
{
    long n = (long)arg;
    if (tls_zero || tls_init != 1234) return (void *)-1;
    tls_zero = n;
    memset(tls_big, n, sizeof tls_big);
    for (int i = 0; i < 50; i++) {
        sched_yield();
        if (tls_zero != n || tls_big[2999] != n) return (void *)-2;
    }
    return 0;
}
CHECK(thread_local_storage)
{
    pthread_t t[8];
    void *r;
    tls_zero = 99;
    for (long i = 0; i < 8; i++) EQ(pthread_create(&t[i], 0, tls_thread, (void *)(i + 1)), 0);
    for (int i = 0; i < 8; i++) {
        EQ(pthread_join(t[i], &r), 0);
        EQ(r, 0);
    }
    EQ(tls_zero, 99);
}

static volatile int destroyed;
static void destroy(void *p) { destroyed = (long)p; }
static pthread_key_t key;
static void *with_key(void *arg) { pthread_setspecific(key, arg); return 0; }
CHECK(key_destructor)
{
    pthread_t t;
    EQ(pthread_key_create(&key, destroy), 0);
    EQ(pthread_create(&t, 0, with_key, (void *)5), 0);
    EQ(pthread_join(t, 0), 0);
    EQ(destroyed, 5);
}

static pthread_barrier_t barrier;
static volatile int phase_count[3];
static void *through_barrier(void *arg)
{
    for (int i = 0; i < 3; i++) {
        __atomic_add_fetch(&phase_count[i], 1, __ATOMIC_SEQ_CST);
        pthread_barrier_wait(&barrier);
        if (phase_count[i] != 4) return (void *)-1;
    }
    return arg;
}
CHECK(barrier)
{
    pthread_t t[4];
    void *r;
    EQ(pthread_barrier_init(&barrier, 0, 4), 0);
    for (int i = 0; i < 4; i++) EQ(pthread_create(&t[i], 0, through_barrier, 0), 0);
    for (int i = 0; i < 4; i++) {
        EQ(pthread_join(t[i], &r), 0);
        EQ(r, 0);
    }
}

static volatile int cleaned, waiting;
static void cleanup(void *arg) { cleaned = (long)arg; }
static void *sleeper(void *arg)
{
    pthread_cleanup_push(cleanup, (void *)3);
    waiting = 1;
    for (;;) pause();
    pthread_cleanup_pop(0);
    return arg;
}
CHECK(cancel_blocking_thread)
{
    pthread_t t;
    void *r;
    EQ(pthread_create(&t, 0, sleeper, 0), 0);
    wait_for(&waiting);
    sleep_ms(5);
    EQ(pthread_cancel(t), 0);
    EQ(pthread_join(t, &r), 0);
    EQ(r, PTHREAD_CANCELED);
    EQ(cleaned, 3);
}

static void *spinner(void *arg)
{
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, 0);
    waiting = 1;
    for (;;) __asm__ volatile("pause");
    return arg;
}
CHECK(cancel_asynchronous)
{
    pthread_t t;
    void *r;
    waiting = 0;
    EQ(pthread_create(&t, 0, spinner, 0), 0);
    wait_for(&waiting);
    EQ(pthread_cancel(t), 0);
    EQ(pthread_join(t, &r), 0);
    EQ(r, PTHREAD_CANCELED);
}

static pthread_mutex_t robust;
static void *die_holding(void *arg) { pthread_mutex_lock(&robust); return arg; }
CHECK(robust_mutex_thread)
{
    pthread_mutexattr_t a;
    pthread_t t;
    pthread_mutexattr_init(&a);
    EQ(pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST), 0);
    EQ(pthread_mutex_init(&robust, &a), 0);
    EQ(pthread_create(&t, 0, die_holding, 0), 0);
    EQ(pthread_join(t, 0), 0);
    EQ(pthread_mutex_lock(&robust), EOWNERDEAD);
    EQ(pthread_mutex_consistent(&robust), 0);
    EQ(pthread_mutex_unlock(&robust), 0);
    EQ(pthread_mutex_lock(&robust), 0);
}

CHECK(robust_mutex_across_processes)
{
    pthread_mutex_t *m = MAP(mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    pthread_mutexattr_t a;
    pthread_mutexattr_init(&a);
    EQ(pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST), 0);
    EQ(pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED), 0);
    EQ(pthread_mutex_init(m, &a), 0);
    EXITS(CHILD(pthread_mutex_lock(m)), 0);
    EQ(pthread_mutex_lock(m), EOWNERDEAD);
}

static pthread_mutex_t pi;
static volatile int pi_got;
static void *pi_locker(void *arg)
{
    waiting = 1;
    if (pthread_mutex_lock(&pi)) return (void *)-1;
    pi_got = 1;
    pthread_mutex_unlock(&pi);
    return arg;
}
CHECK(pi_mutex)
{
    pthread_mutexattr_t a;
    pthread_t t[3];
    void *r;
    pthread_mutexattr_init(&a);
    EQ(pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT), 0);
    EQ(pthread_mutex_init(&pi, &a), 0);
    EQ(pthread_mutex_lock(&pi), 0);
    for (int i = 0; i < 3; i++) EQ(pthread_create(&t[i], 0, pi_locker, 0), 0);
    sleep_ms(20);
    EQ(pi_got, 0);
    EQ(pthread_mutex_unlock(&pi), 0);
    for (int i = 0; i < 3; i++) {
        EQ(pthread_join(t[i], &r), 0);
        EQ(r, 0);
    }
    EQ(pthread_mutex_trylock(&pi), 0);
}

CHECK(pshared_mutex_and_cond)
{
    struct both { pthread_mutex_t m; pthread_cond_t c; int n; } *b;
    b = MAP(mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    pthread_mutexattr_t ma;
    pthread_condattr_t ca;
    pthread_mutexattr_init(&ma);
    pthread_condattr_init(&ca);
    pthread_mutexattr_setpshared(&ma, PTHREAD_PROCESS_SHARED);
    pthread_condattr_setpshared(&ca, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&b->m, &ma);
    pthread_cond_init(&b->c, &ca);
    pid_t p = CHILD({
        pthread_mutex_lock(&b->m);
        b->n = 1;
        pthread_cond_signal(&b->c);
        while (b->n != 2) pthread_cond_wait(&b->c, &b->m);
        pthread_mutex_unlock(&b->m);
    });
    pthread_mutex_lock(&b->m);
    while (b->n != 1) pthread_cond_wait(&b->c, &b->m);
    b->n = 2;
    pthread_cond_signal(&b->c);
    pthread_mutex_unlock(&b->m);
    EXITS(p, 0);
}

CHECK(semaphores)
{
    sem_t s;
    struct timespec ts;
    OK(sem_init(&s, 0, 1));
    OK(sem_wait(&s));
    ERR(sem_trywait(&s), EAGAIN);
    in_ms(&ts, 20);
    ERR(sem_timedwait(&s, &ts), ETIMEDOUT);
    OK(sem_post(&s));
    OK(sem_wait(&s));
}

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int once_count;
static void once_fn(void) { once_count++; sleep_ms(2); }
static void *call_once(void *arg) { pthread_once(&once, once_fn); return arg; }
CHECK(once_runs_once)
{
    pthread_t t[6];
    for (int i = 0; i < 6; i++) EQ(pthread_create(&t[i], 0, call_once, 0), 0);
    for (int i = 0; i < 6; i++) EQ(pthread_join(t[i], 0), 0);
    EQ(once_count, 1);
}

static void *exit_process(void *arg) { _exit((long)arg); }
CHECK(exit_group_from_a_thread)
{
    EXITS(CHILD({
        pthread_t t;
        pthread_create(&t, 0, exit_process, (void *)7);
        for (;;) pause();
    }), 7);
}

static void *main_gone(void *arg) { sleep_ms(20); _exit((long)arg); }
CHECK(main_thread_ends_first)
{
    EXITS(CHILD({
        pthread_t t;
        pthread_create(&t, 0, main_gone, (void *)8);
        pthread_exit(0);
    }), 8);
}

static void *tids(void *arg) { *(pid_t *)arg = syscall(SYS_gettid); return (void *)(long)getpid(); }
CHECK(thread_ids)
{
    pthread_t t;
    pid_t tid;
    void *pid;
    EQ(pthread_create(&t, 0, tids, &tid), 0);
    EQ(pthread_join(t, &pid), 0);
    EQ(pid, getpid());
    T(tid != getpid() && tid > 0);
    EQ(syscall(SYS_gettid), getpid());
}

static void *burn(void *arg)
{
    volatile int *stop = arg;
    while (!*stop) {}
    return 0;
}
CHECK(spinning_threads_are_preempted)
{
    static volatile int stop;
    pthread_t t[4];
    for (int i = 0; i < 4; i++) EQ(pthread_create(&t[i], 0, burn, (void *)&stop), 0);
    int64_t t0 = now_ns();
    for (int i = 0; i < 5; i++) sleep_ms(2);
    T(now_ns() - t0 < 5000000000LL);
    stop = 1;
    for (int i = 0; i < 4; i++) EQ(pthread_join(t[i], 0), 0);
}

CHECK(fork_in_a_threaded_program)
{
    static volatile int stop;
    pthread_t t[2];
    for (int i = 0; i < 2; i++) EQ(pthread_create(&t[i], 0, burn, (void *)&stop), 0);
    EXITS(CHILD({
        pthread_t u;
        void *r;
        pthread_create(&u, 0, give, (void *)1);
        pthread_join(u, &r);
        EQ(r, 2);
        _exit(4);
    }), 4);
    stop = 1;
    for (int i = 0; i < 2; i++) EQ(pthread_join(t[i], 0), 0);
}
